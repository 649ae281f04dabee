//! The machine at one moment: what the kernel remembers of it goes with it.

use std::ffi::OsStr;
use std::io;

use fuser::{FileType, INodeNo, Notifier};

use super::Emulator;
use super::answer::remembered;
use crate::model::Changed;

impl Emulator {
    /// Keeps the host as it is now, under a name.
    pub fn save(&self, name: &str) -> Result<(), String> {
        let mut shared = self.lock();
        shared.machine.tick(self.start.elapsed());
        shared.machine.save(name)
    }

    /// The host is again as it was saved. No program may be at work on it: this is for whoever keeps the host, and no
    /// line of the control file, whose writer is one.
    pub fn load(&self, name: &str, kernel: &Notifier) -> Result<(), String> {
        let mut shared = self.lock();
        let Changed { mut names, mut files } = shared.machine.load(name)?;
        let tree = &shared.machine.world.tree;
        // The rest it asks for anew each time.
        let lasts = |path: &str| !remembered(path, FileType::Directory).1.is_zero();
        names.retain(|(dir, name)| lasts(&format!("{}/{name}", tree.path(*dir))));
        files.retain(|ino| lasts(&tree.path(*ino)));
        // The kernel may want an answer before it forgets.
        drop(shared);
        let forget = || -> io::Result<()> {
            for (dir, name) in &names {
                kernel.inval_entry(INodeNo(*dir), OsStr::new(name))?;
            }
            // Before the first byte: the attributes alone.
            files.iter().try_for_each(|ino| kernel.inval_inode(INodeNo(*ino), -1, 0))
        };
        forget().map_err(|error| format!("the kernel does not forget: {error}"))
    }

    /// One word for all that programs can see.
    pub fn fingerprint(&self) -> String {
        let mut shared = self.lock();
        shared.machine.tick(self.start.elapsed());
        shared.work();
        shared.machine.world.fingerprint()
    }
}
