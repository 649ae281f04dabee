//! What a domain passes through: `<hostdev>` and `-device …,sysfsdev=…`.

use super::wanted::{Given, value};
use crate::ids::{MdevUuid, PciAddress};

/// A hostdev that is still open in the document.
pub(super) enum Hostdev {
    Mdev { model: String, managed: bool, uuid: Option<MdevUuid> },
    Pci { managed: bool, address: Option<PciAddress> },
    Other,
}

/// A `<hostdev>` from its XML attributes.
pub(super) fn hostdev(given: &Given) -> Hostdev {
    let managed = value(given, "managed") == Some("yes");
    match (value(given, "mode"), value(given, "type")) {
        (Some("subsystem"), Some("mdev")) => {
            Hostdev::Mdev { model: value(given, "model").unwrap_or_default().to_owned(), managed, uuid: None }
        }
        (Some("subsystem"), Some("pci")) => Hostdev::Pci { managed, address: None },
        _ => Hostdev::Other,
    }
}

/// `<address domain='0x0000' bus='0x86' slot='0x00' function='0x4'/>` as sysfs writes it; libvirt takes hexadecimal,
/// octal and decimal (`virStrToLong_uip` with base 0) and writes hexadecimal.
pub(super) fn pci_address(given: &Given) -> Option<PciAddress> {
    let number = |name: &str, default: Option<&str>| {
        let text = value(given, name).or(default)?;
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
            None => text.parse().ok(),
        }
    };
    let (domain, bus) = (number("domain", Some("0"))?, number("bus", None)?);
    let (slot, function) = (number("slot", None)?, number("function", Some("0"))?);
    PciAddress::parse(&format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")).ok()
}

/// QEMU's arguments, one after another.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    device_follows: bool,
    object_follows: bool,
    /// One makes an IOMMUFD, by which QEMU finds the nodes of devices itself (`iommufd_cdev_getfd`).
    pub(super) iommufd: bool,
}

impl Arguments {
    /// The mdev that this one names, if it is what follows a `-device`.
    pub(super) fn mdev(&mut self, argument: &str) -> Option<MdevUuid> {
        let is_option = matches!(argument, "-device" | "--device");
        let is_device = std::mem::replace(&mut self.device_follows, is_option);
        let follows = matches!(argument, "-object" | "--object");
        let is_object = std::mem::replace(&mut self.object_follows, follows);
        self.iommufd |= is_object && kind_of_object(argument).as_deref() == Some("iommufd");
        is_device.then(|| sysfsdev(argument)).flatten()
    }
}

/// `iommufd,id=i0`, or the same as QEMU's JSON.
fn kind_of_object(value: &str) -> Option<String> {
    if !value.starts_with('{') {
        let first = value.split(',').next()?;
        return Some(first.strip_prefix("qom-type=").unwrap_or(first).to_owned());
    }
    let json = serde_json::from_str::<serde_json::Value>(value).ok()?;
    json.get("qom-type")?.as_str().map(str::to_owned)
}

/// `vfio-pci,sysfsdev=/sys/bus/mdev/devices/UUID`, or the same as QEMU's JSON.
fn sysfsdev(value: &str) -> Option<MdevUuid> {
    let path = if value.starts_with('{') {
        serde_json::from_str::<serde_json::Value>(value)
            .ok()
            .and_then(|json| json.get("sysfsdev").and_then(|path| path.as_str()).map(str::to_owned))
    } else {
        value.split(',').find_map(|option| option.strip_prefix("sysfsdev=")).map(str::to_owned)
    };
    path.and_then(|path| MdevUuid::parse(path.trim_end_matches('/').rsplit('/').next()?).ok())
}
