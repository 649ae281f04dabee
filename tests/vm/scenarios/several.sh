# core
# Three devices on two parents in one domain: all of them, or none.
one=$(uuid 1) two=$(uuid 2) three=$(uuid 3)

describe() {
    new_domain "$1"
    device "$one" 'type="mtty-2" parent="mtty"'
    device "$two" 'type="mtty-1" parent="mtty"'
    device "$three" 'type="mbochs-small" parent="mbochs"'
    define
}

step "all three"
describe vm1
start vm1
for device in "$one" "$two" "$three"; do runs_with vm1 "$device"; done
claimed vm1 "$one" "$two" "$three"
equal "types" "mtty-2 mtty-1 mbochs-small" "$(type_of "$one") $(type_of "$two") $(type_of "$three")"
destroy vm1
released vm1 "$one" "$two" "$three"
virsh -q undefine vm1

step "no room for the third: none"
taken=()
for number in 101 102 103 104; do
    by_hand mbochs/mdev_supported_types/mbochs-large "$(uuid "$number")"
    taken+=("$(uuid "$number")")
done
equal "places left on mbochs" 0 "$(free_places mbochs mbochs-small)"
before=$(baseline)
describe vm2
refused vm2 "error: vm2: " "no room" "mbochs-small" "4 made by others" "hint: "
released vm2 "$one" "$two" "$three"
equal "devices, claims and records after the refusal" "$before" "$(baseline)"
virsh -q undefine vm2
remove_by_hand "${taken[@]}"

# Types of mtty share one pool of ports, which only its driver knows: with two
# ports left there is room for one mtty-2 and for two mtty-1, but not for both.
# The plan cannot know that; the second create finds it out, and the first is undone.
step "no room for the second, seen only when the first is there: none"
taken=()
for number in $(seq 101 111); do
    by_hand mtty/mdev_supported_types/mtty-2 "$(uuid "$number")"
    taken+=("$(uuid "$number")")
done
equal "places left" "1 2" "$(free_places mtty mtty-2) $(free_places mtty mtty-1)"
before=$(baseline)
new_domain vm3
device "$one" 'type="mtty-2" parent="mtty"'
device "$two" 'type="mtty-1" parent="mtty"'
define
refused vm3 "error: vm3: " "no room for mtty-1 on mtty" "11 made by others" "vm3" "hint: "
released vm3 "$one" "$two"
equal "devices, claims and records after the refusal" "$before" "$(baseline)"
contains "the journal" "$(journalctl -t virt-mdev --since -2min)" "create $one as mtty-2 on mtty" "destroy $one"
virsh -q undefine vm3
remove_by_hand "${taken[@]}"
