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

destroy vm1
released vm1 "$device"
virsh -q undefine vm1
