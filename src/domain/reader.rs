//! One streaming pass over the domain's XML.

use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use super::elements::{attributes, in_namespace, is_whole, malformed, resolve, unknown_element};
use super::hostdev::{Arguments, Hostdev, hostdev, pci_address};
use super::wanted::{Given, value};
use super::{Domain, MdevHostdev, NAMESPACE, PciHostdev, Seclabel, Wanted};
use crate::ids::{DomainUuid, MdevUuid};
use crate::refusal::Refusal;

/// libvirt's own limit on the XML that its clients may send (`REMOTE_STRING_MAX`), in bytes.
pub const MAX_XML: usize = 4 * 1024 * 1024;

/// Domain XML is about ten levels deep; metadata of others may be deeper, but not without end.
pub(super) const MAX_DEPTH: usize = 256;

/// No machine that QEMU emulates has room for more.
const MAX_DEVICES: usize = 256;

pub(super) const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// Where in the document we are, as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Domain,
    Name,
    Uuid,
    Metadata,
    OurDevices,
    OurDevice,
    /// An `<attribute>` or `<argument>`, by its name.
    OurLeaf(&'static str),
    Devices,
    Hostdev,
    Source,
    Address,
    Seclabel,
    Label,
    Imagelabel,
    Commandline,
    Memory,
    Memtune,
    MemoryBacking,
    Elsewhere,
}

#[derive(Default)]
struct Found {
    name: Option<String>,
    uuid: Option<DomainUuid>,
    wanted: Vec<Wanted>,
    mdevs: Vec<MdevHostdev>,
    pcis: Vec<PciHostdev>,
    sysfsdevs: Vec<MdevUuid>,
    seclabels: Vec<Seclabel>,
    memory: Option<u64>,
    locked: bool,
    /// The hostdev that is open.
    hostdev: Option<Hostdev>,
    /// The `<qemu:arg>`s so far.
    arguments: Arguments,
    /// Text of the element that is open, if it is one whose text we want.
    text: String,
}

