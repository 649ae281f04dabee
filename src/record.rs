//! What we have done to the host and must undo: the only state there is, and all that a release needs.
//!
//! ```text
//! /run/virt-mdev/                    0755 root
//!   domains/<domain uuid>.json       one domain's record; replaced whole, by rename of <uuid>.new
//!   domains/<domain uuid>.damaged    one that was no record, set aside for whoever looks into it
//!   devices/<mdev uuid | VF address> claim: a link whose target is the domain's uuid; made before the device is
//!   by-name/<hash of the name>       index: a link whose target is the domain's uuid
//!   awaited/card-0000:41, any …      until when starts wait for what is not there, in ms since boot
//!   reserved/<VF address>            for a domain that is about to come: a link, its target the domain's uuid and until when
//!   locks/domain-000 … domain-fff    kernel locks, 0600 as all of them, one of them for each domain
//!   locks/card-000 … card-fff        kernel locks, one of them for each physical card
//!   locks/claims                     kernel lock: held while a claim that nobody answers for is broken
//!   locks/reserved                   kernel lock: held while functions are chosen and set aside
//!   locks/definitions                kernel lock: held while functions are chosen and written into a domain's definition
//!   locks/labels                     kernel lock: held while one node gets a label, by udev's helper, or loses it
//! ```
//! Claims and index are symbolic links because a link is made whole, exclusively and in one system call; they point
//! at nothing and nobody follows them. `/run` is empty after a boot, and so is sysfs.
//!
//! A record stands before the first claim and goes after the last one, so a claim whose domain has no record is
//! nobody's. Lock order: domain, card, claims; domain, labels; reserved alone; definitions alone.

mod contents;
mod guard;
mod missing;
mod reserved;

pub use contents::{Answers, Entry, Named, Phase, Record, State};
pub use guard::Guard;
pub use missing::Missing;
pub use reserved::HOLDS;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use uuid::Uuid;

use crate::host::{Host, Kind, Lock, Trouble};
use crate::ids::{DeviceId, DomainUuid};
use crate::words::printable;

/// Version of the record's format. A record of a newer one, or of none that is known, is set aside and never guessed at.
pub const VERSION: u32 = 1;

const BASE: &str = "run/virt-mdev";

/// A record holds a few lines for each device; a file beyond this is none of ours.
const MAX_RECORD: u64 = 1024 * 1024;

/// Extension of what was set aside, and how many of one name are kept.
const DAMAGED: &str = "damaged";
const ASIDE: u32 = 9;

/// Extension of a record that is being written.
const NEW: &str = "new";

/// All records of a host.
#[derive(Debug, Clone)]
pub struct Records {
    host: Host,
    base: PathBuf,
}

/// Name of an entry in the index: nobody can choose two names with the same one.
fn hash(text: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
}

/// One of 4096 lock files: a bounded set, so that they can stay for ever, and large enough that domains rarely share.
fn bucket(text: &str) -> String {
    let hash = hash(text);
    let [first, second, ..] = hash.as_bytes();
    format!("{:03x}", u16::from_be_bytes([*first, *second]) >> 4)
}

/// Whether a record is there that is none. That it cannot be opened now says nothing about what is in it.
fn is_damage(trouble: &Trouble) -> bool {
    trouble.error.raw_os_error().is_none_or(|errno| errno == Errno::LOOP.raw_os_error())
}

impl Records {
    /// The records of this host.
    pub fn new(host: &Host) -> Self {
        Self { host: host.clone(), base: host.path(BASE) }
    }

    fn file(&self, domain: &DomainUuid) -> PathBuf {
        self.base.join(format!("domains/{domain}.json"))
    }

    fn claim(&self, device: &DeviceId) -> PathBuf {
        self.base.join(format!("devices/{device}"))
    }

    fn index(&self, name: &str) -> PathBuf {
        self.base.join(format!("by-name/{}", hash(name)))
    }

