use proptest::prelude::*;

use super::super::{Attribute, Domain, Placement, Wanted};
use super::*;
use crate::ids::{AttributeName, Parent, PciAddress, TypeWish};

const LIVE: &str = include_str!("../live.xml");
const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const OTHER: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
const HEAD: &str = "<name>a</name>\n  <uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid>";

fn uuid(text: &str) -> MdevUuid {
    MdevUuid::parse(text).unwrap()
}

fn wanted(id: Option<&str>) -> Wanted {
    Wanted {
        uuid: id.map(uuid),
        wish: TypeWish::parse("t").unwrap(),
        parents: Vec::new(),
        placement: None,
        numa: None,
        keep: false,
        relocate: false,
        attached: false,
        attributes: Vec::new(),
        arguments: Vec::new(),
    }
}

fn mdev(id: &str) -> Assigned {
    Assigned { wanted: wanted(Some(id)), device: DeviceId::Mdev(uuid(id)), model: "vfio-pci".to_owned() }
}

fn assigned(text: &str, devices: &[Assigned]) -> String {
    Editable::read(text).unwrap().assign(devices)
}

/// Takes out what these name, as the verb does.
fn unassigned(text: &str, ids: &[&str]) -> String {
    let editable = Editable::read(text).unwrap();
    let ids: Vec<MdevUuid> = ids.iter().map(|id| uuid(id)).collect();
    let numbers: Vec<usize> = (0..editable.devices().len())
        .filter(|&n| editable.devices()[n].uuid.as_ref().is_some_and(|id| ids.contains(id)))
        .collect();
    editable.unassign(&numbers, &ids.into_iter().map(DeviceId::Mdev).collect::<Vec<_>>())
}

fn hostdev(indent: &str) -> String {
    format!(
        "{indent}<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>{indent}  <source>\
         {indent}    <address uuid='{UUID}'/>{indent}  </source>{indent}</hostdev>"
    )
}

#[test]
fn an_assigned_device_stands_beside_what_was_there_and_goes_without_a_trace() {
    let ours = "urn:virt-mdev:domain:1";
    let new = format!("<mdev:device uuid=\"{UUID}\" type=\"t\"/>");
    let one = format!("\n    <mdev:devices xmlns:mdev=\"{ours}\">\n      {new}\n    </mdev:devices>");
    // What stands in the domain, between {m and m} and between {d and d}: before, then after.
    let cases = [
        // Nothing yet.
        (String::new(), format!("\n  <metadata>{one}\n  </metadata>")),
        // Metadata of others, behind a comment, CDATA and entities.
        (
            "\n  <metadata>\n    <!-- <mdev:devices> --><x:a xmlns:x=\"y\"><![CDATA[</metadata>]]>&amp;</x:a>\n  </metadata>".to_owned(),
            format!("\n  <metadata>\n    <!-- <mdev:devices> --><x:a xmlns:x=\"y\"><![CDATA[</metadata>]]>&amp;</x:a><mdev:devices xmlns:mdev=\"{ours}\">{new}</mdev:devices>\n  </metadata>"),
        ),
        (
            "\n  <metadata>\n    <x:a xmlns:x=\"y\"/>\n    <!-- last -->\n  </metadata>".to_owned(),
            format!("\n  <metadata>\n    <x:a xmlns:x=\"y\"/>{one}\n    <!-- last -->\n  </metadata>"),
        ),
        // A prefix of ours that means something else outside, and one that is declared there.
        (
            "\n  <metadata>\n    <mdev:devices xmlns:mdev=\"other\"/>\n  </metadata>".to_owned(),
            format!("\n  <metadata>\n    <mdev:devices xmlns:mdev=\"other\"/>{one}\n  </metadata>"),
        ),
        // Ours is there, under a prefix, in the default namespace, with what we do not know, and all on one line.
        (
            format!("\n  <metadata>\n    <v:devices xmlns:v='{ours}'>\n\n      <v:device uuid='{OTHER}' type='t'>\n      </v:device>\n    </v:devices>\n  </metadata>"),
            format!("\n  <metadata>\n    <v:devices xmlns:v='{ours}'>\n\n      <v:device uuid='{OTHER}' type='t'>\n      </v:device>\n      <v:device uuid=\"{UUID}\" type=\"t\"/>\n    </v:devices>\n  </metadata>"),
        ),
        (
            format!("\n\t<metadata>\n\t\t<devices xmlns='{ours}'>\n\t\t\t<later/>\n\t\t</devices>\n\t</metadata>"),
            format!("\n\t<metadata>\n\t\t<devices xmlns='{ours}'>\n\t\t\t<later/>\n\t\t\t<device uuid=\"{UUID}\" type=\"t\"/>\n\t\t</devices>\n\t</metadata>"),
        ),
        (
            format!("\n  <metadata><v:devices xmlns:v='{ours}'><!----></v:devices></metadata>"),
            format!("\n  <metadata><v:devices xmlns:v='{ours}'><v:device uuid=\"{UUID}\" type=\"t\"/><!----></v:devices></metadata>"),
        ),
    ];
    let text = |metadata: &str, hostdevs: &str| {
        format!(
            "<?xml version='1.0'?>\n<domain type='qemu'>\n  {HEAD}{metadata}\n  <memory>1</memory>\n  <devices>\n    <emulator/>{hostdevs}\n  </devices>\n</domain>\n"
        )
    };
    for (before, after) in cases {
        let (before, after) = (text(&before, ""), text(&after, &hostdev("\n    ")));
        assert_eq!(assigned(&before, &[mdev(UUID)]), after);
        assert_eq!(unassigned(&after, &[UUID]), before);
    }
}

