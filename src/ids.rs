//! Identities, each parsed once at the door and safe to put into a path afterwards.
//!
//! Everything here comes from a domain's author, a file or sysfs. A value of one of these types is one path
//! component (or, for [`AttributeName`], a relative path that cannot leave its device), so no later code has to
//! think about `..`, `/` or NUL again.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest name we take from outside, in bytes: Linux' `NAME_MAX`.
const NAME_MAX: usize = 255;

/// Why a text is not the identity that it should be; reads after "…: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// The 36 characters that the kernel (`guid_parse`), sysfs and libvirt agree on; the `uuid` crate would take more
/// forms, which then would not match the name in sysfs.
fn parse_uuid(text: &str) -> Result<Uuid, Malformed> {
    if text.len() != 36 {
        return Err(Malformed("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"));
    }
    let uuid =
        Uuid::try_parse(text).map_err(|_| Malformed("not a UUID: it has something else than hex digits"))?;
    if uuid.is_nil() { Err(Malformed("the nil UUID names nothing")) } else { Ok(uuid) }
}

/// One component of a path, with no character that a terminal or a journal could take for more than itself.
fn parse_component(text: &str) -> Result<(), Malformed> {
    if text.is_empty() {
        Err(Malformed("empty"))
    } else if text.len() > NAME_MAX {
        Err(Malformed("longer than 255 bytes"))
    } else if text == "." || text == ".." || text.contains('/') {
        Err(Malformed("a path is not allowed here"))
    } else if text.chars().any(crate::words::is_order) {
        Err(Malformed("has a control character"))
    } else {
        Ok(())
    }
}

/// A name as the kernel's device model writes it where it makes a directory (`kobject_set_name_vargs`).
fn in_sysfs(name: &str) -> String {
    name.replace('/', "!")
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name($inner);

        impl $name {
            /// Judges `text`; nothing that this refuses ever reaches a path.
            pub fn parse(text: &str) -> Result<Self, Malformed> {
                let parse: fn(&str) -> Result<$inner, Malformed> = $parse;
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.to_string()
            }
        }
    };
}

identity! {
    /// UUID of a mediated device: its name under `/sys/bus/mdev/devices`.
    MdevUuid, Uuid, parse_uuid
}

identity! {
    /// UUID of a libvirt domain.
    DomainUuid, Uuid, parse_uuid
}

identity! {
    /// A parent device by its name in `/sys/class/mdev_bus`: `0000:86:00.0`, `mtty`, `matrix`, `0.0.0313`.
    Parent, String, |text| parse_component(text).map(|()| text.to_owned())
}

identity! {
    /// A type by its directory in `mdev_supported_types`: `nvidia-18`, `i915-GVTg_V5_4`.
    TypeId, String, |text| parse_component(text).map(|()| text.to_owned())
}

identity! {
    /// What a domain asks for: a type's id or the vendor's name for it, which may hold blanks and slashes.
    TypeWish, String, |text| parse_component(&in_sysfs(text)).map(|()| text.to_owned())
}

identity! {
    /// A driver attribute below the device's own directory, like `nvidia/vgpu_params`.
    AttributeName, String, |text| parse_attribute(text).map(|()| text.to_owned())
}

identity! {
    /// An SELinux context, `system_u:object_r:svirt_image_t:s0:c1,c2`: the value of an extended attribute.
    Context, String, |text| parse_context(text).map(|()| text.to_owned())
}

identity! {
    /// The AppArmor profile that libvirt makes for a domain, `libvirt-` and the domain's UUID: the name of a file.
    Profile, String, |text| parse_profile(text).map(|()| text.to_owned())
}

impl Profile {
    /// Whether it is that domain's, so that no domain's rules end in the profile of another.
    pub fn is_of(&self, domain: &DomainUuid) -> bool {
        self.0.strip_prefix(PROFILE) == Some(domain.to_string().as_str())
    }
}

impl TypeId {
    /// A wish for this very type.
    pub fn as_wish(&self) -> TypeWish {
        TypeWish(self.0.clone())
    }
}

impl TypeWish {
    /// The wish as a type's id.
    pub fn as_id(&self) -> TypeId {
        TypeId(in_sysfs(&self.0))
    }

