//! The host: the emulator's model, and what the kernel keeps of processes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use virt_mdev::backend;
use virt_mdev::host::Host;
use virt_mdev::step::Step;
use virt_mdev_emulator::call::{Call, Caller, Done, Outcome};
use virt_mdev_emulator::model::{GET_DEVICE, World};
use virt_mdev_emulator::tree::{self, Ino, Tree};

use super::{Answers, Memory, OneStep, Op, Seen, Who};

/// Something that is deliberately wrong, for the proof that it would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Broken {
    #[default]
    Nothing,
    /// Locks are given to everybody.
    Locks,
    /// A link replaces the one that is there.
    Links,
    /// Every daemon looks dead.
    Daemons,
    /// Nobody has a node open.
    Nodes,
}

/// The host: the model, and what the kernel keeps of processes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sim {
    pub(crate) world: World,
    pub(crate) broken: Broken,
    pub(super) locks: BTreeMap<String, Who>,
    pub(super) probes: BTreeMap<(Who, String), (Ino, u64)>,
    /// Daemons that run, by pid.
    pub(crate) daemons: Vec<i32>,
    /// Whether others may act before a look at claims and devices, too.
    pub(crate) fine: bool,
}

/// Start time of every daemon here; their pids differ.
pub(crate) const START_TIME: u64 = 4711;

fn errno<T>(result: Result<T, Errno>, then: impl FnOnce(T) -> Seen) -> Seen {
    result.map_or_else(|errno| Seen::Failed(errno as i32), then)
}

/// Follows a path, and the links on it; the last one if `follow`.
pub(super) fn walk(tree: &Tree, path: &str, follow: bool) -> Result<Ino, Errno> {
    fn from(tree: &Tree, start: Ino, path: &str, follow: bool, left: u8) -> Result<Ino, Errno> {
        let mut at = start;
        let mut rest = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = rest.next() {
            let file = tree.get(at).ok_or(Errno::ENOENT)?;
            if name == ".." {
                at = file.parent;
                continue;
            }
            let tree::Kind::Dir(names) = &file.kind else { return Err(Errno::ENOTDIR) };
            let next = *names.get(name).ok_or(Errno::ENOENT)?;
            at = match &tree.get(next).ok_or(Errno::ENOENT)?.kind {
                tree::Kind::Link(text) if follow || rest.peek().is_some() => {
                    let left = left.checked_sub(1).ok_or(Errno::ELOOP)?;
                    let start = if text.starts_with('/') { tree::ROOT } else { at };
                    from(tree, start, text, true, left)?
                }
                _ => next,
            };
        }
        Ok(at)
    }
    from(tree, tree::ROOT, path, follow, 40)
}

fn kind(tree: &Tree, path: &str) -> u8 {
    match walk(tree, path, false).ok().and_then(|ino| tree.get(ino)).map(|file| &file.kind) {
        None => 0,
        Some(tree::Kind::File(_) | tree::Kind::Attribute(_)) => 1,
        Some(tree::Kind::Dir(_)) => 2,
        Some(tree::Kind::Link(_)) => 3,
        Some(tree::Kind::Node(_) | tree::Kind::Socket) => 4,
    }
}

/// Claims, and devices.
const CHANGING: [&str; 2] = ["/run/virt-mdev/devices/", "/sys/bus/mdev/devices/"];

/// The directory of a path, and the name in it.
fn parent<'a>(tree: &Tree, path: &'a str) -> Result<(Ino, &'a str), Errno> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((walk(tree, dir, true)?, name))
}

impl Sim {
    /// Whether others may act before the operation: it changes something that they can see; or it looks at a claim or a
    /// device, where that is wanted. Other looks are one with the step before them.
    pub(crate) fn is_effect(&self, op: &Op) -> bool {
        match op {
            Op::ReadLink(path) | Op::Kind(path) if CHANGING.iter().any(|place| path.starts_with(place)) => {
                self.fine
            }
            Op::Kind(_) | Op::Read { .. } | Op::ReadLink(_) | Op::Names(_) | Op::Open(_) => false,
            Op::Remove(path) => kind(&self.world.tree, path) != 0,
            Op::MakeDirectory(path) => kind(&self.world.tree, path) == 0,
            _ => true,
        }
    }

