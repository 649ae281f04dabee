//! An example of each sentence, with a part of it that never differs.

use std::time::Duration;

use rustix::io::Errno;
use virt_mdev::backend::Backend;
use virt_mdev::host::holders::Holder;
use virt_mdev::ids::{DeviceId, DomainUuid, MdevUuid, Parent, TypeId, TypeWish};
use virt_mdev::ready::Awaited;
use virt_mdev::refusal::{Absent, BadDefinition, Clue, Maker, Refusal};
use virt_mdev::step::Place;
use virt_mdev::undo::Why;

/// The names of an enumeration's variants, and which one a value is. It compiles only if all are there.
macro_rules! variants {
    ($all:ident, $which:ident, $kind:ident: $($name:ident)*) => {
        pub(crate) const $all: [&str; [$(stringify!($name)),*].len()] = [$(stringify!($name)),*];

        pub(crate) fn $which(value: &$kind) -> &'static str {
            match value { $($kind::$name { .. } => stringify!($name)),* }
        }
    };
}

variants!(REFUSAL, refusal, Refusal:
    XmlTooLarge XmlNotUtf8 XmlMalformed XmlDtd XmlTooDeep XmlNotADomain XmlLacks UnknownElement UnknownAttribute
    MissingAttribute BadValue DuplicateUuid TooManyDevices StrayText Function FunctionNotReady FunctionTwice
    ManagedFunction NoSuchParent NoParents NeedsParent NoUuidThere NoArgumentsThere ArgumentsTooLong NoSuchType AmbiguousType
    NotOnNode NoRoom Model OtherDevice Held ClaimedByOther Reserved NotYet Definition SeveralDefinitions Defined NothingMakesIt
    Seclabel NotInNamespace MemoryLimit Vanished Create MadeMeanwhile Attribute Online Remove Io Blocked BeingStarted
    DaemonGone Told Worker Config);
variants!(ABSENT, absence, Absent: Unknown Device Driver Offer Functions NoFunctions OnSubchannel);
variants!(AWAITED, awaiting, Awaited: Parents Types Type AnyParent);
variants!(DEFINITION, definition, BadDefinition:
    Unreadable NotAFile BehindALink TooLarge NotUtf8 NotJson NotAnObject Lacks Twice Value Name);
variants!(WHY, why, Why: Held Pending Leaving Labelled Failed);

const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

fn device() -> DeviceId {
    DeviceId::parse(UUID).unwrap()
}

fn function() -> DeviceId {
    DeviceId::parse("0000:41:00.4").unwrap()
}

fn parent(name: &str) -> Parent {
    Parent::parse(name).unwrap()
}

fn kind(id: &str) -> TypeId {
    TypeId::parse(id).unwrap()
}

fn wish() -> TypeWish {
    TypeWish::parse("GRID M60-8Q").unwrap()
}

fn place(backend: Backend, parent: &str, kind: &str) -> Box<Place> {
    Box::new(Place {
        backend,
        parent: self::parent(parent),
        kind: self::kind(kind),
        arguments: String::new(),
        name: None,
    })
}

fn mtty() -> Box<Place> {
    place(Backend::Mdev, "mtty", "mtty-2")
}

/// A write that a driver has refused.
fn refused(path: &str, errno: &str) -> String {
    format!("cannot write \"1\" to {path}: {errno}")
}

