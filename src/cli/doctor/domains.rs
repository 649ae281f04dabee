//! What the defined domains ask for, held against the host and against each other.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::backend::nvidia;
use crate::cli::definition;
use crate::config::Config;
use crate::domain::Domain;
use crate::host::{Host, Trouble, daemon, holders, libvirt, node, see};
use crate::ids::{DeviceId, DomainUuid, MdevUuid, Node};
use crate::placement::Taken;
use crate::plan;
use crate::qemu_conf::{self, QemuConf};
use crate::record::{Record, Records, State};
use crate::refusal::Refusal;
use crate::request::requests;
use crate::seen::{Offer, Sight};
use crate::start;
use crate::startable;
use crate::words::{for_shell, list, printable};

const REFUSED: &str = "its start would be refused";

pub(super) fn look(host: &Host, config: &Config, conf: &QemuConf) -> Result<Vec<Finding>, Trouble> {
    let mut findings = Vec::new();
    let lockable = libvirt::running(host).and_then(|daemon| daemon::lockable(host, daemon.pid));
    let mut having: BTreeMap<MdevUuid, BTreeMap<String, Option<String>>> = BTreeMap::new();
    let (mut defined, mut all_read) = (BTreeSet::new(), true);
    for (file, read) in definition::files(host)? {
        let domain = match read {
            Ok(domain) => domain,
            // Of a definition that is libvirt's alone, libvirt is judge.
            Err(refusal) => {
                all_read = false;
                findings.push(of(&printable(&file).to_string(), &refusal, "virsh edit"));
                continue;
            }
        };
        let name = printable(&domain.name).to_string();
        defined.insert(domain.uuid.clone());
        for device in named(&domain) {
            let in_metadata = domain.wanted.iter().any(|wanted| wanted.uuid.as_ref() == Some(&device));
            let renews = in_metadata.then(|| for_shell(&domain.name, &domain.uuid));
            having.entry(device).or_default().insert(name.clone(), renews);
        }
        let judged =
            by_argument(host, &domain, conf, lockable)?.or_else(|| unmakable(host, config, &domain).err());
        let edit = format!("virsh edit {}", for_shell(&domain.name, &domain.uuid));
        findings.extend(judged.map(|refusal| of(&name, &refusal, &edit)));
    }
    if all_read {
        findings.extend(kept_for_nobody(host, &defined)?);
    }
    for (device, names) in having.into_iter().filter(|(_, names)| names.len() > 1) {
        let clone = names.iter().rev().find_map(|(name, renews)| Some((name, renews.as_ref()?)));
        let fix = match clone {
            Some((clone, vm)) => format!("if {clone} is a clone: virt-mdev assign --fresh {vm}"),
            None => "virsh edit: give all but one of them another device, each with a definition of its own"
                .to_owned(),
        };
        let names: Vec<String> = names.into_keys().collect();
        findings.push(Finding::new(
            format!("{} have the same device, {device}", list(&names)),
            "only one of them can run at a time",
            fix,
        ));
    }
    Ok(findings)
}

/// Devices that domains keep which are not defined: libvirt calls no hook when it forgets a domain.
fn kept_for_nobody(host: &Host, defined: &BTreeSet<DomainUuid>) -> Result<Vec<Finding>, Trouble> {
    let records = Records::new(host);
    let mut findings = Vec::new();
    for domain in records.domains()?.iter().filter(|domain| !defined.contains(domain)) {
        let Ok(Some(record)) = records.read(domain) else { continue };
        // One that runs may be transient; of a definition that nobody could read, nobody knows.
        let file = format!("{}/{}.xml", definition::DOMAINS, record.domain.name);
        if holders::runs(host, &record.domain.name) || host.exists(&file) {
            continue;
        }
        let name = printable(&record.domain.name);
        for (device, ..) in record.devices().filter(|(.., state)| *state == State::Kept) {
            findings.push(Finding::new(
                format!("{name}: keeps {device}, and is not defined"),
                "its place is taken, and no other domain can have it",
                format!("if the domain is not to come back: virt-mdev release --force {device}"),
            ));
        }
    }
    Ok(findings)
}

/// `otherwise`: what to do where the refusal does not say.
fn of(name: &str, refusal: &Refusal, otherwise: &str) -> Finding {
    // The lines of the fix stand alone, to be copied.
    let fix = match refusal {
        Refusal::NotInNamespace { verb, lines, .. } => {
            format!("{verb} /{}, and restart libvirt's daemon:\n{lines}", qemu_conf::PATH)
        }
        refusal => refusal.hint().unwrap_or_else(|| otherwise.to_owned()),
    };
    Finding::new(format!("{name}: {refusal}"), REFUSED, fix)
}

