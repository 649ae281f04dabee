# limit: 2700 seconds
# slow: a kernel boots two emulations deep
# attach and detach, of a guest with an operating system: it lets go.
serial=/var/log/libvirt/qemu/vm3.serial

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
    <serial type='file'><source path='$serial'/></serial>
  </devices>
</domain>
XML
virsh -q define /run/virt-mdev-test.xml
start vm3
wait_for 1500 "the guest's shell" grep -q initramfs $serial

step "it lets go of what is taken from it"
said=$(virt-mdev attach vm3 "Dual port serial")
echo "$said"
attached vm3
runs_with vm3 "$device"
wait_for 120 "the guest to see it" grep -q '\[4348:3253\]' $serial
said=$(virt-mdev detach vm3 "$device" --wait 300)
echo "$said"
contains "what detach said" "$said" "vm3: detached, destroy $device"
released vm3 "$device"
destroy vm3
virsh -q undefine vm3
rm "$images"/{vmlinuz,initrd}
