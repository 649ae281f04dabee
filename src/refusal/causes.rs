//! Causes that several sentences, or one in several ways, end with.

use rustix::io::Errno;

use crate::backend::nvidia::functions_on;
use crate::ids::{Parent, PciAddress, TypeWish};
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
    Functions { such_as: Parent, by_uuid: bool },
    #[error("the card has no virtual functions yet, which are the parents")]
    NoFunctions,
    #[error("a device on the subchannel {subchannel} has that number")]
    OnSubchannel { subchannel: String },
}

impl Absent {
    /// Its device is there, and only its driver or its vendor's service has not come, as after a boot. What lacks the
    /// device, or has another driver on it, is on this host no parent.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Driver { .. } | Self::NoFunctions => true,
            Self::Offer { driver } => matches!(driver.as_str(), "nvidia" | "i915"),
            Self::Unknown | Self::Device { .. } | Self::Functions { .. } | Self::OnSubchannel { .. } => false,
        }
    }

    /// Whether something of that name may come at all: what sysfs names otherwise does not.
    pub fn can_come(&self, parent: &Parent) -> bool {
        match self {
            Self::Unknown | Self::Device { .. } => as_sysfs_writes_it(parent).is_none(),
            // A subchannel may have the same number as another one's device.
            _ => true,
        }
    }

    pub(super) fn hint(&self, parent: &Parent) -> String {
        if let (Self::Unknown | Self::Device { .. }, Some(meant)) = (self, as_sysfs_writes_it(parent)) {
            return format!("write \"{meant}\": that is how the kernel names it");
        }
        match self {
            Self::Unknown if parent.to_string() == "matrix" => MATRIX.to_owned(),
            Self::Unknown => "is its driver loaded, and its vendor's service running? `virt-mdev types` shows what is there".to_owned(),
            Self::Device { bus: "css" } => "is the subchannel there (lscss), and not on the channel subsystem's blacklist (cio_ignore)?".to_owned(),
            Self::Device { .. } => "virtual functions are there once their card's sriov_numvfs says how many (NVIDIA: /usr/lib/nvidia/sriov-manage -e CARD)".to_owned(),
            Self::Driver { bus: "css" } => format!("bind it to vfio_ccw: driverctl -b css set-override {parent} vfio_ccw"),
            Self::Driver { .. } => "load its vendor's driver; the kernel's log (dmesg) tells why one has not taken it".to_owned(),
            Self::Functions { such_as, by_uuid: true } => {
                format!("name a function, {such_as} for example, or no parent: then one is chosen that has room")
            }
            Self::Functions { by_uuid: false, .. } => Clue::TakeTypes { card: parent.clone() }.hint(),
            Self::NoFunctions => Clue::NoFunctions { card: parent.clone() }.hint(),
            Self::OnSubchannel { subchannel } => format!("the parent is a subchannel: if that device is meant, write \"{subchannel}\""),
            Self::Offer { driver } => match driver.as_str() {
                "i915" => I915.to_owned(),
                "nvidia" => NVIDIA.to_owned(),
                "vfio-pci" => "vfio-pci gives the whole device away: bind it to its vendor's driver".to_owned(),
                "io_subchannel" => format!("bind it to vfio_ccw: driverctl -b css set-override {parent} vfio_ccw"),
                driver => format!("is {} its vendor's driver for mediated devices, and the vendor's service running?", printable(driver)),
            },
        }
    }
}

const I915: &str = "i915 offers them with its module option enable_gvt=1, and with kvmgt loaded (Broadwell to Comet Lake; newer ones have no GVT-g)";
const NVIDIA: &str = "NVIDIA's vGPU host driver offers them once its service runs: systemctl status nvidia-vgpud nvidia-vgpu-mgr";
const MATRIX: &str = "modprobe vfio_ap makes it";

