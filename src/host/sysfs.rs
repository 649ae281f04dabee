//! Attributes, links and directories in the form that the rest of the program wants: text, names, and errors in words.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use rustix::io::Errno;

use super::{Host, Kind, MAX_READ, Trouble, Written, writing};
use crate::ids::AttributeName;

impl Host {
    /// An attribute's text without the newline at its end. Bytes that are not UTF-8 are replaced: drivers write them.
    pub fn read(&self, relative: &str) -> Result<String, Trouble> {
        let path = self.path(relative);
        let bytes =
            self.machine().read(&path, MAX_READ).map_err(|error| Trouble::new("read", &path, error))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// A file that may be as long as a domain's XML.
    pub fn read_whole(&self, relative: &str) -> Result<Vec<u8>, Trouble> {
        let path = self.path(relative);
        let limit = crate::domain::MAX_XML as u64 + 1;
        self.machine().read(&path, limit).map_err(|error| Trouble::new("read", &path, error))
    }

    /// Text of a configuration file, whole; none where there is no file.
    pub fn text(&self, relative: &str) -> Result<String, Trouble> {
        match self.read_whole(relative) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(trouble) if trouble.is(Errno::NOENT) => Ok(String::new()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Like [`Host::read`], with `None` for an attribute that is not there.
    pub fn read_if_there(&self, relative: &str) -> Result<Option<String>, Trouble> {
        match self.read(relative) {
            Ok(text) => Ok(Some(text)),
            Err(trouble) if trouble.is(Errno::NOENT) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Writes an attribute of the kernel's own.
    pub fn write(&self, relative: &str, data: &[u8]) -> Result<(), Trouble> {
        let path = self.path(relative);
        self.machine().write(&path, data).map_err(|error| Trouble::new(&writing(data), &path, error))
    }

    /// Writes a driver attribute below `device`, whose name was written by the domain's author.
    pub fn write_attribute(
        &self,
        device: &str,
        name: &AttributeName,
        data: &[u8],
    ) -> Result<Written, Trouble> {
        let device = self.path(device);
        let name = name.to_string();
        self.machine()
            .write_attribute(&device, &name, data)
            .map_err(|error| Trouble::new(&writing(data), &device.join(&name), error))
    }

    /// Last component of what a link points to.
    pub fn link_name(&self, relative: &str) -> Result<Option<String>, Trouble> {
        self.link(relative, |target| target)
    }

    /// Name of the directory that what a link points to lies in.
    pub fn link_parent(&self, relative: &str) -> Result<Option<String>, Trouble> {
        self.link(relative, |target| target.parent().unwrap_or(Path::new("")))
    }

    fn link(&self, relative: &str, part: impl Fn(&Path) -> &Path) -> Result<Option<String>, Trouble> {
        let path = self.path(relative);
        match self.machine().read_link(&path) {
            Ok(target) => Ok(part(&target).file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Trouble::new("read the link", &path, error)),
        }
    }

    /// Names in a directory, sorted; none if it is not there.
    pub fn names(&self, relative: &str) -> Result<Vec<String>, Trouble> {
        self.names_in(&self.path(relative))
    }

    /// The same of a path.
    pub fn names_in(&self, path: &Path) -> Result<Vec<String>, Trouble> {
        let mut names = match self.machine().names(path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Trouble::new("list", path, error)),
        };
        names.sort();
        Ok(names)
    }

    /// What stands there, links not followed.
    pub fn kind(&self, relative: &str) -> Result<Option<Kind>, Trouble> {
        let path = self.path(relative);
        self.machine().kind(&path).map_err(|error| Trouble::new("look at", &path, error))
    }

    /// What is allowed to whom there, links followed.
    pub fn mode(&self, relative: &str) -> Result<Option<u32>, Trouble> {
        let path = self.path(relative);
        match std::fs::metadata(&path) {
            Ok(found) => Ok(Some(found.permissions().mode())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Trouble::new("look at", &path, error)),
        }
    }

    /// Changes that.
    pub fn set_mode(&self, relative: &str, mode: u32) -> Result<(), Trouble> {
        let path = self.path(relative);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(|error| Trouble::new("change the mode of", &path, error))
    }

    /// Whether what a process has open is this node. A node can always be looked at: what cannot is a file on somebody's file
    /// system; and where there is no such node any more, another one is taken for it. Of a file, what the kernel knows already:
    /// it may lie on a file system that does not answer.
    pub fn is_same(&self, opened: &Path, node: &Path) -> bool {
        let identity = |path: &Path| {
            let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO)?;
            let kind = FileType::from_raw_mode(found.stx_mode.into());
            Ok::<_, Errno>(match kind {
                FileType::CharacterDevice => (found.stx_rdev_major, found.stx_rdev_minor, None),
                _ => (found.stx_dev_major, found.stx_dev_minor, Some(found.stx_ino)),
            })
        };
        match (identity(opened), identity(node)) {
            (Ok(opened), Ok(node)) => opened == node,
            (Ok((.., inode)), Err(_)) => inode.is_none(),
            (Err(_), _) => false,
        }
    }

    /// Whether something is there, a dangling link included. What cannot be looked at is not there to be used.
    pub fn exists(&self, relative: &str) -> bool {
        matches!(self.kind(relative), Ok(Some(_)))
    }

    /// Whether nothing is there. What cannot be looked at cannot be called gone.
    pub fn is_gone(&self, relative: &str) -> bool {
        matches!(self.kind(relative), Ok(None))
    }
}
