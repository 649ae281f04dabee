# All twelve places of mtty-2 are taken, by a domain and by hand: the next domain
# is told who holds them.
new_domain vm1
held=()
for number in 1 2 3 4 5 6 7; do
    device "$(uuid "$number")" 'type="mtty-2" parent="mtty"'
    held+=("$(uuid "$number")")
done
define
start vm1
claimed vm1 "${held[@]}"
runs_with vm1 "${held[0]}"
runs_with vm1 "${held[6]}"

taken=()
for number in 101 102 103 104 105; do
    by_hand mtty/mdev_supported_types/mtty-2 "$(uuid "$number")"
    taken+=("$(uuid "$number")")
done
equal "places left" 0 "$(free_places mtty mtty-2)"

step "refused where the parent is named, and where it is not"
before=$(baseline)
for parent in 'parent="mtty"' ''; do
    new_domain vm2
    device "$(uuid 20)" "type=\"mtty-2\" $parent"
    define
    refused vm2 "error: vm2: " "no room for mtty-2" "vm1 (7)" "5 made by others"
    released vm2 "$(uuid 20)"
    equal "devices, claims and records after the refusal" "$before" "$(baseline)"
    virsh -q undefine vm2
done

remove_by_hand "${taken[@]}"
claimed vm1 "${held[@]}"
destroy vm1
released vm1 "${held[@]}"
virsh -q undefine vm1
