//! Where in a domain's XML the elements lie that an edit touches: one streaming pass, which keeps offsets.

use std::ops::Range;

use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::NsReader;

use super::super::NAMESPACE;
use super::super::elements::{attributes, in_namespace, is_whole, malformed, unknown_element};
use super::super::hostdev::{Arguments, Hostdev, hostdev, pci_address};
use super::super::reader::{MAX_DEPTH, QEMU, root};
use super::super::wanted::{parent_names, value};
use crate::ids::{DeviceId, MdevUuid, Parent, PciAddress};
use crate::refusal::Refusal;

/// An element that others are put into.
#[derive(Debug, Clone)]
pub(super) struct Element {
    /// As it stands there, with its prefix.
    pub(super) name: String,
    pub(super) whole: Range<usize>,
    pub(super) start_tag: Range<usize>,
    /// `<metadata/>`
    pub(super) empty: bool,
    /// The last element in it.
    pub(super) last: Option<Range<usize>>,
    /// It holds something besides our own devices: another element, a comment, text.
    pub(super) other: bool,
}

/// A `<device>` of our metadata, as far as it can be told from others.
#[derive(Debug, Clone)]
pub struct Device {
    /// Of a mediated device.
    pub uuid: Option<MdevUuid>,
    /// Of a virtual function its address, where it is written down.
    pub parents: Vec<Parent>,
    /// As it was written.
    pub kind: String,
    pub(super) whole: Range<usize>,
}

/// Where a UUID stands.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) value: Range<usize>,
    pub(super) in_argument: bool,
}

/// The attributes that make up a PCI address, and how many digits libvirt writes for each
/// (`virPCIDeviceAddressFormat`).
pub(super) const PARTS: [(&str, usize); 4] = [("domain", 4), ("bus", 2), ("slot", 2), ("function", 1)];

/// How the `<address>` of a PCI hostdev is written.
#[derive(Debug)]
pub(super) struct Address {
    /// The value of each of [`PARTS`]; domain and function may be left out.
    pub(super) parts: [Option<Range<usize>>; 4],
    /// Behind its last attribute.
    pub(super) end: usize,
}

#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: Element,
    /// The last of the elements that say which domain it is: `<metadata>` comes after them.
    pub(super) head: Range<usize>,
    pub(super) metadata: Option<Element>,
    /// Our element in it; libvirt keeps one for each namespace (`virXMLNodeSanitizeNamespaces`).
    pub(super) ours: Option<Element>,
    pub(super) wanted: Vec<Device>,
    pub(super) devices: Option<Element>,
    pub(super) hostdevs: Vec<(DeviceId, Range<usize>)>,
    pub(super) uuids: Vec<(MdevUuid, Place)>,
    /// The addresses of PCI hostdevs.
    pub(super) addresses: Vec<(PciAddress, Address)>,
    /// Our metadata's `parent` of devices without a UUID: each is the device itself.
    pub(super) parents: Vec<(PciAddress, Range<usize>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Domain,
    Head,
    Metadata,
    Ours,
    Device,
    Devices,
    Hostdev,
    Source,
    Commandline,
    Elsewhere,
}

#[derive(Default)]
struct Found {
    root: Option<Element>,
    head: Option<Range<usize>>,
    metadata: Option<Element>,
    ours: Option<Element>,
    wanted: Vec<Device>,
    devices: Option<Element>,
    hostdevs: Vec<(DeviceId, Range<usize>)>,
    uuids: Vec<(MdevUuid, Place)>,
    addresses: Vec<(PciAddress, Address)>,
    parents: Vec<(PciAddress, Range<usize>)>,
    /// The hostdev that is open, and the device that it names.
    hostdev: Option<Hostdev>,
    device: Option<DeviceId>,
    /// The `<qemu:arg>`s so far.
    arguments: Arguments,
}

