# slow
# What the hook's runs of a start and of a stop take, beside as many runs of an empty
# program with the same libraries, and beside mdevctl's. Counted, and judged by nobody:
# the machine under the host may have other things to do.
rounds=31
device=$(uuid 1)
xml=/run/virt-mdev-test.xml
empty=/usr/local/bin/virt-mdev-test-empty

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
start vm1
virsh -q dumpxml vm1 >$xml
destroy vm1
released vm1 "$device"
install "$share/package/empty" $empty
# udevd takes its own time, on the same processor: it does nothing while a run is timed, and nobody waits for it.
configure $'[wait]\nudev = 0'

begin_domain() {
    hook vm1 prepare begin - <$xml
    hook vm1 start begin - <$xml
    hook vm1 started begin - <$xml
}

end_domain() {
    hook vm1 stopped end - <$xml
    hook vm1 release end destroyed <$xml
}

runs_empty() { # TIMES
    local time
    for ((time = 0; time < $1; time++)); do
        env -i LC_ALL=C PATH="$PATH" USER=root $empty <$xml
    done
}

with_mdevctl() { # VERB [OPTION...]
    env -i LC_ALL=C PATH="$PATH" USER=root mdevctl "$1" --uuid "$device" "${@:2}" <$xml
}

declare -A taken # microseconds, a line for each round

# timed WHAT COMMAND...
timed() {
    local begun=$EPOCHREALTIME
    "${@:2}"
    local ended=$EPOCHREALTIME
    taken[$1]+=$((${ended/./} - ${begun/./}))$'\n'
}

# middle WHAT: the median of what it took
middle() {
    sort -n <<<"${taken[$1]%$'\n'}" | sed -n "$((rounds / 2 + 1))p"
}

step "in turns, $rounds times"
for ((round = 0; round < rounds; round++)); do
    udevadm control --stop-exec-queue
    timed "three empty" runs_empty 3
    timed start begin_domain
    timed stop end_domain
    timed "two empty" runs_empty 2
    timed prepare hook vm1 prepare begin - <$xml
    timed release hook vm1 release end destroyed <$xml
    timed "mdevctl start" with_mdevctl start --parent mtty --type mtty-2
    timed "mdevctl stop" with_mdevctl stop
    udevadm control --start-exec-queue
    udevadm settle --timeout=60
done
released vm1 "$device"
rm $empty

ratio() { # WHAT BASELINE
    counted "$(awk -v what="$1" -v than="$2" -v a="$(middle "$1")" -v b="$(middle "$2")" \
        'BEGIN { printf "%s: %.1f ms, %.2f times as long as %s", what, a / 1000, a / b, than }')"
}
ratio start "three empty"
ratio stop "two empty"
ratio prepare "mdevctl start"
ratio release "mdevctl stop"
virsh -q undefine vm1
