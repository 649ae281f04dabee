//! What must be another device in the XML of a domain that comes from another host, or out of a file: pure.
//!
//! A mediated device is made wherever there is room, so only its UUID can be in the way: another domain may have it here.
//! A virtual function of vendor VFIO stands in the XML by its address, which is another one on each host.

use serde::Serialize;
use uuid::Uuid;

use crate::domain::{Domain, Placement, Wanted};
use crate::ids::{DeviceId, DomainUuid, MdevUuid, Parent, PciAddress};
use crate::placement::{self, Taken};
use crate::refusal::Refusal;
use crate::seen::{Offer, Share};
use crate::words::{list, nearest, printable};

/// One device takes the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// As the XML has it.
    pub from: DeviceId,
    /// As it is to have it.
    pub to: DeviceId,
    /// Why.
    pub why: String,
}

/// The passed-through function that a `<device>` without a UUID means, as [`crate::request`] joins them; here the function
/// need not be on this host. `None`: that cannot be told, and whoever joins them says why.
pub fn function_of(
    domain: &Domain,
    wanted: &Wanted,
    is_vgpu: impl Fn(&PciAddress) -> bool,
) -> Option<PciAddress> {
    let chosen_by_hand = wanted.placement.is_none() && wanted.numa.is_none() && wanted.parents.len() < 2;
    if wanted.uuid.is_some() || !chosen_by_hand {
        return None;
    }
    let pcis = || domain.pcis.iter().filter(|pci| !pci.managed).map(|pci| pci.address.clone());
    match (wanted.parents.first(), pcis().collect::<Vec<_>>().as_slice()) {
        (Some(parent), _) => pcis().find(|address| address.as_parent() == *parent),
        (None, [one]) => Some(one.clone()),
        (None, several) => {
            let mut here = several.iter().filter(|address| is_vgpu(address));
            here.next().filter(|_| here.next().is_none()).cloned()
        }
    }
}

/// What there is of the functions of this host.
#[derive(Debug, Default)]
pub struct Functions {
    /// Empty ones, nobody's, that offer the type.
    pub free: Vec<Offer>,
    /// The cards of all functions, whether they offer the type or not.
    pub cards: Vec<Parent>,
    /// Whose functions of those cards are in use.
    pub holders: Vec<Share>,
    /// The types that are offered, as `id "name"`.
    pub known: Vec<String>,
}

/// The best of them.
pub fn choose(wanted: &Wanted, here: &Functions, default: Placement) -> Result<PciAddress, Refusal> {
    let fit = here.free.iter().map(|offer| offer.fit).min();
    let fitting: Vec<Offer> = here.free.iter().filter(|offer| Some(offer.fit) == fit).cloned().collect();
    let best = placement::order(&fitting, default, &Taken::new())
        .first()
        .map(|offer| offer.place.parent.to_string());
    if let Some(address) = best.and_then(|best| PciAddress::parse(&best).ok()) {
        return Ok(address);
    }
    // A function lists only what fits now: while some are in use, a type that is not listed may be one all the same.
    if here.holders.is_empty() && !here.known.is_empty() {
        let names = here
            .known
            .iter()
            .flat_map(|known| known.split('"').map(str::trim))
            .filter(|name| !name.is_empty());
        let meant = nearest(&wanted.wish.to_string(), names);
        let (wish, parents, known) = (wanted.wish.clone(), here.cards.clone(), here.known.clone());
        return Err(Refusal::NoSuchType { wish, parents, known, meant, clue: None });
    }
    let held = match crate::plan::held_by(&here.holders.iter().collect::<Vec<_>>()) {
        held if held.is_empty() => String::new(),
        held => format!(", functions are held by {held}"),
    };
    Err(Refusal::NoRoom {
        what: printable(&wanted.wish.to_string()).to_string(),
        place: list(&here.cards),
        left: format!("no free function takes it now{held}"),
        hint: None,
    })
}

/// The device of the metadata whose UUID is what a refusal is about, where another UUID would help.
///
/// `ours`: an earlier run of the domain has left something here; what is there is its own then, and prepare clears it up.
pub fn in_conflict<'r>(domain: &Domain, refusal: &'r Refusal, ours: bool) -> Option<&'r MdevUuid> {
    let device = match refusal {
        Refusal::ClaimedByOther { device, .. } => device,
        Refusal::Held { device, .. } | Refusal::OtherDevice { device, .. } if !ours => device,
        _ => return None,
    };
    match device {
        // Without metadata nothing would make it under another UUID.
        DeviceId::Mdev(uuid) if domain.wanted.iter().any(|wanted| wanted.uuid.as_ref() == Some(uuid)) => {
            Some(uuid)
        }
        _ => None,
    }
}

/// Another UUID for a device of a domain: the same one each time, so that a dry run says what will be, and a migration
/// that is tried again brings the same device. `turn`: from 0, if the ones before are taken as well.
pub fn renewed(domain: &DomainUuid, uuid: &MdevUuid, turn: u32) -> Option<MdevUuid> {
    let name = format!("{domain} {uuid} {turn}");
    MdevUuid::parse(&Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()).ok()
}

#[cfg(test)]
mod tests;
