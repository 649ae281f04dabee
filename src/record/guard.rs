//! [`Guard`]: the only way to change a record, its claims and its index.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Answers, Entry, MAX_RECORD, NEW, Named, Phase, Record, Records, State, VERSION};
use crate::host::daemon::Process;
use crate::host::{Kind, Lock, Trouble};
use crate::ids::{DeviceId, DomainUuid};
use crate::step::Step;

/// A domain's record under its lock.
#[derive(Debug)]
pub struct Guard<'a> {
    pub(super) records: &'a Records,
    pub(super) uuid: DomainUuid,
    pub(super) record: Option<Record>,
    /// A run has begun, and nothing of it is on the disk yet: its first intent will be, before anything is done.
    pub(super) begun: bool,
    pub(super) _lock: Lock,
}

impl Guard<'_> {
    /// The record, if the domain has one.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The steps; none without a record.
    pub fn steps(&self) -> &[Entry] {
        self.record.as_ref().map_or(&[], |record| &record.steps)
    }

    /// Begins a run of this domain: what an earlier run kept stays in the record. Reaches the disk with the next save.
    pub fn begin(&mut self, name: &str) -> Result<(), Trouble> {
        self.enter(name, Phase::Preparing)
    }

    /// Something is to be done for a domain that runs. What an earlier run could not undo is still to be undone.
    pub fn join(&mut self, name: &str) -> Result<(), Trouble> {
        if let Some(record) = &mut self.record {
            if matches!(record.phase, Phase::Preparing | Phase::Releasing) {
                let releases = record.phase == Phase::Releasing;
                for entry in record.steps.iter_mut().filter(|entry| entry.state != State::Kept) {
                    let stays = matches!(
                        entry.step,
                        Step::Create { keep: true, .. } | Step::Adopt { keep: true, .. }
                    );
                    let keeps = releases && stays && entry.state == State::Done;
                    entry.state = if keeps { State::Kept } else { State::Undoing };
                }
            }
        }
        self.enter(name, Phase::Running)
    }

    fn enter(&mut self, name: &str, phase: Phase) -> Result<(), Trouble> {
        let domain = Named { uuid: self.uuid.clone(), name: name.to_owned() };
        if let Some(record) = self.record.as_ref().filter(|record| record.domain.name != name) {
            self.remove_index(&record.domain.name)?;
        }
        let steps = self.record.take().map(|record| record.steps);
        self.record = Some(Record { version: VERSION, domain, phase, steps: steps.unwrap_or_default() });
        self.begun = true;
        Ok(())
    }

    /// Writes down what is about to be done, and all that has been done so far.
    pub fn intend(&mut self, step: Step, answers: Option<Answers>) -> Result<(), Trouble> {
        if let Some(record) = &mut self.record {
            record.steps.push(Entry::intended(step, answers));
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

    /// Puts another step, or the same in another state, into a step's place, and saves.
    pub fn replace(
        &mut self,
        at: usize,
        step: Step,
        state: State,
        answers: Option<Answers>,
    ) -> Result<(), Trouble> {
        if let Some(entry) = self.record.as_mut().and_then(|record| record.steps.get_mut(at)) {
            *entry = Entry { state, ..Entry::intended(step, answers) };
        }
        self.save()
    }

    /// A step that could not be undone, why, and whose write for that has not returned; reaches the disk with the next
    /// save.
    pub fn leave(&mut self, at: usize, why: Option<String>, writer: Option<Process>) {
        if let Some(entry) = self.record.as_mut().and_then(|record| record.steps.get_mut(at)) {
            (entry.why, entry.writer) = (why, writer);
            if entry.state != State::Kept {
                entry.state = State::Undoing;
            }
        }
    }

    /// Takes a step out; reaches the disk with the next save.
    pub fn remove(&mut self, at: usize) {
        if let Some(record) = self.record.as_mut().filter(|record| at < record.steps.len()) {
            record.steps.remove(at);
        }
    }

    /// Takes out all that is recorded of a device from this step on, but for what may lie about without the device.
    pub fn remove_from(&mut self, at: usize, device: &DeviceId) {
        if let Some(record) = &mut self.record {
            let mut number = 0;
            record.steps.retain(|entry| {
                number += 1;
                let stays = matches!(entry.step, Step::Allow { .. });
                number <= at || entry.step.device() != device || stays
            });
        }
    }

    /// A device that is whole is nobody's from here on.
    pub fn give_away(&mut self, device: &DeviceId) -> Result<(), Trouble> {
        if let Some(record) = &mut self.record {
            record.steps.clear();
        }
        // Before the claim goes: whoever finds a record with steps takes the device away.
        self.save()?;
        self.unclaim(device)?;
        self.end()
    }

    /// A device has gone by itself: what comes back under its name is not ours, and neither is anything that was done to
    /// it. The claim stays until the domain ends; that on a device which was kept, or was to go, goes with it.
    pub fn lose(&mut self, device: &DeviceId) -> Result<(), Trouble> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let makes = |entry: &&Entry| entry.step.device() == device && entry.step.place().is_some();
        if record.steps.iter().find(makes).is_some_and(|entry| entry.state != State::Done) {
            record
                .steps
                .retain(|entry| entry.step.device() != device || matches!(entry.step, Step::Allow { .. }));
            // Before the claim goes, as ever.
            self.save()?;
            self.unclaim(device)?;
            return self.end();
        }
        record.steps.retain(|entry| {
            let stays = entry.step.place().is_some() || matches!(entry.step, Step::Allow { .. });
            entry.step.device() != device || stays
        });
        self.disown(device);
        self.save()
    }

    /// A device of ours is from here on one that the domain uses: nothing that was done to it is undone, but for labels. Reaches
    /// the disk with the next save.
    pub fn disown(&mut self, device: &DeviceId) {
        if let Some(record) = &mut self.record {
            let undone = |step: &Step| {
                matches!(step, Step::Online { .. } | Step::Attribute { .. }) && step.device() == device
            };
            record.steps.retain(|entry| !undone(&entry.step));
        }
        let entries = self.record.iter_mut().flat_map(|record| &mut record.steps);
        for entry in entries.filter(|entry| entry.step.device() == device) {
            if let Step::Create { device, place, .. } | Step::Adopt { device, place, .. } = &entry.step {
                entry.step = Step::Use { device: device.clone(), place: place.clone() };
            }
        }
    }

    /// The domain has come to this phase; `answers`, from here on, for all devices that are its: not for those that are
    /// kept or were plugged in, nor for what an earlier run could not undo.
    pub fn advance(&mut self, phase: Phase, answers: Option<Answers>) -> Result<(), Trouble> {
        if let Some(record) = &mut self.record {
            record.phase = phase;
            let its = |entry: &&mut Entry| {
                !matches!(entry.state, State::Kept | State::Undoing)
                    && entry.answers.is_none_or(Answers::follows_the_domain)
            };
            for entry in record.steps.iter_mut().filter(its) {
                entry.answers = answers.or(entry.answers);
            }
        }
        self.save()
    }

    /// A release has begun. Reaches the disk with the next save, which comes before the first effect.
    pub fn releases(&mut self) {
        if let Some(record) = &mut self.record {
            record.phase = Phase::Releasing;
        }
    }

    /// This one answers for a device from here on.
    pub fn answer(&mut self, device: &DeviceId, answers: Answers) -> Result<(), Trouble> {
        let steps = self.record.as_mut().map(|record| record.steps.iter_mut());
        for entry in steps.into_iter().flatten() {
            if entry.step.device() == device && !matches!(entry.state, State::Kept | State::Undoing) {
                entry.answers = Some(answers);
            }
        }
        self.save()
    }

    /// The run is over: without steps the record goes, and the index with it.
    pub fn end(&mut self) -> Result<(), Trouble> {
        match &mut self.record {
            Some(record) if record.steps.is_empty() => {
                let name = record.domain.name.clone();
                let file = self.records.file(&self.uuid);
                // The record goes last: while it is there, somebody will try the rest again.
                self.remove_index(&name)?;
                self.records.make_way(&file.with_extension(NEW))?;
                self.records.remove_if_there(&file)?;
                self.record = None;
                Ok(())
            }
            Some(record) => {
                if record.steps.iter().all(|entry| entry.state == State::Kept) {
                    record.phase = Phase::Kept;
                }
                self.save()
            }
            None => {
                // What a process left that died in its first save.
                self.records.make_way(&self.records.file(&self.uuid).with_extension(NEW))
            }
        }
    }

    /// Another domain may have taken this name since: its entry stays.
    fn remove_index(&self, name: &str) -> Result<(), Trouble> {
        let index = self.records.index(name);
        if self.says_us(&index)? {
            self.records.remove_if_there(&index)?;
        }
        Ok(())
    }

    /// Claims a device for this domain. `Ok(Some)` names the domain that has it already.
    pub fn claim(&mut self, device: &DeviceId, limit: Duration) -> Result<Option<Named>, Trouble> {
        // A claim whose domain has no record is nobody's.
        if self.begun {
            self.save()?;
        }
        let Records { host, base, .. } = self.records;
        let claim = self.records.claim(device);
        let make = || self.records.in_place(|| host.machine().link(&self.uuid.to_string(), &claim));
        let trouble = |error| Trouble::new("make the claim", &claim, error);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| None).map_err(trouble),
        }
        // Broken by one process at a time, which looks again: a second one that unlinked after the first had made its
        // own claim would take that. Our own claim from before stands only if nobody is about to break it.
        let _lock = host.lock(&base.join("locks/claims"), limit)?;
        if self.owns(device)? {
            return Ok(None);
        }
        if let Some(owner) = self.records.owner(device)?.filter(|owner| owner.uuid != self.uuid) {
            return Ok(Some(owner));
        }
        self.records.make_way(&claim)?;
        make().map(|()| None).map_err(trouble)
    }

    /// Whether this domain has claimed the device.
    pub fn owns(&self, device: &DeviceId) -> Result<bool, Trouble> {
        self.says_us(&self.records.claim(device))
    }

    /// Whether a claim or an index entry is this domain's.
    fn says_us(&self, path: &Path) -> Result<bool, Trouble> {
        Ok(self.records.link_text(path)?.is_some_and(|text| text == self.uuid.to_string()))
    }

    /// Whether nobody has claimed the device.
    pub fn is_unclaimed(&self, device: &DeviceId) -> bool {
        matches!(self.records.host.machine().kind(&self.records.claim(device)), Ok(None))
    }

    /// Lets go of a claim, if it is this domain's.
    pub fn unclaim(&self, device: &DeviceId) -> Result<(), Trouble> {
        if self.owns(device)? { self.records.remove_if_there(&self.records.claim(device)) } else { Ok(()) }
    }

    /// Takes away a claim or an index entry of this domain, which has no record: under its lock nobody makes one.
    /// Says whether it went.
    pub fn remove_stray(&self, path: &Path, limit: Duration) -> Result<bool, Trouble> {
        // Another domain may be about to break this claim and to make its own.
        let Records { host, base, .. } = self.records;
        let _lock = host.lock(&base.join("locks/claims"), limit)?;
        if !self.says_us(path)? || self.record.is_some() {
            return Ok(false);
        }
        self.records.remove_if_there(path).map(|()| true)
    }

    /// Writes the record as it is: what [`Guard::done`] has noted of the last step, too.
    pub fn save(&mut self) -> Result<(), Trouble> {
        self.write()?;
        match &self.record {
            Some(record) if std::mem::take(&mut self.begun) => self.write_index(&record.domain.name),
            _ => Ok(()),
        }
    }

    fn write(&self) -> Result<(), Trouble> {
        let Some(record) = &self.record else { return Ok(()) };
        let file = self.records.file(&self.uuid);
        let trouble = |error: io::Error| Trouble::new("write the record", &file, error);
        let json = serde_json::to_vec(record).map_err(|error| trouble(error.into()))?;
        if json.len() as u64 > MAX_RECORD {
            // It could not be read back, and the devices would be nobody's.
            return Err(trouble(io::Error::other("the domain asks for more than a record can hold (1 MiB)")));
        }
        // One writer at a time, the lock's holder; so one name is enough, and a dead writer's file is overwritten.
        let new = file.with_extension(NEW);
        let machine = self.records.host.machine();
        if let Err(error) = self.records.in_place(|| machine.replace(&file, &new, &json)) {
            // A link or a directory in the way is none of ours.
            if matches!(machine.kind(&new), Ok(Some(Kind::Directory | Kind::Link | Kind::Other))) {
                self.records.set_aside(&new, &"it is not a file")?;
                return machine.replace(&file, &new, &json).map_err(trouble);
            }
            let _ = machine.remove(&new);
            return Err(trouble(error));
        }
        Ok(())
    }

    fn write_index(&self, name: &str) -> Result<(), Trouble> {
        let path = self.records.index(name);
        let machine = self.records.host.machine();
        let make = || self.records.in_place(|| machine.link(&self.uuid.to_string(), &path));
        let made = match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.says_us(&path)? {
                    return Ok(());
                }
                // Of a domain that has had this name before.
                self.records.make_way(&path)?;
                make()
            }
            made => made,
        };
        made.map_err(|error| Trouble::new("write the index", &path, error))
    }
}
