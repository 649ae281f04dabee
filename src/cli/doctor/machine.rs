//! The host itself: VFIO, udev, parents that offer nothing yet, and what nobody answers for.

use super::{Act, Finding};
use crate::backend::{self, Backend, nvidia};
use crate::cli::reconcile::{Fate, fate};
use crate::host::udev::rules_file;
use crate::host::{Host, Trouble, programs};
use crate::reap::{self, Standing};
use crate::record::Records;
use crate::words::printable;

/// Every user of VFIO opens it first.
pub(super) const CONTAINER: &str = "dev/vfio/vfio";
/// Drivers of mediated devices; not of their parents.
const DRIVERS: &str = "sys/bus/mdev/drivers";
const RULES: &str = "60-virt-mdev.rules";
const HELPERS: [&str; 2] = ["usr/lib/udev/virt-mdev-udev", "usr/local/lib/udev/virt-mdev-udev"];
/// There while udevd runs.
const UDEVD: &str = "run/udev/control";
/// The youngest that our rules have is `SECLABEL`, which systemd 209 brought; a line with a key that udevd does not know
/// is left out.
const UDEV_NEEDED: u32 = 209;
/// Until Linux 5.17 or so the devices of many parents had one driver, in a module that nothing loads by itself; since
/// then each parent's driver brings its own.
const DEVICES_DRIVER: &str = "vfio_mdev";
/// What VFIO maps a guest's memory with, on POWER another than elsewhere. Loading vfio asks for both (its softdep); a
/// kernel whose containers are iommufd's has neither.
const IOMMU: [&str; 2] = ["vfio_iommu_type1", "vfio_iommu_spapr_tce"];

