# The type by the name that its driver gives it, and the parent left out.
device=$(uuid 1)
name=$(cat /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/name)
equal "the driver's name for mtty-2" "Dual port serial" "$name"

new_domain vm1
device "$device" "type=\"$name\""
define
start vm1
equal "type of the device" mtty-2 "$(type_of "$device")"
runs_with vm1 "$device"
claimed vm1 "$device"

destroy vm1
released vm1 "$device"
virsh -q undefine vm1