    /// Whether an operation that changes something makes no difference to anybody else: before such a one nobody else
    /// need be tried; its process may still die before and after it. That is a record that replaces one (whoever reads
    /// one without its lock looks again under it before it does anything), and an entry of the index for a domain whose
    /// record stands.
    pub(crate) fn is_private(&self, op: &Op) -> bool {
        let stands =
            |domain: &str| kind(&self.world.tree, &format!("/run/virt-mdev/domains/{domain}.json")) != 0;
        let (path, text) = match op {
            Op::Store { path, .. } => {
                let domain =
                    path.strip_prefix("/run/virt-mdev/domains/").and_then(|name| name.strip_suffix(".new"));
                return domain.is_some_and(stands);
            }
            Op::Link { text, path } => (path, text.clone()),
            Op::Remove(path) => (path, self.link(path)),
            Op::Rename { to, .. } => return to.ends_with(".json") && kind(&self.world.tree, to) != 0,
            _ => return false,
        };
        path.starts_with("/run/virt-mdev/by-name/") && stands(&text)
    }

    /// Does it. `None`: it must wait for a lock.
    pub(crate) fn act(&mut self, who: Who, op: &Op) -> Option<Seen> {
        if let Op::Lock(path) = op {
            return self.lock(who, path);
        }
        let seen = match op {
            Op::Perform(OneStep(step)) => self.perform(who, step),
            op => self.answer(who, op),
        };
        // Nobody here listens to uevents.
        self.world.out.clear();
        Some(seen)
    }

    fn lock(&mut self, who: Who, path: &str) -> Option<Seen> {
        if kind(&self.world.tree, path) == 0 {
            let made = self.call(|tree| {
                let (dir, name) = parent(tree, path)?;
                Ok(Call::Create { dir, name: name.to_owned(), mode: 0o644, flags: O_WRONLY })
            });
            match made {
                Ok(Done::Created(ino, handle)) => self.close(ino, handle),
                other => return Some(errno(other, |_| Seen::Nothing)),
            }
        }
        if self.broken == Broken::Locks {
            return Some(Seen::Nothing);
        }
        match self.locks.get(path) {
            Some(_) => None,
            None => {
                self.locks.insert(path.to_owned(), who);
                Some(Seen::Nothing)
            }
        }
    }

    pub(crate) fn has_lock(&self, who: Who, path: &str) -> bool {
        self.locks.get(path) == Some(&who)
    }

    pub(crate) fn unlock(&mut self, who: Who, path: &str) {
        if self.locks.get(path) == Some(&who) {
            self.locks.remove(path);
        }
    }

    /// The process ends, however that comes: the kernel closes what it had open.
    pub(crate) fn die(&mut self, who: Who) {
        self.locks.retain(|_, holder| *holder != who);
        let open: Vec<_> = self.probes.keys().filter(|(other, _)| *other == who).cloned().collect();
        for (_, path) in open {
            let _ = self.answer(who, &Op::Close(path));
        }
    }

    fn call(&mut self, call: impl FnOnce(&Tree) -> Result<Call, Errno>) -> Result<Done, Errno> {
        let call = call(&self.world.tree)?;
        match self.world.perform(Caller::default(), &call) {
            Outcome::Now(answer) => answer,
            Outcome::Later(_) | Outcome::Soon(_) => Err(Errno::EINPROGRESS),
        }
    }

    pub(crate) fn close(&mut self, ino: Ino, handle: u64) {
        let _ = self.call(|_| Ok(Call::Release { ino, handle }));
    }

    pub(crate) fn open(&mut self, path: &str, flags: i32, follow: bool) -> Result<(Ino, u64), Errno> {
        let ino = walk(&self.world.tree, path, follow)?;
        if !follow && matches!(self.world.tree.get(ino).map(|file| &file.kind), Some(tree::Kind::Link(_))) {
            return Err(Errno::ELOOP);
        }
        match self.call(|_| Ok(Call::Open { ino, flags }))? {
            Done::Opened(handle) => Ok((ino, handle)),
            _ => Err(Errno::EIO),
        }
    }

    /// Opens a node as QEMU does: the group, and the device in it.
    pub(crate) fn open_device(&mut self, path: &str) -> Result<(Ino, u64), Errno> {
        let (ino, handle) = self.open(path, O_RDWR, false)?;
        let data = GET_DEVICE.to_vec();
        self.call(|_| Ok(Call::Write { ino, handle, offset: 0, data }))?;
        Ok((ino, handle))
    }

