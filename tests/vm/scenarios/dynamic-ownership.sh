# libvirt does not give nodes to QEMU's user (dynamic_ownership = 0), makes no /dev of
# its own for a domain (namespaces), confines nobody (security_driver): a domain gets
# its device all the same, and only with us.
device=$(uuid 1)
qemu=$(qemu_owner)

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
node=

# lives: a start to the end. What QEMU is confined by is not looked at here.
lives() {
    start vm1
    node=$(node_of "$device")
    [[ -n $(find "/proc/$(qemu_pid vm1)/fd" -lname "$node") ]] || fail "expected QEMU to hold $node open"
    equal "user of QEMU" libvirt-qemu "$(ps -o user:32= -p "$(qemu_pid vm1)" | tr -d ' ')"
    claimed vm1 "$device"
}

step "dynamic_ownership = 0, and the hook is switched off: QEMU cannot open a device made by hand"
qemu_conf 'dynamic_ownership = 0'
configure 'enabled = false'
by_hand mtty/mdev_supported_types/mtty-2 "$device"
udevadm settle
node=$(node_of "$device")
refused vm1 'Permission denied' "$node"
[[ $error != *'Hook script'* ]] || fail "expected no word of the hook, saw: $error"
equal "label of the host's node" '0:0 600' "$(label_of "$node")"
missing "$(record_of vm1)" "$state/devices/$device"
remove_by_hand "$device"

step "dynamic_ownership = 0, and the hook labels nothing: QEMU cannot open its device"
configure 'labels = "never"'
refused vm1 'Permission denied' /dev/vfio/
released vm1 "$device"

for labels in always needed; do
    step "dynamic_ownership = 0, labels = \"$labels\": the domain runs"
    configure "labels = \"$labels\""
    lives
    equal "label of the host's node" "$qemu 600" "$(label_of "$node")"
    destroy vm1
    released vm1 "$device"
done

step "dynamic_ownership = 0, and a node of somebody else's device: as it was, afterwards"
by_hand mtty/mdev_supported_types/mtty-2 "$device"
node=$(node_of "$device")
chmod 0640 "$node"
chown daemon:sys "$node"
before=$(label_of "$node")
lives
equal "label while it runs" "$qemu 640" "$(label_of "$node")"
destroy vm1
equal "label afterwards" "$before" "$(label_of "$node")"
missing "$(record_of vm1)" "$state/devices/$device"
remove_by_hand "$device"

configure 'labels = "always"'
for lines in 'namespaces = [ ]' 'security_driver = "none"' $'dynamic_ownership = 0\nnamespaces = [ ]'; do
    step "qemu.conf: ${lines//$'\n'/, }"
    qemu_conf "$lines"
    lives
    equal "label of the host's node" "$qemu 600" "$(label_of "$node")"
    destroy vm1
    released vm1 "$device"
done
qemu_conf ''
virsh -q undefine vm1
