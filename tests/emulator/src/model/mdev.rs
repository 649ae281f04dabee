//! Upstream mdev: `drivers/vfio/mdev/mdev_core.c`, `mdev_sysfs.c`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use nix::errno::Errno;

use super::attributes::Written;
use super::nodes::Owner;
use super::{Attribute, BUS, CLASS, Timer, World, kstrtoul};
use crate::call::{Done, Ticket};
use crate::host;

/// Length of a uuid in text.
const UUID: usize = 36;

/// What the types of one card share.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    units: u32,
    homogeneous: bool,
}

/// A parent.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    /// Its directory.
    pub(super) path: String,
    /// Its subsystem, as a path below `/sys`.
    subsystem: String,
    pool: String,
    spec: Arc<host::Parent>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its driver has not registered.
    Absent,
    Registered,
    /// Unregistering: its devices go, and nobody makes or removes one meanwhile.
    Leaving,
}

/// A device.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) parent: String,
    pub(super) kind: String,
    /// What it takes its places from.
    pool: String,
    pub(super) path: String,
    group: u32,
    /// Whose removal waits for its user to end; `None` if it is not being removed.
    removal: Option<Vec<Ticket>>,
    /// What its driver keeps.
    pub(super) state: BTreeMap<&'static str, String>,
    /// Adapters, domains and control domains of vfio_ap.
    pub(super) matrix: super::ap::Matrix,
}

impl World {
    /// Adds a parent, or the virtual functions that are parents.
    pub(super) fn add_parent(&mut self, spec: &host::Parent) {
        self.pools.insert(spec.name.clone(), Pool { units: spec.units, homogeneous: spec.homogeneous });
        if spec.vfs > 0 {
            for (vf, path) in self.add_physical_function(&spec.name, &spec.pci, spec.vfs) {
                self.add_one(spec, vf, path, "bus/pci".to_owned());
            }
            return;
        }
        let (path, subsystem) = if super::pci::is_address(&spec.name) {
            (self.add_pci(&spec.name, &spec.pci), "bus/pci".to_owned())
        } else {
            let (path, subsystem) = super::drivers::place(&spec.name);
            self.tree.dir(&format!("/sys/{subsystem}"));
            self.device_files(&path, &subsystem, "");
            let entry = match subsystem.strip_prefix("bus/") {
                Some(bus) => format!("/sys/bus/{bus}/devices/{}", spec.name),
                None => format!("/sys/{subsystem}/{}", spec.name),
            };
            self.tree.add_link(&entry, &path);
            (path, subsystem)
        };
        self.add_one(spec, spec.name.clone(), path, subsystem);
    }

    fn add_one(&mut self, spec: &host::Parent, name: String, path: String, subsystem: String) {
        let pool = spec.name.clone();
        let parent = Parent { path, subsystem, pool, spec: Arc::new(spec.clone()), state: State::Absent };
        self.parents.insert(name.clone(), parent);
        match spec.late {
            Some(delay) => self.after(delay, Timer::Register(name)),
            None => self.register(&name),
        }
    }

    /// The parent's driver registers (`mdev_register_parent`).
    pub(super) fn register(&mut self, name: &str) {
        let Some(parent) = self.parents.get_mut(name).filter(|parent| parent.state == State::Absent) else {
            return;
        };
        parent.state = State::Registered;
        let Parent { path, subsystem, spec, .. } = parent.clone();
        self.tree.dir(&format!("{path}/mdev_supported_types"));
        for kind in &spec.types {
            self.add_type(name, &path, kind);
        }
        self.tree.add_link(&format!("{CLASS}/{name}"), &path);
        self.driver("mdev", super::drivers::of_devices(&spec));
        let subsystem = subsystem.rsplit('/').next().unwrap_or_default().to_owned();
        self.uevent("change", &path, &subsystem, &[("MDEV_STATE", "registered")]);
    }

    pub(super) fn add_type(&mut self, parent: &str, path: &str, kind: &host::Type) {
        let dir = format!("{path}/mdev_supported_types/{}", kind.id);
        let of = || (parent.to_owned(), kind.id.clone());
        self.tree.dir(&format!("{dir}/devices"));
        let (parent, id) = of();
        self.attribute(&format!("{dir}/create"), Attribute::Create { parent, kind: id }, 0o200);
        let (parent, id) = of();
        self.attribute(&format!("{dir}/available_instances"), Attribute::Free { parent, kind: id }, 0o444);
        self.text(&format!("{dir}/device_api"), &format!("{}\n", kind.api));
        if let Some(name) = &kind.name {
            self.text(&format!("{dir}/name"), &format!("{name}\n"));
        }
        if let Some(description) = &kind.description {
            self.text(&format!("{dir}/description"), &format!("{}\n", description.trim_end()));
        }
    }

