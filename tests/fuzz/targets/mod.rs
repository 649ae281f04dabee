//! What has to hold, whatever the input.

mod edits;
mod labels;
mod records;

use std::fs;
use std::path::{Component, Path};
use std::time::Duration;

use serde_json::Value;
use virt_mdev::backend::listing;
use virt_mdev::cli::plan;
use virt_mdev::config::{Config, Labels};
use virt_mdev::definitions;
use virt_mdev::domain::{Attribute, Domain, uuid_in};
use virt_mdev::event::{Call, Event};
use virt_mdev::host::Host;
use virt_mdev::ids::{DomainUuid, MdevUuid, Node, Parent};
use virt_mdev::qemu_conf::QemuConf;
use virt_mdev::refusal::Refusal;
use virt_mdev::relabel;
use virt_mdev::words::{escaped, for_shell, printable};

use crate::support::tree::Tree;

pub(crate) use edits::rewriting;
pub(crate) use labels::Seclabels;
pub(crate) use records::{RecordFile, records};

/// Directional marks, embeddings, overrides and isolates, and the ends of lines that are no control characters.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What is said is one line, and no terminal takes any of it for an order.
fn presentable(words: &str) {
    assert!(!words.is_empty());
    assert!(!words.chars().any(|c| c.is_control() || turns(c)), "{words:?}");
    assert_eq!(escaped(words), words, "what is escaped elsewhere stands there as it is");
}

/// An error and what is said to be done about it, which may be several lines.
fn told(text: &str, hint: Option<&str>) {
    presentable(text);
    if let Some(hint) = hint {
        hint.split('\n').for_each(presentable);
    }
}

fn refused(refusal: &Refusal) {
    told(&refusal.to_string(), refusal.hint().as_deref());
}

/// One component of a path, wherever it is put.
fn component(name: &str) {
    presentable(name);
    assert!(name.len() <= 255 && !name.contains('/') && name != "." && name != "..", "{name:?}");
}

/// What of a device's directory is the kernel's, not the driver's: a file, or all that is below it.
const FILES: [&str; 4] = ["remove", "online", "uevent", "driver_override"];
const BELOW: [&str; 6] = ["power", "driver", "iommu_group", "mdev_type", "subsystem", "vfio-dev"];

/// An attribute that may be written stays below its device, and is its driver's.
fn confined(attribute: &Attribute) {
    let name = attribute.name.to_string();
    name.split('/').for_each(component);
    assert!(Path::new(&name).components().all(|part| matches!(part, Component::Normal(_))), "{name}");
    assert!(!FILES.contains(&&*name) && !BELOW.contains(&name.split('/').next().unwrap()), "{name}");
    assert!(attribute.value.len() <= 4095 && !attribute.value.contains('\0'), "{attribute:?}");
}

pub(crate) fn domain_xml(input: &[u8]) {
    // The quick look takes the first `<uuid>` that stands there, which is the domain's in what libvirt writes.
    if let Some(uuid) = uuid_in(input) {
        let text = String::from_utf8_lossy(input).to_ascii_lowercase();
        assert!(text.contains(&uuid.to_string()), "{uuid} stands nowhere");
    }
    let domain = match Domain::read(input) {
        Ok(domain) => domain,
        Err(refusal) => return refused(&refusal),
    };
    presentable(&printable(&domain.name).to_string());
    for wanted in &domain.wanted {
        presentable(&wanted.words());
        presentable(&wanted.wish.to_string());
        component(&wanted.wish.as_id().to_string());
        wanted.parents.iter().for_each(|parent| component(&parent.to_string()));
        wanted.attributes.iter().for_each(confined);
        // They are joined by commas, in one write.
        for (name, value) in &wanted.arguments {
            let argument = format!("{name}={value}");
            assert!(!argument.contains(',') && !argument.chars().any(char::is_control), "{argument:?}");
            assert_eq!(argument.split_once('='), Some((&**name, &**value)));
        }
    }
    let wanted: Vec<_> = domain.wanted.iter().filter_map(|wanted| wanted.uuid.as_ref()).collect();
    let opened: Vec<_> = domain.mdevs.iter().map(|hostdev| &hostdev.uuid).collect();
    for uuids in [wanted, opened] {
        assert!(uuids.iter().enumerate().all(|(at, uuid)| !uuids[..at].contains(uuid)), "twice: {uuids:?}");
    }
}

