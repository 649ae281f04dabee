# The host's wall clock is set a year forward and back: while the hook waits for a device
# that is held, while libvirt is between prepare and started, while a domain runs. Limits
# are kept, and nothing is taken for older or newer than it is.
device=$(uuid 1)
limit=4 # seconds, wait.release: long enough for the clock to be set while it is waited for
slack=4 # all else that the hook does, on an emulated processor
gate=/run/virt-mdev-test.gate
year=$((365 * 86400))
before=$(baseline)
configure "wait.release = \"${limit}s\""

# The time since boot, in ms, which nobody sets.
uptime_ms() {
    local seconds
    read -r seconds _ </proc/uptime
    echo $((10#${seconds/./} * 10))
}

# What clean-up sets the clock by.
echo $((EPOCHSECONDS - $(uptime_ms) / 1000)) >/run/virt-mdev-test.clock

jump() { # SECONDS
    local was=$EPOCHSECONDS
    date -s "@$((was + $1))"
    (((EPOCHSECONDS - was - $1) ** 2 <= 900)) || fail "expected the clock to jump by $1 s, it went from $was to $EPOCHSECONDS"
}

waits() { [[ $(jq -r '.steps[] | select(.step.do == "create") | .state' "$(record_of vm1)") == undoing ]]; }

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
xml >/run/virt-mdev-test.jump.xml

for by in "$year" "-$year"; do
    step "the clock jumps by $by s while a release waits: it returns at its limit, not before"
    hook vm1 prepare begin - </run/virt-mdev-test.jump.xml
    open_device "$device"
    began=$(uptime_ms)
    hook vm1 release end shutdown </run/virt-mdev-test.jump.xml &
    releasing=$!
    wait_for 10 "the release to wait" waits
    jump "$by"
    ! ended "$releasing" || fail "expected the release to wait still when the clock had jumped"
    wait "$releasing"
    took=$(($(uptime_ms) - began))
    echo "release: $took ms"
    ((took >= limit * 1000 && took <= (limit + slack) * 1000)) ||
        fail "expected the release to take $limit to $((limit + slack)) s, it took $took ms"
    exists "$devices/$device" "$(record_of vm1)"
    end_holder
    reconciled "vm1: destroy $device, mtty-2 on mtty"
    released vm1 "$device"
done

for by in "$year" "-$year"; do
    step "by $by s between prepare and started: reconcile leaves it, the domain runs"
    mkfifo "$gate"
    cat >"$hooks/90-virt-mdev-test" <<SH
#!/bin/sh
[ "\$2" = start ] || exit 0
touch $gate.reached
timeout 60 cat $gate
SH
    chmod +x "$hooks/90-virt-mdev-test"
    begin vm1
    wait_for 60 "libvirt to be in its start" test -e "$gate.reached"
    equal "phase of vm1" starting "$(phase_of vm1)"
    jump "$by"
    reconciled
    exists "$devices/$device"
    equal "phase of vm1 after reconcile" starting "$(phase_of vm1)"
    : >"$gate"
    wait "$begun" || fail "virsh start: expected it to succeed, it said: $(cat /run/virt-mdev-test.said)"
    rm "$gate" "$gate.reached" "$hooks/90-virt-mdev-test"
    runs_with vm1 "$device"
    claimed vm1 "$device"

    step "and back while it runs: it is whose it was, also for a daemon that is started anew"
    jump "$((-by))"
    reconciled "Nothing to reconcile."
    runs_with vm1 "$device"
    claimed vm1 "$device"
    systemctl restart "$daemon.service"
    wake_libvirt >/dev/null
    runs_with vm1 "$device"
    claimed vm1 "$device"
    destroy vm1
    released vm1 "$device"
done

reconciled "Nothing to reconcile."
rm /run/virt-mdev-test.jump.xml /run/virt-mdev-test.clock
virsh -q undefine vm1
equal "devices, claims and records" "$before" "$(baseline)"
