//! The way back: what the record says is undone in reverse, for a start that failed as for a domain that has gone. It
//! never stops at an error, and leaves alone what is in use and what is not ours.

mod step;

use std::time::Duration;

use crate::execute::Means;
use crate::host::daemon::{self, Process};
use crate::host::{Host, Trouble, holders};
use crate::ids::{DeviceId, DomainUuid};
use crate::reap;
use crate::record::{Entry, Guard, Phase, State};
use crate::refusal::Refusal;
use crate::step::Step;
use step::{destroy, has_gone, held, is_passing, take_offline, unlabel};

/// How often a device that somebody still has open is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Each time twice as long after, up to this: NVIDIA's driver may refuse for seconds, and is not to be pestered.
const LOOK_AGAIN_AT_LAST: Duration = Duration::from_secs(1);

/// How long one write that may block is waited for under the domain's lock. What takes longer goes on in its child,
/// and is looked at again without the lock, up to the event's own limit.
const CHILD: Duration = Duration::from_secs(1);

/// Once one has not returned: at least this long, whatever is left of the event's limit.
const CHILD_AT_LEAST: Duration = Duration::from_millis(100);

/// Why a device is still there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Somebody has it open.
    #[error("it is in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    Held {
        /// Who, where that could be found out.
        holder: Option<holders::Holder>,
    },
    /// Its removal has begun and the kernel has not finished it.
    #[error("its removal is pending until nobody has it open any more")]
    Pending {
        /// The process of ours that is in a write for it.
        writer: Option<Process>,
    },
    /// Its driver removes it by itself once its user has ended, and may not be raced.
    #[error("its driver is removing it")]
    Leaving,
    /// The label that a node carries, or the rule in a profile, could not be taken back.
    #[error("{what}")]
    Labelled {
        /// In words.
        what: String,
        /// The same in a moment may work.
        again: bool,
    },
    /// The kernel said no.
    #[error("{what}")]
    Failed {
        /// In words.
        what: String,
        /// The same in a moment may work.
        again: bool,
    },
}

impl From<Trouble> for Why {
    fn from(trouble: Trouble) -> Self {
        Self::Failed { again: is_passing(&trouble.error), what: trouble.to_string() }
    }
}

/// A device that could not be taken away.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub device: DeviceId,
    /// Why.
    pub why: Why,
}

impl Left {
    /// What is left, and why, in the words of a start that it stands in the way of.
    pub fn refusal(&self) -> Refusal {
        let (device, why) = (self.device.clone(), self.why.to_string());
        match self.why {
            Why::Labelled { .. } => Refusal::Io {
                what: format!("what an earlier run was given of {device} cannot be taken back"),
                why,
            },
            _ => Refusal::Remove { device, why },
        }
    }
}

/// What an unwinding has done, and what it could not do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Devices that have been taken away, as their steps.
    pub done: Vec<Step>,
    /// Devices that are still there.
    pub left: Vec<Left>,
}

impl Undone {
    /// Logs what is left.
    pub fn report(&self) {
        for left in &self.left {
            log::error!(VIRT_MDEV_UUID:% = left.device; "{}; it stays recorded", left.refusal());
        }
    }
}

/// How far back the record's steps are undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Back {
    /// To before a start that failed: not even what is to be kept is kept.
    Start,
    /// To where a release leaves a domain.
    Release,
    /// To where nothing is left, what an earlier run kept included.
    Nothing,
}

/// What is to be settled, and who wants it.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    /// Only devices that nobody answers for any more. Not asked at the domain's own events: there libvirt has said
    /// that it has gone.
    pub abandoned: bool,
    /// What an earlier run kept, too, and what somebody answers for: a person has said so. Never what is in use.
    pub forced: bool,
    /// Only this device.
    pub only: Option<&'a DeviceId>,
    /// How long to wait for whoever still has a device open.
    pub patience: Duration,
    /// Only for these it is worth waiting.
    pub awaited: Option<&'a [DeviceId]>,
}

impl Sweep<'_> {
    /// What a domain's own events want: everything but what is kept.
    pub fn of_domain(patience: Duration) -> Self {
        Self { abandoned: false, forced: false, only: None, patience, awaited: None }
    }
}

