//! udev's events of VFIO nodes: whose node it is, and the domain's label for it again.
//!
//! The rule calls us twice. While udev goes through its rules we say what there is to know, and udev sets the SELinux
//! context that we name. Once it has done its part, which at `add` resets a context that no rule has named, we look
//! again and bring the node to where the record has it: a domain may have started or ended in between.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

use crate::autostart;
use crate::backend::nvidia;
use crate::host::{Host, Trouble, journal, node};
use crate::ids::{Context, DeviceId, Node, Parent};
use crate::labels::{self, Label};
use crate::lost;
use crate::record::{Record, Records, State};
use crate::step::Step;
use crate::words::printable;

#[cfg(test)]
mod tests;

/// As `wait.lock` is by default. udev kills a worker after three minutes; the lock is held for single system calls.
const LIMIT: Duration = Duration::from_secs(30);

const UUID: &str = "VIRT_MDEV_UUID";
const VF: &str = "VIRT_MDEV_VF";
const DOMAIN: &str = "VIRT_MDEV_DOMAIN";
const CONTEXT: &str = "VIRT_MDEV_CONTEXT";
const WAS: &str = "VIRT_MDEV_WAS";

/// What `virt-mdev-udev` does. `args` are its arguments without the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        return ExitCode::SUCCESS;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let host = Host::real();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    if args.iter().any(|arg| arg == "--arrived") {
        return arrived(&host, &variable("DEVPATH"), &variable("MDEV_STATE"));
    }
    if args.iter().any(|arg| arg == "--gone") {
        keep_only(CapabilitySet::empty());
        return gone(&host, &variable("DEVPATH"));
    }
    let Some(event) = Event::parse(&variable("ACTION"), &variable("SUBSYSTEM"), &variable("DEVPATH")) else {
        return ExitCode::SUCCESS;
    };
    let domain = variable(DOMAIN);
    let done = if args.iter().any(|arg| arg == "--apply") {
        // An owner, a mode, and a context: SELinux asks for FOWNER, a kernel without it for SYS_ADMIN.
        keep_only(CapabilitySet::CHOWN | CapabilitySet::FOWNER | CapabilitySet::SYS_ADMIN);
        // Told only of a node that a domain had a moment ago: whoever has none costs nothing.
        if !domain.is_empty() {
            journal::start(&domain);
        }
        apply(&host, &event, &Given::parse(&variable(CONTEXT), &variable(WAS)), LIMIT)
    } else {
        keep_only(CapabilitySet::empty());
        // Nobody reads it: nothing to do about that.
        properties(&host, &event).map(|text| drop(io::stdout().lock().write_all(text.as_bytes())))
    };
    ended(&domain, &format!("/dev/{}", event.node), done)
}

/// Gives up what root can do beyond owning files, but for `needed`.
fn keep_only(needed: CapabilitySet) {
    // Whoever cannot give it up has little to give up.
    let permitted = capabilities(None).map_or(needed, |has| has.permitted & needed);
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    let _ = set_capabilities(None, sets);
    let _ = set_no_new_privs(true);
}

/// A device has come that a start may have waited for in vain: the next start waits anew for what is still missing.
fn arrived(host: &Host, devpath: &str, state: &str) -> ExitCode {
    let Ok(parent) = Parent::parse(devpath.rsplit('/').next().unwrap_or_default()) else {
        return ExitCode::SUCCESS;
    };
    journal::start("");
    // A parent comes with "registered", or, if that was before udevd began, with the "add" of its first round.
    let known = if state == "unregistered" { Ok(()) } else { Records::new(host).has_come(&parent) };
    let told = autostart::tell_systemd(host, &parent, state);
    ended("", &parent, known.and(told))
}

/// A device has gone.
fn gone(host: &Host, devpath: &str) -> ExitCode {
    let Ok(device) = DeviceId::parse(devpath.rsplit('/').next().unwrap_or_default()) else {
        return ExitCode::SUCCESS;
    };
    ended("", &device, lost::look(host, &device, LIMIT))
}

/// Says what went wrong, to the journal and to udev.
fn ended(domain: &str, what: &dyn std::fmt::Display, done: Result<(), Trouble>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            journal::start(domain);
            log::error!("{what}: {trouble}");
            let _ = writeln!(io::stderr().lock(), "error: {what}: {trouble}");
            ExitCode::FAILURE
        }
    }
}

/// The node that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which. A device's own is there only where the kernel has those nodes.
    pub node: Node,
    /// Whose devices it is a node of.
    of: Of,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    /// Those of the IOMMU group with this number.
    Group(String),
    Device(DeviceId),
}

impl Event {
    /// From what udev's environment says: `vfio` and `/devices/virtual/vfio/7`, or `vfio-dev` and
    /// `…/<device>/vfio-dev/vfio0`. `None` for what is no node of a device of the kinds that domains have.
    pub fn parse(action: &str, subsystem: &str, devpath: &str) -> Option<Self> {
        let mut names = devpath.rsplit('/');
        let name = names.next()?;
        match subsystem {
            _ if action == "remove" => None,
            "vfio" if name.bytes().all(|byte| byte.is_ascii_digit()) => {
                let node = Node::parse(&format!("vfio/{name}")).ok()?;
                Some(Self { node, of: Of::Group(name.to_owned()) })
            }
            "vfio-dev" if names.next() == Some("vfio-dev") => {
                let node = Node::parse(&format!("vfio/devices/{name}")).ok()?;
                Some(Self { node, of: Of::Device(DeviceId::parse(names.next()?).ok()?) })
            }
            _ => None,
        }
    }

