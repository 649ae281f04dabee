//! What is behind a file of sysfs: one closed list, and the two ways in.

use nix::errno::Errno;

use super::World;
use crate::call::{Ticket, Weight};

/// More than a page is cut: `kernfs_fop_write_iter`, `sysfs_emit`.
pub(super) const PAGE: usize = 4096;

/// What is behind a file of sysfs.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the fields name the parent, type, device or function that it belongs to
pub enum Attribute {
    /// A text that does not change.
    Text(String),
    /// A text that can be written.
    Stored(String),
    /// `uevent`: reading shows it, writing an action makes udev hear it again.
    Uevent(String),
    /// Takes anything, does nothing.
    Sink,
    /// Bytes of a register space; this many, and no page.
    Binary(usize),
    /// `create` of an mdev type.
    Create { parent: String, kind: String },
    /// `available_instances`.
    Free { parent: String, kind: String },
    /// `remove` of an mdev device.
    Remove { uuid: String },
    /// An attribute of the driver of an mdev device.
    Driver { uuid: String, name: &'static str },
    /// `mdev_supported_types` of the proposal.
    Table { address: String },
    /// `mdev_create`.
    ProposalCreate { address: String },
    /// `mdev_destroy`.
    ProposalDestroy { address: String },
    /// `online`.
    Online { uuid: String },
    /// A file of vendor VFIO.
    Vendor { vf: String, file: VendorFile },
    /// `sriov_numvfs` of a physical function whose driver makes VFs by a tool of its own.
    Numvfs { count: u32 },
    /// The control file.
    Control,
    /// The requests that wait.
    Blocked,
    /// A log of operations, from this weight on.
    Log(Weight),
}

/// A file below a VF's `nvidia/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // named as the files are
pub enum VendorFile {
    Creatable,
    Current,
    Params,
    PlacementId,
    GpuInstanceId,
}

/// What became of a write.
pub(super) enum Written {
    /// It was taken.
    Whole,
    /// It returns when the ticket is called.
    Later(Ticket),
}

impl World {
    /// What reading the file gives.
    pub(super) fn show(&self, attribute: &Attribute) -> Result<Vec<u8>, Errno> {
        let text = match attribute {
            Attribute::Text(text) | Attribute::Stored(text) | Attribute::Uevent(text) => text.clone(),
            Attribute::Binary(size) => return Ok(vec![0xff; *size]),
            Attribute::Free { parent, kind } => format!("{}\n", self.available(parent, kind)),
            Attribute::Driver { uuid, name } => return self.show_driver(uuid, name),
            Attribute::Table { address } => return self.table(address),
            Attribute::Online { uuid } => format!("{}\n", u8::from(self.is_online(uuid))),
            Attribute::Vendor { vf, file } => self.show_vendor(vf, *file)?,
            Attribute::Numvfs { count } => format!("{count}\n"),
            // Its mode lets nobody read it; the machine answers for the last two.
            Attribute::Create { .. }
            | Attribute::Remove { .. }
            | Attribute::ProposalCreate { .. }
            | Attribute::ProposalDestroy { .. }
            | Attribute::Sink
            | Attribute::Control
            | Attribute::Blocked
            | Attribute::Log(_) => return Err(Errno::EIO),
        };
        Ok(text.into_bytes())
    }

    /// What writing the file does. `data` is one whole value, of a page at most.
    pub(super) fn store(&mut self, attribute: &Attribute, data: &[u8]) -> Result<Written, Errno> {
        match attribute {
            Attribute::Create { parent, kind } => self.create(parent, kind, data),
            Attribute::Remove { uuid } => return self.remove(uuid, data),
            Attribute::Driver { uuid, name } => self.store_driver(uuid, name, data),
            Attribute::ProposalCreate { address } => self.propose(address, data),
            Attribute::ProposalDestroy { address } => self.withdraw(address, data),
            Attribute::Online { uuid } => self.bring(uuid, data),
            Attribute::Vendor { vf, file } => self.store_vendor(vf, *file, data),
            // NVIDIA's driver wants its own tool, `sriov-manage`.
            Attribute::Numvfs { .. } => Err(Errno::EPERM),
            Attribute::Sink | Attribute::Uevent(_) | Attribute::Binary(_) => Ok(()),
            Attribute::Text(_)
            | Attribute::Stored(_)
            | Attribute::Free { .. }
            | Attribute::Table { .. }
            | Attribute::Control
            | Attribute::Blocked
            | Attribute::Log(_) => Err(Errno::EIO),
        }
        .map(|()| Written::Whole)
    }
}
