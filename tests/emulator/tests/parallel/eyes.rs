//! What a host has, seen through its emulator's root: no process is started to look.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use virt_mdev_emulator::client::Emulated;

use crate::Wrong;

/// A mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Name of its parent.
    pub(crate) parent: String,
    /// Id of its type; empty where the interface of 2016 does not tell.
    pub(crate) kind: String,
    /// Number of its VFIO group.
    pub(crate) group: String,
}

/// Devices, claims, records: by uuid or address of the device, by uuid of the domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) devices: BTreeMap<String, Device>,
    /// Of each claim the uuid of its domain.
    pub(crate) claims: BTreeMap<String, String>,
    /// Text of each record.
    pub(crate) records: BTreeMap<String, String>,
    /// Domains that the index leads to.
    pub(crate) index: Vec<String>,
    /// What else lies there, by its path.
    pub(crate) stray: Vec<String>,
}

/// In which order to look while things change, so that what is seen must fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum While {
    /// A record is written before the claim, that before the device: look at the devices first.
    Making,
    /// They go the other way round.
    Undoing,
}

/// Looks at a host.
#[derive(Debug)]
pub(crate) struct Eyes {
    root: PathBuf,
    namespace: Option<PathBuf>,
}

const RECORDS: &str = "run/virt-mdev";

impl Eyes {
    pub(crate) fn of(host: &Emulated) -> Self {
        let own = PathBuf::from(format!("/proc/{}", host.pid()));
        Self { root: own.join("root"), namespace: fs::read_link(own.join("ns/mnt")).ok() }
    }

