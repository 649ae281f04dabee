//! More prepares at once than there are places: each gets one, or a sentence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use virt_mdev_emulator::client::Emulated;

use crate::Wrong;
use crate::calls::{Call, Daemon, Said, hosts, start};
use crate::domains::{Dice, Wanted, device_uuid, domain_uuid, xml};
use crate::eyes::{Eyes, While, differences};

/// How often the host is looked at while all of them run.
const LOOK: Duration = Duration::from_millis(50);

struct Domain {
    name: String,
    uuid: String,
    xml: String,
    wanted: Wanted,
    /// Parents that it may be on; empty: any.
    parents: Vec<String>,
}

impl Domain {
    fn new(number: usize, wanted: Wanted, parents: Vec<String>) -> Self {
        let (name, uuid) = (format!("vm{number}"), domain_uuid(number));
        let xml = xml(&name, &uuid, std::slice::from_ref(&wanted));
        Self { name, uuid, xml, wanted, parents }
    }
}

/// Gives an event to all of them at the same moment: the processes are there and wait for their XML. `look`
/// is called again and again meanwhile.
fn at_once(
    host: &Emulated,
    domains: &[Domain],
    operation: &str,
    look: impl Fn() -> Vec<Wrong> + Sync,
) -> Result<Vec<Said>, Wrong> {
    let mut calls = Vec::new();
    for domain in domains {
        calls.push(Call::new(host, &domain.name, operation, Daemon::Lives)?);
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut wrong: BTreeSet<Wrong> = BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                wrong.extend(look());
                std::thread::sleep(LOOK);
            }
            wrong
        });
        let began = Instant::now();
        for (call, domain) in calls.iter_mut().zip(domains) {
            call.begin(&domain.xml);
        }
        let said: Result<Vec<Said>, Wrong> = calls.into_iter().map(|call| call.end(began)).collect();
        ended.store(true, Ordering::Relaxed);
        let wrong = watcher.join().map_err(|_| "the watcher panicked".to_owned())?;
        if wrong.is_empty() { said } else { Err(list(format!("while all {operation}s ran:"), wrong)) }
    })
}

fn list(head: String, lines: impl IntoIterator<Item = String>) -> Wrong {
    // More of the same helps nobody.
    lines.into_iter().take(12).fold(head, |text, line| text + "\n  " + &line)
}

/// Runs prepare and release of all; `places` is how many can be served, `judge` says whether a refusal is one
/// that this domain may get.
fn storm(
    host: &Emulated,
    domains: &[Domain],
    places: usize,
    look: impl Fn(&Eyes, While) -> Vec<Wrong> + Sync,
    judge: impl Fn(&Domain, &str) -> bool,
) -> Result<(usize, usize), Wrong> {
    let eyes = Eyes::of(host);
    let before = eyes.all();
    let said = at_once(host, domains, "prepare", || look(&eyes, While::Making))?;
    let mut served = Vec::new();
    let mut wrong = Vec::new();
    for (domain, said) in domains.iter().zip(&said) {
        match said.code {
            Some(0) if said.stderr.is_empty() => served.push(domain),
            Some(1) if judge(domain, &said.stderr) => {}
            _ => wrong.push(format!("{}: {said}", domain.name)),
        }
    }
    if served.len() != places {
        wrong.insert(0, format!("{} were served, and there are {places} places", served.len()));
    }
    if !wrong.is_empty() {
        return Err(list("prepare:".to_owned(), wrong));
    }
    has_each_its_own(&eyes, &served)?;
    // libvirt calls release for those too that could not start.
    let said = at_once(host, domains, "release", || look(&eyes, While::Undoing))?;
    let loud = domains.iter().zip(&said).filter(|(_, said)| !said.is_well());
    let loud: Vec<String> = loud.map(|(domain, said)| format!("{}: {said}", domain.name)).collect();
    if !loud.is_empty() {
        return Err(list("release:".to_owned(), loud));
    }
    match differences(&before, &eyes.all()) {
        none if none.is_empty() => Ok((served.len(), domains.len() - served.len())),
        left => Err(list("after all releases the host is not what it was:".to_owned(), left)),
    }
}

