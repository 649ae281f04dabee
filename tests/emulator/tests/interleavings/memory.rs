//! The shipped code's machine, in memory: each system call of [`virt_mdev::host::Machine`] is one or two operations
//! on the emulator's model. Who answers an operation, the model at once or a log of what it said before, is the
//! business of an [`Answers`].

use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use virt_mdev::host::child::Outcome as Performed;
use virt_mdev::host::{Kind, Lock, Machine, Part, Written};
use virt_mdev::labels::Label;
use virt_mdev::step::Step;

mod look;
mod sim;

#[allow(unused_imports)] // the laws compare whole hosts, not hashes, and break nothing
pub(crate) use look::Wide;
#[allow(unused_imports)]
pub(crate) use sim::{Broken, START_TIME, Sim, alone};

/// A process: who holds locks and has nodes open.
pub(crate) type Who = u8;

/// One operation. Those that change nothing are told from the others by [`Sim::is_effect`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Kind(String),
    Read {
        path: String,
        limit: u64,
        follow: bool,
    },
    ReadLink(String),
    Names(String),
    Write {
        path: String,
        data: Vec<u8>,
    },
    Attribute {
        device: String,
        name: String,
        data: Vec<u8>,
    },
    MakeDirectory(String),
    /// The first half of replacing a file.
    Store {
        path: String,
        data: Vec<u8>,
    },
    Link {
        text: String,
        path: String,
    },
    Remove(String),
    Rename {
        from: String,
        to: String,
    },
    Lock(String),
    Open(String),
    Close(String),
    Perform(OneStep),
}

/// A step, compared by its words.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct OneStep(pub Step);

impl Hash for OneStep {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_string().hash(state);
    }
}

impl fmt::Debug for OneStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        match self {
            Self::Kind(path) => write!(f, "look at {path}"),
            Self::Read { path, .. } => write!(f, "read {path}"),
            Self::ReadLink(path) => write!(f, "read the link {path}"),
            Self::Names(path) => write!(f, "list {path}"),
            Self::Write { path, data } => write!(f, "write {:?} to {path}", text(data)),
            Self::Attribute { device, name, data } => write!(f, "write {:?} to {device}/{name}", text(data)),
            Self::MakeDirectory(path) => write!(f, "make the directory {path}"),
            Self::Store { path, data } => write!(f, "store {path}: {}", text(data)),
            Self::Link { text, path } => write!(f, "link {path} -> {text}"),
            Self::Remove(path) => write!(f, "unlink {path}"),
            Self::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Self::Lock(path) => write!(f, "lock {path}"),
            Self::Open(path) => write!(f, "open {path}"),
            Self::Close(path) => write!(f, "close {path}"),
            Self::Perform(step) => write!(f, "perform: {}", step.0),
        }
    }
}

/// What an operation was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Seen {
    Nothing,
    Equal,
    /// 0 nothing, 1 file, 2 directory, 3 link, 4 other.
    Kind(u8),
    Bytes(Vec<u8>),
    Text(String),
    Names(Vec<String>),
    Failed(i32),
    Odd(&'static str),
}

/// Answers operations.
pub(crate) trait Answers {
    fn ask(&self, op: Op) -> Seen;
    fn unlock(&self, path: &str);
    /// Time passes while the process sleeps.
    fn slept(&self, time: Duration);
}

/// What a process sees of the directories of records: reconcile has no memory, but for its words, from one domain to
/// the next, and so its way through one domain can be run as a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum View {
    /// All there is.
    Whole,
    /// The record of one domain.
    Domain(&'static str),
    /// What has no record.
    Strays,
}

/// The machine of one process.
pub(crate) struct Memory<A> {
    answers: Rc<A>,
    now: Cell<Duration>,
    view: View,
}

impl<A: Answers> Memory<A> {
    pub(crate) fn new(answers: &Rc<A>) -> Self {
        Self::seeing(answers, View::Whole)
    }

    pub(crate) fn seeing(answers: &Rc<A>, view: View) -> Self {
        Self { answers: answers.clone(), now: Cell::new(Duration::from_secs(100)), view }
    }

    fn ask(&self, op: Op) -> io::Result<Seen> {
        match self.answers.ask(op) {
            Seen::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
            Seen::Odd(why) => Err(io::Error::other(why)),
            seen => Ok(seen),
        }
    }
}

