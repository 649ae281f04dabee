# host: selinux
# On a host with SELinux our programs have a domain of their own, virt_mdev_t, and
# do nothing that it is not allowed. The host is permissive: what would be denied
# is written down by the kernel, and happens.
device=$(uuid 1)

# runs_as WHAT TYPE PID...: all of them do.
runs_as() {
    local pid
    for pid in "${@:3}"; do
        equal "type of $1" "$2" "$(context_of "$pid" | cut -d: -f3)"
    done
}

service_pid() {
    systemctl show -P MainPID virt-mdev-reconcile.service
}

service_waits() {
    waits_for_lock "$(service_pid)"
}

step "the host is what it claims to be: libvirt labels with SELinux"
equal "SELinux" Permissive "$(getenforce)"
contains "libvirt's security models" "$(virsh capabilities)" '<model>selinux</model>'
runs_as "libvirt's daemon" virtd_t "$(wake_libvirt)"

step "the directory of records has its type as systemd-tmpfiles makes it at boot"
rm -r "$state"
systemd-run --quiet --wait systemd-tmpfiles --create --prefix="$state"
equal "type of $state" virt_mdev_runtime_t "$(stat -c %C "$state" | cut -d: -f3)"

step "a domain gets its device, and gives it back"
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"' "$(attribute settings/first once)"
define
start vm1
runs_with vm1 "$device"
claimed vm1 "$device"
equal "types in $state" virt_mdev_runtime_t \
    "$(find "$state" -exec stat -c %C {} + | cut -d: -f3 | sort -u)"
virt-mdev list
destroy vm1
released vm1 "$device"

step "the hook and its workers run in virt_mdev_t"
hold_lock card mtty
begin vm1
wait_for 60 "the hook" our_hook prepare
hook=$(our_hook prepare)
wait_for 20 "the hook to want the lock" waits_for_lock "$hook"
# shellcheck disable=SC2046 # pids
runs_as "the hook" virt_mdev_t "$hook" $(pgrep -P "$hook" || true)
let_go
wait "$begun"

step "a daemon that is started anew finds the domain as it was"
systemctl restart "$daemon.service"
wake_libvirt >/dev/null
runs_with vm1 "$device"
destroy vm1
released vm1 "$device"
virsh -q undefine vm1

step "the service looks for who has a device open, and takes it away"
configure 'wait.release = "100ms"'
# Through a pipe, as from libvirt: our domain may not read files of /run.
xml | hook vm1 prepare begin -
chown libvirt-qemu "$(node_of "$device")" # as libvirt does for QEMU
open_device "$device" libvirt-qemu
xml | hook vm1 release end shutdown
reconcile_unit "left $device" "in use by perl (pid $holder)"
end_holder
hold_lock domain "$(domain_uuid vm1)"
systemctl start --no-block virt-mdev-reconcile.service
wait_for 60 "the service to want the lock" service_waits
runs_as "the service" virt_mdev_t "$(service_pid)"
let_go
reconcile_unit # waits for the one that is at work
released vm1 "$device"

step "nothing was denied; what is, is seen"
equal "denials" '' "$(denials)"
runcon system_u:system_r:virt_mdev_t:s0 true # "true" is no way into that domain
contains "denials" "$(denials)" '{ entrypoint }' 'comm="runcon"' virt_mdev_t
