//! What the host looks like, as far as a domain's requests depend on it: plain values, read once, judged by the plan.

use std::borrow::Cow;

use crate::domain::Wanted;
use crate::ids::{DeviceId, DomainUuid, Match, Parent};
use crate::record::Named;
use crate::refusal::{Absent, BadDefinition, Clue};
use crate::request::Request;
use crate::step::Place;

/// A parent's offer of a type that fits a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Where the device would be.
    pub place: Place,
    /// How closely the type fits the wish.
    pub fit: Match,
    /// The vendor's name for the type.
    pub name: Option<String>,
    /// `device_api`; empty where the driver does not say.
    pub api: String,
    /// How many more of this type fit now; `None` where the interface does not say, and the write decides.
    pub free: Option<u32>,
    /// How many fit when the card is empty, where the driver says so; of an mdev, looked at where there may be too few,
    /// or where several cards have functions.
    pub max: Option<u32>,
    /// The physical card: the physical function of a virtual one, else the parent itself.
    pub card: String,
    /// NUMA node of the parent, where it has one.
    pub numa: Option<u32>,
    /// The name under which the 2016 interface wants the type's id among its arguments.
    pub id_argument: Option<String>,
    /// Where nothing is free: who has the card's devices, at the first offer of each card. Not looked up otherwise.
    pub holders: Vec<Share>,
}

impl Offer {
    /// Whether another parent's device of this type is something else altogether: a channel device, as a disk is.
    pub fn is_one_of_a_kind(&self) -> bool {
        self.api == "vfio-ccw"
    }
}

/// Some of a parent's devices and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Name of the domain; `None` for devices that no record claims.
    pub domain: Option<String>,
    /// How many.
    pub devices: usize,
}

/// A device that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Where.
    pub place: Place,
    /// The type could be read back. In the 2016 interface it cannot, and `place` has none that means anything.
    pub typed: bool,
    /// The vendor's name for its type.
    pub name: Option<String>,
    /// `device_api` of its type.
    pub api: String,
}

impl Existing {
    /// Whether the device is at this place, as far as that can be told.
    pub fn is_at(&self, place: &Place) -> bool {
        self.place.backend == place.backend
            && self.place.parent == place.parent
            && (!self.typed || self.place.kind == place.kind)
    }
}

/// What mdevctl says of a device that is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Lookup {
    /// Nobody asked: the device is there, or definitions are switched off.
    #[default]
    NotLooked,
    /// Nothing.
    Nowhere,
    /// Its one definition, or the one whose parent is on this host.
    One(Defined),
    /// Several, and `there` of their parents, not one, are on this host.
    Several {
        /// The files.
        paths: Vec<String>,
        /// Their parents.
        parents: Vec<Parent>,
        /// How many.
        there: usize,
    },
}

/// A definition of mdevctl's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defined {
    /// The file.
    pub path: String,
    /// What it says, in the form of a domain's metadata.
    pub wanted: Result<Wanted, BadDefinition>,
    /// It is to be there whenever its parent is.
    pub auto: bool,
}

/// All that was seen for one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// The device itself, if it exists already.
    pub existing: Option<Existing>,
    /// The domain that has claimed it, if that is another one.
    pub owner: Option<Named>,
    /// Another domain that it is set aside for: a virtual function for one that is about to come.
    pub reserved: Option<DomainUuid>,
    /// Who has it open.
    pub holder: Option<String>,
    /// Whether mdevctl has a definition of it.
    pub defined: bool,
    /// What mdevctl says of it where it does not exist.
    pub definition: Lookup,
    /// Offers of the parents that come into question.
    pub offers: Vec<Offer>,
    /// The parents that were looked at.
    pub parents: Vec<Parent>,
    /// Named parents that are not there.
    pub missing: Vec<(Parent, Absent)>,
    /// None of them is, none is only late, and the domain lets another parent take their place: what was looked at are all
    /// parents, as if it had named none, and `missing` is empty.
    pub relocated: bool,
    /// Where nothing fits: the types that those parents do offer, as `id` or `id "name"`.
    pub known: Vec<String>,
    /// Where the domain names no parent: what the host tells of it.
    pub clue: Option<Clue>,
    /// And those of them that offer no type at all, as before their vendor's service runs.
    pub untyped: Vec<Parent>,
    /// Where a virtual function lists no such type: who has the functions of its card. It lists only what fits now.
    pub card_holders: Vec<Share>,
    /// And that card.
    pub full_card: Option<String>,
    /// Where the named parents are not there or have no room: other parents, which the hint may name.
    pub elsewhere: Vec<Offer>,
}

impl Sight {
    /// What the device is to be: metadata goes before a definition, and what exists is as it is.
    pub fn wanted<'a>(&'a self, request: &'a Request) -> Option<&'a Wanted> {
        match (&request.wanted, &self.definition) {
            (Some(wanted), _) => Some(wanted),
            (None, Lookup::One(Defined { wanted: Ok(wanted), .. })) => Some(wanted),
            (None, _) => None,
        }
    }
}

impl Sight {
    /// What the device is to be on this host, where the named parents may have been replaced.
    pub fn relocate<'a>(&self, wanted: &'a Wanted) -> Cow<'a, Wanted> {
        if self.relocated {
            Cow::Owned(Wanted { parents: Vec::new(), ..wanted.clone() })
        } else {
            Cow::Borrowed(wanted)
        }
    }
}

/// What was seen for all requests, in their order, and what of it is ours from before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// One for each request.
    pub sights: Vec<Sight>,
    /// Devices that the domain's record kept at an earlier release.
    pub kept: Vec<(DeviceId, Place)>,
}
