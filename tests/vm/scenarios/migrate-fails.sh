# host: pair
# slow: two hosts, and migrations between them
# limit: 1800 seconds
# Migrations that fail, each for another reason: the domain goes on here, and its guest
# uses the device as before; there all is as it was; and the error says why.
device=$(uuid 1)

new_domain vm1
device "$device" 'type="Dual port serial"'
serial_guest
migratable
define
start vm1
runs_with vm1 "$device"
goes_on vm1
peer "serial_guest"

step "there the type is unknown"
peer "rmmod mtty; configure '[wait]
parent = 1'"
begin_to_go vm1
stays vm1 "$device" "Dual port serial"

step "there is no room"
peer "modprobe mtty
    for ((place = 20; place < 32; place++)); do by_hand mtty/mdev_supported_types/mtty-2 \"\$(uuid \$place)\"; done"
begin_to_go vm1
stays vm1 "$device" "no room for"
peer "for ((place = 20; place < 32; place++)); do remove_by_hand \"\$(uuid \$place)\"; done"

step "another script refuses it there, after ours has made the device"
peer "printf '#!/bin/sh\n[ \"\$2\" != prepare ]\n' >$hooks/90-virt-mdev-test; chmod +x $hooks/90-virt-mdev-test"
begin_to_go vm1
stays vm1 "$device" "90-virt-mdev-test"
peer "rm $hooks/90-virt-mdev-test"

step "QEMU there does not take what comes"
virsh -q dumpxml --migratable vm1 | sed 's/enable-migration=on/enable-migration=off/' >/run/virt-mdev-test.xml
begin_to_go vm1 --xml /run/virt-mdev-test.xml
stays vm1 "$device" "load of migration failed"

step "QEMU dies there while the domain is on the way"
begin_to_go vm1
moving vm1
peer "kill -KILL \$(qemu_pid vm1)"
stays vm1 "$device" "'migration out' failed"

step "it is called off"
begin_to_go vm1
moving vm1
virsh -q domjobabort vm1
stays vm1 "$device" "cancel"

step "post-copy, which QEMU does not do with such a device"
begin_to_go vm1 --postcopy
stays vm1 "$device" "VFIO migration is not supported with postcopy"

step "the other host's daemon is killed half-way"
begin_to_go vm1
moving vm1
peer "systemctl kill --kill-whom=main --signal=KILL $daemon.service; virsh -q list --name"
stays vm1 "$device" "'migration out' failed"

step "the daemon here is killed half-way"
begin_to_go vm1
moving vm1
systemctl kill --kill-whom=main --signal=KILL "$daemon.service"
stays vm1 "$device" "nd of file"

step "the network is cut half-way"
begin_to_go vm1 --p2p
moving vm1
interface=$(peer "ip -brief address show to $far | cut -d' ' -f1")
peer "ip link set $interface down"
stays vm1 "$device" "client socket is closed"
peer "ip link set $interface up"

step "and when nothing is in the way, it goes"
virsh -q migrate-setmaxdowntime vm1 300
virsh -q migrate --live vm1 qemu+tcp://"$far"/system tcp://"$far"
released vm1 "$device"
peer "runs_with vm1 $device; claimed vm1 $device; goes_on vm1 $characters; destroy vm1; released vm1 $device"
virsh -q undefine vm1
