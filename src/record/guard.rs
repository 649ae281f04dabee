//! [`Guard`]: the only way to change a record, its claims and its index.

use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

use super::{Answers, Entry, MAX_RECORD, NEW, Named, Phase, Record, Records, State, VERSION, link_text};
use crate::host::lock::{self, Lock};
use crate::host::{Trouble, open};
use crate::ids::{DeviceId, DomainUuid};
use crate::seen::Owner;
use crate::step::Step;

/// A domain's record under its lock.
#[derive(Debug)]
pub struct Guard<'a> {
    pub(super) records: &'a Records,
    pub(super) uuid: DomainUuid,
    pub(super) record: Option<Record>,
    pub(super) _lock: Lock,
}

impl Guard<'_> {
    /// The record, if the domain has one.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The domain.
    pub fn domain(&self) -> &DomainUuid {
        &self.uuid
    }

    /// The steps; none without a record.
    pub fn steps(&self) -> &[Entry] {
        self.record.as_ref().map_or(&[], |record| &record.steps)
    }

    /// Begins a run of this domain: what an earlier run kept stays in the record.
    pub fn begin(&mut self, name: &str) -> Result<(), Trouble> {
        let domain = Named { uuid: self.uuid.clone(), name: name.to_owned() };
        let steps = self.record.take().map(|record| {
            if record.domain.name != name {
                self.remove_index(&record.domain.name);
            }
            record.steps
        });
        self.record = Some(Record {
            version: VERSION,
            domain,
            phase: Phase::Preparing,
            steps: steps.unwrap_or_default(),
        });
        self.save()?;
        replace_link(&self.records.index(name), &self.uuid.to_string())
    }

    /// Writes down what is about to be done, and all that has been done so far.
    pub fn intend(&mut self, step: Step, answers: Option<Answers>) -> Result<(), Trouble> {
        if let Some(record) = &mut self.record {
            record.steps.push(Entry { step, state: State::Intended, answers });
        }
        self.save()
    }

    /// The last step is done. Reaches the disk with the next save: if we die before, the step stands as intended,
    /// as it would have if we had died a moment earlier.
    pub fn done(&mut self) {
        if let Some(last) = self.record.as_mut().and_then(|record| record.steps.last_mut()) {
            last.state = State::Done;
        }
    }

    /// Forgets the last step, which has not changed anything.
    pub fn forget_last(&mut self) {
        if let Some(record) = &mut self.record {
            record.steps.pop();
        }
    }

    /// Changes a step's state, and saves.
    pub fn mark(&mut self, at: usize, state: State) -> Result<(), Trouble> {
        if let Some(entry) = self.record.as_mut().and_then(|record| record.steps.get_mut(at)) {
            entry.state = state;
        }
        self.save()
    }

    /// Replaces the step of a device that was kept, or gives it back.
    pub fn replace(
        &mut self,
        at: usize,
        step: Step,
        state: State,
        answers: Option<Answers>,
    ) -> Result<(), Trouble> {
        if let Some(entry) = self.record.as_mut().and_then(|record| record.steps.get_mut(at)) {
            *entry = Entry { step, state, answers };
        }
        self.save()
    }

    /// Takes a step out; reaches the disk with the next save.
    pub fn remove(&mut self, at: usize) {
        if let Some(record) = self.record.as_mut().filter(|record| at < record.steps.len()) {
            record.steps.remove(at);
        }
    }

    /// Takes out all that is recorded of a device from this step on.
    pub fn remove_from(&mut self, at: usize, device: &DeviceId) {
        if let Some(record) = &mut self.record {
            let mut number = 0;
            record.steps.retain(|entry| {
                number += 1;
                number <= at || entry.step.device() != device
            });
        }
    }

    /// The domain has come to this phase; `answers` from here on for all devices that are not kept.
    pub fn advance(&mut self, phase: Phase, answers: Option<Answers>) -> Result<(), Trouble> {
        if let Some(record) = &mut self.record {
            record.phase = phase;
            for entry in record.steps.iter_mut().filter(|entry| entry.state != State::Kept) {
                if entry.answers.is_some() && answers.is_some() {
                    entry.answers = answers;
                }
            }
        }
        self.save()
    }

    /// The run is over: without steps the record goes, and the index with it.
    pub fn end(&mut self) -> Result<(), Trouble> {
        match &mut self.record {
            Some(record) if record.steps.is_empty() => {
                let name = std::mem::take(&mut record.domain.name);
                self.record = None;
                self.remove_index(&name);
                let file = self.records.file(&self.uuid);
                remove_if_there(&file.with_extension(NEW));
                match std::fs::remove_file(&file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(Trouble::new("remove", &file, error))
                    }
                    _ => Ok(()),
                }
            }
            Some(record) => {
                if record.steps.iter().all(|entry| entry.state == State::Kept) {
                    record.phase = Phase::Kept;
                }
                self.save()
            }
            None => {
                // What a process left that died in its first save.
                remove_if_there(&self.records.file(&self.uuid).with_extension(NEW));
                Ok(())
            }
        }
    }

    /// Another domain may have taken this name since: its entry stays.
    fn remove_index(&self, name: &str) {
        let index = self.records.index(name);
        if link_text(&index).is_some_and(|text| text == self.uuid.to_string()) {
            remove_if_there(&index);
        }
    }

    /// Claims a device for this domain. `Ok(Some)` names the domain that has it already.
    pub fn claim(&self, device: &DeviceId, limit: Duration) -> Result<Option<Owner>, Trouble> {
        let claim = self.records.claim(device);
        let make = || symlink(self.uuid.to_string(), &claim);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => {
                return other.map(|()| None).map_err(|error| Trouble::new("make the claim", &claim, error));
            }
        }
        if self.owns(device) {
            return Ok(None);
        }
        if let Some(owner) = self.records.owner(device) {
            return Ok(Some(owner));
        }
        // Nobody's: broken by one process at a time, which looks once more, because a second one that unlinked
        // after the first had made its own claim would take that.
        let _lock = lock::take(&self.records.base.join("locks/claims"), limit)?;
        if let Some(owner) = self.records.owner(device) {
            return Ok(Some(owner));
        }
        remove_if_there(&claim);
        make().map(|()| None).map_err(|error| Trouble::new("make the claim", &claim, error))
    }

    /// Whether this domain has claimed the device.
    pub fn owns(&self, device: &DeviceId) -> bool {
        link_text(&self.records.claim(device)).is_some_and(|text| text == self.uuid.to_string())
    }

    /// Whether nobody has claimed the device.
    pub fn is_unclaimed(&self, device: &DeviceId) -> bool {
        link_text(&self.records.claim(device)).is_none()
    }

    /// Lets go of a claim, if it is this domain's.
    pub fn unclaim(&self, device: &DeviceId) {
        if self.owns(device) {
            remove_if_there(&self.records.claim(device));
        }
    }

    fn save(&self) -> Result<(), Trouble> {
        let Some(record) = &self.record else { return Ok(()) };
        let file = self.records.file(&self.uuid);
        let trouble = |error: io::Error| Trouble::new("write the record", &file, error);
        let json = serde_json::to_vec(record).map_err(|error| trouble(error.into()))?;
        if json.len() as u64 > MAX_RECORD {
            // It could not be read back, and the devices would be nobody's.
            return Err(trouble(io::Error::other("the domain asks for more than a record can hold (1 MiB)")));
        }
        // One writer at a time, the lock's holder; so one name is enough, and a dead writer's file is overwritten.
        let temporary = file.with_extension(NEW);
        let replace = || {
            let mut new = open(&temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
            new.write_all(&json)?;
            std::fs::rename(&temporary, &file)
        };
        replace().map_err(|error| {
            remove_if_there(&temporary);
            trouble(error)
        })
    }
}

fn remove_if_there(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        if error.kind() != io::ErrorKind::NotFound {
            log::warn!("{}", Trouble::new("remove", path, error));
        }
    }
}

fn replace_link(path: &Path, text: &str) -> Result<(), Trouble> {
    let trouble = |error| Trouble::new("write the index", path, error);
    if link_text(path).is_some_and(|current| current == text) {
        return Ok(());
    }
    let temporary = path.with_extension(format!("{text}.new"));
    remove_if_there(&temporary);
    symlink(text, &temporary).map_err(trouble)?;
    std::fs::rename(&temporary, path).map_err(trouble)
}
