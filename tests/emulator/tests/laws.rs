//! Laws of the shipped code, on random hosts with random requests: what it does and undoes leaves the host as it was,
//! twice is once, and two domains on one card never count wrong. The host is the emulator's model, in memory.

#![allow(dead_code)] // the machine in memory serves the interleavings, too

#[path = "interleavings/memory.rs"]
mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use virt_mdev::config::Config;
use virt_mdev::domain::Domain;
use virt_mdev::execute::Means;
use virt_mdev::host::Host;
use virt_mdev::host::daemon::Process;
use virt_mdev::ids::DomainUuid;
use virt_mdev::record::Records;
use virt_mdev::refusal::Refusal;
use virt_mdev::{hook, prepare, start};
use virt_mdev_emulator::host;
use virt_mdev_emulator::model::World;
use virt_mdev_emulator::tree::{self, Ino};

use memory::{Op, START_TIME, Sim, Who, alone};

const DAEMON: i32 = 100;
const UUIDS: [&str; 2] = ["0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01", "1cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02"];
const HOSTS: [&str; 5] = ["mtty", "i915", "m60-2016", "l40s-vfio", "mixed"];

/// What a device may be asked for: of which type, where, with which attributes.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// By uuid: mdev and the interface of 2016.
    Uuid { parent: String, kind: String, attribute: Option<&'static str> },
    /// A virtual function of NVIDIA's vendor VFIO.
    Function { address: String, kind: String },
}

/// Files, and what is in them.
type Snapshot = BTreeMap<String, String>;

/// A host, all that can be asked for on it, and how it is before anything happens.
struct Before {
    sim: Sim,
    kinds: Vec<Kind>,
    files: Snapshot,
}

/// A request, as numbers: what they choose from depends on the host.
#[derive(Debug, Clone, Copy)]
struct Wish {
    kind: prop::sample::Index,
    names_parent: bool,
    spread: bool,
    attribute: Option<bool>,
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        any::<prop::sample::Index>(),
        any::<bool>(),
        any::<bool>(),
        prop::option::weighted(0.4, prop::bool::weighted(0.8)),
    )
        .prop_map(|(kind, names_parent, spread, attribute)| Wish {
            kind,
            names_parent,
            spread,
            attribute,
        })
}

/// A host by the name of its file, with all that can be asked for on it.
fn on(name: &str) -> Before {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("hosts/{name}.toml"));
    let (mut host, tables) = host::Host::load(&path).unwrap();
    host.files.insert(
        "/etc/virt-mdev/config.toml".to_owned(),
        "labels = \"never\"\n[wait]\nrelease = \"5s\"\n".to_owned(),
    );
    let mut kinds = Vec::new();
    for parent in host.parent.iter().filter(|parent| parent.vfs == 0) {
        for kind in parent.types.iter().filter(|kind| kind.api == "vfio-pci") {
            let attribute = match parent.attributes {
                host::Attributes::Settings => Some("settings/first"),
                host::Attributes::Nvidia => Some("nvidia/vgpu_params"),
                _ => None,
            };
            kinds.push(Kind::Uuid { parent: parent.name.clone(), kind: kind.id.clone(), attribute });
        }
    }
    for card in &host.proposal {
        for kind in card.cost.keys() {
            kinds.push(Kind::Uuid { parent: card.address.clone(), kind: kind.clone(), attribute: None });
        }
    }
    let mut sim = Sim::default();
    sim.world = World::new(&host, &tables, false);
    sim.daemons = vec![DAEMON];
    for card in &host.vendor {
        let physical = format!("/sys/bus/pci/devices/{}", card.address);
        for function in sim.names(&physical).iter().filter(|name| name.starts_with("virtfn")).take(4) {
            let link = sim.link(&format!("{physical}/{function}"));
            let address = link.rsplit('/').next().unwrap_or_default().to_owned();
            for kind in &card.types {
                kinds.push(Kind::Function { address: address.clone(), kind: kind.id.to_string() });
            }
        }
    }
    // The first event on a host makes the directories; they stay.
    for directory in ["", "/domains", "/devices", "/by-name", "/locks"] {
        let _ = sim.act(9, &Op::MakeDirectory(format!("/run/virt-mdev{directory}")));
    }
    let files = snapshot(&mut sim);
    Before { sim, kinds, files }
}

/// Every host; making one takes longer than a life of a domain on it.
fn hosts() -> Vec<Before> {
    HOSTS.iter().map(|name| on(name)).collect()
}