    /// Where a path of the host is found from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Names in a directory, in order; none if it is not there.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    pub(crate) fn text(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(path)).ok()?.trim_end().to_owned())
    }

    fn link(&self, path: &str) -> Option<String> {
        fs::read_link(self.path(path)).ok()?.into_os_string().into_string().ok()
    }

    /// Last part of what a link points at.
    pub(crate) fn link_name(&self, path: &str) -> Option<String> {
        Some(self.link(path)?.rsplit('/').next()?.to_owned())
    }

    /// Where each device is, without what costs more to find out.
    pub(crate) fn places(&self) -> BTreeMap<String, String> {
        let parent = |uuid: &String| {
            let link = self.link(&format!("sys/bus/mdev/devices/{uuid}"))?;
            Some(link.rsplit('/').nth(1)?.to_owned())
        };
        let uuids = self.names("sys/bus/mdev/devices").into_iter();
        uuids.filter_map(|uuid| Some((uuid.clone(), parent(&uuid)?))).collect()
    }

    /// Virtual functions of vendor VFIO, with their types.
    fn functions(&self) -> BTreeMap<String, Device> {
        let mut functions = BTreeMap::new();
        for address in self.names("sys/bus/pci/devices") {
            let dir = format!("sys/bus/pci/devices/{address}");
            let Some(kind) = self.text(&format!("{dir}/nvidia/current_vgpu_type")) else { continue };
            if kind == "0" {
                continue;
            }
            let parent = self.link_name(&format!("{dir}/physfn")).unwrap_or_default();
            let group = self.link_name(&format!("{dir}/iommu_group")).unwrap_or_default();
            functions.insert(address, Device { parent, kind, group });
        }
        functions
    }

    /// Devices of all interfaces. One that goes while it is looked at is not there.
    pub(crate) fn devices(&self) -> BTreeMap<String, Device> {
        let mut devices = self.functions();
        for (uuid, parent) in self.places() {
            let dir = format!("sys/bus/mdev/devices/{uuid}");
            let kind = self.link_name(&format!("{dir}/mdev_type")).unwrap_or_default();
            let group = self.link_name(&format!("{dir}/iommu_group")).unwrap_or_default();
            devices.insert(uuid, Device { parent, kind, group });
        }
        devices
    }

    pub(crate) fn claims(&self) -> BTreeMap<String, String> {
        let dir = format!("{RECORDS}/devices");
        let names = self.names(&dir).into_iter();
        names.filter_map(|name| Some((name.clone(), self.link(&format!("{dir}/{name}"))?))).collect()
    }

    /// Domains that have a record.
    pub(crate) fn recorded(&self) -> Vec<String> {
        let names = self.names(&format!("{RECORDS}/domains")).into_iter();
        names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect()
    }

    pub(crate) fn look(&self) -> Sight {
        let mut sight = Sight { devices: self.devices(), claims: self.claims(), ..Sight::default() };
        for name in self.names(&format!("{RECORDS}/domains")) {
            let path = format!("{RECORDS}/domains/{name}");
            match name.strip_suffix(".json") {
                Some(uuid) => {
                    sight.records.insert(uuid.to_owned(), self.text(&path).unwrap_or_default());
                }
                None => sight.stray.push(path),
            }
        }
        for name in self.names(&format!("{RECORDS}/by-name")) {
            let path = format!("{RECORDS}/by-name/{name}");
            match self.link(&path).filter(|_| !name.ends_with(".new")) {
                Some(uuid) => sight.index.push(uuid),
                None => sight.stray.push(path),
            }
        }
        sight
    }

    /// How many devices, claims and records there are, and what of them does not fit together now.
    /// `see` is what finds the devices and where they are.
    pub(crate) fn glance(
        &self,
        order: While,
        see: impl Fn(&Self) -> BTreeMap<String, String>,
    ) -> (BTreeMap<String, String>, Vec<Wrong>) {
        let (places, claims, recorded);
        match order {
            While::Making => {
                places = see(self);
                claims = self.claims();
                recorded = self.recorded();
            }
            While::Undoing => {
                recorded = self.recorded();
                claims = self.claims();
                places = see(self);
            }
        }
        let unclaimed = places.keys().filter(|uuid| !claims.contains_key(*uuid));
        let unrecorded = claims.iter().filter(|(_, domain)| !recorded.contains(domain));
        let wrong = unclaimed
            .map(|uuid| format!("device {uuid} is there without a claim"))
            .chain(unrecorded.map(|(id, domain)| format!("{id} is claimed by {domain}, which has no record")))
            .collect();
        (places, wrong)
    }

    /// All that a run may leave behind: devices, what each parent has left, nodes with owner and mode, and
    /// the records without the lock files, which stay.
    pub(crate) fn all(&self) -> Vec<String> {
        let mut all = Vec::new();
        for parent in self.names("sys/class/mdev_bus") {
            let types = format!("sys/class/mdev_bus/{parent}/mdev_supported_types");
            for kind in self.names(&types) {
                let free = self.text(&format!("{types}/{kind}/available_instances")).unwrap_or_default();
                all.push(format!("{kind} on {parent}: {free} left"));
            }
        }
        for address in self.names("sys/bus/pci/devices") {
            for file in ["current_vgpu_type", "creatable_vgpu_types", "vgpu_params"] {
                let text = self.text(&format!("sys/bus/pci/devices/{address}/nvidia/{file}"));
                all.extend(text.map(|text| format!("{file} of {address}: {text:?}")));
            }
        }
        for node in self.names("dev/vfio") {
            let metadata = fs::metadata(self.path(&format!("dev/vfio/{node}"))).ok();
            let owner = metadata.map(|node| (node.uid(), node.gid(), format!("{:o}", node.mode())));
            all.push(format!("/dev/vfio/{node} {owner:?}"));
        }
        let sight = self.look();
        all.extend(sight.devices.iter().map(|(id, device)| format!("device {id} {device:?}")));
        all.extend(sight.claims.iter().map(|(id, domain)| format!("claim of {domain} on {id}")));
        all.extend(sight.records.iter().map(|(domain, text)| format!("record of {domain}: {text}")));
        all.extend(sight.index.iter().map(|domain| format!("name of {domain} in the index")));
        all.extend(sight.stray);
        all
    }

    /// Operations that wait in the host's kernel.
    pub(crate) fn blocked(&self) -> String {
        self.text("sys/kernel/emulator/blocked").unwrap_or_default()
    }

    /// What was done to the host since the last `clear-log`.
    pub(crate) fn effects(&self) -> String {
        self.text("sys/kernel/emulator/effects").unwrap_or_default()
    }

    /// A line for the host's control file.
    pub(crate) fn control(&self, line: &str) -> Result<(), Wrong> {
        self.write("sys/kernel/emulator/control", line)
    }

    /// Writes to an attribute.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<(), Wrong> {
        let write = || {
            let mut file = fs::File::options().write(true).open(self.path(path))?;
            std::io::Write::write_all(&mut file, text.as_bytes())
        };
        write().map_err(|error| format!("writing \"{text}\" to /{path}: {error}"))
    }

    /// Waits until no program of ours runs on the host any more: a hook that was killed may have left a child
    /// that has yet to notice.
    pub(crate) fn wait_for_quiet(&self) -> Result<(), Wrong> {
        let start = Instant::now();
        loop {
            let busy = self.programs();
            if busy.is_empty() {
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(5) {
                return Err(format!("still running: {}; blocked: {:?}", busy.join(", "), self.blocked()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn programs(&self) -> Vec<String> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().into_string().ok());
        let ours = |pid: &String| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            matches!(comm.trim_end(), "virt-mdev-hook" | "virt-mdev" | "virt-mdev-write" | "exe")
                && fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == self.namespace
        };
        let named = |pid: String| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!("{pid} {}", line.replace('\0', " "))
        };
        pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).filter(ours).map(named).collect()
    }
}

/// What two pictures of a host differ in.
pub(crate) fn differences(before: &[String], after: &[String]) -> Vec<String> {
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("gone: {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("left: {line}"));
    gone.chain(new).collect()
}
