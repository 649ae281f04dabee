//! Attribute reads and writes as sysfs wants them: never created, never truncated, one write each.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::Trouble;
use crate::ids::AttributeName;
use crate::words::printable;

/// More than any attribute of one page has; a driver's text longer than this is cut.
const MAX_READ: u64 = 64 * 1024;

/// An attribute's text without the newline at its end. Bytes that are not UTF-8 are replaced: drivers write them.
pub fn read(path: &Path) -> Result<String, Trouble> {
    let trouble = |error: io::Error| Trouble::new("read", path, error);
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| trouble(errno.into()))?;
    read_all(file).map_err(trouble)
}

fn read_all(file: OwnedFd) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(4096);
    File::from(file).take(MAX_READ).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// Like [`read`], with `None` for an attribute that is not there.
pub fn read_if_there(path: &Path) -> Result<Option<String>, Trouble> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(trouble) if trouble.is(Errno::NOENT) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Writes an attribute of the kernel's own.
pub fn write(path: &Path, data: &[u8]) -> Result<(), Trouble> {
    let trouble = |error: io::Error| Trouble {
        doing: format!("write \"{}\" to {}", printable(&String::from_utf8_lossy(data)), path.display()),
        error,
    };
    // O_CREAT on a missing attribute would answer EACCES in place of ENOENT.
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| trouble(errno.into()))?;
    write_once(file, data).map_err(trouble)
}

/// sysfs takes each `write` as one whole value: what is left over must not follow in a second one.
fn write_once(file: OwnedFd, data: &[u8]) -> io::Result<()> {
    match File::from(file).write(data)? {
        written if written == data.len() => Ok(()),
        written => Err(io::Error::other(format!("the driver took {written} of {} bytes", data.len()))),
    }
}

/// What became of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The driver took it.
    Yes,
    /// It had that value already.
    Equal,
}

/// Writes a driver attribute below `device`. No component of its name may be a link, the last must be a regular file
/// with a write bit: the name was written by the domain's author.
pub fn write_attribute(device: &Path, name: &AttributeName, data: &[u8]) -> Result<Written, Trouble> {
    let name = name.to_string();
    let path = device.join(&name);
    let trouble = |error: io::Error| Trouble::new("write", &path, error);
    let errno = |errno: Errno| match errno {
        Errno::LOOP => trouble(io::Error::other("a symbolic link is not an attribute of the device")),
        other => trouble(other.into()),
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The device itself is a link, from the bus into its parent's directory; below it nothing may be.
    let mut at = openat(CWD, device, directory, Mode::empty()).map_err(errno)?;
    let (directories, file) =
        name.rsplit_once('/').map_or((None, name.as_str()), |(dirs, file)| (Some(dirs), file));
    for component in directories.iter().flat_map(|dirs| dirs.split('/')) {
        let stat = statat(&at, component, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Err(errno(Errno::LOOP));
        }
        at = openat(&at, component, directory | OFlags::NOFOLLOW, Mode::empty()).map_err(errno)?;
    }
    let stat = statat(&at, file, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(errno(Errno::LOOP)),
        _ => return Err(trouble(io::Error::other("it is not a file"))),
    }
    if !mode.intersects(Mode::WUSR | Mode::WGRP | Mode::WOTH) {
        return Err(trouble(io::Error::other("the driver offers it for reading only")));
    }
    let open = |flags| openat(at.as_fd(), file, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    // sysfs opens a write-only attribute for reading to nobody, root included: its mode says whether it can be read.
    if mode.intersects(Mode::RUSR | Mode::RGRP | Mode::ROTH) {
        let current = open(OFlags::RDONLY).map_err(io::Error::from).and_then(read_all);
        if current.is_ok_and(|current| current.as_bytes() == data.trim_ascii_end()) {
            return Ok(Written::Equal);
        }
    }
    write_once(open(OFlags::WRONLY).map_err(errno)?, data).map_err(trouble)?;
    Ok(Written::Yes)
}

/// Last component of what a link points to.
pub fn link_name(path: &Path) -> Result<Option<String>, Trouble> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Trouble::new("read the link", path, error)),
    }
}

/// Name of the directory that what a link points to lies in.
pub fn link_parent(path: &Path) -> Result<Option<String>, Trouble> {
    match std::fs::read_link(path) {
        Ok(target) => {
            Ok(target.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Trouble::new("read the link", path, error)),
    }
}

/// Names in a directory, sorted; none if it is not there.
pub fn names(path: &Path) -> Result<Vec<String>, Trouble> {
    let trouble = |error| Trouble::new("list", path, error);
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(trouble(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(trouble)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Whether a regular file is there.
pub fn is_file(path: &Path) -> bool {
    statat(CWD, path, AtFlags::empty())
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// Whether something is there, a dangling link included.
pub fn exists(path: &Path) -> bool {
    statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn attribute(name: &str) -> AttributeName {
        AttributeName::parse(name).unwrap()
    }

    #[test]
    fn only_regular_files_with_a_write_bit_are_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        std::fs::create_dir_all(device.join("nvidia")).unwrap();
        std::fs::write(dir.path().join("outside"), "safe").unwrap();
        std::fs::write(device.join("nvidia/vgpu_params"), "old").unwrap();
        std::fs::write(device.join("read_only"), "old").unwrap();
        std::fs::set_permissions(device.join("read_only"), PermissionsExt::from_mode(0o444)).unwrap();
        symlink(dir.path().join("outside"), device.join("link")).unwrap();
        symlink(dir.path(), device.join("dirlink")).unwrap();
        let why = |name: &str| write_attribute(&device, &attribute(name), b"new").unwrap_err().to_string();
        assert!(why("link").contains("symbolic link"), "{}", why("link"));
        assert!(why("dirlink/outside").contains("symbolic link"), "{}", why("dirlink/outside"));
        assert!(why("read_only").contains("for reading only"));
        assert!(why("nvidia").contains("not a file"));
        assert!(why("missing").contains("ENOENT"));
        assert_eq!(std::fs::read_to_string(dir.path().join("outside")).unwrap(), "safe");
        assert_eq!(std::fs::read_to_string(device.join("read_only")).unwrap(), "old");
        assert!(!device.join("missing").exists());
    }

    #[test]
    fn an_equal_value_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "1\n").unwrap();
        assert_eq!(write_attribute(dir.path(), &attribute("a"), b"1").unwrap(), Written::Equal);
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "1\n");
        assert_eq!(write_attribute(dir.path(), &attribute("a"), b"2").unwrap(), Written::Yes);
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "2\n", "no truncation");
    }
}
