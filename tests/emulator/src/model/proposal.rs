//! The interface that was proposed to libvirt in 2016: `mdev_supported_types` as a file, `mdev_create`,
//! `mdev_destroy`, `online`.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::nodes::Owner;
use super::{Attribute, BUS, World};
use crate::host;

/// Argument by which NVIDIA's driver pairs the devices of one VM.
const VM: &str = "vm_uuid";

/// A physical device.
#[derive(Debug, Clone)]
pub(super) struct Card {
    path: String,
    spec: host::Proposal,
    table: Option<Vec<u8>>,
}

/// A device.
#[derive(Debug, Clone)]
pub(super) struct Device {
    address: String,
    path: String,
    group: u32,
    arguments: BTreeMap<String, String>,
    online: bool,
}

/// `UUID`, `UUID:` or `UUID:name=value,…`, perhaps with one newline.
fn parse(data: &[u8]) -> Result<(String, BTreeMap<String, String>), Errno> {
    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let (uuid, list) = text.split_once(':').unwrap_or((text, ""));
    let uuid = super::mdev::parse_uuid(uuid.as_bytes()).filter(|_| uuid.len() == 36).ok_or(Errno::EINVAL)?;
    let pairs = list.split(',').filter(|pair| !pair.is_empty());
    let arguments = pairs
        .map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect::<Option<BTreeMap<_, _>>>()
        .ok_or(Errno::EINVAL)?;
    Ok((uuid, arguments))
}

impl World {
    /// Adds a physical device.
    pub(super) fn add_card(&mut self, spec: &host::Proposal, table: Option<Vec<u8>>) {
        let address = spec.address.clone();
        let path = self.add_pci(&address, &spec.pci);
        let table = table.or_else(|| spec.table.clone().map(String::into_bytes));
        let of = || address.clone();
        if table.is_some() {
            let file = format!("{path}/mdev_supported_types");
            self.attribute(&file, Attribute::Table { address: of() }, 0o444);
        }
        let file = format!("{path}/mdev_create");
        self.attribute(&file, Attribute::ProposalCreate { address: of() }, 0o200);
        let file = format!("{path}/mdev_destroy");
        self.attribute(&file, Attribute::ProposalDestroy { address: of() }, 0o200);
        self.proposals.insert(address, Card { path, spec: spec.clone(), table });
    }

    /// `mdev_supported_types`.
    pub(super) fn table(&self, address: &str) -> Result<Vec<u8>, Errno> {
        self.proposals.get(address).and_then(|card| card.table.clone()).ok_or(Errno::ENODEV)
    }

    /// The table changes with the configuration of the host.
    pub(super) fn set_table(&mut self, address: &str, table: Option<Vec<u8>>) -> bool {
        let Some(card) = self.proposals.get_mut(address) else { return false };
        card.table = table.clone();
        let file = format!("{}/mdev_supported_types", card.path);
        match (table, self.tree.find(&file)) {
            (Some(_), None) => {
                self.attribute(&file, Attribute::Table { address: address.to_owned() }, 0o444);
            }
            (None, Some(_)) => self.tree.remove(&file),
            _ => {}
        }
        true
    }

    fn units(&self, card: &Card, arguments: &BTreeMap<String, String>) -> Result<u32, Errno> {
        let Some(name) = &card.spec.type_argument else { return Ok(1) };
        let Some(kind) = arguments.get(name) else { return Err(Errno::EINVAL) };
        match card.spec.cost.get(kind) {
            Some(cost) => Ok(*cost),
            None if card.spec.cost.is_empty() => Ok(1),
            None => Err(Errno::EINVAL),
        }
    }

    /// `mdev_create`.
    pub(super) fn propose(&mut self, address: &str, data: &[u8]) -> Result<(), Errno> {
        let (uuid, arguments) = parse(data)?;
        let card = self.proposals.get(address).cloned().ok_or(Errno::ENODEV)?;
        if self.devices.contains_key(&uuid) || self.proposed.contains_key(&uuid) {
            return Err(Errno::EEXIST);
        }
        if card.spec.needs.iter().any(|name| arguments.get(name).is_none_or(String::is_empty)) {
            return Err(Errno::EINVAL);
        }
        let same_vm = |device: &&Device| device.arguments.get(VM) == arguments.get(VM);
        let started = self.proposed.values().filter(same_vm).any(|device| device.online);
        if card.spec.create_before_online && started {
            return Err(Errno::EBUSY);
        }
        let wanted = self.units(&card, &arguments)?;
        let here = self.proposed.values().filter(|device| device.address == address);
        let used: u32 = here.filter_map(|device| self.units(&card, &device.arguments).ok()).sum();
        if wanted > card.spec.units.saturating_sub(used) {
            return Err(Errno::ENOSPC);
        }

        let path = format!("{}/{uuid}", card.path);
        self.device_files(&path, "bus/mdev", "");
        self.tree.add_link(&format!("{BUS}/{uuid}"), &path);
        self.attribute(&format!("{path}/online"), Attribute::Online { uuid: uuid.clone() }, 0o644);
        self.uevent("add", &path, "mdev", &[]);
        let group = self.add_group(&path, &uuid, Owner::Proposed(uuid.clone()));
        let device = Device { address: address.to_owned(), path, group, arguments, online: false };
        self.proposed.insert(uuid, device);
        Ok(())
    }

    /// `mdev_destroy` gets what `mdev_create` got.
    pub(super) fn withdraw(&mut self, address: &str, data: &[u8]) -> Result<(), Errno> {
        let (uuid, arguments) = parse(data)?;
        let card = self.proposals.get(address).ok_or(Errno::ENODEV)?;
        let device = self.proposed.get(&uuid).filter(|device| device.address == address);
        let device = device.cloned().ok_or(Errno::ENODEV)?;
        if arguments != device.arguments {
            return Err(Errno::EINVAL);
        }
        if device.online {
            return Err(card.spec.destroy_online);
        }
        if self.is_used(device.group) {
            return Err(Errno::EBUSY);
        }
        self.remove_vfio_device(device.group);
        self.remove_group(device.group);
        self.tree.remove(&format!("{BUS}/{uuid}"));
        self.tree.remove(&device.path);
        self.uevent("remove", &device.path, "mdev", &[]);
        self.proposed.remove(&uuid);
        Ok(())
    }

    /// Whether a device is online.
    pub(super) fn is_online(&self, uuid: &str) -> bool {
        self.proposed.get(uuid).is_some_and(|device| device.online)
    }

    /// `online`: `1` starts, `0` stops this one device. A driver gets its store called for either, and this one
    /// does not mind being told what it is.
    pub(super) fn bring(&mut self, uuid: &str, data: &[u8]) -> Result<(), Errno> {
        let online = match super::kstrtoul(data) {
            Some(0) => false,
            Some(1) => true,
            _ => return Err(Errno::EINVAL),
        };
        let used = self.proposed.get(uuid).is_some_and(|device| self.is_used(device.group));
        let device = self.proposed.get_mut(uuid).ok_or(Errno::ENODEV)?;
        if !online && used {
            return Err(Errno::EBUSY);
        }
        device.online = online;
        Ok(())
    }
}
