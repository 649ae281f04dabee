//! Changes to a domain's XML that leave the rest of it as it is, byte for byte: elements are put in and taken out of the
//! text, which is never written anew. What is put in is taken out again without a trace.

mod layout;

use std::ops::Range;

pub use layout::Device;
use layout::{Element, Layout, PARTS};

use super::write::{self, Assigned, Lines, laid_out};
use crate::ids::{DeviceId, MdevUuid};
use crate::refusal::Refusal;

/// A domain's XML, and where in it stands what may be changed.
#[derive(Debug)]
pub struct Editable<'t> {
    text: &'t str,
    at: Layout,
}

/// The text of a range is replaced.
type Edits = Vec<(Range<usize>, String)>;

impl<'t> Editable<'t> {
    /// Looks through the XML. Of our own elements it judges nothing: what we do not know stays.
    pub fn read(text: &'t str) -> Result<Self, Refusal> {
        Ok(Self { text, at: Layout::read(text)? })
    }

    /// The devices of our metadata.
    pub fn devices(&self) -> &[Device] {
        &self.at.wanted
    }

    /// What the hostdevs open.
    pub fn opened(&self) -> impl Iterator<Item = &DeviceId> {
        self.at.hostdevs.iter().map(|(device, _)| device)
    }

    /// Whether `<qemu:commandline>` names the device.
    pub fn has_argument(&self, uuid: &MdevUuid) -> bool {
        self.at.uuids.iter().any(|(other, place)| other == uuid && place.in_argument)
    }

    /// The text with more devices, in our metadata and as hostdevs.
    pub fn assign(&self, devices: &[Assigned]) -> String {
        let mut edits = Edits::new();
        match (&self.at.ours, &self.at.metadata) {
            (Some(ours), _) => {
                let prefix = ours.name.strip_suffix("devices").unwrap_or_default();
                let lines = devices.iter().map(|device| write::device(&device.wanted, prefix));
                self.insert(&mut edits, ours, lines);
            }
            (None, Some(metadata)) => self.insert(&mut edits, metadata, [write::ours(devices)].into_iter()),
            (None, None) => {
                let lines = wrapped("metadata", [write::ours(devices)].into_iter());
                // Where libvirt has it: behind what says which domain it is.
                let newline = self.newline_before(self.at.head.start);
                let put = format!("{newline}{}", laid_out(&lines, &newline));
                edits.push((self.at.head.end..self.at.head.end, put));
            }
        }
        let hostdevs = devices.iter().map(write::hostdev);
        match &self.at.devices {
            Some(element) => self.insert(&mut edits, element, hostdevs),
            None => self.insert(&mut edits, &self.at.root, [wrapped("devices", hostdevs)].into_iter()),
        }
        self.apply(edits)
    }

    /// The text without some of the devices of our metadata, by their numbers in [`Self::devices`], and without the
    /// hostdevs that `opened` names. What of ours holds nothing afterwards goes with the last one.
    pub fn unassign(&self, numbers: &[usize], opened: &[DeviceId]) -> String {
        let goes = |number: &usize| numbers.contains(number);
        let mut edits = Edits::new();
        let emptied = |element: &Element| !element.other && (0..self.at.wanted.len()).all(|n| goes(&n));
        match (&self.at.metadata, &self.at.ours) {
            (Some(metadata), Some(ours)) if !numbers.is_empty() && emptied(ours) => {
                edits.push((
                    self.with_blanks(if metadata.other { &ours.whole } else { &metadata.whole }),
                    String::new(),
                ));
            }
            _ => {
                let going = self.at.wanted.iter().enumerate().filter(|(number, _)| goes(number));
                edits.extend(going.map(|(_, device)| (self.with_blanks(&device.whole), String::new())));
            }
        }
        let hostdevs = self.at.hostdevs.iter().filter(|(device, _)| opened.contains(device));
        edits.extend(hostdevs.map(|(_, whole)| (self.with_blanks(whole), String::new())));
        self.apply(edits)
    }

