# host: selinux
# udev's helper asks systemd for a unit when a parent comes and when it goes, the unit
# makes what is defined to start with it, and none of them does what it may not.
definitions=/etc/mdevctl.d/mtty
unit=virt-mdev-autostart@mtty.service
one=$(uuid 1) two=$(uuid 2)

idle() {
    udevadm settle --timeout=30 && [[ -z $(systemctl list-jobs --no-legend "$unit") ]]
}

both() {
    [[ -e $devices/$one && -e $devices/$two ]]
}

step "two definitions, and nobody else who would bring them up"
mkdir -p "$definitions" /run/udev/rules.d
echo '{ "mdev_type": "mtty-2", "start": "auto", "attrs": [ { "settings/first": "once" } ] }' >"$definitions/$one"
echo '{ "mdev_type": "mtty-1", "start": "auto", "attrs": [] }' >"$definitions/$two"
ln -s /dev/null /run/udev/rules.d/60-mdevctl.rules
udevadm control --reload
configure '[udev]
autostart = true'

for time in first second; do
    step "the parent comes, the $time time"
    rmmod mtty
    wait_for 60 "udev" idle
    equal "the unit while there is no parent" inactive "$(systemctl is-active "$unit" || true)"
    modprobe mtty
    wait_for 60 "two devices" both
    wait_for 60 "udev" idle
    equal "the unit" active "$(systemctl is-active "$unit")"
    equal "how it ended" success "$(systemctl show -P Result "$unit")"
done

step "udev's word once more: nothing to do"
udevadm trigger --settle --action=add /sys/class/mdev_bus/mtty
udevadm trigger --settle --action=change /sys/class/mdev_bus/mtty
wait_for 60 "udev" idle
both || fail "expected both devices to stay"
remove_by_hand "$one" "$two"
rm "$definitions/$one" "$definitions/$two" /run/udev/rules.d/60-mdevctl.rules
rmdir "$definitions"
udevadm control --reload
systemctl stop "$unit"
udevadm settle
equal "denials" '' "$(denials)"
