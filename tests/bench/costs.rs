//! What a run costs that has nothing to do: the hook for a domain without devices, and the udev helper for a node that
//! nobody claims; what reading costs; how large the programs are.

use std::process::Command;

use crate::Wrong;
use crate::programs::Programs;
use crate::runs::{Calls, Run, Timed, ratio};
use crate::table::Table;

/// Turns of what takes a millisecond.
const TURNS: usize = 201;
const OPERATIONS: [[&str; 3]; 5] = [
    ["prepare", "begin", "-"],
    ["start", "begin", "-"],
    ["started", "begin", "-"],
    ["stopped", "end", "-"],
    ["release", "end", "destroyed"],
];

/// What udev says of a group that no device of ours is behind.
const NODE: [(&str, &str); 4] = [
    ("ACTION", "add"),
    ("SUBSYSTEM", "vfio"),
    ("DEVPATH", "/devices/virtual/vfio/4711"),
    ("DEVNAME", "/dev/vfio/4711"),
];

/// This machine as it is.
fn here(program: &str) -> Command {
    let mut command = Command::new(program);
    // As libvirt starts a hook.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// A domain of about that many bytes, which asks for a device or for none.
pub(crate) fn domain(bytes: usize, device: bool) -> String {
    let mut text = "<domain type='kvm' id='1'>\n  <name>vm1</name>\n  \
                    <uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid>\n"
        .to_owned();
    if device {
        text += "  <metadata>\n    <mdev:devices xmlns:mdev=\"urn:virt-mdev:domain:1\">\n      <mdev:device \
                 uuid=\"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\" type=\"mtty-2\" parent=\"mtty\"/>\n    \
                 </mdev:devices>\n  </metadata>\n";
    }
    text += "  <devices>\n    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n";
    if device {
        text += "    <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>\n      <source>\n        \
                 <address uuid='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'/>\n      </source>\n    </hostdev>\n";
    }
    let mut disk = 0;
    while text.len() + 400 < bytes {
        text += &format!(
            "    <disk type='file' device='disk'>\n      <driver name='qemu' type='qcow2'/>\n      \
             <source file='/var/lib/libvirt/images/disk-{disk}.qcow2'/>\n      <target dev='sd{disk}' bus='scsi'/>\n      \
             <address type='drive' controller='0' bus='0' target='0' unit='{disk}'/>\n    </disk>\n"
        );
        disk += 1;
    }
    text + "  </devices>\n</domain>\n"
}

/// The hook for a domain without devices, at each operation; and the udev helper for a node that nobody claims.
pub(crate) fn plain_domain(table: &mut Table, programs: &Programs, times: bool) -> Result<(), Wrong> {
    let xml = domain(4096, false);
    let scratch = programs.scratch.as_path();
    let empty = Run::new(&[&programs.empty], b"");
    let empty_calls = empty.system_calls(&here, scratch, Calls::All)?;
    let empty_instructions = empty.instructions(&here)?;
    for operation in OPERATIONS {
        let [name, sub, extra] = operation;
        let run = Run::new(&[&programs.hook, "vm1", name, sub, extra], xml.as_bytes());
        let what = format!("hook, no device, {name}");
        let calls = run.system_calls(&here, scratch, Calls::All)? - empty_calls;
        table.count(&what, "empty program", calls, "system calls more", Some(25.0));
        let instructions = run.instructions(&here)? - empty_instructions;
        table.count(
            &what,
            "empty program",
            (instructions / 1000.0).round(),
            "thousand instructions more",
            Some(1000.0),
        );
        table.count(&what, "–", run.peak_memory(&here, scratch)?, "KiB of memory", Some(4096.0));
        if times {
            let (hook, baseline) = (Timed::alone(run), Timed::alone(empty.clone()));
            table.ratio(
                &what,
                "empty program",
                ratio(TURNS, (&hook, &here), (&baseline, &here))?,
                Some(1.15),
            );
        }
    }
    if times {
        let operation = [programs.hook.as_str(), "vm1", "prepare", "begin", "-"];
        let hook = Timed::alone(Run::new(&operation, xml.as_bytes()));
        let others = [
            ("bash hook", &*programs.bash, Some(1.0)),
            ("Python hook", &*programs.python, None),
            ("/bin/true", "/bin/true", None),
        ];
        for (name, program, goal) in others {
            let other = Timed::alone(Run::new(&[program, "vm1", "prepare", "begin", "-"], xml.as_bytes()));
            table.ratio(
                "hook, no device, prepare",
                name,
                ratio(TURNS, (&hook, &here), (&other, &here))?,
                goal,
            );
        }
    }

    let mut helper = Run::new(&[&programs.udev], b"");
    helper.environment = &NODE;
    let what = "udev helper, unclaimed node";
    let empty = Run::new(&[&programs.empty_udev], b"");
    let calls =
        helper.system_calls(&here, scratch, Calls::All)? - empty.system_calls(&here, scratch, Calls::All)?;
    table.count(what, "empty program", calls, "system calls more", Some(25.0));
    if times {
        let (helper, empty) = (Timed::alone(helper), Timed::alone(empty));
        table.ratio(what, "empty program", ratio(TURNS, (&helper, &here), (&empty, &here))?, Some(1.15));
    }
    Ok(())
}

/// The hook on large domains, against a reader that does nothing with what it reads.
pub(crate) fn domain_xml(table: &mut Table, programs: &Programs, times: bool) -> Result<(), Wrong> {
    let this =
        std::env::current_exe().map_err(|error| format!("this program: {error}"))?.display().to_string();
    let mut instructions = Vec::new();
    for kib in [64, 1024, 4096] {
        let xml = domain(kib * 1024, false);
        let run = Run::new(&[&programs.hook, "vm1", "prepare", "begin", "-"], xml.as_bytes());
        instructions.push(run.instructions(&here)? / kib as f64);
        if times {
            let turns = if kib > 1000 { 21 } else { TURNS };
            let reader = Timed::alone(Run::new(&[&this, "read-xml"], xml.as_bytes()));
            let seen = ratio(turns, (&Timed::alone(run), &here), (&reader, &here))?;
            table.ratio(&format!("hook, {kib} KiB of XML, no device"), "bare reader", seen, Some(1.3));
        }
    }
    // Linear: a KiB of the largest costs no more than one of the smallest, which carries the start of the program, too.
    if let [small, .., large] = instructions.as_slice() {
        table.count(
            "hook, a KiB of 4 MiB of XML",
            "one of 64 KiB",
            (large / small * 100.0).round(),
            "% of the instructions",
            Some(105.0),
        );
    }
    Ok(())
}

/// The programs as they are installed.
pub(crate) fn sizes(table: &mut Table, programs: &Programs) -> Result<(), Wrong> {
    let (small, large) = (1536.0, 3072.0);
    for (name, path, goal) in [
        ("virt-mdev-hook", &programs.hook, small),
        ("virt-mdev-udev", &programs.udev, small),
        ("virt-mdev", &programs.cli, large),
    ] {
        let size = std::fs::metadata(path).map_err(|error| format!("{path}: {error}"))?.len();
        table.count(&format!("size of {name}"), "–", (size as f64 / 1024.0).ceil(), "KiB", Some(goal));
    }
    Ok(())
}
