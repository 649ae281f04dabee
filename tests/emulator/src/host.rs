//! What a host file describes. `hosts/*.toml` are the examples; a misspelt key is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Deserializer};

/// Tables of the proposal that are files of their own, by the address of their card.
pub type Tables = Vec<(String, Vec<u8>)>;

/// A host, as its file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Number of the first IOMMU group; earlier ones are taken by something else.
    pub first_group: u32,
    /// Whether there are nodes below `/dev/vfio/devices` (kernels with iommufd).
    pub cdev: bool,
    /// How long udevd takes from the kernel's event to its own (`--udevd`).
    #[serde(deserialize_with = "duration")]
    pub udev_delay: Duration,
    /// Which mode new nodes have: the kernel's 0600, or what a rule of udev's makes of it.
    pub node_mode: u32,
    /// What SELinux does, if it is loaded.
    pub selinux: Option<Selinux>,
    /// Upstream mdev.
    pub parent: Vec<Parent>,
    /// The interface of 2016.
    pub proposal: Vec<Proposal>,
    /// NVIDIA's vendor VFIO.
    pub vendor: Vec<Vendor>,
    /// Devices that are there from the start.
    pub device: Vec<Existing>,
    /// Files below the private directories, by path.
    pub files: BTreeMap<String, String>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            first_group: 0,
            cdev: false,
            udev_delay: Duration::ZERO,
            node_mode: 0o600,
            selinux: None,
            parent: Vec::new(),
            proposal: Vec::new(),
            vendor: Vec::new(),
            device: Vec::new(),
            files: BTreeMap::new(),
        }
    }
}

/// What SELinux does about what its policy denies. No policy is enforced here either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selinux {
    /// It is told.
    Permissive,
    /// It is refused.
    Enforcing,
}

/// A device that somebody has made before the start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Existing {
    /// Its uuid.
    pub uuid: String,
    /// Its parent.
    pub parent: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a PCI function says of itself; also for the ones whose virtual functions are the parents.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pci {
    /// NUMA node; -1 for none, as the kernel writes it.
    pub numa: i32,
    /// `vendor`.
    pub vendor: String,
    /// `device`.
    pub device: String,
    /// `class`.
    pub class: String,
    /// Name of the driver.
    pub driver: String,
}

impl Default for Pci {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            numa: -1,
            vendor: text("0x10de"),
            device: text("0x13f2"),
            class: text("0x030000"),
            driver: text("nvidia"),
        }
    }
}

/// A parent of upstream mdev, or a physical function whose virtual functions are parents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// PCI address, `matrix`, a subchannel `0.0.XXXX`, or the name of a device without hardware.
    pub name: String,
    /// What is told of it if it is a PCI function.
    #[serde(default)]
    pub pci: Pci,
    /// How many virtual functions it has; they, and not it, are then the parents.
    #[serde(default)]
    pub vfs: u32,
    /// How many devices one parent has at most; 1 for NVIDIA's virtual functions.
    pub each: Option<u32>,
    /// Size of the pool that all types share.
    pub units: u32,
    /// Only one type at a time on a pool, as on NVIDIA's cards unless configured.
    #[serde(default)]
    pub homogeneous: bool,
    /// What `create` answers when there is no room.
    #[serde(default = "enospc", deserialize_with = "errno")]
    pub full: Errno,
    /// Which attributes its devices have.
    #[serde(default)]
    pub attributes: Attributes,
    /// The driver removes a device by itself that long after its user ended.
    #[serde(default, deserialize_with = "some_duration")]
    pub removes_itself: Option<Duration>,
    /// The driver registers that long after the start.
    #[serde(default, deserialize_with = "some_duration")]
    pub late: Option<Duration>,
    /// Its types.
    #[serde(rename = "type", default)]
    pub types: Vec<Type>,
}

/// A type of upstream mdev.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Type {
    /// Name of its directory.
    pub id: String,
    /// `name`; no such file without it.
    pub name: Option<String>,
    /// `device_api`.
    #[serde(default = "vfio_pci")]
    pub api: String,
    /// `description`; no such file without it.
    pub description: Option<String>,
    /// How many units of the pool one takes.
    #[serde(default = "one")]
    pub cost: u32,
    /// How many there are at most, whatever the pool has.
    pub max: Option<u32>,
}

/// The attributes of a driver's devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attributes {
    /// None.
    #[default]
    None,
    /// `vendor/sample_mdev_dev`, as mtty has it.
    Sample,
    /// That, and the writable ones that `tests/vm/guest/attributes.h` gives mtty.
    Settings,
    /// `nvidia/vgpu_params` and what is beside it.
    Nvidia,
    /// i915's `intel_vgpu/`.
    I915,
    /// vfio_ap's `assign_…` and `matrix`.
    Ap,
}

