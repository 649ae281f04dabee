# limit: 900 seconds
# What mdevctl's definitions say is to start comes up with its parent, once, by udev
# and a unit, where the configuration says so.
definitions=/etc/mdevctl.d

make_definitions() { # PARENT TYPE FIRST LAST
    local number
    mkdir -p "$definitions/$1"
    for ((number = $3; number <= $4; number++)); do
        echo "{ \"mdev_type\": \"$2\", \"start\": \"auto\", \"attrs\": [] }" >"$definitions/$1/$(uuid "$number")"
    done
}

there() { # NUMBER: so many devices are there
    (($(find "$devices" -type l | wc -l) == $1))
}

idle() { # no unit is at work, and udev neither
    udevadm settle --timeout=30 && [[ -z $(systemctl list-jobs --no-legend 'virt-mdev-autostart@*') ]]
}

reload() {
    rmmod mtty mbochs mdpy
    modprobe -a mtty mbochs mdpy
}

step "60 definitions on three parents, five of them damaged"
make_definitions mtty mtty-1 201 220
make_definitions mbochs mbochs-small 301 336
make_definitions mdpy mdpy-vga 401 404
damaged() { echo "$definitions/mbochs/$(uuid "30$1")"; }
printf '{ "mdev_type": "mboc' >"$(damaged 1)"
echo '{ "mdev_type": 7, "start": "auto" }' >"$(damaged 2)"
echo '{ "mdev_type": "mbochs-small", "start": "auto", "attrs": [ { "../../x": "1" } ] }' >"$(damaged 3)"
rm "$(damaged 4)" "$(damaged 5)"
ln -s "$(damaged 1)" "$(damaged 4)"
mkdir "$(damaged 5)"

step "mdevctl's own rule does it where it is there: ours does nothing, and doctor says so"
configure '[udev]
autostart = true'
contains "doctor" "$(virt-mdev doctor 2>&1 || true)" "is brought up by mdevctl, by /usr/lib/udev/rules.d/60-mdevctl.rules" "60-mdevctl.rules has mdevctl bring up what is defined" "ln -s /dev/null"
reload
wait_for 240 "udev" idle
equal "units of ours" "" "$(systemctl list-units --all --no-legend 'virt-mdev-autostart@*')"

step "masked: 55 come up once each, five are named in the journal"
mkdir -p /run/udev/rules.d
ln -s /dev/null /run/udev/rules.d/60-mdevctl.rules
udevadm control --reload
since=$(date +%s)
reload
wait_for 120 "55 devices" there 55
wait_for 240 "udev" idle
there 55 || fail "expected 55 devices to stay, there are $(find "$devices" -type l | wc -l)"
journal=$(journalctl -q -u 'virt-mdev-autostart@*' --since "@$since" -o cat)
equal "lines of what was started" 55 "$(grep -c '^started ' <<<"$journal")"
for number in 1 2 3 4 5; do contains "the journal" "$journal" "$(damaged "$number")"; done
contains "the journal" "$journal" "5 of the devices defined for mbochs could not be brought up"
missing "$state/domains"/* "$state/devices"/*
before=$(find "$devices/" -mindepth 1 -printf "%f %i\n" | sort)

step "200 events of the parents at once start nothing twice, and hold up nobody"
storm() {
    local began=${EPOCHREALTIME/./} number action
    for ((number = 0; number < 50; number++)); do
        for action in add change; do
            echo "$action" >/sys/class/mdev_bus/mtty/uevent
            echo "$action" >/sys/class/mdev_bus/mdpy/uevent
        done
    done
    udevadm settle --timeout=60
    took=$(((${EPOCHREALTIME/./} - began) / 1000))
}
# libvirt's daemon runs mdevctl at each of them, for minutes.
systemctl stop "$daemon.service" "${sockets[@]}"
ln -s /dev/null /run/udev/rules.d/60-virt-mdev.rules
udevadm control --reload
storm
without=$took
rm /run/udev/rules.d/60-virt-mdev.rules
udevadm control --reload
since=$(date +%s)
storm
counted "udev: 200 events of parents took $took ms, without the rule $without ms"
if pgrep -x virt-mdev-udev; then fail "expected no process of ours after the last event"; fi
wait_for 240 "udev" idle
equal "devices" "$before" "$(find "$devices/" -mindepth 1 -printf "%f %i\n" | sort)"
equal "what was started" "" "$(journalctl -q -u 'virt-mdev-autostart@*' --since "@$since" -o cat | grep '^started ')"

systemctl start "$daemon.service"

step "the parents go and come back, and so do the devices"
reload
wait_for 120 "55 devices" there 55
wait_for 240 "udev" idle

step "a domain uses one and leaves it"
device=$(uuid 201)
new_domain vm1
hostdev "$device"
define
start vm1
runs_with vm1 "$device"
destroy vm1
missing "$(record_of vm1)" "$state/devices/$device"
exists "$devices/$device"
virsh -q undefine vm1

for number in 5 4 3 2 1; do rm -r "$(damaged "$number")"; done
rm -r "$definitions"/{mtty,mbochs,mdpy} /run/udev/rules.d/60-mdevctl.rules
udevadm control --reload
rmmod mtty mbochs mdpy
wait_for 240 "udev" idle
systemctl reset-failed 'virt-mdev-autostart@*' 2>/dev/null || true
modprobe -a mtty mbochs mdpy
wait_for 240 "udev" idle