/// The devices that a domain names and that virt-mdev would make or use.
fn named(domain: &Domain) -> BTreeSet<MdevUuid> {
    let wanted = domain.wanted.iter().filter_map(|wanted| wanted.uuid.clone());
    wanted
        .chain(domain.mdevs.iter().map(|hostdev| hostdev.uuid.clone()))
        .chain(domain.sysfsdevs.iter().cloned())
        .collect()
}

/// Why QEMU could not open what a domain names in `<qemu:commandline>`.
fn by_argument(
    host: &Host,
    domain: &Domain,
    conf: &QemuConf,
    lockable: Option<u64>,
) -> Result<Option<Refusal>, Trouble> {
    if domain.sysfsdevs.is_empty() {
        return Ok(None);
    }
    // A device that is not there now will have a group's node of some number.
    let alone = |device: &&DeviceId| domain.has_argument_only(device);
    let devices: Vec<DeviceId> = domain.sysfsdevs.iter().cloned().map(DeviceId::Mdev).collect();
    let mut nodes = Vec::new();
    for device in devices.iter().filter(alone) {
        let of_it = node::of(host, device).unwrap_or_default().into_iter().find(Node::is_group);
        nodes.extend(of_it.or_else(|| Node::parse("vfio/0").ok()));
    }
    Ok(startable::judge(domain, &nodes, conf, lockable).err())
}