/// Brings a domain to where nothing is left of its last run but what it keeps, waiting for whoever still has a device
/// open. The lock is not held while waiting. The guard that comes back has what could not be removed in its record.
pub fn settle<'a>(
    means: Means<'a>,
    domain: &DomainUuid,
    sweep: Sweep<'_>,
) -> Result<(Guard<'a>, Undone), Trouble> {
    let host = means.host;
    let deadline = host.now() + sweep.patience;
    let mut pause = LOOK_AGAIN;
    let mut done = Vec::new();
    loop {
        let last = host.now() >= deadline;
        let mut guard = means.records.lock(domain, means.waits.lock)?;
        let back = match guard.record().map(|record| record.phase) {
            _ if sweep.forced => Back::Nothing,
            Some(Phase::Preparing) => Back::Start,
            _ => Back::Release,
        };
        let abandoned = if sweep.abandoned { reap::abandoned(host, guard.record()) } else { Vec::new() };
        let meant = |device: &DeviceId| {
            (!sweep.abandoned || abandoned.contains(device)) && sweep.only.is_none_or(|only| only == device)
        };
        // A domain that runs with its device is not to lose the device's label either.
        let of_one_that_runs = sweep.forced || sweep.only.is_some();
        let in_use = if of_one_that_runs { in_use(host, &guard, &meant) } else { Vec::new() };
        let within = |device: &DeviceId| meant(device) && !in_use.iter().any(|left| left.device == *device);
        let mut undone = match guard.record() {
            Some(_) => unwind(means, &mut guard, back, &within, Some(deadline)),
            None => {
                guard.end()?;
                Undone::default()
            }
        };
        done.append(&mut undone.done);
        undone.left.extend(in_use);
        let awaited = |left: &&Left| sweep.awaited.is_none_or(|devices| devices.contains(&left.device));
        let again = undone.left.iter().filter(awaited).any(|left| {
            !matches!(left.why, Why::Failed { again: false, .. } | Why::Labelled { again: false, .. })
        });
        if !again || last {
            undone.done = done;
            return Ok((guard, undone));
        }
        drop(guard);
        host.machine().sleep(pause.min(deadline.saturating_sub(host.now())));
        pause = (pause * 2).min(LOOK_AGAIN_AT_LAST);
    }
}

/// The devices that are meant and that somebody has open. Nobody looks at the node of one that another domain has claimed
/// since, or is about to.
fn in_use(host: &Host, guard: &Guard<'_>, meant: &dyn Fn(&DeviceId) -> bool) -> Vec<Left> {
    let mut left: Vec<Left> = Vec::new();
    let ours = |entry: &Entry, device: &DeviceId| {
        guard.owns(device).unwrap_or(true) || (entry.state.outlives_the_claim() && guard.is_unclaimed(device))
    };
    for entry in guard.steps().iter().filter(|entry| meant(entry.step.device())) {
        let device = entry.step.device();
        if left.iter().all(|known| known.device != *device) && ours(entry, device) {
            left.extend(held(host, device).map(|why| Left { device: device.clone(), why }));
        }
    }
    left
}

