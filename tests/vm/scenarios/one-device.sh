# core
# The main job: a domain names one device by type id and parent, and gets it.
device=$(uuid 1)

step "the host is what it claims to be: libvirt as packaged, AppArmor enforcing"
changed=^$
[[ $daemon == libvirtd ]] || changed=/libvirt.conf$ # in which clients find out where virtqemud is
conffiles=$(dpkg-query -W -f='${Conffiles}\n' 'libvirt-*' | awk -v skipped="$changed" 'NF >= 2 && !/obsolete/ && $1 !~ skipped { print $2 "  " $1 }')
contains "libvirt's configuration files" "$conffiles" /etc/libvirt/qemu.conf /etc/libvirt/libvirtd.conf
md5sum --quiet --check <<<"$conffiles"
contains "AppArmor's profiles" "$(cat /sys/kernel/security/apparmor/profiles)" "$daemon (enforce)"

install_witness
new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define

step "start: the device exists before QEMU does"
start vm1
equal "what a hook after ours saw at prepare" "devices: $device (no QEMU)" "$(witnessed vm1 prepare)"
equal "type of the device" mtty-2 "$(type_of "$device")"
runs_with vm1 "$device"
claimed vm1 "$device"
equal "virt-mdev list" "$device mtty mtty-2 virt-mdev vm1 running" \
    "$(virt-mdev list --json | jq -r '.[] | "\(.uuid) \(.parent) \(.type) \(.made_by) \(.domain.name) \(.phase)"')"

step "destroy: nothing is left"
destroy vm1
released vm1 "$device"
virsh -q undefine vm1