    fn devices(&self, host: &Host) -> Result<Vec<DeviceId>, Trouble> {
        match &self.of {
            Of::Device(device) => Ok(vec![device.clone()]),
            Of::Group(number) => {
                let names = host.names(&format!("sys/kernel/iommu_groups/{number}/devices"))?;
                Ok(names.iter().filter_map(|name| DeviceId::parse(name).ok()).collect())
            }
        }
    }
}

/// The context that udev was told to set, and the one before ours: what a release that came in between has put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    context: Option<Context>,
    was: Option<Context>,
}

impl Given {
    /// From the properties that we gave udev.
    pub fn parse(context: &str, was: &str) -> Self {
        Self { context: Context::parse(context).ok(), was: Context::parse(was).ok() }
    }
}

/// What a record has a node carry, and what it carried before: not once it is being put back.
pub fn label<'a>(record: &'a Record, device: &DeviceId, node: &Node) -> Option<(&'a Label, &'a Label)> {
    record.steps.iter().find_map(|entry| match &entry.step {
        Step::Label { device: its, node: other, label, was }
            if its == device && other == node && matches!(entry.state, State::Intended | State::Done) =>
        {
            Some((label, was))
        }
        _ => None,
    })
}

/// One property. udev takes off the quotes and has no escapes: what is between them is the value, whatever it is, but
/// for the end of the line, after which another property would begin (`get_property_from_string`, udev-rules.c).
fn property(key: &str, value: &str) -> String {
    format!("{key}=\"{value}\"\n")
}

/// What is told of a device and its domain, if it has one.
fn told(device: &DeviceId, node: &Node, record: Option<&Record>) -> String {
    let key = match device {
        DeviceId::Mdev(_) => UUID,
        DeviceId::Vf(_) => VF,
    };
    let mut text = property(key, &device.to_string());
    let Some(record) = record else { return text };
    text += &property(DOMAIN, &printable(&record.domain.name).to_string());
    if let Some((Label { context: Some(context), .. }, was)) = label(record, device, node) {
        text += &property(CONTEXT, &context.to_string());
        text += &was.context.as_ref().map(|was| property(WAS, &was.to_string())).unwrap_or_default();
    }
    text
}

/// What udev is told of a node: nothing, if it is no mediated device's, no vGPU's, and no domain's.
pub fn properties(host: &Host, event: &Event) -> Result<String, Trouble> {
    let records = Records::new(host);
    let devices = event.devices(host)?;
    for device in &devices {
        match records.of_device(device) {
            Ok(None) => {}
            Ok(record) => return Ok(told(device, &event.node, record.as_ref())),
            // Told again, and in full, by the second call.
            Err(trouble) => log::warn!("{trouble}"),
        }
    }
    let ours = |device: &&DeviceId| match device {
        DeviceId::Mdev(_) => true,
        DeviceId::Vf(address) => nvidia::is_vgpu(host, address),
    };
    Ok(devices.iter().find(ours).map(|device| told(device, &event.node, None)).unwrap_or_default())
}

/// Brings a node to where the record has it now.
pub fn apply(host: &Host, event: &Event, given: &Given, limit: Duration) -> Result<(), Trouble> {
    let records = Records::new(host);
    let node = &event.node;
    let devices = event.devices(host)?;
    // A label that is given from here on, udev does not touch any more.
    if given.context.is_none() && !devices.iter().any(|device| records.is_claimed(device)) {
        return Ok(());
    }
    // Whoever puts a label back writes that down before he takes this lock: what we read is what holds.
    let _lock = records.lock_labels(limit)?;
    let mut wanted = Label::default();
    for device in &devices {
        let Some(record) = records.of_device(device)? else { continue };
        let Some((label, _)) = label(&record, device, node) else { continue };
        // Groups are numbered anew: the node in the record may be another's by now.
        if node::of(host, device)?.contains(node) {
            wanted = label.clone();
            // A mode that was good enough is not in the record, and may have been replaced like the owner.
            if wanted.owner.is_some() && wanted.mode.is_none() {
                wanted.mode = labels::usable(node::carried(host, node)?.mode);
            }
            if node::put(host, node, &wanted, None)? {
                log::info!(VIRT_MDEV_UUID:% = device; "label /dev/{node} of {device} again: {wanted}");
            }
            break;
        }
    }
    if let Given { context: given @ Some(_), was: was @ Some(_) } = given {
        let only = |context: &Option<Context>| Label { context: context.clone(), ..Label::default() };
        if wanted.context.is_none() && node::put(host, node, &only(was), Some(&only(given)))? {
            log::info!("label /dev/{node} as before: {}", only(was));
        }
    }
    Ok(())
}
