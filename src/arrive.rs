//! A domain comes, from another host or out of a file: what [`crate::arrival`] has to judge is looked at here, and the
//! functions that it chooses are set aside. No device is made: a domain that migrates offline is never prepared, nor
//! released.

use crate::arrival::{self, Change, Functions};
use crate::backend::{self, Backend, nvidia};
use crate::config::Config;
use crate::domain::edit::Editable;
use crate::domain::{Domain, Wanted};
use crate::execute::Means;
use crate::host::daemon::Process;
use crate::host::{Host, Trouble, holders, see};
use crate::ids::{DeviceId, Parent, PciAddress};
use crate::plan::{self, Plan};
use crate::ready::{Patience, unless_late};
use crate::reap;
use crate::record::{Phase, Records};
use crate::refusal::Refusal;
use crate::request::{Request, requests};
use crate::seen::Sight;
use crate::start;

/// No domain has so many devices in earnest, and each UUID that is taken has the host looked at once more.
const TURNS: u32 = 64;

/// What becomes of a domain here.
#[derive(Debug)]
pub struct Arrival {
    /// The domain with those changes.
    pub domain: Domain,
    /// What is to be another device in its XML.
    pub changes: Vec<Change>,
    /// The XML with those changes.
    pub xml: String,
    /// What its prepare will do then.
    pub plan: Plan,
}

/// Judges a domain that comes: whether it can be here, and as what. `sights` is filled with what was seen.
pub fn judge(
    host: &Host,
    config: Config,
    xml: &[u8],
    caller: Option<Process>,
    sights: &mut Vec<Sight>,
) -> Result<Arrival, Refusal> {
    look(host, config, (&Domain::read(xml)?, text(xml)?), caller, &[], sights)
}

/// Reading has shown that it is UTF-8.
fn text(xml: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(xml).map_err(|error| Refusal::XmlNotUtf8(error.valid_up_to()))
}

/// The same, for devices that may be relocated without the parents that were waited for in vain.
fn look(
    host: &Host,
    config: Config,
    (domain, text): (&Domain, &str),
    caller: Option<Process>,
    given_up: &[Parent],
    sights: &mut Vec<Sight>,
) -> Result<Arrival, Refusal> {
    let records = Records::new(host);
    let ours = records.read(&domain.uuid).ok().flatten().is_some_and(|record| record.phase != Phase::Kept);
    let mut changes = moved_functions(host, &records, config, domain, sights)?;
    let mut turn = 0;
    loop {
        let comes = domain.with(&pairs(&changes));
        let rewritten = rewritten(text, &comes, &changes)?;
        let mut settles = comes.clone();
        settles.relocate(given_up);
        let plan = match prepared(host, &records, config, &settles, caller, sights) {
            Ok(plan) => plan,
            Err(refusal) => match arrival::in_conflict(&comes, &refusal, ours) {
                Some(taken) if turn < TURNS => {
                    another(&mut changes, domain, taken, turn, &refusal)?;
                    turn += 1;
                    continue;
                }
                // What an earlier run left may be all that is in the way: prepare clears it up, and judges then.
                _ if ours => Plan {
                    notes: vec![format!(
                        "prepare first releases what an earlier run of the domain has left here: {refusal}"
                    )],
                    ..Plan::default()
                },
                _ => return Err(refusal),
            },
        };
        return Ok(Arrival { domain: comes, changes, xml: rewritten, plan });
    }
}

/// A UUID that is taken gives way to another one.
fn another(
    changes: &mut Vec<Change>,
    domain: &Domain,
    taken: &crate::ids::MdevUuid,
    turn: u32,
    refusal: &Refusal,
) -> Result<(), Refusal> {
    let taken = DeviceId::Mdev(taken.clone());
    let before = changes.iter().position(|change| change.to == taken).map(|at| changes.remove(at));
    let from = before.map_or(taken, |change| change.from);
    let DeviceId::Mdev(uuid) = &from else { return Ok(()) };
    let to = arrival::renewed(&domain.uuid, uuid, turn).map(DeviceId::Mdev);
    changes.extend(to.map(|to| Change { from: from.clone(), to, why: refusal.to_string() }));
    Ok(())
}

