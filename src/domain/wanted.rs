//! Our own elements in `<metadata>`. A typo must not become a default, so what is not known here is refused by name.

use crate::ids::{AttributeName, MdevUuid, Parent, TypeWish};
use crate::refusal::Refusal;
use crate::words::{nearest, printable};

/// A `<device>` of our metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Joins the device to a hostdev or to a `sysfsdev=` argument. A virtual function of NVIDIA's vendor VFIO has
    /// none: it is joined by its address.
    pub uuid: Option<MdevUuid>,
    /// A type's id or the vendor's name for it.
    pub wish: TypeWish,
    /// In order of preference; empty means any that offers the type.
    pub parents: Vec<Parent>,
    /// Which of several parents; `None` leaves it to the configuration.
    pub placement: Option<Placement>,
    /// Only parents on this node.
    pub numa: Option<u32>,
    /// Left alone at release, found and used at the next start.
    pub keep: bool,
    /// Another host may choose another parent than the ones named.
    pub relocate: bool,
    /// `virt-mdev attach` has put it into the metadata of what runs: it is none once no hostdev opens the device any more.
    pub attached: bool,
    /// Driver attributes, written in this order after create.
    pub attributes: Vec<Attribute>,
    /// Arguments for the 2016 interface, by name.
    pub arguments: Vec<(String, String)>,
}

/// One driver attribute and what is written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Relative to the device's directory.
    pub name: AttributeName,
    /// Without a newline at its end.
    pub value: String,
}

impl Attribute {
    /// A value as it may be written.
    pub fn parse_value(text: &str) -> Result<String, String> {
        if text.len() > MAX_VALUE {
            Err(format!("longer than the {MAX_VALUE} bytes that sysfs takes"))
        } else if text.contains('\0') {
            Err("has a NUL character".to_owned())
        } else {
            Ok(text.to_owned())
        }
    }
}

/// Which of the parents that have room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The fullest card that fits, so that others stay free for large types.
    Pack,
    /// The emptiest card, so that domains share as little as possible.
    Spread,
}

impl Placement {
    /// `pack` or `spread`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "pack" => Some(Self::Pack),
            "spread" => Some(Self::Spread),
            _ => None,
        }
    }
}

const DEVICE: [&str; 8] = ["uuid", "type", "parent", "placement", "numa", "keep", "migrate", "attached"];
const ATTRIBUTE: [&str; 2] = ["name", "value"];

/// sysfs hands a driver one page at most (`PAGE_SIZE` in `fs/kernfs/file.c`), and a trailing newline may be added.
const MAX_VALUE: usize = 4095;

/// The XML attributes of one of our elements: local names and values, `xmlns` and foreign namespaces left out.
pub(super) type Given = Vec<(String, String)>;

/// The value of one of them.
pub(super) fn value<'a>(given: &'a Given, name: &str) -> Option<&'a str> {
    given.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

impl Wanted {
    /// A `<device>` from its XML attributes.
    pub(super) fn parse(given: &Given) -> Result<Self, Refusal> {
        // Which device it is, for the message, if it says that.
        let known = value(given, "uuid").and_then(|uuid| MdevUuid::parse(uuid).ok());
        let element = known.map_or_else(|| "<device>".to_owned(), |uuid| format!("<device uuid=\"{uuid}\">"));
        let fields = Fields::new(element, given, &DEVICE)?;
        let uuid = fields.optional("uuid", |text| MdevUuid::parse(text).map_err(|bad| bad.to_string()))?;
        let yes_or_no = |text: &str| match text {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err("must be \"yes\" or \"no\"".to_owned()),
        };
        Ok(Self {
            uuid,
            wish: fields.required("type", |text| TypeWish::parse(text).map_err(|bad| bad.to_string()))?,
            parents: fields.optional("parent", parse_parents)?.unwrap_or_default(),
            placement: fields.optional("placement", |text| {
                Placement::parse(text).ok_or_else(|| "must be \"pack\" or \"spread\"".to_owned())
            })?,
            numa: fields.optional("numa", |text| {
                text.parse().map_err(|_| "must be the number of a NUMA node".to_owned())
            })?,
            keep: fields.optional("keep", yes_or_no)?.unwrap_or(false),
            relocate: fields
                .optional("migrate", |text| match text {
                    "relocate" => Ok(true),
                    "stay" => Ok(false),
                    _ => Err("must be \"stay\" or \"relocate\"".to_owned()),
                })?
                .unwrap_or(false),
            attached: fields.optional("attached", yes_or_no)?.unwrap_or(false),
            attributes: Vec::new(),
            arguments: Vec::new(),
        })
    }

    /// An `<attribute>` child of this device.
    pub(super) fn add_attribute(&mut self, given: &Given) -> Result<(), Refusal> {
        let fields = Fields::new(format!("<attribute> of {}", self.words()), given, &ATTRIBUTE)?;
        let name =
            fields.required("name", |text| AttributeName::parse(text).map_err(|bad| bad.to_string()))?;
        let value = fields.required("value", Attribute::parse_value)?;
        self.attributes.push(Attribute { name, value });
        Ok(())
    }