    /// The text with other UUIDs, wherever a device is named: in our metadata, hostdevs and arguments.
    pub fn renamed(&self, names: &[(MdevUuid, MdevUuid)]) -> String {
        let devices =
            names.iter().map(|(old, new)| (DeviceId::Mdev(old.clone()), DeviceId::Mdev(new.clone())));
        self.with_others(&devices.collect::<Vec<_>>())
    }

    /// The text with other devices, each pair one as it is and what it is to be: UUIDs as [`Self::renamed`] does it, and
    /// addresses of functions in hostdevs and in our metadata. Of an address only those numbers are written anew that
    /// differ.
    pub fn with_others(&self, others: &[(DeviceId, DeviceId)]) -> String {
        let other = |device: DeviceId| others.iter().find(|(from, _)| *from == device).map(|(_, to)| to);
        let mut edits = Edits::new();
        for (uuid, place) in &self.at.uuids {
            let to = other(DeviceId::Mdev(uuid.clone()));
            edits.extend(to.map(|to| (place.value.clone(), to.to_string())));
        }
        for (address, range) in &self.at.parents {
            let to = other(DeviceId::Vf(address.clone()));
            edits.extend(to.map(|to| (range.clone(), to.to_string())));
        }
        for (address, spelt) in &self.at.addresses {
            let Some(DeviceId::Vf(to)) = other(DeviceId::Vf(address.clone())) else { continue };
            let numbers = address.numbers().into_iter().zip(to.numbers());
            for (((was, is), (name, width)), part) in numbers.zip(PARTS).zip(&spelt.parts) {
                // As libvirt writes it.
                let number = format!("0x{is:0width$x}");
                match part {
                    _ if was == is => {}
                    Some(range) => edits.push((range.clone(), number)),
                    None => edits.push((spelt.end..spelt.end, format!(" {name}='{number}'"))),
                }
            }
        }
        self.apply(edits)
    }

    /// Puts elements into another one, behind those that it has.
    fn insert(&self, edits: &mut Edits, into: &Element, elements: impl Iterator<Item = Lines>) {
        let own = self.newline_before(into.whole.start);
        let inner = match &into.last {
            Some(last) => self.newline_before(last.start),
            // The first one: libvirt's own step is two blanks.
            None if own.is_empty() => String::new(),
            None => format!("{own}  "),
        };
        let put: String = elements.map(|lines| format!("{inner}{}", laid_out(&lines, &inner))).collect();
        match &into.last {
            Some(last) => edits.push((last.end..last.end, put)),
            None if into.empty => {
                // `<metadata/>` becomes `<metadata>` … `</metadata>`.
                let slash = into.start_tag.end.saturating_sub(2)..into.start_tag.end;
                edits.push((slash, format!(">{put}{own}</{}>", into.name)));
            }
            None => edits.push((into.start_tag.end..into.start_tag.end, put)),
        }
    }

    /// The end of the line before, and the blanks in front of a place on its own; nothing where something stands on
    /// its line in front of it.
    fn newline_before(&self, at: usize) -> String {
        let blanks = self.text.get(self.blanks_before(at)..at).unwrap_or_default();
        blanks.rfind('\n').and_then(|newline| blanks.get(newline..)).unwrap_or_default().to_owned()
    }

    fn blanks_before(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default();
        before.trim_end_matches([' ', '\t', '\r', '\n']).len()
    }

    /// An element and the blanks in front of it: exactly what [`Self::insert`] puts in.
    fn with_blanks(&self, whole: &Range<usize>) -> Range<usize> {
        self.blanks_before(whole.start)..whole.end
    }

    fn apply(&self, mut edits: Edits) -> String {
        edits.sort_by_key(|(range, _)| range.start);
        let (mut text, mut done) = (String::with_capacity(self.text.len()), 0);
        for (range, put) in edits {
            text.push_str(self.text.get(done..range.start).unwrap_or_default());
            text.push_str(&put);
            done = range.end;
        }
        text.push_str(self.text.get(done..).unwrap_or_default());
        text
    }
}

fn wrapped(name: &str, elements: impl Iterator<Item = Lines>) -> Lines {
    let mut lines = vec![(0, format!("<{name}>"))];
    elements.for_each(|element| write::nest(&mut lines, 1, element));
    lines.push((0, format!("</{name}>")));
    lines
}

#[cfg(test)]
mod tests;
