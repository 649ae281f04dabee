//! The kernel interfaces that make mediated devices: one file each, behind one closed enum. Which one a parent speaks
//! is found out for each parent, so that one host, and one domain, may have all three.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::host::{Host, Trouble, Written};
use crate::ids::{AttributeName, DeviceId, MdevUuid, Parent, PciAddress, TypeWish};
use crate::refusal::Absent;
use crate::seen::{Existing, Offer};
use crate::step::Place;
use crate::words::printable;

pub mod listing;
pub mod mdev;
pub mod nvidia;
pub mod proposal;

/// A kernel interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Upstream mdev, Linux 4.10 and later (`Documentation/ABI/testing/sysfs-bus-vfio-mdev`).
    Mdev,
    /// The interface that was proposed to libvirt in August 2016.
    Proposal,
    /// NVIDIA's vendor VFIO (vGPU 17 and later): no mediated device, but a virtual function with a type.
    Nvidia,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mdev => "mdev",
            Self::Proposal => "proposal",
            Self::Nvidia => "nvidia",
        })
    }
}

/// The interface that a parent speaks, if it is there and speaks one.
pub fn detect(host: &Host, parent: &Parent) -> Result<Option<Backend>, Trouble> {
    Ok(if mdev::is_parent(host, parent)? {
        Some(Backend::Mdev)
    } else if proposal::is_parent(host, parent)? {
        Some(Backend::Proposal)
    } else if nvidia::is_parent(host, parent)? {
        Some(Backend::Nvidia)
    } else {
        None
    })
}

/// What a parent lacks that [`detect`] does not find.
pub fn absent(host: &Host, parent: &Parent) -> Result<Absent, Trouble> {
    let (bus, directory) = match PciAddress::parse(&parent.to_string()) {
        Ok(_) => ("PCI", proposal::pci_path(parent)),
        // `<cssid>.<ssid>.<number>`, of a channel subsystem.
        Err(_) if parent.to_string().split('.').count() == 3 => {
            ("css", format!("sys/bus/css/devices/{parent}"))
        }
        Err(_) => return Ok(Absent::Unknown),
    };
    if host.kind(&directory)?.is_none() {
        // Channel devices have numbers of the same form.
        let on = host.link_parent(&format!("sys/bus/ccw/devices/{parent}"))?.filter(|_| bus == "css");
        return Ok(on.map_or(Absent::Device { bus }, |subchannel| Absent::OnSubchannel { subchannel }));
    }
    let Some(driver) = host.link_name(&format!("{directory}/driver"))? else {
        return Ok(Absent::Driver { bus });
    };
    // Of a card with virtual functions these are the parents.
    for function in functions(host, &directory)? {
        if let Some(backend) = detect(host, &function)? {
            return Ok(Absent::Functions { such_as: function, by_uuid: backend != Backend::Nvidia });
        }
    }
    Ok(if nvidia::lacks_functions(host, parent) { Absent::NoFunctions } else { Absent::Offer { driver } })
}

/// The virtual functions of a card, by the links in its directory.
fn functions(host: &Host, directory: &str) -> Result<Vec<Parent>, Trouble> {
    let names = host.names(directory)?;
    let names = names.iter().filter(|name| name.starts_with("virtfn"));
    let functions = names.map(|name| host.link_name(&format!("{directory}/{name}")));
    let parents = functions.filter_map(|name| name.map(|name| Parent::parse(&name?).ok()).transpose());
    parents.collect()
}

/// Every parent that makes devices by UUID: what a request that names none chooses from.
pub fn parents(host: &Host) -> Result<Vec<(Backend, Parent)>, Trouble> {
    let mdev = mdev::parents(host)?.into_iter().map(|parent| (Backend::Mdev, parent));
    let proposal = proposal::parents(host)?.into_iter().map(|parent| (Backend::Proposal, parent));
    Ok(mdev.chain(proposal).collect())
}

/// The physical card of a parent: the physical function of a virtual one, else the parent itself. What shares memory
/// and engines, and is locked while a place on it is taken.
pub fn card(host: &Host, place: &Place) -> String {
    host.link_name(&format!("{}/physfn", parent_path(place)))
        .ok()
        .flatten()
        .unwrap_or_else(|| place.parent.to_string())
}

/// The directory of a place's parent, below the host's root.
fn parent_path(place: &Place) -> String {
    match place.backend {
        Backend::Mdev => mdev::parent_path(&place.parent),
        Backend::Proposal | Backend::Nvidia => proposal::pci_path(&place.parent),
    }
}

