//! What is put into a domain's XML, and taken out of it: nothing else changes.

use virt_mdev::cli::assign;
use virt_mdev::domain::edit::Editable;
use virt_mdev::domain::{Assigned, Attribute, Domain, Placement, Wanted};
use virt_mdev::host::Host;
use virt_mdev::ids::{AttributeName, DeviceId, MdevUuid, Parent, PciAddress, TypeWish};

use super::{refused, told};

const OURS: &str = "urn:virt-mdev:domain:1";

pub(crate) fn rewriting(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let editable = match Editable::read(text) {
        Ok(editable) => editable,
        Err(refusal) => return refused(&refusal),
    };
    assert_eq!(editable.with_others(&[]), text, "nothing was to change");
    assert_eq!(editable.unassign(&[], &[]), text, "nothing was to go");
    let domain = Domain::read(input).ok();
    assigned(&editable, text, domain.as_ref());
    if let Some(domain) = domain {
        unassigned(&editable, text, &domain);
        renamed(&editable, text, &domain);
    }
}

/// A UUID that the text does not have.
fn fresh(text: &str) -> MdevUuid {
    let text = text.to_ascii_lowercase();
    let mut uuids = (1..).map(|number| format!("c2d1a5f0-0000-4000-8000-{number:012x}"));
    MdevUuid::parse(&uuids.find(|uuid| !text.contains(uuid)).unwrap()).unwrap()
}

fn reading(text: &str) -> Domain {
    Domain::read(text.as_bytes()).expect("what is rewritten can be read")
}

/// Other devices in the place of those that the domain has.
fn renamed(editable: &Editable<'_>, text: &str, domain: &Domain) {
    let mdevs = domain.mdevs.iter().map(|hostdev| &hostdev.uuid);
    let wanted = domain.wanted.iter().filter_map(|wanted| wanted.uuid.as_ref());
    let mdev = mdevs.chain(wanted).chain(&domain.sysfsdevs).next();
    let uuids = mdev.map(|from| (from, fresh(text)));
    let after = uuids.as_ref().map(|(from, to)| {
        let pair = (DeviceId::Mdev((*from).clone()), DeviceId::Mdev(to.clone()));
        let after = editable.with_others(std::slice::from_ref(&pair));
        assert_eq!(editable.renamed(&[((*from).clone(), to.clone())]), after);
        only_the_uuid(text, &after, from, to);
        is_asked_for(text, &after, domain, &pair);
        (after, pair)
    });
    let Some(from) = domain.pcis.first().map(|hostdev| &hostdev.address) else { return };
    // Another card, and another function of the same one.
    let [segment, bus, slot, function] = from.numbers();
    let same = format!("{segment:04x}:{bus:02x}:{slot:02x}.{:x}", function ^ 1);
    let other = format!("{:04x}:{:02x}:{:02x}.{:x}", segment ^ 1, bus ^ 0x80, slot ^ 2, function ^ 1);
    for to in [same, other] {
        let to = PciAddress::parse(&to).unwrap();
        let pair = (DeviceId::Vf(from.clone()), DeviceId::Vf(to.clone()));
        let moved = editable.with_others(std::slice::from_ref(&pair));
        only_the_address(text, &moved, from, &to);
        is_asked_for(text, &moved, domain, &pair);
        // Both at once are the same as one after the other.
        if let Some((after, mdev)) = &after {
            let both = editable.with_others(&[mdev.clone(), pair.clone()]);
            assert_eq!(Editable::read(after).unwrap().with_others(std::slice::from_ref(&pair)), both);
        }
    }
}

/// Byte for byte: where the new UUID stands, the old one stood, however its digits were written.
fn only_the_uuid(before: &str, after: &str, from: &MdevUuid, to: &MdevUuid) {
    let (from, to) = (from.to_string(), to.to_string());
    let mut rest = before;
    for (number, part) in after.split(&to).enumerate() {
        if number > 0 {
            let (was, behind) = rest.split_at_checked(from.len()).expect("as many as there were");
            assert!(was.eq_ignore_ascii_case(&from), "{was} is {to} now");
            rest = behind;
        }
        rest = rest.strip_prefix(part).unwrap_or_else(|| panic!("something else has changed: {part}"));
    }
    assert_eq!(rest, "", "the end is missing");
}

