# Somebody still holds the device when libvirt's release comes: the hook gives up
# at its limit and says who it is; the device goes when that one has ended.
device=$(uuid 1)
directory=/sys/class/mdev_bus/mtty/$device # stays longest, see the removal by hand
limit=2     # seconds, wait.release
slack=4     # all else that the hook does, on an emulated processor
patience=30 # the same with libvirt, whose own share is most of it

configure "wait.release = \"${limit}s\""
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
xml >/run/virt-mdev-test.held.xml

# orphaned WHY: the record says that the device is still there and was to go; list
# and reconcile, that it is because of WHY.
orphaned() {
    local said
    exists "$directory"
    equal "claim on $device" "$(domain_uuid vm1)" "$(readlink "$state/devices/$device")"
    equal "phase of vm1" releasing "$(phase_of vm1)"
    equal "state of $device in the record" undoing "$(jq -r '.steps[] | select(.step.do == "create") | .state' "$(record_of vm1)")"
    said=$(virt-mdev list)
    echo "$said"
    contains "virt-mdev list" "$said" "$device" vm1 "$1"
    reconciled "vm1: left $device: " "$1"
    exists "$directory"
}

step "the hook alone: it returns at its limit"
hook vm1 prepare begin - </run/virt-mdev-test.held.xml
open_device "$device"
within $((limit + slack)) "release of a device that is held" hook vm1 release end shutdown </run/virt-mdev-test.held.xml
orphaned "in use by perl (pid $holder)"
before=$(baseline)
virt-mdev reconcile --dry-run
virt-mdev reconcile
equal "devices, claims and records after two more looks" \
    "$(cut -d' ' -f1,2 <<<"$before")" "$(baseline | cut -d' ' -f1,2)"
end_holder
reconciled "vm1: destroy $device, mtty-2 on mtty"
released vm1 "$device"
reconciled "Nothing to reconcile."

step "QEMU's own descriptors, in a process that is stopped: virsh returns"
start vm1
runs_with vm1 "$device"
hold_device "$(qemu_pid vm1)" "$device"
within $patience "virsh destroy" destroy vm1
equal "state of vm1" 'shut off' "$(state_of vm1)"
orphaned "in use"

step "nobody gets it meanwhile"
refused vm1 "error: vm1: " "$device" "in use"
new_domain vm2
device "$device" 'type="mtty-2" parent="mtty"'
define
refused vm2 "error: vm2: " "$device" vm1
virsh -q undefine vm2
exists "$devices/$device" "$(record_of vm1)"

# It is off its bus, and its remove does not return while it is held: we may not
# wait for it either.
step "somebody removes it by hand, which blocks: pending"
(remove_by_hand "$device") 3>&- &
remover=$!
wait_for 10 "the removal to begin" test ! -e "$devices/$device"
within $patience "virt-mdev reconcile" reconciled "vm1: left $device: its removal is pending"
orphaned "removal is pending"
within $patience "virsh start" refused vm1 "error: vm1: " "$device" "removal is pending"

step "the holder ends: the kernel finishes, and the record goes"
end_holder
wait "$remover"
missing "$directory"
reconciled
released vm1 "$device"
start vm1
destroy vm1
released vm1 "$device"
virsh -q undefine vm1
rm /run/virt-mdev-test.held.xml
