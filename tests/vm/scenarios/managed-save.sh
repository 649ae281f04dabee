# Save and start again: the device goes with the saved domain and comes back.
needs kernel 6.8 # mtty can be migrated since then
device=$(uuid 1)

install_witness
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
migratable
define
start vm1
runs_with vm1 "$device"
claimed vm1 "$device"

step "saved"
virsh -q managedsave vm1
equal "state of vm1" "shut off" "$(state_of vm1)"
contains "what libvirt knows of vm1" "$(virsh dominfo vm1 | tr -s ' ')" "Managed save: yes"
released vm1 "$device"

step "started from what was saved"
rm "$witness_log"
start vm1
contains "events" "$(cut -d' ' -f2 "$witness_log" | paste -sd' ')" "restore prepare start started"
runs_with vm1 "$device"
claimed vm1 "$device"

step "what was attached while it ran comes back, too"
said=$(virt-mdev attach vm1 mtty-2)
echo "$said"
plugged=$(grep -oE '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' <<<"$said")
contains "what its metadata says" "$(virsh -q metadata vm1 urn:virt-mdev:domain:1 --live)" "$device" "$plugged"
runs_with vm1 "$plugged"
virsh -q managedsave vm1
released vm1 "$device"
missing "$devices/$plugged"
start vm1
runs_with vm1 "$device"
runs_with vm1 "$plugged"
claimed vm1 "$plugged"
destroy vm1
released vm1 "$device"
missing "$devices/$plugged"

step "and is not in its definition"
start vm1
missing "$devices/$plugged"
destroy vm1
released vm1 "$device"
virsh -q undefine vm1