pub(super) fn look(host: &Host) -> Result<Vec<Finding>, Trouble> {
    let mut findings = vfio(host)?;
    findings.extend(modules(host, programs::has_module)?);
    findings.extend(udev(host)?);
    findings.extend(udevd(host, programs::udev_version));
    for (backend, parent) in backend::parents(host)? {
        if backend.known(host, &parent).is_ok_and(|known| known.is_empty()) {
            findings.push(Finding::new(
                format!("{parent} offers no types"),
                "no device can be made on it",
                "is its vendor's service running? (NVIDIA: systemctl status nvidia-vgpud nvidia-vgpu-mgr)",
            ));
        }
    }
    for card in nvidia::cards_without_functions(host)? {
        findings.push(Finding::new(
            format!("{card} has no virtual functions"),
            "they are what takes vGPUs on a card that can have them, and none can be made on it",
            format!("at every boot, once NVIDIA's services run: {}", nvidia::functions_on(&card)),
        ));
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

/// Modules that nothing else says are missing: a parent's own driver is missed by the domain that names the parent, and
/// libvirt loads vfio-pci for what it hands over. `has`: whether the kernel has one to load.
fn modules(host: &Host, has: impl Fn(&str) -> bool) -> Result<Vec<Finding>, Trouble> {
    let parents = backend::parents(host)?;
    let mut missing = Vec::new();
    if parents.iter().any(|(backend, _)| *backend == Backend::Mdev) && host.names(DRIVERS)?.is_empty() {
        missing.extend(Some((DEVICES_DRIVER, "a device gets no node in /dev/vfio")).filter(|it| has(it.0)));
    }
    // What is built in is there too: each has parameters, or a version.
    let there = |module: &str| host.exists(&format!("sys/module/{module}"));
    if !parents.is_empty() && there("vfio") && !IOMMU.into_iter().any(there) {
        let module = IOMMU.into_iter().find(|module| has(module));
        missing.extend(module.map(|module| (module, "QEMU cannot use any device of VFIO")));
    }
    let finding = |(module, why): (&'static str, &'static str)| {
        let fix =
            format!("modprobe {module}\nat every boot: echo {module} >/etc/modules-load.d/{module}.conf");
        Finding::new(format!("the kernel's module {module} is not loaded"), why, fix).with(Act::Load(module))
    };
    Ok(missing.into_iter().map(finding).collect())
}

fn udevd(host: &Host, version: impl FnOnce() -> Option<u32>) -> Option<Finding> {
    let version = host.exists(UDEVD).then(version).flatten().filter(|version| *version < UDEV_NEEDED)?;
    Some(Finding::new(
        format!("udev is of version {version}, and {RULES} needs {UDEV_NEEDED}"),
        "it leaves out what it does not know, and a node that it deals with anew loses its domain's label",
        "a newer systemd, or eudev",
    ))
}

fn udev(host: &Host) -> Result<Vec<Finding>, Trouble> {
    const WHY: &str =
        "a node that udev deals with anew loses its domain's label, and a lost device is not noticed";
    let mut findings = Vec::new();
    match rules_file(host, RULES) {
        None => findings.push(Finding::new(
            format!("udev does not know {RULES}"),
            WHY,
            "install the package again",
        )),
        Some((file, true)) => {
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
    let host = &host.looking();
    let records = Records::new(host);
    let mut findings = Vec::new();
    for path in records.damaged()? {
        let path = path.display();
        findings.push(Finding::new(
            format!("{path} is a record that could not be understood"),
            "what it named is nobody's now, and stays until somebody removes it",
            format!("compare it with `virt-mdev list`, remove by hand what is left of it, then: rm {path}"),
        ));
    }
    for domain in records.domains()? {
        let record = match records.read(&domain) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(trouble) => {
                findings.push(Finding::new(
                    trouble.to_string(),
                    "a start or release of its domain sets it aside, and what it names is nobody's then",
                    "virt-mdev reconcile does that, too; compare it with `virt-mdev list` before",
                ));
                continue;
            }
        };
        for (device, standing) in reap::judge(host, &record, false) {
            if let Standing::Abandoned(because) = standing {
                let name = printable(&record.domain.name);
                let why = match fate(host, &record, &device) {
                    Fate::Destroyed => "its place is taken until it goes",
                    Fate::LetGo | Fate::Forgotten => {
                        "it stays recorded for a domain that has nothing to do with it any more"
                    }
                };
                findings.push(
                    Finding::new(
                        format!("{name}: nobody answers for {device}: {because}"),
                        why,
                        "virt-mdev reconcile",
                    )
                    .with(Act::Reconcile),
                );
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A host with a parent of mediated devices, and these directories.
    fn host(directories: &[&str]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for directory in
            ["sys/class/mdev_bus", "sys/devices/mtty/mdev_supported_types"].iter().chain(directories)
        {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        symlink("../../devices/mtty", root.path().join("sys/class/mdev_bus/mtty")).unwrap();
        let host = Host::at(root.path());
        (root, host)
    }

    #[test]
    fn a_module_is_missed_where_it_is_needed_and_the_kernel_has_it() {
        const DRIVER: &str = "sys/bus/mdev/drivers/mtty";
        const VFIO: &str = "sys/module/vfio";
        let all = |_: &str| true;
        let has_spapr = |module: &str| module.ends_with("spapr_tce");
        for (directories, has, missed) in [
            (&[DRIVER, VFIO, "sys/module/vfio_iommu_type1"][..], all as fn(&str) -> bool, &[][..]),
            (&[DRIVER, VFIO, "sys/module/vfio_iommu_spapr_tce"], all, &[]),
            (&[DRIVER, VFIO], all, &["vfio_iommu_type1"]),
            (&[DRIVER, VFIO], has_spapr, &["vfio_iommu_spapr_tce"]),
            // A kernel whose containers are iommufd's.
            (&[DRIVER, VFIO], |_| false, &[]),
            // Not loaded yet: that asks for the other.
            (&[DRIVER], all, &[]),
            (&[], all, &["vfio_mdev"]),
            (&[VFIO], all, &["vfio_mdev", "vfio_iommu_type1"]),
        ] {
            let (_root, host) = host(directories);
            let found = modules(&host, has).unwrap();
            let acts: Vec<_> = found.iter().filter_map(|finding| finding.act.clone()).collect();
            let expected: Vec<_> = missed.iter().copied().map(Act::Load).collect();
            assert_eq!(acts, expected, "{directories:?}");
        }
        let nothing = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(nothing.path().join(VFIO)).unwrap();
        assert!(modules(&Host::at(nothing.path()), all).unwrap().is_empty(), "nobody needs it");
    }
}
