# limit: 840 seconds
# udev deals with a node anew, because somebody asks for it, while domains start, run
# and end: whose QEMU needs the node has it at every moment.
device=$(uuid 1)
link=/dev/vfio/by-mdev/$device
foreign=/run/udev/rules.d/99-virt-mdev-test.rules
qemu=$(qemu_owner)
before=$(baseline)

property() { # NODE NAME
    udevadm info --query=property --property="$2" --value "$1"
}

trigger() { # ACTION: udev deals with $node, to the end
    udevadm trigger --settle --action="$1" "/sys/class/vfio/${node##*/}"
}

# watched ACTION TIMES: what $node carries while udev deals with it that often, besides
# what QEMU needs. What udevadm trigger does is to write to uevent; ten in a row, here.
watched() {
    local seen watcher time
    # shellcheck disable=SC2016 # perl's own variables
    perl -e 'my ($node, $good) = @ARGV; my $looks = 0; my %wrong;
        $SIG{TERM} = sub { print "looks $looks\n", map { "wrong $_: $wrong{$_}\n" } keys %wrong; exit };
        while (1) {
            my @stat = stat $node;
            my $label = @stat ? sprintf("%d:%d %o", @stat[4, 5], $stat[2] & 07777) : "nothing";
            $looks++;
            $wrong{$label}++ unless $label eq $good;
        }' "$node" "$qemu 600" >/run/virt-mdev-test.watch 3>&- &
    watcher=$!
    for ((time = 1; time <= $2; time++)); do
        echo "$1" >"/sys/class/vfio/${node##*/}/uevent"
        ((time % 10)) || udevadm settle
    done
    kill "$watcher"
    wait "$watcher" || true
    seen=$(cat /run/virt-mdev-test.watch)
    rm /run/virt-mdev-test.watch
    [[ $seen =~ ^looks\ [0-9]{4,}$ ]] || fail "what $node carried during $2 times $1: $seen"
    equal "label of $node" "$qemu 600" "$(label_of "$node")"
    counted "udev: $2 times $1 on the node of a running domain, ${seen#looks } looks, none with another label"
}

step "udev takes the rule as it is"
# Since systemd 254.
! udevadm verify --help >/dev/null 2>&1 || udevadm verify /usr/lib/udev/rules.d/60-virt-mdev.rules

step "a device of nobody's has its link and its uuid, and no domain"
by_hand mtty/mdev_supported_types/mtty-2 "$device"
udevadm settle
node=$(node_of "$device")
equal "the link" "$node" "$(readlink -f "$link")"
equal "VIRT_MDEV_UUID" "$device" "$(property "$node" VIRT_MDEV_UUID)"
equal "VIRT_MDEV_DOMAIN" '' "$(property "$node" VIRT_MDEV_DOMAIN)"
equal "label" '0:0 600' "$(label_of "$node")"
remove_by_hand "$device"
udevadm settle
missing /dev/vfio/by-mdev

step "the name of a domain, whatever is in it, is one property"
new_domain "\"q' \$env{ACTION} %k \\"
wants "$device" 'type="mtty-2" parent="mtty"'
xml >/run/virt-mdev-test.xml
hook x prepare begin - </run/virt-mdev-test.xml
node=$(node_of "$device")
equal "VIRT_MDEV_DOMAIN" "$domain" "$(property "$node" VIRT_MDEV_DOMAIN)"
equal "properties of ours" $'VIRT_MDEV_DOMAIN\nVIRT_MDEV_UUID' \
    "$(udevadm info --query=property "$node" | sed -n 's/^\(VIRT_MDEV_[^=]*\)=.*/\1/p' | sort)"
hook x release end shutdown </run/virt-mdev-test.xml
equal "devices, claims and records" "$before" "$(baseline)"

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define

step "a domain that runs: 200 times"
start vm1
node=$(node_of "$device")
equal "the link" "$node" "$(readlink -f "$link")"
equal "VIRT_MDEV_DOMAIN" vm1 "$(property "$node" VIRT_MDEV_DOMAIN)"
watched add 100
watched change 100

step "a rule of somebody else gives the node away: it is given back at once"
mkdir -p "${foreign%/*}"
echo 'SUBSYSTEM=="vfio", OWNER="daemon", GROUP="sys", MODE="0440"' >"$foreign"
udevadm control --reload
for action in add change add change; do
    trigger "$action"
    # Its group may read it then; what counts is that QEMU, its owner, can open it.
    equal "label of $node after $action" "$qemu 640" "$(label_of "$node")"
done
journalctl --sync
contains "the journal" "$(journalctl -o cat -t virt-mdev VIRT_MDEV_DOMAIN=vm1)" \
    "label $node of $device again: owner $qemu, mode 0640"
runs_with vm1 "$device"
destroy vm1
released vm1 "$device"
udevadm settle
missing "$link"

# triggers EVENT: a script of libvirt's, after ours in order, has udev add the node
# anew at that event, and writes down what the node carries then.
triggers() {
    cat >"$hooks/90-virt-mdev-test" <<HOOK
#!/bin/sh
[ "\$2" = $1 ] || exit 0
node=\$(basename "\$(readlink $devices/$device/iommu_group)")
udevadm trigger --settle --action=add "/sys/class/vfio/\$node"
stat -c '%u:%g %a' "/dev/vfio/\$node" >$witness_log
HOOK
    chmod +x "$hooks/90-virt-mdev-test"
}

step "dynamic_ownership = 0, and that rule: the node is added anew before and after our start"
qemu_conf 'dynamic_ownership = 0'
triggers prepare
start vm1
equal "label before our start" "$(id -u daemon):$(getent group sys | cut -d: -f3) 440" "$(cat "$witness_log")"
equal "label of the node" "$qemu 640" "$(label_of "$(node_of "$device")")"
destroy vm1
released vm1 "$device"
triggers start
start vm1
equal "label when QEMU opens it" "$qemu 640" "$(cat "$witness_log")"
claimed vm1 "$device"
destroy vm1
released vm1 "$device"

step "the same without our rule: QEMU cannot open its device"
ln -s /dev/null /run/udev/rules.d/60-virt-mdev.rules
udevadm control --reload
refused vm1 'Permission denied' /dev/vfio/
released vm1 "$device"
rm "$foreign" /run/udev/rules.d/60-virt-mdev.rules "$hooks/90-virt-mdev-test" "$witness_log"
udevadm control --reload
qemu_conf ''
virsh -q undefine vm1