/// The directory in which a place's devices are made, below the host's root.
pub fn place_path(place: &Place) -> String {
    match place.backend {
        Backend::Mdev => mdev::type_path(&place.parent, &place.kind),
        Backend::Proposal | Backend::Nvidia => parent_path(place),
    }
}

/// NUMA node of a device's directory; the kernel writes -1 for none.
fn numa(host: &Host, directory: &str) -> Option<u32> {
    host.read(&format!("{directory}/numa_node")).ok()?.trim().parse().ok()
}

impl Backend {
    /// The types of a parent that fit a wish. `named`: the domain names this parent.
    pub fn offers(
        self,
        host: &Host,
        parent: &Parent,
        wish: &TypeWish,
        named: bool,
    ) -> Result<Vec<Offer>, Trouble> {
        match self {
            Self::Mdev => mdev::offers(host, parent, wish),
            Self::Proposal => proposal::offers(host, parent, wish, named),
            Self::Nvidia => nvidia::offers(host, parent, wish),
        }
    }

    /// The types that a parent offers, as `id "name"`, for the words of a refusal.
    pub fn known(self, host: &Host, parent: &Parent) -> Result<Vec<String>, Trouble> {
        let types: Vec<(String, Option<String>)> = match self {
            Self::Mdev => mdev::type_ids(host, parent)?
                .into_iter()
                .map(|kind| (kind.to_string(), mdev::type_name(host, parent, &kind).ok().flatten()))
                .collect(),
            Self::Proposal => {
                proposal::rows(host, parent)?.into_iter().map(|row| (row.id.to_string(), row.name)).collect()
            }
            Self::Nvidia => nvidia::creatable(host, parent)?
                .into_iter()
                .map(|row| (row.id.to_string(), row.name))
                .collect(),
        };
        Ok(types
            .into_iter()
            .map(|(id, name)| {
                name.map_or_else(|| id.clone(), |name| format!("{id} \"{}\"", printable(&name)))
            })
            .collect())
    }
}

/// The directory of a device, below the host's root.
pub fn directory(device: &DeviceId) -> String {
    match device {
        DeviceId::Mdev(uuid) => mdev::device_path(uuid),
        DeviceId::Vf(address) => proposal::pci_path(&address.as_parent()),
    }
}

/// The device, if there is one: for a virtual function, the vGPU that it carries.
pub fn existing(host: &Host, device: &DeviceId) -> Result<Option<Existing>, Trouble> {
    match device {
        DeviceId::Mdev(uuid) => Ok(located(host, device)?.map(|found| match found.typed {
            true => mdev::named(host, uuid, found),
            false => found,
        })),
        DeviceId::Vf(_) => located(host, device),
    }
}

/// The same for whoever only wants to know where it is: of an mdev, what its type is called is not read.
pub fn located(host: &Host, device: &DeviceId) -> Result<Option<Existing>, Trouble> {
    match device {
        // With either interface a link on the bus leads into the parent's directory.
        DeviceId::Mdev(uuid) => match parent_of(host, uuid)? {
            None => Ok(None),
            Some(parent) => located_on(host, uuid, parent),
        },
        DeviceId::Vf(address) => nvidia::existing(host, address),
    }
}

/// The same for a device of this parent.
pub fn located_on(host: &Host, device: &MdevUuid, parent: Parent) -> Result<Option<Existing>, Trouble> {
    match mdev::existing(host, device, parent.clone())? {
        None => proposal::existing(host, device, parent),
        found => Ok(found),
    }
}

/// In whose directory a device lies, by the link on the bus.
pub fn parent_of(host: &Host, device: &MdevUuid) -> Result<Option<Parent>, Trouble> {
    let path = mdev::device_path(device);
    let odd = |_| Trouble::new("read the parent of", &host.path(&path), std::io::Error::other("not a name"));
    host.link_parent(&path)?.map(|parent| Parent::parse(&parent).map_err(odd)).transpose()
}

/// Whether something of the device is still there, its removal pending included.
pub fn is_there(host: &Host, device: &DeviceId, place: &Place) -> bool {
    match device {
        DeviceId::Mdev(uuid) if place.backend == Backend::Proposal => {
            proposal::is_there(host, uuid, &place.parent)
        }
        DeviceId::Mdev(uuid) => mdev::is_there(host, uuid, &place.parent),
        // What cannot be read cannot be called gone.
        DeviceId::Vf(address) => nvidia::existing(host, address)
            .map_or(true, |found| found.is_some_and(|found| found.is_at(place))),
    }
}

