# The parent's driver is unloaded, under a domain that is defined, and under devices
# that nobody uses; and comes back.
# Nobody waits for a driver that will not come.
configure 'wait.parent = "0s"'
device=$(uuid 1) kept=$(uuid 2) idle=$(uuid 3) foreign=$(uuid 101)

describe() { # NAME UUID MORE
    new_domain "$1"
    device "$2" "type=\"mtty-2\" parent=\"mtty\" ${3-}"
    define
}

by_hand mbochs/mdev_supported_types/mbochs-small "$foreign"

step "a domain that does not run: refused in words, and fine when the driver is back"
describe vm1 "$device"
rmmod mtty
refused vm1 "error: vm1: " "no parent mtty"
released vm1 "$device"
modprobe mtty
start vm1
runs_with vm1 "$device"

step "a domain that runs holds the driver"
if said=$(rmmod mtty 2>&1); then
    fail "expected rmmod to refuse while the domain runs"
fi
contains "what rmmod says" "$said" "in use"
runs_with vm1 "$device"
claimed vm1 "$device"
destroy vm1
released vm1 "$device"

claimed_by() { # NAME UUID
    equal "claim on $2" "$(domain_uuid "$1")" "$(readlink "$state/devices/$2")"
}

# prepared NAME...: each domain has its device, as far as the hook goes.
prepared() {
    local name
    for name; do
        virsh -q dumpxml "$name" >/run/virt-mdev-test.xml
        hook "$name" prepare begin - </run/virt-mdev-test.xml
        exists "$(record_of "$name")"
    done
}

release() { # NAME
    virsh -q dumpxml "$1" >/run/virt-mdev-test.xml
    hook "$1" release end shutdown </run/virt-mdev-test.xml
}

step "devices that nobody uses go with it; a release and a start find them gone"
describe vm2 "$kept" 'keep="yes"'
prepared vm2
release vm2
equal "phase of vm2" kept "$(phase_of vm2)"
describe vm3 "$idle"
prepared vm1 vm3
rmmod mtty
missing "$devices/$device" "$devices/$kept" "$devices/$idle"

step "udev tells, and the record says so: what comes back under the name is not ours"
lost() { grep -q '"do":"use"' "$(record_of "$1")"; }
wait_for 20 "the record of vm1 to say that its device is lost" lost vm1
wait_for 20 "the record of vm3 to say that its device is lost" lost vm3
contains "virt-mdev list" "$(virt-mdev list | grep "$device")" vm1 lost
journalctl -q -t virt-mdev -n 50 -o cat VIRT_MDEV_DOMAIN=vm1 | grep -qF "device $device has gone although the domain has it" ||
    fail "expected the journal to name vm1"
modprobe mtty
by_hand mtty/mdev_supported_types/mtty-2 "$device"
release vm1
exists "$devices/$device"
missing "$(record_of vm1)" "$state/devices/$device"
remove_by_hand "$device"
rmmod mtty
refused vm3 "error: vm3: " "no parent mtty"
released vm3 "$idle"
# What was kept is its domain's no more.
let_go_of() { [[ ! -e $(record_of "$1") && ! -L $state/devices/$2 ]]; }
wait_for 20 "vm2 to let go of what it kept" let_go_of vm2 "$kept"
journalctl -q -t virt-mdev -n 50 -o cat VIRT_MDEV_DOMAIN=vm2 | grep -qF "device $kept, which the domain kept, has gone" ||
    fail "expected the journal to name vm2"
refused vm2 "error: vm2: " "no parent mtty"
released vm2 "$kept"
reconciled "Nothing to reconcile."

step "the driver is back, and a kept device comes back with the next start"
modprobe mtty
prepared vm2
release vm2
claimed_by vm2 "$kept"
rmmod mtty
wait_for 20 "vm2 to let go of what it kept" let_go_of vm2 "$kept"
modprobe mtty
missing "$devices/$kept"
prepared vm2
exists "$devices/$kept"
claimed_by vm2 "$kept"
release vm2

step "what somebody else has made since under the same uuid is not ours"
rmmod mtty
wait_for 20 "vm2 to let go of what it kept" let_go_of vm2 "$kept"
modprobe mtty
by_hand mtty/mdev_supported_types/mtty-2 "$kept"
prepared vm2
release vm2
exists "$devices/$kept"
remove_by_hand "$kept"
by_hand mtty/mdev_supported_types/mtty-1 "$kept" # ours was an mtty-2
virt-mdev reconcile
refused vm2 "error: vm2: " "$kept" mtty-1 mtty-2
exists "$devices/$kept"
missing "$(record_of vm2)" "$state/devices/$kept"
equal "type of the other's device" mtty-1 "$(type_of "$kept")"

exists "$devices/$foreign"
remove_by_hand "$kept" "$foreign"
for name in vm1 vm2 vm3; do virsh -q undefine "$name"; done
