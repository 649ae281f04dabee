//! What a person assigns to a domain, as XML: the `<device>` of our metadata and the `<hostdev>` that opens it.

use quick_xml::escape::escape;

use super::{NAMESPACE, Placement, Wanted};
use crate::ids::{DeviceId, PciAddress};

/// A device that is put into a domain's XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// What it is.
    pub wanted: Wanted,
    /// What the hostdev names.
    pub device: DeviceId,
    /// `model` of the hostdev: the type's `device_api`. A virtual function needs none.
    pub model: String,
}

/// Lines of XML, each with its depth.
pub(super) type Lines = Vec<(usize, String)>;

/// Both elements of each device, in what they stand in: for people to read, or to paste with `virsh edit`.
pub fn snippet(devices: &[Assigned]) -> String {
    let mut lines: Lines = vec![(0, "<metadata>".to_owned())];
    nest(&mut lines, 1, ours(devices));
    lines.extend([(0, "</metadata>".to_owned()), (0, "<devices>".to_owned())]);
    for device in devices {
        nest(&mut lines, 1, hostdev(device));
    }
    lines.push((0, "</devices>".to_owned()));
    laid_out(&lines, "\n") + "\n"
}

/// The lines as text, without an indentation in front of the first. `newline` is a line's end and what the others are
/// indented by; empty, all stands on one line.
pub(super) fn laid_out(lines: &Lines, newline: &str) -> String {
    let indented = |(depth, line): &(usize, String)| match newline {
        "" => line.clone(),
        newline => format!("{newline}{}{line}", "  ".repeat(*depth)),
    };
    let text: String = lines.iter().map(indented).collect();
    text.strip_prefix(newline).unwrap_or(&text).to_owned()
}

pub(super) fn nest(lines: &mut Lines, by: usize, inner: Lines) {
    lines.extend(inner.into_iter().map(|(depth, line)| (depth + by, line)));
}

/// Our element in `<metadata>`, where the domain has none yet.
pub(super) fn ours(devices: &[Assigned]) -> Lines {
    let mut lines = vec![(0, format!("<mdev:devices xmlns:mdev=\"{NAMESPACE}\">"))];
    for assigned in devices {
        nest(&mut lines, 1, device(&assigned.wanted, "mdev:"));
    }
    lines.push((0, "</mdev:devices>".to_owned()));
    lines
}

/// Our element for `virsh metadata --set`, which gives it the namespace; on one line.
pub fn metadata_xml(devices: &[Wanted]) -> String {
    let mut lines: Lines = vec![(0, "<devices>".to_owned())];
    devices.iter().for_each(|wanted| lines.extend(device(wanted, "")));
    lines.push((0, "</devices>".to_owned()));
    laid_out(&lines, "")
}

/// A `<device>`; `prefix` is what the element around it has, with its colon.
pub(super) fn device(wanted: &Wanted, prefix: &str) -> Lines {
    let mut start = format!("<{prefix}device");
    let mut add = |name: &str, value: &str| start.push_str(&format!(" {name}=\"{}\"", escaped(value)));
    if let Some(uuid) = &wanted.uuid {
        add("uuid", &uuid.to_string());
    }
    add("type", &wanted.wish.to_string());
    if !wanted.parents.is_empty() {
        add("parent", &wanted.parents.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }
    match wanted.placement {
        Some(Placement::Pack) => add("placement", "pack"),
        Some(Placement::Spread) => add("placement", "spread"),
        None => {}
    }
    if let Some(numa) = wanted.numa {
        add("numa", &numa.to_string());
    }
    if wanted.keep {
        add("keep", "yes");
    }
    if wanted.relocate {
        add("migrate", "relocate");
    }
    if wanted.attached {
        add("attached", "yes");
    }
    let attributes = wanted.attributes.iter().map(|it| ("attribute", it.name.to_string(), &it.value));
    let arguments = wanted.arguments.iter().map(|(name, value)| ("argument", name.clone(), value));
    let mut lines = vec![(0, start)];
    for (element, name, value) in attributes.chain(arguments) {
        let (name, value) = (escaped(&name), escaped(value));
        lines.push((1, format!("<{prefix}{element} name=\"{name}\" value=\"{value}\"/>")));
    }
    let childless = lines.len() == 1;
    if let Some((_, start)) = lines.first_mut() {
        start.push_str(if childless { "/>" } else { ">" });
    }
    if !childless {
        lines.push((0, format!("</{prefix}device>")));
    }
    lines
}

/// The `<hostdev>` of a device as a document of its own, for a domain that runs.
pub fn hostdev_xml(device: &DeviceId, model: &str) -> String {
    laid_out(&hostdev_of(device, model), "\n") + "\n"
}

pub(super) fn hostdev(assigned: &Assigned) -> Lines {
    hostdev_of(&assigned.device, &assigned.model)
}

/// The `<hostdev>`, in libvirt's own spelling.
fn hostdev_of(device: &DeviceId, model: &str) -> Lines {
    let (start, address) = match device {
        DeviceId::Mdev(uuid) => (
            format!("<hostdev mode='subsystem' type='mdev' managed='no' model='{}'>", escaped(model)),
            format!("<address uuid='{uuid}'/>"),
        ),
        DeviceId::Vf(address) => {
            ("<hostdev mode='subsystem' type='pci' managed='no'>".to_owned(), pci_address(address))
        }
    };
    let lines = [(0, start.as_str()), (1, "<source>"), (2, &address), (1, "</source>"), (0, "</hostdev>")];
    lines.into_iter().map(|(depth, line)| (depth, line.to_owned())).collect()
}

/// The opposite of the reader's: `0000:86:00.4` has always four parts.
fn pci_address(address: &PciAddress) -> String {
    let address = address.to_string();
    let mut parts = address.split([':', '.']);
    let named = ["domain", "bus", "slot", "function"].map(|name| {
        let part = parts.next().unwrap_or_default();
        format!("{name}='0x{part}'")
    });
    format!("<address {}/>", named.join(" "))
}

/// A value between quotes of either kind. A line's end would come back as a blank.
fn escaped(value: &str) -> String {
    escape(value).replace('\n', "&#10;").replace('\r', "&#13;").replace('\t', "&#9;")
}