    /// Whether a domain has a record, or a first one that was never finished: two system calls, which is all that a
    /// domain without devices costs.
    pub fn has(&self, domain: &DomainUuid) -> bool {
        let file = self.file(domain);
        let there = |path: &Path| !matches!(self.host.machine().kind(path), Ok(None));
        there(&file) || there(&file.with_extension(NEW))
    }

    /// The domain that was recorded under this name, for a release whose XML gave no UUID.
    pub fn by_name(&self, name: &str) -> Option<DomainUuid> {
        let uuid = self.link_text(&self.index(name)).ok()?.and_then(|text| DomainUuid::parse(&text).ok())?;
        self.read(&uuid).ok().flatten().filter(|record| record.domain.name == name).map(|_| uuid)
    }

    /// A record as it is now, without a lock: records are replaced whole.
    pub fn read(&self, domain: &DomainUuid) -> Result<Option<Record>, Trouble> {
        self.read_record(&self.file(domain), domain)
    }

    /// All domains that have a record, or a first one that was never finished.
    pub fn domains(&self) -> Result<Vec<DomainUuid>, Trouble> {
        let names = self.host.names_in(&self.base.join("domains"))?;
        let stem = |name: &str| Some(name.strip_suffix(".json").or(name.strip_suffix(".new"))?.to_owned());
        let mut domains: Vec<_> =
            names.iter().filter_map(|name| DomainUuid::parse(&stem(name)?).ok()).collect();
        domains.dedup();
        Ok(domains)
    }

    /// Records that could not be understood, and were set aside.
    pub fn damaged(&self) -> Result<Vec<PathBuf>, Trouble> {
        let domains = self.base.join("domains");
        let names = self.host.names_in(&domains)?;
        // What others have left there is not ours to judge.
        let is_ours = |name: &&String| {
            let domain = name.split('.').next().is_some_and(|stem| DomainUuid::parse(stem).is_ok());
            domain && name.ends_with(&format!(".{DAMAGED}"))
        };
        Ok(names.iter().filter(is_ours).map(|name| domains.join(name)).collect())
    }

    /// Claims and index entries of domains that have no record: the domain, and the entry's path. Whoever takes one
    /// away holds that domain's lock.
    pub fn strays(&self) -> Result<Vec<(DomainUuid, PathBuf)>, Trouble> {
        let mut strays = Vec::new();
        for directory in ["devices", "by-name"] {
            let directory = self.base.join(directory);
            for path in self.host.names_in(&directory)?.iter().map(|name| directory.join(name)) {
                let domain = self.link_text(&path)?.and_then(|text| DomainUuid::parse(&text).ok());
                strays.extend(domain.filter(|domain| !self.has(domain)).map(|domain| (domain, path)));
            }
        }
        Ok(strays)
    }

    /// The domain whose claim on a device stands, with its name.
    pub fn owner(&self, device: &DeviceId) -> Result<Option<Named>, Trouble> {
        let text = self.link_text(&self.claim(device))?;
        let Some(uuid) = text.and_then(|text| DomainUuid::parse(&text).ok()) else { return Ok(None) };
        let name = match self.read(&uuid) {
            Ok(Some(record)) => record.domain.name,
            Ok(None) => return Ok(None),
            // A record that cannot be read now is a record: the claim stands.
            Err(_) => uuid.to_string(),
        };
        Ok(Some(Named { uuid, name }))
    }

    /// Whether the claim on a device is this domain's.
    pub fn is_of(&self, device: &DeviceId, domain: &DomainUuid) -> bool {
        self.link_text(&self.claim(device)).is_ok_and(|text| text == Some(domain.to_string()))
    }

    /// Whether a claim of another domain than this one stands. The domain's own record, which may have hundreds of devices,
    /// is not read again for each of them.
    pub fn is_anothers(&self, device: &DeviceId, domain: &DomainUuid) -> bool {
        !self.is_of(device, domain)
            && self.owner(device).is_ok_and(|owner| owner.is_some_and(|owner| owner.uuid != *domain))
    }

