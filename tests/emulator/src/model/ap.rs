//! vfio_ap: which adapters and domains a device has (`drivers/s390/crypto/vfio_ap_ops.c`).

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::{World, kstrtoul};

/// The files of a device.
pub(super) const FILES: &[(&str, u32)] = &[
    ("assign_adapter", 0o200),
    ("unassign_adapter", 0o200),
    ("assign_domain", 0o200),
    ("unassign_domain", 0o200),
    ("assign_control_domain", 0o200),
    ("unassign_control_domain", 0o200),
    ("control_domains", 0o444),
    ("matrix", 0o444),
    ("guest_matrix", 0o444),
];

/// The highest adapter and domain of the machine.
const HIGHEST_ADAPTER: u64 = 0x3f;
const HIGHEST_DOMAIN: u64 = 0x54;

/// The queues that the host's own drivers keep (`/sys/bus/ap/apmask`, `aqmask`): both numbers below this.
const OWN: u64 = 4;

/// What is assigned to a device.
#[derive(Debug, Clone, Default)]
pub(super) struct Matrix {
    adapters: BTreeSet<u64>,
    domains: BTreeSet<u64>,
    control: BTreeSet<u64>,
}

impl Matrix {
    fn queues(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.adapters.iter().flat_map(|adapter| self.domains.iter().map(move |domain| (*adapter, *domain)))
    }

    /// What a file of it reads, if it is one of its own.
    pub(super) fn show(&self, name: &str) -> Option<String> {
        match name {
            "control_domains" => Some(self.control.iter().map(|domain| format!("{domain:04x}\n")).collect()),
            "matrix" | "guest_matrix" if self.domains.is_empty() => {
                Some(self.adapters.iter().map(|adapter| format!("{adapter:02x}.\n")).collect())
            }
            "matrix" | "guest_matrix" if self.adapters.is_empty() => {
                Some(self.domains.iter().map(|domain| format!(".{domain:04x}\n")).collect())
            }
            "matrix" | "guest_matrix" => {
                Some(self.queues().map(|(adapter, domain)| format!("{adapter:02x}.{domain:04x}\n")).collect())
            }
            _ => None,
        }
    }
}

impl World {
    pub(super) fn assign(&mut self, uuid: &str, name: &str, data: &[u8]) -> Result<(), Errno> {
        let number = kstrtoul(data).ok_or(Errno::EINVAL)?;
        let adapter = name.ends_with("adapter");
        if number > if adapter { HIGHEST_ADAPTER } else { HIGHEST_DOMAIN } {
            return Err(Errno::ENODEV);
        }
        let device = self.devices.get(uuid).ok_or(Errno::ENODEV)?;
        let mut matrix = device.matrix.clone();
        let set = match name {
            _ if adapter => &mut matrix.adapters,
            _ if name.ends_with("control_domain") => &mut matrix.control,
            _ => &mut matrix.domains,
        };
        if name.starts_with("unassign_") {
            set.remove(&number);
        } else {
            set.insert(number);
            if matrix.queues().any(|(adapter, domain)| adapter < OWN && domain < OWN) {
                return Err(Errno::EADDRNOTAVAIL);
            }
            let other = |other: &String| *other != uuid;
            let mut others = self.devices.iter().filter(|(name, _)| other(name));
            let taken =
                |queue: &(u64, u64)| others.any(|(_, other)| other.matrix.queues().any(|own| own == *queue));
            let mut taken = taken;
            let queues: Vec<(u64, u64)> = matrix.queues().collect();
            if queues.iter().any(&mut taken) {
                return Err(Errno::EADDRINUSE);
            }
        }
        if let Some(device) = self.devices.get_mut(uuid) {
            device.matrix = matrix;
        }
        Ok(())
    }
}