/// Who was served has its device where it wanted it, with its claim and its record, and nobody else has
/// anything.
fn has_each_its_own(eyes: &Eyes, served: &[&Domain]) -> Result<(), Wrong> {
    let sight = eyes.look();
    let mut wrong = Vec::new();
    for Domain { name, uuid, wanted, parents, .. } in served {
        let id = &wanted.id;
        match sight.devices.get(id) {
            None => wrong.push(format!("{name} was served and has no device {id}")),
            Some(device) if device.kind != wanted.kind => {
                wrong.push(format!("{name} wanted {} and has {device:?}", wanted.kind));
            }
            Some(device) if !parents.is_empty() && !parents.contains(&device.parent) => {
                wrong.push(format!("{name} wanted one of {parents:?} and has {device:?}"));
            }
            Some(_) => {}
        }
        if sight.claims.get(id) != Some(uuid) {
            wrong.push(format!("{name} has no claim on {id}"));
        }
        let record = sight.records.get(uuid).map(String::as_str).unwrap_or_default();
        if !record.contains(id.as_str()) || !record.contains("\"prepared\"") {
            wrong.push(format!("record of {name}: {record:?}"));
        }
    }
    let counts = [sight.devices.len(), sight.claims.len(), sight.records.len(), sight.index.len()];
    if counts != [served.len(); 4] || !sight.stray.is_empty() {
        wrong.push(format!(
            "devices, claims, records and index entries are {counts:?}, and {} were served; besides: {:?}",
            served.len(),
            sight.stray
        ));
    }
    if wrong.is_empty() { Ok(()) } else { Err(list("after all prepares:".to_owned(), wrong)) }
}

fn begin(host: &str) -> Result<Emulated, Wrong> {
    start(&hosts().join(Path::new(host)))
}

/// 200 domains, 128 places.
pub(crate) fn a16() -> Result<String, Wrong> {
    let host = begin("a16-128.toml")?;
    let eyes = Eyes::of(&host);
    let parents = eyes.names("sys/class/mdev_bus");
    let read = |parent: &String, file: &str| eyes.text(&format!("sys/class/mdev_bus/{parent}/{file}"));
    let free = |parent: &String| {
        let free = read(parent, "mdev_supported_types/nvidia-699/available_instances");
        free.and_then(|free| free.parse::<usize>().ok()).unwrap_or_default()
    };
    let card = |parent: &String| eyes.link_name(&format!("sys/class/mdev_bus/{parent}/physfn"));
    let cards: BTreeMap<String, String> =
        parents.iter().map(|parent| (parent.clone(), card(parent).unwrap_or_default())).collect();
    let second_node: Vec<String> =
        parents.iter().filter(|parent| read(parent, "numa_node").as_deref() == Some("1")).cloned().collect();
    let places: usize = parents.iter().map(free).sum();
    // As many as there are places are content with any: so none of these may be left, whatever the others
    // get.
    let mut dice = Dice(200);
    let mut domains = Vec::new();
    for number in 0..200 {
        let placement = dice.pick(&["", "placement='pack'", "placement='spread'"]).to_string();
        let few: Vec<String> = (0..=dice.below(3)).map(|_| dice.pick(&parents).clone()).collect();
        let (more, allowed) = match number % 25 {
            0..16 => (placement, Vec::new()),
            16..24 => (format!("{placement} parent='{}'", few.join(" ")), few),
            _ => (format!("{placement} numa='1'"), second_node.clone()),
        };
        let wanted = Wanted {
            id: device_uuid(number),
            wish: if dice.percent(25) { "NVIDIA A16-1B" } else { "nvidia-699" },
            kind: "nvidia-699",
            pool: "",
            cost: 1,
            more,
            attribute: None,
        };
        domains.push(Domain::new(number, wanted, allowed));
    }
    let content = domains.iter().filter(|domain| domain.parents.is_empty()).count();
    if places != 128 || content < places {
        return Err(format!("{places} places, and {content} domains that are content with any"));
    }
    let look = |eyes: &Eyes, order: While| {
        let (places, mut wrong) = eyes.glance(order, Eyes::places);
        let mut on_card: BTreeMap<&str, usize> = BTreeMap::new();
        let mut on_function: BTreeMap<&str, usize> = BTreeMap::new();
        for parent in places.values() {
            *on_function.entry(parent).or_default() += 1;
            *on_card.entry(cards.get(parent).map(String::as_str).unwrap_or_default()).or_default() += 1;
        }
        let over = |limit: usize| {
            move |(name, count): (&str, usize)| (count > limit).then(|| format!("{count} on {name}"))
        };
        wrong.extend(on_function.into_iter().filter_map(over(1)));
        wrong.extend(on_card.into_iter().filter_map(over(16)));
        wrong
    };
    let judge = |domain: &Domain, said: &str| {
        let name = &domain.name;
        said.starts_with(&format!("error: {name}: no room for ")) && said.contains(" left")
    };
    let count = domains.len();
    let (served, refused) = storm(&host, &domains, places, look, judge)?;
    Ok(format!(
        "parallel: {count} prepares for {places} places on the A16: {served} succeeded, {refused} refused"
    ))
}

