//! What devices cost, on emulated hosts: a FUSE file system answers some hundred times slower than sysfs, so times are
//! compared only with what runs on the same host.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use virt_mdev_emulator::client::Emulated;

use crate::Wrong;
use crate::costs::domain;
use crate::programs::Programs;
use crate::runs::{Calls, Run, Timed, ratio};
use crate::table::Table;

const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");
/// Turns of what takes some thousandths of a second, and of what takes some hundredths.
const MANY_TURNS: usize = 201;
const TURNS: usize = 31;

const MTTY: &str = r#"
[[parent]]
name = "mtty"
units = 40000
attributes = "settings"
type = [
    { id = "mtty-1", name = "Single port serial" },
    { id = "mtty-2", name = "Dual port serial", cost = 2 },
]
"#;

/// A host from a description.
fn host(programs: &Programs, name: &str, text: &str) -> Result<Emulated, Wrong> {
    let file = programs.scratch.join(name).with_extension("toml");
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    Emulated::start(Path::new(EMULATOR), &file, &[]).map_err(|error| format!("host {name}: {error}"))
}

/// What mdevctl wants to find wherever it runs.
const MDEVCTL: &str = "[files]\n\"/etc/mdevctl.d/scripts.d/callouts/none\" = \"\"\n\
                       \"/etc/mdevctl.d/scripts.d/notifiers/none\" = \"\"\n";

fn on(host: &Emulated) -> impl Fn(&str) -> Command + '_ {
    |program| {
        let mut command = host.command(program);
        // The scratch directory, where traces go, is the machine's own.
        command.env_remove("VIRT_MDEV_EMULATOR_PID");
        // cargo's, in whose directories the programs' libraries would be looked for first.
        command.env_remove("LD_LIBRARY_PATH");
        command
    }
}

fn number(number: usize) -> String {
    format!("83b8f4f2-509f-382f-3c1e-{number:012x}")
}

/// A domain with so many devices of mtty.
fn several(devices: usize, parent: &str) -> String {
    let mut wanted = String::new();
    let mut hostdevs = String::new();
    for device in 1..=devices {
        let uuid = number(0xaaaa_0000 + device);
        let _ = writeln!(wanted, "      <mdev:device uuid=\"{uuid}\" type=\"mtty-1\"{parent}/>");
        let _ = writeln!(
            hostdevs,
            "    <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>\n      \
             <source><address uuid='{uuid}'/></source>\n    </hostdev>"
        );
    }
    let text = domain(0, false);
    text.replace(
        "  <devices>",
        &format!(
            "  <metadata>\n    <mdev:devices xmlns:mdev=\"urn:virt-mdev:domain:1\">\n{wanted}    </mdev:devices>\n  \
             </metadata>\n  <devices>\n{hostdevs}"
        ),
    )
}

fn prepare<'a>(programs: &'a Programs, xml: &'a str) -> Run<'a> {
    Run::new(&[&programs.hook, "vm1", "prepare", "begin", "-"], xml.as_bytes())
}

fn release<'a>(programs: &'a Programs, xml: &'a str) -> Run<'a> {
    Run::new(&[&programs.hook, "vm1", "release", "end", "failed"], xml.as_bytes())
}

/// The system calls of a prepare that are about files; the device is taken away again. The least of some: what waits
/// looks again now and then.
fn prepare_calls(programs: &Programs, host: &Emulated, xml: &str) -> Result<f64, Wrong> {
    let start = on(host);
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        least = least.min(prepare(programs, xml).system_calls(&start, &programs.scratch, Calls::Files)?);
        release(programs, xml).once(&start)?;
    }
    Ok(least)
}

