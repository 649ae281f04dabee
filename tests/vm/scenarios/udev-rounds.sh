# limit: 1200 seconds
# A device that has just come is udev's as much as ours. Two hundred of them are made,
# labelled and removed, ten at a time, under a udevd that runs: none loses its label.
before=$(baseline)
rounds=$((20 * $(cat "$share/soak"))) devices_each=10
saw=/run/virt-mdev-test.watch

uuids=() paths=()
new_domain vm1
for ((number = 1; number <= devices_each; number++)); do
    uuids+=("$(uuid "$number")")
    paths+=("$devices/$(uuid "$number")")
    device "$(uuid "$number")" 'type="mtty-1" parent="mtty"'
done
plain=$(xml)

# their_nodes: the nodes of all devices, as they are numbered this time; a device has one of
# its own besides its group's where the kernel makes them.
their_nodes() {
    local path own
    readlink "${paths[@]/%//iommu_group}" | sed 's|.*/|/dev/vfio/|'
    for path in "${paths[@]}"; do
        for own in "$path"/vfio-dev/vfio*; do
            [[ ! -e /dev/vfio/devices/${own##*/} ]] || echo "/dev/vfio/devices/${own##*/}"
        done
    done
}

# watch LABEL NODE...: until it is ended, every look that finds another label.
watch() {
    rm -f "$saw"
    # shellcheck disable=SC2016 # perl's own variables
    perl -e '$| = 1; my $good = shift; my ($looks, $run, %wrong) = (0, 1);
        $SIG{TERM} = sub { $run = 0 };
        print "looks\n";
        do {
            for my $node (@ARGV) {
                my @stat = stat $node;
                my $label = @stat ? sprintf("%d:%d %o", @stat[4, 5], $stat[2] & 07777) : "nothing";
                $wrong{"$node carried $label"}++ unless $label eq $good;
            }
            $looks++;
            select undef, undef, undef, 0.002;
        } while $run;
        print "$looks\n", map { "$_, $wrong{$_} times\n" } sort keys %wrong' "$@" >"$saw" 3>&- &
    watcher=$!
    # Else it may be ended before it can be.
    until [[ -s $saw ]]; do sleep 0.01; done
}

# watched: the watch is over; how often it has looked is left in $seen, with what was wrong.
watched() {
    kill "$watcher"
    wait "$watcher"
    seen=$(sed 1d "$saw")
    rm "$saw"
}

# labelled OWNER: all that comes before QEMU, for a domain of that owner's.
labelled() {
    local label="<seclabel type='dynamic' model='dac' relabel='yes'><label>+${1/:/:+}</label></seclabel>"
    hook vm1 prepare begin - <<<"$plain"
    exists "${paths[@]}"
    mapfile -t nodes < <(their_nodes)
    ((${#nodes[@]} >= devices_each)) || fail "nodes of round $round: ${nodes[*]}"
    equal "labels before the start of round $round" '0:0 600' "$(stat -c '%u:%g %a' "${nodes[@]}" | sort -u)"
    hook vm1 start begin - <<<"${plain/'</domain>'/"$label</domain>"}"
    watch "$1 600" "${nodes[@]}"
}

# taken_away: the release. What it leaves is another failure than a label that was lost.
taken_away() {
    local began=${EPOCHREALTIME/./} left
    hook vm1 release end shutdown <<<"$plain"
    took=$(((${EPOCHREALTIME/./} - began) / 1000))
    left=("$devices"/* "$state"/devices/*)
    [[ ${#left[@]} -eq 0 ]] ||
        fail "round $round: labels were right; after $took ms the release left ${left[*]}: $(jq -c '.steps[].why' "$(record_of vm1)" | sort | uniq -c)"
    missing "$(record_of vm1)"
}

# The daemon looks at each new device for seconds, and runs mdevctl for it.
systemctl stop "$daemon.service" "${sockets[@]}"
udevadm control --ping
user=$(id -u libvirt-qemu) looks=0 slowest=0
groups=("$(getent group libvirt-qemu | cut -d: -f3)" "$(getent group kvm | cut -d: -f3)")

step "$rounds rounds of $devices_each devices"
for ((round = 1; round <= rounds; round++)); do
    # Not twice the same: a label of the round before is a wrong one.
    labelled "$user:${groups[round % 2]}"
    udevadm settle
    hook vm1 started begin - <<<"$plain"
    links=(/dev/vfio/by-mdev/*)
    equal "links of udev's in round $round" "$devices_each" "${#links[@]}"
    hook vm1 stopped end - <<<"$plain"
    watched
    [[ $seen =~ ^[0-9]+$ ]] || fail "label lost in round $round, in so many looks: $seen"
    looks=$((looks + seen))
    taken_away
    ((took <= slowest)) || slowest=$took
    ((round % 10)) || step "after round $round"
done

step "one that is lost is seen"
labelled "$user:${groups[0]}"
chgrp kvm "${nodes[4]}"
sleep 0.1
chown "$user:${groups[0]}" "${nodes[4]}"
watched
contains "what the watcher saw" "$seen" "${nodes[4]} carried $user:${groups[1]} 600, "
taken_away

systemctl start "${sockets[@]}"
udevadm settle
missing /dev/vfio/by-mdev
equal "devices, claims and records" "$before" "$(baseline)"
counted "udev: $((rounds * devices_each)) devices made, labelled and removed, ten at a time; $looks looks at each ten's nodes, no label lost; the slowest release $slowest ms"