#[rustfmt::skip]
pub(crate) fn refusals() -> Vec<(&'static str, Refusal)> {
    let text = str::to_owned;
    let element = || format!("<device uuid=\"{UUID}\">");
    let eio = "Input/output error (EIO, 5)";
    let sysfs = |rest: &str| format!("/sys/bus/mdev/devices/{UUID}/{rest}");
    let (m60, vf) = (|| parent("0000:86:00.0"), || parent("0000:41:00.4"));
    let no_type = |meant: Option<&str>, known: &[&str]| Refusal::NoSuchType {
        wish: wish(), parents: vec![m60()], known: known.iter().copied().map(text).collect(), meant: meant.map(text), clue: None,
    };
    let other = |device, place, wanted: &str| Refusal::OtherDevice { device, place, wanted: text(wanted), maker: Maker::Somebody };
    vec![
        ("the domain XML is larger than 4 MiB", Refusal::XmlTooLarge),
        ("the domain XML is not UTF-8 at byte ", Refusal::XmlNotUtf8(17)),
        ("the domain XML is malformed at byte ", Refusal::XmlMalformed { at: 430, why: text("it ends in the middle of an element") }),
        ("has a document type declaration (DTD)", Refusal::XmlDtd),
        ("the domain XML is nested deeper than ", Refusal::XmlTooDeep(256)),
        ("the domain XML begins with <", Refusal::XmlNotADomain(text("network"))),
        ("the domain XML has no <", Refusal::XmlLacks("name")),
        ("unknown element <", Refusal::UnknownElement { parent: text("device"), element: text("argumnet"), meant: Some(text("argument")), known: text("<attribute>, <argument>") }),
        ("unknown element <", Refusal::UnknownElement { parent: text("device"), element: text("colour"), meant: None, known: text("<attribute>, <argument>") }),
        ("unknown element <", Refusal::UnknownElement { parent: text("attribute"), element: text("value"), meant: None, known: String::new() }),
        (" has an unknown attribute \"", Refusal::UnknownAttribute { element: text("<device>"), attribute: text("tpye"), value: text("mtty-2"), meant: Some(text("type")), known: text("uuid, type") }),
        (" has an unknown attribute \"", Refusal::UnknownAttribute { element: text("<device>"), attribute: text("colour"), value: text("red"), meant: None, known: text("uuid, type") }),
        (" has no attribute \"type\"", Refusal::MissingAttribute { element: element(), attribute: text("type") }),
        (" has no attribute \"value\"", Refusal::MissingAttribute { element: format!("<attribute> of device {UUID}"), attribute: text("value") }),
        (": must be \"yes\" or \"no\"", Refusal::BadValue { element: element(), attribute: text("keep"), value: text("true"), why: text("must be \"yes\" or \"no\"") }),
        (": not a UUID of the form ", Refusal::BadValue { element: text("<device>"), attribute: text("uuid"), value: text("83b8"), why: text("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") }),
        (" is given twice, in more than one <", Refusal::DuplicateUuid { uuid: MdevUuid::parse(UUID).unwrap(), element: "hostdev" }),
        ("the domain XML has more than ", Refusal::TooManyDevices { limit: 256, what: "<device> elements in its metadata" }),
        ("text between the elements of <devices>", Refusal::StrayText(text("mtty-2"))),
        (" has neither uuid nor parent", Refusal::Function { device: text("the device of type \"1145\""), why: "has neither uuid nor parent, and the domain passes several virtual functions through", hint: "name one with parent=\"…\"" }),
        (" takes no vGPU types: ", Refusal::FunctionNotReady { device: text("the device of type \"1145\""), function: vf(), absent: Absent::Driver { bus: "PCI" } }),
        (" is wanted by more than one <device>", Refusal::FunctionTwice { device: text("0000:41:00.5") }),
        (" has managed='yes': libvirt would take", Refusal::ManagedFunction { address: text("0000:41:00.5") }),
        ("no parent ", Refusal::NoSuchParent { parent: m60(), absent: Absent::Device { bus: "PCI" }, relocate: None }),
        ("no parent ", Refusal::NoSuchParent { parent: m60(), absent: Absent::Device { bus: "PCI" }, relocate: Some(text("0000:87:00.0 has 2 left, and migrate=\"relocate\" in the <device> lets virt-mdev choose another parent where this one is missing")) }),
        ("no device on this host offers mediated devices", Refusal::NoParents { clue: None }),
        ("no device on this host offers mediated devices", Refusal::NoParents { clue: Some(Clue::VfioAp) }),
        ("no device on this host offers mediated devices", Refusal::NoParents { clue: Some(Clue::VfioCcw) }),
        ("no device on this host offers mediated devices", Refusal::NoParents { clue: Some(Clue::I915) }),
        ("no device on this host offers mediated devices", Refusal::NoParents { clue: Some(Clue::Nvidia) }),
        ("no device on this host offers mediated devices", Refusal::NoParents { clue: Some(Clue::TakeTypes { card: parent("0000:41:00.0") }) }),
        ("no device on this host offers mediated devices", Refusal::NoParents { clue: Some(Clue::NoFunctions { card: parent("0000:41:00.0") }) }),
        (" is on each parent another device", Refusal::NeedsParent { wish: TypeWish::parse("vfio_ccw-io").unwrap(), parents: vec![parent("0.0.0313"), parent("0.0.0314")] }),
        (" makes no devices with a uuid", Refusal::NoUuidThere { device: device(), parent: vf() }),
        (" speaks no interface that takes arguments", Refusal::NoArgumentsThere { device: device(), parent: parent("mtty") }),
        (": its arguments are longer than the ", Refusal::ArgumentsTooLong { device: device(), limit: 4059 }),
        (" is not offered by ", no_type(Some("GRID M60-8A"), &["nvidia-18"])),
        (" is not offered by ", no_type(None, &["nvidia-11", "nvidia-12"])),
        (" is not offered by ", no_type(None, &["t"; 40])),
        (" is not offered by ", no_type(None, &[])),
        (" but for upper and lower case: ", Refusal::AmbiguousType { wish: wish(), parent: m60(), found: vec![kind("odd-1"), kind("odd-2")] }),
        (" is on NUMA node ", Refusal::NotOnNode { wish: wish(), numa: 7, elsewhere: vec![text("0000:86:00.0")] }),
        ("no room for ", Refusal::NoRoom { what: text("GRID M60-8Q (nvidia-18)"), place: text("0000:86:00.0"), left: text("0 of 1 left, held by vm2"), hint: None }),
        (" has model=\"", Refusal::Model { device: device(), model: text("vfio-ap"), kind: kind("mtty-2"), parent: parent("mtty"), api: text("vfio-pci") }),
        (" exists already as ", other(device(), mtty(), "mtty-1")),
        (" exists already as ", other(device(), place(Backend::Proposal, "0000:86:00.0", "18"), "GRID M60-4Q")),
        (" exists already as ", other(function(), place(Backend::Nvidia, "0000:41:00.4", "1146"), "1145")),
        (", is in use by ", Refusal::Held { device: device(), place: mtty(), holder: text("qemu-system-x86 of domain vm2 (pid 4711)"), in_metadata: true }),
        (", is in use by ", Refusal::Held { device: device(), place: mtty(), holder: text("qemu-system-x86 of domain vm2 (pid 4711)"), in_metadata: false }),
        (", is in use by ", Refusal::Held { device: function(), place: place(Backend::Nvidia, "0000:41:00.4", "1146"), holder: text("qemu-system-x86 of domain vm2 (pid 4711)"), in_metadata: true }),
        (" belongs to domain ", Refusal::ClaimedByOther { device: device(), owner: text("original"), in_metadata: true }),
        (" belongs to domain ", Refusal::ClaimedByOther { device: device(), owner: text("vm2"), in_metadata: false }),
        (" belongs to domain ", Refusal::ClaimedByOther { device: function(), owner: text("vm2"), in_metadata: true }),
        (" is set aside for domain ", Refusal::Reserved { device: function(), domain: DomainUuid::parse(UUID).unwrap() }),
        ("; waited for ", Refusal::NotYet { refusal: Box::new(Refusal::NoParents { clue: None }), awaited: Awaited::AnyParent, waited: true }),
        ("the definition /etc/mdevctl.d/", Refusal::Definition { path: format!("/etc/mdevctl.d/mtty/{UUID}"), bad: BadDefinition::Lacks("mdev_type") }),
        (" of their parents is on this host", Refusal::SeveralDefinitions { device: device(), paths: vec![format!("/etc/mdevctl.d/mbochs/{UUID}"), format!("/etc/mdevctl.d/mtty/{UUID}")], there: 0 }),
        (" of their parents is on this host", Refusal::SeveralDefinitions { device: device(), paths: vec![format!("/etc/mdevctl.d/mbochs/{UUID}"), format!("/etc/mdevctl.d/mtty/{UUID}")], there: 2 }),
        (" is defined in /etc/mdevctl.d/", Refusal::Defined { device: device(), path: format!("/etc/mdevctl.d/mtty/{UUID}"), refusal: Box::new(no_type(None, &["mtty-1", "mtty-2"])) }),
        (" has managed='yes', and the device is not there", Refusal::NothingMakesIt { device: device(), domain: DomainUuid::parse(UUID).unwrap(), alone: true }),
        (" has managed='yes', and the device is not there", Refusal::NothingMakesIt { device: device(), domain: DomainUuid::parse(UUID).unwrap(), alone: false }),
        ("the <seclabel model='dac'> of the domain has the label ", Refusal::Seclabel { model: "dac", value: text("nosuch:+1"), why: text("the user is not known on this host") }),
        ("the <seclabel model='selinux'> of the domain has the label ", Refusal::Seclabel { model: "selinux", value: text("x"), why: text("longer than 4096 bytes") }),
        ("QEMU could not open ", Refusal::NotInNamespace { node: text("/dev/vfio/0"), verb: "add to", lines: text("cgroup_device_acl = [ \"/dev/null\", \"/dev/vfio/0\" ]") }),
        ("QEMU may lock ", Refusal::MemoryLimit { memory: 65536, lockable: 32768 }),
        (" was there and has just been taken away", Refusal::Vanished { device: device() }),
        ("creating device ", Refusal::Create { device: device(), place: mtty(), why: refused("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create", eio) }),
        ("somebody else made a device with this uuid at the same moment: ", Refusal::MadeMeanwhile { device: device(), place: mtty(), why: refused("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create", "File exists (EEXIST, 17)") }),
        ("attribute assign_adapter=\"", Refusal::Attribute { device: device(), attribute: text("assign_adapter"), value: text("1"), why: refused(&sysfs("assign_adapter"), "No such device (ENODEV, 19)"), errno: Some(Errno::NODEV) }),
        ("attribute assign_domain=\"3\"", Refusal::Attribute { device: device(), attribute: text("assign_domain"), value: text("3"), why: format!("cannot write \"3\" to {}: Cannot assign requested address (EADDRNOTAVAIL, 99)", sysfs("assign_domain")), errno: Some(Errno::ADDRNOTAVAIL) }),
        ("attribute assign_domain=\"4\"", Refusal::Attribute { device: device(), attribute: text("assign_domain"), value: text("4"), why: refused(&sysfs("assign_domain"), "Address already in use (EADDRINUSE, 98)"), errno: Some(Errno::ADDRINUSE) }),
        (" cannot be brought online: ", Refusal::Online { device: device(), why: refused(&sysfs("online"), eio) }),
        (" cannot be removed: ", Refusal::Remove { device: device(), why: refused(&sysfs("remove"), "Resource temporarily unavailable (EAGAIN, 11)") }),
        ("cannot write the record /run/virt-mdev/", Refusal::Io { what: format!("cannot write the record /run/virt-mdev/domains/{UUID}.json"), why: text("No space left on device (ENOSPC, 28)") }),
        (": it has not returned for ", Refusal::Blocked { doing: format!("write \"1\" to {}", sysfs("remove")), limit: Duration::from_secs(30) }),
        ("libvirt is starting the domain", Refusal::BeingStarted),
        (") that was starting the domain has ended", Refusal::DaemonGone { pid: 4711 }),
        ("see above", Refusal::Told),
        ("the process that works on the devices ", Refusal::Worker { how: text("ended with signal: 9 (SIGKILL)") }),
        ("/etc/virt-mdev/config.toml: ", Refusal::Config { path: text("/etc/virt-mdev/config.toml"), why: text("enabled = 1 must be true or false") }),
    ]
}

