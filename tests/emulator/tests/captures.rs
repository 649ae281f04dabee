//! What people see: each verb's output on one emulated host, 80 columns wide, in a UTF-8 and in the C locale.
//!
//! The captures lie in `captures/utf8` and `captures/c`; `UPDATE=1` writes them anew, and the picture in the README
//! with them: read the difference. What `--json` prints is held against `packaging/schema`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::Value;
use virt_mdev_emulator::client::Emulated;

#[path = "captures/schema.rs"]
mod schema;

const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");

/// The locale of each directory.
const LOCALES: [(&str, &str); 2] = [("utf8", "C.UTF-8"), ("c", "C")];

/// Name of the capture, what is run, and whether it keeps to 80 columns: a plan, findings and what `--long` and
/// Prometheus want are for copying, searching and programs.
const CAPTURES: [(&str, &str, bool); 24] = [
    ("types", "virt-mdev types", true),
    ("types-long", "virt-mdev types --long", false),
    ("list", "virt-mdev list", true),
    ("list-tree", "virt-mdev list --tree", true),
    ("list-prometheus", "virt-mdev list --format prometheus", false),
    ("show-domain", "virt-mdev show vm1", true),
    ("show-device", "virt-mdev show 83b8f4f2-509f-382f-3c1e-e6bfe0fa2001", true),
    ("show-nothing", "virt-mdev show vm9", true),
    ("plan", "virt-mdev plan < vm3.xml", false),
    ("doctor", "virt-mdev doctor", false),
    ("reconcile-dry-run", "virt-mdev reconcile --dry-run", false),
    ("release", "virt-mdev release vm1", false),
    ("help", "virt-mdev --help", true),
    ("help-types", "virt-mdev types --help", true),
    ("help-list", "virt-mdev list --help", true),
    ("help-show", "virt-mdev show --help", true),
    ("help-assign", "virt-mdev assign --help", true),
    ("help-unassign", "virt-mdev unassign --help", true),
    ("help-attach", "virt-mdev attach --help", true),
    ("help-detach", "virt-mdev detach --help", true),
    ("help-plan", "virt-mdev plan --help", true),
    ("help-doctor", "virt-mdev doctor --help", true),
    ("help-reconcile", "virt-mdev reconcile --help", true),
    ("help-release", "virt-mdev release --help", true),
];

/// Around the picture in the README.
const PICTURE: [&str; 2] = [
    "<!-- made by `UPDATE=1` of tests/emulator/tests/captures.rs -->\n```\n$ virt-mdev list --tree\n",
    "```\n",
];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn captures() -> PathBuf {
    here().join("tests/captures")
}

/// The product's programs, built before.
fn programs() -> PathBuf {
    let target = std::env::var_os("VIRT_MDEV_BUILT")
        .map_or_else(|| here().join("../../target/release"), PathBuf::from);
    target.canonicalize().expect("the programs are missing: make build")
}

struct Stage {
    host: Emulated,
    holders: Vec<Child>,
}

impl Stage {
    fn new(host: &str) -> Self {
        let file = here().join("hosts").join(host).with_extension("toml");
        Self { host: Emulated::start(Path::new(EMULATOR), &file, &[]).unwrap(), holders: Vec::new() }
    }

