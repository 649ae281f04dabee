# The hook is killed with -9 at several points of prepare, where something keeps it
# waiting: virsh start fails in words, and libvirt's release leaves nothing.
one=$(uuid 1) two=$(uuid 2)

new_domain vm1
device "$one" 'type="mtty-2" parent="mtty"'
device "$two" 'type="mbochs-small" parent="mbochs"'
define
virsh -q dumpxml vm1 >/run/virt-mdev-test.xml
hook vm1 prepare begin - </run/virt-mdev-test.xml
hook vm1 release end failed </run/virt-mdev-test.xml
released vm1 "$one" "$two"

# begun_until COMMAND...: virsh start is under way, and our prepare has come to
# where the command succeeds; its pid is in $hook.
begun_until() {
    begin vm1
    wait_for 60 "our prepare" our_prepare
    hook=$(our_hook prepare) || fail "virsh start ended before our prepare was seen: $(cat /run/virt-mdev-test.said)"
    wait_for 10 "prepare to come to where it waits" "$@" "$hook"
}

our_prepare() {
    our_hook prepare || ended "$begun"
}

prepared() {
    [[ $(phase_of vm1) == prepared ]]
}

# killed HOW: virsh says so, and nothing is left; release needs no card's lock.
killed() {
    gives_up 30 "error: " "$1"
    equal "state of vm1" 'shut off' "$(state_of vm1)"
    gone "$one" "$two"
    missing "$(record_of vm1)"
}

step "before anything: it waits for the domain's lock"
hold_lock domain "$(domain_uuid vm1)"
begun_until waits_for_lock
missing "$(record_of vm1)"
kill -KILL "$hook"
let_go
killed "signal 9"

step "nothing recorded, and nothing made: it waits for the first card"
hold_lock card mtty
begun_until waits_for_lock
missing "$(record_of vm1)"
missing "$devices/$one"
kill -KILL "$hook"
killed "signal 9"
let_go

step "in the middle: the first is made, and it waits for the second's card"
hold_lock card mbochs
begun_until waits_for_lock
exists "$devices/$one"
missing "$devices/$two"
kill -KILL "$hook"
killed "signal 9"

step "a worker of it instead: it says so itself"
let_go
hold_lock card mbochs
begun_until waits_for_lock
worker=$(pgrep -P "$hook")
exists "$devices/$one"
kill -KILL "$worker"
killed "error: vm1: "
wait_for 10 "the hook to end" ended "$hook"

step "the release is killed as well: the next start settles it"
begun_until waits_for_lock
want_lock domain "$(domain_uuid vm1)" # gets it when prepare dies, before release does
wait_for 10 "whoever wants the lock to wait for it" waits_in_line "${lockers[-1]}"
kill -KILL "$hook"
wait_for 30 "our release" our_hook release
kill -KILL "$(our_hook release)"
gives_up 30 "error: " "signal 9"
let_go
exists "$devices/$one" "$(record_of vm1)"
equal "phase of vm1" preparing "$(phase_of vm1)"
start vm1
runs_with vm1 "$one"
runs_with vm1 "$two"
claimed vm1 "$one" "$two"
destroy vm1
released vm1 "$one" "$two"

step "all is made: it waits for udev"
udevadm control --stop-exec-queue # and on again by clean-up, if need be
begun_until prepared
exists "$devices/$one" "$devices/$two"
kill -KILL "$hook"
killed "signal 9"
udevadm control --start-exec-queue
virsh -q undefine vm1
