use super::*;

const PASSWD: &str = "root:x:0:0::/:\nlibvirt-qemu:x:64055:104::/:\nqemu:x:107:108::/:\nvm:x:1000:1001::/:";
const GROUP: &str = "root:x:0:\nkvm:x:104:\nlibvirt-qemu:x:64055:\nvms:x:1002:";
const PROFILE: &str = "libvirt-0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01";
const IMAGE: &str = "system_u:object_r:svirt_image_t:s0:c1,c2";

/// `model` of the form that libvirt gives its own labels, with `label` and `imagelabel`.
fn seclabel(model: &str, label: Option<&str>, imagelabel: Option<&str>) -> Seclabel {
    Seclabel {
        kind: "dynamic".to_owned(),
        model: Some(model.to_owned()),
        relabel: true,
        label: label.map(str::to_owned),
        imagelabel: imagelabel.map(str::to_owned),
    }
}

fn none(model: Option<&str>) -> Seclabel {
    Seclabel { kind: "none".to_owned(), model: model.map(str::to_owned), ..Seclabel::default() }
}

fn no_relabel(mut seclabel: Seclabel) -> Seclabel {
    seclabel.relabel = false;
    seclabel
}

fn fixed(mut seclabel: Seclabel) -> Seclabel {
    seclabel.kind = "static".to_owned();
    seclabel
}

fn of(seclabels: &[Seclabel]) -> Result<Labels, Refusal> {
    labels(seclabels, &QemuConf::default(), &Accounts::new(PASSWD, GROUP))
}

#[test]
fn the_domain_says_who_owns_its_nodes() {
    let dac = |label, imagelabel| seclabel("dac", label, imagelabel);
    let owner = |uid, gid| Some(Owner { uid, gid });
    let built_in = owner(64055, 64055);
    for (seclabels, expected) in [
        (vec![dac(Some("+1:+2"), Some("+3:+4"))], owner(3, 4)),
        (vec![dac(Some("+1:+2"), None)], owner(1, 2)),
        (vec![dac(Some("vm:vms"), None)], owner(1000, 1002)),
        (vec![dac(Some("0:kvm"), None)], owner(0, 104)),
        (vec![fixed(dac(Some("vm:+5"), Some("vm:+5")))], owner(1000, 5)),
        (vec![dac(Some("+1:+1"), None), dac(Some("+2:+2"), None)], owner(1, 1)),
        (vec![dac(None, None)], built_in.clone()),
        (vec![], built_in.clone()),
        (vec![seclabel("selinux", None, Some(IMAGE))], built_in.clone()),
        (vec![no_relabel(dac(Some("+1:+2"), None))], None),
        (vec![no_relabel(dac(Some("nonsense"), None))], None),
        (vec![none(Some("dac"))], None),
        (vec![none(None)], None),
        (vec![none(Some("none"))], None),
        (vec![none(Some("selinux"))], built_in),
        (vec![none(None), dac(Some("+1:+2"), None)], owner(1, 2)),
    ] {
        assert_eq!(of(&seclabels).unwrap().owner, expected, "{seclabels:?}");
    }
}

#[test]
fn without_a_label_qemu_conf_and_then_the_distribution_say_it() {
    let conf = |user: Option<&str>, group: Option<&str>| QemuConf {
        user: user.map(str::to_owned),
        group: group.map(str::to_owned),
        ..QemuConf::default()
    };
    let fedora = "root:x:0:0::/:\nqemu:x:107:108::/:";
    for (conf, passwd, group, uid, gid) in [
        (conf(None, None), PASSWD, GROUP, 64055, 64055),
        (conf(None, None), PASSWD, "kvm:x:104:", 64055, 104),
        (conf(None, None), fedora, GROUP, 107, 108),
        (conf(None, None), fedora, "qemu:x:107:", 107, 107),
        (conf(None, None), "", "", 0, 0),
        (conf(Some("+7"), None), "", "", 7, 0),
        // The group is built in by itself, whoever the user is.
        (conf(Some("vm"), None), PASSWD, GROUP, 1000, 64055),
        (conf(None, Some("kvm")), PASSWD, GROUP, 64055, 104),
        (conf(Some("root"), Some("+5")), PASSWD, GROUP, 0, 5),
    ] {
        let labels = labels(&[], &conf, &Accounts::new(passwd, group)).unwrap();
        assert_eq!(labels.owner, Some(Owner { uid, gid }), "{conf:?} {passwd} {group}");
    }
    for (conf, says) in [
        (conf(Some("no\nbody"), None), "user = \"no\\nbody\": the user is not known on this host"),
        (conf(None, Some("")), "group = \"\": the group is empty"),
    ] {
        let refusal = labels(&[], &conf, &Accounts::new(PASSWD, GROUP)).unwrap_err();
        assert_eq!(refusal.to_string(), format!("/etc/libvirt/qemu.conf: {says}"));
        // What the domain says itself does not depend on it.
        assert!(labels(&[none(None)], &conf, &Accounts::new("", "")).is_ok());
    }
}

