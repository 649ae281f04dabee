//! What a domain's requests depend on, read from sysfs and the records in one go.
//!
//! A request that names its parent and the type's id costs a fixed number of reads, whatever else the host has; one
//! that names no parent costs that for each parent.

use super::{Host, Trouble};
use crate::backend::mdev;
use crate::ids::{DomainUuid, MdevUuid, Parent};
use crate::record::{Records, State};
use crate::request::Request;
use crate::seen::{Holder, Offer, Seen, Sight};
use crate::step::Place;

/// Looks at what the requests of `domain` ask about.
pub fn see(
    host: &Host,
    records: &Records,
    domain: &DomainUuid,
    requests: &[Request],
) -> Result<Seen, Trouble> {
    let mut seen = Seen { sights: Vec::new(), kept: kept(records, domain) };
    for (at, request) in requests.iter().enumerate() {
        let sight = Sight {
            existing: mdev::existing(host, &request.device)?,
            owner: records.owner(&request.device).filter(|owner| owner.uuid != *domain),
            ..Sight::default()
        };
        let Some(wanted) = request.wanted.as_ref().filter(|_| sight.existing.is_none()) else {
            seen.sights.push(sight);
            continue;
        };
        // Several devices of one kind are the rule: what one asked about is not read again for the next.
        let same = requests.iter().zip(&seen.sights).take(at).find(|(other, sight)| {
            let other = other.wanted.as_ref();
            sight.existing.is_none()
                && other.is_some_and(|other| other.wish == wanted.wish && other.parents == wanted.parents)
        });
        let sight = match same {
            Some((_, same)) => Sight { existing: None, owner: sight.owner, ..same.clone() },
            None => offers(host, records, &wanted.parents, &wanted.wish, sight)?,
        };
        seen.sights.push(sight);
    }
    Ok(seen)
}

/// Devices of this domain that an earlier run kept.
fn kept(records: &Records, domain: &DomainUuid) -> Vec<(MdevUuid, Place)> {
    let record = records.read(domain).ok().flatten();
    record
        .iter()
        .flat_map(|record| record.devices())
        .filter(|(.., state)| *state == State::Kept)
        .map(|(device, place, ..)| (device.clone(), place.clone()))
        .collect()
}

fn offers(
    host: &Host,
    records: &Records,
    named: &[Parent],
    wish: &crate::ids::TypeWish,
    mut sight: Sight,
) -> Result<Sight, Trouble> {
    (sight.parents, sight.missing) = if named.is_empty() {
        (mdev::parents(host)?, Vec::new())
    } else {
        named.iter().cloned().partition(|parent| mdev::is_parent(host, parent))
    };
    let mut last_trouble = None;
    for parent in &sight.parents {
        match mdev::offers(host, parent, wish) {
            Ok(offers) => sight.offers.extend(offers),
            // One card whose driver answers nonsense must not stop a domain that can run on another.
            Err(trouble) => {
                log::warn!("{parent} is left out: {trouble}");
                last_trouble = Some(trouble);
            }
        }
    }
    if let Some(trouble) = last_trouble.filter(|_| sight.offers.is_empty()) {
        return Err(trouble);
    }
    // The rest is for the words of a refusal only.
    if sight.offers.is_empty() {
        for parent in &sight.parents {
            for kind in mdev::type_ids(host, parent)? {
                let known = match mdev::type_name(host, parent, &kind) {
                    Some(name) => format!("{kind} \"{name}\""),
                    None => kind.to_string(),
                };
                if !sight.known.contains(&known) {
                    sight.known.push(known);
                }
            }
        }
    } else if sight.offers.iter().all(|offer| offer.free == 0) {
        for offer in &mut sight.offers {
            offer.holders = holders(host, records, &offer.place.parent)?;
        }
        if !named.is_empty() {
            sight.elsewhere = elsewhere(host, named, wish)?;
        }
    }
    Ok(sight)
}

/// The offers of the parents that were not named.
fn elsewhere(host: &Host, named: &[Parent], wish: &crate::ids::TypeWish) -> Result<Vec<Offer>, Trouble> {
    let mut offers = Vec::new();
    for parent in mdev::parents(host)?.iter().filter(|parent| !named.contains(parent)) {
        offers.extend(mdev::offers(host, parent, wish).unwrap_or_default());
    }
    Ok(offers)
}

/// Whose the devices of a parent are, of all its types: they share one pool.
pub fn holders(host: &Host, records: &Records, parent: &Parent) -> Result<Vec<Holder>, Trouble> {
    let mut holders: Vec<Holder> = Vec::new();
    for device in mdev::devices_of(host, parent)? {
        let domain = records.owner(&device).map(|owner| owner.name);
        match holders.iter_mut().find(|holder| holder.domain == domain) {
            Some(holder) => holder.devices += 1,
            None => holders.push(Holder { domain, devices: 1 }),
        }
    }
    Ok(holders)
}
