# enabled = false: nothing is made any more; what was made before is still
# taken away.
device=$(uuid 1)

switch_off() {
    cp /etc/virt-mdev/config.toml /run/virt-mdev-test.config # put back by clean-up
    echo 'enabled = false' >/etc/virt-mdev/config.toml
}

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
start vm1
runs_with vm1 "$device"

switch_off
step "release of what was made before"
destroy vm1
released vm1 "$device"

step "a start does nothing: libvirt itself misses the device"
before=$(baseline)
refused vm1 "device not found" "$device"
equal "devices, claims and records afterwards" "$before" "$(baseline)"
[[ $error != *'Hook script'* ]] || fail "expected no word of the hook, saw: $error"
virsh -q undefine vm1