#[test]
fn what_is_empty_or_missing_is_made() {
    let ours = "urn:virt-mdev:domain:1";
    let device = format!("<mdev:device uuid=\"{UUID}\" type=\"t\"/>");
    let one = format!("<mdev:devices xmlns:mdev=\"{ours}\">\n      {device}\n    </mdev:devices>");
    let cases = [
        (
            format!("<domain>\n  {HEAD}\n  <metadata/>\n  <devices/>\n</domain>"),
            format!(
                "<domain>\n  {HEAD}\n  <metadata>\n    {one}\n  </metadata>\n  <devices>{}\n  </devices>\n</domain>",
                hostdev("\n    ")
            ),
            format!("<domain>\n  {HEAD}\n  <devices>\n  </devices>\n</domain>"),
        ),
        // libvirt refuses that, but not we.
        (
            format!("<domain>\n  {HEAD}\n</domain>"),
            format!(
                "<domain>\n  {HEAD}\n  <metadata>\n    {one}\n  </metadata>\n  <devices>{}\n  </devices>\n</domain>",
                hostdev("\n    ")
            ),
            format!("<domain>\n  {HEAD}\n  <devices>\n  </devices>\n</domain>"),
        ),
        (
            format!(
                "<domain>\n  {HEAD}\n  <title>&lt;devices></title>\n  <metadata>\n    <v:devices xmlns:v='{ours}'  />\n  </metadata>\n  <devices></devices>\n</domain>"
            ),
            format!(
                "<domain>\n  {HEAD}\n  <title>&lt;devices></title>\n  <metadata>\n    <v:devices xmlns:v='{ours}'  >\n      <v:device uuid=\"{UUID}\" type=\"t\"/>\n    </v:devices>\n  </metadata>\n  <devices>{}</devices>\n</domain>",
                hostdev("\n    ")
            ),
            format!("<domain>\n  {HEAD}\n  <title>&lt;devices></title>\n  <devices></devices>\n</domain>"),
        ),
    ];
    for (before, after, then) in cases {
        assert_eq!(assigned(&before, &[mdev(UUID)]), after);
        assert_eq!(unassigned(&after, &[UUID]), then);
    }
}

