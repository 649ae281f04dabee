//! The verbs that only read, for whoever is not root: they tell what they can, say what they cannot, and send nobody to
//! sudo.

use std::process::Output;

use virt_mdev_emulator::client::Emulated;

use super::{DOMAIN, UUID, built, hook, says};

/// Where a user of no groups can run them: the checkout may lie in somebody's home.
const PROGRAMS: &str = "/run/programs";

fn host() -> Emulated {
    let host = super::host("mtty", &[]);
    let program = built("virt-mdev");
    let script = format!(
        "mkdir {PROGRAMS} && mount -t tmpfs -o mode=755 tmpfs {PROGRAMS} && cp {} {PROGRAMS}",
        program.display()
    );
    assert_eq!(says(&host, &script), "");
    host
}

fn run(host: &Emulated, arguments: &str) -> Output {
    let user = "setpriv --reuid 64055 --regid 108 --clear-groups";
    host.run(&["bash", "-c", &format!("exec {user} {PROGRAMS}/virt-mdev {arguments}")], DOMAIN.as_bytes())
        .unwrap()
}

/// Each verb, the exit statuses that its manual gives it, and a part of what it is to print.
fn verbs() -> Vec<(&'static str, &'static [i32], String)> {
    vec![
        ("list", &[0], UUID.to_owned()),
        ("list --tree", &[0], UUID.to_owned()),
        ("list --json", &[0], UUID.to_owned()),
        ("list --format prometheus", &[0], "virt_mdev_devices".to_owned()),
        ("types", &[0], "mtty-2".to_owned()),
        ("types --long", &[0], "mtty-2".to_owned()),
        ("show vm1", &[0], UUID.to_owned()),
        ("plan", &[0], "vm1: prepare\n  nothing to do\nnote: the domain has a record".to_owned()),
        ("plan --json", &[0], "the domain has a record".to_owned()),
        ("plan --event start", &[0], "vm1: start\n  1. label".to_owned()),
        ("plan --event started", &[0], "vm1".to_owned()),
        ("plan --event release", &[0], "vm1: release\n  1. ".to_owned()),
        ("plan --event migrate", &[0], "vm1".to_owned()),
        ("reconcile --dry-run", &[0], String::new()),
        // It finds that libvirt does not call the hook here.
        ("doctor", &[1], "problem: ".to_owned()),
        ("doctor --json", &[1], "\"findings\"".to_owned()),
    ]
}

#[test]
fn what_only_reads_needs_no_root() {
    let host = host();
    for event in ["prepare", "start", "started"] {
        assert!(hook(&host, event, "begin").status.success(), "{event}");
    }
    // The device is open to root alone, and so is a lock.
    let node = says(&host, "stat -c '%a %u' /dev/vfio/0 /run/virt-mdev/locks/*");
    assert!(node.lines().all(|line| line == "600 0"), "{node}");
    let mut wrong = Vec::new();
    for (verb, codes, part) in verbs() {
        let output = run(&host, verb);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let code = output.status.code();
        let sent_away =
            ["sudo", "EACCES", "EPERM"].iter().any(|word| out.contains(word) || err.contains(word));
        if !codes.iter().any(|known| code == Some(*known)) || !out.contains(&part) || sent_away {
            wrong.push(format!("{verb}: {code:?}\n{out}{err}"));
        }
        // It could not look, and does not say that there is nothing.
        let looks = ["list", "show", "doctor", "reconcile"].iter().any(|name| verb.starts_with(name));
        if looks
            && (!err.starts_with("warning: not root: who has a device open cannot be told")
                || out.contains("Nothing"))
        {
            wrong.push(format!("{verb}: no warning: {out}{err}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // Nothing of it has done anything, and what does something does say who may.
    let recorded = "ls /sys/bus/mdev/devices /run/virt-mdev/domains | grep -v /";
    let before = says(&host, recorded);
    assert!(before.contains(UUID), "{before}");
    for verb in ["release vm1", "reconcile"] {
        let output = run(&host, verb);
        assert_eq!(output.status.code(), Some(1), "{verb}: {output:?}");
    }
    assert_eq!(says(&host, recorded), before);
}

/// Without any device there is nothing that could not be told.
#[test]
fn without_devices_nobody_is_warned() {
    let host = host();
    for (verb, said) in [
        ("list", "No mediated devices.\n"),
        ("reconcile --dry-run", "Nothing to reconcile.\n"),
        ("plan", "vm1: prepare\n  1. create "),
    ] {
        let output = run(&host, verb);
        assert!(output.status.success() && output.stderr.is_empty(), "{verb}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(said), "{verb}: {output:?}");
    }
}
