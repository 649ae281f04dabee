//! Steps → effects: the intent is recorded, the step is done, the outcome is recorded; on an error the prefix is
//! undone in reverse.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::backend::{self, Backend, proposal};
use crate::config::Waits;
use crate::host::{Host, Trouble, child, holders, see};
use crate::ids::{AttributeName, DeviceId, DomainUuid};
use crate::plan::{Plan, held_by};
use crate::record::{Answers, Guard, Phase, Records, State};
use crate::refusal::Refusal;
use crate::step::{Place, Step};
use crate::words::errno;

/// How often a device that somebody still has open is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Each time twice as long after, up to this: NVIDIA's driver may refuse for seconds, and is not to be pestered.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(1);

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        Self::Io { what: format!("cannot {}", trouble.doing), why: errno(&trouble.error) }
    }
}

/// What steps need besides themselves.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Its records.
    pub records: &'a Records,
    /// Limits.
    pub waits: Waits,
}

/// Carries out a prepare's plan: all of it, or nothing of it is left.
pub fn carry_out(
    context: Context<'_>,
    guard: &mut Guard<'_>,
    name: &str,
    plan: &Plan,
    answers: Option<Answers>,
) -> Result<(), Refusal> {
    let done = go_through(context, guard, name, plan, answers);
    if done.is_err() {
        match unwind(context, guard, Instant::now() + context.waits.release) {
            Ok(left) => report(&left),
            Err(trouble) => log::error!("undoing the start: {trouble}"),
        }
    }
    done
}

fn go_through(
    context: Context<'_>,
    guard: &mut Guard<'_>,
    name: &str,
    plan: &Plan,
    answers: Option<Answers>,
) -> Result<(), Refusal> {
    guard.begin(name)?;
    for planned in &plan.steps {
        log::info!(VIRT_MDEV_UUID:% = planned.step.device(); "{}", planned.step);
        perform(context, guard, &planned.step, answers)?;
    }
    Ok(guard.advance(Phase::Prepared, answers)?)
}

fn perform(
    context: Context<'_>,
    guard: &mut Guard<'_>,
    step: &Step,
    answers: Option<Answers>,
) -> Result<(), Refusal> {
    match step {
        Step::Create { device, place, keep, otherwise } => {
            let mut refused = None;
            for place in std::iter::once(place).chain(otherwise) {
                match create(context, guard, device, place, *keep, answers)? {
                    None => return Ok(()),
                    Some(refusal) => refused = refused.or(Some(refusal)),
                }
                log::info!(VIRT_MDEV_UUID:% = device; "{place} has no room for {device} after all");
            }
            refused.map_or(Ok(()), Err)
        }
        Step::Adopt { device, .. } => {
            let at = guard
                .steps()
                .iter()
                .position(|entry| entry.state == State::Kept && entry.step.device() == device);
            at.map_or(Ok(()), |at| guard.replace(at, step.clone(), State::Done, answers))
                .map_err(Refusal::from)
        }
        Step::Use { device, .. } => {
            guard.intend(step.clone(), answers)?;
            claim(context, guard, device)?;
            guard.done();
            Ok(())
        }
        Step::Attribute { device, name, value } => {
            guard.intend(step.clone(), None)?;
            // Before its device is made, where the attribute decides how: then the claim is made here.
            claim(context, guard, device)?;
            backend::write_attribute(context.host, device, name, value)
                .map_err(|trouble| refused_attribute(device, name, value, &trouble))?;
            guard.done();
            Ok(())
        }
        Step::Online { device } | Step::Offline { device } => {
            guard.intend(step.clone(), None)?;
            set_online(context.host, device, matches!(step, Step::Online { .. }))
                .map_err(|trouble| Refusal::Online { uuid: device.clone(), why: errno(&trouble.error) })?;
            guard.done();
            Ok(())
        }
        Step::Destroy { device, place } => {
            destroy(context, device, place, Instant::now() + context.waits.release)
                .map_err(|why| Refusal::Remove { uuid: device.clone(), why: why.to_string() })
        }
    }
}

/// Only devices of the 2016 interface go online and offline; they have UUIDs.
fn set_online(host: &Host, device: &DeviceId, online: bool) -> Result<(), Trouble> {
    match device {
        DeviceId::Mdev(uuid) => proposal::set_online(host, uuid, online),
        DeviceId::Vf(_) => Ok(()),
    }
}

fn refused_attribute(device: &DeviceId, name: &AttributeName, value: &str, trouble: &Trouble) -> Refusal {
    let why = match trouble.error.raw_os_error() {
        Some(_) if trouble.is(Errno::NOENT) => {
            format!("the device has no such attribute: {}", errno(&trouble.error))
        }
        Some(_) => format!("the driver refused it: {}", errno(&trouble.error)),
        None => trouble.error.to_string(),
    };
    Refusal::Attribute { uuid: device.clone(), attribute: name.to_string(), value: value.to_owned(), why }
}

