//! Domain XML → [`Domain`]: what the domain's author wrote that concerns us, and nothing else.
//!
//! Two ways in: [`Domain::read`] judges every word of ours and refuses what it does not know; [`uuid_in`] takes one
//! UUID out of anything whatever, because a release must never fail for what stands in the XML. And one way back:
//! [`edit`] changes the XML for a person, and leaves the rest as it is. Nobody else uses `quick_xml`.

pub mod edit;
mod elements;
mod hostdev;
mod reader;
mod scan;
mod wanted;
mod write;

pub use reader::MAX_XML;
pub use scan::uuid_in;
pub use wanted::{Attribute, Placement, Wanted};
pub use write::{Assigned, hostdev_xml, metadata_xml, snippet};

use crate::ids::{DeviceId, DomainUuid, MdevUuid, Parent, PciAddress};
use crate::refusal::{Clue, Refusal};

/// Our namespace in `<metadata>`; matched by URI, never by prefix.
pub const NAMESPACE: &str = "urn:virt-mdev:domain:1";

/// The part of a domain that mediated devices depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Unique on this host at any one time; may change.
    pub name: String,
    /// Never changes.
    pub uuid: DomainUuid,
    /// Devices of our metadata, in the author's order.
    pub wanted: Vec<Wanted>,
    /// `<hostdev type='mdev'>`.
    pub mdevs: Vec<MdevHostdev>,
    /// `<hostdev type='pci'>`.
    pub pcis: Vec<PciHostdev>,
    /// UUIDs in `sysfsdev=` arguments of `<qemu:commandline>`, the 2016 proposal's own way to launch.
    pub sysfsdevs: Vec<MdevUuid>,
    /// One for each security model that libvirt has labelled the domain for.
    pub seclabels: Vec<Seclabel>,
    /// Memory of the guest in KiB, where libvirt says it.
    pub memory: Option<u64>,
    /// The domain says itself how much memory QEMU may lock (`<hard_limit>`, `<locked/>`).
    pub locked: bool,
    /// QEMU uses what those arguments name by an IOMMUFD.
    pub iommufd: bool,
}

/// `<hostdev mode='subsystem' type='mdev' model='…' managed='…'>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdevHostdev {
    /// `<source><address uuid='…'/>`
    pub uuid: MdevUuid,
    /// The API that QEMU will use; libvirt requires it to equal the type's `device_api`.
    pub model: String,
    /// Means nothing to libvirt for an mdev, and reaches us.
    pub managed: bool,
}

/// `<hostdev mode='subsystem' type='pci' managed='…'>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciHostdev {
    /// As sysfs writes it: `0000:86:00.4`.
    pub address: PciAddress,
    /// With `yes`, libvirt would unbind the driver.
    pub managed: bool,
}

/// `<seclabel type='…' model='…' relabel='…'>` with its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seclabel {
    /// `dynamic`, `static` or `none`.
    pub kind: String,
    /// `dac`, `selinux`, `apparmor`; missing where `type='none'` stands for all.
    pub model: Option<String>,
    /// `relabel='no'`: the domain's resources keep the labels that they have.
    pub relabel: bool,
    /// What the process runs as.
    pub label: Option<String>,
    /// What its images and devices carry.
    pub imagelabel: Option<String>,
}

