use super::*;
use crate::ids::DomainUuid;

#[test]
fn what_is_to_be_copied_names_the_domain_only_by_a_word() {
    for (vm, named) in
        [("web-1", "web-1"), ("a;reboot", "VM"), ("$(reboot)", "VM"), ("-x", "VM"), ("a b", "VM")]
    {
        let command = format!("virt-mdev assign {named} …");
        assert!(for_next_start(vm).ends_with(&command), "{vm}");
    }
}

#[test]
fn another_function_is_chosen_unless_the_person_wants_that_one() {
    let device = || DeviceId::parse("0000:41:00.4").unwrap();
    let domain = DomainUuid::parse("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap();
    let claimed = Refusal::ClaimedByOther { device: device(), owner: "vm2".to_owned(), in_metadata: true };
    let reserved = Refusal::Reserved { device: device(), domain };
    let parents = |names: &[&str]| names.iter().map(|name| Parent::parse(name).unwrap()).collect::<Vec<_>>();
    for (named, another) in [
        (&[][..], true),
        (&["0000:41:00.0"], true),
        (&["0000:41:00.4", "0000:41:00.5"], true),
        (&["0000:41:00.4"], false),
    ] {
        for refusal in [&claimed, &reserved] {
            assert_eq!(is_one_of_several(refusal, &parents(named)), another, "{named:?}: {refusal}");
        }
    }
    assert!(!is_one_of_several(&Refusal::NoParents { clue: None }, &[]));
}

#[test]
fn a_device_that_stays_is_said_to_and_why() {
    let device = DeviceId::parse("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001").unwrap();
    let said = |made, kept| detached("vm1", &device, made, kept, Undone::default()).unwrap();
    assert_eq!(said(true, false), format!("vm1: detached {device}\n"));
    assert_eq!(
        said(true, true),
        format!(
            "vm1: detached {device}, which stays: the domain keeps it; `virt-mdev release --force {device}` removes it\n"
        )
    );
    assert_eq!(
        said(false, false),
        format!("vm1: detached {device}, which stays: virt-mdev did not make it\n")
    );
}
