# limit: 1200 seconds
# Versions of the package come and go under a domain that runs: its device stays, and
# what the newer one finds in the older one's record is taken up.
deb=/run/virt-mdev-test.deb
device=$(uuid 1)

export DEBIAN_FRONTEND=noninteractive

# apt ARGUMENT...: what it said is left in $said.
apt() {
    echo "+ apt-get $*"
    said=$(apt-get -qq -o Dpkg::Use-Pty=0 "$@" 2>&1) || fail "apt-get $*: $said"
    echo "$said"
}

# version V: this very package as that version of it, with a configuration of its own.
version() {
    local tree=/run/virt-mdev-test.tree
    rm -rf "$tree"
    dpkg-deb -R "$deb" "$tree"
    sed -i "s/^Version: .*/Version: $1/" "$tree/DEBIAN/control"
    echo "# as of $1" >>"$tree/etc/virt-mdev/config.toml"
    dpkg-deb -b "$tree" "/run/virt-mdev-test.$1.deb" >/dev/null
    rm -rf "$tree"
}

installed() {
    dpkg-query -W -f '${Version}' virt-mdev
}

# stays: the domain has its device, and virt-mdev knows both.
stays() {
    runs_with vm1 "$device"
    claimed vm1 "$device"
    equal "QEMU of vm1" "$qemu" "$(qemu_pid vm1)"
}

version 0.0.1-1
version 99.0-1
ours=$(installed)

step "an older version, under which a domain starts"
apt purge virt-mdev
apt install /run/virt-mdev-test.0.0.1-1.deb
equal "version" 0.0.1-1 "$(installed)"
systemctl stop virt-mdev-reconcile.timer
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"' "$(attribute settings/first once)"
define
start vm1
qemu=$(qemu_pid vm1)
stays

step "upgraded: the configuration that nobody has touched is the new one"
apt install "$deb"
equal "version" "$ours" "$(installed)"
stays
equal "words of the older configuration" 0 "$(grep -c "as of" /etc/virt-mdev/config.toml || true)"

step "upgraded again, the domain ends under a version that did not start it"
apt install /run/virt-mdev-test.99.0-1.deb
stays
destroy vm1
released vm1 "$device"

step "downgraded while it runs: the record is read, the device stays"
start vm1
qemu=$(qemu_pid vm1)
apt install --allow-downgrades "$deb"
equal "version" "$ours" "$(installed)"
stays
destroy vm1
released vm1 "$device"

step "removed while it runs: it is named, and keeps its device and its record"
start vm1
qemu=$(qemu_pid vm1)
apt remove virt-mdev
contains "what the removal says" "$said" "virt-mdev: the mediated devices of vm1 stay"
stays

step "installed again: the record is taken up"
apt install "$deb"
systemctl stop virt-mdev-reconcile.timer
stays
destroy vm1
released vm1 "$device"

step "purged while it runs: the configuration goes, the device does not"
start vm1
qemu=$(qemu_pid vm1)
apt purge virt-mdev
contains "what the purge says" "$said" "virt-mdev: the mediated devices of vm1 stay"
missing /etc/virt-mdev
stays
destroy vm1 # and nobody is there to take its device away
exists "$devices/$device" "$(record_of vm1)"

step "installed again, after the domain has gone"
apt install "$deb"
systemctl stop virt-mdev-reconcile.timer
virt-mdev reconcile # unless the unit has done it, which the installation starts
released vm1 "$device"
virsh -q undefine vm1
rm /run/virt-mdev-test.*-1.deb
