# limit: 800 seconds
# A person gives a domain a device in one command, and takes it out again: the
# definition is what it was. A clone gets uuids of its own.

# refuses COMMAND...: it fails; what it said is left in $error.
refuses() {
    echo "+ $* (to be refused)"
    if error=$("$@" 2>&1); then
        fail "$*: expected a refusal, it said: $error"
    fi
    echo "$error"
}

definition() { # NAME
    virsh -q dumpxml --inactive --security-info "$1"
}

# What the metadata names, in order.
assigned() { # NAME
    definition "$1" | sed -n 's/.*<mdev:device uuid="\([^"]*\)".*/\1/p'
}

step "a domain with a password, and with metadata of others"
new_domain vm1
xml | sed "s|<memballoon|<graphics type='vnc' port='-1' autoport='yes' passwd='secret\&lt;'/>&|
    s|<memory|<metadata><x:a xmlns:x='urn:other'><x:b/></x:a></metadata>&|" >/run/virt-mdev-test.xml
virsh -q define /run/virt-mdev-test.xml
before=$(definition vm1)
contains "the definition" "$before" "passwd='secret&lt;'" '<x:b/>'

step "refused: what is not on this host, and whom libvirt does not know; nothing is written"
refuses virt-mdev assign vm1 "Dual prot serial"
contains "the refusal" "$error" 'error: vm1: type "Dual prot serial" is not offered by' 'hint: did you mean "Dual port serial"?'
refuses virt-mdev assign nobody mtty-2
contains "the refusal" "$error" "error: nobody: " "hint: \`virsh list --all\`"
refuses virt-mdev unassign vm1
contains "the refusal" "$error" "error: vm1: its metadata names no device"
printed=$(virt-mdev assign vm1 mtty-2 --parent mtty --attribute settings/first=1 --print)
contains "what is printed" "$printed" 'type="mtty-2" parent="mtty">' '<mdev:attribute name="settings/first" value="1"/>' "model='vfio-pci'"
equal "the definition" "$before" "$(definition vm1)"

step "one command is all that is typed"
said=$(virt-mdev assign vm1 "Dual port serial" --start)
echo "$said"
device=$(assigned vm1)
equal "what it said" "vm1: assigned $device as Dual port serial
vm1: started" "$said"
equal "type of the device" mtty-2 "$(type_of "$device")"
runs_with vm1 "$device"
claimed vm1 "$device"
equal "virt-mdev list" "$device mtty-2 virt-mdev vm1 running" \
    "$(virt-mdev list --json | jq -r '.[] | "\(.uuid) \(.type) \(.made_by) \(.domain.name) \(.phase)"')"
tree=$(virt-mdev list --tree)
echo "$tree"
contains "virt-mdev list --tree" "$(grep -F "$device" <<<"$tree")" "mtty-2 → vm1"
contains "virt-mdev list --tree" "$(grep "^mtty" <<<"$tree")" mtty

step "a start that cannot be is refused before anything is changed"
refuses virt-mdev assign vm1 mtty-1 --count 2 --attribute settings/first=1 --start
contains "the refusal" "$error" "error: vm1: runs already, and cannot be started"
mapfile -t three < <(assigned vm1)
equal "devices of the domain" 1 "${#three[@]}"
virt-mdev assign vm1 mtty-1 --count 2 --attribute settings/first=1
mapfile -t three < <(assigned vm1)
equal "devices of the domain" 3 "${#three[@]}"
runs_with vm1 "$device"

step "which one? the others first, one by its uuid"
refuses virt-mdev unassign vm1
contains "the refusal" "$error" "error: vm1: has $device (Dual port serial), ${three[1]} (mtty-1) and ${three[2]} (mtty-1)"
said=$(virt-mdev unassign vm1 "${three[2]}")
contains "what it said" "$said" "vm1: unassigned ${three[2]}" "note: vm1 runs"
virt-mdev unassign vm1 "${three[1]}"
destroy vm1
released vm1 "$device"
virt-mdev unassign vm1
equal "the definition" "$before" "$(definition vm1)"
virt-mdev assign vm1 mtty-1 --count 2
virt-mdev unassign vm1 --all
equal "the definition" "$before" "$(definition vm1)"

step "a transient domain has no definition"
new_domain vm2
xml >/run/virt-mdev-test.xml
virsh -q create /run/virt-mdev-test.xml
refuses virt-mdev assign vm2 mtty-2
contains "the refusal" "$error" "error: vm2: the domain is transient"
destroy vm2

step "a clone has the uuids of its original, until it gets its own"
virt-mdev assign vm1 mtty-2 --attribute settings/first=1
device=$(assigned vm1)
before=$(definition vm1)
sed "s|<name>vm1|<name>vm2|; s|$(domain_uuid vm1)|$(domain_uuid vm2)|" <<<"$before" >/run/virt-mdev-test.xml
virsh -q define /run/virt-mdev-test.xml
start vm1
refused vm2 "error: vm2: device $device belongs to domain vm1" "virt-mdev assign --fresh"
said=$(virt-mdev assign --fresh vm2)
fresh=$(assigned vm2)
equal "what it said" "vm2: $device is now $fresh" "$said"
equal "the definition of the clone" \
    "$(sed "s|<name>vm1|<name>vm2|; s|$(domain_uuid vm1)|$(domain_uuid vm2)|; s|$device|$fresh|" <<<"$before")" \
    "$(definition vm2)"
start vm2
runs_with vm1 "$device"
runs_with vm2 "$fresh"
claimed vm2 "$fresh"
destroy vm2
destroy vm1
released vm1 "$device"
released vm2 "$fresh"
virsh -q undefine vm2

step "a clone that names it in an argument"
new_domain vm2
wants "$(uuid 1)" 'type="mtty-2"'
qemu_argument -device "vfio-pci,id=$(uuid 2),sysfsdev=$devices/$(uuid 1)"
define
before=$(definition vm2)
virt-mdev assign --fresh vm2
equal "the definition" "${before//$(uuid 1)/$(assigned vm2)}" "$(definition vm2)"
refuses virt-mdev unassign vm2
contains "the refusal" "$error" "is named in <qemu:commandline>"

virsh -q undefine vm2
virsh -q undefine vm1
