//! Every sentence with which a start is refused, and its hint, in one place, so that they read alike; what some of them end
//! with is in `causes`.
//!
//! The user of `virsh start` sees `error: DOMAIN: SENTENCE` and, where there is a fix, `hint: FIX`.

mod causes;

use std::time::Duration;

use rustix::io::Errno;

use crate::backend::Backend;
use crate::ids::{DeviceId, DomainUuid, MdevUuid, Parent, TypeId, TypeWish};
use crate::ready::Awaited;
use crate::record::HOLDS;
use crate::step::Place;
use crate::words::{escaped, list, printable};

pub use causes::{Absent, BadDefinition, Clue, Maker};

/// For two domains that have the same device.
const OTHER_DEVICE: &str = "only one of the two can run at a time, until one has another device: virsh edit, and a definition of its own";

/// Why a domain's devices cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say what each variant and field is")]
pub enum Refusal {
    // What stands in the XML.
    #[error("the domain XML is larger than 4 MiB")]
    XmlTooLarge,
    #[error("the domain XML is not UTF-8 at byte {0}")]
    XmlNotUtf8(usize),
    #[error("the domain XML is malformed at byte {at}: {}", printable(why))]
    XmlMalformed { at: u64, why: String },
    #[error("the domain XML has a document type declaration (DTD), which is not allowed")]
    XmlDtd,
    #[error("the domain XML is nested deeper than {0} elements")]
    XmlTooDeep(usize),
    #[error("the domain XML begins with <{}>, not with <domain>", printable(.0))]
    XmlNotADomain(String),
    #[error("the domain XML has no <{0}>")]
    XmlLacks(&'static str),
    #[error("unknown element <{}> in <{parent}> (namespace urn:virt-mdev:domain:1)", printable(element))]
    UnknownElement { parent: String, element: String, meant: Option<String>, known: String },
    #[error("{element} has an unknown attribute \"{}\" (=\"{}\")", printable(attribute), printable(value))]
    UnknownAttribute {
        element: String,
        attribute: String,
        value: String,
        meant: Option<String>,
        known: String,
    },
    #[error("{element} has no attribute \"{attribute}\"")]
    MissingAttribute { element: String, attribute: String },
    #[error("{element}: {attribute}=\"{}\": {why}", printable(value))]
    BadValue { element: String, attribute: String, value: String, why: String },
    #[error("the uuid {uuid} is given twice, in more than one <{element}>")]
    DuplicateUuid { uuid: MdevUuid, element: &'static str },
    #[error("the domain XML has more than {limit} {what}")]
    TooManyDevices { limit: usize, what: &'static str },
    #[error("text between the elements of <devices> in the metadata: \"{}\"", printable(.0))]
    StrayText(String),
    #[error("{device} {why}")]
    Function { device: String, why: &'static str, hint: &'static str },
    #[error("{device} has no uuid, and {function} takes no vGPU types: {absent}")]
    FunctionNotReady { device: String, function: Parent, absent: Absent },
    #[error("{device} is wanted by more than one <device>")]
    FunctionTwice { device: String },
    #[error("hostdev {address} has managed='yes': libvirt would take the vGPU's driver away from it")]
    ManagedFunction { address: String },

    // What the host has.
    #[error("no parent {parent} on this host: {absent}")]
    NoSuchParent { parent: Parent, absent: Absent, relocate: Option<String> },
    #[error("no device on this host offers mediated devices: /sys/class/mdev_bus is empty or not there")]
    NoParents { clue: Option<Clue> },
    #[error("type \"{}\" is on each parent another device, and the domain names no parent", printable(&wish.to_string()))]
    NeedsParent { wish: TypeWish, parents: Vec<Parent> },
    #[error("device {device}: {parent} takes a vGPU type itself and makes no devices with a uuid")]
    NoUuidThere { device: DeviceId, parent: Parent },
    #[error("device {device}: {parent} speaks no interface that takes arguments")]
    NoArgumentsThere { device: DeviceId, parent: Parent },
    #[error("device {device}: its arguments are longer than the {limit} bytes that a driver can be given")]
    ArgumentsTooLong { device: DeviceId, limit: usize },
    #[error("type \"{}\" is not offered by {}", printable(&wish.to_string()), list(parents))]
    NoSuchType {
        wish: TypeWish,
        parents: Vec<Parent>,
        known: Vec<String>,
        meant: Option<String>,
        clue: Option<Box<Clue>>,
    },
    #[error("type \"{}\" fits several types of {parent} but for upper and lower case: {}", printable(&wish.to_string()), list(found))]
    AmbiguousType { wish: TypeWish, parent: Parent, found: Vec<TypeId> },
    #[error("no parent of type \"{}\" is on NUMA node {numa}", printable(&wish.to_string()))]
    NotOnNode { wish: TypeWish, numa: u32, elsewhere: Vec<String> },
    #[error("no room for {what} on {place}: {left}")]
    NoRoom { what: String, place: String, left: String, hint: Option<String> },
    #[error(
        "hostdev {device} has model=\"{}\", but {kind} on {parent} is {}",
        printable(model),
        printable(api)
    )]
    Model { device: DeviceId, model: String, kind: TypeId, parent: Parent, api: String },
    #[error("device {device} exists already as {place}, and the domain wants {wanted}; {maker}")]
    OtherDevice { device: DeviceId, place: Box<Place>, wanted: String, maker: Maker },
    #[error("device {device}, {place}, is in use by {holder}")]
    Held { device: DeviceId, place: Box<Place>, holder: String, in_metadata: bool },
    #[error("device {device} belongs to domain {}", printable(owner))]
    ClaimedByOther { device: DeviceId, owner: String, in_metadata: bool },

    #[error("{device} is set aside for domain {domain}, which is about to come to this host")]
    Reserved { device: DeviceId, domain: DomainUuid },

    /// What may come, and was waited for where that makes sense.
    #[error("{refusal}{}", if *waited { format!("; waited for {awaited} in vain") } else { String::new() })]
    NotYet { refusal: Box<Refusal>, awaited: Awaited, waited: bool },

    // What mdevctl's definitions say.
    #[error("the definition {path}: {bad}")]
    Definition { path: String, bad: BadDefinition },
    #[error(
        "device {device} is defined by {}, and {} of their parents is on this host",
        list(paths), if *there == 0 { "none" } else { "more than one" }
    )]
    SeveralDefinitions { device: DeviceId, paths: Vec<String>, there: usize },
    #[error("{refusal}; device {device} is defined in {path}")]
    Defined { device: DeviceId, path: String, refusal: Box<Refusal> },
    #[error(
        "hostdev {device} has managed='yes', and the device is not there, nor does the domain's metadata name it, nor has /etc/mdevctl.d a definition of it"
    )]
    NothingMakesIt { device: DeviceId, domain: DomainUuid, alone: bool },

    #[error("the <seclabel model='{model}'> of the domain has the label \"{}\": {why}", printable(value))]
    Seclabel { model: &'static str, value: String, why: String },
    #[error(
        "QEMU could not open {node}: libvirt makes no node for what <qemu:commandline> names, and cgroup_device_acl in /etc/libvirt/qemu.conf does not list it"
    )]
    NotInNamespace { node: String, verb: &'static str, lines: String },
    #[error(
        "QEMU may lock {lockable} KiB of memory, and the domain, which has its device by <qemu:commandline> only, has {memory} KiB"
    )]
    MemoryLimit { memory: u64, lockable: u64 },

    // What happened while doing it.
    #[error("device {device} was there and has just been taken away")]
    Vanished { device: DeviceId },
    #[error("creating device {device} as {place}: {why}")]
    Create { device: DeviceId, place: Box<Place>, why: String },
    #[error(
        "creating device {device} as {place}: somebody else made a device with this uuid at the same moment: {why}"
    )]
    MadeMeanwhile { device: DeviceId, place: Box<Place>, why: String },
    #[error("attribute {attribute}=\"{}\" of device {device}: {why}", printable(value))]
    Attribute { device: DeviceId, attribute: String, value: String, why: String, errno: Option<Errno> },
    #[error("device {device} cannot be brought online: {why}")]
    Online { device: DeviceId, why: String },
    #[error("device {device} cannot be removed: {why}")]
    Remove { device: DeviceId, why: String },
    #[error("{what}: {why}")]
    Io { what: String, why: String },
    #[error("cannot {}: it has not returned for {limit:?}", escaped(doing))]
    Blocked { doing: String, limit: Duration },
    #[error("libvirt is starting the domain")]
    BeingStarted,
    #[error("the libvirt daemon (pid {pid}) that was starting the domain has ended")]
    DaemonGone { pid: i32 },
    /// The worker has told already.
    #[error("see above")]
    Told,
    #[error("the process that works on the devices {how}")]
    Worker { how: String },
    #[error("{path}: {why}")]
    Config { path: String, why: String },
}

