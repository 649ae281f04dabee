//! The only code that touches the machine, under one root.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

pub mod child;
pub mod daemon;
pub mod holders;
pub mod journal;
pub mod lock;
pub mod see;
pub mod sysfs;
pub mod udev;

/// The machine: every path that we touch is below its root.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This machine.
    pub fn real() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// A machine whose `/sys`, `/run`, `/etc`, `/dev` and `/proc` lie in a directory.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// `relative` on this machine.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }
}

/// Opens a file that must not be a link, for this process alone. With `CREATE` it is made readable for all.
pub fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = openat(CWD, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?;
    Ok(File::from(file))
}

/// What went wrong with a file, in the words that the user sees: `cannot write "x" to /sys/…: Invalid argument
/// (EINVAL, 22)`.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {}", crate::words::errno(error))]
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
        Self { doing: format!("{verb} {}", path.display()), error: error.into() }
    }

    /// Whether the kernel's answer was this one.
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.error.raw_os_error() == Some(errno.raw_os_error())
    }
}