/// One device, against mdevctl.
pub(crate) fn one_device(table: &mut Table, programs: &Programs, times: bool) -> Result<(), Wrong> {
    let host = host(programs, "one", &format!("{MTTY}{MDEVCTL}"))?;
    let start = on(&host);
    let xml = domain(4096, true);
    let (come, go) = (prepare(programs, &xml), release(programs, &xml));
    table.count(
        "prepare of 1 device",
        "–",
        prepare_calls(programs, &host, &xml)?,
        "file system calls",
        Some(ONE),
    );
    table.count(
        "prepare of 1 device",
        "–",
        come.peak_memory(&start, &programs.scratch)?,
        "KiB of memory",
        Some(4096.0),
    );
    go.once(&start)?;
    if !times {
        return Ok(());
    }
    let uuid = number(0xbbbb);
    let make = Run::new(&["mdevctl", "start", "-u", &uuid, "-p", "mtty", "-t", "mtty-2"], b"");
    let stop = Run::new(&["mdevctl", "stop", "-u", &uuid], b"");
    let ours = Timed { before: vec![], run: come.clone(), after: vec![go.clone()] };
    let theirs = Timed { before: vec![], run: make.clone(), after: vec![stop.clone()] };
    // What no program can do without, to see how near half of it is.
    let empty = Timed::alone(Run::new(&[&programs.empty], b""));
    let seen = ratio(MANY_TURNS, (&empty, &start), (&theirs, &start))?;
    table.ratio("empty program", "mdevctl start", seen, None);
    table.ratio(
        "prepare of 1 device",
        "mdevctl start",
        ratio(MANY_TURNS, (&ours, &start), (&theirs, &start))?,
        Some(0.5),
    );
    let ours = Timed { before: vec![come], run: go, after: vec![] };
    let theirs = Timed { before: vec![make], run: stop, after: vec![] };
    table.ratio(
        "release of 1 device",
        "mdevctl stop",
        ratio(MANY_TURNS, (&ours, &start), (&theirs, &start))?,
        Some(0.5),
    );
    Ok(())
}

/// One device with its parent named, on a host that has much else: 10 000 devices, 1 024 virtual functions, 1 000
/// definitions and 1 000 records.
pub(crate) fn full_host(table: &mut Table, programs: &Programs, times: bool) -> Result<(), Wrong> {
    let xml = domain(4096, true);
    let empty = host(programs, "empty", MTTY)?;
    let calls = prepare_calls(programs, &empty, &xml)?;
    let full = host(programs, "full", &crowd(programs, &empty)?)?;
    let seen = prepare_calls(programs, &full, &xml)?;
    table.count(
        "prepare of 1 device, full host",
        "empty host",
        seen - calls,
        "file system calls more",
        Some(0.0),
    );
    if times {
        let (on_full, on_empty) = (on(&full), on(&empty));
        let one =
            Timed { before: vec![], run: prepare(programs, &xml), after: vec![release(programs, &xml)] };
        let seen = ratio(TURNS, (&one, &on_full), (&one, &on_empty))?;
        table.ratio("prepare of 1 device, full host", "empty host", seen, Some(1.05));
    }
    Ok(())
}

/// The description of a host that is full of what is not asked for. The records are copies of one that the hook has
/// written.
fn crowd(programs: &Programs, like: &Emulated) -> Result<String, Wrong> {
    let start = on(like);
    let xml = domain(4096, true);
    prepare(programs, &xml).once(&start)?;
    let said = start("sh").args(["-c", "cat /run/virt-mdev/domains/*.json"]).output();
    let record = String::from_utf8_lossy(&said.map_err(|error| format!("cat: {error}"))?.stdout).into_owned();
    release(programs, &xml).once(&start)?;
    let (domain, device) = ("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001");
    if !record.contains(domain) || !record.contains(device) {
        return Err(format!("not the record that was expected: {record}"));
    }

    let mut text = MTTY.to_owned();
    for card in 0..32 {
        let _ = write!(
            text,
            "[[vendor]]\naddress = \"0000:{:02x}:00.0\"\nvfs = 32\nunits = 48\n\
             type = [{{ id = 1145, name = \"NVIDIA L40S-1B\" }}]\n",
            0x20 + card
        );
    }
    for device in 0..10_000 {
        let _ =
            writeln!(text, "[[device]]\nuuid = \"{}\"\nparent = \"mtty\"\ntype = \"mtty-1\"", number(device));
    }
    text += "[files]\n";
    for other in 0..1000 {
        let owner = format!("0cd8a2ab-6c8d-4b2c-9a8e-{:012x}", 0xcccc_0000_u32 + other);
        let theirs = number(other as usize);
        let record = record
            .replace(domain, &owner)
            .replace(device, &theirs)
            .replace("\"vm1\"", &format!("\"other{other}\""));
        let _ = writeln!(text, "\"/run/virt-mdev/domains/{owner}.json\" = '''{record}'''");
        let _ = writeln!(
            text,
            "\"/etc/mdevctl.d/mtty/{}\" = '{{\"mdev_type\":\"mtty-1\",\"start\":\"manual\",\"attrs\":[]}}'",
            number(0xdddd_0000 + other as usize)
        );
    }
    Ok(text)
}

