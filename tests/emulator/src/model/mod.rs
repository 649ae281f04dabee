//! The host as a state machine: what the kernel and the vendors' drivers would answer. It does no I/O; time is what
//! it is told, uevents and late answers are what it gives out.

mod ap;
mod attributes;
mod control;
mod drivers;
mod handles;
mod mdev;
mod nodes;
mod pci;
mod proposal;
mod saved;
mod udevd;
mod vendor;
mod vfs;
mod xattrs;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::call::{Done, Ticket};
use crate::host::Host;
use crate::tree::{Kind, Tree};

pub use attributes::{Attribute, VendorFile};
pub use saved::Changed;
pub use udevd::properties;
pub use vfs::GET_DEVICE;

/// Where devices of the mdev bus appear.
const BUS: &str = "/sys/bus/mdev/devices";
/// Where parents appear.
const CLASS: &str = "/sys/class/mdev_bus";

/// The host.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// All files.
    pub tree: Tree,
    /// What is to be told to the outside, in order.
    pub out: Vec<Effect>,
    /// Time since the start.
    pub now: Duration,
    host: Arc<Host>,
    pools: BTreeMap<String, mdev::Pool>,
    parents: BTreeMap<String, mdev::Parent>,
    devices: BTreeMap<String, mdev::Device>,
    /// For each pool: how many devices a parent has of a type.
    taken: BTreeMap<String, BTreeMap<(String, String), u32>>,
    proposals: BTreeMap<String, proposal::Card>,
    proposed: BTreeMap<String, proposal::Device>,
    functions: BTreeMap<String, vendor::Function>,
    groups: BTreeMap<u32, nodes::Group>,
    group_numbers: nodes::Numbers,
    vfio_numbers: nodes::Numbers,
    handles: HashMap<u64, handles::Handle>,
    openings: Vec<handles::Opening>,
    timers: BTreeMap<(Duration, u64), Timer>,
    udevd: bool,
    next: u64,
}

/// Something that the outside has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The kernel tells of a device.
    Uevent(Uevent),
    /// udevd has dealt with it and tells so.
    Udev(Uevent),
    /// A process is ended.
    Kill(u32),
    /// A request that was kept is answered.
    Answer(Ticket, Result<Done, Errno>),
}

/// A uevent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, `unbind`.
    pub action: &'static str,
    /// Below `/sys`.
    pub devpath: String,
    /// Its subsystem.
    pub subsystem: String,
    /// What it says beyond those three.
    pub more: Vec<(String, String)>,
}

/// What happens by itself at some time.
#[derive(Debug, Clone)]
enum Timer {
    /// A driver registers its parents.
    Register(String),
    /// A driver takes away a device of its own accord.
    RemoveItself(String),
    /// An open has waited long enough for a close.
    Open,
    /// udevd has come to an event.
    Udev(Uevent),
}

impl World {
    /// The host that a file describes.
    pub fn new(host: &Host, tables: &[(String, Vec<u8>)], udevd: bool) -> Self {
        let mut world = Self { host: Arc::new(host.clone()), udevd, ..Self::default() };
        world.skeleton();
        for parent in &host.parent {
            world.add_parent(parent);
        }
        for card in &host.proposal {
            let file = tables.iter().find(|(address, _)| *address == card.address);
            world.add_card(card, file.map(|(_, table)| table.clone()));
        }
        for function in &host.vendor {
            world.add_function(function);
        }
        for device in &host.device {
            let made = world.create(&device.parent, &device.kind, device.uuid.as_bytes());
            debug_assert!(made.is_ok(), "{device:?}: {made:?}");
        }
        // Whatever happened before the start was heard by nobody.
        world.out.clear();
        world
    }

