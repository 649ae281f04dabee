//! What is not there yet, as after a boot, when drivers and vendors' services come late: a start waits for it, up to a
//! deadline that belongs to the missing card and that all starts share. Once it has passed none waits, until udev tells
//! that something has come.

use std::fmt;
use std::time::Duration;

use crate::backend;
use crate::config::Waits;
use crate::host::Host;
use crate::host::udev::Arrivals;
use crate::ids::{Parent, TypeWish};
use crate::record::{Missing, Records};
use crate::refusal::Refusal;
use crate::seen::{Offer, Sight};
use crate::words::{list, printable};

/// What a start needs and what may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// One of these parents, none of which is there.
    Parents(Vec<Parent>),
    /// The list of types of one of these parents, which have none, or are not there either.
    Types(Vec<Parent>),
    /// A parent, whichever, that offers this type, on this NUMA node where that matters.
    Type {
        /// The type.
        wish: TypeWish,
        /// The node.
        numa: Option<u32>,
    },
    /// Any parent at all.
    AnyParent,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parents(parents) if parents.len() > 1 => write!(f, "one of the parents {}", list(parents)),
            Self::Parents(parents) => write!(f, "the parent {}", list(parents)),
            Self::Types(parents) => write!(f, "the types of {}", list(parents)),
            Self::Type { wish, numa } => {
                write!(f, "a parent with the type \"{}\"", printable(&wish.to_string()))?;
                numa.map_or(Ok(()), |numa| write!(f, " on NUMA node {numa}"))
            }
            Self::AnyParent => f.write_str("a parent"),
        }
    }
}

impl Awaited {
    /// Whose deadline it is.
    fn missing(&self) -> Missing<'_> {
        match self {
            Self::Parents(parents) | Self::Types(parents) => {
                parents.first().map_or(Missing::AnyParent, Missing::Parent)
            }
            Self::Type { .. } | Self::AnyParent => Missing::AnyParent,
        }
    }

    /// What cannot be read now may have come: whoever needs it says why it is no use.
    fn has_come(&self, host: &Host) -> bool {
        let there = |parent: &Parent| backend::detect(host, parent).map_or(true, |found| found.is_some());
        let typed = |parent: &Parent| match backend::detect(host, parent) {
            Ok(Some(backend)) => backend.known(host, parent).map_or(true, |known| !known.is_empty()),
            Ok(None) => false,
            Err(_) => true,
        };
        match self {
            Self::Parents(parents) => parents.iter().any(there),
            Self::Types(parents) => parents.iter().any(typed),
            Self::Type { wish, numa } => backend::parents(host).map_or(true, |parents| {
                let there = |offer: &Offer| numa.is_none() || offer.numa == *numa;
                let offers = |(backend, parent): &(backend::Backend, Parent)| {
                    backend.offers(host, parent, wish, false).is_ok_and(|offers| offers.iter().any(there))
                };
                parents.iter().any(offers)
            }),
            Self::AnyParent => backend::parents(host).map_or(true, |parents| !parents.is_empty()),
        }
    }
}

/// A refusal for want of room, where of several named parents one is full and another may come.
pub fn unless_late(refusal: Refusal, sights: &[Sight]) -> Refusal {
    // What is missing is no loss to a device that has found room.
    let wants = |sight: &&Sight| {
        sight.offers.iter().all(|offer| offer.free.is_none_or(|free| (free as usize) < sights.len()))
    };
    let mut missing: Vec<Parent> = Vec::new();
    for (parent, _) in sights.iter().filter(wants).flat_map(|sight| &sight.missing) {
        if !missing.contains(parent) {
            missing.push(parent.clone());
        }
    }
    match refusal {
        Refusal::NoRoom { .. } if !missing.is_empty() => refusal.until(Awaited::Parents(missing)),
        refusal => refusal,
    }
}

/// Looks again this often where nothing tells that something has come.
const LOOK: Duration = Duration::from_secs(1);

/// One start, waiting.
#[derive(Debug)]
pub struct Patience<'a> {
    host: &'a Host,
    records: &'a Records,
    limit: Duration,
    /// When this start gives up, whatever it waits for then.
    end: Option<Duration>,
    arrivals: Option<Arrivals>,
}