/// What prepare will do with the domain, or why it will refuse it.
fn prepared(
    host: &Host,
    records: &Records,
    config: Config,
    domain: &Domain,
    caller: Option<Process>,
    sights: &mut Vec<Sight>,
) -> Result<Plan, Refusal> {
    let requests = requests(domain, |address| nvidia::function(host, address))?;
    start::judge(host, domain, config.labels, caller, &[])?;
    let seen = see::see(host, records, &domain.uuid, &requests, config.definitions)?;
    sights.extend(seen.sights.iter().cloned());
    plan::prepare(&domain.uuid, &requests, &seen, config.placement)
}

fn pairs(changes: &[Change]) -> Vec<(DeviceId, DeviceId)> {
    changes.iter().map(|change| (change.from.clone(), change.to.clone())).collect()
}

/// The XML with other devices in it, and in it nothing else that is another.
fn rewritten(text: &str, comes: &Domain, changes: &[Change]) -> Result<String, Refusal> {
    if changes.is_empty() {
        return Ok(text.to_owned());
    }
    let rewritten = Editable::read(text)?.with_others(&pairs(changes));
    // A name that is spelt in a way that the edit does not know would leave metadata and hostdev apart.
    match Domain::read(rewritten.as_bytes()) {
        Ok(read) if read == *comes => Ok(rewritten),
        _ => Err(Refusal::Io {
            what: "cannot put another device into the domain XML".to_owned(),
            why: "a uuid or an address in it is written with character references".to_owned(),
        }),
    }
}

/// The virtual functions that the domain cannot have here, and others of the same type that it can.
fn moved_functions(
    host: &Host,
    records: &Records,
    config: Config,
    domain: &Domain,
    sights: &mut Vec<Sight>,
) -> Result<Vec<Change>, Refusal> {
    let mut changes: Vec<Change> = Vec::new();
    for wanted in &domain.wanted {
        let is_vgpu = |address: &PciAddress| nvidia::is_vgpu(host, address);
        let Some(address) = arrival::function_of(domain, wanted, is_vgpu) else { continue };
        let Err(why) = stays(host, records, config, domain, wanted, &address) else { continue };
        let used = |other: &PciAddress| {
            let chosen = |change: &Change| change.to == DeviceId::Vf(other.clone());
            domain.pcis.iter().any(|pci| pci.address == *other) || changes.iter().any(chosen)
        };
        let here = functions(host, records, domain, wanted, used)?;
        // Without any, there is nothing to choose from, and what is missing here may come: the named one is judged.
        if here.cards.is_empty() {
            continue;
        }
        let cards =
            here.cards.iter().map(|card| Sight { full_card: Some(card.to_string()), ..Sight::default() });
        sights.extend(cards);
        let to = arrival::choose(wanted, &here, config.placement)?;
        changes.push(Change { from: DeviceId::Vf(address), to: DeviceId::Vf(to), why: why.to_string() });
    }
    Ok(changes)
}

/// Whether prepare would take the function that the domain names, and why not.
fn stays(
    host: &Host,
    records: &Records,
    config: Config,
    domain: &Domain,
    wanted: &Wanted,
    address: &PciAddress,
) -> Result<(), Refusal> {
    if !nvidia::is_vgpu(host, address) {
        let (function, absent) = (address.as_parent(), backend::absent(host, &address.as_parent())?);
        return Err(Refusal::FunctionNotReady { device: wanted.words(), function, absent });
    }
    let device = DeviceId::Vf(address.clone());
    let request = Request { device, wanted: Some(wanted.clone()), model: None, opened: true, managed: false };
    let request = [request];
    let seen = see::see(host, records, &domain.uuid, &request, false)?;
    plan::prepare(&domain.uuid, &request, &seen, config.placement).map(drop)
}

/// The functions of this host, but for those that the domain has already.
fn functions(
    host: &Host,
    records: &Records,
    domain: &Domain,
    wanted: &Wanted,
    used: impl Fn(&PciAddress) -> bool,
) -> Result<Functions, Trouble> {
    let mut here = Functions::default();
    for function in nvidia::parents(host)? {
        let place = nvidia::place(&function, wanted.wish.as_id());
        if let Ok(card) = Parent::parse(&backend::card(host, &place)) {
            if !here.cards.contains(&card) {
                here.holders.extend(see::holders(host, records, &place)?);
                here.cards.push(card);
            }
        }
        let Ok(address) = PciAddress::parse(&function.to_string()) else { continue };
        let offers = match nvidia::offers(host, &function, &wanted.wish) {
            Ok(offers) => offers,
            // One card whose driver answers nonsense is no reason against another.
            Err(trouble) => {
                log::warn!("{function} is left out: {trouble}");
                continue;
            }
        };
        if offers.is_empty() {
            here.known.extend(Backend::Nvidia.known(host, &function).unwrap_or_default());
        }
        let device = DeviceId::Vf(address.clone());
        if used(&address) || !records.is_free(&device, Some(&domain.uuid))? {
            continue;
        }
        for offer in offers {
            if nvidia::free(host, &offer.place).is_ok_and(|free| free > 0) {
                here.free.push(offer);
            }
        }
    }
    here.known.sort();
    here.known.dedup();
    Ok(here)
}

