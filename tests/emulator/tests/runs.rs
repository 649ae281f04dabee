//! The shipped hook on emulated hosts: what it does to them, operation by operation.
//!
//! A run is a directory in `runs/`: `run.toml` (host and steps), the domains' XML, and `expected`: for each step the
//! exit status, stderr and the writes that it made below `/sys`, with the reads of `online`. `UPDATE=1` writes
//! `expected` anew: read the difference.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use virt_mdev_emulator::client::Emulated;

const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn start(host: &str) -> Emulated {
    let file = here().join("hosts").join(host).with_extension("toml");
    Emulated::start(Path::new(EMULATOR), &file, &[]).unwrap()
}

/// The product's programs, built before.
fn built(program: &str) -> String {
    let target = std::env::var_os("VIRT_MDEV_BUILT")
        .map_or_else(|| here().join("../../target/release"), PathBuf::from);
    let path = target.join(program).canonicalize();
    path.unwrap_or_else(|_| panic!("{program} is missing: make build")).display().to_string()
}

fn hook(host: &Emulated, name: &str, operation: &str, xml: &str) -> Output {
    let sub = if matches!(operation, "release" | "stopped") { "end" } else { "begin" };
    host.run(&[&built("virt-mdev-hook"), name, operation, sub, "-"], xml.as_bytes()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The operations on sysfs that matter: writes, and the reads of `online` that come before them.
fn operations(host: &mut Emulated) -> Vec<String> {
    let lines = host.lines("log").unwrap();
    let on_sysfs =
        lines.into_iter().filter(|line| line.contains(" /sys/") && !line.contains("/sys/kernel/emulator"));
    on_sysfs
        .filter(|line| line.starts_with("write ") || (line.starts_with("read ") && line.contains("/online")))
        .collect()
}

/// What a run leaves: nothing but lock files.
fn left_behind(host: &Emulated) -> String {
    let script = "find /run/virt-mdev -mindepth 2 ! -path '*/locks/*'; ls /sys/bus/mdev/devices; \
                  grep -Hvx 0 /sys/bus/pci/devices/*/nvidia/current_vgpu_type";
    let output = host.run(&["bash", "-c", script], b"").unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_run_does_what_it_did() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    let mut runs: Vec<_> =
        fs::read_dir(here().join("runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    runs.sort();
    for run in runs {
        let answer = go_through(&run);
        let expected = run.join("expected");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &answer).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != answer {
            wrong.push(format!("{}:\n{answer}", run.display()));
        }
        seen += 1;
    }
    assert!(seen > 0, "no runs found");
    assert!(wrong.is_empty(), "{} of {seen} runs went otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

/// A process that has a VFIO node open, as QEMU does.
fn hold(host: &Emulated, node: &str) -> Child {
    let mut command = host.command(EMULATOR);
    command.args(["hold", node, "--name", "qemu-system-x86"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

/// Process ids are another each time.
fn without_pids(text: &str) -> String {
    let mut told = String::new();
    for line in text.lines() {
        let (before, after) = line.split_once("(pid ").unwrap_or((line, ""));
        let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
        let _ = writeln!(told, "{before}{}{after}", if after.is_empty() { "" } else { "(pid N" });
    }
    told
}

/// Steps are `NAME OPERATION` (the hook is called with `NAME.xml`), `control LINE`, `sh SCRIPT`, `hold NODE`,
/// `let-go` (of all nodes), or `left` (what is left behind).
fn go_through(run: &Path) -> String {
    let mut holders: Vec<Child> = Vec::new();
    let description: toml::Table = fs::read_to_string(run.join("run.toml")).unwrap().parse().unwrap();
    let mut host = start(description["host"].as_str().unwrap());
    let mut told = String::new();
    for step in description["steps"].as_array().unwrap() {
        let step = step.as_str().unwrap();
        let _ = writeln!(told, "== {step}");
        match step.split_once(' ') {
            Some(("control", line)) => host.control(line).unwrap(),
            Some(("hold", node)) => holders.push(hold(&host, node)),
            Some(("sh", script)) => {
                // `virt-mdev` is the program under test; domains' files are where the script runs.
                let programs = Path::new(&built("virt-mdev")).parent().unwrap().display().to_string();
                let script = format!("PATH={programs}:$PATH; cd '{}'; {script}", run.display());
                let output = host.run(&["bash", "-c", &script], b"").unwrap();
                for text in [String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output)] {
                    told.push_str(&without_pids(&text));
                }
            }
            Some((name, operation)) => {
                host.control("clear-log").unwrap();
                let xml = fs::read_to_string(run.join(name).with_extension("xml")).unwrap();
                let output = hook(&host, name, operation, &xml);
                let _ = writeln!(told, "exit {}", output.status.code().unwrap());
                told.push_str(&without_pids(&stderr(&output)));
                for line in operations(&mut host) {
                    let _ = writeln!(told, "  {line}");
                }
            }
            None if step == "let-go" => {
                for mut holder in holders.drain(..) {
                    holder.kill().unwrap();
                    holder.wait().unwrap();
                }
            }
            None => match left_behind(&host) {
                nothing if nothing.is_empty() => told.push_str("nothing is left\n"),
                left => told.push_str(&left),
            },
        }
    }
    told
}

/// A domain with devices of the given XML attributes, numbered from 1.
fn domain(devices: &[String]) -> String {
    let (mut wanted, mut hostdevs) = (String::new(), String::new());
    for (number, attributes) in devices.iter().enumerate() {
        let uuid = format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa{number:04}");
        let _ = write!(wanted, "<m:device uuid='{uuid}' {attributes}/>");
        let _ = write!(
            hostdevs,
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/></source></hostdev>"
        );
    }
    format!(
        "<domain><name>big</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e09</uuid><metadata>\
         <m:devices xmlns:m='urn:virt-mdev:domain:1'>{wanted}</m:devices></metadata><devices>{hostdevs}</devices></domain>"
    )
}

/// How many devices each GPU of the A16 has: in order of address.
fn on_each_gpu(host: &Emulated) -> Vec<usize> {
    let script = "for d in /sys/bus/mdev/devices/*; do p=$(dirname $(readlink -f $d)); basename $(readlink $p/physfn); done \
                  | sort | uniq -c | sort -k2 | awk '{print $1}'";
    let output = host.run(&["bash", "-c", script], b"").unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn sixty_four_devices_spread_evenly_over_four_gpus() {
    let host = start("a16-mdev");
    let xml = domain(&vec!["type='NVIDIA A16-1B' placement='spread'".to_owned(); 64]);
    let output = hook(&host, "big", "prepare", &xml);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(on_each_gpu(&host), [16, 16, 16, 16]);
    assert!(hook(&host, "big", "release", &xml).status.success());
    assert_eq!(left_behind(&host), "");
}

#[test]
fn spread_takes_turns_and_pack_fills_one_gpu_before_the_next() {
    let host = start("a16-mdev");
    for (placement, count, expected) in [
        ("spread", 6, vec![2, 2, 1, 1]),
        ("pack", 16, vec![16]),
        ("pack", 20, vec![16, 4]),
        ("spread", 4, vec![1, 1, 1, 1]),
    ] {
        let xml = domain(&vec![format!("type='NVIDIA A16-1B' placement='{placement}'"); count]);
        let output = hook(&host, "big", "prepare", &xml);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(on_each_gpu(&host), expected, "{placement} {count}");
        assert!(hook(&host, "big", "release", &xml).status.success());
        assert_eq!(left_behind(&host), "");
    }
}

#[test]
fn a_numa_node_is_respected() {
    let host = start("a16-mdev");
    let xml = domain(&vec!["type='NVIDIA A16-1B' placement='spread' numa='1'".to_owned(); 8]);
    let output = hook(&host, "big", "prepare", &xml);
    assert!(output.status.success(), "{}", stderr(&output));
    let script = "cat $(for d in /sys/bus/mdev/devices/*; do echo $(dirname $(readlink -f $d))/numa_node; done) | sort | uniq -c";
    let nodes = host.run(&["bash", "-c", script], b"").unwrap();
    assert_eq!(String::from_utf8_lossy(&nodes.stdout).split_whitespace().collect::<Vec<_>>(), ["8", "1"]);
}

#[test]
fn the_seventeenth_on_one_gpu_is_told_which_gpus_have_room() {
    let host = start("a16-mdev");
    let script = "basename -a $(readlink -f /sys/class/mdev_bus/*/physfn) | sort -u";
    let cards = host.run(&["bash", "-c", script], b"").unwrap();
    let cards: Vec<String> = String::from_utf8_lossy(&cards.stdout).lines().map(str::to_owned).collect();
    assert_eq!(cards.len(), 4);
    let script = format!("basename -a $(readlink /sys/bus/pci/devices/{}/virtfn*)", cards[0]);
    let functions = host.run(&["bash", "-c", &script], b"").unwrap();
    let functions: Vec<String> =
        String::from_utf8_lossy(&functions.stdout).lines().map(str::to_owned).collect();
    assert_eq!(functions.len(), 16);
    let one_gpu = format!("type='NVIDIA A16-1B' parent='{}'", functions.join(" "));
    let full = domain(&vec![one_gpu.clone(); 16]);
    assert!(hook(&host, "big", "prepare", &full).status.success());
    assert_eq!(on_each_gpu(&host), [16]);
    let next =
        domain(&[one_gpu]).replace(">big<", ">next<").replace("4e09", "4e10").replace("fa0000", "fa0100");
    let output = hook(&host, "next", "prepare", &next);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with("error: next: no room for NVIDIA A16-1B (nvidia-") && said.contains("held by big"),
        "{said}"
    );
    for card in &cards[1..] {
        assert!(said.contains(&format!("{card} has 16 left")), "{card}: {said}");
    }
    assert!(hook(&host, "big", "release", &full).status.success());
    assert_eq!(left_behind(&host), "");
}
