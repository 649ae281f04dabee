//! Names that a domain's author or a driver has chosen, with what a terminal or a journal could obey. Whatever the hook
//! and the commands print, and what the journal is sent, has them escaped, and on their line.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use virt_mdev_emulator::client::Emulated;

use super::{CREATE, EMULATOR, UUID, built, end, says};

/// A title for the terminal, a line that looks like one of ours, and text that runs backwards.
const NASTY: &str = "x\u{1b}]0;t\u{7}\nforged\u{202e}\u{2028}\r\u{9b}2J\u{7f}";

/// The same where XML allows it: it has no references to most control characters.
const IN_XML: &str = "x&#10;forged\u{202e}\u{2028}&#13;\u{9b}2J\u{7f}";

/// What every hostdev has but one.
const MODEL: &str = " model='vfio-pci'";

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A host whose driver says nasty things of its types: of `mtty-2` in its API, of the others in their names, of all in
/// their descriptions.
fn host(name: &str) -> Emulated {
    let nasty: String = NASTY.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
    let text = format!(
        r#"
[[parent]]
name = "mtty"
units = 2
attributes = "settings"
type = [
    {{ id = "mtty-1", name = "Single port {nasty}", description = "framebuffer={nasty}, {nasty}" }},
    {{ id = "mtty-2", name = "Dual port", api = "vfio-{nasty}", description = "{nasty}", cost = 2 }},
    {{ id = "mtty-3", name = "{nasty}", description = "{nasty}", cost = 2 }},
]
"#
    );
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("toml");
    fs::write(&file, text).unwrap();
    Emulated::start(Path::new(EMULATOR), &file, &[]).unwrap()
}

/// Listens in the journal's place.
struct Journal {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    listener: Option<JoinHandle<()>>,
}

impl Journal {
    fn start(host: &Emulated) -> Self {
        assert_eq!(says(host, &format!("mkdir -p $(dirname {SOCKET})")), "");
        let mounts = File::open(format!("/proc/{}/ns/mnt", host.pid())).unwrap();
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, all) = (Arc::clone(&stop), Arc::clone(&heard));
        let (ready, when_ready) = std::sync::mpsc::channel();
        let listener = std::thread::spawn(move || {
            // Only a thread with a root directory of its own can see the host's.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            nix::sched::setns(mounts, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let socket = UnixDatagram::bind(SOCKET).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            ready.send(()).unwrap();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => all.lock().unwrap().push(buffer[..length].to_vec()),
                    Err(_) if stopped.load(Ordering::Relaxed) => return,
                    Err(_) => {}
                }
            }
        });
        when_ready.recv().unwrap();
        Self { stop, heard, listener: Some(listener) }
    }

    /// All fields of all that was sent, by name and value.
    fn end(mut self) -> Vec<(String, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.listener.take().unwrap().join().unwrap();
        self.heard.lock().unwrap().iter().flat_map(|entry| fields(entry)).collect()
    }
}

/// An entry in the journal's own protocol: `NAME=value`, or the name alone, then length and value.
fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = Vec::new();
    while let Some(length) = entry.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&entry[..length], &entry[length + 1..]);
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            fields.push((text(&line[..at]), text(&line[at + 1..])));
            entry = rest;
        } else {
            let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
            fields.push((text(line), text(&rest[8..8 + length])));
            entry = &rest[8 + length + 1..];
        }
    }
    fields
}

