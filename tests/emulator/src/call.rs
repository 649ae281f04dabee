//! What a process asks the file system for, and what it is answered: the door between FUSE and the model, so that
//! the model can be driven without FUSE.

use nix::errno::Errno;

use crate::tree::Ino;

/// Who asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// Thread that asks.
    pub pid: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A request.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the fields are the arguments of the system calls
pub enum Call {
    Lookup { dir: Ino, name: String },
    Getattr { ino: Ino },
    Setattr { ino: Ino, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64> },
    Readlink { ino: Ino },
    Readdir { ino: Ino },
    Open { ino: Ino, flags: i32 },
    Create { dir: Ino, name: String, mode: u32, flags: i32 },
    Read { ino: Ino, handle: u64, offset: u64, size: u32 },
    Write { ino: Ino, handle: u64, offset: u64, data: Vec<u8> },
    Flush { ino: Ino, handle: u64 },
    Release { ino: Ino, handle: u64 },
    Mknod { dir: Ino, name: String, mode: u32 },
    Mkdir { dir: Ino, name: String, mode: u32 },
    Symlink { dir: Ino, name: String, target: String },
    Link { ino: Ino, dir: Ino, name: String },
    Unlink { dir: Ino, name: String },
    Rmdir { dir: Ino, name: String },
    Rename { dir: Ino, name: String, to: Ino, new: String, flags: u32 },
    Setxattr { ino: Ino, name: String, value: Vec<u8>, flags: i32 },
    Getxattr { ino: Ino, name: String },
    Listxattr { ino: Ino },
    Removexattr { ino: Ino, name: String },
    Fsync { ino: Ino },
}

/// An answer other than an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// A file by its number: of `lookup`, `getattr` and what makes files.
    File(Ino),
    /// A file that has been made and opened.
    Created(Ino, u64),
    /// A handle.
    Opened(u64),
    /// Bytes.
    Data(Vec<u8>),
    /// How many bytes were taken.
    Written(usize),
    /// Names in a directory.
    Names(Vec<(String, Ino)>),
    /// Nothing to tell.
    Nothing,
}

/// Of a request whose answer comes later.
pub type Ticket = u64;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Now(Result<Done, Errno>),
    /// The answer comes when the model says so.
    Later(Ticket),
    /// It comes in a moment; a process of the real host would not have noticed.
    Soon(Ticket),
}

/// How much a request matters to a reader of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Lookups, listings, closes: only in `trace`.
    Noise,
    /// Attributes read, nodes opened: in `log`.
    Read,
    /// Changes something, or tried to: in `effects`.
    Effect,
}

impl Call {
    /// The request's name: in the log, and in faults.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "lookup",
            Self::Getattr { .. } => "getattr",
            // One request of FUSE for four of the kernel. Whoever takes bits away with the owner's change or the size's,
            // as the kernel does, has asked for that change.
            Self::Setattr { uid: None, gid: None, size: None, mode: Some(_), .. } => "chmod",
            Self::Setattr { uid: None, gid: None, size: Some(_), .. } => "truncate",
            Self::Setattr { uid: None, gid: None, .. } => "utimens",
            Self::Setattr { .. } => "chown",
            Self::Readlink { .. } => "readlink",
            Self::Readdir { .. } => "readdir",
            Self::Open { .. } => "open",
            Self::Create { .. } => "create",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Flush { .. } => "flush",
            Self::Release { .. } => "close",
            Self::Mknod { .. } => "mknod",
            Self::Mkdir { .. } => "mkdir",
            Self::Symlink { .. } => "symlink",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Rmdir { .. } => "rmdir",
            Self::Rename { .. } => "rename",
            Self::Setxattr { .. } => "setxattr",
            Self::Getxattr { .. } => "getxattr",
            Self::Listxattr { .. } => "listxattr",
            Self::Removexattr { .. } => "removexattr",
            Self::Fsync { .. } => "fsync",
        }
    }

    /// The file that it is about, or the directory and the name in it.
    pub fn place(&self) -> (Ino, Option<&str>) {
        match self {
            Self::Lookup { dir, name }
            | Self::Create { dir, name, .. }
            | Self::Mknod { dir, name, .. }
            | Self::Mkdir { dir, name, .. }
            | Self::Symlink { dir, name, .. }
            | Self::Link { dir, name, .. }
            | Self::Unlink { dir, name }
            | Self::Rmdir { dir, name }
            | Self::Rename { dir, name, .. } => (*dir, Some(name)),
            Self::Getattr { ino }
            | Self::Setattr { ino, .. }
            | Self::Readlink { ino }
            | Self::Readdir { ino }
            | Self::Open { ino, .. }
            | Self::Read { ino, .. }
            | Self::Write { ino, .. }
            | Self::Flush { ino, .. }
            | Self::Release { ino, .. }
            | Self::Setxattr { ino, .. }
            | Self::Getxattr { ino, .. }
            | Self::Listxattr { ino }
            | Self::Removexattr { ino, .. }
            | Self::Fsync { ino } => (*ino, None),
        }
    }
}