/// Why no parent has a type, where the domain names none: what the host, or the type's own name, tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clue {
    /// It is a type of vfio_ap's.
    VfioAp,
    /// Of vfio_ccw's.
    VfioCcw,
    /// Of GVT-g's.
    I915,
    /// Of NVIDIA's.
    Nvidia,
    /// The functions of this card take types themselves (NVIDIA's vendor VFIO).
    TakeTypes {
        /// The card.
        card: Parent,
    },
    /// This card of NVIDIA's could have virtual functions, and has none.
    NoFunctions {
        /// The card.
        card: Parent,
    },
}

impl Clue {
    /// By the name of a type: nobody but its vendor's driver begins one so, or has bare numbers.
    pub fn of_type(wish: &TypeWish) -> Option<Self> {
        const BEGINNINGS: [(&str, Clue); 7] = [
            ("vfio_ap-", Clue::VfioAp),
            ("vfio_ccw-", Clue::VfioCcw),
            ("i915-gvtg", Clue::I915),
            ("gvtg_", Clue::I915),
            ("nvidia-", Clue::Nvidia),
            ("nvidia ", Clue::Nvidia),
            ("grid ", Clue::Nvidia),
        ];
        let wish = wish.to_string().to_lowercase();
        if wish.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Nvidia);
        }
        BEGINNINGS.into_iter().find(|(beginning, _)| wish.starts_with(beginning)).map(|(_, clue)| clue)
    }

    pub(super) fn hint(&self) -> String {
        match self {
            Self::VfioAp => format!("its parent is matrix: {MATRIX}"),
            Self::VfioCcw => "its parents are subchannels that vfio_ccw has: driverctl -b css set-override SUBCHANNEL vfio_ccw".to_owned(),
            Self::I915 => I915.to_owned(),
            Self::Nvidia => NVIDIA.to_owned(),
            Self::TakeTypes { card } => format!("the functions of {card} take types themselves and are passed through: `virt-mdev unassign` takes this device out of the definition, and `virt-mdev assign` puts a function in its place"),
            Self::NoFunctions { card } => format!("switch on the virtual functions of {card}: {}", functions_on(card)),
        }
    }
}

/// What vfio_ap's driver means, which writes nothing into the kernel's log (`vfio_ap_mdev_validate_masks`); nothing where
/// another driver's attribute is meant, or the log has it.
pub(super) fn of_queue(attribute: &str, errno: Option<Errno>) -> Option<&'static str> {
    match errno {
        _ if !attribute.starts_with("assign_") && attribute != "ap_config" => None,
        Some(Errno::ADDRNOTAVAIL) => Some(
            "a queue of the device's adapters and domains is the host's: what /sys/bus/ap/apmask and /sys/bus/ap/aqmask both have is, until it is taken out of one of them",
        ),
        Some(Errno::ADDRINUSE) => Some(
            "another mediated device has a queue of those adapters and domains: `virt-mdev list` shows them, and `virt-mdev show UUID` what each has",
        ),
        _ => None,
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

/// A PCI address as NVIDIA's tools print it, `00000000:8B:00.0`, or lspci does, `8b:00.0`; or a device by libvirt's name for
/// it, `pci_0000_8b_00_0`, `css_0_0_0313` or `ap_matrix`, in sysfs's form; nothing where it has that already.
fn as_sysfs_writes_it(parent: &Parent) -> Option<String> {
    let given = parent.to_string();
    let small = given.to_ascii_lowercase();
    if small == "ap_matrix" {
        return Some("matrix".to_owned());
    }
    if let Some(subchannel) = small.strip_prefix("css_") {
        return Some(subchannel.replace('_', "."));
    }
    let address =
        match small.strip_prefix("pci_").map(|name| name.splitn(4, '_').collect::<Vec<_>>()).as_deref() {
            Some([domain, bus, slot, function]) => format!("{domain}:{bus}:{slot}.{function}"),
            _ => small,
        };
    let (domain, rest) = match address.split_once(':')? {
        // No domain: it is the first.
        (bus, rest) if !rest.contains(':') => ("0", format!("{bus}:{rest}")),
        (domain, rest) => (domain, rest.to_owned()),
    };
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
