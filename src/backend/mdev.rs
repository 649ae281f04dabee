//! Upstream mdev: `Documentation/driver-api/vfio-mediated-device.rst` and `ABI/testing/sysfs-bus-vfio-mdev`.

use super::Backend;
use crate::host::{Host, Trouble};
use crate::ids::{MdevUuid, Parent, TypeId, TypeWish};
use crate::seen::{Existing, Offer};
use crate::step::Place;

const PARENTS: &str = "sys/class/mdev_bus";
const DEVICES: &str = "sys/bus/mdev/devices";
const TYPES: &str = "mdev_supported_types";
const CREATE: &str = "create";
const REMOVE: &str = "remove";
const FREE: &str = "available_instances";
const API: &str = "device_api";
const NAME: &str = "name";
const DESCRIPTION: &str = "description";
const TYPE_LINK: &str = "mdev_type";
/// Key of NVIDIA's `description` for how many fit on an empty card.
pub const MAX_KEY: &str = "max_instance";

/// A type of a parent, as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Parent and id.
    pub place: Place,
    /// The vendor's name; some i915 kernels have none.
    pub name: Option<String>,
    /// `device_api`; empty where it cannot be read.
    pub api: String,
    /// How many more fit now; `None` where the driver gives no number.
    pub free: Option<u32>,
    /// `description`: one line or several, or `key=value` pairs.
    pub description: Option<String>,
}

/// All parents, by name.
pub fn parents(host: &Host) -> Result<Vec<Parent>, Trouble> {
    let names = host.names(PARENTS)?;
    Ok(names.iter().filter_map(|name| Parent::parse(name).ok()).collect())
}

/// A parent's directory, below the host's root.
pub fn parent_path(parent: &Parent) -> String {
    format!("{PARENTS}/{parent}")
}

/// The directory of a parent's types, below the host's root.
pub fn types_path(parent: &Parent) -> String {
    format!("{PARENTS}/{parent}/{TYPES}")
}

/// A device's directory, below the host's root.
pub fn device_path(device: &MdevUuid) -> String {
    format!("{DEVICES}/{device}")
}

/// Whether this parent is there.
pub fn is_parent(host: &Host, parent: &Parent) -> Result<bool, Trouble> {
    Ok(host.kind(&format!("{PARENTS}/{parent}"))?.is_some())
}

/// Ids of a parent's types.
pub fn type_ids(host: &Host, parent: &Parent) -> Result<Vec<TypeId>, Trouble> {
    let names = host.names(&types_path(parent))?;
    Ok(names.iter().filter_map(|name| TypeId::parse(name).ok()).collect())
}

/// The directory of a type, below the host's root.
pub fn type_path(parent: &Parent, kind: &TypeId) -> String {
    format!("{}/{kind}", types_path(parent))
}

/// The vendor's name for a type.
pub fn type_name(host: &Host, parent: &Parent, kind: &TypeId) -> Result<Option<String>, Trouble> {
    let name = host.read_if_there(&format!("{}/{NAME}", type_path(parent, kind)))?;
    Ok(name.filter(|name| !name.is_empty()))
}

/// A type with all that its parent says of it.
pub fn read_type(host: &Host, parent: &Parent, kind: TypeId) -> Type {
    let file = |name: &str| host.read(&format!("{}/{name}", type_path(parent, &kind))).ok();
    Type {
        name: file(NAME).filter(|name| !name.is_empty()),
        api: file(API).unwrap_or_default(),
        free: file(FREE).and_then(|text| text.trim().parse().ok()),
        description: file(DESCRIPTION),
        place: Place::new(Backend::Mdev, parent.clone(), kind),
    }
}

/// A type as another function of the same card has it: the card's driver says the same of it everywhere, but for what is
/// free.
pub fn type_like(host: &Host, parent: &Parent, like: &Type) -> Type {
    let place = Place { parent: parent.clone(), ..like.place.clone() };
    Type { free: free(host, &place).ok(), place, ..like.clone() }
}

/// The parent's types that fit the wish. A wish that is the id of one of them is answered without a listing.
pub fn offers(host: &Host, parent: &Parent, wish: &TypeWish) -> Result<Vec<Offer>, Trouble> {
    let host = &host.near(&parent_path(parent));
    let id = wish.as_id();
    let kinds =
        if host.kind(&type_path(parent, &id))?.is_some() { vec![id] } else { type_ids(host, parent)? };
    let (mut offers, mut nameless) = (Vec::new(), None);
    for kind in kinds {
        let name = match type_name(host, parent, &kind) {
            Ok(name) => name,
            Err(trouble) => {
                nameless = nameless.or(Some(trouble));
                None
            }
        };
        let Some(fit) = wish.matches(&kind, name.as_deref()) else { continue };
        let place = Place::new(Backend::Mdev, parent.clone(), kind);
        let api = host.read_if_there(&format!("{}/{API}", type_path(parent, &place.kind)))?;
        offers.push(Offer {
            fit,
            api: api.unwrap_or_default(),
            free: Some(free(host, &place)?),
            max: None,
            card: super::card(host, &place),
            numa: super::numa(host, &parent_path(parent)),
            holders: Vec::new(),
            id_argument: None,
            name,
            place,
        });
    }
    match nameless {
        // It may be the one. Otherwise it is no reason against the others.
        Some(trouble) if offers.is_empty() => Err(trouble),
        _ => Ok(offers),
    }
}

