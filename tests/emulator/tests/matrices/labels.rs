//! Who may open a domain's nodes: their owner, mode and context, and what AppArmor lets the domain open. What there is
//! of it is a line each, and a line makes it so again.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::look::{entries, name};
use crate::shapes::DOMAIN;

/// What the host's kernel, or a rule of udev's there, makes nodes with.
pub(crate) const MODE: &str = "0o400";
/// What a new node carries.
const NEW: &str = "0:0 0400 system_u:object_r:device_t:s0";
/// The context that libvirt gives the domain's files.
pub(crate) const CONTEXT: &str = "system_u:object_r:svirt_image_t:s0:c1,c2";
/// What libvirt lets the domain open.
pub(crate) const RULES: &str = "  \"/dev/vfio/vfio\" rw,\n";

const DIRECTORY: &str = "/etc/apparmor.d/libvirt";
const ATTRIBUTE: &str = "security.selinux";

/// Whom QEMU runs as. In a user namespace, where this is not run by root, there is but one user.
pub(crate) fn owner() -> &'static str {
    if is_root() { "+64055:+108" } else { "+0:+0" }
}

/// Whether a node can be given to somebody.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where libvirt keeps what the domain may open.
pub(crate) fn rules() -> String {
    format!("{DIRECTORY}/libvirt-{DOMAIN}.files")
}

/// Whether a line is one of these.
pub(crate) fn is_about(line: &str) -> bool {
    line.starts_with("label ") || line.starts_with("rules ")
}

/// Whether a line tells of a label that somebody has put on.
pub(crate) fn is_put(line: &str) -> bool {
    line.starts_with("label ") && !line.ends_with(NEW)
}

/// A device's nodes: its group's, and its own if the kernel has those.
fn nodes(device: &Path) -> Vec<(&'static str, PathBuf)> {
    let group = fs::read_link(device.join("iommu_group")).ok();
    let group = group.map(|group| ("group", Path::new("/dev/vfio").join(name(&group))));
    let own = entries(&device.join("vfio-dev")).into_iter();
    let own = own.map(|own| ("own", Path::new("/dev/vfio/devices").join(name(&own))));
    group.into_iter().chain(own.filter(|(_, node)| node.exists())).collect()
}

fn carried(node: &Path) -> io::Result<String> {
    let metadata = fs::metadata(node)?;
    let mut context = [0; 256];
    let context = match getxattr(node, ATTRIBUTE, &mut context) {
        Ok(length) => String::from_utf8_lossy(&context[..length]).trim_end_matches('\0').to_owned(),
        Err(error) => error.to_string(),
    };
    Ok(format!("{}:{} {:04o} {context}", metadata.uid(), metadata.gid(), metadata.mode() & 0o7777))
}

/// A line for each node of a device.
pub(crate) fn look(device: &Path) -> Vec<String> {
    let shown = |(which, node): (&str, PathBuf)| {
        let carried = carried(&node).unwrap_or_else(|error| error.to_string());
        format!("label {} {which} {carried}", name(device))
    };
    nodes(device).into_iter().map(shown).collect()
}

/// A line for each file of AppArmor's.
pub(crate) fn look_at_rules() -> Vec<String> {
    let shown = |path: PathBuf| {
        let text = fs::read(&path).map(|text| String::from_utf8_lossy(&text).into_owned());
        let mode = fs::metadata(&path).map(|metadata| metadata.mode() & 0o7777).unwrap_or_default();
        format!("rules {} {mode:04o} {}", path.display(), text.unwrap_or_else(|error| error.to_string()))
    };
    entries(Path::new(DIRECTORY)).into_iter().map(shown).collect()
}

/// Makes it so that a line says how it is.
pub(crate) fn put(line: &str) -> io::Result<()> {
    let odd = || io::Error::other(format!("no line of a label: {line}"));
    let (kind, rest) = line.split_once(' ').ok_or_else(odd)?;
    let (subject, rest) = rest.split_once(' ').ok_or_else(odd)?;
    let (detail, rest) = rest.split_once(' ').ok_or_else(odd)?;
    if kind == "rules" {
        return fs::write(subject, rest);
    }
    let nodes = nodes(&crate::agent::directory(subject));
    let (_, node) = nodes.iter().find(|(which, _)| *which == detail).ok_or_else(odd)?;
    set(node, rest)
}

fn set(node: &Path, wanted: &str) -> io::Result<()> {
    let odd = || io::Error::other(format!("no label: {wanted}"));
    if carried(node)? == wanted {
        return Ok(());
    }
    let [owner, mode, context] = wanted.split(' ').collect::<Vec<_>>().try_into().map_err(|_| odd())?;
    let (uid, gid) = owner.split_once(':').ok_or_else(odd)?;
    chown(node, uid.parse().ok(), gid.parse().ok())?;
    let mode = u32::from_str_radix(mode, 8).map_err(io::Error::other)?;
    fs::set_permissions(node, fs::Permissions::from_mode(mode))?;
    Ok(setxattr(node, ATTRIBUTE, context.as_bytes(), XattrFlags::empty())?)
}

/// All of it as on a host that has just been started.
pub(crate) fn clear() -> io::Result<()> {
    let nodes = entries(Path::new("/dev/vfio")).into_iter().chain(entries(Path::new("/dev/vfio/devices")));
    for node in nodes.filter(|node| node.is_file() && name(node) != "vfio") {
        set(&node, NEW)?;
    }
    for path in entries(Path::new(DIRECTORY)) {
        if path != Path::new(&rules()) {
            fs::remove_file(path)?;
        }
    }
    if fs::read_to_string(rules()).is_ok_and(|text| text == RULES) {
        return Ok(());
    }
    // Another file in its place: whoever replaced it may have given it another mode.
    let _ = fs::remove_file(rules());
    fs::write(rules(), RULES)
}
