# Release cleans up whatever comes in on stdin. libvirt always sends good XML, so
# the hook is called by hand here.
device=$(uuid 1)
file=/run/virt-mdev-test.xml input=/run/virt-mdev-test.input

new_domain vm1
device "$device" 'type="mtty-2" parent="mtty"'
define
virsh -q dumpxml vm1 >"$file"
uuid_at=$(grep -b -o '<uuid>' "$file" | cut -d: -f1)

padding() { # 5 MiB that are no XML
    head -c 5242880 /dev/zero | tr '\0' x
}

# cleans_up WHAT: prepares the device, then releases with $input as stdin.
cleans_up() {
    local said
    step "$1"
    hook vm1 prepare begin - <"$file"
    exists "$devices/$device" "$(record_of vm1)"
    said=$(hook vm1 release end destroyed <"$input" 2>&1) ||
        fail "$1: expected release to exit 0, it said: $said"
    released vm1 "$device"
}

cp "$file" "$input"
cleans_up "well-formed"
: >"$input"
cleans_up "empty"
head -c $((uuid_at - 1)) "$file" >"$input"
cleans_up "truncated before the uuid"
head -c $((uuid_at + 20)) "$file" >"$input"
cleans_up "truncated within the uuid"
head -c $((uuid_at + 60)) "$file" >"$input"
cleans_up "truncated after the uuid"
{ cat "$file" && padding; } >"$input"
cleans_up "5 MiB, the domain first"
{ padding && cat "$file"; } >"$input"
cleans_up "5 MiB, the domain last"
padding >"$input"
cleans_up "5 MiB of nothing"
printf '\377\376\0\0<<<&&&' >"$input"
cleans_up "no text at all"

step "closed"
hook vm1 prepare begin - <"$file"
hook vm1 release end destroyed <&-
released vm1 "$device"

step "again, with nothing to do"
hook vm1 release end destroyed <"$file"
released vm1 "$device"
virsh -q undefine vm1
rm "$file" "$input"