impl Domain {
    /// Reads what libvirt hands to the hook. `bytes` is what was read of stdin: at most one byte more than
    /// [`MAX_XML`], so that too much can be told from just enough.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_XML {
            return Err(Refusal::XmlTooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| Refusal::XmlNotUtf8(error.valid_up_to()))?;
        reader::read(text)
    }

    /// Whether libvirt knows of the device, and labels its nodes as it labels others (`dynamic_ownership`).
    pub fn has_hostdev(&self, device: &DeviceId) -> bool {
        match device {
            DeviceId::Mdev(uuid) => self.mdevs.iter().any(|hostdev| hostdev.uuid == *uuid),
            DeviceId::Vf(address) => self.pcis.iter().any(|hostdev| hostdev.address == *address),
        }
    }

    /// Whether the domain names the device in `<qemu:commandline>` alone.
    pub fn has_argument_only(&self, device: &DeviceId) -> bool {
        let named = matches!(device, DeviceId::Mdev(uuid) if self.sysfsdevs.contains(uuid));
        named && !self.has_hostdev(device)
    }

    /// These parents have not come: of the devices that may have another one in their place, those that name no other are
    /// from here on as if they had named none. Says whether there are such devices.
    pub fn relocate(&mut self, missing: &[Parent]) -> bool {
        let moves = |wanted: &&mut Wanted| {
            let named = &wanted.parents;
            // Of a channel device another parent is another disk.
            let moves = wanted.relocate && Clue::of_type(&wanted.wish) != Some(Clue::VfioCcw);
            moves && !named.is_empty() && named.iter().all(|parent| missing.contains(parent))
        };
        let mut some = false;
        for wanted in self.wanted.iter_mut().filter(moves) {
            wanted.parents.clear();
            some = true;
        }
        some
    }

    /// The same domain with other devices: each pair is one as it is, and what it is to be.
    #[must_use]
    pub fn with(&self, others: &[(DeviceId, DeviceId)]) -> Self {
        let other = |device: DeviceId| others.iter().find(|(from, _)| *from == device).map(|(_, to)| to);
        let mut domain = self.clone();
        let uuids = domain.wanted.iter_mut().filter_map(|wanted| wanted.uuid.as_mut());
        let uuids = uuids.chain(domain.mdevs.iter_mut().map(|hostdev| &mut hostdev.uuid));
        for uuid in uuids.chain(&mut domain.sysfsdevs) {
            if let Some(DeviceId::Mdev(to)) = other(DeviceId::Mdev(uuid.clone())) {
                uuid.clone_from(to);
            }
        }
        for pci in &mut domain.pcis {
            if let Some(DeviceId::Vf(to)) = other(DeviceId::Vf(pci.address.clone())) {
                pci.address.clone_from(to);
            }
        }
        // Only of a virtual function it is the device itself that `parent` names.
        for wanted in domain.wanted.iter_mut().filter(|wanted| wanted.uuid.is_none()) {
            if let [parent] = wanted.parents.as_mut_slice() {
                let named = PciAddress::parse(&parent.to_string()).ok();
                if let Some(DeviceId::Vf(to)) = named.and_then(|named| other(DeviceId::Vf(named))) {
                    *parent = to.as_parent();
                }
            }
        }
        domain
    }

    /// Whether the domain has anything to do with mediated devices; most domains of a host have not.
    pub fn is_plain(&self) -> bool {
        self.wanted.is_empty() && self.mdevs.is_empty() && self.sysfsdevs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIVE: &str = include_str!("live.xml");

    fn mdev(text: &str) -> MdevUuid {
        MdevUuid::parse(text).unwrap()
    }

    #[test]
    fn a_live_domain_gives_up_all_that_concerns_us_and_nothing_else() {
        let domain = Domain::read(LIVE.as_bytes()).unwrap();
        assert_eq!(domain.name, "build & test");
        assert_eq!(domain.uuid.to_string(), "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01");
        let [wanted] = domain.wanted.as_slice() else { panic!("{:?}", domain.wanted) };
        let first = mdev("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001");
        assert_eq!(wanted.uuid, Some(first.clone()));
        assert_eq!(wanted.wish.to_string(), "GRID M60-4Q");
        assert_eq!(
            wanted.parents.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["0000:86:00.0", "0000:87:00.0"]
        );
        assert_eq!(
            (wanted.placement, wanted.numa, wanted.keep, wanted.relocate),
            (Some(Placement::Spread), Some(1), true, true)
        );
        let attributes: Vec<_> =
            wanted.attributes.iter().map(|a| (a.name.to_string(), a.value.as_str())).collect();
        assert_eq!(
            attributes,
            [("nvidia/vgpu_params".to_owned(), "frame_rate_limiter=0"), ("other".to_owned(), "a\nb \"c\"")]
        );
        let expected = MdevHostdev { uuid: first, model: "vfio-pci".to_owned(), managed: true };
        assert_eq!(domain.mdevs, [expected]);
        assert_eq!(
            domain.pcis,
            [
                PciHostdev { address: PciAddress::parse("0000:86:00.4").unwrap(), managed: false },
                PciHostdev { address: PciAddress::parse("0001:0a:1f.7").unwrap(), managed: true },
            ]
        );
        assert_eq!(
            domain.sysfsdevs,
            [mdev("83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"), mdev("83b8f4f2-509f-382f-3c1e-e6bfe0fa1003")]
        );
        let labels: Vec<_> = domain
            .seclabels
            .iter()
            .map(|l| {
                (l.kind.as_str(), l.model.as_deref(), l.relabel, l.label.as_deref(), l.imagelabel.as_deref())
            })
            .collect();
        assert_eq!(
            labels,
            [
                (
                    "dynamic",
                    Some("selinux"),
                    true,
                    Some("system_u:system_r:svirt_t:s0:c1,c2"),
                    Some("system_u:object_r:svirt_image_t:s0:c1,c2")
                ),
                ("dynamic", Some("dac"), true, Some("+64055:+64055"), Some("+64055:+64055")),
                ("static", Some("apparmor"), false, Some("libvirt-x"), None),
                ("none", None, true, None, None),
            ]
        );
    }

    #[test]
    fn only_what_may_move_and_has_no_other_parent_is_relocated() {
        let domain = |attributes: &str| {
            let xml = format!(
                "<domain><name>a</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid><metadata>\
                 <m:devices xmlns:m='{NAMESPACE}'><m:device uuid='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001' type='t' \
                 {attributes}/></m:devices></metadata></domain>"
            );
            Domain::read(xml.as_bytes()).unwrap()
        };
        let missing = [Parent::parse("a").unwrap(), Parent::parse("b").unwrap()];
        for (attributes, moves) in [
            ("parent='a' migrate='relocate'", true),
            ("parent='b a' migrate='relocate'", true),
            ("parent='a c' migrate='relocate'", false),
            ("parent='a' migrate='stay'", false),
            ("parent='a'", false),
            ("migrate='relocate'", false),
        ] {
            let mut domain = domain(attributes);
            let before = domain.wanted[0].parents.clone();
            assert_eq!(domain.relocate(&missing), moves, "{attributes}");
            assert_eq!(domain.wanted[0].parents, if moves { vec![] } else { before }, "{attributes}");
            assert!(!domain.relocate(&missing), "{attributes}: twice");
        }
    }

    #[test]
    fn input_beyond_the_limit_is_refused_and_input_at_the_limit_is_not() {
        let fill = |size: usize| {
            let (head, tail) = (
                "<domain><name>a</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid><!--",
                "--></domain>",
            );
            format!("{head}{}{tail}", " ".repeat(size - head.len() - tail.len()))
        };
        assert!(Domain::read(fill(MAX_XML).as_bytes()).is_ok());
        assert!(matches!(Domain::read(fill(MAX_XML + 1).as_bytes()), Err(Refusal::XmlTooLarge)));
        assert!(matches!(Domain::read(b"<domain>\xff"), Err(Refusal::XmlNotUtf8(8))));
    }

    proptest! {
        /// Whatever is cut out, doubled or overwritten, reading ends with a domain or a refusal.
        #[test]
        fn no_input_makes_the_reader_panic(at in 0..LIVE.len(), len in 0usize..80, with in "\\PC{0,8}|[<>&;'\"/!\\[\\]=-]{0,4}") {
            let bytes = LIVE.as_bytes();
            let end = (at + len).min(bytes.len());
            let mutated = [&bytes[..at], with.as_bytes(), &bytes[end..]].concat();
            if let Err(refusal) = Domain::read(&mutated) {
                prop_assert!(!refusal.to_string().contains('\n'), "{refusal}");
            }
            let _ = uuid_in(&mutated);
        }
    }
}
