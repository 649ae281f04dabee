//! `virt-mdev assign`: gives a domain devices, in its persistent definition. Nobody has to type a UUID.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;

use super::choose::{self, Chosen, Which, parsed};
use super::definition::{self, Definition, Opens};
use super::{Failure, config, or_warn};
use crate::backend::nvidia;
use crate::domain::edit::Editable;
use crate::domain::{Assigned, Domain, Wanted, snippet};
use crate::host::{Host, Lock};
use crate::ids::{DeviceId, MdevUuid, TypeWish};
use crate::record::Records;
use crate::refusal::Refusal;
use crate::request::requests;
use crate::words::{for_shell, printable};

/// Where the kernel makes random UUIDs.
const RANDOM: &str = "proc/sys/kernel/random/uuid";

const FORCE: &str = "--force writes it all the same";
const FORCE_ON: &str = "--force writes it all the same, with --parent FUNCTION for each device";

/// What a person asks for.
#[derive(Debug, Clone, Args)]
pub struct Assign {
    /// Name or UUID of the domain
    pub vm: String,
    /// The type's id or the vendor's name for it, as in `virt-mdev types`
    #[arg(value_name = "TYPE", required_unless_present = "fresh", value_parser = parsed(TypeWish::parse))]
    pub wish: Option<TypeWish>,
    /// How many such devices
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub count: u16,
    /// Where, and what is written into it.
    #[command(flatten)]
    pub which: Which,
    /// Keep the device for the domain's next start
    #[arg(long)]
    pub keep: bool,
    /// Only print the XML; change nothing
    #[arg(long)]
    pub print: bool,
    /// Start the domain afterwards
    #[arg(long, conflicts_with = "print")]
    pub start: bool,
    /// Even if this host does not offer the type
    #[arg(long)]
    pub force: bool,
    /// Instead: new UUIDs for what a clone has
    #[arg(long, conflicts_with_all = ["wish", "parents", "count", "attributes", "placement", "numa", "keep", "print", "force"])]
    pub fresh: bool,
}

pub(super) fn run(host: &Host, asked: &Assign) -> Result<String, Failure> {
    // Until what is chosen stands in the definition, nobody else is to choose it.
    let chooses = asked.wish.is_some() && !asked.print;
    let lock = if chooses { lock(host)? } else { None };
    let definition = Definition::of(&asked.vm)?;
    let name = printable(&definition.name).to_string();
    let in_domain = |failure: Failure| failure.about(&definition.name);
    let mut given = Vec::new();
    let (xml, mut said) = match &asked.wish {
        Some(wish) => {
            let (devices, notes) = devices(host, &definition.xml, wish, asked).map_err(in_domain)?;
            let xml = changed(host, &definition.xml, &devices, asked.force).map_err(in_domain)?;
            if asked.print {
                notes.iter().for_each(|note| log::warn!("{note}"));
                return Ok(snippet(&devices));
            }
            let mut said = String::new();
            for assigned in &devices {
                let _ = writeln!(
                    said,
                    "{name}: assigned {} as {}",
                    assigned.device,
                    printable(&wish.to_string())
                );
            }
            for note in notes {
                let _ = writeln!(said, "note: {note}");
            }
            given.extend(devices.into_iter().map(|assigned| assigned.device));
            (xml, said)
        }
        None => fresh(host, &definition.name, &definition.xml).map_err(in_domain)?,
    };
    if asked.start {
        definition.starts()?;
    }
    definition.change(&xml)?;
    drop(lock);
    // Others change definitions, too, and ask nobody.
    given.retain(|device| matches!(device, DeviceId::Vf(_)) && !asked.force);
    let others = if given.is_empty() { Vec::new() } else { or_warn(definition::opens(host)) };
    if let Some((device, other)) = shared(&others, &definition.name, &given) {
        let text = format!("{name}: has {device} now, and so has the definition of {}", printable(&other));
        return Err(Failure { before: said, ..Failure::new(text) }.hint(format!(
            "only one of them can run at a time: virt-mdev unassign {} {device}, and assign again",
            for_shell(&definition.name, &definition.uuid)
        )));
    }
    if asked.start {
        return definition.start(said);
    }
    said.push_str(&definition.notes());
    Ok(said)
}

/// Of two that assign functions at once, each is to see what the other has been given.
fn lock(host: &Host) -> Result<Option<Lock>, Failure> {
    if !rustix::process::geteuid().is_root() || nvidia::parents(host)?.is_empty() {
        return Ok(None);
    }
    Ok(Some(Records::new(host).lock_definitions(config(host)?.waits.lock)?))
}

