//! The shipped hook in surroundings that a caller may have left it: an environment, a current directory, descriptors,
//! limits, signals and permissions of files that are nobody's intention. Either it works as ever or it refuses with a
//! sentence; it never dies of them, never leaves anything, and runs nothing that it was lured to.

use std::io::{Read, Write};
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use virt_mdev_emulator::client::Emulated;

use super::{DOMAIN, UUID, built, says};

/// What a shell does before it becomes the hook.
const WORKS: [(&str, &str); 15] = [
    ("nothing", ""),
    ("no environment", "run='env -i'"),
    ("programs of its own in PATH", "export PATH=/run/lure:$PATH"),
    (
        "directories of its own",
        "export HOME=/run/lure TMPDIR=/run/lure XDG_CONFIG_HOME=/run/lure XDG_RUNTIME_DIR=/run/lure",
    ),
    ("a backtrace asked for", "export RUST_BACKTRACE=full RUST_LOG=trace"),
    ("no current directory", "mkdir /run/gone; cd /run/gone; rmdir /run/gone"),
    ("an open umask", "umask 000"),
    ("a closed umask", "umask 777"),
    ("stdout closed", "exec >&-"),
    ("stderr closed", "exec 2>&-"),
    ("stderr that nobody reads", "exec 2> >(exec 0<&-); sleep 0.1"),
    (
        "hundreds of descriptors",
        "ulimit -n 900; for ((n = 10; n < 800; n++)); do eval \"exec $n</dev/null\"; done",
    ),
    ("signals ignored", "trap '' CHLD PIPE ALRM TERM USR1 USR2 XFSZ"),
    (
        "signals blocked",
        "run='python3 -c \"import os,signal,sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); os.execv(sys.argv[1], sys.argv[1:])\"'",
    ),
    ("no name", "run='exec -a \"\"'"),
];

/// These it cannot do without; and what its one sentence is to name.
const REFUSES: [(&str, &str, &str); 3] = [
    ("stdin closed", "exec <&-", "domain XML"),
    ("no file may be written to", "ulimit -f 0", "File too large"),
    ("no descriptor to be had", "ulimit -n 4", "Too many open files"),
];

fn host() -> Emulated {
    let host = super::host("mtty", &[]);
    // Whatever is run by name out of there tells.
    says(
        &host,
        "mkdir /run/lure; printf '#!/bin/sh\\necho $0 >>/run/lured\\n' >/run/lure/sh; chmod +x /run/lure/sh; \
         for name in bash virsh mdevctl modprobe udevadm systemctl virt-mdev virt-mdev-hook; do \
         cp /run/lure/sh /run/lure/$name; done",
    );
    host
}

fn hook(host: &Emulated, before: &str, event: &str, subevent: &str) -> Output {
    let hook = built("virt-mdev-hook");
    let script = format!("run=exec; {before}\neval \"$run\" {} vm1 {event} {subevent} -", hook.display());
    host.run(&["bash", "-c", &script], DOMAIN.as_bytes()).unwrap()
}

/// Devices, and all that is recorded with owner and permissions; not the locks, which stay.
fn left(host: &Emulated) -> String {
    says(
        host,
        "cd /; ls /sys/bus/mdev/devices; \
         find run/virt-mdev -not -path '*/locks*' -not -path '*/lock*' -printf '%p %U:%G %m %l\\n' | sort; cat /run/lured 2>/dev/null; true",
    )
}

#[test]
fn it_works_whatever_it_is_called_in() {
    let host = host();
    let mut usual = None;
    for (name, before) in WORKS {
        for (event, subevent) in [("prepare", "begin"), ("start", "begin"), ("started", "begin")] {
            let output = hook(&host, before, event, subevent);
            assert!(output.status.success() && output.stderr.is_empty(), "{name}: {event}: {output:?}");
        }
        let running = left(&host);
        assert!(running.starts_with(UUID) && running.contains("/domains/"), "{name}: {running}");
        assert_eq!(&running, usual.get_or_insert_with(|| running.clone()), "{name}");
        for (event, subevent) in [("stopped", "end"), ("release", "end")] {
            let output = hook(&host, before, event, subevent);
            assert!(output.status.success() && output.stderr.is_empty(), "{name}: {event}: {output:?}");
        }
        let after = left(&host);
        assert!(!after.contains(UUID) && !after.contains("/domains/"), "{name}: {after}");
    }
}

#[test]
fn it_refuses_what_it_cannot_work_in() {
    let host = host();
    assert!(hook(&host, "", "prepare", "begin").status.success());
    assert!(hook(&host, "", "release", "end").status.success());
    let before = left(&host);
    for (name, surroundings, names) in REFUSES {
        let output = hook(&host, surroundings, "prepare", "begin");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        assert!(said.contains(names), "{name}: {said}");
        assert_eq!(left(&host), before, "{name}");
    }
}

/// Whether somebody who gave the hook a pipe for what it says, as libvirt does, sees the pipe's end.
fn pipe_ends(host: &Emulated, event: &str, subevent: &str) -> bool {
    let hook = built("virt-mdev-hook");
    let script = format!("exec {} vm1 {event} {subevent} - 2>&1", hook.display());
    let mut command = host.command("bash");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command keeps copies of the host's namespaces, and nothing of the pipe.
    drop(command);
    child.stdin.take().unwrap().write_all(DOMAIN.as_bytes()).unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let (ended, has_ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = pipe.read_to_end(&mut text);
        let _ = ended.send(read);
    });
    child.wait().unwrap();
    // The hook itself has gone, within its limits; whoever it left has had its time to close what it was given.
    has_ended.recv_timeout(Duration::from_secs(2)).is_ok()
}

#[test]
fn what_stays_behind_keeps_nothing_open_that_the_caller_reads() {
    let mut host = host();
    let config = "mkdir -p /etc/virt-mdev; printf '[wait]\\ndriver = \"1s\"\\nrelease = \"500ms\"\\n' >/etc/virt-mdev/config.toml";
    assert_eq!(says(&host, config), "");
    let blocked = |host: &Emulated| says(host, "cat /sys/kernel/emulator/blocked");
    let mut kept = Vec::new();

    assert!(pipe_ends(&host, "prepare", "begin"), "nothing is left behind by what is not held up");
    host.control("fault write */remove block").unwrap();
    if !pipe_ends(&host, "release", "end") {
        kept.push("release, while the driver is in remove");
    }
    assert!(blocked(&host).contains("/remove"), "it is in the driver: {}", blocked(&host));
    host.control("release").unwrap();
    super::wait_for("the driver", || says(&host, "ls /sys/bus/mdev/devices").is_empty());
    host.control("clear-faults").unwrap();
    says(&host, &format!("{} reconcile", built("virt-mdev").display()));

    host.control("fault write */mtty-2/create block").unwrap();
    if !pipe_ends(&host, "prepare", "begin") {
        kept.push("prepare, while the driver is in create");
    }
    assert!(blocked(&host).contains("/create"), "it is in the driver: {}", blocked(&host));
    host.control("release").unwrap();
    assert!(kept.is_empty(), "the caller's pipe stays open: {}", kept.join("; "));
}
