//! The words for want of room: who has it, and who has some left.

use std::collections::BTreeMap;

use crate::backend::Backend;
use crate::domain::Wanted;
use crate::ids::DeviceId;
use crate::placement::Taken;
use crate::refusal::{Clue, Refusal};
use crate::request::Request;
use crate::seen::{Offer, Share, Sight};
use crate::words::{list, printable};

/// Where NVIDIA's cards are full.
pub(super) const ONE_SIZE: &str = "stop a domain that has one, `virt-mdev list` shows them; or, where they are of another size: a card has sizes side by side in its mixed-size mode only, which vGPU 17 brought and which is set before the first (nvidia-smi vgpu -i GPU -shm 1)";

/// No offer has room. `request` and what is wanted of it are for the hint.
pub(super) fn no_room(
    request: &Request,
    wanted: &Wanted,
    offers: &[Offer],
    sight: &Sight,
    taken: &Taken,
) -> Refusal {
    let free: u64 = offers.iter().filter_map(|offer| offer.free).map(u64::from).sum();
    // Each function of a card tells how many fit on the card.
    let cards: BTreeMap<&str, Option<u32>> =
        offers.iter().map(|offer| (offer.card.as_str(), offer.max)).collect();
    let place = match wanted.parents.is_empty() {
        true => list(&cards.keys().collect::<Vec<_>>()),
        false => list(&offers.iter().map(|offer| &offer.place.parent).collect::<Vec<_>>()),
    };
    let max: Option<u64> = cards.values().map(|max| max.map(u64::from)).sum();
    let of = max.map(|max| format!(" of {max}")).unwrap_or_default();
    let own: u32 = offers.iter().filter_map(|offer| taken.get(&offer.place)).sum();
    let mut hint = None;
    let left = if own > 0 {
        let or = match (&request.wanted, wanted.parents.is_empty()) {
            (Some(_), false) => ", or drop parent=\"…\"",
            _ => "",
        };
        hint = Some(format!("give the domain fewer devices{or}"));
        format!("{free}{of} left, and the domain's devices before this one take {own}")
    } else {
        let holders: Vec<&Share> = offers.iter().flat_map(|offer| &offer.holders).collect();
        if offers.iter().any(|offer| Clue::of_type(&offer.place.kind.as_wish()) == Some(Clue::Nvidia)) {
            hint = Some(ONE_SIZE.to_owned());
        }
        match held_by(&holders) {
            held if held.is_empty() => format!("{free}{of} left"),
            held => format!("{free}{of} left, held by {held}"),
        }
    };
    let elsewhere = elsewhere(&sight.elsewhere).map(|others| match &request.wanted {
        Some(_) => {
            let named = list(&wanted.parents);
            format!("{others}; drop parent=\"{}\" to let virt-mdev choose", printable(&named))
        }
        None => format!("{others}; describe the device in the domain's metadata, without a parent, to let virt-mdev choose"),
    });
    let kind = offers.first().map(|offer| offer.place.kind.to_string()).unwrap_or_default();
    let what = if kind == wanted.wish.to_string() {
        kind
    } else {
        format!("{} ({kind})", printable(&wanted.wish.to_string()))
    };
    Refusal::NoRoom { what, place, left, hint: elsewhere.or(hint) }
}

/// What another parent could do in place of the named ones, none of which is there, if the domain's author allows it.
pub(super) fn relocate(request: &Request, sight: &Sight) -> Option<String> {
    let by_uuid = matches!(request.device, DeviceId::Mdev(_));
    let wanted = request.wanted.as_ref().filter(|wanted| by_uuid && !wanted.relocate)?;
    let fit = sight.elsewhere.iter().map(|offer| offer.fit).min()?;
    let fits = |offer: &&Offer| {
        offer.fit == fit
            && (wanted.numa.is_none() || offer.numa == wanted.numa)
            && offer.place.backend != Backend::Nvidia
    };
    let others: Vec<Offer> = sight.elsewhere.iter().filter(fits).cloned().collect();
    let others = elsewhere(&others)?;
    Some(format!(
        "{others}, and migrate=\"relocate\" in the <device> lets virt-mdev choose another parent where this one is missing"
    ))
}

/// The cards that were not named and have room: `0000:87:00.0 has 1 left`.
fn elsewhere(offers: &[Offer]) -> Option<String> {
    let mut cards: BTreeMap<&str, Option<u64>> = BTreeMap::new();
    for offer in offers.iter().filter(|offer| offer.free != Some(0) && !offer.is_one_of_a_kind()) {
        let room = cards.entry(&offer.card).or_insert(Some(0));
        *room = room.and_then(|room| Some(room + u64::from(offer.free?)));
    }
    let words: Vec<String> = cards
        .iter()
        .map(|(card, free)| match free {
            Some(free) => format!("{card} has {free} left"),
            None => format!("{card} may have room"),
        })
        .collect();
    (!words.is_empty()).then(|| list(&words))
}

/// `vm1 (7), vm2 and 5 made by others`
pub fn held_by(holders: &[&Share]) -> String {
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    let mut others = 0;
    for holder in holders {
        match &holder.domain {
            Some(name) => *domains.entry(name).or_default() += holder.devices,
            None => others += holder.devices,
        }
    }
    let mut words: Vec<String> = domains
        .iter()
        .map(|(name, devices)| match devices {
            1 => printable(name).to_string(),
            more => format!("{} ({more})", printable(name)),
        })
        .collect();
    if others > 0 {
        words.push(format!("{others} made by others"));
    }
    list(&words)
}
