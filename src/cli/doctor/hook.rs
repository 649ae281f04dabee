//! Whether libvirt's daemon calls us, may, and is the only one who does.

use super::{Act, Finding};
use crate::host::{Host, libvirt};

const WHY: &str = "domains start without their devices, or not at all";

pub(super) fn look(host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    let hook = libvirt::HOOK;
    if let Some(lacks) = libvirt::hook_lacks(host) {
        let finding = Finding::new(
            format!("libvirt does not call virt-mdev: /{hook} {lacks}"),
            WHY,
            format!(
                "install the package again, or: mkdir -p /etc/libvirt/hooks/qemu.d && ln -sfT /usr/bin/virt-mdev-hook /{hook}"
            ),
        );
        let can = lacks == "is not there" && host.exists(libvirt::PROGRAM);
        findings.push(if can { finding.with(Act::Link) } else { finding });
    } else if let Some(daemon) = libvirt::running(host).filter(|daemon| !libvirt::sees_hooks(host, daemon)) {
        findings.push(
            Finding::new(
                format!("{} was started before there was a hook, and may not know of it", daemon.name),
                WHY,
                // Whether a daemon has had the signal cannot be seen: the mark says that it has.
                format!("kill -HUP $(cat /run/{}.pid) && touch /{}", daemon.name, libvirt::TOLD),
            )
            .with(Act::Tell(daemon)),
        );
    }
    if let Some(program) = libvirt::confined_out_of(host) {
        findings.push(Finding::new(
            format!("AppArmor does not let libvirt's daemon run {program}"),
            WHY,
            format!("install it in /usr/bin, and link /{hook} to it"),
        ));
    }
    if let Some(kind) = libvirt::mislabelled(host) {
        findings.push(Finding::new(
            format!("SELinux is enforced, and virt-mdev-hook has the type {kind}"),
            "in libvirt's own domain it may not make devices",
            "install virt-mdev-selinux (rpm), or from the source: make selinux && semodule -i target/selinux/virt_mdev.pp; \
             then: restorecon -Rv /usr/bin/virt-mdev* /usr/lib/udev/virt-mdev-udev /usr/lib/systemd/system/virt-mdev-* /run/virt-mdev",
        ));
    }
    if let Some(called) = libvirt::main_script(host).as_deref().and_then(calls_too) {
        findings.push(Finding::new(
            format!("/{} {called}", libvirt::MAIN),
            "libvirt does that by itself, and gives each script the domain's XML; a second call gets what \
             the first has left of it, and refuses the start if that is nothing",
            format!("take that out of /{}", libvirt::MAIN),
        ));
    }
    findings
}

/// Whether the main script calls us once more, in words: by name, or because it runs whatever is in `qemu.d`, as scripts
/// did that are older than libvirt 6.5, which does it itself. One that only reads its own stdin takes nothing from us
/// (`virHookCall` writes the XML to each script anew), and neither does one that looks for a directory of the domain's
/// name there.
fn calls_too(script: &str) -> Option<&'static str> {
    let lines = script.lines().filter(|line| !line.trim_start().starts_with('#'));
    let lines: Vec<String> = lines.map(|line| line.replace(['"', '\''], "")).collect();
    if lines.iter().any(|line| line.contains("virt-mdev-hook") || line.contains("50-virt-mdev")) {
        return Some("calls virt-mdev too");
    }
    let runs_all = |line: &String| {
        let all = ["qemu.d/*", "$0.d/*", "${0}.d/*"].iter().any(|all| line.contains(all));
        let listed = ["qemu.d", "$0.d", "${0}.d"].iter().any(|directory| {
            let mut words = line.split_whitespace().map(|word| word.trim_end_matches([')', ';', '/', '`']));
            words.any(|word| word.ends_with(directory))
        });
        all || listed && ["run-parts", "find ", "ls "].iter().any(|lister| line.contains(lister))
    };
    lines.iter().any(runs_all).then_some("runs the scripts in qemu.d too")
}

#[cfg(test)]
mod tests {
    use super::calls_too;

    #[test]
    fn a_main_script_is_in_the_way_only_if_it_calls_us() {
        let all = Some("runs the scripts in qemu.d too");
        for (script, called) in [
            ("#!/bin/sh\ncat >/dev/null\n", None),
            ("#!/bin/sh\n# not virt-mdev, nor qemu.d/*\ntouch /run/started-$1\n", None),
            ("virt-mdev list >/run/virt-mdev.seen", None),
            ("exec /usr/bin/virt-mdev-hook \"$@\"", Some("calls virt-mdev too")),
            ("/etc/libvirt/hooks/qemu.d/50-virt-mdev $*", Some("calls virt-mdev too")),
            ("for s in /etc/libvirt/hooks/qemu.d/*; do\n\"$s\" \"$@\"\ndone", all),
            ("for s in \"$0\".d/*; do \"$s\" \"$@\"; done", all),
            ("run-parts --arg=\"$1\" --arg=\"$2\" /etc/libvirt/hooks/qemu.d", all),
            ("for s in $(ls '/etc/libvirt/hooks/qemu.d'); do $s; done", all),
            ("for s in `find /etc/libvirt/hooks/qemu.d/ -type f`; do $s; done", all),
            // A directory for each domain, as the scripts for passing a graphics card through have it.
            (
                "HOOKPATH=\"$BASEDIR/qemu.d/$GUEST_NAME/$HOOK_NAME/$STATE_NAME\"\n\
              file=\"$(find -L \"$HOOKPATH\" -maxdepth 1 -type f -executable -print;)\"",
                None,
            ),
            ("ls /etc/libvirt/hooks/qemu.d/$1/prepare", None),
        ] {
            assert_eq!(calls_too(script), called, "{script}");
        }
    }
}
