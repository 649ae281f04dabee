#!/bin/bash
# What a kernel with the sample driver mtty answers, as text that does not
# depend on the machine: the emulated host must answer the same bytes.
#
#   tests/emulator/compare.sh >transcript     on the real host, or as the
#                                             command of virt-mdev-emulator
#
# It needs the mtty of tests/vm (with the attributes of guest/attributes.h), no
# mtty device made yet, root, bash and coreutils.
export LC_ALL=C
# Job control, a locale or a noclobber of the caller must not show.
set +o noclobber

parent=/sys/class/mdev_bus/mtty
types=$parent/mdev_supported_types
bus=/sys/bus/mdev/devices
one=aaaaaaaa-0000-4000-8000-000000000001
two=aaaaaaaa-0000-4000-8000-000000000002
device=$bus/$one

if [[ ! -e $types ]] || compgen -G "$types/*/devices/*" >/dev/null; then
    echo "error: compare.sh: this needs mtty, and none of its devices made" >&2
    exit 1
fi

# --- how it is told -----------------------------------------------------------

# Numbers that vary, and the names of the programs that complain.
plain() {
    sed -E \
        -e 's|iommu_groups/[0-9]+|iommu_groups/N|g; s|vfio/[0-9]+|vfio/N|g; s|vfio[0-9]+|vfioN|g' \
        -e 's|^(MAJOR\|MINOR)=[0-9]+|\1=N|; s|^[0-9]+:[0-9]+$|N:N|' \
        -e 's|^[^:]*compare\.sh: line [0-9]+: ||; s|^(cat\|dd\|ls\|mkdir\|rm\|rmdir\|mv\|ln\|stat\|truncate\|touch\|mknod): ||'
}

step() {
    echo
    echo "== $*"
}

# tell WORDS COMMAND...: the words, what the command says, and its status.
tell() {
    local words=$1 output status
    shift
    output=$("$@" 2>&1)
    status=$?
    echo "$words: $status"
    [[ -z $output ]] || plain <<<"$output" | sed 's/^/    /'
}

# write FILE DATA: one write to what is there, as the hook writes: no O_CREAT,
# no O_TRUNC. DATA is printf's.
write() {
    # shellcheck disable=SC2059 # the data is a format
    printf -- "$2" | dd of="$1" bs=8192 iflag=fullblock conv=notrunc,nocreat status=none
}

# The same with O_CREAT and O_TRUNC, as a shell writes.
# shellcheck disable=SC2059
redirect() { printf -- "$2" >"$1"; }
# shellcheck disable=SC2059
append() { printf -- "$2" >>"$1"; }

# part FILE SKIP COUNT: bytes from the middle.
part() { dd if="$1" bs=1 skip="$2" count="$3" status=none; }

# listing DIRECTORY: names with mode, number of links, size, and target.
listing() {
    local name
    (cd "$1" && for name in *; do
        if [[ -L $name ]]; then
            echo "$name -> $(readlink "$name") $(stat -c '%A %h %s' "$name")"
        else
            stat -c '%n %A %h %s %U:%G' "$name"
        fi
    done)
}

create() { write "$types/$1/create" "$2"; }
free() { cat "$types"/mtty-{1,2}/available_instances; }

# --- what is asked ------------------------------------------------------------

step "the parent"
tell "class link" readlink "$parent"
tell "its files" listing "$parent/"
tell "types" listing "$types"
for type in mtty-1 mtty-2; do
    tell "files of $type" listing "$types/$type"
    for file in name device_api available_instances description create devices; do
        tell "read $type/$file" cat "$types/$type/$file"
    done
done
tell "a part of a name" part "$types/mtty-1/name" 7 4
tell "from the middle to the end" part "$types/mtty-1/name" 12 4096
tell "beyond the end" part "$types/mtty-1/name" 100 4
tell "in a page after it" part "$types/mtty-1/name" 5000 4

step "what is not there"
tell "write" write "$types/mtty-1/missing" x
tell "write with O_CREAT" redirect "$types/mtty-1/missing" x
tell "append with O_CREAT" append "$types/mtty-1/missing" x
tell "read" cat "$types/mtty-1/missing"
tell "a type" write "$types/mtty-3/create" "$one"
tell "a parent" write "/sys/class/mdev_bus/missing/mdev_supported_types/mtty-1/create" "$one"
tell "a device's remove" write "$device/remove" 1
tell "that with O_CREAT" redirect "$device/remove" 1
tell "below a file" cat "$types/mtty-1/name/x"

step "what cannot be done in sysfs"
tell "mkdir" mkdir "$types/mtty-9"
tell "mkdir of one that is there" mkdir "$types/mtty-1"
tell "rmdir" rmdir "$types/mtty-1"
tell "rm" rm -f "$types/mtty-1/name"
tell "rm of a missing one" rm "$types/mtty-1/missing"
tell "mv" mv -T "$types/mtty-1" "$types/mtty-9"
tell "ln -s" ln -s x "$types/link"
tell "ln" ln "$types/mtty-1/name" "$types/mtty-1/other"
tell "mkfifo" mknod "$types/fifo" p
tell "read a directory" dd if="$types" bs=1 count=1 status=none
tell "write a directory" redirect "$types" x
tell "write a read-only one" write "$types/mtty-1/name" x
tell "truncate" truncate -s 5 "$types/mtty-1/create"
tell "size after that" stat -c %s "$types/mtty-1/create"
tell "chmod" chmod 0600 "$types/mtty-1/create"
tell "mode after that" stat -c %a "$types/mtty-1/create"
chmod 0200 "$types/mtty-1/create"

