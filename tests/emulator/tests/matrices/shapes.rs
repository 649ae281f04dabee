//! What domains ask for: hosts, and the shapes of requests on each.

use std::fmt::Write as _;
use std::path::Path;

use crate::labels;

/// UUID of the domain.
pub(crate) const DOMAIN: &str = "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01";
/// UUIDs of its devices, and of one that is nobody's business.
const FIRST: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const SECOND: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
const BYSTANDER: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa9999";
/// Virtual functions of vendor VFIO; the third is nobody's business.
const VF: &str = "0000:41:00.4";
const OTHER_VF: &str = "0000:41:00.5";
const BYSTANDER_VF: &str = "0000:41:00.6";

/// Every domain has the nodes of some groups: a domain that names its device by an argument has no other way to them.
const QEMU_CONF: &str = "cgroup_device_acl = [ \"/dev/vfio/vfio\", \"/dev/vfio/0\", \"/dev/vfio/1\", \
                         \"/dev/vfio/2\", \"/dev/vfio/3\" ]\n";

/// A host whose parents speak one interface, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Backend {
    Mdev,
    Proposal,
    Vendor,
    Mixed,
}

impl Backend {
    pub(crate) const ALL: [Self; 4] = [Self::Mdev, Self::Proposal, Self::Vendor, Self::Mixed];

    /// Its name in messages, and its host file.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::Mdev => "mtty",
            Self::Proposal => "m60-2016",
            Self::Vendor => "l40s-vfio",
            Self::Mixed => "mixed",
        }
    }

    /// The host file, with few functions to look at, and without the time that a driver takes after its user ended:
    /// nothing here is about that. With SELinux and AppArmor, and with a rule of udev's that makes nodes their owner
    /// cannot use; one host has the devices' own nodes.
    pub(crate) fn text(self, hosts: &Path) -> std::io::Result<String> {
        let text = std::fs::read_to_string(hosts.join(self.host()).with_extension("toml"))?;
        let lines = text.lines().filter(|line| !line.starts_with("refuses_zero"));
        let text: String = lines.map(|line| line.replace("vfs = 32", "vfs = 3") + "\n").collect();
        let (mode, rules, cdev) = (labels::MODE, labels::rules(), self == Self::Vendor);
        Ok(format!(
            "selinux = 'permissive'\nnode_mode = {mode}\ncdev = {cdev}\n{text}\n[files]\n\
             '/etc/libvirt/qemu.conf' = '''{QEMU_CONF}'''\n'{rules}' = '''{}'''\n",
            labels::RULES
        ))
    }
}

/// What a domain asks for, on which host, and what is there before.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) backend: Backend,
    pub(crate) name: &'static str,
    /// The domain, as libvirt shows it before and after it runs.
    pub(crate) xml: String,
    /// With the labels that libvirt has chosen for it.
    pub(crate) labelled: String,
    /// Devices that it has: what QEMU opens.
    pub(crate) devices: Vec<&'static str>,
    /// Writes by which somebody else makes devices before.
    pub(crate) before: Vec<(String, String)>,
    /// Not even `/run/virt-mdev` is there before.
    pub(crate) fresh: bool,
    /// It has been started and released before, and has kept devices.
    pub(crate) kept_before: bool,
}

/// One `<device>` of the metadata: its attributes, what is in it, and what QEMU opens.
struct Wanted(&'static str, String, &'static str);

/// What libvirt writes at start on a host with SELinux, and on one with AppArmor: both at once is more than a host has,
/// and whoever labels nodes for both deals with either.
fn seclabels() -> String {
    let (owner, context, profile) = (labels::owner(), labels::CONTEXT, format!("libvirt-{DOMAIN}"));
    let process = "system_u:system_r:svirt_t:s0:c1,c2";
    let label = |(model, label, image): (&str, &str, &str)| {
        format!(
            "<seclabel type='dynamic' model='{model}' relabel='yes'><label>{label}</label>\
             <imagelabel>{image}</imagelabel></seclabel>"
        )
    };
    let all = [("selinux", process, context), ("apparmor", &profile, &profile), ("dac", owner, owner)];
    all.into_iter().map(label).collect()
}

