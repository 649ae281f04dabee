# A device that somebody made beforehand is used, never destroyed, never ours.
device=$(uuid 1) other=$(uuid 2)

by_hand mtty/mdev_supported_types/mtty-2 "$device"
by_hand mtty/mdev_supported_types/mtty-1 "$other"
printf 'same device' >"$devices/$device/plain"
before=$(baseline)

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
hostdev "$other" # without a word in our metadata
define
start vm1
runs_with vm1 "$device"
runs_with vm1 "$other"
equal "what was written to the device" 'same device' "$(cat "$devices/$device/plain")"
equal "who made them" "other other" "$(virt-mdev list --json | jq -r '[.[].made_by] | join(" ")')"
equal "steps of the record that make or end a device" '' \
    "$(jq -r '.steps[].step | select(.do == "create" or .do == "adopt" or .do == "destroy") | .do' "$(record_of vm1)")"

destroy vm1
exists "$devices/$device" "$devices/$other"
equal "what was written to the device" 'same device' "$(cat "$devices/$device/plain")"
equal "devices, claims and records afterwards" "$before" "$(baseline)"
equal "locks held" '' "$(locks_held)"
virsh -q undefine vm1

step "one of another type than asked for is no help"
new_domain vm1
device "$device" 'type="mtty-1" parent="mtty"'
define
refused vm1 "error: vm1: " "$device" mtty-1 mtty-2
equal "devices, claims and records after the refusal" "$before" "$(baseline)"
virsh -q undefine vm1
remove_by_hand "$device" "$other"
