//! What a domain's `<seclabel>`s make of its devices' nodes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use virt_mdev::accounts::Accounts;
use virt_mdev::domain::{Domain, Seclabel};
use virt_mdev::host::{Host, node};
use virt_mdev::ids::{Context, DeviceId, DomainUuid, Node, Profile};
use virt_mdev::labels::{self, Carrying, Label, Labels, Owner};
use virt_mdev::qemu_conf::QemuConf;
use virt_mdev::record::{Entry, State};
use virt_mdev::step::Step;

use super::{component, presentable, refused};

const USERS: [(&str, u32); 3] = [("root", 0), ("libvirt-qemu", 64055), ("1000", 5)];
const GROUPS: [(&str, u32); 3] = [("root", 0), ("kvm", 104), ("libvirt-qemu", 64055)];
const RULES: &str = "etc/apparmor.d/libvirt";
const OWN: &str = "  \"/dev/vfio/7\" rw,\n";

/// A host with accounts, and with libvirt's rules for AppArmor.
pub(crate) struct Seclabels {
    directory: tempfile::TempDir,
    accounts: Accounts,
    conf: QemuConf,
}

impl Seclabels {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join(RULES)).unwrap();
        let passwd = USERS.map(|(name, id)| format!("{name}:x:{id}:104::/:\n")).concat();
        let group = GROUPS.map(|(name, id)| format!("{name}:x:{id}:\n")).concat();
        Self { directory, accounts: Accounts::new(&passwd, &group), conf: QemuConf::default() }
    }

    fn labels(&self, seclabels: &[Seclabel]) -> Option<Labels> {
        labels::labels(seclabels, &self.conf, &self.accounts).inspect_err(refused).ok()
    }

    pub(crate) fn read(&mut self, input: &[u8]) {
        let domain = match Domain::read(input) {
            Ok(domain) => domain,
            Err(refusal) => return refused(&refusal),
        };
        let Some(labels) = self.labels(&domain.seclabels) else { return };
        let of = |model: &'static str| {
            let its = move |seclabel: &&Seclabel| seclabel.model.as_deref() == Some(model);
            domain.seclabels.iter().find(its)
        };
        let is_off = |seclabel: &Seclabel| !seclabel.relabel || seclabel.kind == "none";
        let usual = self.labels(&[]).unwrap().owner;
        assert_eq!(usual, Some(Owner { uid: 64055, gid: 64055 }));
        let dac = of("dac");
        match (&labels.owner, dac.and_then(|it| it.imagelabel.as_ref().or(it.label.as_ref()))) {
            (None, _) => assert!(dac.map_or(domain.seclabels.iter().any(is_off), is_off)),
            (Some(owner), Some(label)) => {
                assert!(!dac.is_some_and(is_off));
                let (user, group) = label.split_once(':').unwrap();
                assert_eq!((id(user, &USERS), id(group, &GROUPS)), (Some(owner.uid), Some(owner.gid)));
                assert!(![owner.uid, owner.gid].contains(&u32::MAX), "that means: as it is");
            }
            (owner, None) => assert_eq!(*owner, usual),
        }
        assert_eq!(
            labels::names_an_owner(&domain.seclabels),
            labels.owner.is_none() || dac.is_some_and(|it| it.imagelabel.is_some() || it.label.is_some())
        );
        if let Some(context) = &labels.context {
            let selinux = of("selinux").expect("a seclabel has it");
            assert!(!is_off(selinux));
            // To the byte, as it becomes an extended attribute, and a property in one line of udev's.
            let text = context.to_string();
            assert_eq!(selinux.imagelabel.as_ref(), Some(&text));
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= 4096, "{text:?}");
            assert!(text.splitn(4, ':').filter(|part| !part.is_empty()).count() >= 3, "{text:?}");
            assert_eq!(Context::parse(&text).as_ref(), Ok(context));
        }
        if let Some(profile) = &labels.profile {
            let apparmor = of("apparmor").expect("a seclabel has it");
            assert!(!is_off(apparmor) && apparmor.kind != "static");
            assert_eq!(apparmor.label, Some(profile.to_string()));
            self.allows(profile);
        }
        self.plan(&domain, &labels);
    }

    /// The name of a file, in which one line comes and goes.
    fn allows(&self, profile: &Profile) {
        let name = profile.to_string();
        component(&name);
        let uuid = name.strip_prefix("libvirt-").and_then(|uuid| DomainUuid::parse(uuid).ok());
        assert!(profile.is_of(&uuid.expect("a domain's")), "{name}");
        let (host, seventh) = (Host::at(self.directory.path()), Node::parse("vfio/7").unwrap());
        let directory = self.directory.path().join(RULES);
        let rules = directory.join(format!("{name}.files"));
        assert_eq!(rules.parent(), Some(&*directory));
        fs::write(&rules, OWN).unwrap();
        for _ in 0..2 {
            node::allow(&host, profile, &seventh).unwrap();
            let added = format!("{OWN}  \"/dev/vfio/7\" rw, # virt-mdev\n");
            assert_eq!(fs::read_to_string(&rules).unwrap(), added);
        }
        node::withdraw(&host, profile, &seventh).unwrap();
        assert_eq!(fs::read_to_string(&rules).unwrap(), OWN);
        fs::remove_file(&rules).unwrap();
        let nothing = |path: &Path| fs::read_dir(path).unwrap().next().is_none();
        assert!(nothing(&directory), "a file beside it");
    }

    /// What is written down is what is to be written, and the way back.
    fn plan(&self, domain: &Domain, labels: &Labels) {
        let mdevs = domain.mdevs.iter().map(|hostdev| &hostdev.uuid);
        let mdevs: BTreeSet<_> = mdevs.chain(&domain.sysfsdevs).collect();
        let nodes = mdevs.into_iter().enumerate().map(|(number, uuid)| Carrying {
            device: DeviceId::Mdev(uuid.clone()),
            node: Node::parse(&format!("vfio/{number}")).unwrap(),
            carried: Label {
                owner: Some(Owner { uid: 0, gid: 0 }),
                mode: Some(0o400),
                context: Context::parse("system_u:object_r:vfio_device_t:s0").ok(),
            },
        });
        let mut nodes: Vec<Carrying> = nodes.collect();
        let plan = labels::plan(domain, labels, &nodes, &[]);
        let mut entries = Vec::new();
        for planned in &plan.steps {
            presentable(&planned.step.to_string());
            presentable(&planned.why);
            let json = serde_json::to_string(&planned.step).unwrap();
            assert_eq!(serde_json::from_str::<Step>(&json).unwrap(), planned.step);
            entries.push(Entry { state: State::Done, ..Entry::intended(planned.step.clone(), None) });
            let carrying = nodes.iter_mut().find(|it| it.device == *planned.step.device()).unwrap();
            match &planned.step {
                Step::Label { node, label, was, .. } => {
                    assert_eq!(*node, carrying.node);
                    assert_eq!((&label.owner, &label.context), (&labels.owner, &labels.context));
                    assert_eq!(label.mode, labels.owner.as_ref().map(|_| 0o600));
                    let parts = |it: &Label| (it.owner.is_some(), it.mode.is_some(), it.context.is_some());
                    assert_eq!(parts(label), parts(was), "each part has its way back, and no other");
                    carrying.carried.owner = label.owner.clone().or(carrying.carried.owner.take());
                    carrying.carried.mode = label.mode.or(carrying.carried.mode);
                    carrying.carried.context = label.context.clone().or(carrying.carried.context.take());
                }
                Step::Allow { profile, device, .. } => {
                    assert_eq!(Some(profile), labels.profile.as_ref());
                    assert!(!domain.has_hostdev(device), "libvirt makes a rule of its own");
                }
                other => panic!("{other} is no label"),
            }
        }
        // A second call of the same start, which finds our own labels there, keeps what the nodes carried before.
        let again = labels::plan(domain, labels, &nodes, &entries);
        let steps = |plan: &virt_mdev::plan::Plan| {
            plan.steps.iter().map(|planned| planned.step.clone()).collect::<Vec<_>>()
        };
        assert_eq!(steps(&again), steps(&plan));
    }
}

/// As libvirt finds it: a name, else a number, and with a plus sign never a name.
fn id(text: &str, known: &[(&str, u32)]) -> Option<u32> {
    match (text.strip_prefix('+'), known.iter().find(|(name, _)| *name == text)) {
        (Some(digits), _) => digits.parse().ok(),
        (None, Some((_, id))) => Some(*id),
        (None, None) => text.parse().ok(),
    }
}