impl<A> fmt::Debug for Memory<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

struct Held<A: Answers> {
    answers: Rc<A>,
    path: String,
}

impl<A: Answers> fmt::Debug for Held<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl<A: Answers> Drop for Held<A> {
    fn drop(&mut self) {
        self.answers.unlock(&self.path);
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl<A: Answers + 'static> Machine for Memory<A> {
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        Ok(match self.ask(Op::Kind(text(path)))? {
            Seen::Kind(1) => Some(Kind::File),
            Seen::Kind(2) => Some(Kind::Directory),
            Seen::Kind(3) => Some(Kind::Link),
            Seen::Kind(4) => Some(Kind::Other),
            _ => None,
        })
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        match self.ask(Op::Read { path: text(path), limit, follow: true })? {
            Seen::Bytes(bytes) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.ask(Op::Write { path: text(path), data: data.to_vec() }).map(drop)
    }

    fn write_attribute(&self, device: &Path, name: &str, data: &[u8]) -> io::Result<Written> {
        let op = Op::Attribute { device: text(device), name: name.to_owned(), data: data.to_vec() };
        Ok(if self.ask(op)? == Seen::Equal { Written::Equal } else { Written::Yes })
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        match self.ask(Op::ReadLink(text(path)))? {
            Seen::Text(text) => Ok(text.into()),
            other => panic!("{other:?}"),
        }
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        match self.ask(Op::Names(text(path)))? {
            Seen::Names(mut names) => {
                let records = path.ends_with("virt-mdev/domains");
                match self.view {
                    View::Domain(uuid) if records => names.retain(|name| name.starts_with(uuid)),
                    View::Domain(_) if path.starts_with("/run/virt-mdev") => names.clear(),
                    View::Strays if records => names.clear(),
                    _ => {}
                }
                Ok(names)
            }
            other => panic!("{other:?}"),
        }
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.ask(Op::MakeDirectory(text(path))).map(drop)
    }

    fn read_own(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        self.read_plain(path, limit)
    }

    fn read_plain(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        match self.ask(Op::Read { path: text(path), limit, follow: false })? {
            Seen::Bytes(bytes) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    fn replace(&self, path: &Path, new: &Path, data: &[u8]) -> io::Result<()> {
        self.ask(Op::Store { path: text(new), data: data.to_vec() })?;
        self.rename(new, path)
    }

    fn link(&self, target: &str, path: &Path) -> io::Result<()> {
        self.ask(Op::Link { text: target.to_owned(), path: text(path) }).map(drop)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask(Op::Remove(text(path))).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Op::Rename { from: text(from), to: text(to) }).map(drop)
    }

    fn lock(&self, path: &Path, _: Duration) -> io::Result<Lock> {
        self.ask(Op::Lock(text(path)))?;
        Ok(Lock::new(Held { answers: self.answers.clone(), path: text(path) }))
    }

    fn try_open(&self, node: &Path) -> io::Result<()> {
        self.ask(Op::Open(text(node)))?;
        self.ask(Op::Close(text(node))).map(drop)
    }

    fn carried(&self, node: &Path) -> io::Result<Label> {
        panic!("no domain here has a label: {}", node.display());
    }

    fn set(&self, node: &Path, part: &Part<'_>) -> io::Result<()> {
        panic!("no domain here has a label: {part} of {}", node.display());
    }

    fn append(&self, path: &Path, _: &[u8]) -> io::Result<()> {
        panic!("no domain here has rules: {}", path.display());
    }

    fn perform(&self, step: &Step, _: Duration) -> io::Result<Performed> {
        Ok(match self.ask(Op::Perform(OneStep(step.clone()))) {
            Ok(_) => Performed::Done,
            Err(error) if error.raw_os_error() == Some(BLOCKED) => Performed::Blocked(None),
            Err(error) => Performed::Failed(error),
        })
    }

    fn sleep(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.answers.slept(time);
    }

    fn now(&self) -> Duration {
        self.now.get()
    }
}

/// What an operation is answered that does not return: no operation here answers this of itself.
const BLOCKED: i32 = Errno::EINPROGRESS as i32;