/// All of them, as there are a few on most cards, or the first of very many: libvirt's error is no place for a long list, and
/// what a worker says fits into a pipe.
fn known_types(known: &[String]) -> String {
    const SHOWN: usize = 32;
    match known.get(..SHOWN) {
        Some(first) if known.len() > SHOWN => {
            let more = known.len() - SHOWN;
            format!("{} and {more} more, which `virt-mdev types` shows", first.join(", "))
        }
        _ => known.join(", "),
    }
}

impl Refusal {
    /// What may still come and make the start possible.
    pub fn awaited(&self) -> Option<&Awaited> {
        match self {
            Self::NotYet { awaited, .. } => Some(awaited),
            Self::Defined { refusal, .. } => refusal.awaited(),
            _ => None,
        }
    }

    /// The same, after that was waited for in vain.
    #[must_use]
    pub fn after_waiting(self) -> Self {
        match self {
            Self::NotYet { refusal, awaited, .. } => Self::NotYet { refusal, awaited, waited: true },
            Self::Defined { device, path, refusal } => {
                Self::Defined { device, path, refusal: Box::new(refusal.after_waiting()) }
            }
            other => other,
        }
    }

    /// A refusal of what may come.
    pub fn until(self, awaited: Awaited) -> Self {
        Self::NotYet { refusal: Box::new(self), awaited, waited: false }
    }

