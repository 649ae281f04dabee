//! The machine itself: the system calls.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, Uid, XattrFlags, chmodat, chownat, flock,
    fstat, getxattr, openat, readlinkat, renameat, setxattr, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::time::{ClockId, clock_gettime};

use super::{Kind, Lock, Machine, Part, Written, locks};
use crate::host::child::{self, Outcome};
use crate::host::progress::{tell, waiting};
use crate::host::{MAX_READ, writing};
use crate::ids::Context;
use crate::labels::{Label, Owner};
use crate::step::Step;

/// How often a lock that somebody else holds is tried again. Locks are held for single writes, not for waits.
const RETRY: Duration = Duration::from_millis(5);

/// This machine.
#[derive(Debug, Clone, Default)]
pub struct Real {
    /// A directory that is kept open, and its path: what lies below it is looked up from there.
    near: Option<(PathBuf, Arc<OwnedFd>)>,
}

impl Real {
    /// From where to look at a path, and what is left of it.
    fn from<'a>(&'a self, path: &'a Path) -> (BorrowedFd<'a>, &'a Path) {
        let below = self.near.as_ref().and_then(|(near, directory)| {
            let rest = path.strip_prefix(near).ok().filter(|rest| !rest.as_os_str().is_empty())?;
            Some((directory.as_fd(), rest))
        });
        below.unwrap_or((CWD, path))
    }
}

/// Made readable for all, as records are.
const READABLE: Mode = Mode::from_bits_truncate(0o644);

/// Made for root alone: whoever can read a file can lock it, and so keep every start and release waiting.
const OURS: Mode = Mode::from_bits_truncate(0o600);

/// Opens a file that must not be a link, for this process alone; with `CREATE` it is made with this mode. A pipe is not
/// waited for: to write into one that nobody reads is refused.
fn open(path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat(CWD, path, flags, mode) {
        Err(Errno::NXIO) => Err(io::Error::other("it is not a file")),
        opened => Ok(File::from(opened?)),
    }
}

/// Opens a regular file for reading, and nothing else.
fn open_file(path: &Path) -> io::Result<(File, rustix::fs::Stat)> {
    tell("read", path);
    let file = open(path, OFlags::RDONLY, Mode::empty())?;
    let stat = fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, stat)),
        _ => Err(io::Error::other("it is not a file")),
    }
}

/// The extended attribute that SELinux keeps a context in.
const SELINUX: &str = "security.selinux";

/// More than the longest context that we take has.
const MAX_CONTEXT: usize = 8192;

/// What an attribute of sysfs fills at most; where pages are larger, it is read in pieces.
const PAGE: usize = 4096;

/// The bits of a mode that `chmod` sets.
const MODE: u32 = 0o7777;

