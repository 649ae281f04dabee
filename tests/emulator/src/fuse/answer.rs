//! Answers in FUSE's words.

use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr,
};

use super::Shared;
use crate::call::Done;
use crate::tree::{File, Ino, Kind, Tree};

/// The kernel remembers no names that come and go by themselves,
const NEVER: Duration = Duration::ZERO;
/// but the attributes of what it has just looked up: it would ask twice for each part of a path.
const JUST_LOOKED_UP: Duration = Duration::from_secs(1);
/// And names that a host has for ever, or that change only by what programs ask the kernel for.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// Numbers of files are never used twice.
const FIRST: Generation = Generation(0);

/// The way back to whoever asks.
#[derive(Debug)]
pub(super) enum Reply {
    Entry(ReplyEntry),
    Attr(ReplyAttr),
    Data(ReplyData),
    Open(ReplyOpen),
    Create(ReplyCreate),
    Write(ReplyWrite),
    Empty(ReplyEmpty),
    Xattr(ReplyXattr, u32),
    Directory(ReplyDirectory, u64, Ino),
}

/// A listing, taken when it was begun: entries that go meanwhile shift nothing.
pub(super) type Listing = Vec<(String, Ino, FileType)>;

impl Shared {
    pub(super) fn answer(&mut self, reply: Reply, answer: Result<Done, nix::errno::Errno>) {
        let errno = |errno: nix::errno::Errno| Errno::from_i32(errno as i32);
        let tree = &self.machine.world.tree;
        let attr = |done: &Done| match done {
            Done::File(ino) | Done::Created(ino, _) => attributes(tree, *ino),
            _ => None,
        };
        match (reply, answer) {
            (Reply::Entry(reply), Ok(done)) => match attr(&done) {
                Some(attr) => {
                    let (attributes, entry) = remembered(&tree.path(attr.ino.0), attr.kind);
                    reply.entry_with_ttls(&attributes, &entry, &attr, FIRST);
                }
                None => reply.error(Errno::ENOENT),
            },
            (Reply::Attr(reply), Ok(done)) => match attr(&done) {
                Some(attr) => reply.attr(&remembered(&tree.path(attr.ino.0), attr.kind).0, &attr),
                None => reply.error(Errno::ENOENT),
            },
            (Reply::Data(reply), Ok(Done::Data(data))) => reply.data(&data),
            (Reply::Open(reply), Ok(Done::Opened(handle))) => {
                // Only of a node is it interesting when it is being closed.
                let quiet = if self.machine.world.is_node(handle) {
                    FopenFlags::empty()
                } else {
                    FopenFlags::FOPEN_NOFLUSH
                };
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO | quiet);
            }
            (Reply::Create(reply), Ok(Done::Created(ino, handle))) => match attributes(tree, ino) {
                Some(attr) => {
                    let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                    let (attributes, entry) = remembered(&tree.path(ino), attr.kind);
                    reply.created(&attributes.min(entry), &attr, FIRST, FileHandle(handle), flags);
                }
                None => reply.error(Errno::ENOENT),
            },
            (Reply::Write(reply), Ok(Done::Written(count))) => {
                reply.written(u32::try_from(count).unwrap_or(u32::MAX));
            }
            (Reply::Empty(reply), Ok(_)) => reply.ok(),
            (Reply::Xattr(reply, size), Ok(Done::Data(data))) => match u32::try_from(data.len()) {
                Ok(length) if size == 0 => reply.size(length),
                Ok(length) if length > size => reply.error(Errno::ERANGE),
                _ => reply.data(&data),
            },
            (Reply::Directory(reply, handle, ino), Ok(Done::Names(names))) => {
                let kind = |ino: &Ino| tree.get(*ino).map_or(FileType::RegularFile, file_type);
                let parent = tree.get(ino).map_or(ino, |file| file.parent);
                let mut listing: Listing = vec![
                    (".".to_owned(), ino, FileType::Directory),
                    ("..".to_owned(), parent, FileType::Directory),
                ];
                listing.extend(names.iter().map(|(name, ino)| (name.clone(), *ino, kind(ino))));
                list(&listing, 0, reply);
                self.listings.insert(handle, listing);
            }
            (Reply::Entry(reply), Err(why)) => reply.error(errno(why)),
            (Reply::Attr(reply), Err(why)) => reply.error(errno(why)),
            (Reply::Data(reply), Err(why)) => reply.error(errno(why)),
            (Reply::Open(reply), Err(why)) => reply.error(errno(why)),
            (Reply::Create(reply), Err(why)) => reply.error(errno(why)),
            (Reply::Write(reply), Err(why)) => reply.error(errno(why)),
            (Reply::Empty(reply), Err(why)) => reply.error(errno(why)),
            (Reply::Xattr(reply, _), Err(why)) => reply.error(errno(why)),
            (Reply::Directory(reply, ..), Err(why)) => reply.error(errno(why)),
            // An answer of another kind than the question: a reply that is dropped says EIO.
            (_, Ok(_)) => {}
        }
    }
}

pub(super) fn list(listing: &Listing, offset: u64, mut reply: ReplyDirectory) {
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for (at, (name, ino, kind)) in listing.iter().enumerate().skip(skip) {
        if reply.add(INodeNo(*ino), at as u64 + 1, *kind, name) {
            break;
        }
    }
    reply.ok();
}

/// How long the kernel may remember attributes and name of what it has looked up.
pub(super) fn remembered(path: &str, kind: FileType) -> (Duration, Duration) {
    let directory = kind == FileType::Directory;
    let lasts = match *path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
        ["sys"] => true,
        // No driver takes these away (`World::skeleton`); below them, what is there may be gone the next moment.
        ["sys", "bus" | "class" | "devices"]
        | ["sys", "class" | "bus", _]
        | ["sys", "bus", _, "devices"]
        | ["sys", "devices", "virtual"] => directory,
        ["sys", "devices", bus] => directory && bus.starts_with("pci"),
        // Drivers and udevd make files here.
        ["sys" | "dev", ..] | ["run", "udev", ..] => false,
        // The kernel itself keeps account of who makes, moves and removes a name, as in a file system in memory.
        _ => true,
    };
    (JUST_LOOKED_UP, if lasts { FOR_EVER } else { NEVER })
}

fn file_type(file: &File) -> FileType {
    match file.kind {
        Kind::Dir(_) => FileType::Directory,
        Kind::Link(_) => FileType::Symlink,
        Kind::Socket => FileType::Socket,
        // The kernel would open a character device of this number itself, and never ask us.
        Kind::Attribute(_) | Kind::File(_) | Kind::Node(_) => FileType::RegularFile,
    }
}

fn attributes(tree: &Tree, ino: Ino) -> Option<FileAttr> {
    let file = tree.get(ino)?;
    let (size, nlink) = match &file.kind {
        Kind::Dir(_) => (0, 2 + file.subdirs),
        Kind::Attribute(crate::model::Attribute::Binary(size)) => (*size as u64, 1),
        Kind::Attribute(_) => (4096, 1),
        // sysfs says 0 of its links; elsewhere a link's size is that of its text.
        Kind::Link(target) if !tree.path(ino).starts_with("/sys/") => (target.len() as u64, 1),
        Kind::File(data) => (data.len() as u64, file.links),
        Kind::Link(_) | Kind::Node(_) | Kind::Socket => (0, 1),
    };
    Some(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: 0,
        atime: file.changed,
        mtime: file.changed,
        ctime: file.changed,
        crtime: file.changed,
        kind: file_type(file),
        perm: u16::try_from(file.mode & 0o7777).unwrap_or_default(),
        nlink,
        uid: file.uid,
        gid: file.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}