    /// vm1 runs, vm2 has ended behind libvirt's back, and somebody has made a device by hand.
    fn as_captured() -> Self {
        let mut stage = Self::new("captures");
        for domain in ["vm1", "vm2"] {
            for event in ["prepare", "start", "started"] {
                let hook = format!("virt-mdev-hook {domain} {event} begin - < {domain}.xml");
                let output = stage.run("C", &hook);
                assert!(output.status.success(), "{hook}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let by_hand = "echo 83b8f4f2-509f-382f-3c1e-e6bfe0fa9001 > /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create";
        assert!(stage.run("C", by_hand).status.success());
        let groups = "for d in /sys/bus/mdev/devices/*100? /sys/bus/pci/devices/0000:41:00.4; do \
                      basename $(readlink $d/iommu_group); done";
        let groups = String::from_utf8(stage.run("C", groups).stdout).unwrap();
        assert_eq!(groups.lines().count(), 3, "{groups}");
        groups.lines().for_each(|group| stage.hold(&format!("/dev/vfio/{group}")));
        stage
    }

    /// A shell that finds the programs, 80 columns wide.
    fn command(&self, locale: &str, script: &str) -> Command {
        let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = self.host.command("bash");
        for variable in ["LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR"] {
            command.env_remove(variable);
        }
        command.env("LANG", locale).env("PATH", path).env("COLUMNS", "80");
        let script = format!("cd '{}'; {script}", captures().display());
        command.args(["-c", &script]).stdin(Stdio::null());
        command
    }

    fn run(&self, locale: &str, script: &str) -> Output {
        self.command(locale, script).output().unwrap()
    }

    /// stdout and stderr of a verb that does what it is asked.
    fn good(&self, script: &str) -> (String, String) {
        let output = self.run("C", script);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }

    /// A process that has a VFIO node open, as QEMU does.
    fn hold(&mut self, node: &str) {
        let mut command = self.host.command(EMULATOR);
        command.args(["hold", node, "--name", "qemu-system-x86"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        self.holders.push(child);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for mut holder in self.holders.drain(..) {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Process ids are another each time.
fn without_pids(text: &str) -> String {
    let mut parts = text.split("(pid ");
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        told.push_str("(pid N");
        told.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    told
}

/// Columns that a line takes where East Asian characters take two.
fn columns(line: &str) -> usize {
    line.chars().map(|c| if ('\u{3000}'..='\u{9fff}').contains(&c) { 2 } else { 1 }).sum()
}

#[test]
fn every_verb_says_what_it_said() {
    let stage = Stage::as_captured();
    let mut wrong = Vec::new();
    for (directory, locale) in LOCALES {
        for (name, script, narrow) in CAPTURES {
            let output = stage.run(locale, script);
            let mut text = format!("$ {script}\n");
            for bytes in [&output.stdout, &output.stderr] {
                text.push_str(&without_pids(&String::from_utf8(bytes.clone()).unwrap()));
            }
            text.push_str(&format!("(exit {})\n", output.status.code().unwrap()));
            assert!(!text.contains('\u{1b}'), "{name}: colour in a pipe");
            for line in text.lines().filter(|_| narrow) {
                assert!(columns(line) <= 80, "{name}: {} columns: {line}", columns(line));
            }
            // What is drawn is ASCII there; what a driver calls its types is what it is.
            let drawn = |c: char| !c.is_ascii() && !('\u{3000}'..='\u{9fff}').contains(&c);
            assert!(locale != "C" || !text.contains(drawn), "{name}: {text}");
            let file = captures().join(directory).join(name).with_extension("txt");
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&file, &text).unwrap();
            } else if fs::read_to_string(&file).unwrap_or_default() != text {
                wrong.push(format!("{}:\n{text}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} captures are others now (UPDATE=1):\n{}", wrong.len(), wrong.join("\n"));
    picture(&stage);
}

/// The picture in the README is what the command prints.
fn picture(stage: &Stage) {
    let file = here().join("../../README.md");
    let readme = fs::read_to_string(&file).unwrap();
    let tree = String::from_utf8(stage.run("C.UTF-8", "virt-mdev list --tree").stdout).unwrap();
    let (before, rest) = readme.split_once(PICTURE[0]).expect("the README has no place for the picture");
    let (shown, after) = rest.split_once(PICTURE[1]).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, [before, PICTURE[0], &tree, PICTURE[1], after].concat()).unwrap();
    } else {
        assert_eq!(shown, tree, "the picture in the README is another now (UPDATE=1)");
    }
}

/// What a script says on a terminal, which is all that it has, with `NO_COLOR` or without.
fn on_a_terminal(stage: &Stage, script: &str, no_color: Option<&str>) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let keyboard = openpt(flags).unwrap();
    unlockpt(&keyboard).unwrap();
    let terminal = ioctl_tiocgptpeer(&keyboard, flags).unwrap();
    let mut command = stage.command("C", script);
    command.envs(no_color.map(|value| ("NO_COLOR", value)));
    command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    // It has the terminal open, too.
    drop(command);
    child.wait().unwrap();
    // Nobody has it open any more: after what was said, reading is an error (EIO).
    let mut said = Vec::new();
    let _ = fs::File::from(keyboard).read_to_end(&mut said);
    String::from_utf8(said).unwrap().replace("\r\n", "\n")
}

#[test]
fn errors_have_a_colour_on_a_terminal_only_and_without_no_color() {
    let stage = Stage::new("empty");
    let (red, plain) = ("\u{1b}[1;31merror:\u{1b}[0m", "error:");
    let words = " vm9: no such device, and no domain of this name has any\nhint: ";
    for (no_color, error) in [(None, red), (Some(""), red), (Some("1"), plain), (Some("0"), plain)] {
        let said = on_a_terminal(&stage, "virt-mdev show vm9", no_color);
        assert!(said.starts_with(&format!("{error}{words}")), "NO_COLOR {no_color:?}: {said:?}");
    }
    // stdout is a terminal, and the error goes into a file.
    let said = on_a_terminal(&stage, "virt-mdev show vm9 2>/run/said; cat /run/said", None);
    assert!(said.starts_with(&format!("{plain}{words}")), "{said:?}");
    // What goes well has none.
    for verb in ["list", "types", "reconcile", "--help"] {
        let said = on_a_terminal(&stage, &format!("virt-mdev {verb}"), None);
        assert!(!said.is_empty() && !said.contains('\u{1b}'), "{verb}: {said:?}");
    }
}

#[test]
fn json_is_what_the_schemas_say() {
    let mut answers = Vec::new();
    let stage = Stage::as_captured();
    // The last one is to be lost, and its removal was nobody's.
    let lose = "echo 1 > /sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa2001/remove";
    for before in ["true", lose] {
        stage.good(before);
        for (schema, verb) in [
            ("types", "virt-mdev types --json"),
            ("list", "virt-mdev list --json"),
            ("list", "virt-mdev list --format json"),
            ("show", "virt-mdev show --json vm1"),
            ("show", "virt-mdev show --json web-frontend-2"),
            ("show", "virt-mdev show --json 0000:41:00.4"),
            ("show", "virt-mdev show --json 83b8f4f2-509f-382f-3c1e-e6bfe0fa9001"),
        ] {
            answers.push((schema, verb, stage.good(verb).0));
        }
    }
    let empty = Stage::new("empty");
    answers.push(("types", "types of no card", empty.good("virt-mdev types --json").0));
    answers.push(("list", "list of no device", empty.good("virt-mdev list --json").0));
    answers.push(("doctor", "doctor", empty.good("virt-mdev doctor --json || true").0));
    for (schema, verb, answer) in &answers {
        let answer: Value = serde_json::from_str(answer).unwrap();
        schema::check(schema, &answer).unwrap_or_else(|why| panic!("{verb}: {why}"));
    }
    assert!(answers.iter().any(|(.., answer)| answer.contains("\"lost\"")));
    // The validator is one: what is wrong is found.
    let mut types: Value = serde_json::from_str(&answers[0].2).unwrap();
    for (key, value) in [("free", Value::from("12")), ("backend", "pci".into()), ("new", 1.into())] {
        let good = types[0].clone();
        types[0][key] = value;
        assert!(schema::check("types", &types).is_err(), "{key}");
        types[0] = good;
    }
}

#[test]
fn a_damaged_neighbour_hides_nothing_else() {
    let mut stage = Stage::as_captured();
    let record = "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02";
    stage.good(&format!("echo garbage > /run/virt-mdev/domains/{record}.json"));
    for fault in [
        "readdir */0000:81:00.*/mdev_supported_types * EIO",
        "open,read */0000:41:00.5/nvidia/* * EIO",
        "open,read */0000:86:00.0/mdev_supported_types * EIO",
        "readlink */83b8f4f2-509f-382f-3c1e-e6bfe0fa1002/* * EIO",
    ] {
        stage.host.control(&format!("fault {fault}")).unwrap();
    }
    let (types, warned) = stage.good("virt-mdev types");
    assert!(types.contains("mtty-2") && types.contains("L40S-1B") && types.contains("T4-4Q"), "{types}");
    assert!(warned.contains("0000:86:00.0") && warned.contains("EIO, 5"), "{warned}");
    for verb in ["list", "list --tree", "list --json", "list --format prometheus"] {
        let (listed, warned) = stage.good(&format!("virt-mdev {verb}"));
        if !verb.ends_with("prometheus") {
            for device in ["1001", "1002", "2001", "9001"] {
                assert!(listed.contains(&format!("e6bfe0fa{device}")), "{verb}: {device}: {listed}");
            }
        }
        assert!(warned.contains(record), "{verb}: {warned}");
    }
    // What of it can be seen is shown, and a domain whose record is damaged is told so.
    let (shown, _) = stage.good("virt-mdev show 83b8f4f2-509f-382f-3c1e-e6bfe0fa2001");
    assert!(shown.contains("mtty-2"), "{shown}");
    let output = stage.run("C", &format!("virt-mdev show {record}"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot use the record"));
}

/// Operations on the host, for one listing of so many devices of one domain.
fn operations(devices: usize) -> usize {
    let mut stage = Stage::new("mtty");
    let make = format!(
        "for n in $(seq -w {devices}); do printf %s 83b8f4f2-509f-382f-3c1e-e6bfe0fa00$n > \
         /sys/class/mdev_bus/mbochs/mdev_supported_types/mbochs-small/create; done"
    );
    stage.good(&make);
    let uuids = |n: usize| format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa00{n:02}");
    let hostdev = |n| {
        format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{}'/></source></hostdev>",
            uuids(n)
        )
    };
    let hostdevs: String = (1..=devices).map(hostdev).collect();
    let xml = format!(
        "<domain><name>big</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e09</uuid>\
         <devices>{hostdevs}</devices></domain>"
    );
    let hook = programs().join("virt-mdev-hook").display().to_string();
    let output = stage.host.run(&[&hook, "big", "prepare", "begin", "-"], xml.as_bytes()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stage.host.control("clear-log").unwrap();
    stage.host.control("trace on").unwrap();
    let (listed, _) = stage.good("virt-mdev list --tree");
    assert_eq!(listed.matches("big").count(), devices);
    stage.host.lines("trace").unwrap().len()
}

#[test]
fn a_listing_costs_the_same_for_each_device() {
    let (few, many) = (operations(10), operations(60));
    let each = (many - operations(35)) / 25;
    assert!(
        many - few <= 50 * (each + 2),
        "{few} operations for 10, {many} for 60, {each} for each of the last"
    );
}