    /// The parent's driver goes, and all its devices with it (`mdev_unregister_parent`). One that is used keeps it
    /// waiting.
    pub(super) fn unregister(&mut self, name: &str) -> bool {
        let Some(parent) = self.parents.get_mut(name).filter(|parent| parent.state == State::Registered)
        else {
            return false;
        };
        parent.state = State::Leaving;
        self.tree.remove(&format!("{CLASS}/{name}"));
        let devices: Vec<String> = self
            .devices
            .iter()
            .filter(|(_, device)| device.parent == name && device.removal.is_none())
            .map(|(uuid, _)| uuid.clone())
            .collect();
        for uuid in devices {
            self.begin_removal(&uuid, None);
        }
        self.finish_leaving(name);
        true
    }

    fn finish_leaving(&mut self, name: &str) {
        if self.devices.values().any(|device| device.parent == name) {
            return;
        }
        let Some(parent) = self.parents.get_mut(name).filter(|parent| parent.state == State::Leaving) else {
            return;
        };
        parent.state = State::Absent;
        let (path, subsystem) = (parent.path.clone(), parent.subsystem.clone());
        self.tree.remove(&format!("{path}/mdev_supported_types"));
        let subsystem = subsystem.rsplit('/').next().unwrap_or_default().to_owned();
        self.uevent("change", &path, &subsystem, &[("MDEV_STATE", "unregistered")]);
    }

    /// How many more of a type fit, by what the whole card has.
    pub(super) fn available(&self, parent: &str, kind: &str) -> u32 {
        let Some(parent_of) = self.parents.get(parent) else { return 0 };
        let Some(pool) = self.pools.get(&parent_of.pool) else { return 0 };
        let find = |id: &str| parent_of.spec.types.iter().find(|kind| kind.id == id);
        let Some(wanted) = find(kind) else { return 0 };
        let none = BTreeMap::new();
        let on_card = self.taken.get(&parent_of.pool).unwrap_or(&none);
        if pool.homogeneous && on_card.keys().any(|(_, other)| other != kind) {
            return 0;
        }
        let used: u32 = on_card
            .iter()
            .filter_map(|((_, kind), devices)| Some(find(kind)?.cost.saturating_mul(*devices)))
            .sum();
        let mut free = pool.units.saturating_sub(used).checked_div(wanted.cost).unwrap_or(u32::MAX);
        let count = |counts: &dyn Fn(&str, &str) -> bool| -> u32 {
            on_card
                .iter()
                .filter(|((parent, kind), _)| counts(parent, kind))
                .map(|(_, devices)| *devices)
                .sum()
        };
        if let Some(max) = wanted.max {
            free = free.min(max.saturating_sub(count(&|_, other| other == kind)));
        }
        if let Some(each) = parent_of.spec.each {
            free = free.min(each.saturating_sub(count(&|other, _| other == parent)));
        }
        free
    }

    /// `create_store`: 36 bytes, or 37 with anything at the end, as `guid_parse` does not look at that one.
    pub(super) fn create(&mut self, parent: &str, kind: &str, data: &[u8]) -> Result<(), Errno> {
        if data.len() != UUID && data.len() != UUID + 1 {
            return Err(Errno::EINVAL);
        }
        let uuid = parse_uuid(data).ok_or(Errno::EINVAL)?;
        if self.devices.contains_key(&uuid) || self.proposed.contains_key(&uuid) {
            return Err(Errno::EEXIST);
        }
        let Parent { path: parent_path, spec, state, pool, .. } =
            self.parents.get(parent).cloned().ok_or(Errno::ENODEV)?;
        if state != State::Registered {
            return Err(Errno::ENODEV);
        }
        if self.available(parent, kind) == 0 {
            return Err(spec.full);
        }

        let path = format!("{parent_path}/{uuid}");
        let driver = super::drivers::of_devices(&spec);
        self.device_files(&path, "bus/mdev", &format!("DRIVER={driver}\n"));
        self.tree.add_link(&format!("{BUS}/{uuid}"), &path);
        self.uevent("add", &path, "mdev", &[]);
        self.bind(&path, &uuid, "mdev", driver);
        let group = self.add_group(&path, &uuid, Owner::Mdev(uuid.clone()));
        self.uevent("bind", &path, "mdev", &[("DRIVER", driver)]);
        let types = format!("{parent_path}/mdev_supported_types/{kind}");
        self.tree.add_link(&format!("{path}/mdev_type"), &types);
        self.tree.add_link(&format!("{types}/devices/{uuid}"), &path);
        self.attribute(&format!("{path}/remove"), Attribute::Remove { uuid: uuid.clone() }, 0o200);
        let device = Device {
            parent: parent.to_owned(),
            kind: kind.to_owned(),
            pool: pool.clone(),
            path: path.clone(),
            group,
            removal: None,
            state: BTreeMap::new(),
            matrix: super::ap::Matrix::default(),
        };
        self.devices.insert(uuid.clone(), device);
        let of_kind = (parent.to_owned(), kind.to_owned());
        *self.taken.entry(pool).or_default().entry(of_kind).or_default() += 1;
        self.add_driver_attributes(&uuid, &path, spec.attributes);
        Ok(())
    }

