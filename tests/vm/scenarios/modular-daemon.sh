# limit: 1200 seconds; dpkg and systemctl daemon-reload are slow under emulation
# Where libvirt's daemons are modular, virtqemud has QEMU's domains. Debian packages the
# monolithic one only: a unit of that name stands in, of the same program under that
# name, with the pid file of a virtqemud. AppArmor's profile is not for it, and libvirt
# does not confine its domains then.
device=$(uuid 1)
link=$hooks/50-virt-mdev
healthy="Nothing found that would keep a domain from its devices."

# has_it: QEMU has the device open.
has_it() {
    equal "state of vm1" running "$(state_of vm1)"
    [[ -n $(find "/proc/$(qemu_pid vm1)/fd" -lname "$(node_of "$device")") ]] || fail "expected QEMU to have $device open"
    claimed vm1 "$device"
}

# at_work: a domain gets its device from the daemon that runs, and gives it back.
at_work() {
    start vm1
    has_it
    destroy vm1
    released vm1 "$device"
}

# unaware: the daemon was started without a hook, and has been told of none since.
unaware() {
    mv "$link" /run/virt-mdev-test.link
    systemctl restart virtqemud.service
    mv /run/virt-mdev-test.link "$link"
    touch -h "$link"
    found=$(virt-mdev doctor 2>/dev/null) && fail "virt-mdev doctor: expected it to find something, it said: $found"
    echo "$found"
    contains "what doctor finds" "$found" "problem: virtqemud was started before there was a hook"
    refused vm1 "device not found"
}

step "virtqemud instead of libvirtd"
modular
wake_libvirt >/dev/null # its own unit lets it end when it is idle
equal "the daemon's name" virtqemud "$(cat "/proc/$(cat /run/virtqemud.pid)/comm")"
equal "units of libvirtd that are active" '' "$(systemctl list-units --no-legend --state=active 'libvirtd*')"
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define

step "the package tells it, when it is installed"
dpkg --purge virt-mdev
systemctl restart virtqemud.service
refused vm1 "device not found"
dpkg -i /run/virt-mdev-test.deb
systemctl stop virt-mdev-reconcile.timer # as the other scenarios have it
at_work
equal "virt-mdev doctor" "$healthy" "$(virt-mdev doctor)"

step "doctor sees that it was not told, and --fix tells it"
unaware
said=$(virt-mdev doctor --fix 2>&1) || fail "virt-mdev doctor --fix: expected all to be well, it said: $said"
contains "what doctor --fix says" "$said" "fixed: virtqemud was started before there was a hook" \
    "told virtqemud (pid $(cat /run/virtqemud.pid))" "$healthy"
at_work

step "the command that doctor prints does it, too"
unaware
command=$(sed -n 's/^fix: \(kill .*\)/\1/p' <<<"$found")
contains "the command" "$command" "kill -HUP \$(cat /run/virtqemud.pid)"
echo "+ $command"
eval "$command"
at_work
equal "virt-mdev doctor" "$healthy" "$(virt-mdev doctor)"

step "it is restarted under a domain"
start vm1
qemu=$(qemu_pid vm1)
systemctl restart virtqemud.service
has_it
equal "pid of QEMU" "$qemu" "$(qemu_pid vm1)"
equal "virt-mdev doctor" "$healthy" "$(virt-mdev doctor)"
destroy vm1
released vm1 "$device"

virsh -q undefine vm1
monolithic