const PARTS: [(&str, usize); 4] = [("domain", 4), ("bus", 2), ("slot", 2), ("function", 1)];

/// Byte for byte: from quote to quote all is as it was, or a part of the address, or the whole one, is the new one; and
/// what had been left out stands behind the others.
fn only_the_address(before: &str, after: &str, from: &PciAddress, to: &PciAddress) {
    let numbers: Vec<_> = from.numbers().into_iter().zip(to.numbers()).zip(PARTS).collect();
    let changed = numbers.into_iter().filter(|((was, is), _)| was != is);
    let changed: Vec<_> =
        changed.map(|((was, is), (name, width))| (was, name, format!("0x{is:0width$x}"))).collect();
    let replaces = |was: &str, is: &str| {
        let number = |(part, _, new): &(u32, &str, String)| is == new && number(was) == Some(*part);
        changed.iter().any(number) || (was.trim() == from.to_string() && is == to.to_string())
    };
    let is_added = |is: &str, value: &str| {
        changed.iter().any(|(_, name, new)| is == format!(" {name}=") && value == new)
    };
    let parts = |text: &str| text.split(['\'', '"']).map(str::to_owned).collect::<Vec<_>>();
    let quotes = |text: &str| text.chars().filter(|c| matches!(c, '\'' | '"')).collect::<Vec<_>>();
    let (old, new) = (parts(before), parts(after));
    let (old_quotes, new_quotes) = (quotes(before), quotes(after));
    let (mut at, mut skipped) = (0, 0);
    while at < new.len() {
        let was = old.get(at - skipped).expect("nothing is put behind the end");
        if new[at] != *was && new.get(at + 1).is_some_and(|value| is_added(&new[at], value)) {
            assert_eq!(new_quotes[at..at + 2], ['\'', '\'']);
            (at, skipped) = (at + 2, skipped + 2);
            continue;
        }
        assert!(new[at] == *was || replaces(was, &new[at]), "{was:?} is {:?} now", new[at]);
        assert_eq!(old_quotes.get(at - skipped), new_quotes.get(at));
        at += 1;
    }
    assert_eq!(new.len(), old.len() + skipped, "the end is missing");
}

/// As libvirt takes it.
fn number(text: &str) -> Option<u32> {
    let text = decoded(text);
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(&text, 8).ok(),
        None => text.parse().ok(),
    }
}

/// With its character references resolved.
fn decoded(text: &str) -> String {
    let mut parts = text.split("&#");
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_once(';').unwrap_or(("", part));
        let code = match digits.strip_prefix('x') {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        };
        decoded.extend(code.and_then(char::from_u32));
        decoded.push_str(rest);
    }
    decoded
}

/// The domain is the one that was asked for. What is left as it was, `arrive` sees, and refuses: it is spelt in a way that
/// the edit does not know.
fn is_asked_for(before: &str, after: &str, domain: &Domain, pair: &(DeviceId, DeviceId)) {
    let (read, others) = (reading(after), std::slice::from_ref(pair));
    let asked = domain.with(others);
    assert_eq!(read.with(others), asked, "more has become of it");
    assert!(read == asked || is_spelt_otherwise(before, &pair.0), "{} is left:\n{after}", pair.0);
}

/// Whether a tag names the device in such a way: with character references, in JSON with escapes or under two keys, in a
/// namespace, or as one of several parents that are the same.
fn is_spelt_otherwise(text: &str, device: &DeviceId) -> bool {
    let name = device.to_string();
    let count = |text: &str, what: &str| text.matches(what).count();
    text.to_ascii_lowercase().split('<').any(|tag| {
        let plain = decoded(tag).to_ascii_lowercase();
        let escapes = count(&plain, &name) > count(tag, &name)
            || (plain.contains(&name) && count(&plain, "sysfsdev") != count(tag, "sysfsdev"));
        let in_json = plain.contains("sysfsdev") && plain.contains('\\');
        let twice = count(&plain, "sysfsdev") > 1 && plain.contains(&name);
        let in_namespace = [":value=", ":parent=", ":domain=", ":bus=", ":slot=", ":function="]
            .iter()
            .any(|attribute| tag.contains(attribute));
        let alone = |quote: char| {
            let mut values = tag.split(quote).skip(1).step_by(2);
            values.any(|value| value.trim() == name)
        };
        let several =
            matches!(device, DeviceId::Vf(_)) && tag.contains(&name) && !(alone('"') || alone('\''));
        escapes || in_json || twice || in_namespace || several
    })
}

