# <qemu:commandline> names the device (sysfsdev=), as the proposal of 2016 launched it,
# and no hostdev does: libvirt knows nothing of it. What it takes is said beforehand,
# and then QEMU, not root and confined, has it; nothing of that is left.
device=$(uuid 1)
profiles=/etc/apparmor.d/libvirt
rules=$profiles/libvirt-$(domain_uuid vm1).files

new_domain vm1
wants "$device" 'type="mtty-2" parent="mtty"'
qemu_argument -device "vfio-pci,sysfsdev=$devices/$device"
define
before=$(baseline)

step "refused at prepare, with the lines to add; doctor says the same"
refused vm1 "error: vm1: QEMU could not open /dev/vfio/vfio: libvirt makes no node" "hint: add to /etc/libvirt/qemu.conf"
released vm1 "$device"
equal "devices, claims and records" "$before" "$(baseline)"
found=$(virt-mdev doctor) && fail "virt-mdev doctor: expected it to find something, it said: $found"
echo "$found"
line=$(grep '^cgroup_device_acl = ' <<<"$found") || fail "doctor printed no line to add: $found"
contains "virsh's error" "$error" "$line"

step "with that line: memory that QEMU may not lock is refused, too, with what to add"
qemu_conf "$line"
limits=/run/systemd/system/$daemon.service.d
mkdir -p "$limits"
printf '[Service]\nLimitMEMLOCK=32M\n' >"$limits/virt-mdev-test.conf"
systemctl daemon-reload
systemctl restart "$daemon.service"
refused vm1 "error: vm1: QEMU may lock 32768 KiB of memory" "hint: add to the domain: <memtune><hard_limit"
released vm1 "$device"
rm "$limits/virt-mdev-test.conf"
systemctl daemon-reload
systemctl restart "$daemon.service"
addition=$(grep -o '<memtune>.*</memtune>' <<<"$error")
xml | sed "s|<vcpu>|$addition<vcpu>|" >/run/virt-mdev-test.xml
virsh -q define /run/virt-mdev-test.xml
equal "virt-mdev doctor" "Nothing found that would keep a domain from its devices." "$(virt-mdev doctor)"

step "it runs: not root, confined, with a rule of its own"
start vm1
runs_with vm1 "$device"
claimed vm1 "$device"
node=$(node_of "$device")
equal "label of the host's node" "$(qemu_owner) 600" "$(label_of "$node")"
contains "rules of the domain" "$(cat "$rules")" "\"$node\" rw, # virt-mdev"
equal "profiles with a rule of ours" "$rules" "$(grep -rl virt-mdev "$profiles")"

step "crash of QEMU: nothing is left"
kill -KILL "$(qemu_pid vm1)"
wait_for 20 "the release" test ! -e "$(record_of vm1)"
released vm1 "$device"
missing "$rules"
equal "devices, claims and records" "$before" "$(baseline)"

step "another hook refuses at start: nothing is left"
cat >"$hooks/90-virt-mdev-test" <<SH
#!/bin/sh
[ "\$2" = start ] || exit 0
grep -h virt-mdev $profiles/*.files >$witness_log
echo "another hook says no" >&2
exit 1
SH
chmod +x "$hooks/90-virt-mdev-test"
refused vm1 "another hook says no"
contains "the rule that was there when it failed" "$(cat "$witness_log")" "# virt-mdev"
rm "$witness_log" "$hooks/90-virt-mdev-test"
released vm1 "$device"
equal "rules of ours that are left" '' "$(grep -rl virt-mdev "$profiles" || true)"
equal "devices, claims and records" "$before" "$(baseline)"

qemu_conf ''
virsh -q undefine vm1
