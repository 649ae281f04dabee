//! What every reader of a domain's XML asks of an element: its attributes, its namespace, what is wrong with it.

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;

use super::NAMESPACE;
use super::wanted::Given;
use crate::refusal::Refusal;
use crate::words::{nearest, printable};

/// Where it is no XML, or none that we take, and why.
pub(super) fn malformed(reader: &NsReader<&[u8]>, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::XmlMalformed { at: reader.buffer_position(), why: why.to_string() }
}

/// What is none of XML's and the parser lets pass: a tag with a `<` in it, which hides what else is one, and a name that has
/// something else of a tag in it.
pub(super) fn is_whole(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<(), Refusal> {
    if start.contains(&b'<') {
        return Err(malformed(reader, &"a tag has a < in it"));
    }
    let name = start.name();
    let is_of_names = |byte: &u8| !byte.is_ascii() || byte.is_ascii_alphanumeric() || b"-._:".contains(byte);
    if name.as_ref().iter().all(is_of_names) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name.as_ref());
    Err(malformed(reader, &format!("no element can be called {}", printable(&name))))
}

/// `&amp;` and its four siblings, and `&#…;`: XML without a DTD has no others.
pub(super) fn resolve<'b>(
    reader: &NsReader<&[u8]>,
    reference: &BytesRef<'_>,
    buffer: &'b mut [u8; 4],
) -> Result<&'b str, Refusal> {
    match reference.resolve_char_ref() {
        Ok(Some(c)) => return Ok(c.encode_utf8(buffer)),
        Ok(None) => {}
        Err(error) => return Err(malformed(reader, &error)),
    }
    let name = reference.decode().map_err(|error| malformed(reader, &error))?;
    resolve_predefined_entity(&name)
        .ok_or_else(|| malformed(reader, &format!("the entity &{name}; is not declared anywhere")))
}

/// The XML attributes of an element, entities decoded, `xmlns` left out, and those of other namespaces: libvirt does not
/// heed them. With `ours` our own namespace is none of those.
pub(super) fn attributes(
    reader: &NsReader<&[u8]>,
    start: &BytesStart<'_>,
    ours: bool,
) -> Result<Given, Refusal> {
    let mut given = Given::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| malformed(reader, &error))?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
        let foreign = match namespace {
            ResolveResult::Unbound => false,
            ResolveResult::Bound(Namespace(uri)) => !ours || uri != NAMESPACE.as_bytes(),
            ResolveResult::Unknown(_) => true,
        };
        if foreign {
            continue;
        }
        let value =
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| malformed(reader, &error))?;
        given.push((String::from_utf8_lossy(local.as_ref()).into_owned(), value.into_owned()));
    }
    Ok(given)
}

/// Whether an element is of this namespace; "" for none.
pub(super) fn in_namespace(reader: &NsReader<&[u8]>, start: &BytesStart<'_>, wanted: &str) -> bool {
    match reader.resolver().resolve_element(start.name()).0 {
        ResolveResult::Bound(Namespace(uri)) => uri == wanted.as_bytes(),
        ResolveResult::Unbound => wanted.is_empty(),
        ResolveResult::Unknown(_) => false,
    }
}

/// One that has no business below `parent`.
pub(super) fn unknown_element(parent: &str, start: &BytesStart<'_>, known: &[&str]) -> Refusal {
    let element = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
    let meant = nearest(&element, known.iter().copied());
    let known = known.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(", ");
    Refusal::UnknownElement { parent: parent.to_owned(), element, meant, known }
}