    /// `remove_store`.
    pub(super) fn remove(&mut self, uuid: &str, data: &[u8]) -> Result<Written, Errno> {
        if kstrtoul(data).ok_or(Errno::EINVAL)? == 0 {
            return Ok(Written::Whole);
        }
        let device = self.devices.get(uuid).ok_or(Errno::ENODEV)?;
        if self.parents.get(&device.parent).is_none_or(|parent| parent.state != State::Registered) {
            return Err(Errno::ENODEV);
        }
        let ticket = self.number();
        if self.begin_removal(uuid, Some(ticket)) {
            return Ok(Written::Whole);
        }
        Ok(Written::Later(ticket))
    }

    /// The driver takes a device away by itself.
    pub(super) fn remove_itself(&mut self, uuid: &str) {
        if self.devices.get(uuid).is_some_and(|device| device.removal.is_none()) {
            self.begin_removal(uuid, None);
        }
    }

    /// `mdev_device_remove_common`: what goes before the driver waits for the user. Says whether all is gone.
    fn begin_removal(&mut self, uuid: &str, ticket: Option<Ticket>) -> bool {
        let Some(device) = self.devices.get_mut(uuid) else { return true };
        device.removal = Some(ticket.into_iter().collect());
        let Device { path, parent, kind, group, .. } = device.clone();
        if let Some(parent) = self.parents.get(&parent) {
            let driver = super::drivers::of_devices(&parent.spec);
            self.tree.remove(&format!("/sys/bus/mdev/drivers/{driver}/{uuid}"));
            let types = format!("{}/mdev_supported_types/{kind}", parent.path);
            self.tree.remove(&format!("{types}/devices/{uuid}"));
        }
        self.tree.remove(&format!("{BUS}/{uuid}"));
        self.remove_vfio_device(group);
        let below: Vec<String> = match self.tree.find(&path).and_then(|ino| self.tree.get(ino)) {
            Some(crate::tree::File { kind: crate::tree::Kind::Dir(names), .. }) => {
                names.keys().filter(|name| *name != "iommu_group").cloned().collect()
            }
            _ => Vec::new(),
        };
        for name in below {
            self.tree.remove(&format!("{path}/{name}"));
        }
        if self.is_used(group) {
            return false;
        }
        self.finish_removal(uuid);
        true
    }

    fn finish_removal(&mut self, uuid: &str) {
        let Some(Device { path, parent, kind, pool, group, removal, .. }) = self.devices.remove(uuid) else {
            return;
        };
        if let Entry::Occupied(mut devices) =
            self.taken.entry(pool).or_default().entry((parent.clone(), kind))
        {
            *devices.get_mut() -= 1;
            if *devices.get() == 0 {
                devices.remove();
            }
        }
        // What its driver was about to do is not for another device that gets the same uuid.
        self.timers.retain(|_, timer| !matches!(timer, Timer::RemoveItself(gone) if gone == uuid));
        self.remove_group(group);
        self.uevent("unbind", &path, "mdev", &[]);
        self.tree.remove(&path);
        self.uevent("remove", &path, "mdev", &[]);
        for ticket in removal.unwrap_or_default() {
            // Whoever waits has written something; the machine knows how much.
            self.out.push(super::Effect::Answer(ticket, Ok(Done::Nothing)));
        }
        self.finish_leaving(&parent);
    }

    /// The user of a device has ended.
    pub(super) fn let_go(&mut self, uuid: &str) {
        let Some(device) = self.devices.get(uuid) else { return };
        if device.removal.is_some() {
            self.finish_removal(uuid);
            return;
        }
        let delay = self.parents.get(&device.parent).and_then(|parent| parent.spec.removes_itself);
        if let Some(delay) = delay {
            self.after(delay, Timer::RemoveItself(uuid.to_owned()));
        }
    }

    /// Types come or go while the parent stays.
    pub(super) fn set_types(&mut self, name: &str, only: Option<&str>, there: bool) -> bool {
        let Some(parent) = self.parents.get(name).filter(|parent| parent.state == State::Registered) else {
            return false;
        };
        let path = parent.path.clone();
        let fits = |kind: &&host::Type| only.is_none_or(|only| kind.id == only);
        let kinds: Vec<host::Type> = parent.spec.types.iter().filter(fits).cloned().collect();
        for kind in &kinds {
            let dir = format!("{path}/mdev_supported_types/{}", kind.id);
            match (there, self.tree.find(&dir)) {
                (true, None) => self.add_type(name, &path, kind),
                (false, Some(_)) => self.tree.remove(&dir),
                _ => {}
            }
        }
        !kinds.is_empty()
    }

    /// The parent itself is unplugged, with what hangs on it.
    pub(super) fn unplug(&mut self, name: &str) -> bool {
        self.unregister(name);
        let gone = !self.devices.values().any(|device| device.parent == name);
        let Some(parent) = self.parents.get(name).filter(|_| gone).cloned() else { return false };
        self.parents.remove(name);
        self.remove_pci(name, &parent.path);
        true
    }
}

/// A uuid as the kernel reads it, in lower case as it shows it.
pub(super) fn parse_uuid(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data.get(..UUID)?).ok()?;
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.bytes().enumerate().all(fits).then(|| text.to_ascii_lowercase())
}
