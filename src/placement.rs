//! Which parent: an order of the offers that have room. Pure.

use std::collections::BTreeMap;

use crate::domain::Placement;
use crate::seen::Offer;
use crate::step::Place;

/// Devices that the plan has put somewhere already but that the host does not show yet.
pub type Taken = BTreeMap<Place, u32>;

/// What is left of an offer after what the plan has taken of it. Types of one parent share a pool whose rules only
/// the driver knows, so this counts takings of the same type only; whether there is room is decided by the write.
/// `None`: the interface does not say.
pub fn left(offer: &Offer, taken: &Taken) -> Option<u32> {
    offer.free.map(|free| free.saturating_sub(taken.get(&offer.place).copied().unwrap_or(0)))
}

/// The offers that have room, best first.
///
/// Cards are compared, not parents: on SR-IOV cards each virtual function is a parent with one place, and filling
/// "one parent" there would say nothing. Within a card the first parent by name is taken. Cards whose room is not
/// known come last, the ones with fewest of the plan's own devices first: the write decides.
pub fn order<'a>(offers: &'a [Offer], placement: Placement, taken: &Taken) -> Vec<&'a Offer> {
    let mut room: BTreeMap<&str, u32> = BTreeMap::new();
    // How many fit on a card whose functions are the parents. Each function tells it, and has one device at most.
    let mut rest: BTreeMap<&str, u32> = BTreeMap::new();
    for offer in offers {
        let room = room.entry(&offer.card).or_default();
        // Some drivers print -1 as a u32 where they know no limit.
        *room = room.saturating_add(left(offer, taken).unwrap_or(0));
        if let Some(max) = offer.max.filter(|_| offer.place.parent.to_string() != offer.card) {
            let rest = rest.entry(&offer.card).or_insert(max);
            *rest = rest.saturating_sub(u32::from(left(offer, taken) == Some(0)));
        }
    }
    for (card, room) in &mut room {
        *room = rest.get(card).map_or(*room, |rest| (*room).min(*rest));
    }
    let mut fitting: Vec<&Offer> = offers.iter().filter(|offer| left(offer, taken) != Some(0)).collect();
    fitting.sort_by_key(|offer| {
        let room = i64::from(room.get(offer.card.as_str()).copied().unwrap_or(0));
        let rank = match placement {
            Placement::Pack => room,
            Placement::Spread => -room,
        };
        let unknown = offer.free.is_none().then(|| taken.get(&offer.place).copied().unwrap_or(0));
        (unknown, rank, &offer.card, &offer.place)
    });
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::ids::{Match, Parent, TypeId};

    fn offer(parent: &str, card: &str, free: u32) -> Offer {
        Offer {
            place: Place::new(Backend::Mdev, Parent::parse(parent).unwrap(), TypeId::parse("t").unwrap()),
            fit: Match::Id,
            name: None,
            api: "vfio-pci".to_owned(),
            free: Some(free),
            max: None,
            card: card.to_owned(),
            numa: None,
            id_argument: None,
            holders: vec![],
        }
    }

    fn names(offers: &[&Offer]) -> Vec<String> {
        offers.iter().map(|offer| offer.place.parent.to_string()).collect()
    }

    #[test]
    fn pack_takes_the_fullest_card_that_fits_and_spread_the_emptiest() {
        let offers = [offer("a", "a", 4), offer("b", "b", 1), offer("c", "c", 0), offer("d", "d", 9)];
        assert_eq!(names(&order(&offers, Placement::Pack, &Taken::new())), ["b", "a", "d"]);
        assert_eq!(names(&order(&offers, Placement::Spread, &Taken::new())), ["d", "a", "b"]);
    }

    #[test]
    fn what_the_plan_took_counts() {
        let offers = [offer("a", "a", 1), offer("b", "b", 2)];
        let taken = Taken::from([(offers[0].place.clone(), 1)]);
        assert_eq!(names(&order(&offers, Placement::Pack, &taken)), ["b"]);
    }

    #[test]
    fn a_card_has_room_for_as_many_as_fit_on_it_and_no_more() {
        // One with many functions, of whose 4 places 3 are taken; and an empty one with few.
        let function = |number: u32, card: &str, free| Offer {
            max: Some(4),
            ..offer(&format!("{card}-vf{number}"), card, free)
        };
        let mut offers: Vec<Offer> =
            (0..8).map(|number| function(number, "gpu1", u32::from(number > 2))).collect();
        offers.extend((0..4).map(|number| function(number, "gpu2", 1)));
        assert_eq!(names(&order(&offers, Placement::Pack, &Taken::new()))[0], "gpu1-vf3");
        assert_eq!(names(&order(&offers, Placement::Spread, &Taken::new()))[0], "gpu2-vf0");
    }

    #[test]
    fn virtual_functions_count_as_their_card() {
        let offers = [
            offer("gpu1-vf1", "gpu1", 1),
            offer("gpu1-vf2", "gpu1", 1),
            offer("gpu2-vf1", "gpu2", 0),
            offer("gpu2-vf2", "gpu2", 1),
        ];
        assert_eq!(names(&order(&offers, Placement::Pack, &Taken::new()))[0], "gpu2-vf2");
        assert_eq!(names(&order(&offers, Placement::Spread, &Taken::new()))[0], "gpu1-vf1");
    }
}