    /// An `<argument>` child of this device. Arguments are joined by commas, so none may hold one.
    pub(super) fn add_argument(&mut self, given: &Given) -> Result<(), Refusal> {
        let fields = Fields::new(format!("<argument> of {}", self.words()), given, &ATTRIBUTE)?;
        let clean = |text: &str, forbidden: &[char]| {
            if text.len() > MAX_VALUE {
                Err("longer than any argument list".to_owned())
            } else if text.chars().any(|c| c.is_control() || forbidden.contains(&c)) {
                Err("has a comma or another character that no argument may have".to_owned())
            } else {
                Ok(text.to_owned())
            }
        };
        let name = fields.required("name", |text| match text {
            "" => Err("empty".to_owned()),
            text => clean(text, &[',', '=', ':']),
        })?;
        let value = fields.required("value", |text| clean(text, &[',']))?;
        self.arguments.push((name, value));
        Ok(())
    }

    /// The device as messages call it.
    pub fn words(&self) -> String {
        match (&self.uuid, self.parents.first()) {
            (Some(uuid), _) => format!("device {uuid}"),
            (None, Some(parent)) => format!("the device on {parent}"),
            (None, None) => format!("the device of type \"{}\"", printable(&self.wish.to_string())),
        }
    }
}

/// More than a person would name of any host's.
const MAX_PARENTS: usize = 1024;

/// Several parents are separated by blanks or commas, as in `parent="0000:86:00.0 0000:87:00.0"`.
pub(super) fn parent_names(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty())
}

fn parse_parents(text: &str) -> Result<Vec<Parent>, String> {
    let mut parents = Vec::new();
    for word in parent_names(text) {
        let parent = Parent::parse(word).map_err(|bad| bad.to_string())?;
        if !parents.contains(&parent) {
            // Each is compared with all before it.
            if parents.len() == MAX_PARENTS {
                return Err(format!("names more than {MAX_PARENTS} parents"));
            }
            parents.push(parent);
        }
    }
    if parents.is_empty() { Err("names no parent".to_owned()) } else { Ok(parents) }
}

struct Fields<'a> {
    element: String,
    given: &'a Given,
}

impl<'a> Fields<'a> {
    fn new(element: String, given: &'a Given, known: &[&str]) -> Result<Self, Refusal> {
        if let Some((name, value)) = given.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(Refusal::UnknownAttribute {
                element,
                attribute: name.clone(),
                value: value.clone(),
                meant: nearest(name, known.iter().copied()),
                known: known.join(", "),
            });
        }
        // XML allows `type` beside `mdev:type`, which are one to us.
        let stood_before = |(at, (name, _)): &(usize, &(String, String))| {
            given.iter().take(*at).any(|(other, _)| other == name)
        };
        match given.iter().enumerate().find(stood_before) {
            None => Ok(Self { element, given }),
            Some((_, (name, value))) => Err(Refusal::BadValue {
                element,
                attribute: name.clone(),
                value: value.clone(),
                why: "given twice".to_owned(),
            }),
        }
    }

    fn optional<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Refusal> {
        let Some((_, value)) = self.given.iter().find(|(given, _)| given == name) else { return Ok(None) };
        parse(value).map(Some).map_err(|why| Refusal::BadValue {
            element: self.element.clone(),
            attribute: name.to_owned(),
            value: value.clone(),
            why,
        })
    }

    fn required<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Refusal> {
        self.optional(name, parse)?.ok_or_else(|| Refusal::MissingAttribute {
            element: self.element.clone(),
            attribute: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str = include_str!("../../packaging/man/virt-mdev-domain.7");

    /// The manual's section about one of our elements.
    fn section(element: &str) -> &'static str {
        let (_, rest) = MANUAL.split_once(&format!(".Ss <{element}>\n")).unwrap();
        rest.split("\n.Ss ").next().unwrap()
    }

    #[test]
    fn a_list_of_parents_has_an_end() {
        let names = |number: usize| (0..number).map(|at| format!("p{at} ")).collect::<String>();
        assert_eq!(parse_parents(&names(MAX_PARENTS)).map(|parents| parents.len()), Ok(MAX_PARENTS));
        assert!(parse_parents(&names(MAX_PARENTS + 1)).is_err());
    }

    #[test]
    fn the_manual_has_every_attribute_of_every_element() {
        assert!(MANUAL.contains(super::super::NAMESPACE) && MANUAL.contains("<mdev:devices "));
        for (element, attributes) in
            [("device", &DEVICE[..]), ("attribute", &ATTRIBUTE), ("argument", &ATTRIBUTE)]
        {
            for attribute in attributes {
                let set = |line: &str| {
                    let line = line.trim_start_matches(".It ").trim_start_matches('.');
                    line.strip_prefix("Cm ").is_some_and(|rest| rest.split(' ').next() == Some(attribute))
                };
                assert!(
                    section(element).lines().any(set),
                    "{attribute} of <{element}> is not in virt-mdev-domain(7)"
                );
            }
        }
        // And no other: each entry of the list about <device> is an attribute that is known.
        let entries = section("device").lines().filter_map(|line| line.strip_prefix(".It Cm "));
        assert_eq!(entries.collect::<Vec<_>>(), DEVICE);
    }
}
