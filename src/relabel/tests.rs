use super::*;
use crate::ids::DomainUuid;
use crate::labels::Owner;
use crate::record::{Entry, Named, Phase, VERSION};

const MDEV: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const MCS: &str = "system_u:object_r:svirt_image_t:s0:c1,c2";
const DEFAULT: &str = "system_u:object_r:vfio_device_t:s0";

fn context(text: &str) -> Option<Context> {
    Some(Context::parse(text).unwrap())
}

fn node(text: &str) -> Node {
    Node::parse(text).unwrap()
}

fn device(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn entry(of: &str, at: &str, state: State) -> Entry {
    let owner = Some(Owner { uid: 64055, gid: 64055 });
    let label = Label { owner, mode: None, context: context(MCS) };
    let was = Label { context: context(DEFAULT), ..Label::default() };
    let step = Step::Label { device: device(of), node: node(at), label, was };
    Entry { state, ..Entry::intended(step, None) }
}

fn record(name: &str, steps: Vec<Entry>) -> Record {
    let uuid = DomainUuid::parse("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap();
    Record { version: VERSION, domain: Named { uuid, name: name.to_owned() }, phase: Phase::Running, steps }
}

/// What udev takes from a program's answer: `get_property_from_string` and its caller, udev-rules.c of systemd 257.
fn as_udev_reads(text: &str) -> Vec<(String, String)> {
    let blank = |c: char| " \t\n\r".contains(c);
    let of = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let (key, value) = (key.trim_matches(blank), value.trim_matches(blank));
        let value = match value.chars().next()? {
            quote @ ('"' | '\'') => value.strip_prefix(quote)?.strip_suffix(quote)?,
            _ => value,
        };
        (!key.is_empty() && !key.starts_with('#')).then(|| (key.to_owned(), value.to_owned()))
    };
    text.split(['\n', '\r']).filter_map(of).collect()
}

#[test]
fn events_are_of_nodes_that_domains_have() {
    let group =
        |number: &str| Event { node: node(&format!("vfio/{number}")), of: Of::Group(number.to_owned()) };
    let own = |name: &str, of: &str| Event {
        node: node(&format!("vfio/devices/{name}")),
        of: Of::Device(device(of)),
    };
    let mtty = format!("/devices/virtual/mtty/mtty/{MDEV}/vfio-dev/vfio0");
    let vf = "/devices/pci0000:40/0000:40:01.1/0000:41:00.5/vfio-dev/vfio12";
    for (action, subsystem, devpath, event) in [
        ("add", "vfio", "/devices/virtual/vfio/7", Some(group("7"))),
        ("change", "vfio", "/devices/virtual/vfio/7", Some(group("7"))),
        ("", "vfio", "7", Some(group("7"))),
        ("remove", "vfio", "/devices/virtual/vfio/7", None),
        ("add", "vfio-dev", &mtty, Some(own("vfio0", MDEV))),
        ("add", "vfio-dev", vf, Some(own("vfio12", "0000:41:00.5"))),
        // The container is everybody's, and a group without an IOMMU nobody's of ours.
        ("add", "misc", "/devices/virtual/misc/vfio", None),
        ("add", "vfio", "/devices/virtual/vfio/vfio", None),
        ("add", "vfio", "/devices/virtual/vfio/noiommu-0", None),
        ("add", "vfio-dev", "/devices/platform/fff51000.ethernet/vfio-dev/vfio0", None),
        // What no kernel says.
        ("add", "", "/devices/virtual/vfio/7", None),
        ("add", "block", "/devices/virtual/vfio/7", None),
        ("add", "vfio", "", None),
        ("add", "vfio", "/devices/virtual/vfio/", None),
        ("add", "vfio", "/devices/virtual/vfio/..", None),
        ("add", "vfio", "/devices/virtual/vfio/7\n", None),
        ("add", "vfio", "/devices/virtual/vfio/٧", None),
        ("add", "vfio-dev", "vfio0", None),
        ("add", "vfio-dev", &format!("/devices/{MDEV}/vfio0"), None),
        ("add", "vfio-dev", &format!("/devices/{MDEV}/vfio-dev/7"), None),
        ("add", "vfio-dev", &format!("/devices/{MDEV}/vfio-dev/vfiovfio"), None),
        ("add", "vfio-dev", "/devices/../vfio-dev/vfio0", None),
    ] {
        assert_eq!(Event::parse(action, subsystem, devpath), event, "{action} {subsystem} {devpath:?}");
    }
}

#[test]
fn a_label_is_its_nodes_and_its_devices_until_it_is_put_back() {
    for (of, at, state, some) in [
        (MDEV, "vfio/7", State::Intended, true),
        (MDEV, "vfio/7", State::Done, true),
        (MDEV, "vfio/7", State::Undoing, false),
        (MDEV, "vfio/8", State::Done, false),
        (MDEV, "vfio/devices/vfio7", State::Done, false),
        ("0000:41:00.5", "vfio/7", State::Done, false),
    ] {
        let record = record("vm1", vec![entry(of, at, state)]);
        assert_eq!(label(&record, &device(MDEV), &node("vfio/7")).is_some(), some, "{of} {at} {state:?}");
    }
    let again = vec![entry(MDEV, "vfio/7", State::Undoing), entry(MDEV, "vfio/7", State::Intended)];
    assert!(label(&record("vm1", again), &device(MDEV), &node("vfio/7")).is_some(), "a later one holds");
}

#[test]
fn udev_is_told_what_there_is() {
    let nothing = told(&device(MDEV), &node("vfio/7"), None);
    assert_eq!(nothing, format!("VIRT_MDEV_UUID=\"{MDEV}\"\n"));
    let claimed = told(&device("0000:41:00.5"), &node("vfio/7"), Some(&record("vm1", vec![])));
    assert_eq!(claimed, "VIRT_MDEV_VF=\"0000:41:00.5\"\nVIRT_MDEV_DOMAIN=\"vm1\"\n");
    let labelled = record("vm1", vec![entry(MDEV, "vfio/7", State::Done)]);
    assert_eq!(
        told(&device(MDEV), &node("vfio/7"), Some(&labelled)),
        format!(
            "VIRT_MDEV_UUID=\"{MDEV}\"\nVIRT_MDEV_DOMAIN=\"vm1\"\n\
             VIRT_MDEV_CONTEXT=\"{MCS}\"\nVIRT_MDEV_WAS=\"{DEFAULT}\"\n"
        )
    );
    let undoing = record("vm1", vec![entry(MDEV, "vfio/7", State::Undoing)]);
    assert!(!told(&device(MDEV), &node("vfio/7"), Some(&undoing)).contains("CONTEXT"));
}

#[test]
fn no_name_of_a_domain_becomes_another_property() {
    let long = "x".repeat(4096);
    for (name, shown) in [
        ("vm1", "vm1"),
        ("Größe 大", "Größe 大"),
        ("a\nVIRT_MDEV_CONTEXT=x", "a\\nVIRT_MDEV_CONTEXT=x"),
        ("a\r\n\u{85}\u{2028}b", "a\\r\\n\\u{85}\\u{2028}b"),
        ("a\0b", "a\\u{0}b"),
        ("\"", "\""),
        ("a\"\nB=\"c", "a\"\\nB=\"c"),
        ("'a'", "'a'"),
        ("$env{PATH} %k $(id) `id`", "$env{PATH} %k $(id) `id`"),
        ("a\\", "a\\"),
        ("\\n", "\\n"),
        (" a ", " a "),
        ("#a=b", "#a=b"),
        (&long, &format!("{}…", "x".repeat(120))),
    ] {
        let text = told(&device(MDEV), &node("vfio/7"), Some(&record(name, vec![])));
        let expected = [(UUID, MDEV), (DOMAIN, shown)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(as_udev_reads(&text), expected, "{name:?}: {text:?}");
    }
}

#[test]
fn the_longest_answer_is_one_that_udev_reads_whole() {
    let longest = format!("u:r:t:{}", "c".repeat(4090));
    let (label, was) = (context(&longest), context(&longest));
    let only = |context| Label { context, ..Label::default() };
    let step = Step::Label { device: device(MDEV), node: node("vfio/7"), label: only(label), was: only(was) };
    let steps = vec![Entry { state: State::Done, ..Entry::intended(step, None) }];
    let text = told(&device(MDEV), &node("vfio/7"), Some(&record(&"\u{10ffff}".repeat(4096), steps)));
    // UDEV_LINE_SIZE: what follows is cut, and with it the last line dropped.
    assert!(text.len() < 16384, "{}", text.len());
    assert_eq!(as_udev_reads(&text).len(), 4);
}

#[test]
fn only_a_context_is_taken_from_the_environment() {
    assert_eq!(Given::parse(MCS, DEFAULT), Given { context: context(MCS), was: context(DEFAULT) });
    for bad in ["", "a", "a:b", "a:b:c d", "a:b:\n", "a:b:ü", &format!("a:b:{}", "c".repeat(4096))] {
        assert_eq!(Given::parse(bad, bad), Given::default(), "{bad:?}");
    }
}