/// The XML of a domain that wishes for these.
fn xml(domain: usize, kinds: &[Kind], wishes: &[Wish]) -> String {
    let (mut devices, mut hostdevs) = (String::new(), String::new());
    let mut functions = BTreeSet::new();
    for (number, wish) in wishes.iter().enumerate() {
        match wish.kind.get(kinds) {
            Kind::Uuid { parent, kind, attribute } => {
                let uuid = format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa{domain}{number:03}");
                let parent = if wish.names_parent { format!(" parent='{parent}'") } else { String::new() };
                let placement = if wish.spread { " placement='spread'" } else { "" };
                let attribute = match (attribute, wish.attribute) {
                    (Some(name), Some(true)) => {
                        format!("<mdev:attribute name='{name}' value='frl={number}'/>")
                    }
                    // No device has it: the start fails there.
                    (_, Some(false)) => "<mdev:attribute name='no/such' value='1'/>".to_owned(),
                    _ => String::new(),
                };
                devices += &format!(
                    "<mdev:device uuid='{uuid}' type='{kind}'{parent}{placement}>{attribute}</mdev:device>"
                );
                hostdevs += &format!(
                    "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/></source></hostdev>"
                );
            }
            // A function is passed through once.
            Kind::Function { address, kind } if functions.insert(address.clone()) => {
                let attribute = match wish.attribute {
                    Some(true) => "<mdev:attribute name='nvidia/vgpu_params' value='frl=1'/>",
                    Some(false) => "<mdev:attribute name='nvidia/such' value='1'/>",
                    None => "",
                };
                devices +=
                    &format!("<mdev:device parent='{address}' type='{kind}'>{attribute}</mdev:device>");
                let part = |range| address.get(range).unwrap_or_default();
                hostdevs += &format!(
                    "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x{}' bus='0x{}' slot='0x{}' function='0x{}'/></source></hostdev>",
                    part(0..4),
                    part(5..7),
                    part(8..10),
                    part(11..12)
                );
            }
            Kind::Function { .. } => {}
        }
    }
    let (name, uuid) = (["vm1", "vm2"][domain], UUIDS[domain]);
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata><mdev:devices \
         xmlns:mdev='urn:virt-mdev:domain:1'>{devices}</mdev:devices></metadata><devices>{hostdevs}</devices></domain>"
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Prepare,
    Start,
    Started,
    Reconnect,
    Release,
}

/// The hook is called, with nobody else there.
fn call(sim: &mut Sim, call: Call, domain: usize, xml: &str) -> Result<(), String> {
    let who = Who::try_from(domain).unwrap();
    alone(sim, who, |host: &Host| {
        let records = Records::new(host);
        let uuid = DomainUuid::parse(UUIDS[domain]).unwrap();
        let in_words = |refusal: Refusal| refusal.to_string();
        let config = || Config::load_or_default(host);
        match call {
            Call::Prepare => {
                let caller = Process { pid: DAEMON, start_time: START_TIME };
                let (config, _) = Config::load(host).map_err(in_words)?;
                let domain = Domain::read(xml.as_bytes()).map_err(in_words)?;
                prepare::prepare(host, config, domain, Some(caller)).map_err(in_words)
            }
            _ if !records.has(&uuid) => Ok(()),
            Call::Start => start::start(host, config(), xml.as_bytes()).map_err(in_words),
            Call::Started => {
                let means = Means { host, records: &records, waits: config().waits };
                hook::runs(means, &uuid).map_err(in_words)
            }
            Call::Reconnect => hook::compare(host, config(), &uuid).map_err(in_words),
            Call::Release => hook::release(host, config(), &uuid).map_err(in_words),
        }
    })
}

/// Every file of the host with what is in it, but for locks, which stay for ever.
fn snapshot(sim: &mut Sim) -> Snapshot {
    let mut files = Snapshot::new();
    let mut attributes = Vec::new();
    for directory in ["/sys", "/dev", "/run", "/etc"] {
        sim.each(directory, &mut |path, ino, file| {
            let text = match &file.kind {
                tree::Kind::Attribute(_) => return attributes.push((path.to_owned(), ino)),
                tree::Kind::File(data) => String::from_utf8_lossy(data).into_owned(),
                tree::Kind::Link(target) => target.clone(),
                _ => String::new(),
            };
            // The directory of a class is there from its first member on.
            if !path.starts_with("/run/virt-mdev/locks/") && path != "/sys/devices/virtual/vfio" {
                files.insert(path.to_owned(), text);
            }
        });
    }
    for (path, ino) in attributes {
        let text = sim.attribute_at(ino).unwrap_or_else(|| "not to be read".to_owned());
        files.insert(path, text);
    }
    files
}

/// What is in one and not, or otherwise, in the other.
fn difference(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    differs.map(|path| format!("{path}: {:?} -> {:?}", before.get(path), after.get(path))).collect()
}

