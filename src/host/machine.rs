//! The system calls that we make, as one interface: the machine itself, and in tests a machine in memory on which the
//! same code runs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::child::Outcome;
use crate::ids::Context;
use crate::labels::{Label, Owner};
use crate::step::Step;

pub(super) mod locks;
mod real;

pub use real::Real;

/// What stands at a path, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; an attribute, on sysfs.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A node, a pipe, a socket.
    Other,
}

/// What became of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The driver took it.
    Yes,
    /// It had that value already.
    Equal,
}

/// One part of a node's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Owner and group.
    Owner(&'a Owner),
    /// The bits of the mode that say who may do what.
    Mode(u32),
    /// The SELinux context.
    Context(&'a Context),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = match *self {
            Self::Owner(owner) => Label { owner: Some(owner.clone()), ..Label::default() },
            Self::Mode(mode) => Label { mode: Some(mode), ..Label::default() },
            Self::Context(context) => Label { context: Some(context.clone()), ..Label::default() },
        };
        label.fmt(f)
    }
}

/// A held lock; dropping it, or dying, lets it go.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _held: Box<dyn fmt::Debug>,
}

impl Lock {
    /// A lock that is held for as long as `held` lives.
    pub fn new(held: impl fmt::Debug + 'static) -> Self {
        Self { _held: Box::new(held) }
    }
}

/// What we ask of a machine. Paths are absolute.
pub trait Machine: fmt::Debug {
    /// The same machine, for looks at what lies below this directory and writes to it: the way to it is not gone again for
    /// each. `None` where it cannot be had, or makes no difference.
    fn near(&self, _directory: &Path) -> Option<Arc<dyn Machine>> {
        None
    }
    /// What stands there; `None` if nothing does.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;
    /// At most `limit` bytes of a file, links followed: sysfs is full of them.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Writes an attribute of the kernel's own: never created, never truncated, in one write.
    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()>;
    /// Writes an attribute below `device` whose name an outsider chose. No component of it may be a link; the last
    /// must be a regular file with a write bit. A value that is there already is not written again.
    fn write_attribute(&self, device: &Path, name: &str, data: &[u8]) -> io::Result<Written>;
    /// What a link says.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;
    /// Names in a directory, in no order.
    fn names(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory that all may read.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// At most `limit` bytes of a regular file that is no link.
    fn read_plain(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Reads a file of our own: a regular one, root's, no link, of at most `limit` bytes.
    fn read_own(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Replaces a file of our own whole, by way of `new` beside it.
    fn replace(&self, path: &Path, new: &Path, data: &[u8]) -> io::Result<()>;
    /// Makes a link, exclusively.
    fn link(&self, text: &str, path: &Path) -> io::Result<()>;
    /// Removes a file or a link.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a kernel lock on a file that is made if need be and never unlinked: whoever unlinks one lets two
    /// processes hold it at once. `TimedOut` when `limit` has passed.
    fn lock(&self, path: &Path, limit: Duration) -> io::Result<Lock>;
    /// Opens a node as its user would, and closes it at once.
    fn try_open(&self, node: &Path) -> io::Result<()>;
    /// What a node carries; without a context on a machine without SELinux.
    fn carried(&self, node: &Path) -> io::Result<Label>;
    /// Gives a node one part of a label.
    fn set(&self, node: &Path, part: &Part<'_>) -> io::Result<()>;
    /// Adds to the end of a file that is there.
    fn append(&self, path: &Path, data: &[u8]) -> io::Result<()>;
    /// Performs a step that may block, in a process that nobody waits for past the limit.
    fn perform(&self, step: &Step, limit: Duration) -> io::Result<Outcome>;
    /// Waits.
    fn sleep(&self, time: Duration);
    /// Time since the machine's boot, its sleep included: no clock that anybody sets.
    fn now(&self) -> Duration;
}
