# core
# The devices are there, and then QEMU refuses to start: nothing is left.
device=$(uuid 1)

install_witness
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
qemu_argument -no-such-option
define
before=$(baseline)
refused vm1 "-no-such-option: invalid option"
contains "what a hook after ours saw at prepare" "$(witnessed vm1 prepare)" "$device"
released vm1 "$device"
equal "devices, claims and records after the failure" "$before" "$(baseline)"

step "another hook refuses after ours has succeeded"
cat >"$hooks/90-virt-mdev-test" <<'SH'
#!/bin/sh
[ "$2" != prepare ] || { echo "another hook says no" >&2; exit 1; }
SH
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
refused vm1 "another hook says no"
released vm1 "$device"
virsh -q undefine vm1
