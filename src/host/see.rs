//! What a domain's requests depend on, read from sysfs and the records in one go.
//!
//! A request that names its parent and the type's id costs a fixed number of reads, whatever else the host has; one
//! that names no parent costs that for each parent.

use std::collections::{BTreeMap, BTreeSet};

use super::{Host, Trouble, definitions, holders};
use crate::backend::{self, Backend, mdev, nvidia};
use crate::domain::Wanted;
use crate::ids::{DeviceId, DomainUuid, Match, MdevUuid, Parent, TypeWish};
use crate::record::{Records, State};
use crate::refusal::{Absent, Clue};
use crate::request::Request;
use crate::seen::{Existing, Lookup, Offer, Seen, Share, Sight};
use crate::step::{Place, Step};

/// Looks at what the requests of `domain` ask about. `defined`: also at mdevctl's definitions.
pub fn see(
    host: &Host,
    records: &Records,
    domain: &DomainUuid,
    requests: &[Request],
    defined: bool,
) -> Result<Seen, Trouble> {
    let mut directories = None;
    let mut seen = Seen { sights: Vec::new(), kept: kept(records, domain) };
    for (at, request) in requests.iter().enumerate() {
        let existing = backend::existing(host, &request.device)?;
        let owner = records.owner(&request.device)?;
        // Nobody looks at the node of another domain's device: its QEMU may be about to open it, and would find it taken.
        // Who only looks is not told that the domain has its own device.
        let holder = match (&existing, &owner) {
            (Some(_), None) => held(host, &request.device)?,
            (Some(_), Some(owner)) if owner.uuid == *domain && host.opens => held(host, &request.device)?,
            _ => None,
        };
        let owner = owner.filter(|owner| owner.uuid != *domain);
        let sight = Sight {
            defined: existing.as_ref().is_some_and(|found| is_defined(host, found, &request.device)),
            definition: match (&request.device, &existing) {
                (DeviceId::Mdev(uuid), None) if defined => definition(host, &mut directories, request, uuid)?,
                _ => Lookup::NotLooked,
            },
            reserved: match &request.device {
                DeviceId::Vf(_) => records.reserved(&request.device)?.filter(|other| other != domain),
                DeviceId::Mdev(_) => None,
            },
            existing,
            holder,
            owner,
            ..Sight::default()
        };
        let Some(wanted) = sight.wanted(request).filter(|_| sight.existing.is_none()).cloned() else {
            seen.sights.push(sight);
            continue;
        };
        if let DeviceId::Vf(address) = &request.device {
            let function = [address.as_parent()];
            seen.sights.push(offers(host, records, &function, &wanted, requests.len(), false, sight)?);
            continue;
        }
        // Several devices of one kind are the rule: what one asked about is not read again for the next.
        let same = requests.iter().zip(&seen.sights).take(at).find(|(other, sight)| {
            let by_uuid = matches!(other.device, DeviceId::Mdev(_));
            // A definition means ids alone, and what was seen for it holds for definitions alone.
            let by_both = other.wanted.is_some() == request.wanted.is_some();
            let other = sight.wanted(other).filter(|_| by_uuid && by_both && sight.existing.is_none());
            other.is_some_and(|other| {
                other.wish == wanted.wish
                    && other.parents == wanted.parents
                    && other.relocate == wanted.relocate
            })
        });
        let sight = match same {
            Some((_, same)) => {
                let Sight { owner, definition, .. } = sight;
                Sight { existing: None, owner, holder: None, definition, ..same.clone() }
            }
            None => {
                let by_id = request.wanted.is_none();
                offers(host, records, &wanted.parents, &wanted, requests.len(), by_id, sight)?
            }
        };
        seen.sights.push(sight);
    }
    Ok(seen)
}

