//! The host itself: VFIO, udev, parents that offer nothing yet, and what nobody answers for.

use super::{Act, Finding};
use crate::backend;
use crate::host::{Host, Kind, Trouble};
use crate::reap::{self, Standing};
use crate::record::Records;
use crate::words::printable;

/// Every user of VFIO opens it first.
pub(super) const CONTAINER: &str = "dev/vfio/vfio";
const RULES: &str = "60-virt-mdev.rules";
/// Where udevd looks for rules, the first of a name wins (`udev(7)`).
const RULES_DIRECTORIES: [&str; 4] =
    ["etc/udev/rules.d", "run/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d"];
const HELPERS: [&str; 2] = ["usr/lib/udev/virt-mdev-udev", "usr/local/lib/udev/virt-mdev-udev"];
pub(super) fn look(host: &Host) -> Result<Vec<Finding>, Trouble> {
    let mut findings = vfio(host)?;
    findings.extend(udev(host)?);
    for (backend, parent) in backend::parents(host)? {
        if backend.known(host, &parent).is_ok_and(|known| known.is_empty()) {
            findings.push(Finding::new(
                format!("{parent} offers no types"),
                "no device can be made on it",
                "is its vendor's service running? (NVIDIA: systemctl status nvidia-vgpu-mgr)",
            ));
        }
    }
    findings.extend(orphans(host)?);
    Ok(findings)
}

fn vfio(host: &Host) -> Result<Vec<Finding>, Trouble> {
    const WHY: &str = "QEMU cannot use any device of VFIO";
    let mut findings = Vec::new();
    let any = !backend::parents(host)?.is_empty();
    match host.mode(CONTAINER)? {
        None if any => findings.push(Finding::new(
            format!("there is no /{CONTAINER}"),
            WHY,
            "modprobe vfio_iommu_type1; a container needs the node passed into it",
        )),
        Some(mode) if mode & 0o666 != 0o666 => findings.push(
            Finding::new(
                format!("/{CONTAINER} has the mode {:04o}", mode & 0o7777),
                "a QEMU that is not root cannot open it",
                format!("chmod 0666 /{CONTAINER}; and look for the udev rule that did that"),
            )
            .with(Act::Open),
        ),
        _ => {}
    }
    Ok(findings)
}

fn udev(host: &Host) -> Result<Vec<Finding>, Trouble> {
    const WHY: &str =
        "a node that udev deals with anew loses its domain's label, and a lost device is not noticed";
    let mut findings = Vec::new();
    let file = RULES_DIRECTORIES.iter().map(|directory| format!("{directory}/{RULES}"));
    let file = file.into_iter().find(|file| host.exists(file));
    let masked = match &file {
        Some(file) => {
            host.kind(file)? == Some(Kind::Link) && host.link_name(file)?.as_deref() == Some("null")
        }
        None => false,
    };
    match &file {
        None => findings.push(Finding::new(
            format!("udev does not know {RULES}"),
            WHY,
            "install the package again",
        )),
        Some(file) if masked => {
            findings.push(Finding::new(
                format!("/{file} masks the rules of virt-mdev"),
                WHY,
                format!("rm /{file}"),
            ));
        }
        Some(_) if !HELPERS.iter().any(|helper| host.exists(helper)) => findings.push(Finding::new(
            "virt-mdev-udev, which udev is to run, is not there",
            WHY,
            "install the package again",
        )),
        Some(_) => {}
    }
    Ok(findings)
}

fn orphans(host: &Host) -> Result<Vec<Finding>, Trouble> {
    let records = Records::new(host);
    let mut findings = Vec::new();
    for record in records.domains()?.iter().filter_map(|domain| records.read(domain).ok().flatten()) {
        for (device, standing) in reap::judge(host, &record, false) {
            if let Standing::Abandoned(because) = standing {
                let name = printable(&record.domain.name);
                findings.push(
                    Finding::new(
                        format!("{name}: nobody answers for {device}: {because}"),
                        "its place is taken until it goes",
                        "virt-mdev reconcile",
                    )
                    .with(Act::Reconcile),
                );
            }
        }
    }
    Ok(findings)
}