#[rustfmt::skip]
pub(crate) fn absent() -> Vec<(&'static str, Absent)> {
    let offer = |driver: &str| Absent::Offer { driver: driver.to_owned() };
    vec![
        ("nothing of that name offers mediated devices", Absent::Unknown),
        ("there is no PCI device with that address", Absent::Device { bus: "PCI" }),
        ("there is no css device with that address", Absent::Device { bus: "css" }),
        ("the PCI device has no driver", Absent::Driver { bus: "PCI" }),
        ("the css device has no driver", Absent::Driver { bus: "css" }),
        ("its driver nvidia offers no mediated devices", offer("nvidia")),
        ("its driver i915 offers no mediated devices", offer("i915")),
        ("its driver vfio-pci offers no mediated devices", offer("vfio-pci")),
        ("its driver io_subchannel offers no mediated devices", offer("io_subchannel")),
        ("its driver xe offers no mediated devices", offer("xe")),
        ("the card itself is none, ", Absent::Functions { such_as: parent("0000:41:00.4"), by_uuid: true }),
        ("the card itself is none, ", Absent::Functions { such_as: parent("0000:41:00.4"), by_uuid: false }),
        ("the card has no virtual functions yet, ", Absent::NoFunctions),
        ("a device on the subchannel ", Absent::OnSubchannel { subchannel: "0.0.0313".to_owned() }),
    ]
}

