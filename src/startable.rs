//! Whether a device that a domain names in `<qemu:commandline>` (`sysfsdev=`) can be opened by its QEMU. libvirt knows
//! nothing of such a device: it makes no node for it in the domain's `/dev`, does not let the domain's control group
//! use it, and locks no memory for it. What a hook cannot do about that is refused, with the lines that do.

use crate::domain::Domain;
use crate::ids::Node;
use crate::qemu_conf::QemuConf;
use crate::refusal::Refusal;

/// Judges the nodes of such devices. `lockable`: how much memory QEMU may lock, in KiB, where that is known.
pub fn judge(domain: &Domain, nodes: &[Node], conf: &QemuConf, lockable: Option<u64>) -> Result<(), Refusal> {
    // Other nodes than these, and other limits: QEMU's own words say what it lacks.
    if domain.iommufd {
        return Ok(());
    }
    let paths: Vec<String> = nodes.iter().map(|node| format!("/dev/{node}")).collect();
    // For a hostdev libvirt does all this itself, the container included (`qemuDomainGetHostdevPath`).
    let by_libvirt = !domain.mdevs.is_empty() || !domain.pcis.is_empty();
    let container = (!by_libvirt).then(|| "/dev/vfio/vfio".to_owned());
    let needed: Vec<String> = container.into_iter().chain(paths.iter().cloned()).collect();
    if let Some(missing) = missing(&needed, conf) {
        // libvirt takes the first assignment of a name and ignores others (`virConfAddEntry`).
        let verb = if conf.device_acl.is_some() { "replace cgroup_device_acl in" } else { "add to" };
        let lines = conf.lines_for(&suggested(&paths));
        return Err(Refusal::NotInNamespace { node: missing, verb, lines });
    }
    // And raises the limit (`qemuDomainGetMemLockLimitBytes`).
    let by_libvirt = by_libvirt || domain.locked;
    match (domain.memory, lockable) {
        (Some(memory), Some(lockable)) if !by_libvirt && lockable < memory => {
            Err(Refusal::MemoryLimit { memory, lockable })
        }
        _ => Ok(()),
    }
}

/// The first node that neither the domain's `/dev` nor its control group would have.
fn missing(paths: &[String], conf: &QemuConf) -> Option<String> {
    if !conf.namespaces && !conf.cgroup_devices {
        return None;
    }
    let allowed = conf.device_acl.as_deref().unwrap_or_default();
    paths.iter().find(|path| !allowed.contains(path)).cloned()
}

/// Group numbers are given out as devices come: a start later may get others, so that some more are allowed. Paths
/// that do not exist do no harm.
fn suggested(paths: &[String]) -> Vec<String> {
    const SOME: u32 = 32;
    let mut nodes = vec!["/dev/vfio/vfio".to_owned()];
    nodes.extend((0..SOME).map(|group| format!("/dev/vfio/{group}")));
    nodes.extend(paths.iter().filter(|path| !nodes.contains(path)).cloned().collect::<Vec<_>>());
    nodes
}
