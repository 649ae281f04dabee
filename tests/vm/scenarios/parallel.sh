# limit: 840 seconds
# Two hundred domains want a place on a card at the same moment: as many get one as
# there are, the others are refused in words, and in the end all is as before.
said=/run/virt-mdev-test.said.d
mkdir -p "$said"
places=$(free_places mtty mtty-1)
equal "places before" 24 "$places"
before=$(baseline)
# Two hundred programs at once, on this host without KVM, take longer than any
# lock is waited for elsewhere.
configure '[wait]
lock = "300s"'

step "200 domains"
new_domain NAME
device DEVICE 'type="mtty-1" parent="mtty"'
template=$(xml | sed "s/$(domain_uuid NAME)/DOMAIN/")
for ((number = 1; number <= 200; number++)); do
    printf -v its 'ea5b0ff2-3cb6-0e2c-5d0e-%012d' "$number"
    printf -v device '83b8f4f2-509f-382f-3c1e-e6bfe0fa%04d' "$number"
    text=${template//NAME/vm$number}
    text=${text//DOMAIN/$its}
    printf '%s\n' "${text//DEVICE/$device}" >"$said/$number.xml"
done

# all OPERATION SUBOPERATION EXTRA: the hook for all of them at once. This shell is
# what starts them, as libvirt's daemon is: it must outlive them. Leaves the
# numbers of those that succeeded in $succeeded.
all() {
    local number pids=()
    for ((number = 1; number <= 200; number++)); do
        env -i LC_ALL=C PATH="$PATH" USER=root /usr/bin/virt-mdev-hook "vm$number" "$@" \
            <"$said/$number.xml" >"$said/$number" 2>&1 3>&- &
        pids+=("$!")
    done
    succeeded=()
    for ((number = 1; number <= 200; number++)); do
        if wait "${pids[number - 1]}"; then succeeded+=("$number"); fi
    done
}

step "prepared at once: exactly as many as there are places"
all prepare begin -
equal "prepares that succeeded" "$places" "${#succeeded[@]}"
equal "places left" 0 "$(free_places mtty mtty-1)"
for number in "${succeeded[@]}"; do
    printf -v device '83b8f4f2-509f-382f-3c1e-e6bfe0fa%04d' "$number"
    exists "$devices/$device" "$state/devices/$device"
    equal "what vm$number was told" '' "$(cat "$said/$number")"
    rm "$said/$number"
done
there=("$devices"/*) records=("$state"/domains/*.json)
equal "devices" "$places" "${#there[@]}"
equal "records" "$places" "${#records[@]}"
refused=0
for answer in "$said"/*; do
    [[ $answer != *.xml ]] || continue
    [[ $(<"$answer") =~ ^"error: vm"[0-9]+": no room for mtty-1 on mtty: 0 ".*"left, held by " ]] ||
        fail "expected ${answer##*/} to be told that there is no room, it was told: $(cat "$answer")"
    refused=$((refused + 1))
done
equal "refusals" $((200 - places)) "$refused"
counted "parallel: 200 prepares for $places places on mtty: ${#succeeded[@]} succeeded, $refused refused"

step "released at once: as before"
all release end shutdown
equal "releases that succeeded" 200 "${#succeeded[@]}"
# Where the machine is slow, a removal among so many takes longer than a release waits: then it is pending, and the next
# look finds it done.
shopt -s nullglob
pending=("$state"/domains/*.json)
counted "parallel: ${#pending[@]} removals took longer than a release waits"
((${#pending[@]} == 0)) || virt-mdev reconcile
equal "devices, claims and records" "$before" "$(baseline)"
equal "places in the end" "$places" "$(free_places mtty mtty-1)"
equal "locks held" '' "$(locks_held)"
rm -r "$said"
