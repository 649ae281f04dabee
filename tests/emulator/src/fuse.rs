//! The machine as a FUSE file system. What may change is never cached: what the kernel shows is what the machine
//! says now.

mod answer;
mod saved;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::call::{Call, Caller};
use crate::machine::{Machine, Todo};
use crate::netlink::Sender;
use answer::{Listing, Reply, list};

struct Shared {
    machine: Machine<Reply>,
    sender: Option<Sender>,
    listings: HashMap<u64, Listing>,
    next_listing: u64,
}

/// The file system, and what else acts on the machine.
#[derive(Clone)]
pub struct Emulator {
    shared: Arc<Mutex<Shared>>,
    changed: Arc<Condvar>,
    start: Instant,
}

/// What the machine answers through.
pub struct Builder(Machine<Reply>);

impl Builder {
    /// A machine that FUSE can drive.
    pub fn new(world: crate::model::World, log: crate::log::Log) -> Self {
        Self(Machine::new(world, log))
    }
}

impl Emulator {
    /// A file system; uevents go out through `sender`.
    pub fn new(Builder(machine): Builder, sender: Option<Sender>) -> Self {
        let shared = Shared { machine, sender, listings: HashMap::new(), next_listing: 0 };
        Self { shared: Arc::new(Mutex::new(shared)), changed: Arc::default(), start: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass, for ever; for a thread of its own.
    pub fn keep_time(&self) {
        let mut shared = self.lock();
        loop {
            shared.machine.tick(self.start.elapsed());
            shared.work();
            let due = shared.machine.due();
            let wait = due.map_or(Duration::from_secs(3600), |due| due.saturating_sub(self.start.elapsed()));
            shared = self.changed.wait_timeout(shared, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Does what a line of the control file says.
    pub fn control(&self, line: &str) -> Result<(), String> {
        let mut shared = self.lock();
        shared.machine.tick(self.start.elapsed());
        let done = shared.machine.control(line);
        shared.work();
        self.changed.notify_all();
        done
    }

    /// The log, from a weight on.
    pub fn log(&self, weight: crate::call::Weight) -> String {
        self.lock().machine.log(weight)
    }

    fn submit(&self, request: &Request, call: Call, reply: Reply) {
        let caller = Caller { pid: request.pid(), uid: request.uid(), gid: request.gid() };
        let mut shared = self.lock();
        shared.machine.tick(self.start.elapsed());
        let before = shared.machine.due();
        shared.machine.submit(caller, call, reply, || name_of(caller.pid));
        shared.work();
        if shared.machine.due() != before {
            self.changed.notify_all();
        }
    }
}

fn name_of(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

impl Shared {
    fn work(&mut self) {
        for todo in self.machine.todo() {
            match todo {
                Todo::Answer(reply, answer) => self.answer(reply, answer),
                // It may be gone already, which is as good.
                Todo::Kill(pid) => {
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                }
                Todo::Uevent(event) => {
                    if let Some(Err(error)) = self.sender.as_mut().map(|sender| sender.kernel(&event)) {
                        eprintln!("virt-mdev-emulator: cannot send a uevent: {error}");
                    }
                }
                Todo::Udev(event) => {
                    if let Some(Err(error)) = self.sender.as_mut().map(|sender| sender.udev(&event)) {
                        eprintln!("virt-mdev-emulator: cannot send udev's event: {error}");
                    }
                }
            }
        }
    }
}

fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

impl Filesystem for Emulator {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // O_TRUNC comes with the open, as the kernel's own file systems see it.
        let _ = config.add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC | InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, request: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.submit(request, Call::Lookup { dir: dir.0, name: text(name) }, Reply::Entry(reply));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.submit(request, Call::Getattr { ino: ino.0 }, Reply::Attr(reply));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _times_are_not_kept = (atime, mtime);
        self.submit(request, Call::Setattr { ino: ino.0, mode, uid, gid, size }, Reply::Attr(reply));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.submit(request, Call::Readlink { ino: ino.0 }, Reply::Data(reply));
    }

    fn mknod(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        self.submit(request, Call::Mknod { dir: dir.0, name: text(name), mode }, Reply::Entry(reply));
    }

    fn mkdir(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.submit(request, Call::Mkdir { dir: dir.0, name: text(name), mode }, Reply::Entry(reply));
    }

    fn unlink(&self, request: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.submit(request, Call::Unlink { dir: dir.0, name: text(name) }, Reply::Empty(reply));
    }

    fn rmdir(&self, request: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.submit(request, Call::Rmdir { dir: dir.0, name: text(name) }, Reply::Empty(reply));
    }

    fn symlink(&self, request: &Request, dir: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let call = Call::Symlink { dir: dir.0, name: text(name), target: text(target.as_os_str()) };
        self.submit(request, call, Reply::Entry(reply));
    }

    fn rename(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = flags.bits();
        let call = Call::Rename { dir: dir.0, name: text(name), to: to.0, new: text(new), flags };
        self.submit(request, call, Reply::Empty(reply));
    }

    fn link(&self, request: &Request, ino: INodeNo, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let call = Call::Link { ino: ino.0, dir: dir.0, name: text(name) };
        self.submit(request, call, Reply::Entry(reply));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.submit(request, Call::Open { ino: ino.0, flags: flags.0 }, Reply::Open(reply));
    }

    fn create(
        &self,
        request: &Request,
        dir: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let call = Call::Create { dir: dir.0, name: text(name), mode, flags };
        self.submit(request, call, Reply::Create(reply));
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.submit(request, Call::Read { ino: ino.0, handle: handle.0, offset, size }, Reply::Data(reply));
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let call = Call::Write { ino: ino.0, handle: handle.0, offset, data: data.to_vec() };
        self.submit(request, call, Reply::Write(reply));
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.submit(request, Call::Flush { ino: ino.0, handle: handle.0 }, Reply::Empty(reply));
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.submit(request, Call::Release { ino: ino.0, handle: handle.0 }, Reply::Empty(reply));
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.submit(request, Call::Fsync { ino: ino.0 }, Reply::Empty(reply));
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.submit(request, Call::Fsync { ino: ino.0 }, Reply::Empty(reply));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let mut shared = self.lock();
        shared.next_listing += 1;
        reply.opened(FileHandle(shared.next_listing), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        if offset > 0 {
            let listing = self.lock().listings.get(&handle.0).cloned().unwrap_or_default();
            list(&listing, offset, reply);
            return;
        }
        self.submit(request, Call::Readdir { ino: ino.0 }, Reply::Directory(reply, handle.0, ino.0));
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.lock().listings.remove(&handle.0);
        reply.ok();
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let call = Call::Setxattr { ino: ino.0, name: text(name), value: value.to_vec(), flags };
        self.submit(request, call, Reply::Empty(reply));
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let call = Call::Getxattr { ino: ino.0, name: text(name) };
        self.submit(request, call, Reply::Xattr(reply, size));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.submit(request, Call::Listxattr { ino: ino.0 }, Reply::Xattr(reply, size));
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.submit(request, Call::Removexattr { ino: ino.0, name: text(name) }, Reply::Empty(reply));
    }
}
