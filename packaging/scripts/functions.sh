# shellcheck shell=sh
# What a package does when it comes and goes, the same in all formats: this file is put into their scripts
# (packaging/debian/rules, packaging/rpm/virt-mdev.spec, `make arch`). Nothing here may fail: neither an installation nor a
# removal ends half way because of a daemon or a record.

# A libvirt daemon that started without any hook does not look for one again until it is told. An upgrade finds the hook
# in place, so only the first installation leaves this mark. It lies in /run because a daemon started after a reboot has
# seen the hook.
virt_mdev_comes() {
    touch /run/virt-mdev.new-hook || true
}

# virt_mdev_tell DAEMON: makes one that runs already look for hooks; its domains do not notice. One that does not run sees
# the hook when it starts. The signal goes straight to the daemon: 'systemctl reload libvirtd' has been seen to report
# failure although the daemon took it, and not every host has systemd.
virt_mdev_tell() {
    pid=$(cat "/run/$1.pid" 2>/dev/null) || return 0
    # A stale file must not hit another process, and one that is only starting would die of the signal.
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] && grep -q '^SigCgt:.*[13579bdf]$' "/proc/$pid/status"; then
        # While it begins it drops the signal (daemonReloadHandler); it answers once it has begun.
        timeout 20 virsh -q -c qemu:///system uri >/dev/null 2>&1 </dev/null || true
        if kill -HUP "$pid"; then
            touch /run/virt-mdev.told || true # for virt-mdev doctor
        else
            echo "virt-mdev: restart $1, so that it sees the hook of virt-mdev" >&2
        fi
    fi
}

# udevd looks for new rules at an event, but not more often than every few seconds, and not every distribution tells it.
# A machine without a running udevd is none of our business.
virt_mdev_reload_udev() {
    [ ! -e /run/udev/control ] || udevadm control --reload || true
}

virt_mdev_is_there() {
    if [ -e /run/virt-mdev.new-hook ]; then
        virt_mdev_tell libvirtd
        virt_mdev_tell virtqemud
        rm -f /run/virt-mdev.new-hook || true
    else
        # The daemon that runs has known the hook of the version before.
        touch /run/virt-mdev.told || true
    fi
    # Those of an older version may be read by all, and whoever can read one can lock it.
    chmod -f 600 /run/virt-mdev/locks/* || true
    virt_mdev_reload_udev
}

# The records are all that says which devices are ours. While there is one, /run/virt-mdev stays as it is and a later
# installation takes it up again; without any, what is left there is lock files and empty directories.
virt_mdev_has_gone() {
    kept=
    # Also what was set aside because nobody understood it: it is for whoever wants to know what it was.
    for record in /run/virt-mdev/domains/*.json /run/virt-mdev/domains/*.damaged; do
        if [ -e "$record" ]; then
            domain=$(tr -d '\n' <"$record" | sed -n 's/.*"domain" *: *{[^}]*"name" *: *"\(\([^"\\]\|\\.\)*\)".*/\1/p' | LC_ALL=C grep -x '[ -~]*') || true
            echo "virt-mdev: the mediated devices of ${domain:-$record} stay; without virt-mdev nothing removes them when it stops" >&2
            kept=yes
        fi
    done
    [ "$kept" = yes ] || rm -rf /run/virt-mdev || true
    rm -f /run/virt-mdev.new-hook /run/virt-mdev.told || true
    # Else it would look for a program that has gone, for a moment.
    virt_mdev_reload_udev
}
