use super::*;
use crate::backend::nvidia;
use crate::ids::{Match, TypeId};
use crate::step::Place;

const OWN: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const OTHER: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";

fn mdev(text: &str) -> DeviceId {
    DeviceId::Mdev(MdevUuid::parse(text).unwrap())
}

fn address(text: &str) -> PciAddress {
    PciAddress::parse(text).unwrap()
}

/// A domain with these devices in its metadata, and functions by bus.
fn domain(devices: &str, buses: &[&str]) -> Domain {
    let hostdev = |bus: &&str| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='no'><source><address bus='{bus}' slot='0' \
             function='4'/></source></hostdev>"
        )
    };
    let hostdevs: String = buses.iter().map(hostdev).collect();
    let xml = format!(
        "<domain><name>a</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid><metadata>\
         <m:devices xmlns:m='urn:virt-mdev:domain:1'>{devices}</m:devices></metadata>\
         <devices>{hostdevs}</devices></domain>"
    );
    Domain::read(xml.as_bytes()).unwrap()
}

#[test]
fn a_function_is_told_from_the_domain_alone_where_that_is_possible() {
    for (device, buses, expected) in [
        ("type='t' parent='0000:42:00.4'", &["0x41", "0x42"][..], Some("0000:42:00.4")),
        ("type='t' parent='0000:43:00.4'", &["0x41", "0x42"], None),
        // There is one only, wherever it was.
        ("type='t'", &["0x99"], Some("0000:99:00.4")),
        ("type='t'", &["0x41", "0x99"], Some("0000:41:00.4")),
        ("type='t'", &["0x98", "0x99"], None),
        ("type='t'", &["0x41", "0x41"], None),
        ("type='t'", &[], None),
        // What a function cannot have is refused elsewhere.
        ("type='t' numa='1'", &["0x41"], None),
        ("type='t' placement='pack'", &["0x41"], None),
        ("type='t' parent='0000:41:00.4 0000:42:00.4'", &["0x41", "0x42"], None),
        (&format!("type='t' uuid='{OWN}'"), &["0x41"], None),
    ] {
        let domain = domain(&format!("<m:device {device}/>"), buses);
        let here = |it: &PciAddress| it.to_string().starts_with("0000:41");
        let found = function_of(&domain, &domain.wanted[0], here);
        assert_eq!(found, expected.map(address), "{device} {buses:?}");
    }
}

#[test]
fn what_libvirt_manages_is_no_vgpu() {
    let mut domain = domain("<m:device type='t'/>", &["0x41", "0x42"]);
    domain.pcis[0].managed = true;
    let found = function_of(&domain, &domain.wanted[0], |_| true);
    assert_eq!(found, Some(address("0000:42:00.4")));
}

fn offer(function: &str, card: &str, fit: Match) -> Offer {
    let place: Place = nvidia::place(&Parent::parse(function).unwrap(), TypeId::parse("1145").unwrap());
    Offer {
        place,
        fit,
        name: None,
        api: String::new(),
        free: Some(1),
        max: None,
        card: card.to_owned(),
        numa: None,
        id_argument: None,
        holders: vec![],
    }
}

#[test]
fn the_best_fit_goes_before_the_placement() {
    let wanted = &domain("<m:device type='t'/>", &["0x41"]).wanted[0];
    let here = Functions {
        free: vec![
            offer("0000:41:00.4", "0000:41:00.0", Match::NameInOtherCase),
            offer("0000:42:00.5", "0000:42:00.0", Match::Name),
            offer("0000:42:00.6", "0000:42:00.0", Match::Name),
            offer("0000:43:00.4", "0000:43:00.0", Match::Name),
        ],
        ..Functions::default()
    };
    assert_eq!(choose(wanted, &here, Placement::Pack).unwrap(), address("0000:43:00.4"));
    assert_eq!(choose(wanted, &here, Placement::Spread).unwrap(), address("0000:42:00.5"));
}

#[test]
fn without_a_function_it_is_said_whether_the_type_or_the_room_is_missing() {
    let wanted = &domain("<m:device type='NVIDIA L40S-1C'/>", &["0x41"]).wanted[0];
    let cards = vec![Parent::parse("0000:41:00.0").unwrap()];
    let known = vec!["1145 \"NVIDIA L40S-1B\"".to_owned()];
    let holders = vec![Share { domain: Some("vm2".to_owned()), devices: 2 }];
    let said = |here: &Functions| {
        let refusal = choose(wanted, here, Placement::Pack).unwrap_err();
        (refusal.to_string(), refusal.hint().unwrap())
    };
    let unknown = Functions { cards: cards.clone(), known: known.clone(), ..Functions::default() };
    assert_eq!(
        said(&unknown),
        (
            "type \"NVIDIA L40S-1C\" is not offered by 0000:41:00.0".to_owned(),
            "did you mean \"NVIDIA L40S-1B\"?".to_owned()
        )
    );
    let full = Functions { cards, known, holders, ..Functions::default() };
    assert_eq!(
        said(&full).0,
        "no room for NVIDIA L40S-1C on 0000:41:00.0: no free function takes it now, functions are held by vm2 (2)"
    );
}

#[test]
fn another_uuid_helps_where_the_metadata_names_the_device_and_it_is_not_the_domains_own() {
    let domain = domain(&format!("<m:device type='t' uuid='{OWN}'/>"), &[]);
    let claimed = |device| Refusal::ClaimedByOther { device, owner: "vm2".to_owned(), in_metadata: true };
    let place = Box::new(offer("0000:41:00.4", "x", Match::Id).place);
    let held =
        |device| Refusal::Held { device, place: place.clone(), holder: "qemu".to_owned(), in_metadata: true };
    let uuid = MdevUuid::parse(OWN).unwrap();
    for (refusal, ours, conflict) in [
        (claimed(mdev(OWN)), false, true),
        (claimed(mdev(OWN)), true, true),
        (held(mdev(OWN)), false, true),
        (held(mdev(OWN)), true, false),
        (claimed(mdev(OTHER)), false, false),
        (claimed(DeviceId::Vf(address("0000:41:00.4"))), false, false),
        (Refusal::NoParents { clue: None }, false, false),
    ] {
        let found = in_conflict(&domain, &refusal, ours);
        assert_eq!(found, conflict.then_some(&uuid), "{refusal}, {ours}");
    }
}

#[test]
fn another_uuid_is_the_same_each_time_and_another_for_each_domain_device_and_turn() {
    let (one, two) = ("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01", "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02");
    let new = |domain: &str, uuid: &str, turn| {
        renewed(&DomainUuid::parse(domain).unwrap(), &MdevUuid::parse(uuid).unwrap(), turn).unwrap()
    };
    assert_eq!(new(one, OWN, 0), new(one, OWN, 0));
    let mut all = vec![new(one, OWN, 0), new(two, OWN, 0), new(one, OTHER, 0), new(one, OWN, 1)];
    all.push(MdevUuid::parse(OWN).unwrap());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 5);
}