/// The nodes of what a domain has recorded, opened as its QEMU does.
fn qemu(sim: &mut Sim, devices: &[String]) -> Vec<(Ino, u64)> {
    let mut open = Vec::new();
    for device in devices {
        let buses =
            ["mdev", "pci"].map(|bus| sim.link(&format!("/sys/bus/{bus}/devices/{device}/iommu_group")));
        let group = buses.iter().find(|link| !link.is_empty()).cloned().unwrap_or_default();
        let group = group.rsplit('/').next().unwrap_or_default().to_owned();
        open.push(
            sim.open_device(&format!("/dev/vfio/{group}"))
                .unwrap_or_else(|errno| panic!("{device}: {errno}")),
        );
    }
    open
}

fn end(sim: &mut Sim, open: Vec<(Ino, u64)>) {
    for (ino, handle) in open {
        sim.close(ino, handle);
    }
    sim.world.out.clear();
}

/// Devices in a domain's record that it made.
fn recorded(sim: &mut Sim, domain: usize) -> Vec<String> {
    alone(sim, 9, |host| {
        let record = Records::new(host).read(&DomainUuid::parse(UUIDS[domain]).unwrap()).unwrap();
        record.iter().flat_map(|record| record.devices()).map(|(device, ..)| device.to_string()).collect()
    })
}

/// Counts what the laws were tried on: a law that was tried on refusals alone would hold of anything.
#[derive(Default)]
struct Tried {
    well: std::sync::atomic::AtomicUsize,
    all: std::sync::atomic::AtomicUsize,
}

impl Tried {
    fn note(&self, well: bool) {
        self.all.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.well.fetch_add(usize::from(well), std::sync::atomic::Ordering::Relaxed);
    }

    /// At least a fifth of the starts went well, and a twentieth did not.
    fn judge(&self) {
        let of = |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::Relaxed);
        let (well, all) = (of(&self.well), of(&self.all));
        assert!(well * 5 >= all && (all - well) * 20 >= all, "{well} of {all} starts went well");
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(4),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn host_and_wishes() -> impl Strategy<Value = (usize, Vec<Wish>)> {
    (0..HOSTS.len(), prop::collection::vec(wish(), 1..4))
}

/// Runs a law, and judges what it was tried on.
fn law<S: Strategy>(number: u32, strategy: S, test: impl Fn(S::Value, &Tried) -> Result<(), TestCaseError>) {
    let tried = Tried::default();
    let mut runner = proptest::test_runner::TestRunner::new(cases(number));
    if let Err(why) = runner.run(&strategy, |value| test(value, &tried)) {
        panic!("{why}");
    }
    tried.judge();
}

#[test]
fn undo_after_do_leaves_the_host_as_it_was() {
    let hosts = hosts();
    law(400, (host_and_wishes(), any::<bool>()), |((host, wishes), runs), tried| {
        let Before { kinds, files: before, .. } = &hosts[host];
        let mut sim = hosts[host].sim.clone();
        let xml = xml(0, kinds, &wishes);
        let prepared = call(&mut sim, Call::Prepare, 0, &xml);
        tried.note(prepared.is_ok());
        if prepared.is_ok() {
            prop_assert_ne!(&snapshot(&mut sim), before, "nothing was done");
            if runs {
                prop_assert_eq!(call(&mut sim, Call::Start, 0, &xml), Ok(()));
                let devices = recorded(&mut sim, 0);
                let open = qemu(&mut sim, &devices);
                prop_assert_eq!(call(&mut sim, Call::Started, 0, &xml), Ok(()));
                end(&mut sim, open);
            }
            prop_assert_eq!(call(&mut sim, Call::Release, 0, &xml), Ok(()));
        }
        // A start that failed has undone itself.
        let difference = difference(before, &snapshot(&mut sim));
        prop_assert!(difference.is_empty(), "{prepared:?}: {difference:#?}");
        Ok(())
    });
}

#[test]
fn preparing_twice_adds_nothing() {
    let hosts = hosts();
    law(300, host_and_wishes(), |(host, wishes), tried| {
        let mut sim = hosts[host].sim.clone();
        let xml = xml(0, &hosts[host].kinds, &wishes);
        let first = call(&mut sim, Call::Prepare, 0, &xml);
        let once = snapshot(&mut sim);
        let second = call(&mut sim, Call::Prepare, 0, &xml);
        tried.note(first.is_ok());
        prop_assert_eq!(first, second);
        let difference = difference(&once, &snapshot(&mut sim));
        prop_assert!(difference.is_empty(), "{difference:#?}");
        Ok(())
    });
}

#[test]
fn releasing_twice_is_releasing_once() {
    let hosts = hosts();
    law(300, (host_and_wishes(), any::<bool>()), |((host, wishes), held), tried| {
        let mut sim = hosts[host].sim.clone();
        let xml = xml(0, &hosts[host].kinds, &wishes);
        let prepared = call(&mut sim, Call::Prepare, 0, &xml);
        tried.note(prepared.is_ok());
        // One that cannot be done is not undone halfway by the second either.
        let devices = if held { recorded(&mut sim, 0) } else { Vec::new() };
        let open = qemu(&mut sim, &devices);
        prop_assert_eq!(call(&mut sim, Call::Release, 0, &xml), Ok(()));
        let once = snapshot(&mut sim);
        prop_assert_eq!(call(&mut sim, Call::Release, 0, &xml), Ok(()));
        let difference = difference(&once, &snapshot(&mut sim));
        prop_assert!(difference.is_empty(), "{difference:#?}");
        end(&mut sim, open);
        Ok(())
    });
}

/// What may happen to two domains on one card.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Call(Call),
    Open,
    End,
}

