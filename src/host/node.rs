//! The VFIO nodes of a device: which they are, and giving them a label.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Host, Kind, Part, Trouble, programs, progress};
use crate::backend;
use crate::ids::{DeviceId, Node, Profile};
use crate::labels::Label;
use crate::words::errno;

/// Where distributions have it.
const PARSERS: [&str; 3] = ["usr/sbin/apparmor_parser", "sbin/apparmor_parser", "usr/bin/apparmor_parser"];

/// More than libvirt's rules for one domain are.
const MAX_RULES: u64 = 1024 * 1024;

/// The nodes by which a device can be used now: its group's, and its own where the kernel has those (since 6.1, with
/// `CONFIG_VFIO_DEVICE_CDEV` since 6.6).
pub fn of(host: &Host, device: &DeviceId) -> Result<Vec<Node>, Trouble> {
    let directory = backend::directory(device);
    let group = host.link_name(&format!("{directory}/iommu_group"))?.map(|group| format!("vfio/{group}"));
    let own = host.names(&format!("{directory}/vfio-dev"))?;
    let own = own.iter().map(|name| format!("vfio/devices/{name}"));
    let nodes = group.into_iter().chain(own).filter_map(|name| Node::parse(&name).ok());
    Ok(nodes
        .filter(|node| matches!(host.kind(&format!("dev/{node}")), Ok(Some(Kind::Other | Kind::File))))
        .collect())
}

fn path(host: &Host, node: &Node) -> PathBuf {
    host.path(&format!("dev/{node}"))
}

/// What a node carries.
pub fn carried(host: &Host, node: &Node) -> Result<Label, Trouble> {
    let path = path(host, node);
    host.machine().carried(&path).map_err(|error| Trouble::new("look at", &path, error))
}

/// The part to set, if it is to be set.
fn due<'a, T: PartialEq>(wanted: &'a Option<T>, now: &Option<T>, only: Option<&Option<T>>) -> Option<&'a T> {
    wanted.as_ref().filter(|_| wanted != now && only.is_none_or(|only| only == now))
}

/// Gives a node the parts of a label that it does not carry yet; with `only`, each just where it carries that one's.
/// Says whether there was anything to do.
pub fn put(host: &Host, node: &Node, label: &Label, only: Option<&Label>) -> Result<bool, Trouble> {
    let now = carried(host, node)?;
    let parts = [
        due(&label.owner, &now.owner, only.map(|only| &only.owner)).map(Part::Owner),
        due(&label.mode, &now.mode, only.map(|only| &only.mode)).map(|mode| Part::Mode(*mode)),
        due(&label.context, &now.context, only.map(|only| &only.context)).map(Part::Context),
    ];
    let path = path(host, node);
    for part in parts.iter().flatten() {
        let trouble = |error| Trouble::new(&format!("set {part} on"), &path, error);
        host.machine().set(&path, part).map_err(trouble)?;
    }
    Ok(parts.iter().any(Option::is_some))
}

/// Gives a node what it carried before a label, each part where it carries that label's. Its owner was a QEMU, which could
/// change group and mode as it liked: they go back with the owner. libvirt gives such nodes to root by itself
/// (`virSecurityDACRestoreHostdevLabel`). Says whether there was anything to do.
pub fn put_back(host: &Host, node: &Node, label: &Label, was: &Label) -> Result<bool, Trouble> {
    let now = carried(host, node)?;
    let is_ours = match (&label.owner, &now.owner) {
        (Some(ours), Some(now)) => now.uid == ours.uid || (now.uid, now.gid) == (0, 0),
        _ => false,
    };
    let context = was.context.clone().filter(|_| now.context == label.context);
    let back = match is_ours {
        true => Label { context, ..was.clone() },
        false => Label { context, ..Label::default() },
    };
    put(host, node, &back, None)
}

/// Where libvirt keeps what one domain may open, which the domain's profile includes. It is there when `start` is
/// called; libvirt may add rules of its own afterwards, and deletes both files when the domain stops.
fn rules(host: &Host, profile: &Profile) -> PathBuf {
    host.path(&format!("etc/apparmor.d/libvirt/{profile}.files"))
}