    pub(super) fn read(&mut self, path: &str, limit: u64, follow: bool) -> Result<Vec<u8>, Errno> {
        if let Some(pid) = path.strip_prefix("/proc/").and_then(|path| path.strip_suffix("/stat")) {
            let alive = self.broken != Broken::Daemons
                && pid.parse().is_ok_and(|pid: i32| self.daemons.contains(&pid));
            let fields = "S 1 1 1 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0";
            return if alive {
                Ok(format!("{pid} (libvirtd) {fields} {START_TIME} 1000 10").into_bytes())
            } else {
                Err(Errno::ENOENT)
            };
        }
        let (ino, handle) = self.open(path, O_RDONLY, follow)?;
        self.read_open(ino, handle, limit)
    }

    /// What an attribute says now, by its number: a page of it, as registers may be megabytes.
    #[allow(dead_code)] // only the laws look at every file there is
    pub(crate) fn attribute_at(&mut self, ino: Ino) -> Option<String> {
        let Ok(Done::Opened(handle)) = self.call(|_| Ok(Call::Open { ino, flags: O_RDONLY })) else {
            return None;
        };
        let data = self.read_open(ino, handle, 4096).ok()?;
        Some(String::from_utf8_lossy(&data).into_owned())
    }

    fn read_open(&mut self, ino: Ino, handle: u64, limit: u64) -> Result<Vec<u8>, Errno> {
        let size = u32::try_from(limit).unwrap_or(u32::MAX);
        let answer = self.call(|_| Ok(Call::Read { ino, handle, offset: 0, size }));
        self.close(ino, handle);
        match answer? {
            Done::Data(data) => Ok(data),
            _ => Err(Errno::EIO),
        }
    }

    pub(super) fn write(&mut self, path: &str, flags: i32, data: &[u8]) -> Result<(), Errno> {
        let (ino, handle) = self.open(path, flags, false)?;
        let data = data.to_vec();
        let answer = self.call(|_| Ok(Call::Write { ino, handle, offset: 0, data }));
        self.close(ino, handle);
        answer.map(drop)
    }

    fn write_attribute(&mut self, device: &str, name: &str, data: &[u8]) -> Seen {
        let path = format!("{device}/{name}");
        let mut at = device.to_owned();
        for component in name.split('/') {
            at = format!("{at}/{component}");
            if kind(&self.world.tree, &at) == 3 {
                return Seen::Odd("a symbolic link is not an attribute of the device");
            }
        }
        let mode = match walk(&self.world.tree, &path, false) {
            Ok(ino) if kind(&self.world.tree, &path) == 1 => {
                self.world.tree.get(ino).map_or(0, |file| file.mode)
            }
            Ok(_) => return Seen::Odd("it is not a file"),
            Err(errno) => return Seen::Failed(errno as i32),
        };
        if mode & 0o222 == 0 {
            return Seen::Odd("the driver offers it for reading only");
        }
        if self.read(&path, 1 << 16, false).is_ok_and(|now| now.trim_ascii_end() == data.trim_ascii_end()) {
            return Seen::Equal;
        }
        errno(self.write(&path, O_WRONLY, data), |()| Seen::Nothing)
    }

