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

/// How long one write that may block is waited for under the domain's lock. What takes longer goes on in its child,
/// and is looked at again without the lock, up to the event's own limit.
const CHILD: Duration = Duration::from_secs(1);

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
        report(&unwind(context, guard, true));
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
            if let Some(at) = at {
                guard.replace(at, step.clone(), State::Done, answers)?;
            }
            match guard.claim(device, context.waits.lock)? {
                None => Ok(()),
                Some(owner) => Err(Refusal::ClaimedByOther { uuid: device.clone(), owner: owner.name }),
            }
        }
        Step::Use { device, .. } => {
            guard.intend(step.clone(), answers)?;
            claim(context, guard, device)?;
            guard.done();
            Ok(())
        }
        Step::Attribute { device, name, value, .. } => {
            let was = match device {
                DeviceId::Vf(_) => backend::read_attribute(context.host, device, name),
                DeviceId::Mdev(_) => None,
            };
            let step =
                Step::Attribute { device: device.clone(), name: name.clone(), value: value.clone(), was };
            guard.intend(step, None)?;
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
        Step::Destroy { device, place } => destroy(context, device, place)
            .map_err(|why| Refusal::Remove { uuid: device.clone(), why: why.to_string() }),
    }
}

/// Only devices of the 2016 interface go online and offline; they have UUIDs.
pub fn set_online(host: &Host, device: &DeviceId, online: bool) -> Result<(), Trouble> {
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
    match guard.claim(device, context.waits.lock) {
        Ok(None) => Ok(()),
        Ok(Some(owner)) => {
            guard.forget_last();
            Err(Refusal::ClaimedByOther { uuid: device.clone(), owner: owner.name })
        }
        Err(trouble) => {
            guard.forget_last();
            Err(trouble.into())
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
    match backend::free(context.host, place) {
        Ok(Some(0)) => return Ok(Some(no_room(context, place)?)),
        Ok(_) => {}
        Err(trouble) => return Ok(Some(trouble.into())),
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
            let refusal = |why| Refusal::Create { uuid: device.clone(), place: Box::new(place.clone()), why };
            // With EEXIST, somebody else has made what is there since we looked. After any other error the kernel's mdev
            // has made nothing, but a driver of another interface may have: then it is undone with the rest.
            if !trouble.is(Errno::EXIST) && !matches!(backend::existing(context.host, device), Ok(None)) {
                return Err(refusal(format!("the driver made it and failed: {}", errno(&trouble.error))));
            }
            guard.unclaim(device);
            guard.forget_last();
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
        let whole = guard.record().is_some_and(|record| record.phase == Phase::Preparing);
        let left = if guard.record().is_some() { unwind(context, &mut guard, whole) } else { Vec::new() };
        if guard.record().is_none() {
            guard.end()?;
        }
        let again = left.iter().any(|left| !matches!(left.why, Why::Failed { again: false, .. }));
        if !again || Instant::now() >= deadline {
            return Ok((guard, left));
        }
        drop(guard);
        std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(LOOK_AGAIN_AT_LAST);
    }
}

/// Undoes the record's steps in reverse, never stopping at one that fails, and ends the run. `whole`: the run has not
/// got through prepare, and not even what is to be kept is kept.
fn unwind(context: Context<'_>, guard: &mut Guard<'_>, whole: bool) -> Vec<Left> {
    // What cannot be written down is done all the same: release never stops at an error, and where it has come to can
    // be seen on the host.
    let noted = |saved: Result<(), Trouble>| {
        if let Err(trouble) = saved {
            log::warn!("{trouble}");
        }
    };
    if !whole {
        noted(guard.advance(Phase::Releasing, None));
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
                // Without our claim it is not ours: the hook died before it made the claim, or after it let it go, and
                // somebody else may have the device since. Only a finished create outlives the loss of its claim.
                let ours = guard.owns(&device) || (guard.is_unclaimed(&device) && entry.state == State::Done);
                if !ours {
                    guard.remove_from(at, &device);
                    continue;
                }
                if entry.state != State::Undoing {
                    noted(guard.mark(at, State::Undoing));
                }
                log::info!(VIRT_MDEV_UUID:% = device; "destroy {device}, {place}");
                match destroy(context, &device, &place) {
                    Ok(()) => {
                        guard.unclaim(&device);
                        guard.remove_from(at, &device);
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
                noted(guard.replace(at, kept, State::Kept, None));
            }
            (Step::Use { device, .. }, _) => {
                guard.unclaim(device);
                guard.remove(at);
            }
            (_, Some(back @ Step::Offline { .. })) => match take_offline(context.host, &back) {
                Ok(()) => guard.remove(at),
                Err(why) => left.push(Left { device: back.device().clone(), why }),
            },
            (_, Some(Step::Attribute { device, name, value, .. })) => {
                // Of a virtual function: its attributes outlive the domain, and the next one is not to find ours.
                if guard.owns(&device) {
                    if let Err(trouble) = backend::write_attribute(context.host, &device, &name, &value) {
                        log::warn!(VIRT_MDEV_UUID:% = device; "{trouble}");
                    }
                }
                guard.remove(at);
                unclaim_if_last(guard, &device);
            }
            (Step::Attribute { device, .. }, _) => {
                guard.remove(at);
                unclaim_if_last(guard, device);
            }
            (_, _) => guard.remove(at),
        }
    }
    noted(guard.end());
    left
}

/// An attribute may have been written before its device was made: then its going is the claim's.
fn unclaim_if_last(guard: &Guard<'_>, device: &DeviceId) {
    if !guard.steps().iter().any(|entry| entry.step.device() == device) {
        guard.unclaim(device);
    }
}

/// Takes a device offline, if nobody has it open. A device that is gone is offline.
fn take_offline(host: &Host, step: &Step) -> Result<(), Why> {
    let device = step.device();
    if holders::is_held(host, device) {
        return Err(Why::Held { holder: holders::holder(host, device) });
    }
    log::info!(VIRT_MDEV_UUID:% = device; "{step}");
    match child::perform(step, CHILD) {
        Ok(child::Outcome::Done) => Ok(()),
        Ok(child::Outcome::Blocked) => Err(Why::Pending),
        Ok(child::Outcome::Failed(error)) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
            Ok(())
        }
        Ok(child::Outcome::Failed(error)) | Err(error) => {
            Err(Why::Failed { what: errno(&error), again: false })
        }
    }
}

fn is_at(host: &Host, device: &DeviceId, place: &Place) -> bool {
    backend::existing(host, device).is_ok_and(|found| found.is_some_and(|found| found.is_at(place)))
}

/// Takes a device of ours away, if it is where we made it and nobody has it open.
fn destroy(context: Context<'_>, device: &DeviceId, place: &Place) -> Result<(), Why> {
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
    let outcome = child::perform(&step, CHILD);
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
