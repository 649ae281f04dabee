//! What lies in `/run/virt-mdev` and is none of ours: links, pipes, directories and files of others, in the place of
//! whatever is read or written there. Whatever is outside stays as it is, nobody waits in vain, and a domain starts, or
//! is refused with a sentence.

use std::process::Output;

use virt_mdev_emulator::client::Emulated;

use super::{DOMAIN, UUID, built, says};

const BASE: &str = "/run/virt-mdev";

/// Longer than any limit that the hook has here.
const HANGS: &str = "10";

/// How each is made in the place `$f`; `/run/outside` is where the links lead.
const KINDS: [(&str, &str); 7] = [
    ("pipe", "mkfifo $f"),
    ("link to a file", "ln -s /run/outside/file $f"),
    ("link to a directory", "ln -s /run/outside/directory $f"),
    ("link to nothing", "ln -s /run/outside/new $f"),
    ("directory", "mkdir $f"),
    ("directory with something in it", "mkdir -p $f/below"),
    ("file of somebody else", "echo 5 >$f; chmod 666 $f; chown 65534 $f"),
];

/// A host whose `/run/virt-mdev` is a directory in memory: the emulated ones have no pipes.
fn host() -> Emulated {
    let host = super::host("mtty", &[]);
    let outside = "mkdir -p /run/outside/directory /run/virt-mdev; echo safe | tee /run/outside/file \
                   >/run/outside/directory/file; ln -s nowhere /run/outside/link";
    let mounted = format!("{outside}; mount -t tmpfs -o mode=755 tmpfs {BASE}; mkdir -p /etc/virt-mdev");
    assert_eq!(says(&host, &mounted), "");
    host
}

fn run(host: &Emulated, program: &str, arguments: &[&str], stdin: &str) -> Output {
    let program = built(program);
    let limited = ["timeout", HANGS, program.to_str().unwrap()];
    host.run(&[&limited, arguments].concat(), stdin.as_bytes()).unwrap()
}

fn hook(host: &Emulated, event: &str) -> Output {
    let sub = if matches!(event, "release" | "stopped") { "end" } else { "begin" };
    run(host, "virt-mdev-hook", &["vm1", event, sub, "-"], DOMAIN)
}

/// Every file outside: kind, target, owner, mode, length and content.
fn outside(host: &Emulated) -> String {
    says(
        host,
        "find /run/outside -printf '%p %y %l %U %m %s\\n' | sort; cat /run/outside/file /run/outside/*/file",
    )
}

/// A device that an earlier case has left, and all that is recorded.
fn clear(host: &Emulated) {
    let remove =
        format!("[ ! -e /sys/bus/mdev/devices/{UUID} ] || echo 1 >/sys/bus/mdev/devices/{UUID}/remove");
    assert_eq!(says(host, &format!("rm -rf {BASE}/*; {remove}")), "");
}

/// It has ended, by itself, and has said at most one sentence for each domain and device.
fn ended(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{what}: {output:?}");
    assert!(!said.contains("panicked") && !said.contains("defect"), "{what}: {said}");
    for line in said.lines() {
        let known = ["error: ", "hint: ", "warning: "].iter().any(|begin| line.starts_with(begin));
        assert!(known, "{what}: {said}");
    }
    assert_eq!(
        said.lines().filter(|line| line.starts_with("error: ")).count() > 0,
        code == Some(1),
        "{what}: {said}"
    );
}

/// The same of the hook: only what comes before QEMU may be refused.
fn answered(what: &str, event: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
    if matches!(event, "prepare" | "start") {
        ended(what, output);
        assert!(errors <= 1 && said.lines().count() <= 2, "{what}: {said}");
    } else {
        assert_eq!(output.status.code(), Some(0), "{what}: {output:?}");
        assert!(!said.contains("panicked") && errors <= 1, "{what}: {said}");
    }
}

/// All that the hook and its commands read or write below `/run/virt-mdev`, by what they have made there.
fn places(host: &Emulated) -> Vec<String> {
    for event in ["prepare", "start", "started"] {
        assert!(hook(host, event).status.success(), "{event}");
    }
    let made = says(host, &format!("cd {BASE}; find . -mindepth 2 -printf '%P\\n' | sort"));
    let mut places: Vec<String> = made.lines().map(str::to_owned).collect();
    assert_eq!(places.len(), 6, "record, claim, index and three locks: {made}");
    let record = places.iter().find_map(|place| place.strip_suffix(".json")).unwrap().to_owned();
    places.push(format!("{record}.new"));
    let others = [
        "locks/claims",
        "locks/reserved",
        "awaited/any",
        "awaited/parent-mtty",
        "awaited/of-nobody",
        "reserved/0000:41:00.4",
        "reserved/of-nobody",
    ];
    places.extend(others.map(str::to_owned));
    assert!(hook(host, "release").status.success());
    clear(host);
    places
}