/// `available_instances` of a type. Types of one parent share a pool, so this changes with every create.
pub fn free(host: &Host, place: &Place) -> Result<u32, Trouble> {
    let path = format!("{}/{FREE}", type_path(&place.parent, &place.kind));
    let text = host.read(&path)?;
    text.trim().parse().map_err(|_| Trouble {
        doing: format!("understand /{path}"),
        error: std::io::Error::other(format!("\"{}\" is not a number", crate::words::printable(&text))),
    })
}

/// How many of a type fit on an empty card, if its description says so.
pub fn max(host: &Host, place: &Place) -> Option<u32> {
    let path = format!("{}/{DESCRIPTION}", type_path(&place.parent, &place.kind));
    host.read(&path).ok().and_then(|text| max_instances(&text))
}

/// `max_instance=16` among the pairs of a description.
pub fn max_instances(description: &str) -> Option<u32> {
    properties(description)
        .into_iter()
        .find(|(key, _)| key == MAX_KEY)
        .and_then(|(_, value)| value.parse().ok())
}

/// The pairs of a description, `key=value` as NVIDIA writes them or lines of `key: value` as i915 does; none if it is
/// prose.
pub fn properties(description: &str) -> Vec<(String, String)> {
    // Prose has colons, too: i915's keys are words of the kernel's.
    let is_key = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    description
        .split([',', '\n'])
        .filter_map(|pair| {
            pair.split_once('=').or_else(|| pair.split_once(": ").filter(|(key, _)| is_key(key.trim())))
        })
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .filter(|(key, _)| !key.is_empty() && !key.contains(' '))
        .collect()
}

/// All mediated devices of the host.
pub fn devices(host: &Host) -> Result<Vec<MdevUuid>, Trouble> {
    let names = host.names(DEVICES)?;
    Ok(names.iter().filter_map(|name| MdevUuid::parse(name).ok()).collect())
}

/// The devices of one parent, of all its types.
pub fn devices_of(host: &Host, parent: &Parent) -> Result<Vec<MdevUuid>, Trouble> {
    let mut devices = Vec::new();
    for kind in type_ids(host, parent)? {
        let names = host.names(&format!("{}/devices", type_path(parent, &kind)))?;
        devices.extend(names.iter().filter_map(|name| MdevUuid::parse(name).ok()));
    }
    Ok(devices)
}

/// Whether the device's directory is there, on the bus or only in its parent's directory any more: a removal takes
/// the `remove` file and the bus's link at once (`bus_remove_device`), and the directory when nobody has it open.
pub fn is_there(host: &Host, device: &MdevUuid, parent: &Parent) -> bool {
    !host.is_gone(&format!("{DEVICES}/{device}")) || !host.is_gone(&format!("{PARENTS}/{parent}/{device}"))
}

/// A device of this parent, if it has a type: a link in its directory names it.
pub fn existing(host: &Host, device: &MdevUuid, parent: Parent) -> Result<Option<Existing>, Trouble> {
    let path = format!("{PARENTS}/{parent}/{device}");
    let Some(kind) = host.link_name(&format!("{path}/{TYPE_LINK}"))? else { return Ok(None) };
    let odd = |_| Trouble::new("read the type of", &host.path(&path), std::io::Error::other("not a name"));
    let kind = TypeId::parse(&kind).map_err(odd)?;
    let place = Place::new(Backend::Mdev, parent, kind);
    Ok(Some(Existing { place, typed: true, name: None, api: String::new() }))
}

/// The same with what its type says of itself.
pub fn named(host: &Host, device: &MdevUuid, found: Existing) -> Existing {
    let file = |name: &str| host.read(&format!("{DEVICES}/{device}/{TYPE_LINK}/{name}")).ok();
    let name = file(NAME).filter(|name| !name.is_empty());
    Existing { name, api: file(API).unwrap_or_default(), ..found }
}

/// Makes a device. The kernel takes 36 bytes, or 37 with a newline (`create_store` in `mdev_sysfs.c`).
pub fn create(host: &Host, device: &MdevUuid, place: &Place) -> Result<(), Trouble> {
    host.write(&format!("{}/{CREATE}", type_path(&place.parent, &place.kind)), device.to_string().as_bytes())
}

/// Takes a device away. Blocks for as long as somebody has it open: only for [`crate::host::child`].
pub fn write_remove(host: &Host, device: &MdevUuid) -> Result<(), Trouble> {
    host.write(&format!("{DEVICES}/{device}/{REMOVE}"), b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_pairs_or_prose() {
        let pairs =
            "num_heads=4, frl_config=45, framebuffer=1024M, max_resolution=5120x2880, max_instance=16";
        assert_eq!(max_instances(pairs), Some(16));
        assert_eq!(properties(pairs)[2], ("framebuffer".to_owned(), "1024M".to_owned()));
        let lines = properties("low_gm_size: 128MB\nhigh_gm_size: 512MB\n");
        assert_eq!(lines[1], ("high_gm_size".to_owned(), "512MB".to_owned()));
        assert_eq!(properties("Virtual display: 2 heads, of the kernel: a sample"), []);
        assert_eq!(max_instances("virtual display, max instance = many"), None);
    }
}
