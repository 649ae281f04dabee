//! `virt-mdev unassign`: takes devices out of a domain's persistent definition, metadata and hostdev.

use std::fmt::Write as _;

use super::Failure;
use super::definition::Definition;
use crate::backend::nvidia;
use crate::domain::Domain;
use crate::domain::edit::{Device, Editable};
use crate::host::Host;
use crate::ids::{DeviceId, PciAddress};
use crate::record::{Records, State};
use crate::words::{list, printable};

pub(super) fn run(host: &Host, vm: &str, named: &[DeviceId], all: bool) -> Result<String, Failure> {
    let definition = Definition::of(vm)?;
    let (xml, gone) =
        without(host, &definition.xml, named, all).map_err(|failure| failure.about(&definition.name))?;
    definition.change(&xml)?;
    let name = printable(&definition.name);
    let mut said = String::new();
    for (device, shown) in &gone {
        let _ = match device {
            Some(device) => writeln!(said, "{name}: unassigned {device}"),
            None => writeln!(said, "{name}: unassigned {shown}"),
        };
    }
    said.push_str(&definition.notes());
    if !definition.running {
        // What it keeps between its runs is still there, and nothing asks for it any more.
        for device in gone.iter().filter_map(|(device, _)| device.as_ref()) {
            let _ = match recorded(host, &definition, device) {
                Some(State::Kept) => writeln!(
                    said,
                    "note: {device} is kept on the host: `virt-mdev release --force {device}` removes it"
                ),
                Some(_) => writeln!(
                    said,
                    "note: {device} is still on the host: `virt-mdev list` says why, and it is tried again"
                ),
                None => Ok(()),
            };
        }
    }
    Ok(said)
}

/// How the device stands in the domain's record.
fn recorded(host: &Host, definition: &Definition, device: &DeviceId) -> Option<State> {
    let record = Records::new(host).read(&definition.uuid).ok().flatten()?;
    record.devices().find(|(its, ..)| *its == device).map(|(.., state)| state)
}

/// A device of the metadata, if it can be told which it is, and what it is called.
type Gone = (Option<DeviceId>, String);

/// The definition without the devices, and which they were.
fn without(host: &Host, xml: &str, named: &[DeviceId], all: bool) -> Result<(String, Vec<Gone>), Failure> {
    let refused = |text: String, hint: &str| Err(Failure::new(text).hint(hint));
    let editable = Editable::read(xml)?;
    let domain = Domain::read(xml.as_bytes()).ok();
    let has: Vec<Option<DeviceId>> =
        editable.devices().iter().map(|device| identity(host, domain.as_ref(), device)).collect();
    let shown = |number: usize| {
        let id = has
            .get(number)
            .and_then(Option::as_ref)
            .map_or_else(|| "a device".to_owned(), ToString::to_string);
        let kind = editable.devices().get(number).map(|device| printable(&device.kind).to_string());
        format!("{id} ({})", kind.unwrap_or_default())
    };
    let every: Vec<usize> = (0..has.len()).collect();
    let list_all = || list(&every.iter().map(|number| shown(*number)).collect::<Vec<_>>());
    let numbers = match (named, every.as_slice()) {
        (_, []) => {
            return refused(
                "its metadata names no device".to_owned(),
                "what stands in a <hostdev> only is not virt-mdev's to take out: `virsh detach-device --config`",
            );
        }
        ([], [_]) => every,
        ([], every) if all => every.to_vec(),
        ([], _) => return refused(format!("has {}", list_all()), "name one or several of them, or --all"),
        (named, _) => {
            let mut numbers = Vec::new();
            for device in named {
                match has.iter().position(|id| id.as_ref() == Some(device)) {
                    Some(number) if numbers.contains(&number) => {}
                    Some(number) => numbers.push(number),
                    None => {
                        return refused(
                            format!("its metadata names no device {device}"),
                            &format!("it has {}", list_all()),
                        );
                    }
                }
            }
            numbers
        }
    };
    let gone: Vec<DeviceId> = numbers.iter().filter_map(|number| has.get(*number)?.clone()).collect();
    let passes_functions = domain.is_none_or(|domain| !domain.pcis.is_empty());
    let is_untold = |number: &&usize| passes_functions && matches!(has.get(**number), Some(None));
    if let Some(number) = numbers.iter().find(is_untold) {
        return refused(
            format!("which <hostdev> {} has cannot be told now", shown(*number)),
            "load the driver of its card; or take both elements out with `virsh edit`",
        );
    }
    for device in &gone {
        if matches!(device, DeviceId::Mdev(uuid) if editable.has_argument(uuid)) {
            return refused(
                format!("{device} is named in <qemu:commandline>, which is not virt-mdev's to change"),
                "take that argument out with `virsh edit` first",
            );
        }
    }
    let said = numbers.iter().map(|number| (has.get(*number).cloned().flatten(), shown(*number))).collect();
    Ok((editable.unassign(&numbers, &gone), said))
}

