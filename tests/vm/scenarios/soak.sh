# slow: a round is ten cycles, and `make soak` has hundreds of them
# limit: 300 seconds
# Domains of several kinds are started and stopped in random order, every twentieth time by
# virsh, and otherwise by whoever calls the hook as libvirt does, which takes a tenth of
# the time. At random moments the hook, whoever called it, or the process that has the
# device open is killed, or the driver is unloaded and comes back. After each cycle there
# is what there was before, and what goes on beside it has gone on. In the end nothing has
# grown: files, descriptors, what we write to the journal.
cycles=$((10 * $(cat "$share/soak")))
seed=${EPOCHREALTIME/[^0-9]/}
RANDOM=$seed
echo "seed: $seed"

# --- who is there -------------------------------------------------------------

kinds=(plain one several kept confined wrong)
declare -A its=([plain]='' [one]=$(uuid 1) [several]="$(uuid 2) $(uuid 3)" [kept]=$(uuid 4) [confined]=$(uuid 5) [argument]=$(uuid 6) [wrong]='')
neighbour=$(uuid 90) foreign=$(uuid 101)

# unconfined: libvirt's parser of AppArmor profiles takes longer than the rest of a start.
unconfined() {
    xml | sed "s|</devices>|</devices><seclabel type='none' model='apparmor'/>|" >"/run/virt-mdev-test.$domain"
    virsh -q define "/run/virt-mdev-test.$domain"
}

by_hand mbochs/mdev_supported_types/mbochs-small "$foreign"
new_domain plain
unconfined
new_domain one
device "$(uuid 1)" 'type="mtty-2" parent="mtty"' "$(attribute settings/first once)"
unconfined
new_domain several
device "$(uuid 2)" 'type="mtty-1"'
device "$(uuid 3)" 'type="mbochs-small" parent="mbochs"'
unconfined
new_domain kept
device "$(uuid 4)" 'type="mtty-2" parent="mtty" keep="yes"'
unconfined
new_domain confined
device "$(uuid 5)" 'type="mtty-2" parent="mtty"'
xml >/run/virt-mdev-test.confined
define
new_domain argument
wants "$(uuid 6)" 'type="mtty-2" parent="mtty"'
qemu_argument -device "vfio-pci,sysfsdev=$devices/$(uuid 6)"
define
new_domain wrong
device "$(uuid 7)" 'type="mtty-2" parent="mbochs"'
unconfined
found=$(virt-mdev doctor) || true
qemu_conf "$(grep '^cgroup_device_acl = ' <<<"$found")"
# A domain that runs all the time, and whose guest does nothing.
new_domain neighbour
device "$neighbour" 'type="mdpy-vga" parent="mdpy"'
unconfined
start neighbour
virsh -q suspend neighbour
claimed neighbour "$neighbour"
neighbour_pid=$(qemu_pid neighbour) kept_record=$(record_of kept)

# All that is ours or somebody's, but for the locks, udev's links, and the directory of what is awaited, which the first
# start makes that waits.
left() {
    find "$devices/" "$state" /dev/vfio -mindepth 1 \( -path "$state/locks" -o -path "$state/awaited" -empty -o \
        -path '/dev/vfio/*/*' \) -prune -o \
        \( -path "$state/*" -printf '%p %l\n' -o -printf '%p %i %u\n' \)
    $by_hook || grep -rl virt-mdev /etc/apparmor.d/libvirt || true
}

# --- moments ------------------------------------------------------------------

# moment SECONDS: something up to that.
moment() {
    sleep "$((RANDOM % $1)).$((RANDOM % 10))"
}

# comes PATTERN: such a process is there, before what was begun has ended.
comes() {
    until pgrep -f "$1" >/dev/null; do
        ! ended "$begun" || return 1
        sleep 0.0$((RANDOM % 10))
    done
}