step "create"
tell "35 bytes" create mtty-1 "${one%?}"
tell "38 bytes" create mtty-1 "$one\\n\\n"
tell "nothing" create mtty-1 ""
tell "a newline" create mtty-1 "\\n"
tell "36 bytes that are no uuid" create mtty-1 "${one/aaaaaaaa/gaaaaaaa}"
tell "dashes elsewhere" create mtty-1 "aaaaaaa-a0000-4000-8000-000000000001"
tell "36 bytes and a blank before them" create mtty-1 " $one"
tell "5000 bytes" create mtty-1 "$(printf '%05000d' 0)"
tell "nothing was made" ls "$bus"
tell "36 bytes" create mtty-2 "$one"
tell "free" free
tell "the same again" create mtty-2 "$one"
tell "with a newline" create mtty-2 "$one\\n"
tell "of another type" create mtty-1 "$one"
tell "in upper case" create mtty-1 "${one^^}"
tell "37 bytes, the last an x" create mtty-1 "${two^^}x"
tell "shown in lower case" ls "$bus"
tell "with O_CREAT and O_TRUNC" redirect "$types/mtty-1/create" "${one/%1/3}"
tell "appended" append "$types/mtty-1/create" "${one/%1/4}"
tell "free" free

step "a device"
tell "bus link" readlink "$device"
tell "its files" listing "$device/"
tell "its directory" stat -c '%A %h %s' "$device/"
for directory in vendor settings vfio-dev iommu_group/ iommu_group/devices driver/; do
    tell "files of $directory" listing "$device/$directory"
done
tell "files of vfio-dev/*" listing "$device"/vfio-dev/*
tell "uevent of vfio-dev/*" cat "$device"/vfio-dev/*/uevent
tell "devices of its type" listing "$types/mtty-2/devices"
for file in vendor/sample_mdev_dev uevent mdev_type/name remove settings/first settings/log iommu_group/type \
    iommu_group/name iommu_group/reserved_regions; do
    tell "read $file" cat "$device/$file"
done
group=$(basename "$(readlink "$device/iommu_group")")
tell "class device of the group" readlink "/sys/class/vfio/$group"
tell "its files" listing "/sys/class/vfio/$group/"
tell "its number" cat "/sys/class/vfio/$group/dev"
tell "its uevent" cat "/sys/class/vfio/$group/uevent"

step "attributes"
tell "write" write "$device/settings/first" 1
tell "read" cat "$device/settings/first"
tell "refused" write "$device/settings/second" bad
tell "with a newline" write "$device/settings/first" "1\\n"
tell "too long" write "$device/settings/first" "$(printf '%064d' 0)"
tell "longer than a page" write "$device/settings/first" "$(printf '%05000d' 0)"
tell "nothing" write "$device/settings/first" ""
tell "with O_CREAT and O_TRUNC" redirect "$device/settings/second" 2
tell "appended" append "$device/plain" "a b"
tell "through a link" write "$device/link" c
tell "read-only" write "$device/settings/log" x
tell "what the driver saw" cat "$device/settings/log"
tell "a missing one" write "$device/settings/third" x
tell "a missing one with O_CREAT" redirect "$device/settings/third" x

step "the node"
# Only its mode: the emulated one cannot be a character device.
tell "mode" stat -c '%a %U:%G' "/dev/vfio/$group"
tell "of the container" stat -c '%a %U:%G' /dev/vfio/vfio
twice() {
    exec 3<>"/dev/vfio/$group" || return
    # In a shell of its own: one that fails to redirect `exec` ends.
    (exec 4<>"/dev/vfio/$group")
}
tell "opened twice" twice
tell "and again after that" dd if=/dev/null of="/dev/vfio/$group" conv=notrunc,nocreat status=none

step "no room"
for number in $(seq 11 19); do
    create mtty-2 "${one%01}$number"
done
tell "free" free
tell "a small one" create mtty-1 "${one%01}21"
tell "free" free
tell "a large one" create mtty-2 "${one%01}22"
tell "no traces of it" ls -d "$bus/${one%01}22" "$parent/${one%01}22"

step "remove"
for data in "" x "\\n" " 1" "1 " -1 1x 0x 99999999999999999999 0 "0\\n" 00 0x0; do
    tell "write \"$data\"" write "$device/remove" "$data"
done
tell "read" cat "$device/remove"
tell "it is still there" ls -d "$device"
through_kept_handles() {
    # shellcheck disable=SC2094 # two handles on one file are meant
    exec 3>"$device/remove" 4<"$device/settings/first" 5>"$device/settings/first"
    write "$device/remove" 1 || return
    printf 1 >&3
    cat <&4
    printf 1 >&5
}
tell "through handles from before" through_kept_handles
tell "again" write "$device/remove" 1
tell "again with O_CREAT" redirect "$device/remove" 1
tell "no traces" ls -d "$device" "$parent/$one" "$types/mtty-2/devices/$one" "/dev/vfio/$group" "/sys/class/vfio/$group" \
    "/sys/kernel/iommu_groups/$group"
tell "hexadecimal, with a newline" write "$bus/$two/remove" "0x1\\n"
tell "the same uuid anew" create mtty-2 "$one"
tell "without what it had been told" cat "$device/settings/log"
tell "with O_CREAT and O_TRUNC" redirect "$device/remove" "+7\\n"
for left in "$types"/mtty-*/devices/*; do
    write "$left/remove" 1
done
tell "all of them gone" ls "$bus"
tell "free" free