/// How many more of a type fit now; `None` where the interface does not say.
pub fn free(host: &Host, place: &Place) -> Result<Option<u32>, Trouble> {
    match place.backend {
        Backend::Mdev => mdev::free(host, place).map(Some),
        Backend::Proposal => Ok(None),
        Backend::Nvidia => nvidia::free(host, place).map(Some),
    }
}

/// Makes a device.
pub fn create(host: &Host, device: &DeviceId, place: &Place) -> Result<(), Trouble> {
    match (place.backend, device) {
        (Backend::Mdev, DeviceId::Mdev(uuid)) => mdev::create(host, uuid, place),
        (Backend::Proposal, DeviceId::Mdev(uuid)) => proposal::create(host, uuid, place),
        (Backend::Nvidia, DeviceId::Vf(address)) => nvidia::create(host, address, &place.kind),
        _ => Err(mixed(place)),
    }
}

/// Takes a device away. May block for as long as somebody has it open: only for [`crate::host::child`].
pub fn destroy(host: &Host, device: &DeviceId, place: &Place) -> Result<(), Trouble> {
    match (place.backend, device) {
        (Backend::Mdev, DeviceId::Mdev(uuid)) => mdev::write_remove(host, uuid),
        (Backend::Proposal, DeviceId::Mdev(uuid)) => proposal::destroy(host, uuid, place),
        (Backend::Nvidia, DeviceId::Vf(address)) => nvidia::clear(host, address),
        _ => Err(mixed(place)),
    }
}

/// A record that joins a UUID to a virtual function, or the other way round, was not written by us.
fn mixed(place: &Place) -> Trouble {
    Trouble {
        doing: format!("use the interface {} for this device", place.backend),
        error: std::io::Error::from(rustix::io::Errno::INVAL),
    }
}

/// Whether the driver takes a device away by itself once its user has ended: NVIDIA's of the mdev era does, from
/// version 14.4 on, and a removal that races it leaves the device stuck until the next boot.
pub fn cleans_up_by_itself(host: &Host, device: &DeviceId, place: &Place) -> bool {
    let driver = |path: String| host.link_name(&format!("{path}/driver")).ok().flatten();
    place.backend == Backend::Mdev
        && (driver(directory(device)).as_deref() == Some("nvidia-vgpu-vfio")
            || driver(mdev::parent_path(&place.parent)).as_deref() == Some("nvidia"))
}

/// Only devices of the 2016 interface go online and offline; they have UUIDs.
pub fn set_online(host: &Host, device: &DeviceId, online: bool) -> Result<(), Trouble> {
    match device {
        DeviceId::Mdev(uuid) => proposal::set_online(host, uuid, online),
        DeviceId::Vf(_) => Ok(()),
    }
}

/// NVIDIA's driver takes the last byte for the newline that `echo` writes, and drops it. A blank clears it.
const EATS_LAST_BYTE: &str = "nvidia/vgpu_params";

/// Writes a driver attribute.
pub fn write_attribute(
    host: &Host,
    device: &DeviceId,
    name: &AttributeName,
    value: &str,
) -> Result<Written, Trouble> {
    let mut data = value.as_bytes().to_vec();
    if name.to_string() == EATS_LAST_BYTE {
        data.extend_from_slice(if value.is_empty() { b" \n" } else { b"\n" });
    } else if value.is_empty() {
        // A write of nothing does not reach the driver (`sysfs_kf_write`); this is what `echo` writes.
        data.push(b'\n');
    }
    host.write_attribute(&directory(device), name, &data)
}

/// A driver attribute's value, where it can be read.
pub fn read_attribute(host: &Host, device: &DeviceId, name: &AttributeName) -> Option<String> {
    host.read(&format!("{}/{name}", directory(device))).ok()
}

/// Devices of a parent, or of its card, for the words of a refusal.
pub fn devices_of(host: &Host, place: &Place) -> Result<Vec<DeviceId>, Trouble> {
    match place.backend {
        // A virtual function has one device at most: what takes its room is on the others of its card.
        Backend::Mdev => {
            let functions = functions(host, &format!("{}/physfn", parent_path(place)))?;
            let parents = if functions.is_empty() { vec![place.parent.clone()] } else { functions };
            let mut devices = Vec::new();
            for parent in &parents {
                devices.extend(mdev::devices_of(host, parent)?.into_iter().map(DeviceId::Mdev));
            }
            Ok(devices)
        }
        // Which devices are a parent's cannot be read back there.
        Backend::Proposal => Ok(Vec::new()),
        Backend::Nvidia => nvidia::siblings_in_use(host, &place.parent),
    }
}