kill_hook() { # OPERATION...
    local operations=("$@") pids
    comes "(virt-mdev-hook|50-virt-mdev) [^ ]+ ${operations[RANDOM % $#]} " || return 0
    sleep "0.0$((RANDOM % 10))"
    mapfile -t pids < <(pgrep -f '(virt-mdev-hook|50-virt-mdev) [^ ]+ [a-z]+ ' || true)
    [[ ${#pids[@]} -gt 0 ]] || return 0
    # The hook, its worker, or whoever of them.
    if kill -KILL "${pids[RANDOM % ${#pids[@]}]}" 2>/dev/null; then hit=1; fi
}

# Whoever has the domain's device open.
kill_user() {
    comes "$(user)" || return 0
    if ! $by_hook; then moment 2; fi
    ! pkill -KILL -f "$(user)" || hit=1
}

user() {
    if $by_hook; then echo "^perl .* user of $kind\$"; else echo "qemu-system-x86_64 -name guest=$kind,"; fi
}

kill_daemon() {
    if $by_hook; then
        sleep "0.$((RANDOM % 10))"
        ! kill -KILL "$begun" 2>/dev/null || hit=1
    else
        moment 4
        ! kill -KILL "$(libvirt_pid)" 2>/dev/null || hit=1
    fi
}

reload_driver() {
    if $by_hook; then sleep "0.$((RANDOM % 10))"; else moment 3; fi
    # A domain that has opened its device holds it.
    if rmmod mtty 2>/dev/null; then
        hit=1
        moment 1
        modprobe mtty
    fi
}

# --- a cycle ------------------------------------------------------------------

ours() {
    find /proc/[0-9]*/exe -lname '/usr/bin/virt-mdev*' 2>/dev/null | grep -q .
}

# does COMMAND...: in the background, so that something happens meanwhile.
does() {
    "$@" >/run/virt-mdev-test.said 2>&1 3>&- &
    begun=$!
}

begin_it() {
    if ! $by_hook; then exec virsh -q start "$kind"; fi
    local xml=/run/virt-mdev-test.$kind operation device node
    for operation in prepare start started; do
        if ! hook "$kind" "$operation" begin - <"$xml"; then
            hook "$kind" release end failed <"$xml" || true
            return 1
        fi
    done
    for device in ${its[$kind]}; do
        node=$(readlink "$devices/$device/iommu_group") || continue # gone with its driver
        # shellcheck disable=SC2016 # perl's own variables
        perl -e 'open my $node, "+<", shift or exit; sleep' "/dev/vfio/${node##*/}" "user of $kind" >/dev/null 2>&1 &
        echo "$!" >>"$users"
    done
}

end_it() {
    if ! $by_hook; then exec virsh -q destroy "$kind"; fi
    end_users
    # Whoever is killed, libvirt goes on.
    hook "$kind" stopped end - <"/run/virt-mdev-test.$kind" || true
    hook "$kind" release end shutdown <"/run/virt-mdev-test.$kind" || true
}

# Nobody has the domain's devices open any more.
end_users() {
    local pid
    if $by_hook; then
        while read -r pid; do
            kill -KILL "$pid" || true
            while [[ -e /proc/$pid ]]; do sleep 0.01; done
        done <"$users" 2>/dev/null
        : >"$users"
    else
        # One that a killed daemon has not written down is nobody's.
        pkill -KILL -f "$(user)" || true
        wait_for 60 "QEMU to end" eval "! pgrep -f '$(user)'"
    fi
}

incident() { # AT
    hit=
    case $what in
    hook)
        if [[ $1 == start ]]; then kill_hook prepare start started; else kill_hook stopped release; fi
        ;;
    user) kill_user ;;
    daemon) kill_daemon ;;
    driver) reload_driver ;;
    esac
    if [[ -n $hit ]]; then hits=$((hits + 1)); fi
}

settled() { # nobody is at work for it any more
    if ! $by_hook; then
        systemctl --quiet reset-failed "$daemon.service" 2>/dev/null || true
        virsh -q destroy "$kind" >/dev/null 2>&1 || true
    fi
    wait_for 90 "our programs to end" eval '! ours'
    end_users
    virt-mdev reconcile --quiet >/run/virt-mdev-test.said 2>&1 || fail "virt-mdev reconcile: $(cat /run/virt-mdev-test.said) (after $this)"
    [[ ! -e $kept_record ]] || virt-mdev release --force kept >/dev/null
}