/// `argument`: the device that stands in `<qemu:commandline>`, where the others are hostdevs.
fn domain(devices: &[Wanted], argument: Option<&str>, seclabels: &str) -> String {
    let (mut metadata, mut hostdevs) = (String::new(), String::new());
    for Wanted(id, attributes, children) in devices {
        let uuid = if id.len() == 36 { format!("uuid='{id}' ") } else { String::new() };
        let _ = write!(metadata, "<m:device {uuid}{attributes}>{children}</m:device>");
        if argument == Some(id) {
            continue;
        }
        let _ = match id.split([':', '.']).collect::<Vec<_>>().as_slice() {
            [domain, bus, slot, function] => write!(
                hostdevs,
                "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x{domain}' \
                 bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source></hostdev>"
            ),
            _ => write!(
                hostdevs,
                "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>\
                 <source><address uuid='{id}'/></source></hostdev>"
            ),
        };
    }
    let in_words = |id| {
        format!(
            "<q:commandline><q:arg value='-device'/>\
             <q:arg value='vfio-pci,sysfsdev=/sys/bus/mdev/devices/{id}'/></q:commandline>"
        )
    };
    let arguments = argument.map(in_words).unwrap_or_default();
    format!(
        "<domain type='qemu' id='3' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><name>vm1</name>\
         <uuid>{DOMAIN}</uuid><metadata><m:devices xmlns:m='urn:virt-mdev:domain:1'>{metadata}</m:devices>\
         </metadata><devices>{hostdevs}</devices>{seclabels}{arguments}</domain>\n"
    )
}

fn shape(backend: Backend, name: &'static str, devices: Vec<Wanted>) -> Shape {
    shape_with(backend, name, devices, None)
}

fn shape_with(backend: Backend, name: &'static str, devices: Vec<Wanted>, argument: Option<&str>) -> Shape {
    let (xml, labelled) = (domain(&devices, argument, ""), domain(&devices, argument, &seclabels()));
    let devices = devices.into_iter().map(|Wanted(id, ..)| id).collect();
    let before = vec![bystander(backend)];
    Shape { backend, name, xml, labelled, devices, before, fresh: false, kept_before: false }
}

fn wanted(id: &'static str, attributes: &str, children: &'static str) -> Wanted {
    Wanted(id, attributes.to_owned(), children)
}

const MTTY: &str = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create";

fn propose(card: &str, uuid: &str) -> (String, String) {
    let made = format!("{uuid}:vgpu_type_id=12,vm_uuid=0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7dffff");
    (format!("/sys/bus/pci/devices/{card}/mdev_create"), made)
}

fn typed(function: &str) -> (String, String) {
    (format!("/sys/bus/pci/devices/{function}/nvidia/current_vgpu_type"), "1145".to_owned())
}

/// A device that somebody else made and that no domain wants: it must be there at the end.
fn bystander(backend: Backend) -> (String, String) {
    match backend {
        Backend::Mdev | Backend::Mixed => (MTTY.to_owned(), BYSTANDER.to_owned()),
        Backend::Proposal => propose("0000:87:00.0", BYSTANDER),
        Backend::Vendor => typed(BYSTANDER_VF),
    }
}

impl Shape {
    fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }

    fn kept_before(self) -> Self {
        Self { name: "kept before", kept_before: true, ..self }
    }

    fn with(mut self, made: (String, String)) -> Self {
        self.before.push(made);
        self
    }

    /// For messages.
    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.backend.host(), self.name)
    }
}

/// All shapes of a host.
pub(crate) fn shapes(backend: Backend) -> Vec<Shape> {
    match backend {
        Backend::Mdev => mdev(),
        Backend::Proposal => proposal(),
        Backend::Vendor => vendor(),
        Backend::Mixed => mixed(),
    }
}