impl<'a> Patience<'a> {
    /// A start that has not waited yet.
    pub fn new(host: &'a Host, records: &'a Records, waits: Waits) -> Self {
        Self { host, records, limit: waits.parent, end: None, arrivals: None }
    }

    /// After a refusal: has waited for what may come, or has had `relocate` put another parent into the place of those
    /// that are missing. Otherwise it is the refusal still, which then says that it was waited. Nothing may be locked.
    pub fn outlast(
        &mut self,
        refusal: Refusal,
        relocate: impl FnOnce(&[Parent]) -> bool,
    ) -> Result<(), Refusal> {
        match refusal.awaited() {
            Some(awaited) if self.wait(awaited) => Ok(()),
            // What is only late is waited for first.
            Some(Awaited::Parents(missing)) if relocate(missing) => {
                log::warn!("{refusal}; another parent takes its place");
                Ok(())
            }
            Some(_) if !self.limit.is_zero() => Err(refusal.after_waiting()),
            _ => Err(refusal),
        }
    }

    /// Waits; says whether it has come. Nothing may be locked.
    fn wait(&mut self, awaited: &Awaited) -> bool {
        if self.limit.is_zero() {
            return false;
        }
        let now = self.host.now();
        let mine = *self.end.get_or_insert(now + self.limit);
        let missing = awaited.missing();
        // One that lies further ahead than any wait was written by nobody.
        let shared = self.records.deadline(&missing).filter(|deadline| *deadline <= now + self.limit);
        let shared = shared.unwrap_or_else(|| {
            if let Err(trouble) = self.records.set_deadline(&missing, mine) {
                log::warn!("other starts will wait for {awaited} as well: {trouble}");
            }
            mine
        });
        let end = mine.min(shared);
        if now >= end {
            log::warn!("not waiting for {awaited}: that was done already, and it has not come");
            return false;
        }
        let began = now;
        if self.arrivals.is_none() {
            log::info!("waiting for {awaited}, {:.1?} at most", end - now);
            self.arrivals = Some(Arrivals::listen());
        }
        loop {
            let left = end.saturating_sub(self.host.now());
            if let Some(arrivals) = &mut self.arrivals {
                arrivals.wait(left.min(LOOK));
            }
            if awaited.has_come(self.host) {
                log::info!("{awaited}: there, or something of it, after {:.1?}", self.host.now() - began);
                // Those who find it missing once more are to wait for it once more.
                self.records.forget_deadline(&missing);
                return true;
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::ids::{Match, TypeId};
    use crate::refusal::Absent;
    use crate::step::Place;

    #[test]
    fn only_a_device_without_room_waits_for_a_parent_that_is_missing() {
        let parent = |name: &str| Parent::parse(name).unwrap();
        let sight = |free: Option<u32>| {
            let place = Place::new(Backend::Mdev, parent("mtty"), TypeId::parse("mtty-2").unwrap());
            let offer = Offer {
                place,
                fit: Match::Id,
                name: None,
                api: String::new(),
                free,
                max: None,
                card: "mtty".to_owned(),
                numa: None,
                id_argument: None,
                holders: Vec::new(),
            };
            let missing = vec![(parent("late"), Absent::Unknown)];
            Sight { offers: vec![offer], missing, ..Sight::default() }
        };
        let waits = |frees: &[Option<u32>]| {
            let sights: Vec<_> = frees.iter().map(|free| sight(*free)).collect();
            let (what, place, left) = ("mtty-2".to_owned(), "mtty".to_owned(), "0 left".to_owned());
            let full = Refusal::NoRoom { what, place, left, hint: None };
            unless_late(full, &sights).awaited() == Some(&Awaited::Parents(vec![parent("late")]))
        };
        assert!(waits(&[Some(0)]));
        assert!(waits(&[Some(1), Some(1)]), "room for one of two");
        assert!(waits(&[None]), "where nobody knows how much room there is, the write has said so");
        assert!(!waits(&[Some(1)]));
    }
}
