//! The same definitions, by mdevctl and by us, on the same emulated host: the writes to sysfs are the same, in the same
//! order and with the same answers, good and refused ones. Where mdevctl's behaviour is a defect, the table says so.

use std::path::{Path, PathBuf};

use virt_mdev_emulator::client::Emulated;

const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");
/// It lies where not every user looks.
const MDEVCTL: &str = "PATH=$PATH:/usr/sbin:/sbin mdevctl";
const DEVICE: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// What is to be seen of a definition.
enum Expected {
    /// Both write the same; how many writes, so that nothing is not taken for sameness.
    Same(usize),
    /// We write this often, mdevctl otherwise, and why that is mdevctl's defect.
    Defect { ours: usize, mdevctl: usize, why: &'static str },
}
use Expected::{Defect, Same};

/// What it is about, host, parent, definition.
type Row = (&'static str, &'static str, &'static str, &'static str, Expected);

const ROWS: [Row; 18] = [
    ("a type", "mtty", "mtty", r#"{"mdev_type": "mtty-2", "start": "manual", "attrs": []}"#, Same(1)),
    ("no word of a start", "mtty", "mtty", r#"{"mdev_type": "mtty-1", "attrs": []}"#, Same(0)),
    ("no attributes", "mtty", "mtty", r#"{"mdev_type": "mtty-1", "start": "manual"}"#, Same(1)),
    (
        "null attributes",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-1", "start": "manual", "attrs": null}"#,
        Same(1),
    ),
    (
        "an empty value",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"settings/first": "a"}, {"settings/first": ""}]}"#,
        Defect {
            ours: 4,
            mdevctl: 2,
            why: "a write of nothing does not reach the driver; a newline does, which this one refuses",
        },
    ),
    ("no type", "mtty", "mtty", r#"{"start": "manual", "attrs": []}"#, Same(0)),
    (
        "attributes in order",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"settings/second": "b"}, {"settings/first": "a"}]}"#,
        Same(3),
    ),
    (
        "an attribute twice",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"settings/first": "a"}, {"settings/first": "b"}]}"#,
        Same(3),
    ),
    (
        "an attribute that is not there",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"settings/first": "a"}, {"settings/none": "b"}]}"#,
        Same(3),
    ),
    (
        "s390: an adapter that the driver refuses",
        "s390",
        "matrix",
        r#"{"mdev_type": "vfio_ap-passthrough", "start": "auto", "attrs": [{"assign_domain": "4"}, {"assign_adapter": "999"}]}"#,
        Same(4),
    ),
    (
        "a type that is not there",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-9", "start": "auto", "attrs": []}"#,
        Same(0),
    ),
    (
        "a parent that is not there",
        "mtty",
        "none",
        r#"{"mdev_type": "mtty-1", "start": "auto", "attrs": []}"#,
        Same(0),
    ),
    (
        "a vendor's name for a type",
        "mtty",
        "mtty",
        r#"{"mdev_type": "Dual port serial", "start": "auto", "attrs": []}"#,
        Same(0),
    ),
    (
        "s390: a queue's domain",
        "s390",
        "matrix",
        r#"{"mdev_type": "vfio_ap-passthrough", "start": "auto", "attrs": [{"assign_adapter": "5"}, {"assign_domain": "4"}]}"#,
        Same(3),
    ),
    ("truncated", "mtty", "mtty", r#"{"mdev_type": "mtt"#, Same(0)),
    ("a type that is a number", "mtty", "mtty", r#"{"mdev_type": 7, "start": "auto", "attrs": []}"#, Same(0)),
    (
        "an attribute that leaves the device",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"../../mtty/power/control": "on"}]}"#,
        Defect { ours: 0, mdevctl: 3, why: "names of attributes are not confined" },
    ),
    (
        "an attribute that removes the device",
        "mtty",
        "mtty",
        r#"{"mdev_type": "mtty-2", "start": "auto", "attrs": [{"remove": "1"}]}"#,
        Defect { ours: 0, mdevctl: 2, why: "names of attributes are not confined" },
    ),
];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn hook() -> String {
    let target = std::env::var_os("VIRT_MDEV_BUILT")
        .map_or_else(|| here().join("../../target/release"), PathBuf::from);
    target.join("virt-mdev-hook").display().to_string()
}

/// The writes that a command makes to sysfs where this definition is, and whether it was content.
fn writes(host: &str, parent: &str, definition: &str, command: &[&str], stdin: &str) -> (Vec<String>, bool) {
    let file = here().join("hosts").join(host).with_extension("toml");
    let mut host = Emulated::start(Path::new(EMULATOR), &file, &[]).unwrap();
    let define = format!(
        "mkdir -p /etc/mdevctl.d/scripts.d/callouts /etc/mdevctl.d/scripts.d/notifiers /etc/mdevctl.d/{parent} && cat > /etc/mdevctl.d/{parent}/{DEVICE}; mkdir -p /etc/virt-mdev; \
         echo 'wait.parent = 0' > /etc/virt-mdev/config.toml"
    );
    assert!(host.run(&["sh", "-c", &define], definition.as_bytes()).unwrap().status.success());
    host.control("clear-log").unwrap();
    let output = host.run(command, stdin.as_bytes()).unwrap();
    let lines = host.lines("log").unwrap();
    let on_sysfs = lines.into_iter().filter(|line| line.starts_with("write /sys/"));
    (on_sysfs.collect(), output.status.success())
}

#[test]
fn what_is_defined_is_made_as_mdevctl_makes_it() {
    let domain = format!(
        "<domain><name>vm1</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid><devices><hostdev mode='subsystem' \
         type='mdev' model='vfio-pci'><source><address uuid='{DEVICE}'/></source></hostdev></devices></domain>"
    );
    let version = std::process::Command::new("sh").args(["-c", &format!("{MDEVCTL} --version")]).output();
    assert!(
        version.is_ok_and(|output| output.status.success()),
        "mdevctl is missing: packaging/deps emulator"
    );
    let mut wrong = Vec::new();
    for (what, host, parent, definition, expected) in ROWS {
        let domain = if parent == "matrix" { domain.replace("vfio-pci", "vfio-ap") } else { domain.clone() };
        let (theirs, content) = writes(
            host,
            parent,
            definition,
            &["sh", "-c", &format!("{MDEVCTL} start --uuid {DEVICE} --parent {parent}")],
            "",
        );
        let (ours, started) =
            writes(host, parent, definition, &[&hook(), "vm1", "prepare", "begin", "-"], &domain);
        let holds = match expected {
            Same(number) => ours == theirs && content == started && ours.len() == number,
            Defect { ours: number, mdevctl, .. } => {
                ours.len() == number && theirs.len() == mdevctl && ours != theirs
            }
        };
        let defect = if let Defect { why, .. } = expected { why } else { "" };
        println!("{what}: {} writes, mdevctl {} {defect}", ours.len(), theirs.len());
        if !holds {
            wrong.push(format!("{what}:\n  ours {started}: {ours:#?}\n  mdevctl {content}: {theirs:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
