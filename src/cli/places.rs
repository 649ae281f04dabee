//! Places by card: what the functions of a card offer each by itself is room on the card, which they share.

use std::collections::BTreeMap;

use super::list;
use super::types;
use crate::backend::Backend;
use crate::ids::TypeId;

/// Room for one type on one card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Room {
    pub backend: Backend,
    /// The vendor's name for the type.
    pub name: Option<String>,
    /// How many more fit; `None` where the interface does not say.
    pub free: Option<u32>,
    /// How many fit on the empty card; `None` where nobody says.
    pub max: Option<u32>,
    /// How many devices of it there are.
    pub devices: u32,
}

/// All room of a host.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By card, then by type.
    pub cards: BTreeMap<String, BTreeMap<TypeId, Room>>,
}

impl Places {
    /// From both listings, in one pass through each.
    pub(super) fn of(kinds: &[types::Row], devices: &[list::Row]) -> Self {
        let mut places = Self::default();
        // On how many virtual functions a type is offered: each takes one device.
        let mut functions: BTreeMap<(&str, &TypeId), u32> = BTreeMap::new();
        for kind in kinds {
            let card = places.cards.entry(kind.card.clone()).or_default();
            let room = card.entry(kind.kind.clone()).or_insert_with(|| Room {
                backend: kind.backend,
                name: kind.name.clone(),
                free: kind.free.map(|_| 0),
                max: kind.max,
                devices: 0,
            });
            room.free = room.free.zip(kind.free).map(|(sum, free)| sum.saturating_add(free));
            if kind.parent.to_string() != kind.card {
                *functions.entry((&kind.card, &kind.kind)).or_default() += 1;
            }
        }
        for device in devices.iter().filter(|device| device.state != "lost") {
            let (Some(card), Some(kind)) = (&device.card, &device.kind) else { continue };
            let card = places.cards.entry(card.clone()).or_default();
            // A function's list has only what fits now: the type of a full card is not in it.
            let room = card.entry(kind.clone()).or_insert_with(|| Room {
                backend: device.backend.unwrap_or(Backend::Mdev),
                name: device.name.clone(),
                free: (device.backend == Some(Backend::Nvidia)).then_some(0),
                max: None,
                devices: 0,
            });
            room.devices += 1;
            room.name = room.name.take().or_else(|| device.name.clone());
        }
        for (card, rooms) in &mut places.cards {
            for (kind, room) in rooms {
                // Each function says that one more fits on it, also where one more fits on the card.
                let rest = room.max.map_or(u32::MAX, |max| max.saturating_sub(room.devices));
                room.free = room.free.map(|free| free.min(rest));
                // A GPU of 16 places with 4 functions has 4; and whatever a driver calls its maximum, what is there fits.
                let functions = functions.get(&(card.as_str(), kind)).copied().unwrap_or(u32::MAX);
                let least = room.free.unwrap_or(0).saturating_add(room.devices);
                room.max = room.max.map(|max| max.min(functions).max(least));
            }
        }
        places
    }
}

impl Room {
    /// How many places are no more: taken by devices of this type or by what other types share with it.
    pub(super) fn taken(&self) -> Option<u32> {
        self.max.zip(self.free).map(|(max, free)| max.saturating_sub(free))
    }
}
