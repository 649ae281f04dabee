//! Requests on files: what sysfs answers (`fs/kernfs`, each errno tried on Linux 6.18), and what any file system in
//! memory answers for the private directories.

use std::collections::BTreeMap;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::libc::O_APPEND;

use super::World;
use super::attributes::{PAGE, Written};
use crate::call::{Call, Caller, Done, Outcome};
use crate::tree::{File, Ino, Kind};

/// What writing this to an open group stands for: `VFIO_GROUP_GET_DEVICE_FD`, which needs a real device.
pub const GET_DEVICE: &[u8] = b"GET_DEVICE_FD";

/// `RENAME_NOREPLACE`; the other flags are not supported.
const NO_REPLACE: u32 = 1;

impl World {
    /// Whether a file is the kernel's: nobody makes or removes files there.
    pub fn is_sysfs(&self, ino: Ino) -> bool {
        let path = self.tree.path(ino);
        path == "/sys" || path.starts_with("/sys/")
    }

    /// Answers a request.
    pub fn perform(&mut self, caller: Caller, call: &Call) -> Outcome {
        if let Call::Write { ino, handle, offset, data } = call {
            return match self.write(*ino, *handle, *offset, data) {
                Ok((Written::Whole, taken)) => Outcome::Now(Ok(Done::Written(taken))),
                Ok((Written::Later(ticket), _)) => Outcome::Later(ticket),
                Err(errno) => Outcome::Now(Err(errno)),
            };
        }
        let answer = self.answer(caller, call);
        if let (Call::Open { ino, flags }, Err(Errno::EBUSY)) = (call, &answer)
            && let Some(ticket) = self.open_soon(caller, *ino, *flags)
        {
            return Outcome::Soon(ticket);
        }
        Outcome::Now(answer)
    }

    fn answer(&mut self, caller: Caller, call: &Call) -> Result<Done, Errno> {
        match call {
            Call::Lookup { dir, name } => self.tree.child(*dir, name).map(Done::File).ok_or(Errno::ENOENT),
            Call::Getattr { ino } => self.file(*ino).map(|_| Done::File(*ino)),
            Call::Readlink { ino } => match &self.file(*ino)?.kind {
                Kind::Link(target) => Ok(Done::Data(target.clone().into_bytes())),
                _ => Err(Errno::EINVAL),
            },
            Call::Readdir { ino } => match &self.file(*ino)?.kind {
                Kind::Dir(names) => {
                    Ok(Done::Names(names.iter().map(|(name, ino)| (name.clone(), *ino)).collect()))
                }
                _ => Err(Errno::ENOTDIR),
            },
            Call::Setattr { ino, mode, uid, gid, size } => self.setattr(*ino, *mode, *uid, *gid, *size),
            Call::Open { ino, flags } => self.open(caller, *ino, *flags).map(Done::Opened),
            Call::Read { ino, handle, offset, size } => self.read(*ino, *handle, *offset, *size),
            Call::Flush { handle, .. } => {
                if let Some(handle) = self.handles.get_mut(handle) {
                    handle.flushed = Some(self.now);
                }
                Ok(Done::Nothing)
            }
            Call::Release { ino, handle } => {
                self.close(*ino, *handle);
                Ok(Done::Nothing)
            }
            Call::Getxattr { ino, name } => self.xattr(*ino, name).map(Done::Data),
            Call::Listxattr { ino } => self.xattrs(*ino).map(Done::Data),
            Call::Setxattr { ino, name, value, flags } => {
                self.set_xattr(*ino, name, value, *flags).map(|()| Done::Nothing)
            }
            Call::Removexattr { ino, name } => self.remove_xattr(*ino, name).map(|()| Done::Nothing),
            Call::Fsync { .. } => Ok(Done::Nothing),
            Call::Write { .. } => Err(Errno::EIO),
            _ => self.change(caller, call),
        }
    }

