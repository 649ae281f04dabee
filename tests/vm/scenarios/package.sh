# limit: 1200 seconds; dpkg and systemctl daemon-reload are slow under emulation
# The package's life: every step of dpkg, under a daemon and a domain that run.
deb=/run/virt-mdev-test.deb
device=$(uuid 1)

export DEBIAN_FRONTEND=noninteractive

apt() {
    echo "+ apt-get $*"
    apt-get -qq -o Dpkg::Use-Pty=0 "$@"
}

install() {
    apt install "$@" "$deb"
}

# The whole file system, with kinds, modes, owners and where links lead, except what belongs to dpkg, systemd and libvirt
# at work, and to the tests.
listing() {
    find / \( -path /proc -o -path /sys -o -path /dev -o -path /share -o -path /root -o -path /tmp \
        -o -path /var/tmp -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache/apt \
        -o -path /var/lib/systemd -o -path /var/log -o -path /run/systemd -o -path /run/udev \
        -o -path /run/libvirt -o -path /run/virtlogd.pid -o -path /var/lib/libvirt -o -path /var/cache/libvirt \
        -o -path /run/log -o -path '/run/virt-mdev-test*' -o -path '/etc/apparmor.d/libvirt/*' -o -path /etc/libvirt/qemu \
        -o -path /var/cache/ldconfig -o -path /run/lock -o -path /run/user \) -prune \
        -o -printf '%p %M %U:%G %l\n' | sort
}

# The hook is at work: a domain gets its device, and takes it away. The running udevd
# has our rule.
works() {
    new_domain vm1
    device "$device" 'type="mtty-2" parent="mtty"'
    define
    start vm1
    runs_with vm1 "$device"
    exists "/dev/vfio/by-mdev/$device"
    destroy vm1
    released vm1 "$device"
    virsh -q undefine vm1
}

# orphan: the device outlives its release, because another user's process has it open.
orphan() {
    configure 'wait.release = "100ms"'
    new_domain vm1
    device "$device" 'type="mtty-2" parent="mtty"'
    xml >/run/virt-mdev-test.xml
    hook vm1 prepare begin - </run/virt-mdev-test.xml
    chown libvirt-qemu "$(node_of "$device")" # as libvirt does for QEMU
    open_device "$device" libvirt-qemu
    hook vm1 release end shutdown </run/virt-mdev-test.xml
    exists "$devices/$device"
    mv /run/virt-mdev-test.config /etc/virt-mdev/config.toml
}

step "a daemon that had no hook when it started"
apt purge virt-mdev
missing /usr/bin/virt-mdev /usr/bin/virt-mdev-hook "$hooks/50-virt-mdev" /etc/virt-mdev "$state"
equal "hooks of libvirt" '' "$(find /etc/libvirt/hooks -mindepth 1 ! -type d)"
clean=$(listing)
systemctl restart "$daemon.service"
wake_libvirt >/dev/null
new_domain bystander # is there through all of this, its firmware not at work
define
start bystander
virsh -q suspend bystander
bystander=$(qemu_pid bystander)

step "install"
install
exists /usr/bin/virt-mdev /etc/virt-mdev/config.toml
equal "the directory of records" '755 0:0' "$(stat -c '%a %u:%g' "$state")"
equal "what is in it" '' "$(find "$state" -mindepth 1)"
equal "the link in qemu.d" /usr/bin/virt-mdev-hook "$(readlink "$hooks/50-virt-mdev")"

step "the directory of records is made at boot, and by the hook where it is not there"
rm -r "$state"
equal "what systemd-tmpfiles says" '' "$(systemd-tmpfiles --create --boot --prefix=/run/virt-mdev 2>&1)"
equal "the directory of records" '755 0:0' "$(stat -c '%a %u:%g' "$state")"
rmdir "$state"
works # the running daemon calls the hook

step "its units are enabled, the timer runs, and the service can do its work"
units=(virt-mdev-reconcile.service virt-mdev-reconcile.timer)
equal "units enabled" $'enabled\nenabled' "$(systemctl is-enabled "${units[@]}")"
equal "the timer" active "$(systemctl is-active virt-mdev-reconcile.timer)"
# The host has no man to look the documentation up with.
equal "what systemd-analyze says of the units" '' "$(systemd-analyze --man=no verify "${units[@]}" virt-mdev-autostart@mtty.service 2>&1)"
# Out of 10.0; what stands in the units says why it is not less.
systemd-analyze --no-pager security --threshold=55 virt-mdev-reconcile.service virt-mdev-autostart@mtty.service >/dev/null ||
    fail "systemd-analyze security: expected an exposure of at most 5.5 of each unit"
# Locked up as it is, it sees that somebody else has the device open, who that is, and can remove it.
orphan
reconcile_unit "left $device" "in use by perl (pid $holder)"
exists "$devices/$device"
end_holder
reconcile_unit "vm1: destroy $device"
released vm1 "$device"
# Without anything recorded it is not even started, and is no failure.
systemctl start virt-mdev-reconcile.service
equal "whether it ran with nothing to do" no "$(systemctl show -P ConditionResult virt-mdev-reconcile.service)"
systemctl stop virt-mdev-reconcile.timer # as the other scenarios have it

step "reinstall: what somebody configured stays"
echo 'enabled = true # by hand' >/etc/virt-mdev/config.toml
new_domain vm2 # with a device while the package is exchanged
device "$(uuid 2)" 'type="mtty-2" parent="mtty"'
define
start vm2
install --reinstall
equal "the configuration" 'enabled = true # by hand' "$(cat /etc/virt-mdev/config.toml)"
runs_with vm2 "$(uuid 2)"
claimed vm2 "$(uuid 2)"
destroy vm2
released vm2 "$(uuid 2)"
virsh -q undefine vm2

# Of the units it is Debian's custom that what enables them goes with the purge.
step "remove: only the configuration stays"
apt remove virt-mdev
equal "what is left" "$(printf '%s\n' \
    /etc/systemd/system/{multi-user.target.wants/virt-mdev-reconcile.service,timers.target.wants/virt-mdev-reconcile.timer} \
    /etc/virt-mdev /etc/virt-mdev/config.toml)" \
    "$(comm -13 <(echo "$clean") <(listing) | cut -d' ' -f1)"
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
refused vm1 "device not found"
virsh -q undefine vm1

step "purge: nothing stays"
apt purge virt-mdev
equal "units that are left" '' "$(systemctl list-unit-files --no-legend 'virt-mdev*' | grep -v '^virt-mdev-test' || true)"
equal "units that are loaded" '' "$(systemctl list-units --all --no-legend 'virt-mdev-reconcile*')"
equal "what is left" '' "$(comm -13 <(echo "$clean") <(listing))"
equal "what is missing" '' "$(comm -23 <(echo "$clean") <(listing))"

step "install again: the running daemon sees it again"
install
new_domain vm1
device "$device" 'type="mtty-9" parent="mtty"'
define
refused vm1 "error: vm1: " mtty-9 # our sentence, so the hook was called
virsh -q undefine vm1
equal "pid of the bystander's QEMU" "$bystander" "$(qemu_pid bystander)"
destroy bystander
virsh -q undefine bystander
