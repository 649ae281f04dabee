//! What a running domain's own XML is made to say: libvirt saves it and sends it to another host, where nothing but the metadata
//! tells what to make.

use crate::cli::Failure;
use crate::cli::virsh::{XmlFile, virsh};
use crate::domain::{Domain, NAMESPACE, Wanted, metadata_xml};
use crate::ids::{DeviceId, DomainUuid};

/// `virsh attach-device` or `detach-device`, of a domain that runs.
pub(super) fn plug(verb: &str, domain: &DomainUuid, xml: &str) -> Result<(), Failure> {
    let file = XmlFile::new(xml)?;
    let path = file.path();
    let done = virsh(&[verb, &format!("--domain={domain}"), &format!("--file={path}"), "--live"]);
    // Nobody has a file of that name.
    done.map(drop)
        .map_err(|failed| Failure { text: failed.text.replace(&format!(" from {path}"), ""), ..failed })
}

/// Puts a device into the metadata of a domain that runs.
pub(super) fn describe(domain: &DomainUuid, wanted: &Wanted) -> Result<(), Failure> {
    change(domain, |devices| {
        devices.push(wanted.clone());
        true
    })
}

/// Takes a device out of it again, if it is there.
pub(super) fn forget(domain: &DomainUuid, device: &DeviceId) -> Result<(), Failure> {
    change(domain, |devices| {
        let before = devices.len();
        devices.retain(|wanted| !is(wanted, device));
        devices.len() < before
    })
}

/// `means`: changes the devices, and says whether it did.
fn change(domain: &DomainUuid, means: impl FnOnce(&mut Vec<Wanted>) -> bool) -> Result<(), Failure> {
    let of = format!("--domain={domain}");
    let mut devices = Domain::read(virsh(&["dumpxml", &of])?.as_bytes())?.wanted;
    if !means(&mut devices) {
        return Ok(());
    }
    let uri = format!("--uri={NAMESPACE}");
    let set = format!("--set={}", metadata_xml(&devices));
    let with = if devices.is_empty() { "--remove" } else { set.as_str() };
    virsh(&["metadata", &of, &uri, "--key=mdev", "--live", with]).map(drop)
}

fn is(wanted: &Wanted, device: &DeviceId) -> bool {
    match device {
        DeviceId::Mdev(uuid) => wanted.uuid.as_ref() == Some(uuid),
        DeviceId::Vf(address) => wanted.uuid.is_none() && wanted.parents == [address.as_parent()],
    }
}
