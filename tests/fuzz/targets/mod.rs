//! What has to hold, whatever the input.

use std::fs;
use std::path::PathBuf;

use virt_mdev::backend::listing;
use virt_mdev::cli::plan;
use virt_mdev::config::Config;
use virt_mdev::definitions;
use virt_mdev::domain::Domain;
use virt_mdev::domain::edit::Editable;
use virt_mdev::domain::uuid_in;
use virt_mdev::event::{Call, Event};
use virt_mdev::host::Host;
use virt_mdev::ids::{DeviceId, DomainUuid, MdevUuid};
use virt_mdev::qemu_conf::QemuConf;
use virt_mdev::record::Records;
use virt_mdev::refusal::Refusal;
use virt_mdev::relabel;
use virt_mdev::words::escaped;

use crate::support::tree::Tree;

/// Directional marks, embeddings, overrides and isolates, and the ends of lines that are no control characters.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

pub(crate) fn domain_xml(input: &[u8]) {
    // The quick look takes the first `<uuid>` that stands there, which is the domain's in what libvirt writes.
    if let Some(uuid) = uuid_in(input) {
        let text = String::from_utf8_lossy(input).to_ascii_lowercase();
        assert!(text.contains(&uuid.to_string()), "{uuid} stands nowhere");
    }
    if let Err(refusal) = Domain::read(input) {
        refused(&refusal);
    }
}

pub(crate) fn rewriting(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (Ok(domain), Ok(editable)) = (Domain::read(input), Editable::read(text)) else { return };
    assert_eq!(editable.with_others(&[]), text, "nothing was to change");
    let devices = domain.mdevs.iter().map(|hostdev| &hostdev.uuid);
    let Some(one) = devices.chain(domain.wanted.iter().filter_map(|wanted| wanted.uuid.as_ref())).next()
    else {
        return;
    };
    let other = MdevUuid::parse("c2d1a5f0-0000-4000-8000-00000000f022").unwrap();
    let others = [(DeviceId::Mdev(one.clone()), DeviceId::Mdev(other.clone()))];
    let changed = editable.with_others(&others);
    let read = Domain::read(changed.as_bytes()).expect("what is rewritten can be read");
    // A name in a place, or spelt in a way, that the edit does not know is left alone; `arrive` sees that and refuses.
    let left = changed.to_lowercase().contains(&one.to_string()) || text.contains("&#");
    assert!(left || read == domain.with(&others), "{read:?} is not what was asked for");
    // Byte for byte nothing else has changed.
    if !text.to_lowercase().contains(&other.to_string()) {
        let back = changed.to_lowercase().replace(&other.to_string(), &one.to_string());
        assert_eq!(back, text.to_lowercase(), "something else has changed, too");
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

pub(crate) fn arguments(input: &[u8]) {
    let args: Vec<String> = String::from_utf8_lossy(input).split('\n').map(str::to_owned).collect();
    if let Some(call) = Call::parse(&args) {
        assert_eq!(call.name, args[0]);
        assert_eq!(call.event.word(), &*args[1]);
    }
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
    if let Err(bad) = definitions::parse(&String::from_utf8_lossy(input)) {
        presentable(&bad.to_string());
    }
}

pub(crate) fn qemu_conf(input: &[u8]) {
    match QemuConf::parse(&String::from_utf8_lossy(input)) {
        Ok(conf) => {
            let nodes = ["/dev/vfio/7".to_owned()];
            let lines = conf.lines_for(&nodes);
            if !lines.is_empty() {
                let again = QemuConf::parse(&lines).expect("the lines that doctor gives can be read");
                assert!(again.devices().contains(&"/dev/vfio/7"));
            }
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
        assert!(!event.node.to_string().contains(".."));
    }
}

/// A host with a configuration.
pub(crate) struct Configuration {
    directory: tempfile::TempDir,
}

impl Configuration {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc/virt-mdev")).unwrap();
        Self { directory }
    }

    pub(crate) fn load(&mut self, input: &[u8]) {
        fs::write(self.directory.path().join("etc/virt-mdev/config.toml"), input).unwrap();
        match Config::load(&Host::at(self.directory.path())) {
            Ok((_, unknown)) => unknown.iter().for_each(|words| presentable(words)),
            Err(refusal) => refused(&refusal),
        }
    }
}

/// A host with one record.
pub(crate) struct RecordFile {
    directory: tempfile::TempDir,
    domain: DomainUuid,
}

impl RecordFile {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("run/virt-mdev/domains")).unwrap();
        let file =
            Self { directory, domain: DomainUuid::parse("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap() };
        fs::write(file.path(), file.written()).unwrap();
        let record = Records::new(&Host::at(file.directory.path())).read(&file.domain).expect("a record");
        assert_eq!(record.expect("a record").steps.len(), 3);
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(format!("run/virt-mdev/domains/{}.json", self.domain))
    }

    pub(crate) fn written(&self) -> Vec<u8> {
        fs::read(crate::here().join("fuzz/record.json")).unwrap()
    }

    pub(crate) fn read(&mut self, input: &[u8]) {
        fs::write(self.path(), input).unwrap();
        let records = Records::new(&Host::at(self.directory.path()));
        match records.read(&self.domain) {
            Ok(record) => assert_eq!(record.expect("it is there").domain.uuid, self.domain),
            Err(trouble) => presentable(&trouble.to_string()),
        }
        assert_eq!(fs::read(self.path()).unwrap(), input, "whatever it is, it stays");
    }
}