/// Hosts of `tests/hosts`.
pub(crate) struct Hosts {
    hosts: [Tree; 4],
    before: [Vec<String>; 4],
}

impl Hosts {
    pub(crate) fn new() -> Self {
        let hosts = ["mtty", "sriov", "m60-2016", "l40s"].map(|name| {
            let description: toml::Table = format!("host = \"{name}\"").parse().unwrap();
            Tree::build(&crate::here().join("hosts"), &description)
        });
        let before = hosts.each_ref().map(Tree::listing);
        Self { hosts, before }
    }

    pub(crate) fn plans(&self, input: &[u8]) {
        for tree in &self.hosts {
            for event in [Event::Prepare, Event::Migrate] {
                match plan::text(&tree.host(), event, input, false) {
                    Ok(plan) => plan.lines().for_each(presentable),
                    Err(failure) => told(&failure.text, failure.hint.as_deref()),
                }
            }
        }
    }
}

/// Looking at everything on the hosts takes longer than a few plans: once, at the end. What libFuzzer writes then is not
/// the input that did it.
impl Drop for Hosts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let after = self.hosts.each_ref().map(Tree::listing);
            assert_eq!(after, self.before, "a plan has changed the host");
        }
    }
}

/// What libvirt calls its hook with (docs/hooks.rst), but for `attach`, which it never does.
const CALLS: [(&str, &str, Event); 8] = [
    ("prepare", "begin", Event::Prepare),
    ("start", "begin", Event::Start),
    ("started", "begin", Event::Started),
    ("stopped", "end", Event::Stopped),
    ("release", "end", Event::Release),
    ("reconnect", "begin", Event::Reconnect),
    ("migrate", "begin", Event::Migrate),
    ("restore", "begin", Event::Restore),
];

pub(crate) fn arguments(input: &[u8]) {
    let args: Vec<String> = String::from_utf8_lossy(input).split('\n').map(str::to_owned).collect();
    let known = match args.as_slice() {
        [_, operation, sub, ..] => CALLS.iter().find(|(of, its, _)| of == operation && its == sub),
        _ => None,
    };
    let call = Call::parse(&args);
    assert_eq!(call.as_ref().map(|call| call.event), known.map(|(.., event)| *event));
    let Some(Call { name, event }) = call else { return };
    assert_eq!(name, args[0]);
    assert_eq!(Event::from_word(&args[1]), Some(event));
    assert_eq!(event.word(), args[1]);
    // A name may be anything: nothing of it reaches a terminal or a shell.
    if !name.is_empty() {
        presentable(&printable(&name).to_string());
    }
    let uuid = DomainUuid::parse("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap();
    let word = for_shell(&name, &uuid);
    assert!(word == name || word == uuid.to_string(), "{word:?}");
    assert!(!word.is_empty() && !word.starts_with('-'), "{word:?}");
    assert!(word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{word:?}");
}

pub(crate) fn listings(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for listing in [listing::table(&text), listing::creatable(&text)] {
        let mut ids: Vec<_> = listing.rows.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), listing.rows.len(), "an id stands for two types");
        for name in listing.rows.iter().filter_map(|row| row.name.as_ref()) {
            assert!(!name.is_empty() && !name.contains('\u{fffd}'));
        }
    }
}

pub(crate) fn definitions(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let definition = match definitions::parse(&text) {
        Ok(definition) => definition,
        Err(bad) => return presentable(&bad.to_string()),
    };
    component(&definition.kind.to_string());
    definition.attributes.iter().for_each(confined);
    // It is what another reader of JSON finds, in the same order.
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["mdev_type"], definition.kind.to_string());
    assert_eq!(json["start"], if definition.auto { "auto" } else { "manual" });
    let attributes = definition.attributes.iter();
    let written: Vec<Value> =
        attributes.map(|it| serde_json::json!({ it.name.to_string(): it.value })).collect();
    let given = json["attrs"].as_array();
    assert_eq!(given.map_or(&[][..], Vec::as_slice), written);
    let (uuid, parent) = ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", Parent::parse("mtty").unwrap());
    let wanted = definition.clone().wanted(MdevUuid::parse(uuid).unwrap(), parent.clone());
    assert_eq!((&wanted.wish, &wanted.attributes), (&definition.kind, &definition.attributes));
    assert_eq!((wanted.parents, wanted.arguments), (vec![parent], vec![]), "made there, and nowhere else");
}