fn claim(context: Context<'_>, guard: &mut Guard<'_>, device: &DeviceId) -> Result<(), Refusal> {
    match guard.claim(device, context.waits.lock)? {
        None => Ok(()),
        Some(owner) => {
            guard.forget_last();
            Err(Refusal::ClaimedByOther { uuid: device.clone(), owner: owner.name })
        }
    }
}

/// Makes a device at one place, under the lock of its card. `Ok(Some)` says why it must be tried elsewhere.
fn create(
    context: Context<'_>,
    guard: &mut Guard<'_>,
    device: &DeviceId,
    place: &Place,
    keep: bool,
    answers: Option<Answers>,
) -> Result<Option<Refusal>, Refusal> {
    let card = backend::card(context.host, place);
    let _lock = context.records.lock_card(&card, context.waits.lock)?;
    if backend::free(context.host, place)? == Some(0) {
        return Ok(Some(no_room(context, place)?));
    }
    let step = Step::Create { device: device.clone(), place: place.clone(), keep, otherwise: Vec::new() };
    guard.intend(step, answers)?;
    claim(context, guard, device)?;
    match backend::create(context.host, device, place) {
        Ok(()) => {
            guard.done();
            Ok(None)
        }
        Err(trouble) => {
            // The kernel makes a device whole or not at all, so there is none of ours: what is there with this UUID
            // (EEXIST) somebody else has made since we looked.
            guard.unclaim(device);
            guard.forget_last();
            let refusal = |why| Refusal::Create {
                uuid: device.clone(),
                kind: place.kind.clone(),
                parent: place.parent.clone(),
                why,
            };
            if trouble.is(Errno::EXIST) {
                return Err(refusal(format!(
                    "somebody else made a device with this uuid at the same moment: {}",
                    errno(&trouble.error)
                )));
            }
            if trouble.is(Errno::NOSPC) {
                return Ok(Some(no_room(context, place)?));
            }
            Ok(Some(refusal(format!("the driver refused it: {}", errno(&trouble.error)))))
        }
    }
}

fn no_room(context: Context<'_>, place: &Place) -> Result<Refusal, Trouble> {
    let holders = see::holders(context.host, context.records, place)?;
    let free = backend::free(context.host, place)?.unwrap_or(0);
    let left = match held_by(&holders.iter().collect::<Vec<_>>()) {
        held if held.is_empty() => format!("{free} left"),
        held => format!("{free} left, held by {held}"),
    };
    let (what, place) = (place.kind.to_string(), place.parent.to_string());
    Ok(Refusal::NoRoom { what, place, left, hint: None })
}

/// Why a device is still there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Somebody has it open.
    #[error("it is in use{}", holder.as_ref().map(|holder| format!(" by {} (pid {})", crate::words::printable(&holder.name), holder.pid)).unwrap_or_default())]
    Held {
        /// Who, where that could be found out.
        holder: Option<holders::Holder>,
    },
    /// Its removal has begun and the kernel has not finished it.
    #[error("its removal is pending: the kernel finishes it when nobody has the device open any more")]
    Pending,
    /// The kernel said no.
    #[error("{what}")]
    Failed {
        /// In words.
        what: String,
        /// The same in a moment may work.
        again: bool,
    },
}

/// A device that could not be taken away.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub device: DeviceId,
    /// Why.
    pub why: Why,
}

/// Logs what is left.
pub fn report(left: &[Left]) {
    for Left { device, why } in left {
        log::error!(VIRT_MDEV_UUID:% = device; "device {device} cannot be removed: {why}; it stays recorded");
    }
}

/// Brings a domain to where nothing is left of its last run but what it keeps, waiting for whoever still has a device
/// open. The lock is not held while waiting. The guard that comes back has what could not be removed in its record.
pub fn settle<'a>(context: Context<'a>, domain: &DomainUuid) -> Result<(Guard<'a>, Vec<Left>), Trouble> {
    let deadline = Instant::now() + context.waits.release;
    let mut pause = LOOK_AGAIN;
    loop {
        let mut guard = context.records.lock(domain, context.waits.lock)?;
        let left = unwind(context, &mut guard, deadline)?;
        let again =
            left.iter().any(|left| matches!(left.why, Why::Held { .. } | Why::Failed { again: true, .. }));
        if !again || Instant::now() >= deadline {
            return Ok((guard, left));
        }
        drop(guard);
        std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(LOOK_AGAIN_AT_LAST);
    }
}

