//! The tree of files: what is where, with its owner and mode. It knows nothing of what an attribute means.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Attribute, Changed};

/// Number of a file, never used twice: a handle on what is gone finds nothing.
pub type Ino = u64;

/// How many files that were unlinked are there still for whoever has just looked one up: on every file system of Linux a name
/// that is replaced leads to the old file or to the new one, and FUSE asks twice, for the name and for the file.
const LATE: usize = 64;

/// The root, as FUSE numbers it.
pub const ROOT: Ino = 1;

/// What a file is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A directory.
    Dir(BTreeMap<String, Ino>),
    /// A symbolic link and its text.
    Link(String),
    /// A file of sysfs: the model answers.
    Attribute(Attribute),
    /// A VFIO node: of the group or of the device with this number.
    Node(Node),
    /// An ordinary file.
    File(Vec<u8>),
    /// A socket; the kernel connects those that meet at the same inode.
    Socket,
}

/// A VFIO node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/N`.
    Group(u32),
    /// `/dev/vfio/devices/vfioN`.
    Device(u32),
}

/// A file.
#[derive(Debug, Clone)]
pub struct File {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The directory it is in.
    pub parent: Ino,
    /// Its name there.
    pub name: String,
    /// In how many directories it is.
    pub links: u32,
    /// How many have it open.
    pub opens: u32,
    /// How many directories are in it.
    pub subdirs: u32,
    /// When it was changed.
    pub changed: SystemTime,
}

/// All files. A copy shares them until one of the two changes.
#[derive(Debug, Clone)]
pub struct Tree {
    files: HashMap<Ino, Arc<File>, BuildHasherDefault<Spread>>,
    next: Ino,
    /// The last ones that were unlinked: each counts as open.
    late: VecDeque<Ino>,
}

/// Numbers that are given out one after the other need no better hash.
#[derive(Debug, Clone, Copy, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

impl Default for Tree {
    fn default() -> Self {
        let mut tree = Self { files: HashMap::default(), next: ROOT, late: VecDeque::new() };
        tree.insert(Kind::Dir(BTreeMap::new()), 0o755, ROOT, "");
        tree
    }
}

impl Tree {
    fn insert(&mut self, kind: Kind, mode: u32, parent: Ino, name: &str) -> Ino {
        let ino = self.next;
        self.next += 1;
        let file = File {
            kind,
            mode,
            uid: 0,
            gid: 0,
            xattrs: BTreeMap::new(),
            parent,
            name: name.to_owned(),
            links: 1,
            opens: 0,
            subdirs: 0,
            changed: SystemTime::now(),
        };
        self.files.insert(ino, Arc::new(file));
        ino
    }

    /// A file by its number.
    pub fn get(&self, ino: Ino) -> Option<&File> {
        self.files.get(&ino).map(Arc::as_ref)
    }

    /// A file by its number, to be changed.
    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut File> {
        self.files.get_mut(&ino).map(Arc::make_mut)
    }

    /// What has this name in a directory.
    pub fn child(&self, dir: Ino, name: &str) -> Option<Ino> {
        match &self.get(dir)?.kind {
            Kind::Dir(names) => names.get(name).copied(),
            _ => None,
        }
    }