    fn skeleton(&mut self) {
        for dir in [
            "/sys/bus/mdev/devices",
            "/sys/bus/mdev/drivers",
            "/sys/bus/pci/devices",
            "/sys/bus/pci/drivers",
            "/sys/class/mdev_bus",
            "/sys/class/vfio",
            "/sys/class/vfio-dev",
            "/sys/dev/block",
            "/sys/dev/char",
            "/sys/devices/system/cpu",
            "/sys/devices/system/node",
            "/sys/devices/virtual",
            "/sys/firmware",
            "/sys/fs/cgroup",
            "/sys/kernel/iommu_groups",
            "/sys/kernel/security",
            "/sys/module",
            "/dev/vfio",
            "/run/lock",
            "/run/udev/data",
            "/run/systemd",
            "/etc/virt-mdev",
            "/etc/mdevctl.d",
            "/etc/libvirt/hooks",
            // Where libvirt writes the profiles of domains, and what each of them may open.
            "/etc/apparmor.d/libvirt",
        ] {
            self.tree.dir(dir);
        }
        self.tree.add("/dev/vfio/vfio", Kind::Node(crate::tree::Node::Container), 0o666);
        if self.host.cdev {
            self.tree.dir("/dev/vfio/devices");
        }
        for (file, attribute) in [
            ("control", Attribute::Control),
            ("log", Attribute::Log(crate::call::Weight::Read)),
            ("effects", Attribute::Log(crate::call::Weight::Effect)),
            ("trace", Attribute::Log(crate::call::Weight::Noise)),
            ("blocked", Attribute::Blocked),
        ] {
            let mode = if file == "control" { 0o644 } else { 0o444 };
            self.tree.add(&format!("/sys/kernel/emulator/{file}"), Kind::Attribute(attribute), mode);
        }
        if let Some(mode) = self.host.selinux {
            // Without a newline (`sel_read_enforce`).
            let enforcing = u8::from(mode == crate::host::Selinux::Enforcing);
            self.attribute("/sys/fs/selinux/enforce", Attribute::Text(enforcing.to_string()), 0o644);
        }
        if self.udevd {
            self.tree.add("/run/udev/control", Kind::Socket, 0o600);
        }
        for (path, text) in self.host.files.clone() {
            self.tree.add(&path, Kind::File(text.into_bytes()), 0o644);
        }
    }

    /// Lets time pass: does what was due.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Timer::Register(parent) => self.register(&parent),
                Timer::RemoveItself(uuid) => self.remove_itself(&uuid),
                Timer::Open => self.open_now(None),
                Timer::Udev(event) => self.udev_has_dealt_with(event),
            }
        }
    }

    /// When [`World::tick`] has something to do.
    pub fn due(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    fn after(&mut self, delay: Duration, timer: Timer) {
        let number = self.number();
        self.timers.insert((self.now + delay, number), timer);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn uevent(&mut self, action: &'static str, path: &str, subsystem: &str, more: &[(&str, &str)]) {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let event = Uevent {
            action,
            devpath: path.strip_prefix("/sys").unwrap_or(path).to_owned(),
            subsystem: subsystem.to_owned(),
            more: more.iter().map(text).collect(),
        };
        if self.udevd {
            self.after(self.host.udev_delay, Timer::Udev(event.clone()));
        }
        self.out.push(Effect::Uevent(event));
    }

    fn attribute(&mut self, path: &str, attribute: Attribute, mode: u32) {
        self.tree.add(path, Kind::Attribute(attribute), mode);
    }

    fn text(&mut self, path: &str, text: &str) {
        self.attribute(path, Attribute::Text(text.to_owned()), 0o444);
    }

    /// What every device has: `power/`, `uevent`, `subsystem`.
    fn device_files(&mut self, path: &str, subsystem: &str, uevent: &str) {
        for (name, text, mode) in [
            ("autosuspend_delay_ms", "", 0o644),
            ("control", "auto\n", 0o644),
            ("runtime_active_time", "0\n", 0o444),
            ("runtime_status", "unsupported\n", 0o444),
            ("runtime_suspended_time", "0\n", 0o444),
        ] {
            self.attribute(&format!("{path}/power/{name}"), Attribute::Text(text.to_owned()), mode);
        }
        self.attribute(&format!("{path}/uevent"), Attribute::Uevent(uevent.to_owned()), 0o644);
        self.tree.add_link(&format!("{path}/subsystem"), &format!("/sys/{subsystem}"));
    }

    /// A driver's directory on its bus.
    fn driver(&mut self, bus: &str, driver: &str) -> String {
        let dir = format!("/sys/bus/{bus}/drivers/{driver}");
        if self.tree.find(&dir).is_none() {
            for file in ["bind", "unbind", "uevent"] {
                self.attribute(&format!("{dir}/{file}"), Attribute::Sink, 0o200);
            }
            let module = format!("/sys/module/{}", driver.replace('-', "_"));
            self.tree.dir(&module);
            self.tree.add_link(&format!("{dir}/module"), &module);
        }
        dir
    }

    /// The links between a device and its driver.
    fn bind(&mut self, path: &str, name: &str, bus: &str, driver: &str) {
        let dir = self.driver(bus, driver);
        self.tree.add_link(&format!("{path}/driver"), &dir);
        self.tree.add_link(&format!("{dir}/{name}"), path);
    }
}

/// The unsigned number that the kernel reads (`kstrtoul` with base 0): decimal, `0x` or `0` for octal, perhaps a
/// `+`, perhaps one newline.
fn kstrtoul(data: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(data).ok()?;
    // sysfs ends the text with a zero byte of its own, and one of the writer's ends it earlier.
    let text = text.split('\0').next()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u64::from_str_radix(digits, radix).ok() } else { None }
}

#[cfg(test)]
mod tests;
