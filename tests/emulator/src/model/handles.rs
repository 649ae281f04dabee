//! Open files, and the nodes that only one may have open.

use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{O_ACCMODE, O_RDONLY, O_TRUNC, O_WRONLY};

use super::World;
use crate::call::{Caller, Done, Ticket};
use crate::tree::{Ino, Kind, Node};

/// An open file.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) flags: i32,
    /// What an attribute gave when it was read from its beginning: later parts belong to that.
    pub(super) shown: Option<Vec<u8>>,
    node: Option<Node>,
    pub(super) uses: bool,
    pid: u32,
    /// Where the file was when it was opened: it may be nowhere by now.
    path: String,
    /// When a descriptor of it was closed, perhaps the last.
    pub(super) flushed: Option<Duration>,
}

impl Handle {
    /// Whether its user has a node open, and has not closed it.
    pub(super) fn holds_node(&self) -> bool {
        self.node.is_some() && self.flushed.is_none()
    }
}

/// An open that waits for the close of another.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    ticket: Ticket,
    caller: Caller,
    ino: Ino,
    flags: i32,
    node: Node,
    until: Duration,
}

/// How long FUSE may take to tell of the last close: it does so after `close` has returned, the kernel before.
const CLOSING: Duration = Duration::from_millis(30);

impl World {
    pub(super) fn open(&mut self, caller: Caller, ino: Ino, flags: i32) -> Result<u64, Errno> {
        let file = self.file_mut(ino)?;
        let (reads, writes) = (flags & O_ACCMODE != O_WRONLY, flags & O_ACCMODE != O_RDONLY);
        let mut node = None;
        match &mut file.kind {
            // `KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK`: the mode counts for root, too.
            Kind::Attribute(_) => {
                if (reads && file.mode & 0o444 == 0) || (writes && file.mode & 0o222 == 0) {
                    return Err(Errno::EACCES);
                }
            }
            Kind::File(data) => {
                if flags & O_TRUNC != 0 && writes {
                    data.clear();
                }
            }
            Kind::Node(which) => node = Some(*which),
            Kind::Socket => return Err(Errno::ENXIO),
            Kind::Dir(_) | Kind::Link(_) => return Err(Errno::EISDIR),
        }
        file.opens += 1;
        let mut uses = false;
        if let Some(node) = node {
            uses = self.open_node(node).inspect_err(|_| {
                if let Some(file) = self.tree.get_mut(ino) {
                    file.opens -= 1;
                }
            })?;
        }
        let handle = self.number();
        let path = self.tree.path(ino);
        let open = Handle { flags, shown: None, node, uses, pid: caller.pid, path, flushed: None };
        self.handles.insert(handle, open);
        Ok(handle)
    }

    pub(super) fn close(&mut self, ino: Ino, handle: u64) {
        let Some(handle) = self.handles.remove(&handle) else { return };
        if let Some(file) = self.tree.get_mut(ino) {
            file.opens = file.opens.saturating_sub(1);
        }
        self.tree.forget(ino);
        if let Some(node) = handle.node {
            self.close_node(node, handle.uses);
            self.open_now(Some(node));
        }
    }

    /// Where the node is being closed right now, an open waits for that.
    pub(super) fn open_soon(&mut self, caller: Caller, ino: Ino, flags: i32) -> Option<Ticket> {
        let Kind::Node(node) = self.tree.get(ino)?.kind else { return None };
        let flushed = self.handles.values().filter(|handle| handle.node == Some(node));
        let until = flushed.filter_map(|handle| handle.flushed).max()? + CLOSING;
        if until <= self.now {
            return None;
        }
        let ticket = self.number();
        self.openings.push(Opening { ticket, caller, ino, flags, node, until });
        self.after(until - self.now, super::Timer::Open);
        Some(ticket)
    }

    /// Answers the opens that need not wait any more.
    pub(super) fn open_now(&mut self, closed: Option<Node>) {
        let now = self.now;
        let ready = |opening: &mut Opening| closed == Some(opening.node) || opening.until <= now;
        let ready: Vec<Opening> = self.openings.extract_if(.., ready).collect();
        for opening in ready {
            let answer = self.open(opening.caller, opening.ino, opening.flags).map(Done::Opened);
            self.out.push(super::Effect::Answer(opening.ticket, answer));
        }
    }

    /// Whether a handle is of a VFIO node.
    pub fn is_node(&self, handle: u64) -> bool {
        self.handles.get(&handle).is_some_and(|handle| handle.node.is_some())
    }

    /// Where the file of a handle was; for the log.
    pub fn path_of(&self, handle: u64) -> Option<String> {
        self.handles.get(&handle).map(|handle| handle.path.clone())
    }

    /// Who has a node open.
    pub(super) fn openers(&self, node: Node) -> Vec<u32> {
        self.handles.values().filter(|handle| handle.node == Some(node)).map(|handle| handle.pid).collect()
    }
}