    /// Requests that make, move or remove names.
    fn change(&mut self, caller: Caller, call: &Call) -> Result<Done, Errno> {
        let (dir, name) = call.place();
        let (Kind::Dir(_), Some(name)) = (&self.file(dir)?.kind, name) else { return Err(Errno::ENOTDIR) };
        let there = self.tree.child(dir, name);
        let sysfs = self.is_sysfs(dir);
        let makes = |mode| (!sysfs).then_some(mode).ok_or(Errno::EPERM);
        let fresh = || if there.is_some() { Err(Errno::EEXIST) } else { Ok(()) };
        match call {
            Call::Create { mode, flags, .. } => {
                fresh()?;
                // A directory of sysfs has no operation to make a file with (`lookup_open`).
                let mode = makes(*mode).map_err(|_| Errno::EACCES)?;
                let ino = self.make(caller, dir, name, Kind::File(Vec::new()), mode);
                self.open(caller, ino, *flags).map(|handle| Done::Created(ino, handle))
            }
            Call::Mknod { mode, .. } => {
                fresh()?;
                let kind = match makes(*mode)? & nix::libc::S_IFMT {
                    nix::libc::S_IFREG | 0 => Kind::File(Vec::new()),
                    nix::libc::S_IFSOCK => Kind::Socket,
                    _ => return Err(Errno::EPERM),
                };
                Ok(Done::File(self.make(caller, dir, name, kind, *mode)))
            }
            Call::Mkdir { mode, .. } => {
                fresh()?;
                let mode = makes(*mode)?;
                Ok(Done::File(self.make(caller, dir, name, Kind::Dir(BTreeMap::new()), mode)))
            }
            Call::Symlink { target, .. } => {
                fresh()?;
                let mode = makes(0o777)?;
                Ok(Done::File(self.make(caller, dir, name, Kind::Link(target.clone()), mode)))
            }
            Call::Link { ino, .. } => {
                fresh()?;
                makes(0)?;
                self.file(*ino)?;
                self.tree.link(*ino, dir, name);
                Ok(Done::File(*ino))
            }
            Call::Unlink { .. } | Call::Rmdir { .. } => {
                let ino = there.ok_or(Errno::ENOENT)?;
                makes(0)?;
                match (&self.file(ino)?.kind, matches!(call, Call::Rmdir { .. })) {
                    (Kind::Dir(names), true) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                    (Kind::Dir(_), false) => return Err(Errno::EISDIR),
                    (Kind::Dir(_), true) => {}
                    (_, true) => return Err(Errno::ENOTDIR),
                    (_, false) => {}
                }
                self.tree.unlink(dir, name);
                Ok(Done::Nothing)
            }
            Call::Rename { to, new, flags, .. } => {
                let ino = there.ok_or(Errno::ENOENT)?;
                makes(0)?;
                self.rename((dir, name, ino), *to, new, *flags)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn rename(
        &mut self,
        (dir, name, ino): (Ino, &str, Ino),
        to: Ino,
        new: &str,
        flags: u32,
    ) -> Result<Done, Errno> {
        if flags & !NO_REPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        if self.is_sysfs(to) {
            return Err(Errno::EPERM);
        }
        if let Some(old) = self.tree.child(to, new) {
            if flags & NO_REPLACE != 0 {
                return Err(Errno::EEXIST);
            }
            match (&self.file(ino)?.kind, &self.file(old)?.kind) {
                (Kind::Dir(_), Kind::Dir(names)) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
                (Kind::Dir(_), Kind::Dir(_)) => {}
                (Kind::Dir(_), _) => return Err(Errno::ENOTDIR),
                (_, Kind::Dir(_)) => return Err(Errno::EISDIR),
                _ => {}
            }
        }
        self.tree.rename(dir, name, to, new);
        Ok(Done::Nothing)
    }

    fn make(&mut self, caller: Caller, dir: Ino, name: &str, kind: Kind, mode: u32) -> Ino {
        let ino = self.tree.put(dir, name, kind, mode & 0o7777);
        if let Some(file) = self.tree.get_mut(ino) {
            file.uid = caller.uid;
            file.gid = caller.gid;
        }
        ino
    }

    pub(super) fn file(&self, ino: Ino) -> Result<&File, Errno> {
        self.tree.get(ino).ok_or(Errno::ENOENT)
    }

    pub(super) fn file_mut(&mut self, ino: Ino) -> Result<&mut File, Errno> {
        self.tree.get_mut(ino).ok_or(Errno::ENOENT)
    }

    fn setattr(
        &mut self,
        ino: Ino,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
    ) -> Result<Done, Errno> {
        let file = self.file_mut(ino)?;
        file.mode = mode.map_or(file.mode, |mode| mode & 0o7777);
        file.uid = uid.unwrap_or(file.uid);
        file.gid = gid.unwrap_or(file.gid);
        // sysfs takes a change of size and does nothing.
        if let (Some(size), Kind::File(data)) = (size, &mut file.kind) {
            data.resize(usize::try_from(size).map_err(|_| Errno::EFBIG)?, 0);
        }
        file.changed = SystemTime::now();
        Ok(Done::File(ino))
    }

    fn read(&mut self, ino: Ino, handle: u64, offset: u64, size: u32) -> Result<Done, Errno> {
        // The handle outlives the attribute, which is then `ENODEV` (`kernfs_get_active`).
        let file = self.tree.get(ino).ok_or(Errno::ENODEV)?;
        if file.links == 0 && matches!(file.kind, Kind::Attribute(_)) {
            return Err(Errno::ENODEV);
        }
        let part = |data: &[u8]| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            let end = start.saturating_add(size as usize).min(data.len());
            Done::Data(data.get(start..end).unwrap_or_default().to_vec())
        };
        match &file.kind {
            Kind::File(data) => Ok(part(data)),
            Kind::Attribute(attribute) => {
                let attribute = attribute.clone();
                let shown = self.handles.get(&handle).and_then(|handle| handle.shown.clone());
                let data = match shown.filter(|_| offset > 0) {
                    Some(data) => data,
                    None => self.show(&attribute)?,
                };
                let answer = part(&data);
                if let Some(handle) = self.handles.get_mut(&handle) {
                    handle.shown = Some(data);
                }
                Ok(answer)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn write(&mut self, ino: Ino, handle: u64, offset: u64, data: &[u8]) -> Result<(Written, usize), Errno> {
        let flags = self.handles.get(&handle).map_or(0, |handle| handle.flags);
        let file = self.tree.get_mut(ino).ok_or(Errno::ENODEV)?;
        if file.links == 0 && matches!(file.kind, Kind::Attribute(_)) {
            return Err(Errno::ENODEV);
        }
        match &mut file.kind {
            Kind::File(content) => {
                let start = if flags & O_APPEND != 0 {
                    content.len()
                } else {
                    usize::try_from(offset).map_err(|_| Errno::EFBIG)?
                };
                content.resize(content.len().max(start + data.len()), 0);
                content.splice(start..start + data.len(), data.iter().copied());
                file.changed = SystemTime::now();
                Ok((Written::Whole, data.len()))
            }
            Kind::Attribute(attribute) => {
                // Each write is one whole value wherever it is in the file, and a page is the most there is.
                let attribute = attribute.clone();
                let value = data.get(..PAGE).unwrap_or(data);
                if let super::Attribute::Stored(_) = attribute {
                    let text = String::from_utf8_lossy(value).trim_end_matches('\n').to_owned() + "\n";
                    file.kind = Kind::Attribute(super::Attribute::Stored(text));
                    return Ok((Written::Whole, value.len()));
                }
                self.store(&attribute, value).map(|written| (written, value.len()))
            }
            Kind::Node(node) => {
                let node = *node;
                let open = self.handles.get_mut(&handle).ok_or(Errno::EBADF)?;
                if data.trim_ascii() != GET_DEVICE || open.uses {
                    return Err(Errno::EINVAL);
                }
                open.uses = true;
                self.use_device(node)?;
                Ok((Written::Whole, data.len()))
            }
            _ => Err(Errno::EINVAL),
        }
    }
}
