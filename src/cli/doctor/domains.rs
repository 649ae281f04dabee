//! What the defined domains ask for, held against the host and against each other.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::backend::nvidia;
use crate::cli::definition;
use crate::config::Config;
use crate::domain::Domain;
use crate::host::{Host, Trouble, daemon, libvirt, node, see};
use crate::ids::{DeviceId, MdevUuid, Node};
use crate::plan;
use crate::qemu_conf::{self, QemuConf};
use crate::record::Records;
use crate::refusal::Refusal;
use crate::request::requests;
use crate::startable;
use crate::words::{for_shell, list, printable};

const REFUSED: &str = "its start would be refused";

pub(super) fn look(host: &Host, config: &Config, conf: &QemuConf) -> Result<Vec<Finding>, Trouble> {
    let mut findings = Vec::new();
    let lockable = libvirt::running(host).and_then(|daemon| daemon::lockable(host, daemon.pid));
    let mut having: BTreeMap<MdevUuid, BTreeMap<String, Option<String>>> = BTreeMap::new();
    for (file, read) in definition::files(host)? {
        let domain = match read {
            Ok(domain) => domain,
            // Of a definition that is libvirt's alone, libvirt is judge.
            Err(refusal) => {
                findings.push(of(&printable(&file).to_string(), &refusal, "virsh edit"));
                continue;
            }
        };
        let name = printable(&domain.name).to_string();
        for device in named(&domain) {
            let in_metadata = domain.wanted.iter().any(|wanted| wanted.uuid.as_ref() == Some(&device));
            let renews = in_metadata.then(|| for_shell(&domain.name, &domain.uuid));
            having.entry(device).or_default().insert(name.clone(), renews);
        }
        let judged = by_argument(host, &domain, conf, lockable)?.or_else(|| unmakable(host, config, &domain));
        let edit = format!("virsh edit {}", for_shell(&domain.name, &domain.uuid));
        findings.extend(judged.map(|refusal| of(&name, &refusal, &edit)));
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

/// Why what a domain's metadata asks for could not be made, on an empty host of this kind: that there is no room now is
/// nothing that is wrong.
fn unmakable(host: &Host, config: &Config, domain: &Domain) -> Option<Refusal> {
    let requests = match requests(domain, |address| nvidia::function(host, address)) {
        Ok(requests) => requests,
        Err(refusal) => return Some(refusal),
    };
    let seen =
        match see::see(&host.looking(), &Records::new(host), &domain.uuid, &requests, config.definitions) {
            Ok(seen) => seen,
            Err(trouble) => return Some(trouble.into()),
        };
    requests.iter().zip(&seen.sights).find_map(|(request, sight)| {
        let wanted = sight.wanted(request).filter(|_| sight.existing.is_none())?;
        match plan::fitting(request, wanted, sight) {
            Err(Refusal::NoRoom { .. }) | Ok(_) => None,
            Err(refusal) => Some(refusal),
        }
    })
}
