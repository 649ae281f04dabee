//! What a running domain's own XML is made to say: libvirt saves it and sends it to another host, where nothing but the metadata
//! tells what to make.

use crate::cli::Failure;
use crate::cli::virsh::{XmlFile, virsh};
use crate::domain::{Domain, NAMESPACE, Wanted, metadata_xml};
use crate::ids::DomainUuid;

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
    let (mut devices, _) = described(domain)?;
    devices.push(Wanted { attached: true, ..wanted.clone() });
    write(domain, &devices)
}

/// Takes out of it what was attached and is not there any more.
pub(super) fn tidy(domain: &DomainUuid) -> Result<(), Failure> {
    let (devices, xml) = described(domain)?;
    // A device that the reader passes over has no hostdev.
    let all = xml.matches(ATTACHED).count();
    let there = devices.iter().filter(|wanted| wanted.attached).count();
    if there < all { write(domain, &devices) } else { Ok(()) }
}

/// As libvirt writes it.
const ATTACHED: &str = " attached=\"yes\"";

fn described(domain: &DomainUuid) -> Result<(Vec<Wanted>, String), Failure> {
    let xml = virsh(&["dumpxml", &format!("--domain={domain}")])?;
    Ok((Domain::read(xml.as_bytes())?.wanted, xml))
}

fn write(domain: &DomainUuid, devices: &[Wanted]) -> Result<(), Failure> {
    let (of, uri) = (format!("--domain={domain}"), format!("--uri={NAMESPACE}"));
    let set = format!("--set={}", metadata_xml(devices));
    let with = if devices.is_empty() { "--remove" } else { set.as_str() };
    virsh(&["metadata", &of, &uri, "--key=mdev", "--live", with]).map(drop)
}
