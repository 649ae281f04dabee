# limit: 2700 seconds
# slow: a kernel boots two emulations deep
# attach and detach, of a guest with an operating system: it lets go.

# seen_by_guest TIMES: the guest's kernel has told of mtty's device so often.
seen_by_guest() {
    (($(grep -c '\[4348:3253\]' /var/log/libvirt/qemu/vm3.serial || true) >= $1))
}

step "it boots"
install -m 0644 /boot/vmlinuz-"$(uname -r)" "$images/vmlinuz"
install -m 0644 /boot/initrd.img-"$(uname -r)" "$images/initrd"
cat >/run/virt-mdev-test.xml <<XML
<domain type='qemu'>
  <name>vm3</name>
  <uuid>$(domain_uuid vm3)</uuid>
  <memory unit='MiB'>384</memory>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>$images/vmlinuz</kernel>
    <initrd>$images/initrd</initrd>
    <cmdline>console=ttyS0 break=top panic=0 tsc=reliable</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='/var/log/libvirt/qemu/vm3.serial'/></serial>
  </devices>
</domain>
XML
virsh -q define /run/virt-mdev-test.xml
start vm3
wait_for 1500 "the guest's shell" grep -q initramfs /var/log/libvirt/qemu/vm3.serial

step "it lets go of what is taken from it"
for round in 1 2; do
    said=$(virt-mdev attach vm3 "Dual port serial")
    echo "$said"
    attached vm3
    runs_with vm3 "$device"
    wait_for 120 "the guest to see it" seen_by_guest "$round"
    said=$(virt-mdev detach vm3 "$device" --wait 300)
    echo "$said"
    contains "what detach said in round $round" "$said" "vm3: detached, destroy $device"
    released vm3 "$device"
done

step "unplugged behind our back, it is reconcile's"
said=$(virt-mdev attach vm3 mtty-2)
attached vm3
virsh -q dumpxml vm3 --xpath '//hostdev' >/run/virt-mdev-test.hostdev
virsh -q detach-device vm3 /run/virt-mdev-test.hostdev --live
# shellcheck disable=SC2016
wait_for 300 "QEMU to let go" bash -c '! virsh -q dumpxml vm3 | grep -q hostdev'
reconciled "destroy $device"
released vm3 "$device"
destroy vm3
virsh -q undefine vm3
rm "$images"/{vmlinuz,initrd}