#[test]
fn a_device_reads_back_as_what_it_was_written_as() {
    let full = Wanted {
        wish: TypeWish::parse("GRID <M60> & \"4Q\"'s").unwrap(),
        parents: ["0000:86:00.0", "mtty"].map(|name| Parent::parse(name).unwrap()).to_vec(),
        placement: Some(Placement::Spread),
        numa: Some(1),
        keep: true,
        relocate: true,
        attached: false,
        attributes: vec![Attribute {
            name: AttributeName::parse("nvidia/vgpu_params").unwrap(),
            value: " a\n\t\"b\" <c>&'d' ä ".to_owned(),
        }],
        arguments: vec![("a".to_owned(), "b".to_owned())],
        ..wanted(Some(UUID))
    };
    let function = PciAddress::parse("0001:0a:1f.7").unwrap();
    let vf = Wanted { parents: vec![function.as_parent()], ..wanted(None) };
    let devices = [
        Assigned { wanted: full.clone(), ..mdev(UUID) },
        Assigned { wanted: vf.clone(), device: DeviceId::Vf(function.clone()), model: String::new() },
    ];
    let before = format!("<domain>{HEAD}<devices/></domain>");
    let after = assigned(&before, &devices);
    let domain = Domain::read(after.as_bytes()).unwrap();
    assert_eq!(domain.wanted, [full, vf]);
    assert_eq!((&domain.mdevs[0].uuid, domain.mdevs[0].model.as_str()), (&uuid(UUID), "vfio-pci"));
    assert_eq!((&domain.pcis[0].address, domain.pcis[0].managed), (&function, false));
    let editable = Editable::read(&after).unwrap();
    assert_eq!(editable.devices()[1].parents, [function.as_parent()]);
    let without = editable.unassign(&[1], &[DeviceId::Vf(function)]);
    assert_eq!(without, assigned(&before, &devices[..1]));
    // On lines of its own it is what a person is shown.
    let mut shown = snippet_of(&devices[1..]);
    shown.retain(|c| c != '\n');
    assert!(
        shown.contains("<source>      <address domain='0x0001' bus='0x0a' slot='0x1f' function='0x7'/>"),
        "{shown}"
    );
}

fn snippet_of(devices: &[Assigned]) -> String {
    super::super::snippet(devices)
}

#[test]
fn every_place_that_names_a_uuid_gets_the_new_one() {
    let upper = UUID.to_uppercase();
    let text = |a: &str, b: &str| {
        format!(
            "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>{HEAD}<metadata><d:devices xmlns:d='urn:virt-mdev:domain:1'>\
             <d:device type='{OTHER}' uuid='{a}'/><device uuid=\"{b}\" type='t'/></d:devices></metadata><!-- {UUID} -->\
             <devices><hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{a}'/></source></hostdev></devices>\
             <q:commandline><q:arg value='-device'/><q:arg value='vfio-pci,id=sysfsdev-{OTHER},sysfsdev=/sys/bus/mdev/devices/{b}'/>\
             <q:arg value='-device'/><q:arg value='{{&quot;sysfsdev&quot;:&quot;/sys/bus/mdev/devices/{b}&quot;}}'/><q:arg value='{OTHER}'/></q:commandline></domain>"
        )
    };
    let (new, newer) = ("a0000000-0000-4000-8000-000000000001", "a0000000-0000-4000-8000-000000000002");
    let before = text(&upper, OTHER);
    let editable = Editable::read(&before).unwrap();
    assert!(editable.has_argument(&uuid(OTHER)) && !editable.has_argument(&uuid(UUID)));
    let names = [(uuid(UUID), uuid(new)), (uuid(OTHER), uuid(newer))];
    assert_eq!(editable.renamed(&names), text(new, newer));
    assert_eq!(editable.renamed(&names[..1]), text(new, OTHER));
}