/// A physical device with the interface of 2016.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// PCI address.
    pub address: String,
    /// What is told of it.
    #[serde(default)]
    pub pci: Pci,
    /// Content of `mdev_supported_types`, verbatim; no such file without it.
    pub table: Option<String>,
    /// The same from a file beside the host file, for bytes that TOML cannot hold.
    pub table_file: Option<String>,
    /// Size of the pool.
    #[serde(default = "many")]
    pub units: u32,
    /// Which argument names the type; a vendor that has none takes any argument.
    pub type_argument: Option<String>,
    /// Units that a type takes, by the value of that argument.
    #[serde(default)]
    pub cost: BTreeMap<String, u32>,
    /// Arguments without which it refuses to create.
    #[serde(default)]
    pub needs: Vec<String>,
    /// All devices of one `vm_uuid` are made before any of them is brought online, as NVIDIA wants it.
    #[serde(default)]
    pub create_before_online: bool,
    /// What `mdev_destroy` answers for a device that is online.
    #[serde(default = "ebusy", deserialize_with = "errno")]
    pub destroy_online: Errno,
}

/// A physical function of NVIDIA's vendor VFIO.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vendor {
    /// PCI address.
    pub address: String,
    /// What is told of it.
    #[serde(default)]
    pub pci: Pci,
    /// How many virtual functions are enabled.
    pub vfs: u32,
    /// Size of the physical function's pool.
    pub units: u32,
    /// Only one type at a time.
    #[serde(default)]
    pub homogeneous: bool,
    /// Whether `creatable_vgpu_types` begins with `ID    : vGPU Name`.
    #[serde(default)]
    pub header: bool,
    /// How long after its user ended a VF refuses `0`.
    #[serde(default, deserialize_with = "duration")]
    pub refuses_zero: Duration,
    /// The types.
    #[serde(rename = "type", default)]
    pub types: Vec<VendorType>,
}

/// A type of vendor VFIO.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VendorType {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// How many units one takes.
    #[serde(default = "one")]
    pub cost: u32,
}

/// Why a host file is no good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(String, std::io::Error),
    /// It says something that it should not.
    #[error("{0}: {1}")]
    Parse(String, toml::de::Error),
}

impl Host {
    /// Reads a host file, and the tables that it names.
    pub fn load(path: &Path) -> Result<(Self, Tables), Error> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Error::Read(shown.clone(), error))?;
        let host = Self::parse(&text).map_err(|error| Error::Parse(shown, error))?;
        let mut tables = Vec::new();
        for proposal in &host.proposal {
            if let Some(file) = &proposal.table_file {
                let file = path.parent().unwrap_or(Path::new(".")).join(file);
                let table =
                    std::fs::read(&file).map_err(|error| Error::Read(file.display().to_string(), error))?;
                tables.push((proposal.address.clone(), table));
            }
        }
        Ok((host, tables))
    }

    /// A host from the text of its file.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

fn one() -> u32 {
    1
}

fn many() -> u32 {
    u32::MAX
}

fn enospc() -> Errno {
    Errno::ENOSPC
}

fn ebusy() -> Errno {
    Errno::EBUSY
}

fn vfio_pci() -> String {
    "vfio-pci".to_owned()
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    some_duration(from).map(Option::unwrap_or_default)
}

fn some_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).map(Some).ok_or_else(|| serde::de::Error::custom(format!("{text} is no time")))
}

/// `10s`, `500ms`, or seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Some(number) = text.strip_suffix("ms") {
        return number.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s').unwrap_or(text).parse().ok().map(Duration::from_secs)
}

fn errno<'de, D: Deserializer<'de>>(from: D) -> Result<Errno, D::Error> {
    let text = String::deserialize(from)?;
    parse_errno(&text).ok_or_else(|| serde::de::Error::custom(format!("{text} is no errno")))
}

/// An errno by its name.
pub fn parse_errno(text: &str) -> Option<Errno> {
    (1..134).map(Errno::from_raw).find(|errno| format!("{errno:?}") == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_have_names_and_times_have_units() {
        assert_eq!(parse_errno("ENOSPC"), Some(Errno::ENOSPC));
        assert_eq!(parse_errno("EUSERS"), Some(Errno::EUSERS));
        assert_eq!(parse_errno("ENOPE"), None);
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse_duration("3"), Some(Duration::from_secs(3)));
        assert_eq!(parse_duration("soon"), None);
    }

    #[test]
    fn every_host_file_is_understood() {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts");
        for file in std::fs::read_dir(hosts).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                Host::load(&path).unwrap();
            }
        }
    }
}