/// What each further device costs.
pub(crate) fn many_devices(table: &mut Table, programs: &Programs) -> Result<(), Wrong> {
    let host = host(programs, "many", MTTY)?;
    let one = prepare_calls(programs, &host, &several(1, " parent=\"mtty\""))?;
    let sixteen = prepare_calls(programs, &host, &several(16, " parent=\"mtty\""))?;
    let each = ((sixteen - one) / 15.0 * 10.0).round() / 10.0;
    table.count(
        "prepare of 16 devices, each after the first",
        "–",
        each,
        "file system calls",
        Some(MARGINAL),
    );
    Ok(())
}

/// File system calls of a prepare of one device, the starts of two programs included.
const ONE: f64 = 90.0;
/// System calls that a further device of a domain may cost.
const MARGINAL: f64 = 30.0;
/// System calls that a further parent may cost, where the domain names none.
const CANDIDATE: f64 = 20.0;

/// What each further candidate costs where no parent is named.
pub(crate) fn candidates(table: &mut Table, programs: &Programs) -> Result<(), Wrong> {
    let mut calls = Vec::new();
    for parents in [1, 17] {
        let mut text = String::new();
        for parent in 0..parents {
            text += &MTTY.replace("\"mtty\"", &format!("\"0000:{:02x}:00.0\"", 0x20 + parent));
        }
        let host = host(programs, &format!("candidates{parents}"), &text)?;
        calls.push(prepare_calls(programs, &host, &several(1, ""))?);
    }
    if let [one, many] = calls.as_slice() {
        let each = (many - one) / 16.0;
        table.count(
            "prepare of 1 device, each further candidate",
            "–",
            (each * 10.0).round() / 10.0,
            "file system calls",
            Some(CANDIDATE),
        );
    }
    Ok(())
}

/// `list` and `types` on large hosts, against mdevctl's.
pub(crate) fn lists(table: &mut Table, programs: &Programs, times: bool) -> Result<(), Wrong> {
    if !times {
        return Ok(());
    }
    let mut text = MTTY.to_owned();
    for device in 0..512 {
        let _ =
            writeln!(text, "[[device]]\nuuid = \"{}\"\nparent = \"mtty\"\ntype = \"mtty-1\"", number(device));
    }
    let devices = host(programs, "devices", &(text + MDEVCTL))?;
    compare(table, programs, &devices, "list", "512 devices")?;

    let mut text = String::new();
    for card in 0..8 {
        let _ = write!(
            text,
            "[[parent]]\nname = \"0000:{:02x}:00.0\"\nvfs = 32\neach = 1\nunits = 64\ntype = [\n",
            0x20 + card
        );
        for kind in 0..20 {
            let _ = writeln!(
                text,
                "    {{ id = \"nvidia-{}\", name = \"NVIDIA A16-{kind}Q\", description = \"num_heads=4\" }},",
                700 + kind
            );
        }
        text += "]\n";
    }
    let types = host(programs, "types", &(text + MDEVCTL))?;
    compare(table, programs, &types, "types", "256 virtual functions of 20 types")
}

fn compare(
    table: &mut Table,
    programs: &Programs,
    host: &Emulated,
    verb: &str,
    of: &str,
) -> Result<(), Wrong> {
    let start = on(host);
    let ours = Timed::alone(Run::new(&[&programs.cli, verb], b""));
    let theirs = Timed::alone(Run::new(&["mdevctl", verb], b""));
    let seen = ratio(5, (&ours, &start), (&theirs, &start))?;
    table.ratio(&format!("{verb}, {of}"), &format!("mdevctl {verb}"), seen, Some(0.1));
    Ok(())
}