/// What a device of the metadata is joined to its hostdev by. A virtual function whose address is not written down is
/// the domain's only one.
fn identity(host: &Host, domain: Option<&Domain>, device: &Device) -> Option<DeviceId> {
    if let Some(uuid) = &device.uuid {
        return Some(DeviceId::Mdev(uuid.clone()));
    }
    if let Some(parent) = device.parents.first() {
        return PciAddress::parse(&parent.to_string()).ok().map(DeviceId::Vf);
    }
    let functions = domain?.pcis.iter().filter(|pci| nvidia::is_vgpu(host, &pci.address));
    match functions.collect::<Vec<_>>().as_slice() {
        [one] => Some(DeviceId::Vf(one.address.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    const VF: &str = "0000:41:00.5";

    fn xml(metadata: &str, devices: &str) -> String {
        format!(
            "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name>\
             <uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid>{metadata}<devices>{devices}</devices></domain>"
        )
    }

    fn ours(devices: &str) -> String {
        format!("<metadata><m:devices xmlns:m='urn:virt-mdev:domain:1'>{devices}</m:devices></metadata>")
    }

    #[test]
    fn what_is_named_goes_and_the_only_one_need_not_be_named() {
        let mdev = format!("<m:device uuid='{UUID}' type='t'/>");
        let vf = format!("<m:device type='1145' parent='{VF}'/>");
        let hostdev = format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{UUID}'/></source></hostdev>"
        );
        let pci = "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x0000' bus='0x41' slot='0x00' function='0x5'/></source></hostdev>";
        let other = pci.replace("0x41", "0x42");
        let (one, two) = (
            xml(&ours(&mdev), &(other.clone() + &hostdev)),
            xml(&ours(&(mdev.clone() + &vf)), &(hostdev.clone() + pci + &other)),
        );
        let id = |text: &str| DeviceId::parse(text).unwrap();
        type Case<'a> = (&'a str, &'a [DeviceId], bool, Result<String, &'a str>);
        let cases: [Case<'_>; 12] = [
            (&one, &[], false, Ok(xml("", &other))),
            (&one, &[id(UUID)], false, Ok(xml("", &other))),
            (&one, &[id(VF)], false, Err("its metadata names no device 0000:41:00.5")),
            (&two, &[], false, Err("has 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 (t) and 0000:41:00.5 (1145)")),
            (&two, &[], true, Ok(xml("", &other))),
            (&two, &[id(VF)], false, Ok(xml(&ours(&mdev), &(hostdev.clone() + &other)))),
            (&two, &[id(UUID), id(UUID)], false, Ok(xml(&ours(&vf), &(pci.to_owned() + &other)))),
            (&two, &[id(UUID), id(VF)], false, Ok(xml("", &other))),
            (&xml("", &hostdev), &[], true, Err("its metadata names no device")),
            // Its card's driver is not loaded: which function is its?
            (&xml(&ours("<m:device type='1145'/>"), pci), &[], false, Err("which <hostdev> a device (1145) has cannot be told now")),
            (&xml(&ours("<m:device type='1145'/>"), ""), &[], false, Ok(xml("", ""))),
            (
                &xml(&ours(&mdev), "").replace("</devices></domain>", &format!("</devices><q:commandline><q:arg value='-device'/><q:arg value='vfio-pci,sysfsdev=/sys/bus/mdev/devices/{UUID}'/></q:commandline></domain>")),
                &[],
                false,
                Err("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 is named in <qemu:commandline>, which is not virt-mdev's to change"),
            ),
        ];
        for (before, named, all, expected) in cases {
            let after = without(&Host::at(Path::new("/nowhere")), before, named, all);
            let after = after.map(|(xml, _)| xml).map_err(|failure| failure.text);
            assert_eq!(after, expected.map_err(str::to_owned), "{named:?} of {before}");
        }
    }
}
