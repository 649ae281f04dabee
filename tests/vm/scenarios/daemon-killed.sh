# limit: 600 seconds; libvirt is started anew four times
# libvirt's daemon is killed with -9 while it starts a domain. It does not know of
# that domain any more, and never sends a release: reconcile finds it.
one=$(uuid 1) two=$(uuid 2)

new_domain vm1
device "$one" 'type="mtty-2" parent="mtty"'
device "$two" 'type="mbochs-small" parent="mbochs"'
define

# kill_daemon: virsh returns, and another daemon is there.
kill_daemon() {
    local pid
    pid=$(libvirt_pid)
    kill -KILL "$pid"
    gives_up 10 "error: "
    wait_for 30 "another $daemon" another_daemon "$pid"
}

another_daemon() { # PID
    local now
    now=$(wake_libvirt)
    [[ $now != 0 && $now != "$1" ]]
}

for operation in prepare start; do
    step "in $operation, after ours has succeeded"
    wake_libvirt >/dev/null
    pauses "$operation"
    begin vm1
    wait_for 60 "the other script's $operation" paused
    exists "$devices/$one" "$devices/$two" "$(record_of vm1)"
    # It lives, and answers for what it has begun.
    reconciled "Nothing to reconcile."
    exists "$devices/$one" "$devices/$two"
    kill_daemon
    go_on
    equal "state of vm1" 'shut off' "$(state_of vm1)"
    reconciled "vm1: destroy $one" "vm1: destroy $two"
    released vm1 "$one" "$two"
    reconciled "Nothing to reconcile."
done

# The hook goes on without its daemon. Whatever it finds out about that, nothing
# may be left of what it makes.
for lock in "domain $(domain_uuid vm1)" "card mtty"; do
    step "while our prepare waits for the lock of a ${lock%% *}"
    wake_libvirt >/dev/null
    # shellcheck disable=SC2086 # two words
    hold_lock $lock
    begin vm1
    wait_for 60 "our prepare" our_hook prepare
    hook=$(our_hook prepare)
    wait_for 10 "prepare to wait for the lock" waits_for_lock "$hook"
    kill_daemon
    let_go
    wait_for 30 "prepare to end" ended "$hook"
    equal "state of vm1" 'shut off' "$(state_of vm1)"
    virt-mdev reconcile
    released vm1 "$one" "$two"
done

step "the next start is as any other"
start vm1
runs_with vm1 "$one"
claimed vm1 "$one" "$two"
destroy vm1
released vm1 "$one" "$two"
virsh -q undefine vm1
