# The words that scenarios are written in. Sourced by scenario, nothing-left,
# clean-up and demo.
# shellcheck shell=bash

state=/run/virt-mdev
devices=/sys/bus/mdev/devices
images=/var/lib/libvirt/images
hooks=/etc/libvirt/hooks/qemu.d
witness_log=/run/virt-mdev-test.witness
error=  # what virsh said when it refused, see refused
domain= # the domain that is being described or looked at, see new_domain
begun=  # virsh at work in the background, see begin
locked= # the lock that was asked for last, see want_lock
lockers=()
near=10.77.0.1 far=10.77.0.2 # the hosts of a pair
holder= # who holds a device, see hold_device
daemon=$(cat "$share/daemon") # libvirtd, or virtqemud on the modular host
sockets=("$daemon.socket" "$daemon-ro.socket" "$daemon-admin.socket")

# --- verdicts -----------------------------------------------------------------

# The line of the scenario that is being run, however deep in helpers.
where() {
    local i
    for ((i = 1; i < ${#BASH_SOURCE[@]}; i++)); do
        if [[ ${BASH_SOURCE[i]} == */scenarios/* ]]; then
            echo "line ${BASH_LINENO[i - 1]}"
            return
        fi
    done
    echo "outside the scenario"
}

fail() {
    trap - ERR
    local reason=$*
    # One line, as the result is reported on one.
    echo "FAILED: ${reason//$'\n'/ | } ($(where))" >&3
    exit 1
}

skip() {
    echo "SKIPPED: $*" >&3
    exit 77
}

step() { # WHAT, with the seconds since the scenario began
    printf -- '--- [%3d s] %s\n' "$SECONDS" "$*"
}

# needs kernel 6.8: skips the scenario where that is not met.
needs() {
    local have
    case $1 in
    kernel) have=$(uname -r) ;;
    libvirt) have=$(virsh version --daemon | sed -n 's/^Running against daemon: //p') ;;
    *) fail "needs: unknown requirement $1" ;;
    esac
    have=${have%%[!0-9.]*}
    dpkg --compare-versions "$have" ge "$2" || skip "needs $1 $2, this host has $have"
}

# equal WHAT EXPECTED SEEN
equal() {
    [[ $2 == "$3" ]] || fail "$1: expected \"$2\", saw \"$3\""
}

# contains WHAT TEXT PART...
contains() {
    local what=$1 text=$2 part
    for part in "${@:3}"; do
        [[ $text == *"$part"* ]] || fail "$what: expected it to contain \"$part\", saw: $text"
    done
}

exists() {
    local path
    for path; do [[ -e $path || -L $path ]] || fail "expected $path to exist, it does not"; done
}

missing() {
    local path
    for path; do [[ ! -e $path && ! -L $path ]] || fail "expected $path not to exist, it does"; done
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local seconds=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || fail "waited $seconds s for $what"
        sleep 0.1
    done
}

# counted WHAT: a line of its own in the results, for whoever wants the number.
counted() {
    echo "COUNT: $*" >&3
}

# configure TEXT: the configuration, until clean-up puts the old one back.
configure() {
    [[ -e /run/virt-mdev-test.config ]] || cp /etc/virt-mdev/config.toml /run/virt-mdev-test.config
    echo "$1" >/etc/virt-mdev/config.toml
}

# qemu_conf TEXT: these lines at the end of libvirt's qemu.conf, and a daemon that
# has read them, until qemu_conf '', or clean-up, puts the old one back.
qemu_conf() {
    local conf=/etc/libvirt/qemu.conf
    [[ -e /run/virt-mdev-test.qemu.conf ]] || cp -p "$conf" /run/virt-mdev-test.qemu.conf
    cp -p /run/virt-mdev-test.qemu.conf "$conf"
    if [[ -n ${1-} ]]; then echo "$1" >>"$conf"; else rm /run/virt-mdev-test.qemu.conf; fi
    systemctl restart "$daemon.service"
}

# Whom libvirt's package runs QEMU as: the group is built in, not the user's first.
qemu_owner() {
    echo "$(id -u libvirt-qemu):$(getent group libvirt-qemu | cut -d: -f3)"
}

# label_of NODE: owner, group and permissions.
label_of() {
    stat -c '%u:%g %a' "$1"
}

# --- the other host of a pair -------------------------------------------------

# joined: this host runs the scenarios of a pair.
joined() {
    [[ -n ${address-} && $lane != *-peer ]]
}

# peer COMMAND LINE: there, in the words of this file; what it says, and its status.
peer() {
    local id=$share/commands.$lane-peer/${EPOCHREALTIME/./}
    wait_for 300 "the peer to be up" test -d "${id%/*}"
    cat >"$id.new" <<SH
set -eEuo pipefail
shopt -s nullglob
cd /
exec 3>&1
share=/share
. "\$share/guest/lib.sh"
trap 'fail "on the peer \\\`\$BASH_COMMAND\\\` exited with status \$?"' ERR
$*
SH
    mv "$id.new" "$id.sh"
    until [[ -e $id.status ]]; do sleep 0.1; done
    cat "$id.out"
    return "$(cat "$id.status")"
}

# begin_to_go NAME [OPTION...]: a live migration to the peer, in the background, and so slow
# that the guest of serial.S changes its memory faster than it goes there: with the little
# time that QEMU may stop it for, it does not come to an end.
begin_to_go() {
    virsh -q migrate-setmaxdowntime "$1" 1
    echo "+ virsh migrate ${*:2} $1 &"
    virsh -q migrate --live --bandwidth 1 "${@:2}" "$1" qemu+tcp://$far/system tcp://$far >/run/virt-mdev-test.said 2>&1 3>&- &
    begun=$!
}

# migratable: the domain being described can move. mtty keeps no account of dirty pages,
# which QEMU otherwise insists on.
migratable() {
    qemu_argument -global vfio-pci.x-device-dirty-page-tracking=off -global vfio-pci.enable-migration=on
}

# moving NAME: its memory is on the way. From then on it crawls: a guest that this host
# has no time for changes nothing either.
moving() {
    wait_for 180 "$1 to be on the way" iterates "$1"
    virsh -q qemu-monitor-command "$1" --hmp 'migrate_set_parameter max-bandwidth 20k'
    peer "exists $(record_of "$1")"
}

iterates() {
    virsh -q domjobinfo "$1" | grep -q '^Iteration:'
}

# nothing_there NAME UUID: no domain, no device, no record on the peer, whose libvirt
# may take a while to see that the other one has gone.
nothing_there() {
    peer "wait_for 90 'the domain to go' bash -c '[[ -z \$(virsh -q list --all --name | grep .) ]]'
        wait_for 60 'its device to go' test ! -e $devices/$2
        released $1 $2
        equal 'what runs there' '' \"\$(pgrep -a qemu-system || true)\""
}

# stays NAME UUID PART...: what was begun fails, its error contains every part, and the
# domain goes on here as if nothing had been.
stays() {
    gives_up 180 "${@:3}"
    runs_with "$1" "$2"
    goes_on "$1"
    claimed "$1" "$2"
    nothing_there "$1" "$2"
}

# --- a guest that uses its device ---------------------------------------------

characters=0 # that have come back, see goes_on

# serial_guest: the domain being described boots serial.S, which uses its mtty.
serial_guest() {
    install -m 0644 "$share/guest/serial.img" "$images/serial.img"
    hostdevs+="<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$images/serial.img'/><target dev='vda' bus='virtio'/><readonly/></disk>"
}

# goes_on NAME [CHARACTERS]: that guest goes on using it, and nothing that it has ever
# written was lost or came back in another order. Since the last look, or since so many.
goes_on() {
    wait_for 60 "more than ${2-$characters} characters to come back to the guest of $1" more_characters "$1" "${2-$characters}"
    equal "characters that came back wrong to $1" 0 "$wrong"
    characters=$came
}

more_characters() { # NAME CHARACTERS
    local at_work
    read -r _ came wrong at_work < <(virsh -q qemu-monitor-command "$1" --hmp 'xp /3dw 0x7e00' | tr -d '\r')
    [[ $at_work -ne 4712 ]] || fail "the guest of $1 has no mtty"
    [[ $at_work -eq 4711 && $came -gt $2 ]]
}

# --- time and processes -------------------------------------------------------

# within SECONDS WHAT COMMAND...: it succeeds, and takes no longer.
within() {
    local began=${EPOCHREALTIME/./} took
    "${@:3}"
    took=$(((${EPOCHREALTIME/./} - began) / 1000))
    echo "$2: $took ms"
    ((took <= $1 * 1000)) || fail "$2: expected it to take at most $1 s, it took $took ms"
}

# begin NAME: virsh start in the background, for a scenario that does something
# in the meantime. gives_up says how it ended.
begin() {
    echo "+ virsh start $1 &"
    virsh -q start "$1" >/run/virt-mdev-test.said 2>&1 3>&- &
    begun=$!
}

# gives_up SECONDS PART...: what was begun fails within that time, and virsh's
# error, left in $error, contains every part.
gives_up() {
    wait_for "$1" "virsh start to return" ended "$begun"
    if wait "$begun"; then
        fail "virsh start: expected it to fail, it succeeded"
    fi
    error=$(cat /run/virt-mdev-test.said)
    echo "$error"
    contains "virsh's error" "$error" "${@:2}"
}

# ended PID: it runs no longer; a child that has not been waited for has ended.
ended() {
    ! grep -qs '^State:[[:space:]][^ZX]' "/proc/$1/status"
}

# pauses OPERATION: a script of libvirt's, after ours in order, stops there until
# go_on, a minute at most: virsh list, too, waits for it. Removed by clean-up.
pauses() {
    rm -f /run/virt-mdev-test.paused
    cat >"$hooks/90-virt-mdev-test" <<SH
#!/bin/sh
[ "\$2" = $1 ] || exit 0
echo \$\$ >/run/virt-mdev-test.pause
mv /run/virt-mdev-test.pause /run/virt-mdev-test.paused
exec sleep 60 </dev/null >/dev/null 2>&1
SH
    chmod +x "$hooks/90-virt-mdev-test"
}

paused() {
    test -e /run/virt-mdev-test.paused
}

# go_on: the script that pauses ends, as if it had been killed.
go_on() {
    kill -KILL "$(cat /run/virt-mdev-test.paused)"
    rm /run/virt-mdev-test.paused "$hooks/90-virt-mdev-test"
}

# want_lock WHAT NAME: somebody gets the lock of a card or of a domain (its uuid)
# as soon as it is free, and has it until let_go. The files are named after the
# hash of src/record.rs.
want_lock() {
    locked=$state/locks/$1-$(
        { printf '\x6b\xa7\xb8\x12\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8' && printf %s "$2"; } |
            sha1sum | cut -c1-3
    )
    exists "$state/locks"
    # Not by a descriptor of this shell: its children would have it too.
    perl -e 'open my $lock, ">>", shift or die; flock $lock, 2; kill STOP => $$; sleep' "$locked" 3>&- &
    lockers+=("$!")
}

# hold_lock WHAT NAME: the same, and it has it.
hold_lock() {
    want_lock "$@"
    wait_for 10 "the lock $locked" stopped "${lockers[-1]}"
}

let_go() {
    kill -KILL "${lockers[@]}"
    wait "${lockers[@]}" 2>/dev/null || true
    lockers=()
}

# waits_in_line PID: that process waits for a lock that somebody else has.
waits_in_line() {
    grep -q -- "-> FLOCK .* $1 " /proc/locks
}

stopped() { # PID
    grep -qs '^State:[[:space:]]T' "/proc/$1/status"
}

# our_hook OPERATION: the pid of the hook that libvirt's daemon has called and
# waits for.
our_hook() {
    pgrep -P "$(libvirt_pid)" -f "^[^ ]*(virt-mdev-hook|50-virt-mdev) [^ ]+ $1 "
}

# waits_for_lock PID: that process, or a worker of it, has the held lock's file
# open. Taking it is all that is ever done with it.
waits_for_lock() {
    local pid
    for pid in "$1" $(pgrep -P "$1" || true); do
        [[ -z $(find "/proc/$pid/fd" -lname "$locked" 2>/dev/null) ]] || return 0
    done
    return 1
}

# --- domains ------------------------------------------------------------------

# uuid N: the N-th of the uuids that scenarios use for devices.
uuid() {
    printf '83b8f4f2-509f-382f-3c1e-e6bfe0fa%04d' "$1"
}

# The uuid of a domain, NAME's for ever: it can be described anew, and asking
# libvirt for it takes a third of a second.
domain_uuid() {
    md5sum <<<"$1" | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/'
}

# Describing a domain: new_domain, then any of the following, then define.
#
#   new_domain vm1
#   device "$(uuid 1)" 'type="mtty-2" parent="mtty"'
#   define
new_domain() {
    domain=$1 wanted='' hostdevs='' commandline=''
}

# wants UUID ATTRIBUTES [CHILDREN]: a <device> of our metadata, without hostdev.
wants() {
    wanted+="<mdev:device uuid=\"$1\" $2>${3-}</mdev:device>"
}

# hostdev UUID [MODEL]: the domain's own element, as libvirt knows it.
hostdev() {
    hostdevs+="<hostdev mode='subsystem' type='mdev' model='${2:-vfio-pci}'><source><address uuid='$1'/></source></hostdev>"
}

# device UUID ATTRIBUTES [CHILDREN]: both of them.
device() {
    wants "$@"
    hostdev "$1"
}

attribute() { # NAME VALUE: a child for device
    echo "<mdev:attribute name=\"$1\" value=\"$2\"/>"
}

qemu_argument() {
    local argument
    for argument; do commandline+="<qemu:arg value='$argument'/>"; done
}

# The description as XML. "pc" has room for many devices on its one bus.
xml() {
    cat <<XML
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>$domain</name>
  <uuid>$(domain_uuid "$domain")</uuid>
  ${wanted:+<metadata><mdev:devices xmlns:mdev='urn:virt-mdev:domain:1'>$wanted</mdev:devices></metadata>}
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    $hostdevs
  </devices>
  ${commandline:+<qemu:commandline>$commandline</qemu:commandline>}
</domain>
XML
}

define() {
    xml >/run/virt-mdev-test.xml
    virsh -q define /run/virt-mdev-test.xml
}

start() {
    echo "+ virsh start $1"
    local said
    said=$(virsh -q start "$1" 2>&1) || fail "virsh start $1: expected it to start, it said: $said"
}

destroy() {
    echo "+ virsh destroy $1"
    virsh -q destroy "$1"
}

# refused NAME PART...: the domain does not start, and virsh's error contains
# every part. The error is left in $error.
refused() {
    echo "+ virsh start $1 (to be refused)"
    if error=$(virsh -q start "$1" 2>&1); then
        fail "virsh start $1: expected a refusal with \"${*:2}\", it started"
    fi
    echo "$error"
    contains "virsh's error" "$error" "${@:2}"
}

state_of() {
    virsh -q domstate "$1"
}

qemu_pid() {
    cat "/run/libvirt/qemu/$1.pid"
}

# --- devices ------------------------------------------------------------------

# by_hand TYPE-DIRECTORY UUID: what an administrator does.
by_hand() {
    echo "$2" >"/sys/class/mdev_bus/$1/create"
}

remove_by_hand() {
    local uuid
    for uuid; do echo 1 >"$devices/$uuid/remove"; done
}

type_of() {
    basename "$(readlink "$devices/$1/mdev_type")"
}

node_of() { # UUID: its node in /dev/vfio
    echo "/dev/vfio/$(basename "$(readlink "$devices/$1/iommu_group")")"
}

# hold_device PID UUID: a process gets what PID has open of the device, QEMU's
# group and device, and stops. A VFIO group can be opened once only; but as with
# descriptors that are inherited, it stays open until the last holder has ended.
# The pid is left in $holder.
hold_device() {
    perl - "$1" "$(node_of "$2")" 3>&- <<'PERL' &
my ($pid, $node) = @ARGV;
my $pidfd = syscall(434, $pid + 0, 0); # pidfd_open
$pidfd >= 0 or die "pidfd_open: $!";
my $held = 0;
for my $fd (glob "/proc/$pid/fd/*") {
    my $what = readlink $fd;
    next unless $what eq $node || $what =~ /vfio-device/;
    $fd =~ /(\d+)$/;
    syscall(438, $pidfd, $1 + 0, 0) >= 0 or die "pidfd_getfd: $!"; # pidfd_getfd
    $held++;
}
$held == 2 or die "expected a group and a device, saw $held";
kill STOP => $$;
PERL
    holder=$!
    wait_for 10 "the holder of $2" stopped "$holder"
}

# open_device UUID [USER]: a process, that user's, opens the device's node and stops.
open_device() {
    # shellcheck disable=SC2016 # perl's own variables
    setpriv --reuid "${2:-root}" --clear-groups \
        perl -e 'open my $node, "+<", shift or die; kill STOP => $$' "$(node_of "$1")" 3>&- &
    holder=$!
    wait_for 10 "the holder of $1" stopped "$holder"
}

end_holder() {
    kill -KILL "$holder"
    wait "$holder" 2>/dev/null || true
}

free_places() { # PARENT TYPE
    cat "/sys/class/mdev_bus/$1/mdev_supported_types/$2/available_instances"
}

# Every device, claim, record and index entry there is, with what each says:
# equal before and after means that nothing happened.
baseline() {
    # Before the first domain of a boot the directories are not there.
    { find "$devices/" "$state/devices" "$state/domains" "$state/by-name" -mindepth 1 \
        -printf '%p %l %i %T@\n' 2>/dev/null || true; } | sort
}

# Locks of ours that a process holds (the lines with "->" only wait), in one pass:
# there can be hundreds of files.
locks_held() {
    local files=("$state"/locks/*)
    [[ ${#files[@]} -eq 0 ]] ||
        stat -c '%i %n' "${files[@]}" |
        awk 'NR == FNR { name[$1] = $2; next }
            !/->/ { split($6, at, ":"); if (at[3] in name) print name[at[3]], $0 }' - /proc/locks
}

# of NAME: what list says of the domain's devices.
of() {
    virt-mdev list | awk -v name="$1" '$4 == name { print $1 }'
}

# attached NAME: what virt-mdev attach has just given it, left in $device.
attached() {
    device=$(of "$1")
    [[ $device =~ ^[0-9a-f-]{36}$ ]] || fail "$1: expected one device, saw: $device"
    contains "what attach said" "$said" "$1: attached $device"
    equal "claim on $device" "$(domain_uuid "$1")" "$(readlink "$state/devices/$device")"
}

record_of() { # NAME
    echo "$state/domains/$(domain_uuid "$1").json"
}

phase_of() {
    jq -r .phase "$(record_of "$1")"
}

# runs_with NAME UUID: QEMU has the device open, as the user it ought to be,
# confined; and we have written down that it is so.
runs_with() {
    local name=$1 uuid=$2 pid node
    equal "state of $name" running "$(state_of "$name")"
    exists "$devices/$uuid"
    pid=$(qemu_pid "$name")
    node=$(node_of "$uuid")
    [[ -n $(find "/proc/$pid/fd" -lname "$node" 2>/dev/null) ]] ||
        fail "expected QEMU ($pid) to hold $node open, it has: $(find "/proc/$pid/fd" -lname '/dev/*' -printf '%l ')"
    equal "user of QEMU" libvirt-qemu "$(ps -o user:32= -p "$pid" | tr -d ' ')"
    if selinuxenabled; then
        [[ $(context_of "$pid") =~ ^system_u:system_r:svirt_t:s0:c[0-9]+,c[0-9]+$ ]] ||
            fail "expected QEMU to run as svirt_t with two categories, it runs as $(context_of "$pid")"
    else
        equal "AppArmor profile of QEMU" "libvirt-$(domain_uuid "$name") (enforce)" "$(context_of "$pid")"
    fi
}

# context_of PID: what AppArmor or SELinux confines it as.
context_of() {
    tr -d '\0' <"/proc/$1/attr/current"
}

# claimed NAME UUID...: our record and claims say that the domain has them.
claimed() {
    local name=$1 uuid
    exists "$(record_of "$name")"
    equal "phase of $name" running "$(phase_of "$name")"
    for uuid in "${@:2}"; do
        equal "claim on $uuid" "$(domain_uuid "$name")" "$(readlink "$state/devices/$uuid")"
    done
}

# gone UUID...: neither device nor claim.
gone() {
    local uuid
    for uuid; do missing "$devices/$uuid" "$state/devices/$uuid"; done
}

# released NAME UUID...: the domain has ended, and nothing of ours is left of it.
released() {
    local name=$1
    gone "${@:2}"
    missing "$(record_of "$name")"
    equal "locks held" '' "$(locks_held)"
}

# --- the hook -----------------------------------------------------------------

# A second script of libvirt's, after ours in order: writes down what it finds
# at each event. Removed by clean-up.
install_witness() {
    rm -f "$witness_log"
    cat >"$hooks/90-virt-mdev-test" <<'SH'
#!/bin/sh
{
    printf '%s %s devices:' "$1" "$2"
    for device in /sys/bus/mdev/devices/*; do
        [ -e "$device" ] && printf ' %s' "${device##*/}"
    done
    if pgrep -f "qemu-system-x86_64 -name guest=$1," >/dev/null; then
        printf ' (QEMU runs)\n'
    else
        printf ' (no QEMU)\n'
    fi
} >>/run/virt-mdev-test.witness
SH
    chmod +x "$hooks/90-virt-mdev-test"
}

witnessed() { # NAME EVENT: what the witness saw
    sed -n "s/^$1 $2 //p" "$witness_log"
}

# denials: what SELinux would have denied our programs, or others on what is ours,
# since it was asked last; and whether some of them were lost. What our programs start
# of themselves is called "exe". Not counted: that the hook gets a clean environment, limits and
# signals of its own from the daemon; that it may not force the size of a socket's
# buffer (net_admin), which libudev and the journal's client try; and what a
# scenario's output goes to.
denials() {
    local seen=/run/virt-mdev-test.denials all before
    before=$(cat "$seen" 2>/dev/null || echo 0)
    mapfile -t all < <(dmesg |
        grep -E 'avc:  denied .*(virt_mdev|comm="(exe|virt-mdev|50-virt-mdev))|audit.*(suppressed|lost|limit exceeded)' |
        grep -vE '\{ (noatsecure|rlimitinh|siginh|net_admin) \}|dev="9p"')
    echo "${#all[@]}" >"$seen"
    [[ ${#all[@]} -eq $before ]] || printf '%s\n' "${all[@]:before}"
}

# hook NAME OPERATION SUBOPERATION EXTRA: as libvirt calls it, XML on stdin.
hook() {
    env -i LC_ALL=C PATH="$PATH" USER=root /usr/bin/virt-mdev-hook "$@"
}

# reconciled PART...: virt-mdev reconcile succeeds, and what it says contains every
# part.
reconciled() {
    local said
    echo "+ virt-mdev reconcile"
    said=$(virt-mdev reconcile 2>&1) || fail "virt-mdev reconcile: expected it to succeed, it said: $said"
    echo "$said"
    contains "what reconcile says" "$said" "$@"
}

# reconcile_unit PART...: the service succeeds, and its words are in the journal.
reconcile_unit() {
    local said=/run/virt-mdev-test.said cursor
    wait_for 10 "the journal's end" journal_end
    cursor=$(journal_end)
    systemctl start virt-mdev-reconcile.service
    journalctl --sync
    # A file that is just being extended cannot be read for a moment ("is truncated, ignoring file").
    wait_for 10 "the journal of the service" journal_since "$cursor" "$said" $#
    contains "the journal of the service" "$(cat "$said")" "$@"
}

journal_end() {
    local cursor
    cursor=$(journalctl -n 1 -o cat --show-cursor 2>/dev/null | sed -n 's/^-- cursor: //p')
    [[ -n $cursor ]] && echo "$cursor"
}

journal_since() { # CURSOR FILE PARTS: and how many parts are to be in it
    # Not --after-cursor: of what is asked for, Debian 12's journalctl leaves out the first.
    journalctl -o cat --cursor "$1" -u virt-mdev-reconcile.service >"$2" && [[ -s $2 || $3 -eq 0 ]]
}

libvirt_pid() {
    systemctl show -P MainPID "$daemon.service"
}

# modular: a daemon that is called virtqemud instead of libvirtd, until monolithic, or
# clean-up: the same program, which does everything of either, on libvirtd's sockets.
# The modular host has the real one, and nothing else.
modular() {
    [[ $daemon == libvirtd ]] || return 0
    systemctl stop libvirtd.service "${sockets[@]}"
    cp /usr/sbin/libvirtd /usr/sbin/virtqemud
    cat >/run/systemd/system/virtqemud.service <<'UNIT'
[Service]
Type=notify
ExecStart=/usr/sbin/virtqemud --pid-file /run/virtqemud.pid
KillMode=process
UNIT
    systemctl daemon-reload
    systemctl start virtqemud.service
}

monolithic() {
    [[ $daemon == libvirtd ]] || return 0
    systemctl stop virtqemud.service
    rm -f /usr/sbin/virtqemud /run/systemd/system/virtqemud.service /run/virtqemud.pid
    systemctl daemon-reload
    systemctl start "${sockets[@]}"
}

# The daemon ends itself when idle; this makes it run, and says its pid.
wake_libvirt() {
    virsh -q list >/dev/null
    libvirt_pid
}
