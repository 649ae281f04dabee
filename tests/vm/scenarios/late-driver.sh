# A host boots, and the parent's driver comes 20 s after libvirt has begun to start
# its domains, or never.
device=$(uuid 1)

describe() { # NAME UUID
    new_domain "$1"
    device "$2" 'type="mtty-2" parent="mtty"'
    define
    virsh -q autostart "$1"
}

# boots: libvirt's daemon starts what a boot starts.
boots() {
    systemctl stop "$daemon.service" "${sockets[@]}"
    # By this libvirt knows that it has done so since the boot (virStateShouldAutostart).
    rm -f /run/libvirt/qemu/autostarted
    since=$(date +%s)
    systemctl start --no-block "$daemon.service"
}

# journal: what the hook said since then.
journal() {
    journalctl -q -t virt-mdev --since "@$since" -o cat
}

said() { # TEXT
    [[ $(journal) == *"$1"* ]]
}

running() { # NAME
    [[ $(virsh domstate "$1") == running ]]
}

# uptime_of TEXT: when the hook said it, in microseconds since the boot.
uptime_of() {
    journalctl -q -t virt-mdev --since "@$since" -o json |
        perl -ne 'print "$1\n" if /\Q'"$1"'\E/ && /"__MONOTONIC_TIMESTAMP":"(\d+)"/' | tail -n 1
}

step "the driver comes 20 s late: the domain runs"
describe vm1 "$device"
rmmod mtty
boots
wait_for 60 "the hook to wait" said "waiting for the parent mtty"
exists "$state/awaited/parent-mtty"
sleep 20
modprobe mtty
read -r came _ </proc/uptime
came=${came/./}0000
wait_for 60 "vm1 to run" running vm1
runs_with vm1 "$device"
noticed=$(uptime_of "the parent mtty: there")
[[ -n $noticed ]] || fail "expected a line that mtty is there, saw: $(journal)"
echo "mtty was there at $came us, and seen at $noticed us"
((noticed <= came + 3000000)) || fail "the hook saw mtty $((noticed - came)) us after it was there"
equal "how often it told that it waits" 1 "$(journal | grep -c '^waiting for the parent')"
missing "$state/awaited/parent-mtty"
destroy vm1
released vm1 "$device"

step "it never comes: ten domains are refused after one wait, and a plain one runs"
for number in 2 3 4 5 6 7 8 9 10; do describe "vm$number" "$(uuid "$number")"; done
new_domain plain
define
virsh -q autostart plain
# What a start costs on this host, whose processor is emulated.
begun=${EPOCHREALTIME/./}
start plain
alone=$(((${EPOCHREALTIME/./} - begun) / 1000000 + 1))
destroy plain
rmmod mtty
boots
wait_for 60 "the hook to wait" said "waiting for the parent mtty"
begun=$SECONDS
wait_for $((60 + 10 * alone)) "the plain domain to run" running plain
took=$((SECONDS - begun))
counted "a plain domain beside ten that wait ran $took s after they had begun to; alone it takes $alone s"
# Ten waits would be five minutes. Nine refusals, a start that fails late and one that does not take their time here.
((took <= 30 + 5 + 10 * alone)) || fail "the plain domain ran only after $took s"
refusals() { [[ $(journal | grep -c 'no parent mtty on this host: .*; waited for the parent mtty in vain') == 10 ]]; }
wait_for 60 "ten refusals" refusals
equal "how often one waited" 1 "$(journal | grep -c '^waiting for the parent')"
equal "how often one did not" 9 "$(journal | grep -c '^not waiting for the parent')"
destroy plain

step "udev tells that it has come, and all is as before"
modprobe mtty
wait_for 20 "udev to tell" test ! -e "$state/awaited/parent-mtty"
start vm1
runs_with vm1 "$device"
destroy vm1
released vm1 "$device"
for name in vm1 vm2 vm3 vm4 vm5 vm6 vm7 vm8 vm9 vm10 plain; do virsh -q undefine "$name"; done
