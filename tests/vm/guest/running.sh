# How the host runs scenarios: sourced by runner and again.
# shellcheck shell=bash

: "${share:=/share}"
package=$share/package/virt-mdev.deb
# Hosts of one kind have the share in common; each is of another lane.
lane=$(sed -n 's/.* virt_mdev.lane=\([^ ]*\).*/\1/p' /proc/cmdline)
# Where a host of a pair has it.
address=$(sed -n 's/.* virt_mdev.address=\([^ ]*\).*/\1/p' /proc/cmdline)
export lane address
results=$share/results.$lane
limit=600 # seconds for one scenario, unless it says otherwise

result() {
    echo "$*" >>"$results"
}

# On the modular host: the daemon of tests/vm/virtqemud with its units and its profile, and libvirtd's no more.
install_virtqemud() {
    local units=(virtqemud.service virtqemud.socket virtqemud-ro.socket virtqemud-admin.socket) from=$share/virtqemud
    [[ -d $from ]] || return 0
    systemctl stop "${units[@]/virtqemud/libvirtd}"
    systemctl --quiet mask "${units[@]/virtqemud/libvirtd}"
    # Debian builds clients that ask for libvirtd's socket.
    printf '%s\n' 'remote_mode = "direct"' 'uri_default = "qemu:///system"' >>/etc/libvirt/libvirt.conf
    cp "$from/virtqemud" /usr/sbin/
    cp "$from/usr.sbin.virtqemud" /etc/apparmor.d/
    cp "${units[@]/#/$from/}" /usr/lib/systemd/system/
    apparmor_parser --replace /etc/apparmor.d/usr.sbin.virtqemud
    systemctl daemon-reload
    systemctl --quiet enable --now "${units[@]:1}"
} >"$share/logs/virtqemud.$lane.log" 2>&1

# Of a pair: an address, a name of its own, and a daemon that the other one reaches.
join_pair() {
    local interface
    [[ -n $address ]] || return 0
    modprobe virtio_net
    until interface=$(ls -d /sys/class/net/e*); do sleep 0.2; done
    ip address add "$address/24" dev "${interface##*/}"
    ip link set "${interface##*/}" up
    echo "host-${address##*.}" >/proc/sys/kernel/hostname
    echo "$address host-${address##*.}" >>/etc/hosts
    echo 'auth_tcp = "none"' >>/etc/libvirt/libvirtd.conf
    systemctl stop libvirtd.service
    systemctl start libvirtd-tcp.socket
} >"$share/logs/pair.$lane.log" 2>&1

install_package() {
    local log=$share/logs/install.$lane.log
    # apt's own user cannot read the share; a copy in /run it can.
    cp "$package" /run/virt-mdev-test.deb
    if ! DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --reinstall --allow-downgrades /run/virt-mdev-test.deb >"$log" 2>&1; then
        result "not ok - install the package: apt-get failed: $(grep -m1 -E '^(E:|dpkg: error)' "$log") (see logs/install.$lane.log)"
        return 1
    fi
    # It would do what a scenario is about to look at, at a moment of its own.
    systemctl --quiet stop virt-mdev-reconcile.timer 2>/dev/null
    install_policy
}

# A scenario that ended half way may have taken away what the next ones need.
mend_package() {
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' virt-mdev 2>/dev/null) != ii* ||
        $(readlink /etc/libvirt/hooks/qemu.d/50-virt-mdev) != /usr/bin/virt-mdev-hook ||
        ! -x /usr/bin/virt-mdev-hook ]] || return 0
    install_package
    systemctl restart "$(cat "$share/daemon").service"
}

# On a host with SELinux: our module, as whoever has built it would install it.
install_policy() {
    local log=$share/logs/policy.$lane.log
    selinuxenabled || return 0
    # -D: nothing is denied silently.
    if ! { semodule -D -i "$share/package/virt_mdev.pp" &&
        restorecon -RFv /usr/bin/virt-mdev* /usr/lib/udev/virt-mdev* /usr/lib/systemd/system/virt-mdev* /run/virt-mdev; } >"$log" 2>&1; then
        result "not ok - install the SELinux module: $(tail -n1 "$log") (see logs/policy.$lane.log)"
        return 1
    fi
}

# The name of the next one that nobody has taken yet, which is taken: of two who
# rename a file, one succeeds.
next_scenario() {
    local file
    for file in "$share"/queue/*; do
        name=${file##*/} name=${name#*-}
        if mv "$file" "$share/taken/" 2>/dev/null; then return; fi
    done
    return 1
}

# Runs one scenario in a shell of its own, checks that it left nothing behind,
# and reports one line. What it printed is in /share/logs/NAME.log.
run_scenario() {
    local name=$1 log=$share/logs/$1.log began=$EPOCHSECONDS status reason own_limit counted
    own_limit=$(sed -n 's/^# limit: \([0-9]*\) seconds.*/\1/p' "$share/scenarios/$name.sh")
    own_limit=$((${own_limit:-$limit} * $(cat "$share/soak")))

    timeout --kill-after=10 "$own_limit" \
        bash "$share/guest/scenario" "$name" </dev/null >"$log" 2>&1
    status=$?

    case $status in
    0) outcome=ok reason= ;;
    77) outcome=skipped reason=$(sed -n 's/^SKIPPED: //p' "$log" | tail -n1) ;;
    124 | 137) outcome='not ok' reason="not finished after $own_limit s" ;;
    *)
        outcome='not ok' reason=$(sed -n 's/^FAILED: //p' "$log" | head -n1)
        # The shell's own complaint, of an unset variable for one.
        : "${reason:=$(tail -n1 "$log") (exit status $status)}"
        ;;
    esac

    if ! timeout 180 bash "$share/guest/nothing-left" >>"$log" 2>&1; then
        # What went wrong first is the better reason.
        [[ $outcome == 'not ok' ]] || reason="left behind: $(sed -n 's/^LEFT: //p' "$log" | paste -sd';')"
        outcome='not ok'
    fi
    if [[ $outcome == 'not ok' ]]; then
        circumstances "$began" >>"$log" 2>&1
    fi
    timeout 180 bash "$share/guest/clean-up" >>"$log" 2>&1
    [[ $outcome != 'not ok' ]] || mend_package

    # What it has counted, each on a line of its own.
    while read -r counted; do result "$counted"; done < <(sed -n 's/^COUNT: //p' "$log")
    case $outcome in
    skipped) result "skipped - $name: $reason" ;;
    *) result "$outcome - $name ($((EPOCHSECONDS - began)) s)${reason:+: $reason}" ;;
    esac
}

# What one wants to see of a host on which a scenario failed.
circumstances() {
    local began=$1 log
    echo
    echo "--- state after the failure"
    find /run/virt-mdev /sys/bus/mdev/devices -mindepth 1 -printf '%p %l\n'
    find /run/virt-mdev/domains -type f -exec tail -n +1 {} +
    virsh list --all
    echo "--- journal"
    journalctl --no-pager -o short-precise --since "@$began" | tail -n 150
    for log in /var/log/libvirt/qemu/*.log; do
        [[ -e $log ]] || continue
        echo "--- $log"
        tail -n 30 "$log"
    done
}