/// A function that the definition of another domain has, too.
fn shared(domains: &[Opens], name: &str, given: &[DeviceId]) -> Option<(DeviceId, String)> {
    let mut others = domains.iter().filter(|domain| domain.name != name);
    others.find_map(|other| {
        let device = given.iter().find(|device| other.devices.contains(device))?;
        Some((device.clone(), other.name.clone()))
    })
}

/// The devices that are put into a domain, and what a person may not expect of them.
pub fn devices(
    host: &Host,
    xml: &str,
    wish: &TypeWish,
    asked: &Assign,
) -> Result<(Vec<Assigned>, Vec<String>), Failure> {
    let wanted = Wanted { keep: asked.keep, ..asked.which.wanted(wish) };
    let count = usize::from(asked.count);
    let chosen = choose::choose(host, xml, &wanted, count, config(host)?.placement);
    let (chosen, mut notes) = match chosen {
        Ok(chosen) => (chosen, Vec::new()),
        Err(refusal) => match choose::unseen(host, &wanted, count) {
            Some(chosen) if asked.force => (chosen, vec![format!("forced: {refusal}")]),
            unseen => {
                let refused = Failure::from(refusal);
                let force = if unseen.is_some() { FORCE } else { FORCE_ON };
                let hint = match refused.hint {
                    Some(hint) if hint.ends_with(choose::UNLISTED) => format!("{hint}: {force}"),
                    Some(hint) if asked.force => format!("{hint}; {force}"),
                    hint => hint.unwrap_or_else(|| force.to_owned()),
                };
                return Err(Failure { hint: Some(hint), ..refused });
            }
        },
    };
    Ok(match chosen {
        Chosen::Mdev { model, full } => {
            let mut devices = Vec::new();
            for _ in 0..count {
                let uuid = random_uuid(host)?;
                let wanted = Wanted { uuid: Some(uuid.clone()), ..wanted.clone() };
                devices.push(Assigned { wanted, device: DeviceId::Mdev(uuid), model: model.clone() });
            }
            if full {
                notes
                    .push("there is no room for it at present: `virt-mdev list` shows who has it".to_owned());
            }
            (devices, notes)
        }
        Chosen::Functions(functions) => {
            let assigned = |function: crate::ids::PciAddress| Assigned {
                // There is nothing left to choose, and the XML may not say it.
                wanted: Wanted {
                    parents: vec![function.as_parent()],
                    placement: None,
                    numa: None,
                    ..wanted.clone()
                },
                device: DeviceId::Vf(function),
                model: String::new(),
            };
            (functions.into_iter().map(assigned).collect(), notes)
        }
    })
}

/// The definition with the devices in it, judged as a start would judge it: what is refused there is not written here.
pub fn changed(host: &Host, before: &str, devices: &[Assigned], force: bool) -> Result<String, Failure> {
    let after = Editable::read(before)?.assign(devices);
    let judge = |xml: &str| -> Result<(), Refusal> {
        let domain = Domain::read(xml.as_bytes())?;
        requests(&domain, |address| nvidia::function(host, address)).map(drop)
    };
    match (judge(&after), judge(before)) {
        (Ok(()), _) => Ok(after),
        // It would not have started before.
        (Err(refusal), Err(_)) => {
            log::warn!("the domain will not start like that: {refusal}");
            Ok(after)
        }
        (Err(refusal), Ok(())) if force && refusal.awaited().is_some() => Ok(after),
        (Err(refusal), Ok(())) => Err(refusal.into()),
    }
}

pub(super) fn random_uuid(host: &Host) -> Result<MdevUuid, Failure> {
    let text = host.read(RANDOM)?;
    MdevUuid::parse(&text).map_err(|bad| Failure::new(format!("/{RANDOM}: {bad}")))
}