    /// A file by its path; links are not followed.
    pub fn find(&self, path: &str) -> Option<Ino> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |dir, name| self.child(dir, name))
    }

    /// Where a file is; an unlinked one has no path any more, and keeps its last.
    pub fn path(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while let Some(file) = self.get(at).filter(|_| at != ROOT) {
            names.push(file.name.as_str());
            at = file.parent;
        }
        names.iter().rev().fold(String::new(), |path, name| path + "/" + name)
    }

    /// Puts a new file into a directory; whatever had the name there is gone.
    pub fn put(&mut self, dir: Ino, name: &str, kind: Kind, mode: u32) -> Ino {
        self.unlink(dir, name);
        let ino = self.insert(kind, mode, dir, name);
        self.attach(dir, name, ino);
        ino
    }

    fn attach(&mut self, dir: Ino, name: &str, ino: Ino) {
        let is_dir = self.is_dir(ino);
        if let Some(File { kind: Kind::Dir(names), changed, subdirs, .. }) = self.get_mut(dir) {
            names.insert(name.to_owned(), ino);
            *subdirs += u32::from(is_dir);
            *changed = SystemTime::now();
        }
    }

    fn detach(&mut self, dir: Ino, name: &str, ino: Ino) {
        let is_dir = self.is_dir(ino);
        if let Some(File { kind: Kind::Dir(names), changed, subdirs, .. }) = self.get_mut(dir) {
            names.remove(name);
            *subdirs = subdirs.saturating_sub(u32::from(is_dir));
            *changed = SystemTime::now();
        }
    }

    fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.get(ino), Some(File { kind: Kind::Dir(_), .. }))
    }

    /// Gives a file one more name.
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &str) {
        if let Some(file) = self.get_mut(ino) {
            file.links += 1;
            self.attach(dir, name, ino);
        }
    }

    /// Takes a name away, and the file with it if that was its last and nobody has it open.
    pub fn unlink(&mut self, dir: Ino, name: &str) {
        let Some(ino) = self.child(dir, name) else { return };
        self.detach(dir, name, ino);
        if let Some(file) = self.get_mut(ino) {
            file.links = file.links.saturating_sub(1);
            // An attribute goes at once, with its device.
            if file.links == 0 && matches!(file.kind, Kind::File(_) | Kind::Link(_)) {
                file.opens += 1;
                self.late.push_back(ino);
            }
        }
        self.forget(ino);
        if self.late.len() > LATE
            && let Some(ino) = self.late.pop_front()
        {
            if let Some(file) = self.get_mut(ino) {
                file.opens = file.opens.saturating_sub(1);
            }
            self.forget(ino);
        }
    }

    /// Drops a file that has neither a name nor a user.
    pub fn forget(&mut self, ino: Ino) {
        // Also an attribute stays for those who have it open; the model then answers for what is gone.
        if self.get(ino).is_none_or(|file| file.links > 0 || file.opens > 0) {
            return;
        }
        if let Some(File { kind: Kind::Dir(names), .. }) = self.files.remove(&ino).as_deref() {
            for below in names.values().copied() {
                if let Some(file) = self.get_mut(below) {
                    file.links = file.links.saturating_sub(1);
                }
                self.forget(below);
            }
        }
    }

    /// Moves a name; whatever had the new one is gone.
    pub fn rename(&mut self, dir: Ino, name: &str, to: Ino, new: &str) {
        let Some(ino) = self.child(dir, name) else { return };
        if self.child(to, new) == Some(ino) {
            return;
        }
        self.unlink(to, new);
        self.detach(dir, name, ino);
        if let Some(file) = self.get_mut(ino) {
            file.parent = to;
            file.name = new.to_owned();
        }
        self.attach(to, new, ino);
    }

    /// Makes a directory and those above it.
    pub fn dir(&mut self, path: &str) -> Ino {
        path.split('/').filter(|name| !name.is_empty()).fold(ROOT, |dir, name| {
            self.child(dir, name).unwrap_or_else(|| self.put(dir, name, Kind::Dir(BTreeMap::new()), 0o755))
        })
    }

    /// Puts a file at a path, with the directories above it.
    pub fn add(&mut self, path: &str, kind: Kind, mode: u32) -> Ino {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.dir(dir);
        self.put(dir, name, kind, mode)
    }

    /// Puts a link as sysfs makes it: relative, over the nearest directory that both are below
    /// (`kernfs_get_target_path`).
    pub fn add_link(&mut self, path: &str, target: &str) {
        let text = relative(path, target);
        self.add(path, Kind::Link(text), 0o777);
    }

    /// Takes away what is at a path, with all below it.
    pub fn remove(&mut self, path: &str) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(dir) = self.find(dir) {
            self.unlink(dir, name);
        }
    }

    /// Nobody has anything open any more.
    pub fn close_all(&mut self) {
        let open: Vec<Ino> =
            self.files.iter().filter(|(_, file)| file.opens > 0).map(|(ino, _)| *ino).collect();
        self.late.clear();
        for ino in open {
            if let Some(file) = self.get_mut(ino) {
                file.opens = 0;
            }
            self.forget(ino);
        }
    }

    /// New files get no number that the other tree has used.
    pub fn number_after(&mut self, other: &Self) {
        self.next = self.next.max(other.next);
    }

    /// What is different in another tree that this one has come from, or will be.
    pub fn changed(&self, other: &Self) -> Changed {
        let none = BTreeMap::new();
        let mut changed = Changed::default();
        let more = other.files.keys().filter(|ino| !self.files.contains_key(*ino));
        for ino in self.files.keys().chain(more) {
            let files = [self, other].map(|tree| tree.files.get(ino));
            if let [Some(old), Some(new)] = files
                && Arc::ptr_eq(old, new)
            {
                continue;
            }
            changed.files.push(*ino);
            let [old, new] = files.map(|file| match file.map(|file| &file.kind) {
                Some(Kind::Dir(names)) => names,
                _ => &none,
            });
            let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
            let names = names.filter(|name| old.get(*name) != new.get(*name));
            changed.names.extend(names.map(|name| (*ino, name.clone())));
        }
        changed
    }
}

