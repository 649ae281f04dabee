//! NVIDIA's vendor VFIO (vGPU 17 and later, Linux 5.16 and later): a virtual function is given a type, and is then
//! passed to the domain as a PCI device. There is no mediated device and no UUID.

use super::listing::{Row, creatable as parse};
use super::{Backend, card, functions, numa};
use crate::host::{Host, Trouble};
use crate::ids::{DeviceId, Parent, PciAddress, TypeId, TypeWish};
use crate::refusal::Absent;
use crate::request::Function;
use crate::seen::{Existing, Offer};
use crate::step::Place;

/// NVIDIA's driver, of cards and of their functions.
const DRIVER: &str = "nvidia";
const PCI: &str = "sys/bus/pci/devices";
const CREATABLE: &str = "nvidia/creatable_vgpu_types";
/// The type that a function has; written by [`create`] and [`clear`] only.
pub const CURRENT: &str = "nvidia/current_vgpu_type";
const NONE: &str = "0";
/// Attributes of a virtual function that a domain may write: beside this directory lie `config`, `reset` and
/// `sriov_numvfs`.
pub const ATTRIBUTES: &str = "nvidia/";

fn path(parent: &Parent, file: &str) -> String {
    format!("{PCI}/{parent}/{file}")
}

/// Whether a PCI function takes types.
pub fn is_parent(host: &Host, parent: &Parent) -> Result<bool, Trouble> {
    Ok(host.kind(&path(parent, CURRENT))?.is_some())
}

/// Whether a PCI function that a domain passes through takes types.
pub fn is_vgpu(host: &Host, address: &PciAddress) -> bool {
    is_parent(host, &address.as_parent()).unwrap_or(false)
}

/// The same, with what it lacks.
pub fn function(host: &Host, address: &PciAddress) -> Function {
    let parent = address.as_parent();
    if is_vgpu(host, address) {
        return Function::Vgpu;
    }
    match (super::detect(host, &parent), super::absent(host, &parent)) {
        // Another driver's device becomes none of ours by waiting, and neither does a whole card.
        (Ok(None), Ok(Absent::Offer { driver })) if driver != DRIVER => Function::Other,
        (Ok(None), Ok(Absent::Functions { .. })) => Function::Other,
        (Ok(None), Ok(absent)) => Function::NotYet(absent),
        _ => Function::Other,
    }
}

/// The card of a function.
pub fn card_of(host: &Host, function: &Parent) -> Parent {
    let card = host.link_name(&path(function, "physfn")).ok().flatten();
    card.and_then(|name| Parent::parse(&name).ok()).unwrap_or_else(|| function.clone())
}

/// Whether a card of NVIDIA's could have virtual functions, and has none: a boot and a reload of its driver switch them off.
pub fn lacks_functions(host: &Host, card: &Parent) -> bool {
    let number =
        |file: &str| host.read(&path(card, file)).ok().and_then(|text| text.trim().parse::<u32>().ok());
    host.link_name(&path(card, "driver")).is_ok_and(|driver| driver.as_deref() == Some(DRIVER))
        && number("sriov_totalvfs").is_some_and(|total| total > 0)
        && number("sriov_numvfs") == Some(0)
}

/// The command that switches a card's functions on: its driver takes no number from anybody else.
pub fn functions_on(card: &Parent) -> String {
    format!("/usr/lib/nvidia/sriov-manage -e {card}")
}

/// All such cards: for the words of a refusal.
pub fn cards_without_functions(host: &Host) -> Result<Vec<Parent>, Trouble> {
    let names = host.names(PCI)?;
    let cards = names.iter().filter_map(|name| Parent::parse(name).ok());
    Ok(cards.filter(|card| lacks_functions(host, card)).collect())
}

/// All functions that do: one look at each PCI device. For people, and for the words of a refusal.
pub fn parents(host: &Host) -> Result<Vec<Parent>, Trouble> {
    let names = host.names(PCI)?;
    Ok(names
        .iter()
        .filter_map(|name| Parent::parse(name).ok())
        .filter(|parent| is_parent(host, parent).unwrap_or(false))
        .collect())
}

