# keep="yes": the device outlives the domain and is found again by its next start.
device=$(uuid 1)

describe() { # KEEP
    new_domain vm1
    device "$device" "type=\"mtty-2\" parent=\"mtty\" keep=\"$1\""
    define
}

step "it is there after the domain has gone"
describe yes
start vm1
printf 'same device' >"$devices/$device/plain"
destroy vm1
exists "$devices/$device" "$state/devices/$device"
equal "phase of vm1" kept "$(phase_of vm1)"
equal "locks held" '' "$(locks_held)"

step "nobody else gets it"
new_domain vm2
device "$device" 'type="mtty-2" parent="mtty"'
define
refused vm2 "error: vm2: " "$device" vm1
exists "$devices/$device"
virsh -q undefine vm2

step "the next start uses it, and a start without keep ends it"
describe no
start vm1
equal "what was written to the kept device" 'same device' "$(cat "$devices/$device/plain")"
runs_with vm1 "$device"
claimed vm1 "$device"
destroy vm1
released vm1 "$device"
virsh -q undefine vm1
