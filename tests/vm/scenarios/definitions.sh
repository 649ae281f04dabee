# A domain names a device in its hostdev only, and gets it as mdevctl or libvirt has defined it.
# The definition stays when the device goes.
device=$(uuid 1) other=$(uuid 2)
definition=/etc/mdevctl.d/mtty/$device

step "managed, and nobody has defined it: the error names the commands"
new_domain vm1
hostdev "$device"
hostdevs=${hostdevs/"type='mdev'"/"type='mdev' managed='yes'"}
define
refused vm1 "error: vm1: " "$device" "managed='yes'" "mdevctl define --uuid $device" "virsh metadata" "virsh nodedev-define"
gone "$device"

step "defined by mdevctl, with attributes in their order"
mdevctl define --uuid "$device" --parent mtty --type mtty-2
mdevctl modify --uuid "$device" --addattr settings/second --value 2
mdevctl modify --uuid "$device" --addattr settings/first --value 1
cat "$definition"
missing "$devices/$device"
before=$(md5sum "$definition")
echo '{ damaged' >"/etc/mdevctl.d/mtty/$(uuid 3)"
start vm1
equal "type of the device" mtty-2 "$(type_of "$device")"
equal "what the driver saw" "second=2 first=1" "$(cat "$devices/$device/settings/log")"
runs_with vm1 "$device"
claimed vm1 "$device"
destroy vm1
released vm1 "$device"
equal "the definition afterwards" "$before" "$(md5sum "$definition")"
rm "/etc/mdevctl.d/mtty/$(uuid 3)"

step "a second start, and metadata that says otherwise"
start vm1
runs_with vm1 "$device"
destroy vm1
released vm1 "$device"
new_domain vm1
device "$device" 'type="mtty-1" parent="mtty"'
define
start vm1
equal "type of the device" mtty-1 "$(type_of "$device")"
destroy vm1
released vm1 "$device"
virsh -q undefine vm1

defined_by_libvirt() {
    local parent
    parent=$(virsh -q nodedev-list --cap mdev_types | grep mtty) # libvirt has names of its own for parents
    cat >/run/virt-mdev-test.xml <<XML
<device>
  <parent>$parent</parent>
  <capability type='mdev'><type id='mtty-1'/><uuid>$other</uuid></capability>
</device>
XML
    virsh -q nodedev-define /run/virt-mdev-test.xml
    exists "/etc/mdevctl.d/mtty/$other"
    new_domain vm2
    hostdev "$other"
    define
    start vm2
    equal "type of the device" mtty-1 "$(type_of "$other")"
    runs_with vm2 "$other"
    claimed vm2 "$other"
    destroy vm2
    released vm2 "$other"
    exists "$definition" "/etc/mdevctl.d/mtty/$other"
    virsh -q undefine vm2
    mdevctl undefine --uuid "$other"
}

step "defined by libvirt"
# Beside virtqemud that is virtnodedevd's, which the modular host has not.
if [[ $daemon == virtqemud ]]; then
    counted "nobody to define it: of libvirt's daemons this host has virtqemud alone"
else
    defined_by_libvirt
fi
mdevctl undefine --uuid "$device"