    fn answer(&mut self, who: Who, op: &Op) -> Seen {
        let data = |done| match done {
            Done::Data(data) => Seen::Text(String::from_utf8(data).unwrap()),
            Done::Names(names) => Seen::Names(names.into_iter().map(|(name, _)| name).collect()),
            _ => Seen::Nothing,
        };
        match op {
            Op::Kind(path) => Seen::Kind(kind(&self.world.tree, path)),
            Op::Read { path, limit, follow } => errno(self.read(path, *limit, *follow), Seen::Bytes),
            Op::ReadLink(path) => {
                let answer = self.call(|tree| Ok(Call::Readlink { ino: walk(tree, path, false)? }));
                errno(answer, data)
            }
            Op::Names(path) => {
                errno(self.call(|tree| Ok(Call::Readdir { ino: walk(tree, path, true)? })), data)
            }
            Op::Write { path, data } => errno(self.write(path, O_WRONLY, data), |()| Seen::Nothing),
            Op::Attribute { device, name, data } => self.write_attribute(device, name, data),
            Op::MakeDirectory(path) => {
                let answer = self.call(|tree| {
                    let (dir, name) = parent(tree, path)?;
                    Ok(Call::Mkdir { dir, name: name.to_owned(), mode: 0o755 })
                });
                errno(answer, |_| Seen::Nothing)
            }
            Op::Store { path, data } => {
                if kind(&self.world.tree, path) != 0 {
                    return errno(self.write(path, O_WRONLY | O_TRUNC, data), |()| Seen::Nothing);
                }
                let made = self.call(|tree| {
                    let (dir, name) = parent(tree, path)?;
                    Ok(Call::Create { dir, name: name.to_owned(), mode: 0o644, flags: O_WRONLY })
                });
                errno(made, |done| {
                    let Done::Created(ino, handle) = done else { return Seen::Nothing };
                    let data = data.clone();
                    let answer = self.call(|_| Ok(Call::Write { ino, handle, offset: 0, data }));
                    self.close(ino, handle);
                    errno(answer, |_| Seen::Nothing)
                })
            }
            Op::Link { text, path } => {
                if self.broken == Broken::Links && kind(&self.world.tree, path) == 3 {
                    let _ = self.answer(who, &Op::Remove(path.clone()));
                }
                let answer = self.call(|tree| {
                    let (dir, name) = parent(tree, path)?;
                    Ok(Call::Symlink { dir, name: name.to_owned(), target: text.clone() })
                });
                errno(answer, |_| Seen::Nothing)
            }
            Op::Remove(path) => {
                let answer = self.call(|tree| {
                    let (dir, name) = parent(tree, path)?;
                    Ok(Call::Unlink { dir, name: name.to_owned() })
                });
                errno(answer, |_| Seen::Nothing)
            }
            Op::Rename { from, to } => {
                let answer = self.call(|tree| {
                    let ((dir, name), (to, new)) = (parent(tree, from)?, parent(tree, to)?);
                    let (name, new) = (name.to_owned(), new.to_owned());
                    Ok(Call::Rename { dir, name, to, new, flags: 0 })
                });
                errno(answer, |_| Seen::Nothing)
            }
            Op::Open(path) => match self.open(path, O_RDWR, false) {
                Err(Errno::EBUSY) if self.broken == Broken::Nodes => Seen::Nothing,
                Err(errno) => Seen::Failed(errno as i32),
                Ok(open) => {
                    self.probes.insert((who, path.clone()), open);
                    Seen::Nothing
                }
            },
            Op::Close(path) => {
                if let Some((ino, handle)) = self.probes.remove(&(who, path.clone())) {
                    self.close(ino, handle);
                }
                Seen::Nothing
            }
            Op::Lock(_) | Op::Perform(_) => Seen::Nothing,
        }
    }

    /// What the child does (`virt_mdev::host::child`), at once. A write that does not return has begun its removal.
    fn perform(&mut self, who: Who, step: &Step) -> Seen {
        let inner = Rc::new(Direct::new(std::mem::take(self), who));
        let host = Host::on(Memory::new(&inner));
        let done = match step {
            Step::Destroy { device, place } => backend::destroy(&host, device, place),
            Step::Offline { device } => backend::set_online(&host, device, false),
            other => panic!("{other} is not for a child"),
        };
        *self = inner.sim.take();
        done.map_or_else(
            |trouble| Seen::Failed(trouble.error.raw_os_error().unwrap_or(5)),
            |()| Seen::Nothing,
        )
    }
}

/// The model answers at once.
pub(crate) struct Direct {
    pub(crate) sim: RefCell<Sim>,
    who: Who,
}

impl Direct {
    pub(crate) fn new(sim: Sim, who: Who) -> Self {
        Self { sim: RefCell::new(sim), who }
    }
}

impl Answers for Direct {
    fn ask(&self, op: Op) -> Seen {
        // Alone on the host, nobody waits for a lock for long.
        self.sim.borrow_mut().act(self.who, &op).unwrap_or(Seen::Failed(Errno::EWOULDBLOCK as i32))
    }

    fn unlock(&self, path: &str) {
        self.sim.borrow_mut().unlock(self.who, path);
    }

    fn slept(&self, time: Duration) {
        let mut sim = self.sim.borrow_mut();
        let now = sim.world.now + time;
        sim.world.tick(now);
        sim.world.out.clear();
    }
}

/// Runs shipped code on a host, with nobody else there.
pub(crate) fn alone<T>(sim: &mut Sim, who: Who, run: impl FnOnce(&Host) -> T) -> T {
    let direct = Rc::new(Direct::new(std::mem::take(sim), who));
    let result = run(&Host::on(Memory::new(&direct)));
    *sim = direct.sim.take();
    result
}
