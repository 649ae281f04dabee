//! What is to be seen of the host: for comparisons, for hashes and for people.

use std::hash::{Hash, Hasher};

use nix::errno::Errno;
use nix::libc::O_WRONLY;
use virt_mdev_emulator::tree::{self, Ino};

use super::sim::{Sim, walk};

/// Where what matters is.
const KEPT: [&str; 5] = [
    "/run/virt-mdev/domains",
    "/run/virt-mdev/devices",
    "/run/virt-mdev/by-name",
    "/sys/bus/mdev/devices",
    "/dev/vfio",
];

/// A hash of 128 bits: two states with the same one do not come up in a lifetime.
#[derive(Default)]
pub(crate) struct Wide(u64, u64);

impl Wide {
    pub(crate) fn sum(&self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

impl Hasher for Wide {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 60);
            self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.1 = (self.1.rotate_left(29) ^ word.swap_bytes()).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.1
    }
}

impl Sim {
    /// What tells this host from another: all that virt-mdev keeps, and every device. Nothing of inodes and times; and
    /// that a file to be locked has been made tells nobody anything.
    pub(crate) fn digest(&self, hasher: &mut impl Hasher) {
        for directory in KEPT {
            self.each(directory, &mut |path, _, file| {
                path.hash(hasher);
                match &file.kind {
                    tree::Kind::File(data) => data.hash(hasher),
                    tree::Kind::Link(target) => target.hash(hasher),
                    _ => {}
                }
            });
        }
        for class in self.names("/sys/class/mdev_bus") {
            // A device whose removal is pending is here and not on its bus.
            let names = self.names(&format!("/sys/class/mdev_bus/{class}"));
            names.iter().filter(|name| name.len() == 36).for_each(|name| name.hash(hasher));
        }
        (&self.locks, &self.daemons).hash(hasher);
        self.probes.keys().for_each(|probe| probe.hash(hasher));
    }

    /// The same for a person.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for directory in KEPT {
            self.each(directory, &mut |path, _, file| {
                text += path;
                match &file.kind {
                    tree::Kind::File(data) => text += &format!(" {}", String::from_utf8_lossy(data)),
                    tree::Kind::Link(target) => text += &format!(" -> {target}"),
                    _ => {}
                }
                text.push('\n');
            });
        }
        text + &format!("locks {:?}, probed {:?}\n", self.locks, self.probes.keys())
    }

    /// All that is below a directory.
    pub(crate) fn each(&self, path: &str, see: &mut impl FnMut(&str, Ino, &tree::File)) {
        if let Ok(ino) = walk(&self.world.tree, path, true) {
            self.each_in(path, ino, see);
        }
    }

    fn each_in(&self, path: &str, ino: Ino, see: &mut impl FnMut(&str, Ino, &tree::File)) {
        let Some(tree::File { kind: tree::Kind::Dir(names), .. }) = self.world.tree.get(ino) else { return };
        for (name, ino) in names {
            let Some(file) = self.world.tree.get(*ino) else { continue };
            let path = format!("{path}/{name}");
            see(&path, *ino, file);
            self.each_in(&path, *ino, see);
        }
    }

    /// Names in a directory; none if it is not there.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        match walk(&self.world.tree, path, true).ok().and_then(|ino| self.world.tree.get(ino)) {
            Some(tree::File { kind: tree::Kind::Dir(names), .. }) => names.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// What a link says; empty if it is not there.
    pub(crate) fn link(&self, path: &str) -> String {
        match walk(&self.world.tree, path, false).ok().and_then(|ino| self.world.tree.get(ino)) {
            Some(tree::File { kind: tree::Kind::Link(text), .. }) => text.clone(),
            _ => String::new(),
        }
    }

    /// What is in a file of virt-mdev's; empty if it is not there.
    pub(crate) fn text(&self, path: &str) -> String {
        match walk(&self.world.tree, path, false).ok().and_then(|ino| self.world.tree.get(ino)) {
            Some(tree::File { kind: tree::Kind::File(data), .. }) => {
                String::from_utf8_lossy(data).into_owned()
            }
            _ => String::new(),
        }
    }

    /// What an attribute says now.
    pub(crate) fn attribute(&mut self, path: &str) -> Option<String> {
        self.read(path, 1 << 20, true).ok().map(|data| String::from_utf8_lossy(&data).trim().to_owned())
    }

    /// Somebody's own write.
    pub(crate) fn echo(&mut self, text: &str, path: &str) -> Result<(), Errno> {
        let done = self.write(path, O_WRONLY, text.as_bytes());
        self.world.out.clear();
        done
    }
}
