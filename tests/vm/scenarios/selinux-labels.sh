# host: selinux
# The host's nodes carry the context of the domain that has them, whatever udev does to
# them, and afterwards the one from before.
one=$(uuid 1) two=$(uuid 2)

context() {
    stat -c %C "$1"
}

# image_of NAME: the context that libvirt has chosen for the domain's devices.
image_of() {
    virsh dumpxml "$1" | sed -n "s|.*<imagelabel>\(system_u:object_r:svirt_image_t:[^<]*\)</imagelabel>.*|\1|p"
}

# watch NODE CONTEXT: until it is ended, every other context that the node is seen to have.
watch() {
    # shellcheck disable=SC2016 # perl's own variables
    perl -e 'my ($node, $good) = @ARGV; my $name = "security.selinux";
        my $looks = 0; my $run = 1; my $wrong = 0;
        $SIG{TERM} = sub { $run = 0 };
        while ($run) {
            my $context = "\0" x 256;
            my $length = syscall(191, $node, $name, $context, 256); # getxattr
            $looks++;
            $context = substr $context, 0, $length > 0 ? $length : 0;
            $context =~ s/\0.*//s;
            $wrong++ if $context ne $good;
        }
        print "$looks looks, $wrong wrong\n"' "$1" "$2" >/run/virt-mdev-test.watch 3>&- &
    watcher=$!
}

new_domain vm1
device "$one" 'type="mtty-2" parent="mtty"'
define
new_domain vm2
device "$two" 'type="mtty-1" parent="mtty"'
define

step "each node carries its own domain's context"
by_hand mtty/mdev_supported_types/mtty-2 "$one"
node=$(node_of "$one")
udevadm settle
before=$(context "$node")
start vm1
start vm2
image=$(image_of vm1)
[[ $image =~ ^system_u:object_r:svirt_image_t:s0:c[0-9]+,c[0-9]+$ ]] || fail "the context of vm1's images: $image"
equal "context of the host's node of vm1" "$image" "$(context "$node")"
equal "context of the host's node of vm2" "$(image_of vm2)" "$(context "$(node_of "$two")")"
equal "owner of the host's node of vm1" "$(qemu_owner) 600" "$(label_of "$node")"
runs_with vm1 "$one"

step "udev deals with the node anew, again and again"
watch "$node" "$image"
for ((time = 1; time <= 50; time++)); do
    udevadm trigger --settle --action=add "$node"
    udevadm trigger --settle --action=change "$node"
done
kill "$watcher"
wait "$watcher"
seen=$(cat /run/virt-mdev-test.watch)
rm /run/virt-mdev-test.watch
[[ $seen =~ ^[0-9]{3,}\ looks,\ 0\ wrong$ ]] || fail "what the watcher of $node saw: $seen"
counted "selinux: context of a running domain's node, 100 events of udev, $seen"

step "afterwards it is as before"
destroy vm1
equal "context of the node of vm1, which stays" "$before" "$(context "$node")"
equal "owner of it" '0:0 600' "$(label_of "$node")"
destroy vm2
released vm2 "$two"
remove_by_hand "$one"

step "a label of nobody's is refused"
if said=$(xml | sed "s|</domain>|<seclabel type='dynamic' model='selinux' relabel='yes'><imagelabel>nonsense</imagelabel></seclabel></domain>|" |
    hook vm2 prepare begin - 2>&1); then
    fail "a context that is none: expected a refusal"
fi
contains "what the hook says" "$said" "error: vm2: the <seclabel model='selinux'> of the domain has the label \"nonsense\""
virsh -q undefine vm1
virsh -q undefine vm2
equal "denials" '' "$(denials)"