/// Why a prepare of the domain would be refused on an empty host of this kind: that there is no room now, or that somebody
/// else has the device, is nothing that is wrong with it.
fn unmakable(host: &Host, config: &Config, domain: &Domain) -> Result<(), Refusal> {
    let (host, records) = (&host.looking(), Records::new(host));
    let requests = requests(domain, |address| nvidia::function(host, address))?;
    start::judge_labels(host, domain, config.labels)?;
    let seen = see::see(host, &records, &domain.uuid, &requests, config.definitions)?;
    let record = records.read(&domain.uuid).ok().flatten();
    // What its own run has goes with that, and is made anew.
    let runs = |device: &DeviceId| {
        let mut devices = record.iter().flat_map(Record::devices);
        devices.any(|(its, .., state)| its == device && state != State::Kept)
    };
    for (request, sight) in requests.iter().zip(&seen.sights) {
        let has_it = sight.owner.is_some() || sight.holder.is_some() || runs(&request.device);
        if sight.existing.is_some() && has_it {
            continue;
        }
        let offers = sight.offers.iter().map(|offer| Offer { free: None, ..offer.clone() }).collect();
        let empty = Sight { offers, ..sight.clone() };
        let of = (request, &empty);
        match plan::device(&domain.uuid, &requests, of, &seen.kept, config.placement, &mut Taken::new()) {
            // A virtual function does not list what does not fit now.
            Ok(_) | Err(Refusal::NoRoom { .. }) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The findings about one domain: with this metadata and `<seclabel>`, its hostdev managed or not, on a host whose
    /// mtty has one type, and these files.
    fn found(metadata: &str, managed: &str, model: &str, label: &str, files: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let kind = "sys/devices/mtty/mdev_supported_types/mtty-2";
        write(root, &format!("{kind}/device_api"), "vfio-pci\n");
        write(root, &format!("{kind}/available_instances"), "0\n");
        for parent in ["mtty", "mbochs"] {
            fs::create_dir_all(root.join("sys/class/mdev_bus")).unwrap();
            fs::create_dir_all(root.join("sys/devices").join(parent)).unwrap();
            symlink(format!("../../devices/{parent}"), root.join("sys/class/mdev_bus").join(parent)).unwrap();
        }
        write(root, "etc/passwd", "root:x:0:0::/:/bin/sh\n");
        write(root, "etc/group", "root:x:0:\n");
        let xml = format!(
            "<domain><name>vm1</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid><metadata><m:devices \
             xmlns:m='urn:virt-mdev:domain:1'>{metadata}</m:devices></metadata><devices><hostdev mode='subsystem' \
             type='mdev' managed='{managed}' model='{model}'><source><address uuid='{UUID}'/></source></hostdev>\
             </devices>{label}</domain>"
        );
        write(root, "etc/libvirt/qemu/vm1.xml", &xml);
        for (file, text) in files {
            match text.strip_prefix("-> ") {
                Some(target) => {
                    fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
                    symlink(target, root.join(file)).unwrap();
                }
                None => write(root, file, text),
            }
        }
        let host = Host::at(root);
        let findings = look(&host, &Config::default(), &QemuConf::default()).unwrap();
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_fresh_uuid_is_offered_to_a_domain_whose_metadata_names_the_device() {
        let fix = |metadata: &[&str]| {
            let root = tempfile::tempdir().unwrap();
            for (number, metadata) in metadata.iter().enumerate() {
                let xml = format!(
                    "<domain><name>vm{number}</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e0{number}</uuid><metadata>\
                     <m:devices xmlns:m='urn:virt-mdev:domain:1'>{metadata}</m:devices></metadata><devices><hostdev \
                     mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{UUID}'/></source></hostdev>\
                     </devices></domain>"
                );
                write(root.path(), &format!("etc/libvirt/qemu/vm{number}.xml"), &xml);
            }
            let findings = look(&Host::at(root.path()), &Config::default(), &QemuConf::default()).unwrap();
            findings.into_iter().find(|finding| finding.what.contains("have the same device")).unwrap().fix
        };
        let ours = format!("<m:device uuid='{UUID}' type='mtty-2'/>");
        assert_eq!(fix(&[&ours, &ours]), "if vm1 is a clone: virt-mdev assign --fresh vm1");
        assert_eq!(fix(&[&ours, ""]), "if vm0 is a clone: virt-mdev assign --fresh vm0");
        assert!(fix(&["", ""]).starts_with("virsh edit: "));
    }

    #[test]
    fn what_a_start_would_refuse_is_found_and_what_passes_is_not() {
        let ours = format!("<m:device uuid='{UUID}' type='mtty-2'/>");
        let defined = |parent: &str| format!("etc/mdevctl.d/{parent}/{UUID}");
        let (mtty, mbochs) = (defined("mtty"), defined("mbochs"));
        let good = r#"{"mdev_type":"mtty-2","start":"manual","attrs":[]}"#;
        let label = "<seclabel type='static' model='dac'><label>nosuch:+1</label></seclabel>";
        let directory = format!("sys/devices/mtty/{UUID}");
        let another = [
            (format!("{directory}/mdev_type"), "-> ../mdev_supported_types/mtty-1".to_owned()),
            (format!("sys/bus/mdev/devices/{UUID}"), format!("-> ../../../../{directory}")),
        ];
        let another: Vec<_> = another.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
        let claim = format!("run/virt-mdev/devices/{UUID}");
        let other = "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02";
        let (record, to_other) = (format!("run/virt-mdev/domains/{other}.json"), format!("-> {other}"));
        let of_other = format!(
            r#"{{"version":1,"domain":{{"uuid":"{other}","name":"vm2"}},"phase":"running","steps":[]}}"#
        );
        let claimed =
            [&another[..], &[(claim.as_str(), to_other.as_str()), (record.as_str(), of_other.as_str())]]
                .concat();
        type Case<'a> = (&'a str, &'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: [Case<'_>; 10] = [
            ("", "no", "vfio-pci", "", &[], None),
            // There is no room for it, which says nothing about the definition.
            (&ours, "no", "vfio-pci", "", &[], None),
            ("", "yes", "vfio-pci", "", &[(&mtty, good)], None),
            ("", "no", "vfio-pci", "", &[(&mtty, "{")], Some("vm1: the definition /etc/mdevctl.d/mtty/")),
            (
                "",
                "no",
                "vfio-pci",
                "",
                &[(&mtty, good), (&mbochs, good)],
                Some("vm1: device 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 is defined by "),
            ),
            (
                "",
                "yes",
                "vfio-pci",
                "",
                &[],
                Some("vm1: hostdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 has managed='yes'"),
            ),
            (
                &ours,
                "no",
                "vfio-ap",
                "",
                &[],
                Some("vm1: hostdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 has model=\"vfio-ap\""),
            ),
            (
                &ours,
                "no",
                "vfio-pci",
                label,
                &[],
                Some("vm1: the <seclabel model='dac'> of the domain has the label "),
            ),
            (
                &ours,
                "no",
                "vfio-pci",
                "",
                &another,
                Some("vm1: device 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 exists already as "),
            ),
            // Another domain has it now.
            (&ours, "no", "vfio-pci", "", &claimed, None),
        ];
        for (metadata, managed, model, label, files, expected) in cases {
            let found = found(metadata, managed, model, label, files);
            let as_expected = match (expected, found.as_slice()) {
                (None, []) => true,
                (Some(expected), [one]) => one.starts_with(expected),
                _ => false,
            };
            assert!(as_expected, "{metadata} {managed} {model} {label} {files:?}: {found:?}");
        }
    }
}
