# core
# QEMU is killed: libvirt notices, and release cleans up.
device=$(uuid 1)

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
start vm1
runs_with vm1 "$device"

shut_off() { [[ $(state_of vm1) == 'shut off' ]]; }

kill -KILL "$(qemu_pid vm1)"
wait_for 30 "libvirt to notice that QEMU died" shut_off
# The state changes before the hook has run; the device goes with the hook.
wait_for 30 "the device to go" test ! -e "$devices/$device"
wait_for 30 "the record to go" test ! -e "$(record_of vm1)"
equal "how vm1 ended" "shut off (crashed)" "$(virsh -q domstate --reason vm1)"
released vm1 "$device"
virsh -q undefine vm1
