//! Who has a device open.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::{Host, sysfs};
use crate::backend;
use crate::ids::DeviceId;

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
}

/// The VFIO group of a device, if it has one.
fn group(host: &Host, device: &DeviceId) -> Option<String> {
    let link = host.path(&format!("{}/iommu_group", backend::directory(device)));
    sysfs::link_name(&link).ok().flatten()
}

/// Whether somebody has the device open. A VFIO group can be opened once (`vfio_group_fops_open` answers `EBUSY` to
/// a second), also while its device is open by way of `/dev/vfio/devices`; so opening it and closing it at once
/// tells, and asks nothing of the driver.
pub fn is_held(host: &Host, device: &DeviceId) -> bool {
    let Some(group) = group(host, device) else { return false };
    let node = host.path(&format!("dev/vfio/{group}"));
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    matches!(openat(CWD, &node, flags, Mode::empty()), Err(Errno::BUSY))
}

/// The process that holds it, by walking `/proc`: only done when there is one to name.
pub fn holder(host: &Host, device: &DeviceId) -> Option<Holder> {
    let group = group(host, device)?;
    // The path as the holder sees it: QEMU has a /dev of its own.
    let mut nodes = vec![std::path::PathBuf::from(format!("/dev/vfio/{group}"))];
    let cdevs = host.path(&format!("{}/vfio-dev", backend::directory(device)));
    for name in sysfs::names(&cdevs).unwrap_or_default() {
        nodes.push(std::path::PathBuf::from(format!("/dev/vfio/devices/{name}")));
    }
    let pids = sysfs::names(&host.path("proc")).unwrap_or_default();
    pids.iter().filter_map(|pid| pid.parse::<i32>().ok()).find_map(|pid| {
        let fds = host.path(&format!("proc/{pid}/fd"));
        let holds = std::fs::read_dir(fds)
            .ok()?
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| nodes.contains(&target)));
        let name = || sysfs::read(&host.path(&format!("proc/{pid}/comm"))).unwrap_or_default();
        holds.then(|| Holder { pid, name: name() })
    })
}
