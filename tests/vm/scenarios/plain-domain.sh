# A domain without devices: the hook does nothing, touches nothing and costs next
# to nothing.
allowed=25 # system calls more than an empty program with the same libraries

calls() { # TRACE: how many system calls it shows
    grep -cE '^([0-9]+ +)?[a-z_0-9]+\(' "$1"
}

new_domain plain
define
wake_libvirt >/dev/null
before=$(find "$state" -printf '%p %l %i %T@\n' 2>/dev/null || true)
start plain
destroy plain
equal "everything in $state" "$before" "$(find "$state" -printf '%p %l %i %T@\n' 2>/dev/null || true)"

step "the hook under strace, with $state there and without it"
virsh -q dumpxml plain >/run/virt-mdev-test.xml
strace -f -o /run/virt-mdev-test.empty "$share/package/empty"
empty=$(calls /run/virt-mdev-test.empty)
trace=/run/virt-mdev-test.trace

# traced DOMAIN OPERATION...: the hook's system calls, with the paths behind file
# descriptors, in $trace.
traced() {
    strace -f -y -o "$trace" env -i LC_ALL=C PATH="$PATH" USER=root \
        /usr/bin/virt-mdev-hook "$@" </run/virt-mdev-test.xml >/run/virt-mdev-test.out 2>&1
    # The trace begins with env itself, up to its exec of the hook.
    sed -i '1,/execve("\/usr\/bin\/virt-mdev-hook"/{/virt-mdev-hook"/!d}' "$trace"
}

# What the hook changed under /sys or in our state, or tried to.
writes() {
    grep -E '[<"]/(sys|run/virt-mdev)' "$trace" |
        grep -E 'O_(WRONLY|RDWR|CREAT|TRUNC)|^[0-9]+ +(mk|sym|link|unlink|rename|rmdir|ch|fch|utime|trunc|set|creat)' || true
}

look() { # OPERATION SUBOPERATION EXTRA
    local more
    traced plain "$@"
    equal "what the hook says at $1" '' "$(cat /run/virt-mdev-test.out)"
    equal "what the hook writes at $1" '' "$(writes)"
    equal "what the hook touches of configuration, journal, udev and sysfs at $1" '' \
        "$(grep -E '/etc/virt-mdev|/run/systemd/journal|NETLINK|[<"]/sys/' "$trace" || true)"
    more=$(($(calls "$trace") - empty))
    echo "$1: $more system calls more than an empty program ($empty)"
    ((more <= allowed)) || fail "$1: expected at most $allowed system calls more than an empty program, saw $more"
}

every_operation() {
    look prepare begin -
    look start begin -
    look started begin -
    look reconnect begin -
    look stopped end -
    look release end destroyed
}

mv "$state" /run/virt-mdev-test.state 2>/dev/null || true
every_operation
missing "$state"
mv /run/virt-mdev-test.state "$state" 2>/dev/null || true
every_operation
virsh -q undefine plain

step "the same look does see what the hook does for a device"
new_domain vm1
device "$(uuid 1)" 'type="mtty-2" parent="mtty"'
xml >/run/virt-mdev-test.xml
traced vm1 prepare begin -
contains "what the hook writes for a device" "$(writes)" /sys/ "$state/domains" "$state/devices"
contains "the trace for a device" "$(cat "$trace")" /etc/virt-mdev/config.toml
traced vm1 release end failed
gone "$(uuid 1)"
rm /run/virt-mdev-test.{xml,trace,empty,out}