/// What mdevctl says of a device that is not there: on the parents that its metadata names, or on any. `directories` are
/// listed once for all devices, and not at all for one that names its parent.
fn definition(
    host: &Host,
    directories: &mut Option<Vec<Parent>>,
    request: &Request,
    uuid: &MdevUuid,
) -> Result<Lookup, Trouble> {
    let named = request.wanted.as_ref().map(|wanted| &wanted.parents).filter(|parents| !parents.is_empty());
    let mut look = || {
        let parents = match (named, &mut *directories) {
            (Some(named), _) => named,
            (None, Some(parents)) => parents,
            (None, none) => none.insert(definitions::parents(host)?),
        };
        definitions::look(host, parents, uuid)
    };
    match look() {
        // The metadata says all: a definition would be worth a note at most.
        Err(trouble) if request.wanted.is_some() => {
            log::warn!("mdevctl's definitions are left out: {trouble}");
            Ok(Lookup::NotLooked)
        }
        looked => looked,
    }
}

/// Who has a device open; a name where nobody can be found, as of a process in another container.
fn held(host: &Host, device: &DeviceId) -> Result<Option<String>, Trouble> {
    let held = holders::is_held(host, device)?;
    let name = || holders::holder(host, device).map(|holder| holder.to_string());
    Ok(held.then(|| name().unwrap_or_else(|| "another process".to_owned())))
}

/// Whether mdevctl, or libvirt by way of it, has a definition of a device: then that is probably who made it.
fn is_defined(host: &Host, found: &Existing, device: &DeviceId) -> bool {
    host.exists(&definitions::path(&found.place.parent, device))
}

/// Devices of this domain that an earlier run kept.
fn kept(records: &Records, domain: &DomainUuid) -> Vec<(DeviceId, Place)> {
    let record = records.read(domain).ok().flatten();
    let kept = record.iter().flat_map(|record| &record.steps).filter(|entry| entry.state == State::Kept);
    kept.filter_map(|entry| match &entry.step {
        Step::Create { device, place, .. } => Some((device.clone(), place.clone())),
        _ => None,
    })
    .collect()
}