/// Undoes the record's steps in reverse, never stopping at one that fails, and ends the run. A run that has not got
/// through prepare is undone whole; after that, what is to be kept is kept.
fn unwind(context: Context<'_>, guard: &mut Guard<'_>, deadline: Instant) -> Result<Vec<Left>, Trouble> {
    let Some(record) = guard.record() else { return Ok(Vec::new()) };
    let whole = record.phase == Phase::Preparing;
    if !whole && record.phase != Phase::Releasing && record.phase != Phase::Kept {
        guard.advance(Phase::Releasing, None)?;
    }
    let mut left = Vec::new();
    for at in (0..guard.steps().len()).rev() {
        let Some(entry) = guard.steps().get(at).cloned() else { continue };
        let back = if whole { entry.step.inverse() } else { entry.step.release() };
        match (&entry.step, back) {
            (Step::Create { device, place, .. }, _) if entry.state == State::Kept => {
                if !is_at(context.host, device, place) {
                    guard.unclaim(device);
                    guard.remove(at);
                }
            }
            (_, Some(Step::Destroy { device, place })) => {
                if entry.state != State::Undoing {
                    guard.mark(at, State::Undoing)?;
                }
                log::info!(VIRT_MDEV_UUID:% = device; "destroy {device}, {place}");
                match destroy(context, &device, &place, deadline) {
                    Ok(()) => {
                        guard.unclaim(&device);
                        guard.remove(at);
                    }
                    Err(why) => left.push(Left { device, why }),
                }
            }
            (Step::Create { device, place, .. } | Step::Adopt { device, place, .. }, _) => {
                log::info!(VIRT_MDEV_UUID:% = device; "keep {device}, {place}");
                let kept = Step::Create {
                    device: device.clone(),
                    place: place.clone(),
                    keep: true,
                    otherwise: Vec::new(),
                };
                guard.replace(at, kept, State::Kept, None)?;
            }
            (Step::Use { device, .. }, _) => {
                guard.unclaim(device);
                guard.remove(at);
            }
            (_, Some(Step::Offline { device })) => {
                log::info!(VIRT_MDEV_UUID:% = device; "take {device} offline");
                // A device that does not go offline may still be destroyed, and one that is gone is offline.
                if let Err(trouble) = set_online(context.host, &device, false) {
                    if !trouble.is(Errno::NOENT) {
                        log::warn!(VIRT_MDEV_UUID:% = device; "{trouble}");
                    }
                }
                guard.remove(at);
            }
            (Step::Attribute { device, .. }, _) => {
                guard.remove(at);
                if !guard.steps().iter().any(|entry| entry.step.device() == device) {
                    guard.unclaim(device);
                }
            }
            (_, _) => guard.remove(at),
        }
    }
    guard.end()?;
    Ok(left)
}

fn is_at(host: &Host, device: &DeviceId, place: &Place) -> bool {
    backend::existing(host, device).is_ok_and(|found| found.is_some_and(|found| found.is_at(place)))
}

/// Takes a device of ours away, if it is where we made it and nobody has it open.
fn destroy(context: Context<'_>, device: &DeviceId, place: &Place, deadline: Instant) -> Result<(), Why> {
    let host = context.host;
    let failed = |error: &std::io::Error| Why::Failed { what: errno(error), again: false };
    match backend::existing(host, device) {
        Ok(Some(found)) if found.is_at(place) => {}
        Ok(Some(found)) => {
            log::warn!("{device} is {} now and was {place}: not ours any more, left alone", found.place);
            return Ok(());
        }
        Ok(None) if backend::is_there(host, device, place) => return Err(Why::Pending),
        Ok(None) => return Ok(()),
        Err(trouble) => return Err(failed(&trouble.error)),
    }
    if holders::is_held(host, device) {
        return Err(Why::Held { holder: holders::holder(host, device) });
    }
    let step = Step::Destroy { device: device.clone(), place: place.clone() };
    let outcome = child::perform(&step, deadline.saturating_duration_since(Instant::now()));
    // Whatever the write said: a device whose directory is gone is gone, and one whose directory is there is not.
    if !backend::is_there(host, device, place) {
        return Ok(());
    }
    // A virtual function's type may be refused to go for some seconds after QEMU has ended.
    let lingers = place.backend == Backend::Nvidia;
    Err(match outcome {
        Ok(child::Outcome::Done) if lingers => {
            Why::Failed { what: "the driver took the write and kept the type".to_owned(), again: true }
        }
        Ok(child::Outcome::Blocked | child::Outcome::Done) => Why::Pending,
        // EAGAIN and ENODEV: another removal got there first (`mdev_device_remove`); it is over in a moment.
        Ok(child::Outcome::Failed(error)) => Why::Failed {
            again: lingers
                || [Errno::AGAIN, Errno::NODEV, Errno::NOENT]
                    .iter()
                    .any(|again| error.raw_os_error() == Some(again.raw_os_error())),
            what: errno(&error),
        },
        Err(error) => failed(&error),
    })
}