    /// Whether no domain has the device, and none but `domain` has it set aside.
    pub fn is_free(&self, device: &DeviceId, domain: Option<&DomainUuid>) -> Result<bool, Trouble> {
        let is_others = |other: &DomainUuid| Some(other) != domain;
        Ok(self.owner(device)?.is_none() && self.reserved(device)?.filter(is_others).is_none())
    }

    /// Whether somebody has claimed a device: one system call.
    pub fn is_claimed(&self, device: &DeviceId) -> bool {
        !matches!(self.host.machine().kind(&self.claim(device)), Ok(None))
    }

    /// The record of the domain that has claimed a device, as it is now. A claim without one is nobody's, and neither is
    /// one whose record cannot be trusted.
    pub fn of_device(&self, device: &DeviceId) -> Result<Option<Record>, Trouble> {
        let text = self.link_text(&self.claim(device))?;
        let Some(uuid) = text.and_then(|text| DomainUuid::parse(&text).ok()) else { return Ok(None) };
        match self.read(&uuid) {
            Err(trouble) if is_damage(&trouble) => Ok(None),
            other => other,
        }
    }

    /// Takes the lock of a physical card, which is held while a place on it is chosen and taken.
    pub fn lock_card(&self, card: &str, limit: Duration) -> Result<Lock, Trouble> {
        self.host.lock(&self.base.join(format!("locks/card-{}", bucket(card))), limit)
    }

    /// Takes the lock of all nodes, which is held while a record is looked at and its label given to a node, or while
    /// one is put back.
    pub fn lock_labels(&self, limit: Duration) -> Result<Lock, Trouble> {
        self.host.lock(&self.base.join("locks/labels"), limit)
    }

    /// Takes the lock that is held while functions are chosen and written into a definition. libvirt is asked meanwhile, which
    /// may wait for a hook: no hook takes it.
    pub fn lock_definitions(&self, limit: Duration) -> Result<Lock, Trouble> {
        self.make_directories()?;
        self.host.lock(&self.base.join("locks/definitions"), limit)
    }