/// `devices`: how many the domain asks for. `by_id`: the wish is a type's id and no vendor's name.
fn offers(
    host: &Host,
    records: &Records,
    mut named: &[Parent],
    wanted: &Wanted,
    devices: usize,
    by_id: bool,
    mut sight: Sight,
) -> Result<Sight, Trouble> {
    let wish = &wanted.wish;
    let mut parents = Vec::new();
    for parent in named {
        match backend::detect(host, parent)? {
            Some(backend) => parents.push((backend, parent.clone())),
            None => sight.missing.push((parent.clone(), backend::absent(host, parent)?)),
        }
    }
    let is_late = |(_, absent): &(Parent, Absent)| absent.is_late();
    if wanted.relocate && !named.is_empty() && parents.is_empty() && !sight.missing.iter().any(is_late) {
        sight.relocated = true;
        named = &[];
    }
    let gone = if sight.relocated { std::mem::take(&mut sight.missing) } else { Vec::new() };
    if named.is_empty() {
        parents = backend::parents(host)?;
    }
    sight.parents = parents.iter().map(|(_, parent)| parent.clone()).collect();
    let by_name = |offer: &Offer| matches!(offer.fit, Match::Name | Match::NameInOtherCase);
    let mut last_trouble = None;
    for (backend, parent) in &parents {
        match backend.offers(host, parent, wish, !named.is_empty()) {
            // To mdevctl a vendor's name for a type is none.
            Ok(offers) => sight.offers.extend(offers.into_iter().filter(|offer| !(by_id && by_name(offer)))),
            // One card whose driver answers nonsense must not stop a domain that can run on another.
            Err(trouble) => {
                log::warn!("{parent} is left out: {trouble}");
                last_trouble = Some(trouble);
            }
        }
    }
    if sight.relocated && sight.offers.iter().any(Offer::is_one_of_a_kind) {
        return Ok(Sight {
            relocated: false,
            missing: gone,
            parents: Vec::new(),
            offers: Vec::new(),
            ..sight
        });
    }
    if sight.offers.iter().any(|offer| offer.free.is_some_and(|free| (free as usize) < devices))
        || has_several_cards_with_functions(&sight.offers)
    {
        let mut of_cards = BTreeMap::new();
        for offer in sight.offers.iter_mut().filter(|offer| offer.place.backend == Backend::Mdev) {
            let card = (offer.card.clone(), offer.place.kind.clone());
            offer.max = *of_cards.entry(card).or_insert_with(|| mdev::max(host, &offer.place));
        }
    }
    // The rest is for the words of a refusal only.
    if named.is_empty() && sight.offers.is_empty() {
        sight.clue = clue(host).ok().flatten();
    }
    if parents.is_empty() {
        if !named.is_empty() {
            sight.elsewhere = elsewhere(host, named, wish)?;
        }
    } else if sight.offers.is_empty() {
        for (backend, parent) in &parents {
            let types = match backend.known(host, parent) {
                Err(_) if last_trouble.is_some() => continue,
                known => known?,
            };
            if types.is_empty() {
                sight.untyped.push(parent.clone());
            }
            for known in types {
                if !sight.known.contains(&known) {
                    sight.known.push(known);
                }
            }
            // A virtual function lists only what fits now; somebody may have made room since it was asked.
            if *backend == Backend::Nvidia {
                let place = Place::new(*backend, parent.clone(), wish.as_id());
                sight.card_holders = holders(host, records, &place)?;
                sight.full_card = Some(backend::card(host, &place));
                sight.offers.extend(backend.offers(host, parent, wish, !named.is_empty())?);
            }
        }
        // What may yet come is waited for in spite of it.
        if let Some(trouble) = last_trouble {
            if sight.missing.is_empty() && sight.untyped.is_empty() {
                return Err(trouble);
            }
        }
    } else if sight.offers.iter().all(|offer| offer.free == Some(0)) {
        let mut cards = BTreeSet::new();
        for offer in &mut sight.offers {
            // Functions of one card have them together.
            if cards.insert((offer.card.clone(), offer.place.kind.clone())) {
                offer.holders = holders(host, records, &offer.place)?;
            }
        }
        if !named.is_empty() {
            sight.elsewhere = elsewhere(host, named, wish)?;
        }
    }
    Ok(sight)
}

/// Where how many functions are free does not tell which card has more room.
fn has_several_cards_with_functions(offers: &[Offer]) -> bool {
    let Some(first) = offers.first() else { return false };
    let is_function = |offer: &Offer| offer.place.parent.to_string() != offer.card;
    offers.iter().any(|offer| offer.card != first.card) && offers.iter().any(is_function)
}

/// What the cards of this host tell of a type that no parent has.
fn clue(host: &Host) -> Result<Option<Clue>, Trouble> {
    if let Some(function) = nvidia::parents(host)?.first() {
        let card = nvidia::card_of(host, function);
        return Ok(Some(Clue::TakeTypes { card }));
    }
    let cards = nvidia::cards_without_functions(host)?;
    Ok(cards.into_iter().next().map(|card| Clue::NoFunctions { card }))
}

/// The offers of the parents that were not named.
fn elsewhere(host: &Host, named: &[Parent], wish: &TypeWish) -> Result<Vec<Offer>, Trouble> {
    let mut offers = Vec::new();
    for (backend, parent) in backend::parents(host)?.iter().filter(|(_, parent)| !named.contains(parent)) {
        offers.extend(backend.offers(host, parent, wish, false).unwrap_or_default());
    }
    Ok(offers)
}

/// Whose the devices of a card are, of all its types: they share one pool.
pub fn holders(host: &Host, records: &Records, place: &Place) -> Result<Vec<Share>, Trouble> {
    let mut holders: Vec<Share> = Vec::new();
    for device in backend::devices_of(host, place)? {
        let domain = records.owner(&device)?.map(|owner| owner.name);
        match holders.iter_mut().find(|holder| holder.domain == domain) {
            Some(holder) => holder.devices += 1,
            None => holders.push(Share { domain, devices: 1 }),
        }
    }
    Ok(holders)
}