pub(crate) fn qemu_conf(input: &[u8]) {
    match QemuConf::parse(&String::from_utf8_lossy(input)) {
        Ok(conf) => {
            let nodes = ["/dev/vfio/7".to_owned()];
            let lines = conf.lines_for(&nodes);
            let again = QemuConf::parse(&lines).expect("the lines that doctor gives can be read");
            let mut devices = conf.devices();
            if !devices.contains(&"/dev/vfio/7") {
                devices.push("/dev/vfio/7");
            }
            assert_eq!(again.devices(), devices, "{lines}");
        }
        Err(why) => presentable(&why),
    }
}

pub(crate) fn udev_events(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.splitn(3, '\n');
    let (Some(action), Some(subsystem), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    if let Some(event) = relabel::Event::parse(action, subsystem, path) {
        let node = event.node.to_string();
        assert_eq!(Node::parse(&node), Ok(event.node));
        let number = node.strip_prefix("vfio/devices/vfio").or_else(|| node.strip_prefix("vfio/")).unwrap();
        assert!(number.bytes().all(|byte| byte.is_ascii_digit()), "{node}");
    }
}

/// A host with a configuration.
pub(crate) struct Configuration {
    directory: tempfile::TempDir,
}

/// Every key that virt-mdev.toml(5) has.
const KEYS: [&str; 10] = [
    "enabled",
    "labels",
    "placement.policy",
    "definitions.use",
    "udev.autostart",
    "wait.release",
    "wait.parent",
    "wait.udev",
    "wait.lock",
    "wait.driver",
];

impl Configuration {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc/virt-mdev")).unwrap();
        Self { directory }
    }

    pub(crate) fn load(&mut self, input: &[u8]) {
        fs::write(self.directory.path().join("etc/virt-mdev/config.toml"), input).unwrap();
        let host = Host::at(self.directory.path());
        let (config, unknown) = match Config::load(&host) {
            Ok(loaded) => loaded,
            Err(refusal) => {
                assert_eq!(Config::load_or_default(&host), Config::default(), "a release goes on");
                return refused(&refusal);
            }
        };
        let table: toml::Table = String::from_utf8_lossy(input).parse().expect("TOML");
        let mut given = Vec::new();
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => {
                    given.extend(inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
                }
                value => given.push((key, value)),
            }
        }
        // Each that is not known is named, and nothing else is.
        let strange = given.iter().filter(|(key, _)| !KEYS.contains(&&**key));
        let strange: Vec<String> =
            strange.map(|(key, _)| format!("unknown key {}", printable(key))).collect();
        assert_eq!(unknown.len(), strange.len(), "{unknown:?}");
        for (words, begins) in unknown.iter().zip(&strange) {
            presentable(words);
            assert!(words.starts_with(begins), "{words:?}");
        }
        let value = |key: &str| given.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        let default = Config::default();
        for (key, switch, otherwise) in [
            ("enabled", config.enabled, default.enabled),
            ("definitions.use", config.definitions, default.definitions),
            ("udev.autostart", config.autostart, default.autostart),
        ] {
            let wanted = value(key).map_or(otherwise, |value| value.as_bool().expect("a switch"));
            assert_eq!(switch, wanted, "{key}");
        }
        let labels = match value("labels").map(|value| value.as_str().expect("a word")) {
            Some("never") => Labels::Never,
            Some("needed") => Labels::Needed,
            Some("always") | None => Labels::Always,
            Some(other) => panic!("labels = {other:?} is taken"),
        };
        assert_eq!(config.labels, labels);
        let (waits, usual) = (config.waits, default.waits);
        for (key, wait, otherwise) in [
            ("wait.release", waits.release, usual.release),
            ("wait.parent", waits.parent, usual.parent),
            ("wait.udev", waits.udev, usual.udev),
            ("wait.lock", waits.lock, usual.lock),
            ("wait.driver", waits.driver, usual.driver),
        ] {
            assert!(wait <= Duration::from_secs(3600), "{key} = {wait:?}");
            match value(key) {
                None => assert_eq!(wait, otherwise, "{key}"),
                Some(toml::Value::Integer(seconds)) => {
                    assert_eq!(i64::try_from(wait.as_secs()), Ok(*seconds), "{key}");
                }
                Some(toml::Value::String(text)) => assert!(text.ends_with('s'), "{key} = {text:?}"),
                Some(other) => panic!("{key} = {other} is taken"),
            }
        }
        assert!(!waits.driver.is_zero(), "no start would succeed");
    }
}