pub(super) fn read(text: &str) -> Result<Domain, Refusal> {
    let mut reader = NsReader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut path: Vec<At> = Vec::new();
    let mut found = Found::default();
    let mut root_seen = false;
    loop {
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(error) => return Err(malformed(&reader, &error)),
        };
        match event {
            Event::Start(start) => {
                is_whole(&reader, &start)?;
                if path.len() == MAX_DEPTH {
                    return Err(Refusal::XmlTooDeep(MAX_DEPTH));
                }
                let at = match path.last() {
                    None if root_seen => {
                        return Err(malformed(&reader, &"a second element follows the domain"));
                    }
                    None => {
                        root_seen = true;
                        root(&reader, &start)?
                    }
                    Some(parent) => found.open(*parent, &reader, &start)?,
                };
                found.text.clear();
                path.push(at);
            }
            Event::End(_) => {
                if let Some(at) = path.pop() {
                    found.close(at)?;
                }
            }
            Event::Text(content) => {
                found.add(
                    path.last(),
                    &content.xml10_content().map_err(|error| malformed(&reader, &error))?,
                )?;
            }
            Event::CData(content) => {
                found.add(
                    path.last(),
                    &content.xml10_content().map_err(|error| malformed(&reader, &error))?,
                )?;
            }
            Event::GeneralRef(reference) => {
                let mut buffer = [0; 4];
                found.add(path.last(), resolve(&reader, &reference, &mut buffer)?)?;
            }
            Event::DocType(_) => return Err(Refusal::XmlDtd),
            Event::Eof => break,
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    if !path.is_empty() {
        return Err(malformed(&reader, &"it ends in the middle of an element"));
    }
    found.finish()
}

pub(super) fn root(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<At, Refusal> {
    match reader.resolver().resolve_element(start.name()) {
        (ResolveResult::Unbound, name) if name.as_ref() == b"domain" => Ok(At::Domain),
        (_, name) => Err(Refusal::XmlNotADomain(String::from_utf8_lossy(name.as_ref()).into_owned())),
    }
}

/// Whether there may be one more: each is compared with the others.
fn room(are: usize, what: &'static str) -> Result<(), Refusal> {
    if are < MAX_DEVICES { Ok(()) } else { Err(Refusal::TooManyDevices { limit: MAX_DEVICES, what }) }
}

impl Found {
    /// An element begins below `parent`.
    fn open(&mut self, parent: At, reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<At, Refusal> {
        let local = start.local_name();
        let local = local.as_ref();
        let at = match (parent, local) {
            (At::Domain, b"name") => At::Name,
            (At::Domain, b"uuid") => At::Uuid,
            (At::Domain, b"metadata") => At::Metadata,
            (At::Domain, b"devices") => At::Devices,
            (At::Domain, b"seclabel") => {
                let given = attributes(reader, start, false)?;
                self.seclabels.push(Seclabel {
                    kind: value(&given, "type").unwrap_or_default().to_owned(),
                    model: value(&given, "model").map(str::to_owned),
                    relabel: value(&given, "relabel") != Some("no"),
                    ..Seclabel::default()
                });
                At::Seclabel
            }
            // libvirt writes KiB, whatever the author wrote (`virDomainDefFormat`).
            (At::Domain, b"memory") if value(&attributes(reader, start, false)?, "unit") == Some("KiB") => {
                At::Memory
            }
            (At::Domain, b"memtune") => At::Memtune,
            (At::Domain, b"memoryBacking") => At::MemoryBacking,
            (At::Memtune, b"hard_limit") | (At::MemoryBacking, b"locked") => {
                self.locked = true;
                At::Elsewhere
            }
            (At::Seclabel, b"label") => At::Label,
            (At::Seclabel, b"imagelabel") => At::Imagelabel,
            (At::Domain, b"commandline") if in_namespace(reader, start, QEMU) => At::Commandline,
            (At::Commandline, b"arg") => {
                self.argument(value(&attributes(reader, start, false)?, "value").unwrap_or_default())?;
                At::Elsewhere
            }
            (At::Devices, b"hostdev") => {
                self.hostdev = Some(hostdev(&attributes(reader, start, false)?));
                At::Hostdev
            }
            (At::Hostdev, b"source") => At::Source,
            (At::Source, b"address") => {
                self.address(&attributes(reader, start, false)?)?;
                At::Address
            }
            (At::Metadata, _) if in_namespace(reader, start, NAMESPACE) => {
                self.our_devices(reader, start)?;
                At::OurDevices
            }
            // An element without a namespace below ours can only be meant as ours: `virsh metadata --set` leaves
            // the children of what it is given without one.
            (At::OurDevices | At::OurDevice | At::OurLeaf(_), _)
                if in_namespace(reader, start, NAMESPACE) || in_namespace(reader, start, "") =>
            {
                self.our_element(parent, reader, start)?
            }
            _ => At::Elsewhere,
        };
        Ok(at)
    }

    fn our_devices(&self, reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<(), Refusal> {
        if start.local_name().as_ref() != b"devices" {
            return Err(unknown_element("metadata", start, &["devices"]));
        }
        match attributes(reader, start, true)?.first() {
            None => Ok(()),
            Some((name, value)) => Err(Refusal::UnknownAttribute {
                element: "<devices>".to_owned(),
                attribute: name.clone(),
                value: value.clone(),
                meant: None,
                known: "none".to_owned(),
            }),
        }
    }

    fn our_element(
        &mut self,
        parent: At,
        reader: &NsReader<&[u8]>,
        start: &BytesStart<'_>,
    ) -> Result<At, Refusal> {
        match (parent, start.local_name().as_ref()) {
            (At::OurDevices, b"device") => {
                let wanted = Wanted::parse(&attributes(reader, start, true)?)?;
                if let Some(uuid) = &wanted.uuid {
                    if self.wanted.iter().any(|other| other.uuid.as_ref() == Some(uuid)) {
                        return Err(Refusal::DuplicateUuid { uuid: uuid.clone(), element: "device" });
                    }
                }
                room(self.wanted.len(), "<device> elements in its metadata")?;
                self.wanted.push(wanted);
                Ok(At::OurDevice)
            }
            (At::OurDevices, _) => Err(unknown_element("devices", start, &["device"])),
            (At::OurDevice, b"attribute") => {
                if let Some(device) = self.wanted.last_mut() {
                    device.add_attribute(&attributes(reader, start, true)?)?;
                }
                Ok(At::OurLeaf("attribute"))
            }
            (At::OurDevice, b"argument") => {
                if let Some(device) = self.wanted.last_mut() {
                    device.add_argument(&attributes(reader, start, true)?)?;
                }
                Ok(At::OurLeaf("argument"))
            }
            (At::OurDevice, _) => Err(unknown_element("device", start, &["attribute", "argument"])),
            (At::OurLeaf(name), _) => Err(unknown_element(name, start, &[])),
            // Nothing of ours is passed over.
            _ => Err(unknown_element("metadata", start, &[])),
        }
    }

    fn add(&mut self, at: Option<&At>, text: &str) -> Result<(), Refusal> {
        match at {
            Some(At::Name | At::Uuid | At::Memory | At::Label | At::Imagelabel) => self.text.push_str(text),
            Some(At::OurDevices | At::OurDevice | At::OurLeaf(_)) if !text.trim().is_empty() => {
                return Err(Refusal::StrayText(text.trim().to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    /// An element ends.
    fn close(&mut self, at: At) -> Result<(), Refusal> {
        match at {
            At::Name => self.name = Some(std::mem::take(&mut self.text)),
            At::Memory => self.memory = std::mem::take(&mut self.text).trim().parse().ok(),
            At::Uuid => {
                let text = std::mem::take(&mut self.text);
                let uuid = DomainUuid::parse(text.trim()).map_err(|bad| Refusal::BadValue {
                    element: "<uuid> of the domain".to_owned(),
                    attribute: "text".to_owned(),
                    value: text,
                    why: bad.to_string(),
                })?;
                self.uuid = Some(uuid);
            }
            At::Label | At::Imagelabel => {
                let text = std::mem::take(&mut self.text);
                if let Some(seclabel) = self.seclabels.last_mut() {
                    *(if at == At::Label { &mut seclabel.label } else { &mut seclabel.imagelabel }) =
                        Some(text);
                }
            }
            At::Hostdev => self.end_hostdev()?,
            _ => {}
        }
        Ok(())
    }

    fn address(&mut self, given: &Given) -> Result<(), Refusal> {
        match &mut self.hostdev {
            Some(Hostdev::Mdev { uuid, .. }) => {
                let text = value(given, "uuid").unwrap_or_default();
                let parsed = MdevUuid::parse(text).map_err(|bad| Refusal::BadValue {
                    element: "<address> of a hostdev".to_owned(),
                    attribute: "uuid".to_owned(),
                    value: text.to_owned(),
                    why: bad.to_string(),
                })?;
                *uuid = Some(parsed);
            }
            Some(Hostdev::Pci { address, .. }) => *address = pci_address(given),
            Some(Hostdev::Other) | None => {}
        }
        Ok(())
    }

    fn end_hostdev(&mut self) -> Result<(), Refusal> {
        match self.hostdev.take() {
            Some(Hostdev::Mdev { uuid: Some(uuid), model, managed }) => {
                if self.mdevs.iter().any(|other| other.uuid == uuid) {
                    return Err(Refusal::DuplicateUuid { uuid, element: "hostdev" });
                }
                room(self.mdevs.len(), "mediated <hostdev> elements")?;
                self.mdevs.push(MdevHostdev { uuid, model, managed });
            }
            Some(Hostdev::Pci { address: Some(address), managed }) => {
                self.pcis.push(PciHostdev { address, managed });
            }
            // libvirt refuses a hostdev without an address by itself.
            _ => {}
        }
        Ok(())
    }

    fn argument(&mut self, value: &str) -> Result<(), Refusal> {
        let uuid = self.arguments.mdev(value);
        if let Some(uuid) = uuid.filter(|uuid| !self.sysfsdevs.contains(uuid)) {
            room(self.sysfsdevs.len(), "sysfsdev= arguments")?;
            self.sysfsdevs.push(uuid);
        }
        Ok(())
    }

    /// Whether the domain opens what a `<device>` describes.
    fn opens(&self, wanted: &Wanted) -> bool {
        match &wanted.uuid {
            Some(uuid) => {
                self.mdevs.iter().any(|hostdev| hostdev.uuid == *uuid) || self.sysfsdevs.contains(uuid)
            }
            None => self.pcis.iter().any(|pci| wanted.parents == [pci.address.as_parent()]),
        }
    }

    fn finish(mut self) -> Result<Domain, Refusal> {
        let mut wanted = std::mem::take(&mut self.wanted);
        // What the domain has let go of since it was attached is no part of it.
        wanted.retain(|wanted| !wanted.attached || self.opens(wanted));
        if !wanted.is_empty() {
            room(self.pcis.len().saturating_sub(1), "PCI <hostdev> elements")?;
        }
        Ok(Domain {
            name: self.name.filter(|name| !name.is_empty()).ok_or(Refusal::XmlLacks("name"))?,
            uuid: self.uuid.ok_or(Refusal::XmlLacks("uuid"))?,
            wanted,
            mdevs: self.mdevs,
            pcis: self.pcis,
            sysfsdevs: self.sysfsdevs,
            seclabels: self.seclabels,
            memory: self.memory,
            locked: self.locked,
            iommufd: self.arguments.iommufd,
        })
    }
}
