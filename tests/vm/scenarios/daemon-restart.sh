# libvirt is restarted under a running domain: it goes on, and ends cleanly later.
device=$(uuid 1)

install_witness
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
start vm1
runs_with vm1 "$device"
pid=$(qemu_pid vm1)
before=$(libvirt_pid)

systemctl restart "$daemon.service"
after=$(wake_libvirt)
[[ $before != "$after" ]] || fail "expected another $daemon than $before"
# Domains are reconnected one thread each, after the daemon has said it is ready.
wait_for 30 "libvirt to reconnect vm1" grep -q '^vm1 reconnect ' "$witness_log"
equal "pid of QEMU" "$pid" "$(qemu_pid vm1)"
runs_with vm1 "$device"
claimed vm1 "$device"

destroy vm1
released vm1 "$device"
virsh -q undefine vm1