/// The name in a tag, without its `<`.
fn name(tag: &str) -> &str {
    tag.trim_start_matches('/').split([' ', '\t', '\r', '\n', '/', '>']).next().unwrap_or_default()
}

/// libvirt has one `<metadata>`, and keeps in it one element for each namespace (`virXMLNodeSanitizeNamespaces`). An empty one
/// goes when what was put into it does, and of two the other one would be taken the next time.
fn is_sane(text: &str) -> bool {
    text.matches(OURS).count() <= 1 && text.matches("<metadata").count() <= 1
}

/// A tag without its `<`, and what follows it: a `>` in one of its values does not end it.
fn tag_and_text(part: &str) -> (&str, &str) {
    let (is_element, mut quote) = (!part.starts_with(['!', '?']), None);
    let ends = |c: char| match quote {
        Some(open) if is_element => {
            if c == open {
                quote = None;
            }
            false
        }
        _ => {
            quote = matches!(c, '"' | '\'').then_some(c);
            c == '>'
        }
    };
    part.split_once(ends).unwrap_or((part, ""))
}

/// What is not blank of all tags but those that an edit may make or take away, and of what is between tags.
fn others(text: &str) -> (Vec<&str>, String) {
    let (mut tags, mut texts) = (Vec::new(), String::new());
    for part in text.split('<') {
        let (tag, text) = tag_and_text(part);
        if !(name(tag).ends_with("metadata") || name(tag).ends_with("devices")) {
            tags.push(tag);
        }
        texts.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    }
    (tags, texts)
}

/// Whether all of these are there, in this order.
fn are_among<T: PartialEq>(few: impl IntoIterator<Item = T>, many: impl IntoIterator<Item = T>) -> bool {
    let mut many = many.into_iter();
    few.into_iter().all(|part| many.any(|other| other == part))
}

const FUNCTION: &str = "00f1:f0:1e.5";

/// A device of each kind, with all that can be said of one.
fn devices(text: &str) -> [Assigned; 2] {
    let uuid = fresh(text);
    let function = PciAddress::parse(FUNCTION).unwrap();
    let wanted = Wanted {
        uuid: Some(uuid.clone()),
        wish: TypeWish::parse("GRID <M60> & \"4Q\"'s").unwrap(),
        parents: ["0000:86:00.0", "mtty"].map(|name| Parent::parse(name).unwrap()).to_vec(),
        placement: Some(Placement::Spread),
        numa: Some(1),
        keep: true,
        relocate: true,
        attached: false,
        attributes: vec![Attribute {
            name: AttributeName::parse("nvidia/vgpu_params").unwrap(),
            value: " a\n\t\"b\" <c>&'d' ä ]]>".to_owned(),
        }],
        arguments: vec![("a".to_owned(), "-->".to_owned())],
    };
    let of_function = Wanted {
        uuid: None,
        parents: vec![function.as_parent()],
        placement: None,
        numa: None,
        ..wanted.clone()
    };
    [
        Assigned { wanted, device: DeviceId::Mdev(uuid), model: "vfio-pci".to_owned() },
        Assigned { wanted: of_function, device: DeviceId::Vf(function), model: String::new() },
    ]
}

/// Takes the devices out again, as the verb does: by what is known of them in the metadata.
fn without(text: &str, devices: &[Assigned]) -> String {
    let editable = Editable::read(text).expect("what is assigned can be unassigned");
    let is = |number: &usize| {
        let device = &editable.devices()[*number];
        let same = |it: &Assigned| match &it.device {
            DeviceId::Mdev(uuid) => device.uuid.as_ref() == Some(uuid),
            DeviceId::Vf(address) => device.uuid.is_none() && device.parents == [address.as_parent()],
        };
        devices.iter().any(same)
    };
    let numbers: Vec<usize> = (0..editable.devices().len()).filter(is).collect();
    assert_eq!(numbers.len(), devices.len(), "each is there, once");
    let opened: Vec<DeviceId> = devices.iter().map(|device| device.device.clone()).collect();
    editable.unassign(&numbers, &opened)
}