/// What fits on this function now. Shrinks on all functions of a card as they are taken.
pub fn creatable(host: &Host, parent: &Parent) -> Result<Vec<Row>, Trouble> {
    let path = path(parent, CREATABLE);
    let listing = parse(&host.read(&path)?);
    for warning in &listing.warnings {
        log::warn!("/{path}: {warning}");
    }
    Ok(listing.rows)
}

/// A type on a function.
pub fn place(function: &Parent, kind: TypeId) -> Place {
    Place::new(Backend::Nvidia, function.clone(), kind)
}

/// The types that fit a wish.
pub fn offers(host: &Host, parent: &Parent, wish: &TypeWish) -> Result<Vec<Offer>, Trouble> {
    Ok(creatable(host, parent)?
        .into_iter()
        .filter_map(|row| {
            let kind = TypeId::parse(&row.id.to_string()).ok()?;
            let fit = wish.matches(&kind, row.name.as_deref())?;
            let place = place(parent, kind);
            Some(Offer {
                fit,
                name: row.name,
                api: String::new(),
                free: Some(1),
                max: None,
                card: card(host, &place),
                numa: numa(host, &format!("{PCI}/{parent}")),
                holders: Vec::new(),
                id_argument: None,
                place,
            })
        })
        .collect())
}

/// 1 if the function is empty and the type is creatable on it, else 0.
pub fn free(host: &Host, place: &Place) -> Result<u32, Trouble> {
    if current(host, &place.parent)?.is_some() {
        return Ok(0);
    }
    let kind = place.kind.to_string();
    Ok(u32::from(creatable(host, &place.parent)?.iter().any(|row| row.id.to_string() == kind)))
}

/// The type that a function has now.
fn current(host: &Host, parent: &Parent) -> Result<Option<TypeId>, Trouble> {
    let path = path(parent, CURRENT);
    let text = host.read(&path)?;
    match text.trim() {
        NONE => Ok(None),
        id if id.parse::<u32>().is_ok() => Ok(TypeId::parse(id).ok()),
        odd => Err(Trouble {
            doing: format!("understand /{path}"),
            error: std::io::Error::other(format!(
                "\"{}\" is not a type's number",
                crate::words::printable(odd)
            )),
        }),
    }
}

/// The vGPU that a function carries. A function that is gone carries none.
pub fn existing(host: &Host, address: &PciAddress) -> Result<Option<Existing>, Trouble> {
    let parent = address.as_parent();
    if !is_parent(host, &parent)? {
        return Ok(None);
    }
    Ok(current(host, &parent)?.map(|kind| Existing {
        place: place(&parent, kind),
        typed: true,
        name: None,
        api: String::new(),
    }))
}

/// Gives a function its type, and reads it back: the driver has been seen to take a write and keep the old value.
pub fn create(host: &Host, address: &PciAddress, kind: &TypeId) -> Result<(), Trouble> {
    let path = path(&address.as_parent(), CURRENT);
    host.write(&path, kind.to_string().as_bytes())?;
    // Whatever goes wrong from here on, the driver has taken the write: no errno of it may be mistaken for the write's.
    let read_back = |trouble: Trouble| Trouble {
        error: std::io::Error::other(format!(
            "{}, after the driver took {kind}",
            crate::words::errno(&trouble.error)
        )),
        ..trouble
    };
    match current(host, &address.as_parent()).map_err(read_back)? {
        Some(now) if now == *kind => Ok(()),
        now => Err(Trouble {
            doing: format!("set /{path}"),
            error: std::io::Error::other(format!(
                "the driver took {kind} and shows {}",
                now.map_or_else(|| NONE.to_owned(), |now| now.to_string())
            )),
        }),
    }
}

/// Takes the type away. The driver may refuse for some seconds after QEMU has ended.
pub fn clear(host: &Host, address: &PciAddress) -> Result<(), Trouble> {
    host.write(&path(&address.as_parent(), CURRENT), NONE.as_bytes())
}

/// The functions of the same card that carry a vGPU.
pub fn siblings_in_use(host: &Host, parent: &Parent) -> Result<Vec<DeviceId>, Trouble> {
    Ok(functions(host, &path(parent, "physfn"))?
        .iter()
        .filter_map(|function| PciAddress::parse(&function.to_string()).ok())
        .filter(|address| existing(host, address).is_ok_and(|found| found.is_some()))
        .map(DeviceId::Vf)
        .collect())
}