/// What a terminal could obey.
fn is_order(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What got out, and how it was called.
#[derive(Default)]
struct Wrong(String);

impl Wrong {
    /// Of what is printed, each line is one of ours.
    fn printed(&mut self, what: &str, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        for line in text.split('\n').filter(|line| line.starts_with("forged") || line.contains(is_order)) {
            let _ = writeln!(self.0, "{what}: {}", line.escape_debug());
        }
    }

    fn of(&mut self, what: &str, output: &Output) {
        self.printed(&format!("{what}, stdout"), &output.stdout);
        self.printed(&format!("{what}, stderr"), &output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {output:?}");
    }

    /// A field of the journal's is one line.
    fn logged(&mut self, fields: &[(String, String)]) {
        for (name, value) in fields.iter().filter(|(_, value)| value.contains(is_order)) {
            let _ = writeln!(self.0, "journal, {name}: {}", value.escape_debug());
        }
    }
}

fn hook(host: &Emulated, name: &str, event: &str, xml: &str) -> Output {
    let sub = if matches!(event, "release" | "stopped") { "end" } else { "begin" };
    host.run(&[built("virt-mdev-hook").to_str().unwrap(), name, event, sub, "-"], xml.as_bytes()).unwrap()
}

fn run(host: &Emulated, arguments: &[&str], stdin: &str) -> Output {
    let program = built("virt-mdev");
    host.run(&[&[program.to_str().unwrap()], arguments].concat(), stdin.as_bytes()).unwrap()
}

/// All that shows what is there.
fn look(host: &Emulated, wrong: &mut Wrong, xml: &str, name: &str) {
    let verbs: [&[&str]; 12] = [
        &["list"],
        &["list", "--tree"],
        &["list", "--format", "prometheus"],
        &["types"],
        &["types", "--long"],
        &["show", UUID],
        &["show", name],
        &["doctor"],
        &["reconcile", "--dry-run"],
        &["plan"],
        &["plan", "--event", "release"],
        &["plan", "--event", "migrate"],
    ];
    let json: [&[&str]; 5] = [&["list"], &["types"], &["show", UUID], &["doctor"], &["plan"]];
    for verb in json {
        wrong.of(&format!("{verb:?} --json"), &run(host, &[verb, &["--json"]].concat(), xml));
    }
    for verb in verbs {
        for locale in ["C", "C.UTF-8"] {
            for columns in ["", "COLUMNS=60"] {
                let program = built("virt-mdev");
                let locale = format!("LC_ALL={locale}");
                let mut command = vec!["env", &locale];
                command.extend(Some(columns).filter(|columns| !columns.is_empty()));
                command.push(program.to_str().unwrap());
                command.extend(verb);
                let output = host.run(&command, xml.as_bytes()).unwrap();
                wrong.of(&format!("{} ({locale} {columns})", verb.join(" ").escape_debug()), &output);
            }
        }
    }
}

/// A domain with one device of these attributes, whose hostdev has a model.
fn domain(name: &str, uuid: &str, attributes: &str, model: &str) -> String {
    format!(
        "<domain><name>{name}</name><uuid>11111111-0000-4000-8000-00000000000{uuid}</uuid><metadata>\
         <m:devices xmlns:m='urn:virt-mdev:domain:1'><m:device {attributes}/></m:devices></metadata><devices>\
         <hostdev mode='subsystem' type='mdev'{model}><source><address uuid='{UUID}'/></source></hostdev></devices></domain>"
    )
}

fn of_type(kind: &str) -> String {
    format!("uuid='{UUID}' type='{kind}' parent='mtty'")
}

#[test]
fn a_domains_name_is_escaped_wherever_it_is_shown() {
    let host = host("names-of-domains");
    let journal = Journal::start(&host);
    let mut wrong = Wrong::default();
    let xml = domain(IN_XML, "1", &of_type("mtty-1"), MODEL);
    // A definition that cannot be read, and what lies among ours.
    let definition = format!("/etc/libvirt/qemu/{NASTY}.xml");
    let stray = format!("/run/virt-mdev/devices/{NASTY}");
    let nobody = "11111111-0000-4000-8000-000000000009";
    for command in [
        &["mkdir", "-p", &definition, "/run/virt-mdev/devices"][..],
        &["ln", "-s", nobody, &stray],
        &["mkdir", "-p", &format!("/run/virt-mdev/domains/{NASTY}.damaged")],
    ] {
        assert!(host.run(command, b"").unwrap().status.success(), "{command:?}");
    }
    for event in ["prepare", "start", "started", "reconnect"] {
        let output = hook(&host, NASTY, event, &xml);
        assert!(output.status.success(), "{event}: {output:?}");
        wrong.of(event, &output);
    }
    look(&host, &mut wrong, &xml, NASTY);
    let mut holder = host.command(EMULATOR);
    holder.args(["hold", "/dev/vfio/0", "--name", "q\u{1b}\nforged"]).stdout(std::process::Stdio::piped());
    let holder = holder.spawn().unwrap();
    super::wait_for("the holder", || says(&host, "exec 3<>/dev/vfio/0").contains("busy"));
    look(&host, &mut wrong, &xml, NASTY);
    // Its name is what another domain is told, and so is that of whoever has its device open.
    let other = domain("vm2", "2", &of_type("mtty-1"), MODEL);
    let second =
        domain("vm3", "3", &of_type("mtty-3").replace("1001", "1002"), MODEL).replace("1001", "1002");
    for (what, xml) in [("its device", &other), ("its place", &second)] {
        let output = hook(&host, "vm2", "prepare", xml);
        assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("forged"), "{what}: {output:?}");
        wrong.of(what, &output);
    }
    for event in ["stopped", "release"] {
        wrong.of(event, &hook(&host, NASTY, event, &xml));
    }
    wrong.of("reconcile", &run(&host, &["reconcile"], ""));
    wrong.of("release NAME", &run(&host, &["release", NASTY], ""));
    end(holder);
    look(&host, &mut wrong, &xml, NASTY);
    wrong.of("reconcile", &run(&host, &["reconcile"], ""));
    // Refusals about the name itself, and about whatever else is said of the domain.
    let refused = [
        domain(NASTY, "4", &of_type("mtty-1"), MODEL),
        domain("a&#27;b", "4", &of_type("mtty-1"), MODEL),
        domain(IN_XML, "4", &of_type(IN_XML), MODEL),
        domain(IN_XML, "4", &format!("uuid='{UUID}' type='mtty-1' parent='{IN_XML}'"), MODEL),
        domain(IN_XML, "4", &format!("uuid='{IN_XML}' type='mtty-1'"), MODEL),
        domain(IN_XML, "4", &format!("uuid='{UUID}' type='mtty-1' placement='{IN_XML}'"), MODEL),
        domain(IN_XML, "4", &of_type("mtty-1"), &format!(" model='{IN_XML}'")),
        domain(IN_XML, "4", &format!("{} forged\u{202e}='x'", of_type("mtty-1")), MODEL),
        domain(IN_XML, "4", &of_type("mtty-1"), MODEL).replace("<m:device ", "<m:forged\u{202e} "),
        domain(IN_XML, "4", &of_type("mtty-1"), MODEL).replace("<m:device ", "x\n\u{1b}forged<m:device "),
    ];
    for xml in &refused {
        for event in ["prepare", "start", "started", "release", "migrate", "restore"] {
            wrong.of(&format!("{event} of {}", xml.escape_debug()), &hook(&host, NASTY, event, xml));
        }
        wrong.of(&format!("plan of {}", xml.escape_debug()), &run(&host, &["plan"], xml));
    }
    let heard = journal.end();
    let named = |(name, value): &(String, String)| name == "VIRT_MDEV_DOMAIN" && value.contains("forged");
    assert!(heard.iter().any(named), "the journal is told of the domain: {heard:?}");
    assert!(heard.iter().any(|(name, _)| name == "MESSAGE"), "{heard:?}");
    wrong.logged(&heard);
    assert!(wrong.0.is_empty(), "raw:\n{}", wrong.0);
}

#[test]
fn what_a_driver_says_is_escaped_wherever_it_is_shown() {
    let host = host("names-of-types");
    let journal = Journal::start(&host);
    let mut wrong = Wrong::default();
    for (kind, other) in [("mtty-1", "mtty-3"), ("mtty-3", "mtty-1")] {
        let xml = domain("vm1", "1", &of_type(kind), MODEL);
        look(&host, &mut wrong, &xml, "vm1");
        for event in ["prepare", "start", "started"] {
            let output = hook(&host, "vm1", event, &xml);
            assert!(output.status.success(), "{event}: {output:?}");
            wrong.of(event, &output);
        }
        look(&host, &mut wrong, &xml, "vm1");
        // No room; a slip, and what was meant; no such type, and what there is; another one than is there.
        let more = |kind: &str| domain("vm2", "2", &of_type(kind), MODEL).replace("1001", "1002");
        let refused = [
            more("mtty-3"),
            more(&format!("Single port {IN_XML}")),
            more("Single port x\u{202e}"),
            more("Single portx"),
            more("Dual portx"),
            more("something else"),
            domain("vm1", "1", &of_type(other), MODEL),
        ];
        for xml in &refused {
            for event in ["prepare", "migrate"] {
                wrong.of(&format!("{event} of {}", xml.escape_debug()), &hook(&host, "vm2", event, xml));
            }
            wrong.of(&format!("plan of {}", xml.escape_debug()), &run(&host, &["plan"], xml));
        }
        assert!(hook(&host, "vm2", "release", &refused[0]).status.success());
        assert!(hook(&host, "vm1", "release", &xml).status.success());
    }
    // One that somebody has made by hand has the nasty API.
    says(&host, &format!("echo {UUID} >{CREATE}"));
    look(&host, &mut wrong, &domain("vm1", "1", &of_type("mtty-1"), MODEL), "vm1");
    let heard = journal.end();
    assert!(heard.iter().any(|(name, _)| name == "MESSAGE"), "{heard:?}");
    wrong.logged(&heard);
    assert!(wrong.0.is_empty(), "raw:\n{}", wrong.0);
}

/// The one text of a driver's that is compared with what the domain says.
#[test]
fn a_drivers_api_is_escaped_where_the_domain_has_another_model() {
    let host = host("names-of-apis");
    let journal = Journal::start(&host);
    let mut wrong = Wrong::default();
    let xml = domain("vm1", "1", &of_type("mtty-2"), MODEL);
    for (what, output) in [
        ("prepare", hook(&host, "vm1", "prepare", &xml)),
        ("migrate", hook(&host, "vm1", "migrate", &xml)),
        ("plan", run(&host, &["plan"], &xml)),
    ] {
        assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("forged"), "{what}: {output:?}");
        wrong.of(what, &output);
    }
    let heard = journal.end();
    assert!(heard.iter().any(|(_, value)| value.contains("forged")), "{heard:?}");
    wrong.logged(&heard);
    assert!(wrong.0.is_empty(), "raw:\n{}", wrong.0);
}