run_cycle() {
    local started=false this by_hook=true
    ((cycle % 20)) || by_hook=false
    : >"$users"
    kind=${kinds[RANDOM % ${#kinds[@]}]} when=start
    # What QEMU's command line names needs a profile of libvirt's making.
    if ! $by_hook && ((RANDOM % 6 == 0)); then kind=argument; fi
    # Half of them undisturbed; a daemon is long in coming up.
    case $((RANDOM % 20)) in
    [0-3]) what=hook ;;
    [4-5]) what=user ;;
    6) what=daemon ;;
    [7-9]) what=driver ;;
    *) what=none ;;
    esac
    ((RANDOM % 3)) || when=stop
    this="cycle $cycle: $kind, $what at $when"
    if $by_hook; then this+=", by the hook"; else this+=", by virsh"; fi
    step "$this"

    does begin_it
    [[ $when != start ]] || incident start
    ! wait "$begun" || started=true
    if $started; then
        [[ $kind != wrong ]] || fail "$this: expected it to be refused, it started"
        does end_it
        [[ $when != stop ]] || incident stop
        wait "$begun" || [[ $what != none ]] || fail "$this: $(cat /run/virt-mdev-test.said)"
        starts=$((starts + 1))
    else
        error=$(cat /run/virt-mdev-test.said)
        # What was killed says nothing itself.
        $by_hook || contains "virsh's error" "$error" "error: "
        [[ $kind == wrong || ($what != none && $when == start) ]] || fail "$this: $error"
        if [[ $kind == wrong && $what == none ]]; then
            contains "the error" "$error" "error: wrong: " "mtty-2"
        fi
    fi
    settled
    equal "what there is after $this" "$before" "$(left)"
    $by_hook || equal "locks held after $this" '' "$(locks_held)"
    [[ -e /proc/$neighbour_pid ]] || fail "the neighbour's QEMU has gone in $this"
}

# --- what could grow ----------------------------------------------------------

measure() {
    files=$(find "$state" /run/udev/data | wc -l)
    kilobytes=$(du -sk "$state" | cut -f1)
    descriptors=$(find "/proc/$(wake_libvirt)/fd" "/proc/$(systemctl show -P MainPID systemd-udevd.service)/fd" | wc -l)
    journalctl --sync
    bytes=$(journalctl -q -t virt-mdev -o cat --since "@$since" | wc -c)
    since=$EPOCHSECONDS
}

users=/run/virt-mdev-test.users by_hook=true
before=$(left)
starts=0 hits=0 since=$EPOCHSECONDS first=
for ((cycle = 1; cycle <= cycles; cycle++)); do
    run_cycle
    ((cycle % 100 == 0 || cycle == cycles)) || continue
    measure
    of=$((cycle % 100)) of=$((of ? of : 100)) rate=$((bytes / of))
    counted "soak: $cycle cycles, $starts started and $hits disturbed, $SECONDS s: $files files of ours and udev's," \
        "$kilobytes KiB in $state, $descriptors descriptors, $rate bytes of journal a cycle"
    if [[ -z $first ]]; then
        first=$files first_kilobytes=$kilobytes first_descriptors=$descriptors first_rate=$rate
    fi
done
# One measurement has nothing to be compared with.
if ((cycles > 100)); then
    ((files <= first + 2)) || fail "files: $first after the first hundred cycles, $files after $cycles"
    ((kilobytes <= first_kilobytes + 8)) || fail "KiB: $first_kilobytes after the first hundred cycles, $kilobytes after $cycles"
    ((descriptors <= first_descriptors + 8)) || fail "descriptors: $first_descriptors after the first hundred cycles, $descriptors after $cycles"
    ((of < 100 || rate <= 2 * first_rate)) || fail "journal: $first_rate bytes a cycle at first, $rate in the end"
else
    counted "soak: whether anything grows is not judged: that takes more than 100 cycles, these were $cycles"
fi
runs_neighbour=$(state_of neighbour)
equal "state of the neighbour" paused "$runs_neighbour"
claimed neighbour "$neighbour"

destroy neighbour
rm /run/virt-mdev-test.{users,plain,one,several,kept,confined,wrong,neighbour}
released neighbour "$neighbour"
exists "$devices/$foreign"
remove_by_hand "$foreign"
for name in "${kinds[@]}" argument neighbour; do virsh -q undefine "$name"; done
