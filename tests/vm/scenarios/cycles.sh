# limit: 900 seconds
# Starts and stops, again and again, nothing left after any: ten by virsh, then a
# hundred by the hook alone. `make soak` does it longer.
before=$(baseline)
rounds=$(cat "$share/soak")

step "$((10 * rounds)) cycles by virsh"
device=$(uuid 1)
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"' "$(attribute settings/first once)"
define
for ((time = 1; time <= 10 * rounds; time++)); do
    start vm1
    exists "$devices/$device"
    equal "phase of vm1" running "$(phase_of vm1)"
    destroy vm1
    gone "$device"
    missing "$(record_of vm1)"
done
virsh -q undefine vm1

# by_hook NAME UUID TIMES: all that libvirt would call.
by_hook() {
    local name=$1 uuid=$2 time xml=/run/virt-mdev-test.$1
    new_domain "$name"
    device "$uuid" 'type="mtty-1" parent="mtty"'
    xml >"$xml"
    for ((time = 1; time <= $3; time++)); do
        hook "$name" prepare begin - <"$xml"
        exists "$devices/$uuid" "$state/devices/$uuid"
        hook "$name" start begin - <"$xml"
        hook "$name" started begin - <"$xml"
        hook "$name" stopped end - <"$xml"
        hook "$name" release end shutdown <"$xml"
        gone "$uuid"
    done
    missing "$(record_of "$name")"
    rm "$xml"
}

step "$((100 * rounds)) by the hook, two domains at once"
# The daemon looks at each new device for seconds, and would still do so later.
systemctl stop "$daemon.service" "${sockets[@]}"
by_hook vm2 "$(uuid 11)" $((50 * rounds)) &
lanes=("$!")
by_hook vm3 "$(uuid 21)" $((50 * rounds)) &
lanes+=("$!")
for lane in "${lanes[@]}"; do
    wait "$lane" || exit # it has said why
done
systemctl start "${sockets[@]}"
equal "devices, claims and records" "$before" "$(baseline)"
equal "locks held" '' "$(locks_held)"
counted "cycles: $((10 * rounds)) by virsh and $((100 * rounds)) by the hook, nothing left after any"
