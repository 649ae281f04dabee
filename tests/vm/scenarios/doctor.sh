# limit: 800 seconds; many starts under emulation
# doctor: nothing on a healthy host; each thing that is wrong, with its fix; and what
# is safe is mended.
device=$(uuid 1)
link=/etc/libvirt/hooks/qemu.d/50-virt-mdev
healthy="Nothing found that would keep a domain from its devices."

# finds PART...: doctor fails, and what it says contains every part.
finds() {
    local found
    found=$(virt-mdev doctor 2>/dev/null) && fail "virt-mdev doctor: expected it to find something, it said: $found"
    echo "$found"
    contains "what doctor finds" "$found" "$@"
}

fixes() { # PART...
    local said
    echo "+ virt-mdev doctor --fix"
    said=$(virt-mdev doctor --fix 2>&1) || fail "virt-mdev doctor --fix: expected all to be well, it said: $said"
    echo "$said"
    contains "what doctor --fix says" "$said" "$@" "$healthy"
}

step "a healthy host, with a domain that has its device and one that is to get one"
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
wake_libvirt >/dev/null
equal "virt-mdev doctor" "$healthy" "$(virt-mdev doctor)"
start vm1
equal "virt-mdev doctor" "$healthy" "$(virt-mdev doctor)"
destroy vm1

step "a daemon that was started without a hook"
mv "$link" /run/virt-mdev-test.link
systemctl restart "$daemon.service"
finds "libvirt does not call virt-mdev: $link is not there" "ln -sfT /usr/bin/virt-mdev-hook $link"
mv /run/virt-mdev-test.link "$link"
touch -h "$link"
finds "$daemon was started before there was a hook" "kill -HUP \$(cat /run/$daemon.pid) && touch /run/virt-mdev.told"
virsh -q start vm1 2>/dev/null && fail "vm1: expected the daemon not to know of the hook"
fixes "fixed: $daemon was started before there was a hook"
start vm1
runs_with vm1 "$device"
destroy vm1

step "the link is gone: it is made again"
rm "$link"
fixes "fixed: libvirt does not call virt-mdev"
equal "the hook" /usr/bin/virt-mdev-hook "$(readlink "$link")"
start vm1
destroy vm1

if ! selinuxenabled; then
    step "a program that the daemon's profile does not let it run"
    install -D -m 0755 /usr/bin/virt-mdev-hook /usr/libexec/virt-mdev-test/virt-mdev-hook
    ln -sf /usr/libexec/virt-mdev-test/virt-mdev-hook "$link"
    finds "AppArmor does not let libvirt's daemon run /usr/libexec/virt-mdev-test/virt-mdev-hook"
    ln -sf /usr/bin/virt-mdev-hook "$link"
    rm -r /usr/libexec/virt-mdev-test
fi

step "a main script of somebody else's, which reads its stdin to the end: ours has its own"
main=/etc/libvirt/hooks/qemu
cat >"$main" <<SH
#!/bin/sh
cat >/run/virt-mdev-test.said
SH
chmod +x "$main"
start vm1
runs_with vm1 "$device"
contains "what it has read" "$(cat /run/virt-mdev-test.said)" "<name>vm1</name>"
destroy vm1
released vm1 "$device"
equal "virt-mdev doctor" "$healthy" "$(virt-mdev doctor)"

step "one that then runs what is in qemu.d, as libvirt does"
cat >>"$main" <<'SH'
for script in /etc/libvirt/hooks/qemu.d/*; do "$script" "$@" || exit; done
SH
finds "$main runs the scripts in qemu.d too" "take that out of $main"
refused vm1 "error: vm1: "
rm "$main"
start vm1
destroy vm1

step "a module of VFIO's is not loaded"
modprobe -r vfio_iommu_type1
finds "the kernel's module vfio_iommu_type1 is not loaded" "modprobe vfio_iommu_type1" \
    "echo vfio_iommu_type1 >/etc/modules-load.d/vfio_iommu_type1.conf"
fixes "fixed: the kernel's module vfio_iommu_type1 is not loaded"
exists /sys/module/vfio_iommu_type1
start vm1
runs_with vm1 "$device"
destroy vm1

step "a node that QEMU could not open"
chmod 0600 /dev/vfio/vfio
finds "/dev/vfio/vfio has the mode 0600"
fixes "fixed: /dev/vfio/vfio has the mode 0600"
equal "mode of /dev/vfio/vfio" 666 "$(stat -c %a /dev/vfio/vfio)"

step "domains: a clone, a type and a parent that are not there"
new_domain vm2
device "$device" 'type="mtty-2" parent="mtty"'
define
new_domain vm3
device "$(uuid 3)" 'type="mtty-9" parent="mtty"'
define
new_domain vm4
device "$(uuid 4)" 'type="mtty-1" parent="0000:86:00.0"'
define
finds "vm1 and vm2 have the same device, $device" "virt-mdev assign --fresh vm2" \
    'problem: vm3: type "mtty-9" is not offered by mtty' 'problem: vm4: no parent 0000:86:00.0 on this host'
for name in vm2 vm3 vm4; do virsh -q undefine "$name"; done

step "switched off"
configure 'enabled = false'
finds "enabled = false" "no domain gets its devices"
configure ''
equal "virt-mdev doctor" "$healthy" "$(virt-mdev doctor)"
virsh -q undefine vm1
