# host: pair
# limit: 1200 seconds
# A running domain, whose guest uses its device all the time, goes to another host and
# back. There its card has another name, and its type another id; the device is ours on
# either, one at a time, and what is in it comes along.
device=$(uuid 1)
rounds=3
[[ $(cat "$share/soak") -eq 1 ]] || rounds=20

# goes HOST: libvirt's live migration to that host, from here or from the peer.
goes() {
    local command="virsh -q migrate --live vm1 qemu+tcp://$1/system tcp://$1"
    echo "+ $command"
    if [[ $1 == "$near" ]]; then peer "$command"; else $command; fi
}

step "a domain that runs here"
peer "rmmod mtty; modprobe otty; serial_guest"
new_domain vm1
device "$device" 'type="Dual port serial"'
serial_guest
migratable
define
start vm1
runs_with vm1 "$device"
goes_on vm1

step "the other host is asked what would become of it there"
virsh dumpxml vm1 >"$share/logs/migrate.xml"
said=$(peer "virt-mdev plan --event migrate <$share/logs/migrate.xml")
echo "$said"
contains "what plan says there" "$said" "the XML stays as it is" "create $device as otty-2 on otty"
peer "gone $device"

for ((round = 1; round <= rounds; round++)); do
    step "round $round: there"
    goes "$far"
    released vm1 "$device"
    peer "runs_with vm1 $device; claimed vm1 $device; equal 'its type' otty-2 \"\$(type_of $device)\"
        goes_on vm1 $characters"

    step "round $round: and back"
    goes "$near"
    nothing_there vm1 "$device"
    runs_with vm1 "$device"
    claimed vm1 "$device"
    equal "its type" mtty-2 "$(type_of "$device")"
    goes_on vm1
done
counted "$rounds live migrations each way, $characters characters on a device that came along, none lost"

step "its end"
destroy vm1
released vm1 "$device"

step "migrated while it does not run: nothing is made, there or here"
virsh -q migrate --offline --persistent vm1 qemu+tcp://"$far"/system
gone "$device"
peer "equal 'state of vm1' 'shut off' \"\$(state_of vm1)\"; released vm1 $device; virsh -q undefine vm1"
virsh -q undefine vm1
