# host: selinux
# <qemu:commandline> names the device (sysfsdev=) and no hostdev does: libvirt, which would
# give the node its context, knows nothing of it. With the line that doctor prints, QEMU,
# not root and as svirt_t, has it, and the host's node is afterwards what it was.
device=$(uuid 1)

context() {
    stat -c %C "$1"
}

# image_of NAME: the context that libvirt has chosen for the domain's files.
image_of() {
    virsh dumpxml "$1" | sed -n "s|.*<imagelabel>\(system_u:object_r:svirt_image_t:[^<]*\)</imagelabel>.*|\1|p"
}

new_domain vm1
wants "$device" 'type="mtty-2" parent="mtty"'
qemu_argument -device "vfio-pci,sysfsdev=$devices/$device"
define
by_hand mtty/mdev_supported_types/mtty-2 "$device"
udevadm settle
node=$(node_of "$device")
before=$(context "$node")

step "refused at prepare; doctor prints the line to add"
refused vm1 "error: vm1: QEMU could not open /dev/vfio/vfio: libvirt makes no node" "hint: add to /etc/libvirt/qemu.conf"
found=$(virt-mdev doctor) && fail "virt-mdev doctor: expected it to find something, it said: $found"
echo "$found"
line=$(grep '^cgroup_device_acl = ' <<<"$found") || fail "doctor printed no line to add: $found"
equal "context of the host's node of a domain that was refused" "$before" "$(context "$node")"

step "with it: the node carries the domain's context while it runs, whatever udev does"
qemu_conf "$line"
equal "virt-mdev doctor" "Nothing found that would keep a domain from its devices." "$(virt-mdev doctor)"
start vm1
runs_with vm1 "$device"
image=$(image_of vm1)
[[ $image =~ ^system_u:object_r:svirt_image_t:s0:c[0-9]+,c[0-9]+$ ]] || fail "the context of vm1's images: $image"
equal "context of the host's node" "$image" "$(context "$node")"
equal "owner of the host's node" "$(qemu_owner) 600" "$(label_of "$node")"
equal "categories of QEMU, and of the node" "${image##*:}" "$(context_of "$(qemu_pid vm1)" | sed 's/.*://')"
for action in add change; do
    udevadm trigger --settle --action="$action" "$node"
    equal "context of the host's node after $action" "$image" "$(context "$node")"
    equal "owner of it after $action" "$(qemu_owner) 600" "$(label_of "$node")"
done

# given_back HOW: the device was there before, and so it stays.
given_back() {
    equal "context of the host's node $1" "$before" "$(context "$node")"
    equal "owner of it $1" '0:0 600' "$(label_of "$node")"
    missing "$(record_of vm1)" "$state/devices/$device"
    exists "$devices/$device"
}

step "afterwards it is as before, whether it was stopped or QEMU crashed"
destroy vm1
given_back "after destroy"
start vm1
kill -KILL "$(qemu_pid vm1)"
wait_for 20 "the release" test ! -e "$(record_of vm1)"
given_back "after a crash"
remove_by_hand "$device"

step "a device of ours"
start vm1
runs_with vm1 "$device"
claimed vm1 "$device"
image=$(image_of vm1)
[[ -n $image ]] || fail "no context of the images of vm1"
equal "context of the host's node" "$image" "$(context "$(node_of "$device")")"
destroy vm1
released vm1 "$device"
qemu_conf ''
virsh -q undefine vm1
equal "denials" '' "$(denials)"