/// Units of mtty, and what its two types take of them.
const UNITS: usize = 24;
const COSTS: [(&str, usize); 2] = [("mtty-1", 1), ("mtty-2", 2)];

#[test]
fn any_order_of_two_domains_events_keeps_every_count_exact() {
    let happens = prop_oneof![
        4 => Just(Happens::Call(Call::Prepare)),
        2 => Just(Happens::Call(Call::Start)),
        2 => Just(Happens::Call(Call::Started)),
        1 => Just(Happens::Call(Call::Reconnect)),
        2 => Just(Happens::Call(Call::Release)),
        2 => Just(Happens::Open),
        1 => Just(Happens::End),
    ];
    let wishes = || prop::collection::vec(wish(), 1..20);
    let events = prop::collection::vec((0..2usize, happens), 1..20);
    let Before { sim, mut kinds, files: before } = on("mtty");
    kinds.retain(|kind| matches!(kind, Kind::Uuid { parent, .. } if parent == "mtty"));
    law(150, (wishes(), wishes(), events), |(first, second, events), tried| {
        let mut sim = sim.clone();
        let xmls = [xml(0, &kinds, &first), xml(1, &kinds, &second)];
        let mut open = [Vec::new(), Vec::new()];
        for (domain, event) in events {
            match event {
                // A domain that runs is not started.
                Happens::Call(Call::Prepare) if !open[domain].is_empty() => {}
                Happens::Call(event) => {
                    let result = call(&mut sim, event, domain, &xmls[domain]);
                    if event == Call::Prepare {
                        tried.note(result.is_ok());
                    } else {
                        prop_assert_eq!(result, Ok(()));
                    }
                }
                Happens::Open if open[domain].is_empty() => {
                    let devices = recorded(&mut sim, domain);
                    open[domain] = qemu(&mut sim, &devices);
                }
                Happens::Open => {}
                Happens::End => end(&mut sim, std::mem::take(&mut open[domain])),
            }
            counts(&mut sim)?;
        }
        for (domain, open) in open.into_iter().enumerate() {
            end(&mut sim, open);
            prop_assert_eq!(call(&mut sim, Call::Release, domain, &xmls[domain]), Ok(()));
        }
        let difference = difference(&before, &snapshot(&mut sim));
        prop_assert!(difference.is_empty(), "{difference:#?}");
        Ok(())
    });
}

/// What the records say, what is there, and what the card has left are one thing.
fn counts(sim: &mut Sim) -> Result<(), TestCaseError> {
    let mut recorded: Vec<(String, String)> = alone(sim, 9, |host| {
        let records = Records::new(host);
        let read = |domain: &&str| records.read(&DomainUuid::parse(domain).unwrap()).unwrap();
        let devices = UUIDS.iter().filter_map(read).flat_map(|record| {
            let named = |(device, place, ..): (&_, &virt_mdev::step::Place, _, _)| {
                (ToString::to_string(device), place.kind.to_string())
            };
            record.devices().map(named).collect::<Vec<_>>()
        });
        devices.collect()
    });
    recorded.sort();
    let types = "/sys/class/mdev_bus/mtty/mdev_supported_types";
    let mut there = Vec::new();
    let mut used = 0;
    for (kind, cost) in COSTS {
        let devices = sim.names(&format!("{types}/{kind}/devices"));
        used += devices.len() * cost;
        there.extend(devices.into_iter().map(|device| (device, kind.to_owned())));
    }
    there.sort();
    prop_assert_eq!(recorded, there);
    prop_assert!(used <= UNITS);
    for (kind, cost) in COSTS {
        let free = sim.attribute(&format!("{types}/{kind}/available_instances"));
        prop_assert_eq!(free, Some(((UNITS - used) / cost).to_string()), "{}", kind);
    }
    Ok(())
}
