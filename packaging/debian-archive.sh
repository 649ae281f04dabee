# Where this machine gets Debian packages from, for roots of other suites. Sourced by tests/vm/image, tests/vm/virtqemud,
# packaging/deb-in and packaging/readme-in.
# shellcheck shell=bash

# archive SUITE: the first Debian archive that this machine's own apt knows, as a line for sources.list. Nothing where
# there is none (another distribution): mmdebstrap then uses its own default.
archive() {
    local suite=$1 uri file key
    # The origin is known only after an apt-get update; before, the archive's usual path has to do.
    # shellcheck disable=SC2016 # apt's own variables
    read -r uri file < <(
        apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(SOURCESENTRY)' 'Created-By: Packages' 2>/dev/null |
            awk -F'|' '
                ($1 == "Debian" && $2 == "Debian") || ($1 !~ /^[A-Z]/ && $3 ~ /\/debian\/?$/) {
                    sub(/:[0-9]+$/, "", $4); print $3, $4; exit
                }'
    ) || return 0
    [[ -n $uri ]] || return 0
    key=$(signed_by "$file")
    # The archive's keys of the machine may be older than the suite; the packaged keyring then helps, and mmdebstrap finds
    # that one by itself.
    [[ $key == /usr/share/keyrings/debian-archive-keyring.gpg ]] && key=
    if [[ -n $key ]]; then echo "deb [signed-by=$key] $uri $suite main"; else echo "$uri"; fi
}

# The keyring file that a sources file names, in either of apt's two formats.
signed_by() {
    sed -n -E \
        -e '/^[[:space:]]*#/d' \
        -e 's|^Signed-By:[[:space:]]*(/[^[:space:]]+).*|\1|Ip' \
        -e 's|^deb[[:space:]]+\[.*signed-by=(/[^] ]+).*|\1|p' "$1" 2>/dev/null | head -n1
}

# How this machine reaches its archive (proxy, retries, dates), for mmdebstrap's apt, which does not read /etc/apt by
# itself.
apt_options() {
    echo 'APT::Install-Recommends "false";'
    apt-config dump 2>/dev/null |
        grep -E '^Acquire::(https?|ftp|Check-|Retries|ForceIPv|Queue-Mode)[^ ]* ".+";$' || true
}

# mmdebstrap, which makes a minimal Debian. It hands pipes to shells by number, and dash knows none above 9: so it gets no
# descriptor of ours but the first three. Whoever sources this says in as_root how to become root.
minimal_debian() { # ARGUMENT... SUITE DIRECTORY [SOURCES...]
    (
        for path in /proc/self/fd/*; do
            number=${path##*/}
            # Those above do not matter: what it opens gets the lowest numbers that are free.
            [[ $number -le 2 || $number -gt 9 ]] || exec {number}>&-
        done
        # shellcheck disable=SC2154 # see above
        exec "${as_root[@]}" mmdebstrap --mode=root --variant=minbase "$@"
    )
}

# make_debian_root SUITE WORK PACKAGES [OPTION...]: a minimal Debian in WORK/root with PACKAGES ("a,b") and mmdebstrap's
# OPTIONs; the log beside it is shown if it fails.
make_debian_root() {
    local suite=$1 work=$2 packages=$3 sources
    sources=$(archive "$suite")
    apt_options >"$work/apt.conf"
    minimal_debian --include="$packages" --aptopt="$work/apt.conf" "${@:4}" \
        "$suite" "$work/root" ${sources:+"$sources"} >"$work/log" 2>&1 || {
        tail -n 30 "$work/log" >&2
        return 1
    }
}
