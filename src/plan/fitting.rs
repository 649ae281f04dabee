//! Which offers fit what is wanted; where none does, why, and what may come.

use super::room;
use crate::backend::Backend;
use crate::domain::Wanted;
use crate::ids::{DeviceId, TypeWish};
use crate::ready::Awaited;
use crate::refusal::{Clue, Refusal};
use crate::request::Request;
use crate::seen::{Offer, Sight};
use crate::words::{list, nearest, printable};

/// A refusal for want of a parent that fits: a named one may come, or, where none is named, another. `types`: what else.
fn may_come(
    request: &Request,
    wanted: &Wanted,
    sight: &Sight,
    refusal: Refusal,
    types: Option<Awaited>,
) -> Refusal {
    let by_uuid = matches!(request.device, DeviceId::Mdev(_));
    let awaited = match (sight.missing.as_slice(), wanted.parents.as_slice()) {
        // The types of one that is there may come before the other does.
        ([_, ..], _) if !sight.untyped.is_empty() => {
            let missing = sight.missing.iter().map(|(name, _)| name);
            Some(Awaited::Types(sight.untyped.iter().chain(missing).cloned().collect()))
        }
        ([_, ..], _) => Some(Awaited::Parents(sight.missing.iter().map(|(name, _)| name.clone()).collect())),
        (_, []) if by_uuid => Some(Awaited::Type { wish: wanted.wish.clone(), numa: wanted.numa }),
        _ => types,
    };
    match awaited {
        Some(awaited) => refusal.until(awaited),
        None => refusal,
    }
}

/// Why no parent has the type, where the domain names none.
fn clue(wanted: &Wanted, sight: &Sight) -> Option<Clue> {
    if !wanted.parents.is_empty() {
        return None;
    }
    let vendors = Clue::of_type(&wanted.wish);
    // Its vendor's parents are there, and have others.
    let has_others = sight.known.iter().any(|known| of_known(known) == vendors);
    match &vendors {
        // What the host's cards lack is NVIDIA's.
        Some(Clue::Nvidia) if sight.clue.is_some() => sight.clue.clone(),
        None => sight.clue.clone().filter(|_| sight.known.is_empty()),
        _ if has_others => None,
        _ => vendors,
    }
}

/// Whose type it is, as a parent offers it: `id "name"`.
fn of_known(known: &str) -> Option<Clue> {
    TypeWish::parse(known.split(' ').next().unwrap_or_default()).ok().as_ref().and_then(Clue::of_type)
}

/// The offers that come into question, with room or without, or why there are none.
pub fn fitting(request: &Request, wanted: &Wanted, sight: &Sight) -> Result<Vec<Offer>, Refusal> {
    if sight.parents.is_empty() {
        return Err(match sight.missing.first() {
            Some((parent, absent)) => {
                let missing = sight.missing.iter().map(|(parent, _)| parent.clone()).collect();
                let can_come = sight.missing.iter().any(|(parent, absent)| absent.can_come(parent));
                let (parent, absent) = (parent.clone(), absent.clone());
                let refusal =
                    Refusal::NoSuchParent { parent, absent, relocate: room::relocate(request, sight) };
                if can_come { refusal.until(Awaited::Parents(missing)) } else { refusal }
            }
            None => Refusal::NoParents { clue: clue(wanted, sight) }.until(Awaited::AnyParent),
        });
    }
    let by_uuid = matches!(request.device, DeviceId::Mdev(_));
    if let Some(offer) = sight.offers.iter().find(|offer| by_uuid && offer.place.backend == Backend::Nvidia) {
        let (device, parent) = (request.device.clone(), offer.place.parent.clone());
        return Err(Refusal::NoUuidThere { device, parent });
    }
    let takes_arguments = |offer: &&Offer| offer.place.backend == Backend::Proposal;
    if !wanted.arguments.is_empty() {
        if let Some(offer) = sight.offers.iter().find(|offer| !takes_arguments(offer)) {
            let (device, parent) = (request.device.clone(), offer.place.parent.clone());
            return Err(Refusal::NoArgumentsThere { device, parent });
        }
    }
    let Some(fit) = sight.offers.iter().map(|offer| offer.fit).min() else {
        let names =
            sight.known.iter().flat_map(|known| known.split('"').map(str::trim)).filter(|n| !n.is_empty());
        if !sight.card_holders.is_empty() {
            let card = list(&sight.parents);
            let held = room::held_by(&sight.card_holders.iter().collect::<Vec<_>>());
            let what = printable(&wanted.wish.to_string()).to_string();
            let left = format!("not creatable there now, its card's functions are held by {held}");
            let hint = room::ONE_SIZE;
            return Err(Refusal::NoRoom { what, place: card, left, hint: Some(hint.to_owned()) });
        }
        let meant = nearest(&wanted.wish.to_string(), names);
        let types = (!sight.untyped.is_empty()).then(|| Awaited::Types(sight.untyped.clone()));
        let (wish, parents, known) = (wanted.wish.clone(), sight.parents.clone(), sight.known.clone());
        let clue = clue(wanted, sight).map(Box::new);
        // A parent that has types has them all.
        return Err(may_come(
            request,
            wanted,
            sight,
            Refusal::NoSuchType { wish, parents, known, meant, clue },
            types,
        ));
    };
    let offers: Vec<Offer> = sight.offers.iter().filter(|offer| offer.fit == fit).cloned().collect();
    if wanted.parents.is_empty() && offers.iter().any(Offer::is_one_of_a_kind) {
        let parents = offers.iter().map(|offer| offer.place.parent.clone()).collect();
        return Err(Refusal::NeedsParent { wish: wanted.wish.clone(), parents });
    }
    for offer in &offers {
        let found: Vec<_> = offers
            .iter()
            .filter(|other| other.place.parent == offer.place.parent)
            .map(|other| other.place.kind.clone())
            .collect();
        if found.len() > 1 {
            return Err(Refusal::AmbiguousType {
                wish: wanted.wish.clone(),
                parent: offer.place.parent.clone(),
                found,
            });
        }
    }
    match wanted.numa {
        None => Ok(offers),
        Some(numa) => {
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                offers.into_iter().partition(|offer| offer.numa == Some(numa));
            if here.is_empty() {
                let refusal = Refusal::NotOnNode {
                    wish: wanted.wish.clone(),
                    numa,
                    elsewhere: elsewhere.iter().map(|offer| offer.place.parent.to_string()).collect(),
                };
                return Err(may_come(request, wanted, sight, refusal, None));
            }
            Ok(here)
        }
    }
}