    /// Takes a domain's lock and reads its record. The guard is the only way to change either.
    pub fn lock(&self, domain: &DomainUuid, limit: Duration) -> Result<Guard<'_>, Trouble> {
        let lock = self.base.join(format!("locks/domain-{}", bucket(&domain.to_string())));
        let lock = match self.host.lock(&lock, limit) {
            // The directory of the locks is made last: where it is, all are.
            Err(trouble) if trouble.is(Errno::NOENT) => {
                self.make_directories()?;
                self.host.lock(&lock, limit)?
            }
            locked => locked?,
        };
        let file = self.file(domain);
        let record = match self.read_record(&file, domain) {
            Ok(record) => record,
            // Never trusted, never a reason to fail, and kept for whoever wants to know what it was.
            Err(trouble) if is_damage(&trouble) => {
                self.set_aside(&file, &trouble)?;
                None
            }
            Err(trouble) => return Err(trouble),
        };
        Ok(Guard { records: self, uuid: domain.clone(), record, begun: false, _lock: lock })
    }

    /// Moves out of the way what is in ours and none of ours.
    fn set_aside(&self, file: &Path, why: &dyn std::fmt::Display) -> Result<(), Trouble> {
        // What was set aside before stays, too, as far as that goes.
        let aside = |number: u32| match number {
            1 => file.with_extension(DAMAGED),
            more => file.with_extension(format!("{more}.{DAMAGED}")),
        };
        let is_free = |path: &PathBuf| matches!(self.host.machine().kind(path), Ok(None));
        let aside = (1..=ASIDE).map(aside).find(is_free).unwrap_or_else(|| aside(ASIDE));
        log::warn!("{} set aside as {}: {why}", file.display(), aside.display());
        self.host.machine().rename(file, &aside).map_err(|error| Trouble::new("set aside", file, error))
    }

    fn make_directories(&self) -> Result<(), Trouble> {
        for directory in ["", "domains", "devices", "by-name", "locks"] {
            let path = if directory.is_empty() { self.base.clone() } else { self.base.join(directory) };
            self.make_directory(&path)?;
        }
        Ok(())
    }

    /// Puts something into a directory of ours, which somebody may have cleared away.
    fn in_place(&self, put: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match put() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directories().map_err(|trouble| trouble.error)?;
                put()
            }
            done => done,
        }
    }

    /// What lies in a directory of ours. What a link in its place leads to is not ours to clear away.
    fn names_in(&self, directory: &str) -> Result<Vec<String>, Trouble> {
        let path = self.base.join(directory);
        match self.host.machine().kind(&path).map_err(|error| Trouble::new("look at", &path, error))? {
            None => Ok(Vec::new()),
            Some(Kind::Directory) => self.host.names_in(&path),
            Some(_) => Err(Trouble::new("list", &path, io::Error::other("it is not a directory"))),
        }
    }

    fn make_directory(&self, path: &Path) -> Result<(), Trouble> {
        if matches!(self.host.machine().kind(path), Ok(Some(Kind::Directory))) {
            return Ok(());
        }
        let made = self.host.machine().make_directory(path);
        // Somebody else's first domain comes at the same time; a link in its place would lead elsewhere.
        let is_there = || matches!(self.host.machine().kind(path), Ok(Some(Kind::Directory)));
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !is_there() => {
                Err(Trouble::new("make the directory", path, error))
            }
            _ => Ok(()),
        }
    }

    fn read_record(&self, file: &Path, domain: &DomainUuid) -> Result<Option<Record>, Trouble> {
        let trouble = |error: io::Error| Trouble::new("use the record", file, error);
        let json = match self.host.machine().read_own(file, MAX_RECORD) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble(error)),
        };
        let other = |why: &str| trouble(io::Error::other(why.to_owned()));
        let record: Record = serde_json::from_slice(&json).map_err(|error| {
            // It repeats words of the file.
            let said = error.to_string();
            let why = said.rsplit_once(" at line ").map_or(&*said, |(why, _)| why);
            other(&format!("{} at line {} column {}", printable(why), error.line(), error.column()))
        })?;
        if record.version != VERSION {
            return Err(other(&format!(
                "its version is {}, and this program's is {VERSION}",
                record.version
            )));
        }
        if record.domain.uuid != *domain {
            return Err(other("it is another domain's"));
        }
        Ok(Some(record))
    }

    /// What a link says; `None` where none is. What cannot be read cannot be called nobody's.
    fn link_text(&self, path: &Path) -> Result<Option<String>, Trouble> {
        let machine = self.host.machine();
        let text = |link: PathBuf| link.into_os_string().into_string().ok();
        machine.read_link(path).map(text).or_else(|_| match machine.kind(path) {
            // Made since, or an error that has passed: the second answer counts.
            Ok(Some(Kind::Link)) | Err(_) => match machine.read_link(path) {
                // And gone again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                read => read.map(text).map_err(|error| Trouble::new("read the link", path, error)),
            },
            // Something else than a link is nobody's.
            Ok(_) => Ok(None),
        })
    }

    /// Clears the place of something of ours: of what a process left that died, of another domain's, of what is none of ours.
    fn make_way(&self, path: &Path) -> Result<(), Trouble> {
        match self.host.machine().kind(path) {
            // There is hardly ever anything.
            Ok(None) => Ok(()),
            Ok(Some(Kind::Directory)) => self.set_aside(path, &"it is a directory"),
            _ => self.remove_if_there(path),
        }
    }

    fn remove_if_there(&self, path: &Path) -> Result<(), Trouble> {
        match self.host.machine().remove(path) {
            Ok(()) => Ok(()),
            // Whatever the removal said: what is gone is gone, and what is there is not.
            Err(error) => match self.host.machine().kind(path) {
                Ok(None) => Ok(()),
                _ => Err(Trouble::new("remove", path, error)),
            },
        }
    }
}
