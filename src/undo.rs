//! The way back: what the record says is undone in reverse, for a start that failed as for a domain that has gone. It
//! never stops at an error, and leaves alone what is in use and what is not ours.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::backend::{self, Backend};
use crate::execute::Context;
use crate::host::{Host, Trouble, child, holders};
use crate::ids::{DeviceId, DomainUuid};
use crate::record::{Guard, Phase, State};
use crate::step::{Place, Step};
use crate::words::errno;

/// How often a device that somebody still has open is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Each time twice as long after, up to this: NVIDIA's driver may refuse for seconds, and is not to be pestered.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(1);

/// How long one write that may block is waited for under the domain's lock. What takes longer goes on in its child,
/// and is looked at again without the lock, up to the event's own limit.
const CHILD: Duration = Duration::from_secs(1);

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
pub(crate) fn unwind(context: Context<'_>, guard: &mut Guard<'_>, whole: bool) -> Vec<Left> {
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
                    if let Some(why) = held(context.host, &device) {
                        left.push(Left { device, why });
                        continue;
                    }
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

fn held(host: &Host, device: &DeviceId) -> Option<Why> {
    holders::is_held(host, device).then(|| Why::Held { holder: holders::holder(host, device) })
}

/// Takes a device offline, if nobody has it open. A device that is gone is offline.
fn take_offline(host: &Host, step: &Step) -> Result<(), Why> {
    let device = step.device();
    if let Some(why) = held(host, device) {
        return Err(why);
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
pub(crate) fn destroy(context: Context<'_>, device: &DeviceId, place: &Place) -> Result<(), Why> {
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
    if let Some(why) = held(host, device) {
        return Err(why);
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
