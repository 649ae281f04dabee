//! The host at one moment: kept, so that it can be so again, and told from others.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Attribute, World};
use crate::tree::{Ino, Kind, ROOT};

/// What a load changes behind the kernel's back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Names that stand for another file, or for none: their directory, and the name.
    pub names: Vec<(Ino, String)>,
    /// Files with other attributes.
    pub files: Vec<Ino>,
}

impl World {
    /// The host as it is now, with nothing open.
    pub fn saved(&self) -> Result<Self, String> {
        if !(self.timers.is_empty() && self.openings.is_empty() && self.out.is_empty()) {
            return Err("something is under way".to_owned());
        }
        if self.handles.values().any(|handle| handle.holds_node()) {
            return Err("somebody has a node open".to_owned());
        }
        let mut saved = self.clone();
        // Files whose close is still on its way.
        saved.handles.clear();
        saved.tree.close_all();
        Ok(saved)
    }

    /// The host is again as it was saved. No number is used twice, and time goes on.
    pub fn load(&mut self, saved: &Self) -> Result<Changed, String> {
        if self.handles.values().any(|handle| handle.holds_node()) {
            return Err("somebody has a node open".to_owned());
        }
        let mut loaded = saved.clone();
        loaded.now = self.now;
        loaded.next = self.next;
        loaded.tree.number_after(&self.tree);
        let changed = self.tree.changed(&loaded.tree);
        *self = loaded;
        Ok(changed)
    }

    /// Differs between hosts that differ in anything that a program can see without opening a node, but for times and
    /// numbers of files.
    pub fn fingerprint(&self) -> String {
        let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
        // Two hashes of the same text, told apart by how they begin: one alone might be the same by chance.
        hashers[1].write_u8(1);
        self.add_to(&mut hashers, ROOT, "");
        format!("{:016x}{:016x}", hashers[0].finish(), hashers[1].finish())
    }

    fn add_to(&self, hashers: &mut [DefaultHasher; 2], ino: Ino, path: &str) {
        let Some(file) = self.tree.get(ino).filter(|_| path != "/sys/kernel/emulator") else { return };
        let shown = match &file.kind {
            // Megabytes, which are always the same.
            Kind::Attribute(Attribute::Binary(size)) => Some(Ok(size.to_ne_bytes().to_vec())),
            Kind::Attribute(attribute) => Some(self.show(attribute).map_err(|errno| errno as i32)),
            _ => None,
        };
        for hasher in hashers.iter_mut() {
            (file.mode, file.uid, file.gid, &file.xattrs, file.links).hash(hasher);
            match &file.kind {
                Kind::Dir(names) => ("dir", names.len()).hash(hasher),
                Kind::Link(target) => ("link", target).hash(hasher),
                Kind::Attribute(_) => ("attribute", &shown).hash(hasher),
                Kind::Node(node) => ("node", node).hash(hasher),
                Kind::File(data) => ("file", data).hash(hasher),
                Kind::Socket => "socket".hash(hasher),
            }
        }
        if let Kind::Dir(names) = &file.kind {
            for (name, ino) in names {
                hashers.iter_mut().for_each(|hasher| name.hash(hasher));
                self.add_to(hashers, *ino, &format!("{path}/{name}"));
            }
        }
    }
}