impl Layout {
    pub(super) fn read(text: &str) -> Result<Self, Refusal> {
        let mut reader = NsReader::from_str(text);
        let mut open: Vec<(At, Element)> = Vec::new();
        let mut found = Found::default();
        loop {
            let before = offset(&reader);
            let event = reader.read_event().map_err(|error| malformed(&reader, &error))?;
            let span = before..offset(&reader);
            match event {
                Event::Start(start) => {
                    is_whole(&reader, &start)?;
                    let at = found.open(open.last().map(|(at, _)| *at), text, &reader, &start, &span)?;
                    if open.len() == MAX_DEPTH {
                        return Err(Refusal::XmlTooDeep(MAX_DEPTH));
                    }
                    open.push((at, element(&start, span, false)));
                }
                Event::Empty(start) => {
                    is_whole(&reader, &start)?;
                    let at = found.open(open.last().map(|(at, _)| *at), text, &reader, &start, &span)?;
                    found.close(at, element(&start, span, true), open.last_mut());
                }
                Event::End(_) => {
                    if let Some((at, mut element)) = open.pop() {
                        element.whole.end = span.end;
                        found.close(at, element, open.last_mut());
                    }
                }
                Event::Text(content) if content.iter().all(u8::is_ascii_whitespace) => {}
                Event::Text(_)
                | Event::CData(_)
                | Event::GeneralRef(_)
                | Event::Comment(_)
                | Event::PI(_) => {
                    if let Some((_, around)) = open.last_mut() {
                        around.other = true;
                    }
                }
                Event::DocType(_) => return Err(Refusal::XmlDtd),
                Event::Decl(_) => {}
                Event::Eof => break,
            }
        }
        if !open.is_empty() {
            return Err(malformed(&reader, &"it ends in the middle of an element"));
        }
        Ok(Self {
            root: found.root.ok_or(Refusal::XmlLacks("domain"))?,
            head: found.head.ok_or(Refusal::XmlLacks("name"))?,
            metadata: found.metadata,
            ours: found.ours,
            wanted: found.wanted,
            devices: found.devices,
            hostdevs: found.hostdevs,
            uuids: found.uuids,
            addresses: found.addresses,
            parents: found.parents,
        })
    }
}

