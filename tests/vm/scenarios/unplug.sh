# limit: 900 seconds
# attach and detach, of a guest that lets go when it is asked to (unplug.S). unplug-linux is
# the same of a whole operating system.
serial=/var/log/libvirt/qemu/vm3.serial

told() { # WORD TIMES: the guest has said so, so often.
    (($(grep -c "^$1" $serial || true) >= $2))
}

step "it boots"
install -m 0644 "$share/guest/unplug.img" "$images/unplug.img"
cat >/run/virt-mdev-test.xml <<XML
<domain type='qemu'>
  <name>vm3</name>
  <uuid>$(domain_uuid vm3)</uuid>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$images/unplug.img'/><target dev='vda' bus='virtio'/><readonly/></disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='$serial'/></serial>
  </devices>
</domain>
XML
virsh -q define /run/virt-mdev-test.xml
start vm3
wait_for 120 "the guest to be ready" told ready 1

step "it lets go of what is taken from it"
for round in 1 2; do
    said=$(virt-mdev attach vm3 "Dual port serial")
    echo "$said"
    attached vm3
    runs_with vm3 "$device"
    wait_for 60 "the guest to see it" told came "$round"
    said=$(virt-mdev detach vm3 "$device" --wait 120)
    echo "$said"
    contains "what detach said in round $round" "$said" "vm3: detached, destroy $device"
    released vm3 "$device"
    equal "what its metadata says" '' "$(virsh -q metadata vm3 urn:virt-mdev:domain:1 --live 2>/dev/null || true)"
    wait_for 60 "the guest to see it go" told went "$round"
done

step "unplugged behind our back, it is reconcile's"
said=$(virt-mdev attach vm3 mtty-2)
attached vm3
wait_for 60 "the guest to see it" told came 3
virsh -q dumpxml vm3 --xpath '//hostdev' >/run/virt-mdev-test.hostdev
virsh -q detach-device vm3 /run/virt-mdev-test.hostdev --live
# shellcheck disable=SC2016
wait_for 120 "QEMU to let go" bash -c '! virsh -q dumpxml vm3 | grep -q hostdev'
reconciled "destroy $device"
released vm3 "$device"
step "somebody else's device, unplugged behind our back, another domain may have"
destroy vm3
device=$(uuid 3)
by_hand mtty/mdev_supported_types/mtty-2 "$device"
new_domain vm4
device "$device" 'type="mtty-2" parent="mtty"'
define
echo "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='$device'/></source></hostdev>" \
    >/run/virt-mdev-test.hostdev
virsh -q attach-device vm3 /run/virt-mdev-test.hostdev --config
: >$serial
start vm3
runs_with vm3 "$device"
refused vm4 "$device"
wait_for 120 "the guest to be ready" told ready 1
virsh -q detach-device vm3 /run/virt-mdev-test.hostdev --live
# shellcheck disable=SC2016
wait_for 120 "QEMU to let go" bash -c '! virsh -q dumpxml vm3 | grep -q hostdev'
start vm4
runs_with vm4 "$device"
destroy vm3
runs_with vm4 "$device"
destroy vm4
exists "$devices/$device"
remove_by_hand "$device"
virsh -q undefine vm4
virsh -q undefine vm3
rm "$images/unplug.img"