#[test]
fn xml_that_nobody_may_edit_is_refused_in_words() {
    for (text, says) in [
        ("<domain>", "it ends in the middle of an element"),
        ("<domain/>", "has no <name>"),
        ("<network><name>a</name></network>", "begins with <network>"),
        ("<!DOCTYPE domain><domain><name>a</name></domain>", "(DTD)"),
        (
            "<domain><name>a</name><metadata><d:devcies xmlns:d='urn:virt-mdev:domain:1'/></metadata></domain>",
            "unknown element <devcies>",
        ),
    ] {
        let refusal = Editable::read(text).unwrap_err().to_string();
        assert!(refusal.contains(says), "{text}: {refusal}");
    }
}

/// Something that may stand between elements, or be one.
fn filling() -> impl Strategy<Value = String> {
    let pieces = [
        "\n",
        "  ",
        "\t",
        "\r\n",
        "<!-- > -->",
        "<![CDATA[<x>]]>",
        "&amp;",
        "text",
        "<a/>",
        "<x:b xmlns:x=\"y\"> </x:b>",
        "<?p i?>",
        "<hostdev mode='subsystem' type='usb'/>",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Wherever it is put, a device goes again byte for byte, and everything else stays.
    #[test]
    fn unassigning_undoes_assigning(
        fillings in prop::collection::vec(filling(), 7),
        metadata in prop::option::of(prop::sample::select(vec!["mdev:", "v:", ""])),
        devices in 1usize..4,
    ) {
        let [a, b, c, d, e, f, g] = fillings.as_slice() else { panic!("seven") };
        let metadata = metadata.map_or_else(String::new, |prefix| {
            let xmlns = if prefix.is_empty() { "xmlns".to_owned() } else { format!("xmlns:{}", prefix.trim_end_matches(':')) };
            format!("<metadata>{b}<{prefix}devices {xmlns}='urn:virt-mdev:domain:1'>{c}<{prefix}device type='t'/>{d}</{prefix}devices></metadata>")
        });
        let before = format!("<domain>{HEAD}{a}{metadata}{e}<devices>{f}<emulator/>{g}</devices></domain>\n");
        let ids: Vec<String> = (0..devices).map(|n| format!("a0000000-0000-4000-8000-00000000000{n}")).collect();
        let new: Vec<Assigned> = ids.iter().map(|id| mdev(id)).collect();
        let after = assigned(&before, &new);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        prop_assert_eq!(unassigned(&after, &ids), before.clone());
        // One after the other, too.
        let mut text = before.clone();
        for device in &new {
            text = assigned(&text, std::slice::from_ref(device));
        }
        prop_assert_eq!(&text, &after);
        for id in &ids {
            text = unassigned(&text, &[id]);
        }
        prop_assert_eq!(text, before);
    }

    /// Whatever is cut out, doubled or overwritten, it is refused, or the change is the only one.
    #[test]
    fn no_input_makes_an_edit_panic(at in 0..LIVE.len(), len in 0usize..80, with in "\\PC{0,8}|[<>&;'\"/!\\[\\]=-]{0,4}") {
        let bytes = LIVE.as_bytes();
        let end = (at + len).min(bytes.len());
        let mutated = [&bytes[..at], with.as_bytes(), &bytes[end..]].concat();
        let Ok(text) = std::str::from_utf8(&mutated) else { return Ok(()) };
        let Ok(editable) = Editable::read(text) else { return Ok(()) };
        let after = editable.assign(&[mdev(OTHER)]);
        prop_assert!(after.len() > text.len());
        prop_assert!(Editable::read(&after).is_ok());
        let all: Vec<usize> = (0..editable.devices().len()).collect();
        prop_assert!(Editable::read(&editable.unassign(&all, &[])).is_ok());
    }
}

const FUNCTIONS: &str = "<!-- 0000:41:00.4 -->\n<domain type=\"kvm\" xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
<name>a &amp; 0000:41:00.4</name>\r\n<uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid>\n<metadata>\
<x:y xmlns:x='urn:x' parent='0000:41:00.4' uuid='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'/>\
<devices xmlns='urn:virt-mdev:domain:1'>\n\t<device type='&#x31;145'  parent = \" 0000:41:00.4 \"/>\
<device uuid='83B8F4F2-509F-382F-3C1E-E6BFE0FA1001' type='t' parent='0000:41:00.4'/></devices></metadata>\n\
<devices><hostdev mode='subsystem' managed='no' type='pci'><source><!-- bus='0x41' -->\
<address function='4' slot=\"0\" bus='65' /></source>\
<address type='pci' domain='0x0000' bus='0x41' slot='0x00' function='0x4'/></hostdev>\n\
<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>\
<address uuid='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'/></source></hostdev>\
<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x41' slot='0x00' function='0x5'/></source>\
</hostdev></devices>\n<q:commandline><q:arg value='-device'/>\
<q:arg value='vfio-pci,id=x,sysfsdev=/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'/></q:commandline>\
</domain>\n<?end?>\n";

/// What becomes of a text: the parts that differ, before and after.
fn differences(before: &str, after: &str) -> Vec<(String, String)> {
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let (mut before, mut after, mut found) = (before, after, Vec::new());
    while before != after {
        let same = common(before, after);
        let ((_, old), (_, new)) = (before.split_at(same), after.split_at(same));
        // They are alike again where the next quote is, at the latest.
        let quote = |text: &str| text.find(['\'', '"']).unwrap();
        let ((was, rest), (is, other)) = (old.split_at(quote(old)), new.split_at(quote(new)));
        found.push((was.to_owned(), is.to_owned()));
        (before, after) = (rest, other);
    }
    found
}

#[test]
fn other_devices_change_what_names_them_and_not_a_byte_besides() {
    let device = |text: &str| DeviceId::parse(text).unwrap();
    let text = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(from, to)| (device(from), device(to))).collect();
        (Editable::read(FUNCTIONS).unwrap().with_others(&pairs), pairs)
    };
    let parts = |pairs: &[(&str, &str)]| differences(FUNCTIONS, &text(pairs).0);
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let function = |to| [("0000:41:00.4", to)];
    // In the metadata the address is one text; of the hostdev only the numbers that differ.
    assert_eq!(parts(&function("0000:41:00.6")), [pair(" 0000:41:00.4 ", "0000:41:00.6"), pair("4", "0x6")]);
    assert_eq!(
        parts(&function("0000:c1:02.4")),
        [pair(" 0000:41:00.4 ", "0000:c1:02.4"), pair("", "x02"), pair("65", "0xc1")]
    );
    let other_domain = text(&function("0001:41:00.4")).0;
    assert!(
        other_domain.contains("<address function='4' slot=\"0\" bus='65' domain='0x0001' />"),
        "{other_domain}"
    );
    // A device that is not the one: nothing.
    assert_eq!(text(&[("0000:41:00.7", "0000:41:00.6")]).0, FUNCTIONS);
    // UUIDs, whatever case they are written in; not in what belongs to somebody else.
    let renamed = parts(&[(UUID, OTHER)]);
    assert_eq!(renamed.len(), 3, "{renamed:?}");
    // Two that change places.
    let swap = [("0000:41:00.4", "0000:41:00.5"), ("0000:41:00.5", "0000:41:00.4"), (UUID, OTHER)];
    for pairs in [&function("0001:c1:1f.7")[..], &[(UUID, OTHER)], &swap] {
        let (changed, pairs) = text(pairs);
        let expected = Domain::read(FUNCTIONS.as_bytes()).unwrap().with(&pairs);
        assert_eq!(Domain::read(changed.as_bytes()).unwrap(), expected, "{changed}");
    }
}
