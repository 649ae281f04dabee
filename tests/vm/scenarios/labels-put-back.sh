# Nodes that outlive the domain, because somebody else made their devices, carry again
# what they carried before, however the domain ends: owner, mode, and for the device that
# <qemu:commandline> names, no rule of AppArmor's. libvirt keeps away from nodes here
# (dynamic_ownership = 0), so that what is seen is our work.
one=$(uuid 1) two=$(uuid 2) # a hostdev's, and one of <qemu:commandline>
profiles=/etc/apparmor.d/libvirt
rules=$profiles/libvirt-$(domain_uuid vm1).files
memory="<memtune><hard_limit unit='GiB'>1</hard_limit></memtune>"

# describe ARGUMENT...: with these for QEMU besides.
describe() {
    new_domain vm1
    device "$one" 'type="mtty-1" parent="mtty"'
    wants "$two" 'type="mtty-1" parent="mtty"'
    # libvirt knows nothing of it, and has the first free slots for its own.
    qemu_argument -device "vfio-pci,sysfsdev=$devices/$two,addr=0x10" "$@"
    xml | sed "s|<vcpu>|$memory<vcpu>|" >/run/virt-mdev-test.xml
    virsh -q define /run/virt-mdev-test.xml
}

# carried: what the nodes carry, and the profiles with a rule of ours.
carried() {
    label_of "$node1"
    label_of "$node2"
    grep -rl virt-mdev "$profiles" || true
}

# put_back: everything is as it was before the start.
put_back() {
    released_node "$one"
    released_node "$two"
    missing "$(record_of vm1)"
    equal "what the nodes carry afterwards" "$before" "$(carried)"
}

released_node() { # UUID: nothing of ours on a device that stays
    exists "$devices/$1"
    missing "$state/devices/$1"
}

by_hand mtty/mdev_supported_types/mtty-1 "$one"
by_hand mtty/mdev_supported_types/mtty-1 "$two"
udevadm settle
node1=$(node_of "$one") node2=$(node_of "$two")
chown daemon:sys "$node1"
chmod 0440 "$node1"
chown nobody:nogroup "$node2"
chmod 0404 "$node2"
before=$(carried)
equal "what the nodes carry" "$(id -u daemon):$(getent group sys | cut -d: -f3) 440
$(id -u nobody):$(id -g nobody) 404" "$before"
labelled="$(qemu_owner) 640
$(qemu_owner) 604
$rules"

describe
line=$(virt-mdev doctor | grep '^cgroup_device_acl = ' || true)
[[ -n $line ]] || fail "doctor printed no line to add"
qemu_conf "$line"$'\ndynamic_ownership = 0'

step "a release"
start vm1
equal "what the nodes carry while it runs" "$labelled" "$(carried)"
contains "rules of the domain" "$(cat "$rules")" "\"$node2\" rw, # virt-mdev"
runs_with vm1 "$one"
runs_with vm1 "$two"
destroy vm1
put_back

step "a QEMU that opens its nodes to others"
start vm1
setpriv --reuid "$(id -u libvirt-qemu)" --regid nogroup --clear-groups chmod 0666 "$node1" "$node2"
destroy vm1
put_back

step "QEMU is killed"
start vm1
equal "what the nodes carry while it runs" "$labelled" "$(carried)"
kill -KILL "$(qemu_pid vm1)"
wait_for 30 "the release" test ! -e "$(record_of vm1)"
put_back

step "QEMU fails, after the labels were set"
cat >"$hooks/90-virt-mdev-test" <<SH
#!/bin/sh
[ "\$2" = start ] || exit 0
{
    stat -c '%u:%g %a' $node1 $node2
    grep -rl virt-mdev $profiles
} >$witness_log
SH
chmod +x "$hooks/90-virt-mdev-test"
describe -no-such-option
refused vm1 "-no-such-option: invalid option"
equal "what the nodes carried at the start" "$labelled" "$(cat "$witness_log")"
put_back
rm "$witness_log" "$hooks/90-virt-mdev-test"

remove_by_hand "$one" "$two"
qemu_conf ''
virsh -q undefine vm1