/// Puts devices in, and takes them out again.
fn assigned(editable: &Editable<'_>, text: &str, domain: Option<&Domain>) {
    // That function is the domain's already.
    if text.contains(FUNCTION) {
        return;
    }
    let devices = devices(text);
    let after = editable.assign(&devices);
    let (before, now) = (others(text), others(&after));
    assert!(are_among(&before.0, &now.0) && before.1 == now.1, "something has changed:\n{after}");
    if let Some(domain) = domain {
        let mut read = reading(&after);
        let count = read.wanted.len() + read.mdevs.len() + read.pcis.len();
        read.wanted.retain(|wanted| devices.iter().all(|device| device.wanted != *wanted));
        read.mdevs.retain(|it| devices.iter().all(|device| device.device != DeviceId::Mdev(it.uuid.clone())));
        read.pcis.retain(|it| devices.iter().all(|device| device.device != DeviceId::Vf(it.address.clone())));
        assert_eq!(count - read.wanted.len() - read.mdevs.len() - read.pcis.len(), 4, "each in both places");
        assert_eq!(read, *domain, "something else has come or gone");
    }
    match assign::changed(&Host::at("/nowhere".as_ref()), text, &devices, false) {
        Ok(changed) => assert_eq!(changed, after),
        Err(failure) => told(&failure.text, failure.hint.as_deref()),
    }
    if !is_sane(text) {
        return;
    }
    let back = without(&after, &devices);
    assert_eq!(others(&back), others(text), "something has changed on the way back");
    // What was empty or missing is made, and goes or stays as it was made: from there on they go without a trace.
    let again = Editable::read(&back).unwrap().assign(&devices);
    assert_eq!(without(&again, &devices), back);
    // One after the other, too.
    let [first, second] = devices.each_ref().map(std::slice::from_ref);
    let one = Editable::read(&back).unwrap().assign(first);
    let both = Editable::read(&one).unwrap().assign(second);
    assert_eq!(both, again);
    assert_eq!(without(&both, second), one);
    assert_eq!(without(&one, first), back);
    let has_hostdev = domain.is_some_and(|domain| !(domain.mdevs.is_empty() && domain.pcis.is_empty()));
    let has_ours = !editable.devices().is_empty();
    let count = |name: &str| text.matches(name).count();
    if has_hostdev && count("<devices") == 1 && (has_ours || count("metadata") == 0) {
        assert_eq!(back, text, "a trace is left");
    }
}

/// Takes out what is there: the first device of the metadata, then all of them.
fn unassigned(editable: &Editable<'_>, text: &str, domain: &Domain) {
    if !is_sane(text) {
        return;
    }
    let all: Vec<usize> = (0..editable.devices().len()).collect();
    // What has been attached and is gone stands in the text only.
    if all.len() > domain.wanted.len() && text.contains("attached") {
        return;
    }
    assert_eq!(all.len(), domain.wanted.len());
    for going in [all.get(..1).unwrap_or_default(), &all] {
        let id = |wanted: &Wanted| match (&wanted.uuid, wanted.parents.as_slice()) {
            (Some(uuid), _) => Some(DeviceId::Mdev(uuid.clone())),
            (None, [parent]) => PciAddress::parse(&parent.to_string()).ok().map(DeviceId::Vf),
            _ => None,
        };
        let opened: Vec<DeviceId> = going.iter().filter_map(|at| id(&domain.wanted[*at])).collect();
        let after = editable.unassign(going, &opened);
        let (before, now) = (others(text), others(&after));
        let is_less = are_among(&now.0, &before.0) && are_among(now.1.chars(), before.1.chars());
        assert!(is_less, "something has changed:\n{after}");
        let mut left = domain.clone();
        left.wanted.drain(..going.len());
        left.mdevs.retain(|hostdev| !opened.contains(&DeviceId::Mdev(hostdev.uuid.clone())));
        left.pcis.retain(|hostdev| !opened.contains(&DeviceId::Vf(hostdev.address.clone())));
        assert_eq!(reading(&after), left);
    }
}