    /// Whether a type with this id, or this vendor's name, is what was wished for, and how closely. NVIDIA's types
    /// have bare numbers in its later interfaces: `nvidia-1145` and `1145` mean the same.
    pub fn matches(&self, id: &TypeId, name: Option<&str>) -> Option<Match> {
        let bare = |text: &str| text.strip_prefix("nvidia-").unwrap_or(text).to_owned();
        if bare(&self.0) == bare(&id.0) {
            Some(Match::Id)
        } else if name == Some(self.0.as_str()) {
            Some(Match::Name)
        } else if name.is_some_and(|name| name.to_lowercase() == self.0.to_lowercase()) {
            Some(Match::NameInOtherCase)
        } else {
            None
        }
    }
}

identity! {
    /// A PCI function as sysfs writes it, `0000:86:00.4`: the identity of a virtual function that is a vGPU.
    PciAddress, String, |text| parse_pci(text).map(|()| text.to_owned())
}

impl PciAddress {
    /// Domain, bus, slot and function.
    pub fn numbers(&self) -> [u32; 4] {
        let mut parts =
            self.0.split([':', '.']).map(|part| u32::from_str_radix(part, 16).unwrap_or_default());
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    /// The same device as a parent: with NVIDIA's vendor VFIO a virtual function is both.
    pub fn as_parent(&self) -> Parent {
        Parent(self.0.clone())
    }
}

/// How libvirt begins the names of its profiles.
const PROFILE: &str = "libvirt-";

/// Only the form that libvirt writes, in lower case.
fn parse_profile(text: &str) -> Result<(), Malformed> {
    let domain = text.strip_prefix(PROFILE).and_then(|uuid| DomainUuid::parse(uuid).ok());
    let good = domain.is_some_and(|domain| Profile(text.to_owned()).is_of(&domain));
    if good { Ok(()) } else { Err(Malformed("not libvirt- and the UUID of a domain")) }
}

/// Longest context that we take, in bytes: as long as libvirt's labels can be.
const CONTEXT_MAX: usize = 4096;

/// `user:role:type`, and with MLS or MCS a range, which has colons of its own.
fn parse_context(text: &str) -> Result<(), Malformed> {
    let parts: Vec<_> = text.splitn(4, ':').collect();
    if text.len() > CONTEXT_MAX {
        Err(Malformed("longer than 4096 bytes"))
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err(Malformed("has a character that no SELinux context has"))
    } else if parts.len() < 3 || parts.contains(&"") {
        Err(Malformed("not of the form user:role:type:range"))
    } else {
        Ok(())
    }
}

/// `dddd:bb:ss.f` in lower-case hexadecimal; domains have more digits on some machines.
fn parse_pci(text: &str) -> Result<(), Malformed> {
    const WHY: Malformed = Malformed("not a PCI address of the form 0000:86:00.4");
    let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&text.len()) && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    };
    let (domain, rest) = text.split_once(':').ok_or(WHY)?;
    let (bus, rest) = rest.split_once(':').ok_or(WHY)?;
    let (slot, function) = rest.split_once('.').ok_or(WHY)?;
    let good = hex(domain, 4..=8) && hex(bus, 2..=2) && hex(slot, 2..=2) && hex(function, 1..=1);
    if good { Ok(()) } else { Err(WHY) }
}

identity! {
    /// A VFIO node by its path below `/dev`: `vfio/7`, a group, or `vfio/devices/vfio0`, a device.
    Node, String, |text| parse_node(text).map(|()| text.to_owned())
}

impl Node {
    /// Whether it is a group's, `vfio/7`, not a device's own.
    pub fn is_group(&self) -> bool {
        !self.0.starts_with("vfio/devices/")
    }
}

fn parse_node(text: &str) -> Result<(), Malformed> {
    // The container, through which every group is used.
    if text == "vfio/vfio" {
        return Ok(());
    }
    match text.strip_prefix("vfio/devices/vfio").or_else(|| text.strip_prefix("vfio/")) {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(Malformed("not a VFIO node of the form vfio/7 or vfio/devices/vfio0")),
    }
}

/// What a domain's device is known by: in steps, records and claims.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceId {
    /// A mediated device, by its UUID.
    Mdev(MdevUuid),
    /// A virtual function that carries a vGPU of NVIDIA's vendor VFIO, by its address: there is no mediated device.
    Vf(PciAddress),
}