    /// What to do about it, where something can be done.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownElement { meant: Some(meant), .. } => Some(format!("did you mean <{meant}>?")),
            Self::UnknownElement { known, .. } if known.is_empty() => Some("nothing can stand in there".to_owned()),
            Self::UnknownElement { known, .. } => Some(format!("known elements there: {known}")),
            Self::UnknownAttribute { meant: Some(meant), .. } => Some(format!("did you mean \"{meant}\"?")),
            Self::UnknownAttribute { known, .. } => Some(format!("known attributes: {known}")),
            Self::MissingAttribute { attribute, .. } if attribute == "type" => {
                Some("`virt-mdev types` shows the types of this host".to_owned())
            }
            Self::MissingAttribute { .. } => Some("it needs name=\"…\" and value=\"…\"".to_owned()),
            Self::BadValue { attribute, .. } if attribute == "uuid" => Some("`uuidgen` makes one".to_owned()),
            Self::StrayText(_) => Some("a device is an element: <device uuid=\"…\" type=\"…\"/>".to_owned()),
            Self::Function { hint, .. } => Some((*hint).to_owned()),
            Self::FunctionTwice { .. } => {
                Some("each needs a function of its own: parent=\"…\" says which".to_owned())
            }
            Self::DuplicateUuid { .. } => Some("every device needs a uuid of its own; `uuidgen` makes one".to_owned()),
            Self::ManagedFunction { .. } => Some("write managed='no' in that <hostdev type='pci'>".to_owned()),
            Self::NoSuchParent { parent, absent, relocate: Some(relocate) } => {
                Some(format!("{}; {relocate}", absent.hint(parent)))
            }
            Self::NoSuchParent { parent, absent, .. } | Self::FunctionNotReady { function: parent, absent, .. } => {
                Some(absent.hint(parent))
            }
            Self::NoParents { clue: Some(clue) } => Some(clue.hint()),
            Self::NeedsParent { parents, .. } => Some(match parents.as_slice() {
                [one] => format!("name {one}, if that is meant: `lscss` shows which device it has"),
                several => {
                    format!("name one of {}: `lscss` shows which device each of them has", list(several))
                }
            }),
            Self::NoParents { .. } => Some(
                "is a driver loaded that offers some, and its vendor's service running? `virt-mdev types` shows what is there".to_owned(),
            ),
            Self::NotYet { refusal, .. } => refusal.hint(),
            Self::NoSuchType { meant: Some(meant), .. } => Some(format!("did you mean \"{meant}\"?")),
            Self::NoSuchType { clue: Some(clue), .. } => Some(clue.hint()),
            Self::NoSuchType { known, .. } if known.is_empty() => Some(
                "no types are offered there yet; some drivers list them only once their vendor's service runs (NVIDIA: systemctl status nvidia-vgpud nvidia-vgpu-mgr)".to_owned(),
            ),
            Self::NoSuchType { known, .. } => Some(format!("offered there: {}", known_types(known))),
            Self::AmbiguousType { .. } => Some("write the type's id, or its name exactly".to_owned()),
            Self::NotOnNode { elsewhere, .. } => {
                Some(format!("offered on other nodes by {}; drop numa=\"…\" to allow them", list(elsewhere)))
            }
            Self::NoRoom { hint: None, .. } => {
                Some("stop a domain that has one, or remove a device that nobody needs: `virt-mdev list` shows them".to_owned())
            }
            Self::NoRoom { hint, .. } => hint.clone(),
            Self::Model { api, .. } => Some(format!("write model='{}' in the <hostdev>", printable(api))),
            Self::NoUuidThere { parent, .. } => Some(format!(
                "leave uuid=\"…\" out, and pass the function through: <hostdev type='pci' managed='no'> with the address {parent}"
            )),
            Self::NoArgumentsThere { .. } => {
                Some("driver attributes are written with <attribute name=\"…\" value=\"…\"/>".to_owned())
            }
            Self::OtherDevice { device, maker: Maker::EarlierRun, .. } => {
                Some(format!("if it is not needed any more: virt-mdev release --force {device}"))
            }
            Self::OtherDevice { device, place, .. } => {
                let parent = &place.parent;
                let (other, remove) = match place.backend {
                    Backend::Mdev => ("give the domain's device another uuid", format!("echo 1 > /sys/bus/mdev/devices/{device}/remove")),
                    Backend::Proposal => (
                        "give the domain's device another uuid",
                        format!("write what made it to /sys/bus/pci/devices/{parent}/mdev_destroy"),
                    ),
                    Backend::Nvidia => (
                        "pass another virtual function through",
                        format!("echo 0 > /sys/bus/pci/devices/{parent}/nvidia/current_vgpu_type"),
                    ),
                };
                Some(format!("{other}, or remove that one: {remove}"))
            }
            Self::ClaimedByOther { device: DeviceId::Vf(_), .. } | Self::Held { device: DeviceId::Vf(_), .. } => {
                Some("a virtual function belongs to one domain at a time: pass another one through".to_owned())
            }
            Self::Reserved { .. } => Some(format!(
                "pass another virtual function through; or, if that domain does not come after all, try again in {} minutes",
                HOLDS.as_secs() / 60
            )),
            // What only a hostdev names is made by others, and gets no other uuid from us.
            Self::Held { in_metadata: false, .. } => Some(format!("end that process; if it runs another domain with the same device, {OTHER_DEVICE}")),
            Self::ClaimedByOther { in_metadata: false, .. } => Some(OTHER_DEVICE.to_owned()),
            Self::Held { .. } => {
                Some("end that process; or, if this domain is a clone that has its original's uuids, give it its own: virt-mdev assign --fresh VM".to_owned())
            }
            Self::ClaimedByOther { .. } => {
                Some("a cloned domain keeps the uuids of its original, until it gets its own: virt-mdev assign --fresh VM".to_owned())
            }
            Self::Definition { .. } => Some(
                "mend that file (see mdevctl(8)), or describe the device in the domain's metadata, which goes before it".to_owned(),
            ),
            Self::SeveralDefinitions { there: 0, .. } => Some(
                "is the driver of one of these parents loaded? `virt-mdev types` shows what is there".to_owned(),
            ),
            Self::SeveralDefinitions { device, .. } => Some(format!(
                "keep one of them (`mdevctl undefine --uuid {device} --parent PARENT` removes one), or describe the device in the domain's metadata"
            )),
            Self::Defined { refusal, .. } => refusal.hint(),
            Self::NothingMakesIt { device, domain, alone } => {
                let element = format!("device uuid=\"{device}\" type=\"TYPE\"/>");
                let metadata = if *alone {
                    format!("virsh metadata {domain} urn:virt-mdev:domain:1 --config --key mdev --set '<devices><{element}</devices>'")
                } else {
                    format!("virsh edit {domain}, and <mdev:{element} in its metadata")
                };
                Some(format!(
                    "{metadata}; or mdevctl define --uuid {device} --parent PARENT --type TYPE; or virsh nodedev-define FILE.xml; `virt-mdev types` shows parents and types"
                ))
            }
            Self::BeingStarted => Some("try again once it runs".to_owned()),
            Self::Seclabel { model: "dac", .. } => Some(
                "write it as user:group, each a name in /etc/passwd and /etc/group or a number like +64055".to_owned(),
            ),
            Self::Seclabel { model, .. } => Some(format!(
                "<seclabel type='dynamic' model='{model}'/>, without a label, lets libvirt choose one"
            )),
            Self::NotInNamespace { verb, lines, .. } => {
                let lines = escaped(lines);
                Some(format!("{verb} /etc/libvirt/qemu.conf, and restart libvirt's daemon: {lines}"))
            }
            Self::MemoryLimit { memory, .. } => Some(format!(
                "add to the domain: <memtune><hard_limit unit='KiB'>{}</hard_limit></memtune>",
                memory.saturating_add(1024 * 1024)
            )),
            Self::Vanished { .. } => {
                Some("start the domain again: it is made then, if metadata or a definition says what it is to be".to_owned())
            }
            Self::MadeMeanwhile { .. } => Some(
                "start the domain again: if what is there now is what it wants, that is used; `virt-mdev list` shows it".to_owned(),
            ),
            Self::Attribute { attribute, errno, .. } if causes::of_queue(attribute, *errno).is_some() => {
                causes::of_queue(attribute, *errno).map(str::to_owned)
            }
            Self::Create { .. } | Self::Attribute { .. } | Self::Online { .. } => Some(
                "that is its driver's answer; the kernel's log (dmesg) or the vendor's service may say why".to_owned(),
            ),
            Self::Remove { .. } => Some(
                "start the domain again once nobody has it open; `virt-mdev list` says what is in the way".to_owned(),
            ),
            Self::Worker { .. } => Some(
                "the kernel's log (dmesg) and journalctl -t virt-mdev may say why; `virt-mdev reconcile` clears up".to_owned(),
            ),
            Self::Blocked { .. } => Some(
                "look at the kernel's log (dmesg) for what keeps it; `virt-mdev reconcile` clears up once it answers, and wait.driver in /etc/virt-mdev/config.toml is the limit".to_owned(),
            ),
            _ => None,
        }
    }
}
