//! The only code that touches the machine, under one root.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::refusal::Refusal;
use crate::words::{errno, escaped, printable};

pub mod child;
pub mod daemon;
pub mod definitions;
pub mod holders;
pub mod journal;
pub mod libvirt;
pub mod machine;
pub mod node;
pub mod programs;
pub mod see;
pub mod signals;
pub mod systemd;
pub mod udev;
pub mod worker;

mod progress;
mod sysfs;

pub use machine::{Kind, Lock, Machine, Part, Written};

/// More than any attribute of one page has; a driver's text longer than this is cut.
const MAX_READ: u64 = 64 * 1024;

/// The machine: every path that we touch is below its root.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    machine: Arc<dyn Machine>,
    /// Whether a node may be opened to see whether somebody has it.
    opens: bool,
}

impl Host {
    /// This machine.
    pub fn real() -> Self {
        Self::at(Path::new("/"))
    }

    /// A machine whose `/sys`, `/run`, `/etc`, `/dev` and `/proc` lie in a directory.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), machine: Arc::new(machine::Real::default()), opens: true }
    }

    /// Another machine than this one, as in a test.
    pub fn on(machine: impl Machine + 'static) -> Self {
        Self { root: PathBuf::from("/"), machine: Arc::new(machine), opens: true }
    }

    /// The same machine for who only looks, without a domain's lock: no node is opened, since a QEMU that is about to
    /// open it would find it taken.
    pub fn looking(&self) -> Self {
        Self { opens: false, ..self.clone() }
    }

    /// `relative` on this machine.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The same machine for several looks, and writes, below one directory. For one visit only: if the directory goes and
    /// another comes in its place, this one shows nothing any more.
    pub fn near(&self, directory: &str) -> Self {
        let machine = self.machine.near(&self.path(directory)).unwrap_or_else(|| Arc::clone(&self.machine));
        Self { root: self.root.clone(), machine, opens: self.opens }
    }

    /// What the machine can be asked.
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// Time since boot.
    pub fn now(&self) -> Duration {
        self.machine.now()
    }

    /// Takes the lock `path`, or gives up after `limit`.
    pub fn lock(&self, path: &Path, limit: Duration) -> Result<Lock, Trouble> {
        self.machine.lock(path, limit).map_err(|error| {
            let error = match error.kind() {
                io::ErrorKind::TimedOut => io::Error::other(format!(
                    "another process has held it for {limit:?}; `fuser -v {}` names it",
                    path.display()
                )),
                _ => error,
            };
            Trouble::new("lock", path, error)
        })
    }
}

/// `write "1" to`, as in `write "1" to /sys/…`.
fn writing(data: &[u8]) -> String {
    format!("write \"{}\" to", printable(&String::from_utf8_lossy(data)))
}

/// What went wrong with a file, in the words that the user sees: `cannot write "x" to /sys/…: Invalid argument
/// (EINVAL, 22)`.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {}", errno(error))]
pub struct Trouble {
    /// Verb, data and path.
    pub doing: String,
    /// The kernel's answer.
    #[source]
    pub error: io::Error,
}

impl Trouble {
    /// `verb` and `path` failed with `error`.
    pub fn new(verb: &str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self { doing: format!("{verb} {}", escaped(&path.display().to_string())), error: error.into() }
    }

    /// Whether the kernel's answer was this one.
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.error.raw_os_error() == Some(errno.raw_os_error())
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        Self::Io { what: format!("cannot {}", trouble.doing), why: errno(&trouble.error) }
    }
}
