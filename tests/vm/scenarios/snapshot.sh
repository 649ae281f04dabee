# Saved to a file and restored, and a running domain reverted to a snapshot: its
# device goes and comes, with the same uuid, attributes and label, and with what the
# guest had in it.
needs kernel 6.8    # mtty can be migrated since then
needs libvirt 9.10  # reverts to external snapshots since then
device=$(uuid 1)

# as_described: it runs with its device, whose attribute is what the domain says.
as_described() {
    runs_with vm1 "$device"
    claimed vm1 "$device"
    equal "its attribute" described "$(cat "$devices/$device/plain")"
    equal "the owner of its node" libvirt-qemu "$(stat -c %U "$(node_of "$device")")"
}

install_witness
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"' "$(attribute plain described)"
serial_guest
migratable
define
start vm1
as_described
goes_on vm1

step "saved to a file: nothing is left"
virsh -q save vm1 "$images/vm1.saved"
released vm1 "$device"

step "restored from it"
rm "$witness_log"
virsh -q restore "$images/vm1.saved"
contains "events" "$(cut -d' ' -f2 "$witness_log" | paste -sd' ')" "restore prepare start started"
as_described
goes_on vm1
rm "$images/vm1.saved"

step "a snapshot of it while it runs"
virsh -q snapshot-create-as vm1 before --memspec "file=$images/vm1.before,snapshot=external"
as_described
saved=$characters
goes_on vm1
inode=$(stat -L -c %i "$devices/$device")
echo -n changed >"$devices/$device/plain"

step "reverted to it: the device is made anew"
rm "$witness_log"
virsh -q snapshot-revert vm1 before
equal "events" "stopped release prepare start started" "$(cut -d' ' -f2 "$witness_log" | paste -sd' ')"
as_described
goes_on vm1 "$saved"
[[ $(stat -L -c %i "$devices/$device") != "$inode" ]] || fail "the device is the one from before"

destroy vm1
released vm1 "$device"
virsh -q snapshot-delete vm1 before --metadata
rm "$images/vm1.before"
virsh -q undefine vm1