/// Told from libvirt's own by its end.
fn rule(node: &Node) -> String {
    format!("  \"/dev/{node}\" rw, # virt-mdev\n")
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

/// Lets a domain's QEMU open a node of which libvirt does not know that the domain has it.
pub fn allow(host: &Host, profile: &Profile, node: &Node) -> Result<(), Trouble> {
    let path = rules(host, profile);
    let trouble = |error| Trouble::new(&format!("allow /dev/{node} in"), &path, error);
    let rules = host.machine().read_own(&path, MAX_RULES).map_err(trouble)?;
    if lines(&rules).any(|line| line == rule(node).as_bytes()) {
        return Ok(());
    }
    host.machine().append(&path, rule(node).as_bytes()).map_err(trouble)
}

/// Loads the domain's profile with the rules that it has now, where the kernel has AppArmor. libvirt itself does so
/// after `start` only if it has something to add: 9.0 has nothing for a domain without disks and hostdevs.
pub fn load(host: &Host, profile: &Profile) -> Result<(), Trouble> {
    let path = host.path(&format!("etc/apparmor.d/libvirt/{profile}"));
    if !host.exists("sys/kernel/security/apparmor")
        || !host.exists(&format!("etc/apparmor.d/libvirt/{profile}"))
    {
        return Ok(());
    }
    let trouble = |error| Trouble::new("load the AppArmor profile", &path, error);
    // As virt-aa-helper calls it, but for the environment that we were called in.
    let Some(program) = PARSERS.iter().find(|parser| host.exists(parser)) else {
        return Err(trouble(io::Error::other("there is no apparmor_parser")));
    };
    let mut parser = Command::new(host.path(program));
    progress::tell("load the AppArmor profile", &path);
    parser.arg("-r").arg(&path).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    parser
        .output()
        .and_then(|output| programs::succeeded(&output))
        .map_err(|error| trouble(io::Error::other(format!("apparmor_parser: {}", errno(&error)))))
}

/// Takes such a rule out again. libvirt has mostly done so already.
pub fn withdraw(host: &Host, profile: &Profile, node: &Node) -> Result<(), Trouble> {
    let path = rules(host, profile);
    let trouble = |error| Trouble::new(&format!("take /dev/{node} out of"), &path, error);
    let new = path.with_extension("virt-mdev");
    // What a process left that died while it wrote this one anew.
    match host.machine().remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(error)),
        _ => {}
    }
    let bytes = match host.machine().read_own(&path, MAX_RULES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes.map_err(trouble)?,
    };
    let rule = rule(node);
    if lines(&bytes).all(|line| line != rule.as_bytes()) {
        return Ok(());
    }
    let rest: Vec<u8> = lines(&bytes).filter(|line| *line != rule.as_bytes()).flatten().copied().collect();
    host.machine().replace(&path, &new, &rest).map_err(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Owner;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn host(dir: &tempfile::TempDir) -> Host {
        Host::at(dir.path())
    }

    fn node(text: &str) -> Node {
        Node::parse(text).unwrap()
    }

    #[test]
    fn only_what_still_carries_ours_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("dev/vfio")).unwrap();
        let file = dir.path().join("dev/vfio/7");
        fs::write(&file, "").unwrap();
        let set = |mode| fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let mode = || fs::metadata(&file).unwrap().mode() & 0o7777;
        let label = |mode| Label { mode: Some(mode), ..Label::default() };
        let put = |now, to, only: Option<u32>| {
            set(now);
            put(&host(&dir), &node("vfio/7"), &label(to), only.map(label).as_ref()).unwrap()
        };
        for (now, to, only, some, then) in [
            (0o400, 0o600, None, true, 0o600),
            (0o600, 0o600, None, false, 0o600),
            (0o600, 0o400, Some(0o600), true, 0o400),
            (0o640, 0o400, Some(0o600), false, 0o640),
        ] {
            assert_eq!((put(now, to, only), mode()), (some, then), "{now:o} {to:o} {only:?}");
        }
        // What is not meant is not touched, and a link is no node.
        assert!(!super::put(&host(&dir), &node("vfio/7"), &Label::default(), None).unwrap());
        symlink(&file, dir.path().join("dev/vfio/8")).unwrap();
        let error = super::put(&host(&dir), &node("vfio/8"), &label(0o600), None).unwrap_err().to_string();
        assert!(error.ends_with("dev/vfio/8: it is not a node"), "{error}");
        let error = super::put(&host(&dir), &node("vfio/9"), &label(0o600), None).unwrap_err().to_string();
        assert!(error.ends_with("dev/vfio/9: No such file or directory (ENOENT, 2)"), "{error}");
    }

    #[test]
    fn what_its_owner_has_made_of_a_node_goes_back_with_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("dev/vfio")).unwrap();
        let file = dir.path().join("dev/vfio/7");
        fs::write(&file, "").unwrap();
        let set = |mode| fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let found = fs::metadata(&file).unwrap();
        let label = |uid, mode| Label { owner: Some(Owner { uid, gid: found.gid() }), mode, context: None };
        let (ours, other) = (label(found.uid(), None), label(found.uid() + 1, None));
        let was = label(found.uid(), Some(0o640));
        // QEMU has opened it to everybody.
        set(0o666);
        assert!(put_back(&host(&dir), &node("vfio/7"), &ours, &was).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(!put_back(&host(&dir), &node("vfio/7"), &ours, &was).unwrap(), "nothing is left to do");
        // It is another's by now.
        set(0o666);
        let is_roots = (found.uid(), found.gid()) == (0, 0);
        assert_eq!(put_back(&host(&dir), &node("vfio/7"), &other, &was).unwrap(), is_roots);
        let mode = if is_roots { 0o640 } else { 0o666 };
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, mode);
    }

    #[test]
    fn a_rule_is_added_once_and_taken_out_whole() {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::parse("libvirt-0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap();
        let file = rules(&host(&dir), &profile);
        let error = allow(&host(&dir), &profile, &node("vfio/7")).unwrap_err().to_string();
        assert!(error.starts_with("cannot allow /dev/vfio/7 in "), "{error}");
        withdraw(&host(&dir), &profile, &node("vfio/7")).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let own = "  \"/dev/vfio/7\" rw,\n  \"/dev/vfio/70\" rw, # virt-mdev\n";
        fs::write(&file, own).unwrap();
        let text = || fs::read_to_string(&file).unwrap();
        for _ in 0..2 {
            allow(&host(&dir), &profile, &node("vfio/7")).unwrap();
            assert_eq!(text(), format!("{own}  \"/dev/vfio/7\" rw, # virt-mdev\n"));
        }
        fs::write(&file, format!("{}last", text())).unwrap();
        for _ in 0..2 {
            withdraw(&host(&dir), &profile, &node("vfio/7")).unwrap();
            assert_eq!(text(), format!("{own}last"));
        }
        let names = fs::read_dir(file.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }
}
