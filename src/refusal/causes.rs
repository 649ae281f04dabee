//! Causes that several sentences, or one in several ways, end with.

use crate::ids::{Parent, PciAddress};
use crate::words::printable;

/// What a parent lacks that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say what each variant and field is")]
pub enum Absent {
    #[error("nothing of that name offers mediated devices")]
    Unknown,
    #[error("there is no {bus} device with that address")]
    Device { bus: &'static str },
    #[error("the {bus} device has no driver")]
    Driver { bus: &'static str },
    #[error("its driver {} offers no mediated devices", printable(driver))]
    Offer { driver: String },
    #[error("the card itself is none, its virtual functions are")]
    Functions { such_as: Parent },
}

impl Absent {
    /// Its device is there, and only its driver or its vendor's service has not come, as after a boot. What lacks the
    /// device, or has another driver on it, is on this host no parent.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Driver { .. } => true,
            Self::Offer { driver } => matches!(driver.as_str(), "nvidia" | "i915"),
            Self::Unknown | Self::Device { .. } | Self::Functions { .. } => false,
        }
    }

    pub(super) fn hint(&self, parent: &Parent) -> String {
        if let (Self::Unknown | Self::Device { .. }, Some(meant)) = (self, as_sysfs_writes_it(parent)) {
            return format!("write \"{meant}\": that is how the kernel names it");
        }
        match self {
            Self::Unknown if parent.to_string() == "matrix" => "modprobe vfio_ap makes it".to_owned(),
            Self::Unknown => "is its driver loaded, and its vendor's service running? `virt-mdev types` shows what is there".to_owned(),
            Self::Device { bus: "css" } => "is the subchannel there (lscss), and not on the channel subsystem's blacklist (cio_ignore)?".to_owned(),
            Self::Device { .. } => "virtual functions are there once their card's sriov_numvfs says how many (NVIDIA: /usr/lib/nvidia/sriov-manage -e CARD)".to_owned(),
            Self::Driver { bus: "css" } => format!("bind it to vfio_ccw: driverctl -b css set-override {parent} vfio_ccw"),
            Self::Driver { .. } => "load its vendor's driver; the kernel's log (dmesg) tells why one has not taken it".to_owned(),
            Self::Functions { such_as } => {
                format!("name a function, {such_as} for example, or no parent: then one is chosen that has room")
            }
            Self::Offer { driver } => match driver.as_str() {
                "i915" => "i915 offers them with its module option enable_gvt=1, and with kvmgt loaded".to_owned(),
                "nvidia" => "NVIDIA's vGPU host driver offers them once its service runs: systemctl status nvidia-vgpud nvidia-vgpu-mgr".to_owned(),
                "vfio-pci" => "vfio-pci gives the whole device away: bind it to its vendor's driver".to_owned(),
                "io_subchannel" => format!("bind it to vfio_ccw: driverctl -b css set-override {parent} vfio_ccw"),
                driver => format!("is {} its vendor's driver for mediated devices, and the vendor's service running?", printable(driver)),
            },
        }
    }
}

/// Who made a device that is another than the domain wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say what each variant is")]
pub enum Maker {
    #[error("an earlier run of the domain kept it")]
    EarlierRun,
    #[error("mdevctl has a definition of it and probably made it")]
    Mdevctl,
    #[error("virt-mdev did not make it")]
    Somebody,
}

/// A PCI address as NVIDIA's tools print it, `00000000:8B:00.0`, or a device by libvirt's name for it, `pci_0000_8b_00_0` or
/// `css_0_0_0313`, in sysfs's form; nothing where it has that already.
fn as_sysfs_writes_it(parent: &Parent) -> Option<String> {
    let given = parent.to_string();
    let small = given.to_ascii_lowercase();
    if let Some(subchannel) = small.strip_prefix("css_") {
        return Some(subchannel.replace('_', "."));
    }
    let address =
        match small.strip_prefix("pci_").map(|name| name.splitn(4, '_').collect::<Vec<_>>()).as_deref() {
            Some([domain, bus, slot, function]) => format!("{domain}:{bus}:{slot}.{function}"),
            _ => small,
        };
    let (domain, rest) = address.split_once(':')?;
    let domain = u16::from_str_radix(domain, 16).ok()?;
    let meant = PciAddress::parse(&format!("{domain:04x}:{rest}")).ok()?.to_string();
    (meant != given).then_some(meant)
}

/// Why a definition of mdevctl's is no help; reads after the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say what each variant and field is")]
pub enum BadDefinition {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is {0}, not a file")]
    NotAFile(&'static str),
    #[error("the directory of {0} is a symbolic link, which is not followed")]
    BehindALink(Parent),
    #[error("larger than {0} KiB")]
    TooLarge(u64),
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    #[error("not JSON: {}", printable(.0))]
    NotJson(String),
    #[error("must be an object, and is {}", printable(.0))]
    NotAnObject(String),
    #[error("has no {0}")]
    Lacks(&'static str),
    #[error("{} stands there twice", printable(key))]
    Twice { key: String },
    #[error("{} = {}: {why}", printable(key), printable(value))]
    Value { key: String, value: String, why: String },
    #[error("{key} names \"{}\": {why}", printable(name))]
    Name { key: String, name: String, why: String },
}