/// The definition with new UUIDs for the mediated devices of our metadata, and what was renewed, as lines.
fn fresh(host: &Host, name: &str, xml: &str) -> Result<(String, String), Failure> {
    let refused = |text: String, hint: &str| Err(Failure::new(text).hint(hint));
    let editable = Editable::read(xml)?;
    let (mut names, mut said) = (Vec::new(), String::new());
    let name = printable(name);
    for device in editable.devices() {
        match &device.uuid {
            Some(old) => {
                let new = random_uuid(host)?;
                let _ = writeln!(said, "{name}: {old} is now {new}");
                names.push((old.clone(), new));
            }
            None => {
                let which: Vec<String> = device.parents.iter().map(ToString::to_string).collect();
                let which = if which.is_empty() { String::new() } else { format!(" {}", which.join(" ")) };
                let _ = writeln!(
                    said,
                    "note: the virtual function{which} has no uuid and stays: unassign it, and assign another one"
                );
            }
        }
    }
    if names.is_empty() {
        return refused(
            "its metadata names no device with a uuid".to_owned(),
            "what only a <hostdev> names gets another uuid by `virsh edit`, and a definition of its own",
        );
    }
    let after = editable.renamed(&names);
    let Ok(domain) = Domain::read(after.as_bytes()) else { return Ok((after, said)) };
    let by_others = domain.mdevs.iter().map(|hostdev| &hostdev.uuid).chain(&domain.sysfsdevs);
    let by_others: BTreeSet<_> =
        by_others.filter(|uuid| !names.iter().any(|(_, new)| new == *uuid)).collect();
    for uuid in by_others {
        let _ = writeln!(
            said,
            "note: {uuid} is not in the metadata and stays: virt-mdev does not say what it is"
        );
    }
    match names.iter().find(|(old, _)| names_it(&domain, old)) {
        None => Ok((after, said)),
        Some((old, _)) => refused(
            format!("{old} stands in its XML where it cannot be renewed"),
            "change it with `virsh edit`, in metadata and hostdev",
        ),
    }
}

/// Whether a domain has anything to do with a device.
fn names_it(domain: &Domain, uuid: &MdevUuid) -> bool {
    domain.wanted.iter().any(|wanted| wanted.uuid.as_ref() == Some(uuid))
        || domain.mdevs.iter().any(|hostdev| hostdev.uuid == *uuid)
        || domain.sysfsdevs.contains(uuid)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const OLD: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    fn renewed(metadata: &str, devices: &str) -> Result<(String, String), Failure> {
        let xml = format!(
            "<domain><name>a</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid><metadata><mdev:devices \
             xmlns:mdev='urn:virt-mdev:domain:1'>{metadata}</mdev:devices></metadata><devices>{devices}</devices></domain>"
        );
        fresh(&Host::at(Path::new("/")), "a", &xml)
    }

    fn hostdev(uuid: &str) -> String {
        format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/></source></hostdev>"
        )
    }

    #[test]
    fn a_clone_gets_new_uuids_for_what_is_in_its_metadata() {
        let device =
            format!("<mdev:device uuid='{OLD}' type='t'/><mdev:device type='t' parent='0000:41:00.5'/>");
        let other = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
        let (after, said) = renewed(&device, &(hostdev(OLD) + &hostdev(other))).unwrap();
        let new = said.lines().next().unwrap().strip_prefix(&format!("a: {OLD} is now ")).unwrap();
        assert!(MdevUuid::parse(new).is_ok() && new != OLD);
        assert_eq!(
            (after.matches(OLD).count(), after.matches(new).count(), after.matches(other).count()),
            (0, 2, 1)
        );
        assert!(said.contains("note: the virtual function 0000:41:00.5 has no uuid and stays"), "{said}");
        assert!(said.contains(&format!("note: {other} is not in the metadata and stays")), "{said}");
    }

    #[test]
    fn a_function_that_two_definitions_have_is_seen() {
        let device = |text: &str| DeviceId::parse(text).unwrap();
        let opens = |name: &str, devices: &[&str]| Opens {
            name: name.to_owned(),
            devices: devices.iter().map(|text| device(text)).collect(),
        };
        let domains = [opens("vm1", &["0000:41:00.4"]), opens("vm2", &["0000:41:00.5", OLD])];
        let shared = |given: &str| shared(&domains, "vm1", &[device(given)]);
        assert_eq!(shared("0000:41:00.4"), None);
        assert_eq!(shared("0000:41:00.6"), None);
        assert_eq!(shared("0000:41:00.5"), Some((device("0000:41:00.5"), "vm2".to_owned())));
    }

    #[test]
    fn what_cannot_be_renewed_is_refused_whole() {
        let refused = |metadata: &str, devices: &str| renewed(metadata, devices).unwrap_err().text;
        assert_eq!(refused("", &hostdev(OLD)), "its metadata names no device with a uuid");
        let device = format!("<mdev:device uuid='{OLD}' type='t'/>");
        let spelt = hostdev(&OLD.replacen('8', "&#56;", 1));
        assert_eq!(refused(&device, &spelt), format!("{OLD} stands in its XML where it cannot be renewed"));
    }
}