/// Every kind in every place, before the domain's first prepare, or while it runs.
fn each_in_each_place(runs: bool) {
    let host = host();
    let before = outside(&host);
    for place in places(&host) {
        for (kind, make) in KINDS {
            let what = format!("{kind} as {place}");
            for event in ["prepare", "start", "started"] {
                assert!(hook(&host, event).status.success(), "before {what}");
            }
            if !runs {
                assert!(hook(&host, "release").status.success(), "before {what}");
            }
            // What has these locks taken.
            let used = match &*place {
                "locks/claims" => {
                    format!("ln -sfn 0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e09 {BASE}/devices/{UUID}")
                }
                "locks/reserved" => {
                    format!("mkdir {BASE}/reserved; ln -s of-nobody {BASE}/reserved/of-nobody")
                }
                _ => String::new(),
            };
            let config = "printf '[wait]\\ndriver = \"5s\"\\nrelease = \"400ms\"\\nlock = \"200ms\"\\n'";
            let script = format!(
                "{config} >/etc/virt-mdev/config.toml; {used}\n f={BASE}/{place}; mkdir -p ${{f%/*}}; rm -rf $f; {make}"
            );
            assert_eq!(says(&host, &script), "", "{what}");
            for event in ["prepare", "start", "started"] {
                let output = hook(&host, event);
                answered(&format!("{what}: {event}"), event, &output);
                // Out of these we move everything; what stands in the place of a lock we leave alone.
                let cleared = ["by-name/", "devices/", "domains/"].iter().any(|ours| place.starts_with(ours));
                assert!(output.status.success() || !cleared, "{what}: {event}: {output:?}");
            }
            for verb in ["list", "reconcile"] {
                ended(&format!("{what}: {verb}"), &run(&host, "virt-mdev", &[verb], ""));
            }
            answered(&format!("{what}: release"), "release", &hook(&host, "release"));
            assert_eq!(outside(&host), before, "{what}");
            says(&host, &format!("rm -rf {BASE}/{place} /etc/virt-mdev/config.toml"));
            for event in ["prepare", "release"] {
                let output = hook(&host, event);
                let well = output.status.success() && output.stderr.is_empty();
                assert!(well, "{what}, which has gone: {event}: {output:?}");
            }
            clear(&host);
        }
    }
}

#[test]
fn what_is_not_ours_holds_up_no_start() {
    each_in_each_place(false);
}

#[test]
fn what_is_not_ours_holds_up_no_domain_that_runs() {
    each_in_each_place(true);
}

/// Our directories themselves, as links to somebody else's.
#[test]
fn a_directory_that_is_a_link_harms_nothing_that_is_behind_it() {
    let host = super::host("mtty", &[]);
    let had =
        "find /run/outside -name 'his*' -printf '%p %y %l %U %m %s\\n' | sort; cat /run/outside/his*/his";
    for place in ["", "/domains", "/devices", "/by-name", "/locks", "/awaited", "/reserved"] {
        let script = format!(
            "rm -rf /run/outside {BASE}; mkdir -p /run/outside/his-directory {BASE}/{{domains,devices,by-name,locks}}; \
             ln -s nowhere /run/outside/his-link; echo 5 | tee /run/outside/his-file >/run/outside/his-directory/his; \
             rm -rf {BASE}{place}; ln -s /run/outside {BASE}{place}"
        );
        assert_eq!(says(&host, &script), "");
        let before = says(&host, had);
        for event in ["prepare", "start", "started"] {
            answered(&format!("{BASE}{place}: {event}"), event, &hook(&host, event));
        }
        for verb in ["list", "reconcile"] {
            ended(&format!("{BASE}{place}: {verb}"), &run(&host, "virt-mdev", &[verb], ""));
        }
        answered(&format!("{BASE}{place}: release"), "release", &hook(&host, "release"));
        assert_eq!(says(&host, had), before, "{BASE}{place}");
        assert_eq!(says(&host, "ls /sys/bus/mdev/devices"), "", "{BASE}{place}");
    }
}
