//! Extended attributes, as sysfs, devtmpfs and tmpfs keep them (each errno tried on Linux 6.18 without SELinux), and
//! contexts as SELinux shows and takes them (`security/selinux/hooks.c`).

use nix::errno::Errno;
use nix::libc::{XATTR_CREATE, XATTR_REPLACE};

use super::{Uevent, World};
use crate::tree::{Ino, Kind};

/// The attribute of a context.
const CONTEXT: &str = "security.selinux";

impl World {
    /// A value.
    pub(super) fn xattr(&self, ino: Ino, name: &str) -> Result<Vec<u8>, Errno> {
        is_known(name)?;
        let own = self.file(ino)?.xattrs.get(name).cloned();
        own.or_else(|| self.first_context(ino, name)).ok_or(Errno::ENODATA)
    }

    /// The names, each with a zero byte.
    pub(super) fn xattrs(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let own = &self.file(ino)?.xattrs;
        let context = (self.host.selinux.is_some() && !own.contains_key(CONTEXT)).then_some(CONTEXT);
        let names = own.keys().map(String::as_str).chain(context);
        Ok(names.flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect())
    }

    /// Sets one.
    pub(super) fn set_xattr(&mut self, ino: Ino, name: &str, value: &[u8], flags: i32) -> Result<(), Errno> {
        is_known(name)?;
        let file = self.file(ino)?;
        if name.starts_with("user.") {
            // On a node it is refused before any file system is asked (`xattr_permission`); on sysfs it is not kept.
            match file.kind {
                Kind::Node(_) | Kind::Socket => return Err(Errno::EPERM),
                _ if self.is_sysfs(ino) => return Err(Errno::EOPNOTSUPP),
                _ => {}
            }
        }
        let there = file.xattrs.contains_key(name);
        if there && flags & XATTR_CREATE != 0 {
            return Err(Errno::EEXIST);
        }
        if !there && flags & XATTR_REPLACE != 0 {
            return Err(Errno::ENODATA);
        }
        // Without SELinux nobody looks at what it is.
        let value = match self.host.selinux {
            Some(_) if name == CONTEXT => context(value)?,
            _ => value.to_vec(),
        };
        self.file_mut(ino)?.xattrs.insert(name.to_owned(), value);
        Ok(())
    }

    /// Takes one away.
    pub(super) fn remove_xattr(&mut self, ino: Ino, name: &str) -> Result<(), Errno> {
        is_known(name)?;
        // `selinux_inode_removexattr`: a context can only be changed.
        if name == CONTEXT && self.host.selinux.is_some() {
            return Err(Errno::EACCES);
        }
        self.file_mut(ino)?.xattrs.remove(name).map(drop).ok_or(Errno::ENODATA)
    }

    /// With SELinux everything has a context from the beginning: by where it lies, as in the usual policies.
    fn first_context(&self, ino: Ino, name: &str) -> Option<Vec<u8>> {
        self.host.selinux.filter(|_| name == CONTEXT)?;
        let path = self.tree.path(ino);
        let kind = match path.split('/').nth(1) {
            Some("sys") => "sysfs_t",
            Some("dev") => "device_t",
            Some("run") => "var_run_t",
            _ => "etc_t",
        };
        Some(shown(kind))
    }

    /// udevd gives a node the context that the policy's list of files has for it.
    pub(super) fn udev_has_labelled(&mut self, event: &Uevent) {
        let node = event.get("DEVNAME").and_then(|name| self.tree.find(&format!("/dev/{name}")));
        let selinux = self.host.selinux.is_some() && event.action == "add";
        if let Some(file) = node.filter(|_| selinux).and_then(|node| self.tree.get_mut(node)) {
            file.xattrs.insert(CONTEXT.to_owned(), shown("vfio_device_t"));
        }
    }
}

fn is_known(name: &str) -> Result<(), Errno> {
    let known = ["security.", "trusted.", "user."].iter().any(|space| name.starts_with(space));
    known.then_some(()).ok_or(Errno::EOPNOTSUPP)
}

/// A context is read with the zero byte at its end, whoever set it without.
fn shown(kind: &str) -> Vec<u8> {
    format!("system_u:object_r:{kind}:s0\0").into_bytes()
}

/// Whether a policy could know it is not asked, only whether it is a context: user, role, type and perhaps a level.
fn context(value: &[u8]) -> Result<Vec<u8>, Errno> {
    let text = value.strip_suffix(b"\0").unwrap_or(value);
    let parts: Vec<&[u8]> = text.splitn(4, |byte| *byte == b':').collect();
    if parts.len() < 3 || parts.iter().any(|part| part.is_empty()) || text.contains(&0) {
        return Err(Errno::EINVAL);
    }
    Ok([text, b"\0"].concat())
}