#[rustfmt::skip]
pub(crate) fn awaited() -> Vec<(&'static str, Awaited)> {
    vec![
        ("waited for the parent ", Awaited::Parents(vec![parent("0000:86:00.0")])),
        ("waited for one of the parents ", Awaited::Parents(vec![parent("0000:86:00.0"), parent("0000:87:00.0")])),
        ("waited for the types of ", Awaited::Types(vec![parent("0000:86:00.0")])),
        ("waited for a parent with the type ", Awaited::Type { wish: wish(), numa: None }),
        (" on NUMA node 1", Awaited::Type { wish: wish(), numa: Some(1) }),
        ("waited for a parent in vain", Awaited::AnyParent),
    ]
}

#[rustfmt::skip]
pub(crate) fn definitions() -> Vec<(&'static str, BadDefinition)> {
    let text = str::to_owned;
    vec![
        ("it cannot be read: ", BadDefinition::Unreadable(text("Permission denied (EACCES, 13)"))),
        ("it is a symbolic link, not a file", BadDefinition::NotAFile("a symbolic link")),
        ("is a symbolic link, which is not followed", BadDefinition::BehindALink(parent("mtty"))),
        ("larger than 64 KiB", BadDefinition::TooLarge(64)),
        ("not UTF-8 at byte 15", BadDefinition::NotUtf8(15)),
        (": not JSON: ", BadDefinition::NotJson(text("EOF while parsing a value at line 1 column 22"))),
        ("must be an object, and is ", BadDefinition::NotAnObject(text("[]"))),
        (": has no mdev_type", BadDefinition::Lacks("mdev_type")),
        (" stands there twice", BadDefinition::Twice { key: text("mdev_type") }),
        ("mdev_type = 5: must be a string", BadDefinition::Value { key: text("mdev_type"), value: text("5"), why: text("must be a string") }),
        ("names \"remove\": belongs to the kernel's device model", BadDefinition::Name { key: text("attrs[0]"), name: text("remove"), why: text("belongs to the kernel's device model, not to the driver") }),
    ]
}

#[rustfmt::skip]
pub(crate) fn whys() -> Vec<(&'static str, Why)> {
    let holder = Holder { pid: 4711, name: "qemu-system-x86".to_owned(), domain: Some("vm2".to_owned()) };
    vec![
        ("it is in use by ", Why::Held { holder: Some(holder) }),
        ("its removal is pending until nobody has it open any more", Why::Pending { writer: None }),
        ("its driver is removing it", Why::Leaving),
        (" cannot be taken back: cannot set owner ", Why::Labelled { what: "cannot set owner 0:0 on /dev/vfio/4: Read-only file system (EROFS, 30)".to_owned(), again: false }),
        (" cannot be removed: the driver refused: ", Why::Failed { what: "the driver refused: Device or resource busy (EBUSY, 16)".to_owned(), again: true }),
    ]
}