/// Vendor VFIO: each domain names its virtual function; some name one that another wants too.
pub(crate) fn l40s() -> Result<String, Wrong> {
    let host = begin("l40s-vfio.toml")?;
    let eyes = Eyes::of(&host);
    let functions = |bus: &str| -> Vec<String> {
        let has_type =
            |vf: &String| eyes.text(&format!("sys/bus/pci/devices/{vf}/nvidia/current_vgpu_type")).is_some();
        let all = eyes.names("sys/bus/pci/devices").into_iter();
        all.filter(|vf| vf.starts_with(bus)).filter(has_type).collect()
    };
    let (first, second) = (functions("0000:41:"), functions("0000:c1:"));
    // 48 GiB hold 24 of the one type and 2 of the other.
    let places = 24 + 2;
    let wish = |vf: &String, wish: &'static str, kind: &'static str| {
        let more = String::new();
        Wanted { id: vf.clone(), wish, kind, pool: "", cost: 1, more, attribute: None }
    };
    let small = first.iter().chain(first.iter().step_by(4)).map(|vf| wish(vf, "NVIDIA L40S-2B", "1146"));
    let large = second.iter().take(8).map(|vf| wish(vf, "1155", "1155"));
    let wanted: Vec<Wanted> = small.chain(large).collect();
    let domains: Vec<Domain> = wanted
        .into_iter()
        .enumerate()
        .map(|(number, wanted)| Domain::new(number, wanted, Vec::new()))
        .collect();
    let shared = |vf: &str| domains.iter().filter(|other| other.wanted.id == vf).count() > 1;
    let judge = |domain: &Domain, said: &str| {
        let Domain { name, wanted, .. } = domain;
        said.starts_with(&format!("error: {name}: no room for "))
            || (shared(&wanted.id)
                && said.starts_with(&format!("error: {name}: device {} belongs to domain vm", wanted.id)))
    };
    let look = |eyes: &Eyes, order: While| {
        let kinds = |eyes: &Eyes| {
            let devices = eyes.devices().into_iter();
            devices.map(|(id, device)| (id, device.kind)).collect::<BTreeMap<_, _>>()
        };
        let (kinds, mut wrong) = eyes.glance(order, kinds);
        for (kind, limit) in [("1146", 24), ("1155", 2)] {
            let count = kinds.values().filter(|other| *other == kind).count();
            if count > limit {
                wrong.push(format!("{count} of type {kind}"));
            }
        }
        wrong
    };
    let count = domains.len();
    let (served, refused) = storm(&host, &domains, places, look, judge)?;
    Ok(format!(
        "parallel: {count} prepares for {places} places on the L40S: {served} succeeded, {refused} refused"
    ))
}