/// Undoes the record's steps in reverse, never stopping at one that fails, and ends the run if it is about all of
/// them. `deadline`: of the event that will otherwise try again; `None` if it will not.
pub(crate) fn unwind(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    back: Back,
    within: &dyn Fn(&DeviceId) -> bool,
    deadline: Option<Duration>,
) -> Undone {
    let host = means.host;
    // Nothing to do is nothing to write: the record of a domain that runs and is merely in the way stays as it is. Where
    // only kept devices are left, the run may be yet to be ended, or a writer that died may have left its file: the
    // save at the end deals with both.
    let only_kept = guard.steps().iter().all(|entry| entry.state == State::Kept);
    if !only_kept && !guard.steps().iter().any(|entry| within(entry.step.device())) {
        return Undone::default();
    }
    // The event's limit is for waiting. Many removals on a busy host take longer than that without one of them being
    // blocked, and the last ones are not to be reported as pending for it.
    let limit = |left: &[Left]| match deadline {
        Some(deadline) if left.iter().any(|left| matches!(left.why, Why::Pending { .. })) => {
            deadline.saturating_sub(host.now()).clamp(CHILD_AT_LEAST, CHILD)
        }
        _ => CHILD,
    };
    let patient = deadline.is_some_and(|deadline| host.now() < deadline);
    // What cannot be written down is done all the same: release never stops at an error, and where it has come to can
    // be seen on the host.
    let noted = |saved: Result<(), Trouble>| {
        if let Err(trouble) = saved {
            log::warn!("{trouble}");
        }
    };
    let ran = guard
        .record()
        .is_some_and(|record| matches!(record.phase, Phase::Starting | Phase::Running | Phase::Releasing));
    let whole = guard.steps().iter().all(|entry| entry.state == State::Kept || within(entry.step.device()));
    // Reaches the disk before the first effect: with the mark of the device that goes, where that is the first.
    let mut unsaved = whole && back != Back::Start;
    if unsaved {
        guard.releases();
    }
    let mut undone = Undone::default();
    for at in (0..guard.steps().len()).rev() {
        let Some(entry) = guard.steps().get(at).cloned() else { continue };
        if !within(entry.step.device()) {
            continue;
        }
        let step = match back {
            Back::Start => entry.step.inverse(),
            // What was to go goes, `keep` or not.
            Back::Release if entry.state == State::Undoing => entry.step.removal(),
            Back::Release => entry.step.release(),
            Back::Nothing => entry.step.removal(),
        };
        // Whoever waits in the driver for it would be waited for again.
        let is_pending =
            |left: &Left| left.device == *entry.step.device() && matches!(left.why, Why::Pending { .. });
        let pending = undone.left.iter().any(is_pending);
        let limit = limit(&undone.left);
        let mut stays = |guard: &mut Guard<'_>, device: &DeviceId, why: Why| {
            // Who has it open is looked up when somebody asks: it changes.
            let writer = if let Why::Pending { writer } = &why { *writer } else { None };
            guard.leave(at, (!matches!(why, Why::Held { .. })).then(|| why.to_string()), writer);
            undone.left.push(Left { device: device.clone(), why });
        };
        // A driver that has not returned from the last write would not return from another either.
        let writer = entry.writer.filter(|writer| daemon::is_alive(host, *writer));
        let marks = matches!(entry.state, State::Intended | State::Done);
        if unsaved && !(marks && matches!(step, Some(Step::Destroy { .. }))) {
            noted(guard.save());
            unsaved = false;
        }
        match (&entry.step, step) {
            (Step::Create { device, place, .. }, _)
                if entry.state == State::Kept && back != Back::Nothing =>
            {
                if has_gone(host, device, place) {
                    match guard.unclaim(device) {
                        Ok(()) => guard.remove(at),
                        Err(trouble) => stays(guard, device, trouble.into()),
                    }
                }
            }
            (_, Some(Step::Destroy { .. })) if pending => {}
            (_, Some(Step::Destroy { device, place })) => {
                let owns = match guard.owns(&device) {
                    Ok(owns) => owns,
                    Err(trouble) => {
                        stays(guard, &device, trouble.into());
                        continue;
                    }
                };
                if !(owns || (entry.state.outlives_the_claim() && guard.is_unclaimed(&device))) {
                    guard.remove_from(at, &device);
                    continue;
                }
                if entry.state != State::Undoing {
                    noted(guard.mark(at, State::Undoing));
                    unsaved = false;
                }
                match destroy(means, &device, &place, ran && patient, limit, writer) {
                    Ok(existed) => {
                        // A claim that stays needs its record to be found by; and so does a label that could not be put
                        // back, where the node outlives the type.
                        if !outlived_by_its_label(guard, at, &device) {
                            match guard.unclaim(&device) {
                                Ok(()) => {
                                    guard.remove_from(at, &device);
                                    // What could not be taken back of it before has gone with it.
                                    undone.left.retain(|left| left.device != device);
                                }
                                Err(trouble) => stays(guard, &device, trouble.into()),
                            }
                        }
                        // What an earlier write has come to in the meantime is our doing as well.
                        if existed || entry.writer.is_some() {
                            undone.done.push(Step::Destroy { device, place });
                        }
                    }
                    Err(why) => stays(guard, &device, why),
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
            // Its labels go before it does.
            (Step::Use { device, .. }, _)
                if guard.steps().iter().skip(at + 1).any(|later| later.step.device() == device) =>
            {
                guard.leave(at, None, None);
            }
            (Step::Use { device, .. }, _) => match guard.unclaim(device) {
                Ok(()) => guard.remove(at),
                Err(trouble) => stays(guard, device, trouble.into()),
            },
            // Another domain has claimed it since: nobody looks at its node.
            (Step::Online { device }, _)
                if !guard.is_unclaimed(device) && guard.owns(device).is_ok_and(|owns| !owns) =>
            {
                guard.remove(at);
            }
            (Step::Online { device }, Some(_)) if writer.is_some() => {
                stays(guard, device, Why::Pending { writer });
            }
            (_, Some(back @ Step::Offline { .. })) => match take_offline(host, &back, limit) {
                Ok(()) => guard.remove(at),
                Err(why) => stays(guard, back.device(), why),
            },
            (_, Some(back @ (Step::Unlabel { .. } | Step::Withdraw { .. }))) => {
                if entry.state != State::Undoing {
                    noted(guard.mark(at, State::Undoing));
                }
                match unlabel(means, guard, &back) {
                    Ok(()) => guard.remove(at),
                    Err(trouble) => {
                        let again = is_passing(&trouble.error);
                        stays(guard, back.device(), Why::Labelled { what: trouble.to_string(), again });
                    }
                }
            }
            (_, _) => guard.remove(at),
        }
    }
    noted(guard.end());
    undone
}

/// A virtual function has its nodes whatever its type is: they stay as they are until somebody puts them back.
fn outlived_by_its_label(guard: &Guard<'_>, at: usize, device: &DeviceId) -> bool {
    let is_label = |step: &Step| matches!(step, Step::Label { .. }) && step.device() == device;
    matches!(device, DeviceId::Vf(_)) && guard.steps().iter().skip(at + 1).any(|later| is_label(&later.step))
}