fn mdev() -> Vec<Shape> {
    let here = "type='mtty-2' parent='mtty'";
    let settings =
        "<m:attribute name='settings/first' value='a'/><m:attribute name='settings/second' value='b'/>";
    let keep = || {
        let first = wanted(FIRST, "type='mtty-2' parent='mtty' keep='yes'", settings);
        shape(Backend::Mdev, "keep", vec![first, wanted(SECOND, here, "")])
    };
    let two = || {
        let plain = "<m:attribute name='plain' value='c'/>";
        vec![wanted(FIRST, here, settings), wanted(SECOND, here, plain)]
    };
    vec![
        shape(Backend::Mdev, "one device", vec![wanted(FIRST, "type='Dual port serial' parent='mtty'", "")])
            .fresh(),
        shape(Backend::Mdev, "two with attributes", two()),
        keep(),
        keep().kept_before(),
        shape(Backend::Mdev, "foreign device", two()).with((MTTY.to_owned(), FIRST.to_owned())),
        shape(Backend::Mdev, "no parent named", vec![wanted(FIRST, "type='mtty-1'", "")]),
        shape_with(Backend::Mdev, "by argument", two(), Some(FIRST)),
    ]
}

fn proposal() -> Vec<Shape> {
    let here = "type='GRID M60-4Q' parent='0000:86:00.0'";
    let argument = "<m:argument name='frame_rate_limiter' value='0'/>";
    let keep = || {
        let first = wanted(FIRST, "type='17' parent='0000:86:00.0' keep='yes'", "");
        shape(Backend::Proposal, "keep", vec![first, wanted(SECOND, here, "")])
    };
    let two = || vec![wanted(FIRST, here, argument), wanted(SECOND, "type='17' parent='0000:86:00.0'", "")];
    vec![
        shape(Backend::Proposal, "one device", vec![wanted(FIRST, here, "")]).fresh(),
        shape(Backend::Proposal, "two with arguments", two()),
        keep(),
        keep().kept_before(),
        shape(Backend::Proposal, "foreign device", two()).with(propose("0000:86:00.0", FIRST)),
        shape(Backend::Proposal, "no parent named", vec![wanted(FIRST, "type='GRID M60-8Q'", "")]),
    ]
}

fn vendor() -> Vec<Shape> {
    let (first, second) = ("type='1145' parent='0000:41:00.4'", "type='1146' parent='0000:41:00.5'");
    let params = "<m:attribute name='nvidia/vgpu_params' value='enable_uvm=1'/>";
    let keep = || {
        let kept = wanted(VF, "type='1145' parent='0000:41:00.4' keep='yes'", params);
        shape(Backend::Vendor, "keep", vec![kept, wanted(OTHER_VF, second, params)])
    };
    let instance = "<m:attribute name='nvidia/gpu_instance_id' value='3'/>";
    let two = || vec![wanted(VF, first, params), wanted(OTHER_VF, second, instance)];
    vec![
        shape(
            Backend::Vendor,
            "one function",
            vec![wanted(VF, "type='NVIDIA L40S-1B' parent='0000:41:00.4'", "")],
        )
        .fresh(),
        shape(Backend::Vendor, "two with attributes", two()),
        keep(),
        keep().kept_before(),
        shape(Backend::Vendor, "foreign device", two()).with(typed(VF)),
        shape(Backend::Vendor, "no parent named", vec![wanted(VF, "type='1145'", "")]),
    ]
}

fn mixed() -> Vec<Shape> {
    let settings = "<m:attribute name='settings/first' value='a'/>";
    let params = "<m:attribute name='nvidia/vgpu_params' value='frame_rate_limiter=0'/>";
    // Not NVIDIA's mdevs: release waits for their driver to take them away by itself.
    let all = |keep: &str| {
        vec![
            Wanted(FIRST, format!("type='mtty-2' parent='mtty'{keep}"), settings),
            Wanted(SECOND, format!("type='17' parent='0000:86:00.0'{keep}"), ""),
            Wanted(VF, format!("type='1145'{keep}"), params),
        ]
    };
    let keep = || shape(Backend::Mixed, "keep", all(" keep='yes'"));
    vec![
        shape(Backend::Mixed, "all three", all("")).fresh(),
        keep(),
        keep().kept_before(),
        shape(Backend::Mixed, "foreign device", all("")).with(typed(VF)),
    ]
}