impl DeviceId {
    /// A UUID or a PCI address.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        MdevUuid::parse(text)
            .map(Self::Mdev)
            .or_else(|_| PciAddress::parse(text).map(Self::Vf))
            .map_err(|_| Malformed("neither a UUID nor a PCI address"))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mdev(uuid) => uuid.fmt(f),
            Self::Vf(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for DeviceId {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        Self::parse(&text)
    }
}

impl From<DeviceId> for String {
    fn from(device: DeviceId) -> String {
        device.to_string()
    }
}

/// How closely a type fits a wish; the smaller the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// The type's id.
    Id,
    /// The vendor's name, exactly.
    Name,
    /// The vendor's name but for upper and lower case.
    NameInOtherCase,
    /// Unknown: the parent lists no types, and the domain names this parent.
    Unchecked,
}

/// What belongs to the kernel's device model and not to the driver: removing, unbinding or re-binding the device
/// behind our back, or powering it off.
const MODEL_FILES: [&str; 4] = ["remove", "online", "uevent", "driver_override"];
const MODEL_DIRS: [&str; 6] = ["power", "driver", "iommu_group", "mdev_type", "subsystem", "vfio-dev"];

fn parse_attribute(text: &str) -> Result<(), Malformed> {
    if text.len() > NAME_MAX {
        return Err(Malformed("longer than 255 bytes"));
    }
    if text.starts_with('/') {
        return Err(Malformed("an absolute path is not an attribute of the device"));
    }
    for component in text.split('/') {
        match component {
            "" => return Err(Malformed("has an empty path component")),
            "." | ".." => return Err(Malformed("leaves the device's directory")),
            other => parse_component(other)?,
        }
    }
    let first = text.split('/').next().unwrap_or_default();
    if MODEL_FILES.contains(&text) || MODEL_DIRS.contains(&first) {
        return Err(Malformed("belongs to the kernel's device model, not to the driver"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_the_36_characters_only() {
        assert!(MdevUuid::parse("83B8F4F2-509f-382f-3c1e-e6bfe0fa1001").is_ok());
        for bad in [
            "",
            "83b8f4f2509f382f3c1ee6bfe0fa1001",
            "{83b8f4f2-509f-382f-3c1e-e6bfe0fa1001}",
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa100g",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert!(MdevUuid::parse(bad).is_err(), "{bad}");
        }
        let upper = MdevUuid::parse("83B8F4F2-509F-382F-3C1E-E6BFE0FA1001").unwrap();
        assert_eq!(upper.to_string(), "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "sysfs has lower case");
    }

    #[test]
    fn components_stay_where_they_are() {
        for bad in ["", ".", "..", "../../x", "a/b", "a\0b", "a\nb", "\u{1b}[31m", "a\u{202e}b"] {
            assert!(Parent::parse(bad).is_err(), "{bad:?}");
            assert!(TypeWish::parse(bad).is_err() || bad.contains('/'), "{bad:?}");
        }
        for name in ["I/O subchannel (Non-QDIO)", "../../x", "/"] {
            assert!(TypeId::parse(&TypeWish::parse(name).unwrap().as_id().to_string()).is_ok(), "{name}");
        }
        assert!(TypeWish::parse(&"x".repeat(256)).is_err());
        assert!(TypeWish::parse("GRID M60-4Q").is_ok());
    }

    #[test]
    fn attributes_stay_below_the_device() {
        for good in ["nvidia/vgpu_params", "assign_adapter", "settings/first"] {
            assert!(AttributeName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc/x",
            "../../../etc/x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "remove",
            "online",
            "uevent",
            "driver_override",
            "power/control",
            "driver/unbind",
            "iommu_group/type",
            "mdev_type/create",
            "subsystem/x",
            "vfio-dev/vfio0/x",
            "a\nb",
        ] {
            assert!(AttributeName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(AttributeName::parse("a/".repeat(200).trim_end_matches('/')).is_err());
    }

    #[test]
    fn a_wish_prefers_the_id_and_then_the_exact_name() {
        let wish = TypeWish::parse("GRID m60-4q").unwrap();
        let id = TypeId::parse("nvidia-17").unwrap();
        assert_eq!(wish.matches(&id, Some("GRID M60-4Q")), Some(Match::NameInOtherCase));
        assert_eq!(wish.matches(&id, Some("GRID m60-4q")), Some(Match::Name));
        assert_eq!(TypeWish::parse("nvidia-17").unwrap().matches(&id, None), Some(Match::Id));
        assert_eq!(wish.matches(&id, None), None);
    }
}