/// A node without opening its device, which would take it: the descriptor, the path by which it is meant and no link
/// that may stand there a moment later, and what it is.
fn open_node(node: &Path) -> io::Result<(OwnedFd, String, rustix::fs::Stat)> {
    let file = openat(CWD, node, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&file)?;
    if matches!(FileType::from_raw_mode(stat.st_mode), FileType::Symlink | FileType::Directory) {
        return Err(io::Error::other("it is not a node"));
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok((file, path, stat))
}

/// sysfs takes each `write` as one whole value: what is left over must not follow in a second one.
fn write_once(file: OwnedFd, data: &[u8]) -> io::Result<()> {
    match File::from(file).write(data)? {
        written if written == data.len() => Ok(()),
        written => Err(io::Error::other(format!("the driver took {written} of {} bytes", data.len()))),
    }
}

fn read_all(file: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Machine for Real {
    fn near(&self, directory: &Path) -> Option<Arc<dyn Machine>> {
        tell("look at", directory);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, directory, flags, Mode::empty()).ok()?;
        Some(Arc::new(Self { near: Some((directory.to_owned(), Arc::new(opened))) }))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        tell("look at", path);
        let (from, path) = self.from(path);
        match statat(from, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Link,
                _ => Kind::Other,
            })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        tell("read", path);
        let (from, rest) = self.from(path);
        let file = openat(from, rest, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let file = File::from(file);
        // What a driver shows it shows in one piece (`sysfs_kf_seq_show`): what does not fill a page was all of it, and it
        // is not asked again to see the end. Lists elsewhere come in several pieces, those of securityfs below /sys, too.
        let in_one_piece = ["/sys/bus", "/sys/class"].iter().any(|part| path.starts_with(part));
        let mut bytes = vec![0; PAGE];
        let length = retry_on_intr(|| rustix::io::read(&file, &mut *bytes))?;
        bytes.truncate(length);
        if length == PAGE || !in_one_piece {
            file.take(limit.saturating_sub(PAGE as u64)).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        tell(&writing(data), path);
        // O_CREAT on a missing attribute would answer EACCES in place of ENOENT.
        let (from, path) = self.from(path);
        let file = openat(from, path, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        write_once(file, data)
    }

    fn write_attribute(&self, device: &Path, name: &str, data: &[u8]) -> io::Result<Written> {
        tell(&writing(data), &device.join(name));
        let link = |errno: Errno| match errno {
            Errno::LOOP => io::Error::other("a symbolic link is not an attribute of the device"),
            other => other.into(),
        };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The device itself is a link, from the bus into its parent's directory; below it nothing may be.
        let mut at = openat(CWD, device, directory, Mode::empty()).map_err(link)?;
        let (directories, file) =
            name.rsplit_once('/').map_or((None, name), |(dirs, file)| (Some(dirs), file));
        for component in directories.iter().flat_map(|dirs| dirs.split('/')) {
            let stat = statat(&at, component, AtFlags::SYMLINK_NOFOLLOW).map_err(link)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                return Err(link(Errno::LOOP));
            }
            at = openat(&at, component, directory | OFlags::NOFOLLOW, Mode::empty()).map_err(link)?;
        }
        let stat = statat(&at, file, AtFlags::SYMLINK_NOFOLLOW).map_err(link)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(link(Errno::LOOP)),
            _ => return Err(io::Error::other("it is not a file")),
        }
        if !mode.intersects(Mode::WUSR | Mode::WGRP | Mode::WOTH) {
            return Err(io::Error::other("the driver offers it for reading only"));
        }
        let open =
            |flags| openat(at.as_fd(), file, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        // sysfs opens a write-only attribute for reading to nobody, root included: its mode says whether it can be read.
        if mode.intersects(Mode::RUSR | Mode::RGRP | Mode::ROTH) {
            let current = open(OFlags::RDONLY)
                .map_err(io::Error::from)
                .and_then(|file| read_all(File::from(file), MAX_READ));
            if current.is_ok_and(|current| current.trim_ascii_end() == data.trim_ascii_end()) {
                return Ok(Written::Equal);
            }
        }
        write_once(open(OFlags::WRONLY).map_err(link)?, data)?;
        Ok(Written::Yes)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        tell("read the link", path);
        let (from, path) = self.from(path);
        Ok(OsString::from_vec(readlinkat(from, path, Vec::new())?.into_bytes()).into())
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        tell("list", path);
        let entries = std::fs::read_dir(path)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        tell("make the directory", path);
        DirBuilder::new().mode(0o755).create(path)
    }

    fn read_plain(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_all(open_file(path)?.0, limit)
    }

    fn read_own(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let (file, stat) = open_file(path)?;
        if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        if u64::try_from(stat.st_size).is_ok_and(|size| size > limit) {
            return Err(io::Error::other("it is larger than any record"));
        }
        read_all(file, limit)
    }

    fn replace(&self, path: &Path, new: &Path, data: &[u8]) -> io::Result<()> {
        tell("write", path);
        open(new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, READABLE)?.write_all(data)?;
        Ok(renameat(CWD, new, CWD, path)?)
    }

    fn link(&self, text: &str, path: &Path) -> io::Result<()> {
        tell("make the link", path);
        symlink(text, path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        tell("remove", path);
        Ok(unlinkat(CWD, path, AtFlags::empty())?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        tell("rename", from);
        Ok(renameat(CWD, from, CWD, to)?)
    }

    fn lock(&self, path: &Path, limit: Duration) -> io::Result<Lock> {
        tell("lock", path);
        let file = match open(path, OFlags::WRONLY | OFlags::CREATE, OURS) {
            // A lock is nothing that is written.
            Err(error) if error.raw_os_error() == Some(Errno::ROFS.raw_os_error()) => {
                open(path, OFlags::RDONLY, Mode::empty()).map_err(|_| error)?
            }
            opened => opened?,
        };
        let deadline = self.now() + limit;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(locks::held(file)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if self.now() < deadline => self.sleep(RETRY),
                Err(Errno::WOULDBLOCK) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn try_open(&self, node: &Path) -> io::Result<()> {
        tell("open", node);
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(CWD, node, flags, Mode::empty()).map(drop)?)
    }

    fn carried(&self, node: &Path) -> io::Result<Label> {
        tell("look at", node);
        let (_file, path, stat) = open_node(node)?;
        let mut context = vec![0; MAX_CONTEXT];
        let context = match getxattr(&path, SELINUX, &mut context) {
            Ok(length) => context.get(..length).and_then(|context| {
                Context::parse(std::str::from_utf8(context).ok()?.trim_end_matches('\0')).ok()
            }),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => None,
            Err(errno) => return Err(errno.into()),
        };
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Ok(Label { owner: Some(owner), mode: Some(stat.st_mode & MODE), context })
    }

    fn set(&self, node: &Path, part: &Part<'_>) -> io::Result<()> {
        tell(&format!("set {part} on"), node);
        let (_file, path, _) = open_node(node)?;
        Ok(match part {
            Part::Owner(Owner { uid, gid }) => {
                chownat(CWD, &path, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)), AtFlags::empty())
            }
            Part::Mode(mode) => chmodat(CWD, &path, Mode::from_raw_mode(*mode), AtFlags::empty()),
            Part::Context(context) => {
                setxattr(&path, SELINUX, context.to_string().as_bytes(), XattrFlags::empty())
            }
        }?)
    }

    fn append(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        tell("append to", path);
        let mut file = open(path, OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a file"));
        }
        file.write_all(data)
    }

    fn perform(&self, step: &Step, limit: Duration) -> io::Result<Outcome> {
        waiting(limit);
        child::perform(step, limit)
    }

    fn sleep(&self, time: Duration) {
        waiting(time);
        std::thread::sleep(time);
    }

    fn now(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        Duration::try_from(time).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
