# host: pair
# slow: two hosts, and migrations between them
# limit: 1800 seconds
# A running domain goes to another host and back. There its card has another name,
# and its type another id; the device is ours on either, and one at a time. Then
# migrations that fail: the domain goes on here, there all is as before, and the
# error says why.
device=$(uuid 1)
here=10.77.0.1 there=10.77.0.2
rounds=$((3 * $(cat "$share/soak")))

# goes HOST: libvirt's live migration to that host, from here or from the peer.
goes() {
    local command="virsh -q migrate --live --timeout 10 --timeout-suspend vm1 qemu+tcp://$1/system tcp://$1"
    echo "+ $command"
    if [[ $1 == "$here" ]]; then peer "$command"; else $command; fi
}

# begin_to_go: there, in the background.
begin_to_go() {
    echo "+ virsh migrate vm1 &"
    virsh -q migrate --live vm1 qemu+tcp://$there/system tcp://$there >/run/virt-mdev-test.said 2>&1 3>&- &
    begun=$!
}

# nothing_there: no domain, no device, no record on the peer, whose libvirt may take
# a while to see that the other one has gone.
nothing_there() {
    peer "wait_for 60 'the domain to go' bash -c '[[ -z \$(virsh -q list --all --name | grep .) ]]'
        wait_for 60 'its device to go' test ! -e $devices/$device
        released vm1 $device
        equal 'what runs there' '' \"\$(pgrep -a qemu-system || true)\""
}

# stays PART...: what was begun fails, its error contains every part, and the
# domain goes on here as if nothing had been.
stays() {
    gives_up 120 "$@"
    runs_with vm1 "$device"
    claimed vm1 "$device"
    nothing_there
}

step "a domain that runs here"
peer "rmmod mtty; modprobe otty"
new_domain vm1
device "$device" 'type="Dual port serial"'
# mtty keeps no account of dirty pages, which QEMU otherwise insists on.
qemu_argument -global vfio-pci.x-device-dirty-page-tracking=off -global vfio-pci.enable-migration=on
define
start vm1
runs_with vm1 "$device"

step "the other host is asked what would become of it there"
virsh dumpxml vm1 >"$share/logs/migrate.xml"
said=$(peer "virt-mdev plan --event migrate <$share/logs/migrate.xml")
echo "$said"
contains "what plan says there" "$said" "the XML stays as it is" "create $device as otty-2 on otty"
peer "gone $device"

for ((round = 1; round <= rounds; round++)); do
    step "round $round: there"
    goes $there
    released vm1 "$device"
    peer "runs_with vm1 $device; claimed vm1 $device; equal 'its type' otty-2 \"\$(type_of $device)\""

    step "round $round: and back"
    goes "$here"
    nothing_there
    runs_with vm1 "$device"
    claimed vm1 "$device"
    equal "its type" mtty-2 "$(type_of "$device")"
done
counted "$rounds live migrations each way"

step "there the type is unknown"
peer "rmmod otty; configure '[wait]
parent = 1'"
begin_to_go
stays "Dual port serial"

step "there is no room"
peer "modprobe mtty
    for ((place = 20; place < 32; place++)); do by_hand mtty/mdev_supported_types/mtty-2 \"\$(uuid \$place)\"; done"
begin_to_go
stays "no room for"
peer "for ((place = 20; place < 32; place++)); do remove_by_hand \"\$(uuid \$place)\"; done"

step "another script refuses it there, after ours has made the device"
peer "printf '#!/bin/sh\n[ \"\$2\" != prepare ]\n' >$hooks/90-virt-mdev-test; chmod +x $hooks/90-virt-mdev-test"
begin_to_go
stays "90-virt-mdev-test"
peer "rm $hooks/90-virt-mdev-test"

step "its end"
destroy vm1
released vm1 "$device"

step "migrated while it does not run: nothing is made, there or here"
virsh -q migrate --offline --persistent vm1 qemu+tcp://$there/system
gone "$device"
peer "equal 'state of vm1' 'shut off' \"\$(state_of vm1)\"; released vm1 $device; virsh -q undefine vm1"
virsh -q undefine vm1
