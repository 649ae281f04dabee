//! The interface that was proposed to libvirt in August 2016: types in one file, devices made and destroyed by
//! `UUID:arguments`, and brought online one by one.
//!
//! Free places are unknown there, and a device's type cannot be read back.

use super::listing::{Listing, Row, table};
use super::{Backend, card, numa};
use crate::host::{Host, Kind, Trouble};
use crate::ids::{DomainUuid, Match, MdevUuid, Parent, TypeId, TypeWish};
use crate::seen::{Existing, Offer};
use crate::step::Place;

const PARENTS: &str = "sys/bus/pci/devices";
const DEVICES: &str = "sys/bus/mdev/devices";
const TYPES: &str = "mdev_supported_types";
const CREATE: &str = "mdev_create";
const DESTROY: &str = "mdev_destroy";
const ONLINE: &str = "online";
/// Argument by which NVIDIA's driver pairs the devices of one domain.
const VM: &str = "vm_uuid";
/// A write to sysfs is one page at most, and 37 bytes of it are the UUID and its colon.
pub const MAX_ARGUMENTS: usize = 4096 - 37;
/// What NVIDIA's heading calls the number of free places on an empty card.
const MAX: &str = "max_instance";

/// A PCI device's directory, below the host's root.
pub fn pci_path(parent: &Parent) -> String {
    format!("{PARENTS}/{parent}")
}

/// Whether a PCI device speaks this interface. Upstream's `mdev_supported_types` is a directory.
pub fn is_parent(host: &Host, parent: &Parent) -> Result<bool, Trouble> {
    Ok(host.kind(&format!("{PARENTS}/{parent}/{TYPES}"))? == Some(Kind::File))
}

/// All that do: one look at each PCI device.
pub fn parents(host: &Host) -> Result<Vec<Parent>, Trouble> {
    let names = host.names(PARENTS)?;
    Ok(names
        .iter()
        .filter_map(|name| Parent::parse(name).ok())
        .filter(|parent| is_parent(host, parent).unwrap_or(false))
        .collect())
}

/// The table. It may change with the host's configuration, so it is read every time.
fn listing(host: &Host, parent: &Parent) -> Result<Listing, Trouble> {
    let path = format!("{PARENTS}/{parent}/{TYPES}");
    let listing = table(&host.read(&path)?);
    for warning in &listing.warnings {
        log::warn!("/{path}: {warning}");
    }
    Ok(listing)
}

/// The rows of a parent's table.
pub fn rows(host: &Host, parent: &Parent) -> Result<Vec<Row>, Trouble> {
    Ok(listing(host, parent)?.rows)
}

/// The types that fit a wish. A vendor without a table is taken at the domain's word, if the domain names it.
pub fn offers(host: &Host, parent: &Parent, wish: &TypeWish, named: bool) -> Result<Vec<Offer>, Trouble> {
    let listing = listing(host, parent)?;
    let offer = |kind: TypeId, fit, name, max| {
        let place = Place::new(Backend::Proposal, parent.clone(), kind);
        Offer {
            fit,
            name,
            api: String::new(),
            free: None,
            max,
            card: card(host, &place),
            numa: numa(host, &pci_path(parent)),
            holders: Vec::new(),
            id_argument: listing.id_column.clone(),
            place,
        }
    };
    // Rows that cannot be understood are a table all the same.
    if listing.rows.is_empty() && listing.warnings.is_empty() && named {
        return Ok(vec![Offer { id_argument: None, ..offer(wish.as_id(), Match::Unchecked, None, None) }]);
    }
    Ok(listing
        .rows
        .iter()
        .filter_map(|row| {
            let kind = TypeId::parse(&row.id.to_string()).ok()?;
            let fit = wish.matches(&kind, row.name.as_deref())?;
            Some(offer(kind, fit, row.name.clone(), max(row)))
        })
        .collect())
}

/// How many of a row's type fit on an empty card.
pub fn max(row: &Row) -> Option<u32> {
    row.properties.iter().find(|(key, _)| key == MAX).and_then(|(_, value)| value.parse().ok())
}

/// What follows the UUID: the type under the name that the table's heading gives it, the domain, and what the metadata
/// adds. The metadata wins; an empty value there takes an argument out. Without a table the metadata is all.
pub fn arguments(offer: &Offer, domain: &DomainUuid, given: &[(String, String)]) -> String {
    let mut arguments: Vec<(String, String)> = Vec::new();
    if let Some(column) = &offer.id_argument {
        arguments.push((column.clone(), offer.place.kind.to_string()));
        arguments.push((VM.to_owned(), domain.to_string()));
    }
    for (name, value) in given {
        match arguments.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => old.clone_from(value),
            None => arguments.push((name.clone(), value.clone())),
        }
    }
    let words: Vec<String> = arguments
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.join(",")
}

/// Whether the device's directory is there, on the bus or only in its parent's directory any more.
pub fn is_there(host: &Host, device: &MdevUuid, parent: &Parent) -> bool {
    !host.is_gone(&format!("{DEVICES}/{device}")) || !host.is_gone(&format!("{PARENTS}/{parent}/{device}"))
}

/// A device of this interface: one without a type.
pub fn existing(host: &Host, device: &MdevUuid, parent: Parent) -> Result<Option<Existing>, Trouble> {
    let path = format!("{DEVICES}/{device}");
    if host.kind(&format!("{path}/{ONLINE}"))?.is_none() {
        return Ok(None);
    }
    let odd = |_| Trouble::new("read the type of", &host.path(&path), std::io::Error::other("not a name"));
    let kind = TypeId::parse("a type that cannot be read back").map_err(odd)?;
    let place = Place::new(Backend::Proposal, parent, kind);
    Ok(Some(Existing { place, typed: false, name: None, api: String::new() }))
}

/// `UUID:arguments`, in one write, with no newline: the argument list is everything after the colon.
fn request(device: &MdevUuid, place: &Place) -> String {
    if place.arguments.is_empty() { device.to_string() } else { format!("{device}:{}", place.arguments) }
}

/// Makes a device.
pub fn create(host: &Host, device: &MdevUuid, place: &Place) -> Result<(), Trouble> {
    host.write(&format!("{PARENTS}/{}/{CREATE}", place.parent), request(device, place).as_bytes())
}

/// Destroys it, with the bytes that made it.
pub fn destroy(host: &Host, device: &MdevUuid, place: &Place) -> Result<(), Trouble> {
    host.write(&format!("{PARENTS}/{}/{DESTROY}", place.parent), request(device, place).as_bytes())
}

/// Brings a device online, or takes it offline; its state is read first.
pub fn set_online(host: &Host, device: &MdevUuid, online: bool) -> Result<(), Trouble> {
    let path = format!("{DEVICES}/{device}/{ONLINE}");
    let wanted = if online { "1" } else { "0" };
    if host.read(&path)?.trim() == wanted { Ok(()) } else { host.write(&path, wanted.as_bytes()) }
}
