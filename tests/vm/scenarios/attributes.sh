# core
# Attributes are written in the order of the XML; a refused one undoes the device.
device=$(uuid 1)

step "in order, without a newline"
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"' \
    "$(attribute settings/second 2)$(attribute settings/first 1)$(attribute plain 'a &amp; b')$(attribute settings/second 3)"
define
start vm1
equal "what the driver saw" "second=2 first=1 plain=a & b second=3" "$(cat "$devices/$device/settings/log")"
runs_with vm1 "$device"
destroy vm1
released vm1 "$device"
virsh -q undefine vm1

step "a refused one"
new_domain vm1
device "$(uuid 2)" 'type="mtty-1" parent="mtty"'
device "$device" 'type="mtty-2" parent="mtty"' \
    "$(attribute settings/first 1)$(attribute settings/second bad)"
define
before=$(baseline)
refused vm1 "error: vm1: " "settings/second" '"bad"' "$device" "Invalid argument" "EINVAL"
released vm1 "$device" "$(uuid 2)"
equal "devices, claims and records after the refusal" "$before" "$(baseline)"

step "one that the driver does not have"
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"' "$(attribute settings/third 1)"
define
refused vm1 "error: vm1: " "settings/third" "$device"
released vm1 "$device"

step "one that cannot be written"
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"' "$(attribute settings/log 1)"
define
refused vm1 "error: vm1: " "settings/log" "$device"
released vm1 "$device"
virsh -q undefine vm1
