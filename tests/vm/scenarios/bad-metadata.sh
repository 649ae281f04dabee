# Every mistake in the metadata is one clear line in the error of virsh start,
# found before anything is written.
configure 'wait.parent = "1s"' # for a parent that is not there
device=$(uuid 1)

# The directories of the state are there from the first device on; a device that
# comes and goes shows that they are, and that the plain request is a good one.
good='type="mtty-2" parent="mtty"'
new_domain vm1
device "$device" "$good"
xml >/run/virt-mdev-test.xml
wake_libvirt >/dev/null
define
virsh -q dumpxml vm1 >/run/virt-mdev-test.xml
hook vm1 prepare begin - </run/virt-mdev-test.xml
exists "$devices/$device"
hook vm1 release end failed </run/virt-mdev-test.xml
gone "$device"

# Every trace that work leaves: state with its times, and the kernel's word for
# each device that came, were it gone again already.
traces() {
    find "$state/devices" "$state/domains" "$state/by-name" -printf '%p %l %i %T@\n' | sort
    dmesg | grep -c 'Adding to iommu group'
}

# wrong WHAT PART...: the domain described so far is refused.
wrong() {
    local what=$1 before
    step "$what"
    define
    before=$(traces)
    refused vm1 "error: vm1: " "${@:2}"
    one_line
    equal "what was written for: $what" "$before" "$(traces)"
}

# Our sentence is one line; a hint may follow on a line of its own.
one_line() {
    local said
    said=$(sed -n '/error: vm1: /,$p' <<<"$error" | sed 1d | grep -v -e '^hint: ' -e '^$' || true)
    equal "lines after our sentence" '' "$said"
}

request() { # ATTRIBUTES [CHILDREN]
    new_domain vm1
    device "$device" "$@"
}

request 'tpye="mtty-2" parent="mtty"'
wrong "a misspelt attribute" tpye

request "$good" '<mdev:atribute name="settings/first" value="1"/>'
wrong "a misspelt element" atribute

new_domain vm1
wanted="<mdev:devise uuid='$device' type='mtty-2'/>"
hostdev "$device"
wrong "a misspelt element instead of device" devise

request "$good" '<mdev:attribute nmae="settings/first" value="1"/>'
wrong "a misspelt attribute of attribute" nmae

request "$good keep=\"perhaps\""
wrong "a value that is none" keep perhaps

new_domain vm1
wants 83b8f4f2-509f-382f-3c1e "$good"
hostdev "$device"
wrong "a bad uuid" uuid 83b8f4f2-509f-382f-3c1e

new_domain vm1
device "$device" "$good"
wants "$device" "$good"
wrong "the same uuid twice" "$device" "more than one"

new_domain vm1
device "$device" "$good"
wants "${device^^}" "$good"
wrong "the same uuid twice, once in capitals" "$device" "more than one"

request 'type="../../x" parent="mtty"'
wrong "a type that is a path" type ../../x

request 'type="mtty-2" parent="../../../etc"'
wrong "a parent that is a path" parent ../../../etc

request 'type="mtty-9" parent="mtty"'
wrong "an unknown type" mtty-9

request 'type="mtty-9"'
wrong "an unknown type, no parent" mtty-9

request 'type="mtty-2" parent="nothing"'
wrong "an unknown parent" nothing

for name in ../../../etc/x /etc/x settings/../remove remove power/control uevent mdev_type/create ''; do
    request "$good" "$(attribute "$name" 1)"
    wrong "the attribute name \"$name\"" "${name:-name}"
done

# Only a device that exists can show that an attribute is a link, so this one is
# made and undone; what the link leads to is not written.
step "an attribute that is a link"
request "$good" "$(attribute link written-through-the-link)"
define
refused vm1 "error: vm1: " link
one_line
released vm1 "$device"
virsh -q dumpxml vm1 >/run/virt-mdev-test.xml
if strace -f -o /run/virt-mdev-test.trace /usr/bin/virt-mdev-hook vm1 prepare begin - </run/virt-mdev-test.xml 2>/dev/null; then
    fail "expected the hook to refuse the attribute link"
fi
if grep 'write([0-9]*, "written-through-the-link"' /run/virt-mdev-test.trace; then
    fail "expected nothing to be written through the link"
fi
rm /run/virt-mdev-test.trace
hook vm1 release end failed </run/virt-mdev-test.xml
gone "$device"

# What libvirt itself drops or refuses in a domain does not reach the hook through
# virsh; so these are for the hook alone.
wrong_for_the_hook() { # WHAT PART..., the XML on stdin
    local before
    step "$1"
    before=$(traces)
    if error=$(hook vm1 prepare begin - 2>&1); then
        fail "expected the hook to refuse $1"
    fi
    echo "$error"
    contains "the hook's error" "$error" "error: vm1: " "${@:2}"
    one_line
    equal "what was written for: $1" "$before" "$(traces)"
    hook vm1 release end failed </run/virt-mdev-test.xml
}

new_domain vm1
wants "$device" "$good"
hostdev "$device" vfio-ap
wrong_for_the_hook "a hostdev of another model" model vfio-ap vfio-pci "hint: " < <(xml)

request "$good"
wrong_for_the_hook "a DTD" DTD < <(echo '<!DOCTYPE domain [<!ENTITY type "mtty-2">]>' && xml)

step "what was refused before any worker was begun is in the journal, too"
journalctl --sync
contains "the journal of vm1" "$(journalctl -q -t virt-mdev VIRT_MDEV_DOMAIN=vm1 -o cat)" 'unknown attribute "tpye"' 'hint: did you mean "type"?'
virsh -q undefine vm1
