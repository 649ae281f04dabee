# core
# Whose labels the nodes carry: each domain's its own, from before QEMU opens them to
# the end; and what is wrong with a label is said before anything is done.
one=$(uuid 1) two=$(uuid 2)
before=$(baseline)

# owned NAME UUID USER:GROUP: a domain whose author says whom its QEMU runs as.
owned() {
    new_domain "$1"
    device "$2" 'type="mtty-1" parent="mtty"'
    xml | sed "s|</domain>|<seclabel type='static' model='dac' relabel='yes'><label>$3</label></seclabel></domain>|" \
        >"/run/virt-mdev-test.$1"
    virsh -q define "/run/virt-mdev-test.$1"
    rm "/run/virt-mdev-test.$1"
}

# watch NODE OWNER...: until it is stopped, every owner that the node is seen to have
# and that is none of these.
watch() {
    # shellcheck disable=SC2016 # perl's own variables
    nice perl -e 'my $node = shift; my %good = map { $_ => 1 } @ARGV; my $looks = 0;
        $SIG{TERM} = sub { print "looks $looks\n"; exit };
        while (1) {
            my @stat = stat $node or next;
            $looks++;
            print "wrong $stat[4]:$stat[5]\n" unless $good{"$stat[4]:$stat[5]"};
        }' "$@" >"/run/virt-mdev-test.watch.$(basename "$1")" 3>&- &
    watchers+=("$!")
}
watchers=()

step "two domains at once, each with a group of its own"
id_of() { echo "$(id -u libvirt-qemu):$(getent group "$1" | cut -d: -f3)"; }
owned vm1 "$one" libvirt-qemu:libvirt-qemu
owned vm2 "$two" libvirt-qemu:kvm
by_hand mtty/mdev_supported_types/mtty-1 "$one"
by_hand mtty/mdev_supported_types/mtty-1 "$two"
node1=$(node_of "$one") node2=$(node_of "$two")
# The kernel writes the two numbers of an owner one after the other, and a look takes no
# lock (setattr_copy, generic_fillattr): one in a million sees root's user with the
# domain's group, or the reverse. Neither is the other domain's.
user=$(id -u libvirt-qemu)
for pair in "$node1 $(id_of libvirt-qemu)" "$node2 $(id_of kvm)"; do
    read -r node owner <<<"$pair"
    watch "$node" 0:0 "$owner" "0:${owner#*:}" "$user:0"
done
virsh -q start vm1 &
begun=$!
start vm2
wait "$begun"
equal "label of the node of vm1" "$(id_of libvirt-qemu) 600" "$(label_of "$node1")"
equal "label of the node of vm2" "$(id_of kvm) 600" "$(label_of "$node2")"
destroy vm1
equal "label of the node of vm2 when vm1 has gone" "$(id_of kvm) 600" "$(label_of "$node2")"
destroy vm2
for node in "$node1" "$node2"; do equal "label of $node afterwards" '0:0 600' "$(label_of "$node")"; done
kill "${watchers[@]}"
wait "${watchers[@]}" || true
for node in "$node1" "$node2"; do
    seen=$(cat "/run/virt-mdev-test.watch.${node##*/}")
    rm "/run/virt-mdev-test.watch.${node##*/}"
    [[ $seen =~ ^looks\ [0-9]{4,}$ ]] || fail "what the watcher of $node saw: $seen"
    counted "labels: ${seen#looks } looks at $node, none with the label of the other domain"
done
remove_by_hand "$one" "$two"
virsh -q undefine vm1
virsh -q undefine vm2
equal "devices, claims and records" "$before" "$(baseline)"

step "labels that no host has are refused by name, before any effect"
new_domain vm1
device "$one" 'type="mtty-1" parent="mtty"'
plain=$(xml)
# with LABEL: the XML of a start with that owner, as libvirt writes it.
with() {
    local label="<seclabel type='dynamic' model='dac' relabel='yes'><label>$1</label></seclabel>"
    echo "${plain/'</domain>'/"$label</domain>"}"
}
long=$(head -c 65536 /dev/zero | tr '\0' a)
hook vm1 prepare begin - <<<"$plain"
prepared=$(baseline)
for label in 'nosuchuser:nogroup' 'nobody:nosuchgroup' '+4294967296:+0' '+4294967295:+0' '+0:+0&#10;x' "$long:+0" 'nobody'; do
    if said=$(with "$label" | hook vm1 start begin - 2>&1); then fail "start with ${label:0:40}: expected a refusal"; fi
    contains "what the hook says of ${label:0:40}" "$said" "error: vm1: the <seclabel model='dac'> of the domain has the label \"" "hint: "
    equal "lines of it" 2 "$(wc -l <<<"$said")"
    equal "label of the node" '0:0 600' "$(label_of "$(node_of "$one")")"
done
if said=$(with 'a&#0;b' | hook vm1 start begin - 2>&1); then fail "a NUL in a label: expected a refusal"; fi
contains "what the hook says of a NUL" "$said" "error: vm1: " malformed
equal "devices, claims and records" "$prepared" "$(baseline)"
hook vm1 release end failed <<<"$plain"
if said=$(with nosuchuser:nogroup | sed s/dynamic/static/ | hook vm1 prepare begin - 2>&1); then
    fail "a static label at prepare: expected a refusal"
fi
contains "what the hook says at prepare" "$said" "the label \"nosuchuser:nogroup\": the user is not known on this host"
equal "devices, claims and records" "$before" "$(baseline)"

step "not root, as a session daemon calls it: nothing, at once and without a word"
for operation in 'prepare begin' 'start begin' 'started begin' 'stopped end' 'release end' 'reconnect begin'; do
    # shellcheck disable=SC2086 # two words
    said=$(setpriv --reuid nobody --clear-groups /usr/bin/virt-mdev-hook vm1 $operation - <<<"$plain" 2>&1) ||
        fail "$operation: expected success, it said: $said"
    equal "what the hook says at $operation" '' "$said"
done
equal "devices, claims and records" "$before" "$(baseline)"
