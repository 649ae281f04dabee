//! Who has a device open.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::{Host, Trouble};
use crate::backend;
use crate::ids::DeviceId;
use crate::words::printable;

/// Longer and longer than a look at a node takes: it is opened and closed at once.
const LOOKS: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(40)];

/// How long a name is looked for: somebody may have very many processes, with very many files.
const WALK: Duration = Duration::from_millis(500);

/// What a process answers that has ended, or is not ours to look at.
const HIDDEN: [Errno; 3] = [Errno::SRCH, Errno::ACCESS, Errno::PERM];

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: i32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// The domain that it runs, if it is a QEMU of libvirt's.
    pub domain: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, domain } = self;
        match domain {
            Some(domain) => write!(f, "{} of domain {} (pid {pid})", printable(name), printable(domain)),
            None => write!(f, "{} (pid {pid})", printable(name)),
        }
    }
}

/// The VFIO group of a device, if it has one.
fn group(host: &Host, device: &DeviceId) -> Result<Option<String>, Trouble> {
    host.link_name(&format!("{}/iommu_group", backend::directory(device)))
}

/// Whether somebody has the device open. A VFIO group can be opened once (`vfio_group_fops_open` answers `EBUSY` to
/// a second), also while its device is open by way of `/dev/vfio/devices`; so opening it and closing it at once
/// tells, and asks nothing of the driver. A kernel without group nodes leaves only the walk through `/proc`.
pub fn is_held(host: &Host, device: &DeviceId) -> Result<bool, Trouble> {
    let has_holder = || Ok(find(host, device, None)?.is_some());
    if !host.opens {
        return has_holder();
    }
    // A kernel without groups has the device's own node alone.
    let Some(group) = group(host, device)? else { return has_holder() };
    let node = host.path(&format!("dev/vfio/{group}"));
    let busy = |opened: &std::io::Result<()>| {
        opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::BUSY.raw_os_error()))
    };
    let mut opened = host.machine().try_open(&node);
    // Another hook may be looking at this very moment.
    for pause in LOOKS {
        if busy(&opened) {
            host.machine().sleep(pause);
            opened = host.machine().try_open(&node);
        }
    }
    match opened {
        Ok(()) => Ok(false),
        opened if busy(&opened) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => has_holder(),
        Err(error) => Err(Trouble::new("open", &node, error)),
    }
}

/// Whether [`is_held`] may be believed that nobody has a device open: where no node is opened, `/proc` tells only root.
pub fn sees_all(host: &Host) -> bool {
    host.opens || rustix::process::geteuid().is_root()
}

/// The process that holds it, by walking `/proc`: only done when there is one to name, and not for long.
pub fn holder(host: &Host, device: &DeviceId) -> Option<Holder> {
    find(host, device, Some(host.now() + WALK)).ok().flatten()
}

/// The same. `until`: for whoever only wants a name. What another user's process hides from us is passed over; what cannot be
/// read for another reason may be what is looked for.
fn find(host: &Host, device: &DeviceId, until: Option<Duration>) -> Result<Option<Holder>, Trouble> {
    // Below the holder's /dev: QEMU has one of its own, of which this is all that is left to be seen once QEMU has ended, and
    // another process has its descriptors.
    let mut nodes: Vec<_> = group(host, device)?.iter().map(|group| format!("vfio/{group}")).collect();
    for name in host.names(&format!("{}/vfio-dev", backend::directory(device)))? {
        nodes.push(format!("vfio/devices/{name}"));
    }
    if nodes.is_empty() {
        return Ok(None);
    }
    for pid in host.names("proc")?.iter().filter_map(|pid| pid.parse::<i32>().ok()) {
        if until.is_some_and(|until| host.now() >= until) {
            return Ok(None);
        }
        let fds = format!("proc/{pid}/fd");
        let is_ours = |fd: &String| {
            let fd = host.path(&format!("{fds}/{fd}"));
            let Ok(target) = host.machine().read_link(&fd) else { return false };
            // The text first, which asks no file system of others'; in another /dev the same name may be another node.
            let node = nodes.iter().find(|node| target.ends_with(node));
            node.is_some_and(|node| host.is_same(&fd, &Path::new("/dev").join(node)))
        };
        let opened = match host.names(&fds) {
            Err(trouble) if HIDDEN.iter().any(|errno| trouble.is(*errno)) => Vec::new(),
            opened => opened?,
        };
        if opened.iter().any(is_ours) {
            let name = host.read(&format!("proc/{pid}/comm")).unwrap_or_default();
            let arguments = host.read(&format!("proc/{pid}/cmdline")).unwrap_or_default();
            return Ok(Some(Holder { pid, name, domain: guest(&arguments) }));
        }
    }
    Ok(None)
}

/// Whether the QEMU of a domain runs, by the pid that libvirt has written down for it.
pub fn runs(host: &Host, domain: &str) -> bool {
    // libvirt allows no name with a slash (`virDomainDefPostParse`).
    let read = |path: String| host.read_if_there(&path).ok().flatten();
    let pid = || read(format!("run/libvirt/qemu/{domain}.pid"))?.trim().parse::<u32>().ok();
    let arguments = || read(format!("proc/{}/cmdline", pid()?));
    !domain.contains('/') && arguments().and_then(|text| guest(&text)).is_some_and(|guest| guest == domain)
}

/// libvirt calls QEMU with `-name guest=NAME,…`, a comma in the name doubled (`qemuBuildNameCommandLine`).
fn guest(arguments: &str) -> Option<String> {
    let value = arguments.split('\0').skip_while(|word| *word != "-name").nth(1)?;
    let doubled = value.strip_prefix("guest=")?.replace(",,", "\0");
    Some(doubled.split(',').next()?.replace('\0', ","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_is_taken_for_one() {
        let root = tempfile::tempdir().unwrap();
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let link = |file: &str, target: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, file).unwrap();
        };
        link(&format!("sys/bus/mdev/devices/{uuid}/iommu_group"), "../../../kernel/iommu_groups/4711");
        link("proc/10/fd/3", "/dev/vfio/47110");
        link("proc/11/fd/3", "/dev/vfio/4711/below");
        let host = Host::at(root.path());
        let holder = || holder(&host, &DeviceId::parse(uuid).unwrap()).map(|holder| holder.pid);
        assert_eq!(holder(), None);
        // What is no node, or somebody's file that we may not look at.
        link("proc/12/fd/3", "/vfio/4711");
        std::fs::create_dir_all(root.path().join("vfio")).unwrap();
        std::fs::write(root.path().join("vfio/4711"), "").unwrap();
        link("proc/13/fd/3", &root.path().join("vfio/4711").display().to_string());
        assert_eq!(holder(), None);
        // A node, where this host has none of that name any more.
        link("n/vfio/4711", "/dev/null");
        link("proc/14/fd/3", &root.path().join("n/vfio/4711").display().to_string());
        assert_eq!(holder(), Some(14));
    }

    #[test]
    fn a_guest_is_named_on_its_command_line() {
        let guest = |text: &str| guest(&text.replace(' ', "\0"));
        assert_eq!(guest("qemu -name guest=vm1,debug-threads=on -S").as_deref(), Some("vm1"));
        assert_eq!(guest("qemu -name guest=a,,b,x=y").as_deref(), Some("a,b"));
        assert_eq!(guest("qemu -name vm1"), None);
        assert_eq!(guest("qemu -name"), None);
    }
}