/// The reader has the whole text in memory, so its positions are offsets.
fn offset(reader: &NsReader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn element(start: &BytesStart<'_>, span: Range<usize>, empty: bool) -> Element {
    let name = String::from_utf8_lossy(start.name().as_ref()).into_owned();
    Element { name, whole: span.clone(), start_tag: span, empty, last: None, other: false }
}

impl Found {
    /// An element begins below `parent`.
    fn open(
        &mut self,
        parent: Option<At>,
        text: &str,
        reader: &NsReader<&[u8]>,
        start: &BytesStart<'_>,
        span: &Range<usize>,
    ) -> Result<At, Refusal> {
        let Some(parent) = parent else {
            return match self.root {
                None => root(reader, start).map(|_| At::Domain),
                Some(_) => Err(malformed(reader, &"a second element follows the domain")),
            };
        };
        let local = start.local_name();
        let ours = |wanted| in_namespace(reader, start, wanted);
        Ok(match (parent, local.as_ref()) {
            (At::Domain, b"name" | b"uuid" | b"genid" | b"title" | b"description") => At::Head,
            (At::Domain, b"metadata") => At::Metadata,
            (At::Domain, b"devices") => At::Devices,
            (At::Metadata, b"devices") if ours(NAMESPACE) => At::Ours,
            (At::Metadata, _) if ours(NAMESPACE) => {
                return Err(unknown_element("metadata", start, &["devices"]));
            }
            (At::Ours, b"device") if ours(NAMESPACE) || ours("") => {
                let given = attributes(reader, start, true)?;
                let uuid = value(&given, "uuid").and_then(|uuid| MdevUuid::parse(uuid).ok());
                if let Some(uuid) = &uuid {
                    self.uuid(uuid, text, start, "uuid", false);
                }
                if uuid.is_none() {
                    self.parent(value(&given, "parent"), text, start);
                }
                let parents = parent_names(value(&given, "parent").unwrap_or_default());
                self.wanted.push(Device {
                    uuid,
                    parents: parents.filter_map(|parent| Parent::parse(parent).ok()).collect(),
                    kind: value(&given, "type").unwrap_or_default().to_owned(),
                    whole: span.clone(),
                });
                At::Device
            }
            (At::Devices, b"hostdev") => {
                self.hostdev = Some(hostdev(&attributes(reader, start, false)?));
                self.device = None;
                At::Hostdev
            }
            (At::Hostdev, b"source") => At::Source,
            (At::Source, b"address") => {
                let given = attributes(reader, start, false)?;
                self.device = match &self.hostdev {
                    Some(Hostdev::Mdev { .. }) => {
                        let uuid = value(&given, "uuid").and_then(|uuid| MdevUuid::parse(uuid).ok());
                        if let Some(uuid) = &uuid {
                            self.uuid(uuid, text, start, "uuid", false);
                        }
                        uuid.map(DeviceId::Mdev)
                    }
                    Some(Hostdev::Pci { .. }) => {
                        let address = pci_address(&given);
                        let spelt = spelt(text, start);
                        self.addresses.extend(address.clone().zip(spelt));
                        address.map(DeviceId::Vf)
                    }
                    _ => None,
                };
                At::Elsewhere
            }
            (At::Domain, b"commandline") if ours(QEMU) => At::Commandline,
            (At::Commandline, b"arg") => {
                let given = attributes(reader, start, false)?;
                let argument = value(&given, "value").unwrap_or_default();
                if let Some(uuid) = self.arguments.mdev(argument) {
                    self.uuid(&uuid, text, start, "value", true);
                }
                At::Elsewhere
            }
            _ => At::Elsewhere,
        })
    }

    /// An element ends, in `around`.
    fn close(&mut self, at: At, element: Element, around: Option<&mut (At, Element)>) {
        if let Some((_, around)) = around {
            around.last = Some(element.whole.clone());
            around.other |= !matches!(at, At::Device | At::Ours);
        }
        match at {
            At::Domain => self.root = Some(element),
            At::Head => self.head = Some(element.whole),
            At::Device => {
                if let Some(device) = self.wanted.last_mut() {
                    device.whole = element.whole;
                }
            }
            // What stands twice is looked through twice, as the reader does; what is added goes to the first one, unless
            // ours is in another.
            At::Metadata => {
                let holds = |ours: &Element| element.whole.contains(&ours.whole.start);
                if self.metadata.is_none() || self.ours.as_ref().is_some_and(holds) {
                    self.metadata = Some(element);
                }
            }
            At::Ours => {
                self.ours.get_or_insert(element);
            }
            At::Devices => {
                self.devices.get_or_insert(element);
            }
            At::Hostdev => {
                self.hostdev = None;
                self.hostdevs.extend(self.device.take().map(|device| (device, element.whole)));
            }
            At::Source | At::Commandline | At::Elsewhere => {}
        }
    }

    /// Where the one address stands that a `parent` names.
    fn parent(&mut self, named: Option<&str>, text: &str, start: &BytesStart<'_>) {
        let address = named.and_then(|named| PciAddress::parse(named.trim()).ok());
        let place = value_of(text, start, "parent")
            .filter(|at| text.get(at.clone()).map(str::trim) == named.map(str::trim));
        self.parents.extend(address.zip(place));
    }

    /// Where the UUID stands that an attribute of this tag has, or has in it.
    fn uuid(
        &mut self,
        uuid: &MdevUuid,
        text: &str,
        start: &BytesStart<'_>,
        attribute: &str,
        in_argument: bool,
    ) {
        let plain = |it: &Attribute<'_>| it.key.as_ref() == attribute.as_bytes();
        // With a prefix it may be ours, or another namespace's beside ours.
        let is_plain = start.attributes().filter_map(Result::ok).any(|it| plain(&it));
        let named = |it: &Attribute<'_>| {
            plain(it) || !is_plain && it.key.local_name().as_ref() == attribute.as_bytes()
        };
        let spelt = |raw: &str| in_argument || raw.eq_ignore_ascii_case(&uuid.to_string());
        let mut values = start.attributes().filter_map(Result::ok).filter(named);
        let place = values
            .find_map(|it| range_of(text, &it.value).filter(|at| text.get(at.clone()).is_some_and(spelt)));
        // One that is spelt with character references is left, and missed by whoever reads the result.
        let Some(mut value) = place else { return };
        if in_argument {
            // The same UUID may stand in an id= before it.
            let argument = text.get(value.clone()).unwrap_or_default().to_ascii_lowercase();
            // Of JSON the quote may be spelt as an entity.
            let option = ["sysfsdev=", "sysfsdev\"", "sysfsdev&quot;", "sysfsdev&#34;", "sysfsdev&#x22;"];
            let Some(at) = option.iter().find_map(|option| argument.find(option)) else { return };
            let Some(found) = argument.get(at..).and_then(|rest| rest.find(&uuid.to_string())) else {
                return;
            };
            let from = value.start + at + found;
            value = from..from + uuid.to_string().len();
        }
        self.uuids.push((uuid.clone(), Place { value, in_argument }));
    }
}

/// How an `<address>` is written.
fn spelt(text: &str, start: &BytesStart<'_>) -> Option<Address> {
    let parts = PARTS.map(|(name, _)| value_of(text, start, name));
    // Behind the quote that ends the last value: one that stands twice is malformed.
    let last = start.attributes().filter_map(Result::ok).filter_map(|it| range_of(text, &it.value)).last()?;
    Some(Address { parts, end: last.end + 1 })
}

/// Where the value of an attribute lies, as it is written.
fn value_of(text: &str, start: &BytesStart<'_>, name: &str) -> Option<Range<usize>> {
    let mut attributes = start.attributes().filter_map(Result::ok);
    attributes.find(|it| it.key.as_ref() == name.as_bytes()).and_then(|it| range_of(text, &it.value))
}

/// Where `part`, which was borrowed from `text`, lies in it.
fn range_of(text: &str, part: &[u8]) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    let range = start..start.checked_add(part.len())?;
    (text.as_bytes().get(range.clone()) == Some(part)).then_some(range)
}
