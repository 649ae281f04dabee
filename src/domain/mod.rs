//! Domain XML → [`Domain`]: what the domain's author wrote that concerns us, and nothing else.
//!
//! Two ways in: [`Domain::read`] judges every word of ours and refuses what it does not know; [`uuid_in`] takes one
//! UUID out of anything whatever, because a release must never fail for what stands in the XML.

mod reader;
mod scan;
mod wanted;

pub use reader::MAX_XML;
pub use scan::uuid_in;
pub use wanted::{Attribute, Placement, Wanted};

use crate::ids::{DomainUuid, MdevUuid};
use crate::refusal::Refusal;

/// Our namespace in `<metadata>`; matched by URI, never by prefix.
pub const NAMESPACE: &str = "urn:virt-mdev:domain:1";

/// The part of a domain that mediated devices depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Unique on this host at any one time; may change.
    pub name: String,
    /// Never changes.
    pub uuid: DomainUuid,
    /// Devices of our metadata, in the author's order.
    pub wanted: Vec<Wanted>,
    /// `<hostdev type='mdev'>`.
    pub mdevs: Vec<MdevHostdev>,
    /// `<hostdev type='pci'>`.
    pub pcis: Vec<PciHostdev>,
    /// UUIDs in `sysfsdev=` arguments of `<qemu:commandline>`, the 2016 proposal's own way to launch.
    pub sysfsdevs: Vec<MdevUuid>,
    /// One for each security model that libvirt has labelled the domain for.
    pub seclabels: Vec<Seclabel>,
}

/// `<hostdev mode='subsystem' type='mdev' model='…' managed='…'>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdevHostdev {
    /// `<source><address uuid='…'/>`
    pub uuid: MdevUuid,
    /// The API that QEMU will use; libvirt requires it to equal the type's `device_api`.
    pub model: String,
    /// Means nothing to libvirt for an mdev, and reaches us.
    pub managed: bool,
}

/// `<hostdev mode='subsystem' type='pci' managed='…'>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciHostdev {
    /// As sysfs writes it: `0000:86:00.4`.
    pub address: String,
    /// With `yes`, libvirt would unbind the driver.
    pub managed: bool,
}

/// `<seclabel type='…' model='…' relabel='…'>` with its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seclabel {
    /// `dynamic`, `static` or `none`.
    pub kind: String,
    /// `dac`, `selinux`, `apparmor`; missing where `type='none'` stands for all.
    pub model: Option<String>,
    /// `relabel='no'`: the domain's resources keep the labels that they have.
    pub relabel: bool,
    /// What the process runs as.
    pub label: Option<String>,
    /// What its images and devices carry.
    pub imagelabel: Option<String>,
}

impl Domain {
    /// Reads what libvirt hands to the hook. `bytes` is what was read of stdin: at most one byte more than
    /// [`MAX_XML`], so that too much can be told from just enough.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_XML {
            return Err(Refusal::XmlTooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| Refusal::XmlNotUtf8(error.valid_up_to()))?;
        reader::read(text)
    }

    /// Whether the domain has anything to do with mediated devices; most domains of a host have not.
    pub fn is_plain(&self) -> bool {
        self.wanted.is_empty() && self.mdevs.is_empty() && self.sysfsdevs.is_empty()
    }
}