/// What libvirt's hook says of a domain that comes. `None`: its XML is right as it is.
pub fn arrive(
    means: Means<'_>,
    config: Config,
    xml: &[u8],
    caller: Option<Process>,
) -> Result<Option<String>, Refusal> {
    let (host, records) = (means.host, means.records);
    let domain = Domain::read(xml)?;
    let whole = (&domain, text(xml)?);
    // It runs here, so that libvirt refuses it, once it has asked us (`virDomainObjListAdd`): nothing is set aside for it.
    let record = records.read(&domain.uuid).ok().flatten().filter(|record| record.phase == Phase::Running);
    if record.is_some_and(|record| holders::runs(host, &record.domain.name)) {
        return Ok(None);
    }
    let mut patience = Patience::new(host, records, config.waits);
    let mut given_up: Vec<Parent> = Vec::new();
    let (mut cleared, mut gives_way) = (false, false);
    loop {
        let mut sights = Vec::new();
        match arrive_now(means, config, whole, caller, &given_up, gives_way, &mut sights) {
            Ok(Arrived::As(xml)) => return Ok(xml),
            // As at a prepare: what a dead start left is no reason for another device.
            Ok(Arrived::Taken(devices)) => {
                gives_way = true;
                for device in &devices {
                    reap::make_room(means, &domain.uuid, Some(device), &[])?;
                }
            }
            Err(refusal) => {
                let device = match &refusal {
                    Refusal::ClaimedByOther { device, .. } => Some(device),
                    _ => None,
                };
                let is_taken = device.is_some() || matches!(refusal, Refusal::NoRoom { .. });
                // As at a prepare: what a dead start left may not stand in the way.
                if is_taken && !cleared && reap::make_room(means, &domain.uuid, device, &sights)? {
                    cleared = true;
                    continue;
                }
                cleared = false;
                patience.outlast(unless_late(refusal, &sights), |missing| {
                    let can = given_up.is_empty() && domain.clone().relocate(missing);
                    if can {
                        given_up = missing.to_vec();
                    }
                    can
                })?;
            }
        }
    }
}

/// What has been found out about a domain that comes.
enum Arrived {
    /// It can be here, as this XML if as another one.
    As(Option<String>),
    /// It can, but not with these devices.
    Taken(Vec<DeviceId>),
}

/// The same, with what is there now. `gives_way`: with other devices than its own, if need be.
fn arrive_now(
    means: Means<'_>,
    config: Config,
    domain: (&Domain, &str),
    caller: Option<Process>,
    given_up: &[Parent],
    gives_way: bool,
    sights: &mut Vec<Sight>,
) -> Result<Arrived, Refusal> {
    let records = means.records;
    let has_functions = domain.0.wanted.iter().any(|wanted| wanted.uuid.is_none());
    // Of two domains that come at once each is to see what the other has been given.
    let _lock = if has_functions { Some(records.lock_reservations(means.waits.lock)?) } else { None };
    let arrival = look(means.host, config, domain, caller, given_up, sights)?;
    if !gives_way && !arrival.changes.is_empty() {
        return Ok(Arrived::Taken(arrival.changes.into_iter().map(|change| change.from).collect()));
    }
    for note in &arrival.plan.notes {
        log::warn!("{note}");
    }
    for Change { from, to, why } in &arrival.changes {
        log::warn!(VIRT_MDEV_UUID:% = to; "{from} is {to} here: {why}");
    }
    if has_functions {
        let comes = &arrival.domain;
        for wanted in &comes.wanted {
            let is_vgpu = |address: &PciAddress| nvidia::is_vgpu(means.host, address);
            if let Some(address) = arrival::function_of(comes, wanted, is_vgpu) {
                records.reserve(&address, &comes.uuid)?;
            }
        }
    }
    Ok(Arrived::As((!arrival.changes.is_empty()).then_some(arrival.xml)))
}
