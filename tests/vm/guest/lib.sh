# The words that scenarios are written in. Sourced by scenario, nothing-left,
# clean-up and demo.
# shellcheck shell=bash

state=/run/virt-mdev
devices=/sys/bus/mdev/devices
hooks=/etc/libvirt/hooks/qemu.d
witness_log=/run/virt-mdev-test.witness
error=  # what virsh said when it refused, see refused
domain= # the domain that is being described or looked at, see new_domain

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

free_places() { # PARENT TYPE
    cat "/sys/class/mdev_bus/$1/mdev_supported_types/$2/available_instances"
}

# Every device, claim, record and index entry there is, with what each says:
# equal before and after means that nothing happened.
baseline() {
    find "$devices/" "$state/devices" "$state/domains" "$state/by-name" -mindepth 1 \
        -printf '%p %l %i %T@\n' 2>/dev/null | sort
}

# Processes that hold a lock of ours.
locks_held() {
    local file inode
    for file in "$state"/locks/*; do
        inode=$(stat -c %i "$file")
        grep ":$inode " /proc/locks | grep -v -e '->' | sed "s|^|$file |" || true
    done
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
    equal "AppArmor profile of QEMU" "libvirt-$(domain_uuid "$name") (enforce)" "$(tr -d '\0' <"/proc/$pid/attr/current")"
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

# hook NAME OPERATION SUBOPERATION EXTRA: as libvirt calls it, XML on stdin.
hook() {
    env -i LC_ALL=C PATH="$PATH" USER=root /usr/bin/virt-mdev-hook "$@"
}

libvirt_pid() {
    systemctl show -P MainPID libvirtd.service
}

# The daemon ends itself when idle; this makes it run, and says its pid.
wake_libvirt() {
    virsh -q list >/dev/null
    libvirt_pid
}