fn relative(path: &str, target: &str) -> String {
    let from: Vec<&str> = path.split('/').collect();
    let to: Vec<&str> = target.split('/').collect();
    // Neither the link itself nor the target counts as a directory on the way.
    let limit = from.len().min(to.len()) - 1;
    let common = from.iter().zip(&to).take(limit).take_while(|(a, b)| a == b).count();
    let up = vec![".."; from.len() - 1 - common];
    [up.as_slice(), to.get(common..).unwrap_or_default()].concat().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_written_as_sysfs_writes_them() {
        let device = "/sys/devices/virtual/mtty/mtty/u";
        for (path, target, expected) in [
            ("/sys/bus/mdev/devices/u", device, "../../../devices/virtual/mtty/mtty/u"),
            ("/sys/class/mdev_bus/mtty", "/sys/devices/virtual/mtty/mtty", "../../devices/virtual/mtty/mtty"),
            (
                &format!("{device}/mdev_type"),
                "/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1",
                "../mdev_supported_types/mtty-1",
            ),
            (
                &format!("{device}/iommu_group"),
                "/sys/kernel/iommu_groups/0",
                "../../../../../kernel/iommu_groups/0",
            ),
            (&format!("{device}/vfio-dev/vfio0/device"), device, "../../../u"),
            ("/sys/devices/pci0000:41/b/physfn", "/sys/devices/pci0000:41/a", "../a"),
        ] {
            assert_eq!(relative(path, target), expected, "{path}");
        }
    }

    #[test]
    fn an_unlinked_file_stays_for_its_user() {
        let mut tree = Tree::default();
        let file = tree.add("/run/a", Kind::File(b"text".to_vec()), 0o644);
        tree.get_mut(file).unwrap().opens = 1;
        tree.remove("/run/a");
        assert!(tree.get(file).is_some() && tree.find("/run/a").is_none());
        tree.get_mut(file).unwrap().opens = 0;
        tree.forget(file);
        assert!(tree.get(file).is_none());
        let attribute = tree.add("/sys/d/a", Kind::Attribute(Attribute::Sink), 0o444);
        let other = tree.add("/sys/d/b", Kind::Attribute(Attribute::Sink), 0o444);
        tree.get_mut(attribute).unwrap().opens = 1;
        tree.remove("/sys/d");
        assert_eq!(tree.get(attribute).unwrap().links, 0);
        assert!(tree.get(other).is_none());
    }
}