#[test]
fn context_and_profile_are_the_ones_libvirt_chose() {
    let selinux = seclabel("selinux", Some("system_u:system_r:svirt_t:s0:c1,c2"), Some(IMAGE));
    let apparmor = seclabel("apparmor", Some(PROFILE), Some(PROFILE));
    let own = fixed(seclabel("apparmor", Some("my profile"), Some("my profile")));
    let context = Some(IMAGE);
    let profile = Some(PROFILE);
    for (seclabels, expected) in [
        (vec![selinux.clone(), apparmor.clone()], (context, profile)),
        (vec![apparmor.clone(), none(None), selinux.clone()], (context, profile)),
        (vec![selinux.clone(), none(Some("apparmor"))], (context, None)),
        (vec![no_relabel(selinux.clone()), no_relabel(apparmor)], (None, None)),
        (vec![seclabel("selinux", Some("a:b:c"), None), seclabel("apparmor", None, None)], (None, None)),
        (vec![own], (None, None)),
        (vec![none(None)], (None, None)),
        (vec![], (None, None)),
    ] {
        let Labels { context, profile, .. } = of(&seclabels).unwrap();
        let found = (context.map(String::from), profile.map(String::from));
        assert_eq!((found.0.as_deref(), found.1.as_deref()), expected, "{seclabels:?}");
    }
    let long = format!("a:b:{}", "c".repeat(4092));
    for good in ["a:b:c", "system_u:object_r:svirt_image_t:s0:c1.c5,c9-s15:c0.c1023", long.as_str()] {
        assert!(of(&[seclabel("selinux", None, Some(good))]).is_ok(), "{good}");
    }
}

#[test]
fn a_profile_belongs_to_one_domain() {
    let profile = Profile::parse(PROFILE).unwrap();
    for (domain, is_of) in
        [("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01", true), ("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02", false)]
    {
        assert_eq!(profile.is_of(&crate::ids::DomainUuid::parse(domain).unwrap()), is_of, "{domain}");
    }
}

const FORM: &str = "not of the form user:role:type:range";
const CHARACTER: &str = "has a character that no SELinux context has";
const NO_PROFILE: &str = "not libvirt- and the UUID of a domain";

