//! Until when starts wait for what is not there: files in `awaited/`, shared by all domains and under no lock. Two who
//! write one at once write nearly the same.

use std::path::PathBuf;
use std::time::Duration;

use super::Records;
use crate::host::Trouble;
use crate::ids::{Parent, PciAddress};

/// Where they lie.
const DIRECTORY: &str = "awaited";

/// What a file is called while it is written, before a process id.
const NEW: &str = "new-";

/// More than a number has.
const MAX: u64 = 64;

/// How long a deadline that has passed is remembered where udev tells of nothing.
const MEMORY: Duration = Duration::from_secs(60 * 60);

/// What a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing<'a> {
    /// This parent, or its types.
    Parent(&'a Parent),
    /// Whatever parent has a type, or any at all.
    AnyParent,
}

impl Missing<'_> {
    fn name(&self) -> String {
        // Functions of one card are parents each, and come with it or not at all: `0000:41` of `0000:41:00.4`.
        let card = |parent: &Parent| {
            let address = PciAddress::parse(&parent.to_string()).ok()?.to_string();
            Some(address.rsplit_once(':')?.0.to_owned())
        };
        match self {
            Self::Parent(parent) => match card(parent) {
                Some(card) => format!("card-{card}"),
                None => format!("parent-{parent}"),
            },
            Self::AnyParent => "any".to_owned(),
        }
    }
}

impl Records {
    fn awaited(&self, missing: &Missing<'_>) -> PathBuf {
        self.base.join(DIRECTORY).join(missing.name())
    }

    /// When the wait for this ends, in time since boot. What is no such file says nothing.
    pub fn deadline(&self, missing: &Missing<'_>) -> Option<Duration> {
        self.deadline_in(&self.awaited(missing))
    }

    fn deadline_in(&self, path: &std::path::Path) -> Option<Duration> {
        let bytes = self.host.machine().read_own(path, MAX).ok()?;
        std::str::from_utf8(&bytes).ok()?.trim_end().parse().ok().map(Duration::from_millis)
    }

    /// Writes it down for all starts.
    pub fn set_deadline(&self, missing: &Missing<'_>, deadline: Duration) -> Result<(), Trouble> {
        self.make_directories()?;
        self.make_directory(&self.base.join(DIRECTORY))?;
        let path = self.awaited(missing);
        let new = self.base.join(DIRECTORY).join(format!("{NEW}{}", std::process::id()));
        let text = format!("{}\n", deadline.as_millis());
        let done = self.host.machine().replace(&path, &new, text.as_bytes());
        done.map_err(|error| Trouble::new("write", &path, error))
    }

    /// It has come, or may have.
    pub fn forget_deadline(&self, missing: &Missing<'_>) {
        let path = self.awaited(missing);
        if let Err(trouble) = self.remove_if_there(&path) {
            log::warn!("{trouble}");
        }
    }

    /// A device of this name has come: the next start waits for it anew, and for what it may offer.
    pub fn has_come(&self, parent: &Parent) -> Result<(), Trouble> {
        let names = [Missing::Parent(parent).name(), Missing::AnyParent.name()];
        self.forget_deadlines(|name, _| names.iter().any(|own| own == name))
    }

    /// Forgets what was waited for long ago, and what is no deadline.
    pub fn forget_old_deadlines(&self) -> Result<(), Trouble> {
        let now = self.host.now();
        self.forget_deadlines(|_, deadline| deadline.is_none_or(|deadline| deadline + MEMORY < now))
    }

    fn forget_deadlines(&self, which: impl Fn(&str, Option<Duration>) -> bool) -> Result<(), Trouble> {
        let directory = self.base.join(DIRECTORY);
        let mut done = Ok(());
        for name in &self.names_in(DIRECTORY)? {
            let path = directory.join(name);
            // Somebody is writing it, or has died over it.
            if name.strip_prefix(NEW).is_some_and(|pid| self.host.exists(&format!("proc/{pid}"))) {
                continue;
            }
            if which(name, self.deadline_in(&path)) {
                done = done.and(self.remove_if_there(&path));
            }
        }
        done
    }
}
