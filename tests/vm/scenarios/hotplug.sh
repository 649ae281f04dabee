# limit: 1200 seconds
# attach and detach: a device comes into a running domain and leaves it, with its
# whole life around that; and whatever fails on the way leaves nothing.

# fails PART...: a verb of ours fails, and what it says, left in $error, contains
# every part.
fails() {
    local command=("$@") parts=()
    while [[ ${command[0]} != -- ]]; do
        parts+=("${command[0]}")
        command=("${command[@]:1}")
    done
    command=("${command[@]:1}")
    echo "+ ${command[*]} (to fail)"
    if error=$("${command[@]}" 2>&1); then
        fail "${command[*]}: expected it to fail, it said: $error"
    fi
    echo "$error"
    contains "what it says" "$error" "${parts[@]}"
}

step "a domain that does not run is referred to assign"
new_domain vm1
define
fails "vm1: does not run (shut off)" "virt-mdev assign" -- virt-mdev attach vm1 mtty-2
fails "no-such-vm" -- virt-mdev attach no-such-vm mtty-2

step "a domain without an operating system: it comes, and does not go"
start vm1
fails "mtty-9" "hint: " -- virt-mdev attach vm1 mtty-9
missing "$(record_of vm1)"
said=$(virt-mdev attach vm1 "Dual port serial" --attribute plain=here)
echo "$said"
attached vm1
runs_with vm1 "$device"
equal "its attribute" here "$(cat "$devices/$device/plain")"
equal "phase of vm1" running "$(phase_of vm1)"
before=$(baseline)
fails "vm1: the guest has not let go of $device within 3 s" "hint: " -- virt-mdev detach vm1 "$device" --wait 3
runs_with vm1 "$device"
reconciled "Nothing to reconcile"
runs_with vm1 "$device"

step "Ctrl-C while the guest is waited for leaves all as it is"
# What this shell starts in the background ignores SIGINT, unless it is told not to.
env --default-signal=INT virt-mdev detach vm1 "$device" --wait 60 >/dev/null 2>&1 3>&- &
detach=$!
sleep 3
status=0
kill -INT "$detach"
wait "$detach" || status=$?
equal "status of detach" 130 "$status"
reconciled "Nothing to reconcile"
runs_with vm1 "$device"

step "the domain's end takes it along"
destroy vm1
released vm1 "$device"

step "virsh attach-device fails: nothing is left"
cat >/run/virt-mdev-test.xml <<XML
<domain type='qemu'>
  <name>vm2</name>
  <uuid>$(domain_uuid vm2)</uuid>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
XML
virsh -q define /run/virt-mdev-test.xml
start vm2
before=$(baseline)
fails "vm2: " "PCI" -- virt-mdev attach vm2 mtty-2
missing "$(record_of vm2)"
equal "devices, claims and records" "$before" "$(baseline)"
destroy vm2
virsh -q undefine vm2

step "made by one, attached by another"
start vm1
virt-mdev attach vm1 mtty-2 --prepare-only >/run/virt-mdev-test.hostdev
device=$(of vm1)
equal "who has $device open" '' "$(find /proc/[0-9]*/fd -lname "$(node_of "$device")" 2>/dev/null)"
reconciled "Nothing to reconcile"
exists "$devices/$device"
virsh -q attach-device vm1 /run/virt-mdev-test.hostdev --live
runs_with vm1 "$device"
destroy vm1
released vm1 "$device"

step "made, and attached by nobody: it goes when its time is over"
start vm1
virt-mdev attach vm1 mtty-2 --prepare-only --keep-for 5 >/dev/null
device=$(of vm1)
reconciled "Nothing to reconcile"
exists "$devices/$device"
sleep 5
reconciled "destroy $device"
released vm1 "$device"

step "killed while it makes the device"
hold_lock card mtty
virt-mdev attach vm1 mtty-2 >/dev/null 2>&1 3>&- &
attach=$!
wait_for 10 "attach to want the card" waits_for_lock "$attach"
kill -KILL "$attach"
wait "$attach" 2>/dev/null || true
let_go
virt-mdev reconcile
missing "$(record_of vm1)"
equal "locks held" '' "$(locks_held)"
destroy vm1
virsh -q undefine vm1