#[test]
fn every_malformed_label_is_refused_by_name() {
    let long = "x".repeat(64 * 1024);
    let long_owner = format!("+{}:+0", "9".repeat(64 * 1024));
    let long_context = format!("a:b:{}", "c".repeat(4093));
    let below = format!("{PROFILE}/../../passwd");
    let line = format!("{PROFILE}\n");
    let no_name = "no AppArmor profile has a name like this";
    for (model, value, why) in [
        ("dac", "", "not of the form user:group"),
        ("dac", "+1", "not of the form user:group"),
        ("dac", long.as_str(), "not of the form user:group"),
        ("dac", "::", "the user is empty"),
        ("dac", "+1:", "the group is empty"),
        ("dac", "root:b:c", "the group is not known on this host"),
        ("dac", "a:b:c", "the user is not known on this host"),
        ("dac", "nobody-here:root", "the user is not known on this host"),
        ("dac", "root:nobody-here", "the group is not known on this host"),
        ("dac", "root\n:root", "the user is not known on this host"),
        ("dac", "root:root\n", "the group is not known on this host"),
        ("dac", "root\0:root", "the user is not known on this host"),
        ("dac", "rööt:root", "the user is not known on this host"),
        ("dac", "+0\n:+0", "the user is not a number, in spite of its plus sign"),
        ("dac", "+4294967296:+0", "the user is a number beyond 32 bits"),
        ("dac", long_owner.as_str(), "the user is a number beyond 32 bits"),
        ("dac", "+0:+4294967296", "the group is a number beyond 32 bits"),
        ("dac", "4294967295:+0", "the user is 4294967295, which the kernel keeps for \"none\""),
        ("dac", "+0:-1", "the group is not known on this host"),
        ("selinux", "", FORM),
        ("selinux", "::", FORM),
        ("selinux", "a:b", FORM),
        ("selinux", "a:b:", FORM),
        ("selinux", "a:b:c:", FORM),
        ("selinux", "a:b:c\n", CHARACTER),
        ("selinux", "a:b:c d", CHARACTER),
        ("selinux", "a:b:c\0", CHARACTER),
        ("selinux", "a:b:\u{7f}", CHARACTER),
        ("selinux", "a:b:ç", CHARACTER),
        ("selinux", long.as_str(), "longer than 4096 bytes"),
        ("selinux", long_context.as_str(), "longer than 4096 bytes"),
        ("apparmor", "", NO_PROFILE),
        ("apparmor", "unconfined", NO_PROFILE),
        ("apparmor", "libvirt-", NO_PROFILE),
        ("apparmor", "../../../etc/passwd", NO_PROFILE),
        ("apparmor", "libvirt-../../../../etc/passwd", NO_PROFILE),
        ("apparmor", "libvirt-0CD8A2AB-6C8D-4B2C-9A8E-6A2F9A7D4E01", NO_PROFILE),
        ("apparmor", "libvirt-00000000-0000-0000-0000-000000000000", NO_PROFILE),
        ("apparmor", below.as_str(), NO_PROFILE),
        ("apparmor", line.as_str(), NO_PROFILE),
        ("apparmor", long.as_str(), NO_PROFILE),
        ("static", "a\nb", no_name),
        ("static", "a\0b", no_name),
        ("static", long.as_str(), no_name),
    ] {
        let (model, given) = match model {
            "static" => ("apparmor", fixed(seclabel("apparmor", Some(value), None))),
            model => (model, seclabel(model, Some(value), Some(value))),
        };
        let refusal = of(&[given]).unwrap_err();
        let said = refusal.to_string();
        let expected = format!(
            "the <seclabel model='{model}'> of the domain has the label \"{}\": {why}",
            printable(value)
        );
        assert_eq!(said, expected);
        assert!(!said.contains(['\n', '\0']) && said.chars().count() < 300, "{said}");
        assert!(refusal.hint().is_some());
    }
}

/// A start that is called again finds its own labels on the nodes, and remembers what was there before it.
#[test]
fn what_a_node_carried_before_the_first_start_is_what_it_will_carry_again() {
    let device = DeviceId::parse("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001").unwrap();
    let node = Node::parse("vfio/7").unwrap();
    let xml =
        "<domain type='qemu'><name>vm1</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid></domain>";
    let domain = Domain::read(xml.as_bytes()).unwrap();
    let owner = |id| Some(Owner { uid: id, gid: id });
    let context =
        |range: &str| Some(Context::parse(&format!("system_u:object_r:svirt_image_t:{range}")).unwrap());
    let ours = Labels { owner: owner(64055), context: context("s0:c1,c2"), profile: None };
    let before = Label { owner: owner(0), mode: Some(0o400), context: context("s0") };
    let at =
        |carried: &Label| Carrying { device: device.clone(), node: node.clone(), carried: carried.clone() };
    let first = plan(&domain, &ours, &[at(&before)], &[]);
    let [Planned { step: step @ Step::Label { label, was, .. }, .. }] = first.steps.as_slice() else {
        panic!("{first:?}");
    };
    let set = Label { owner: owner(64055), mode: Some(0o600), context: context("s0:c1,c2") };
    assert_eq!((label, was), (&set, &before));
    let entry = Entry { state: crate::record::State::Done, ..Entry::intended(step.clone(), None) };
    assert_eq!(plan(&domain, &ours, &[at(&set)], &[entry]), first);
    // A usable mode is left as it is; without anything to set there is no step.
    let loose = Label { mode: Some(0o660), ..before };
    let [Planned { step: Step::Label { label, was, .. }, .. }] =
        &plan(&domain, &ours, &[at(&loose)], &[]).steps[..]
    else {
        panic!("no label");
    };
    assert_eq!((label.mode, was.mode), (None, loose.mode));
    assert_eq!(plan(&domain, &Labels::default(), &[at(&loose)], &[]), Plan::default());
}
