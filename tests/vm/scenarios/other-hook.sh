# Another script in qemu.d fails after ours has succeeded, at each event where that
# stops the start: nothing is left. (At prepare: failed-start.)
one=$(uuid 1) two=$(uuid 2)

new_domain vm1
device "$one" 'type="mtty-2" parent="mtty"'
device "$two" 'type="mbochs-small" parent="mbochs"'
define
before=$(baseline)

for operation in prepare start started; do
    step "at $operation"
    cat >"$hooks/90-virt-mdev-test" <<SH
#!/bin/sh
[ "\$2" = $operation ] || exit 0
ls $devices $state/domains >/run/virt-mdev-test.witness
echo "another hook says no" >&2
exit 1
SH
    chmod +x "$hooks/90-virt-mdev-test"
    refused vm1 "another hook says no"
    contains "what was there when it failed" "$(cat "$witness_log")" "$one" "$two" "$(domain_uuid vm1).json"
    rm "$witness_log"
    equal "state of vm1" 'shut off' "$(state_of vm1)"
    released vm1 "$one" "$two"
    equal "devices, claims and records after the failure" "$before" "$(baseline)"
done
virsh -q undefine vm1
