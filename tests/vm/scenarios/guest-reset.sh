# A reset of the guest is no event for us: nothing changes at all.
device=$(uuid 1)

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
start vm1
runs_with vm1 "$device"
pid=$(qemu_pid vm1)
before=$(baseline)
install_witness

virsh -q reset vm1
sleep 2
equal "devices, claims and records after the reset" "$before" "$(baseline)"
equal "pid of QEMU" "$pid" "$(qemu_pid vm1)"
missing "$witness_log" # no hook was called
runs_with vm1 "$device"

destroy vm1
released vm1 "$device"
virsh -q undefine vm1
