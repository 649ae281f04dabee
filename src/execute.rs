//! Steps → effects: the intent is recorded, the step is done, the outcome is recorded; on an error the prefix is
//! undone in reverse.

use std::time::Duration;

use rustix::io::Errno;

use crate::backend::{self, Backend};
use crate::config::Waits;
use crate::host::{Host, Lock, Trouble, daemon, node, see};
use crate::ids::{AttributeName, DeviceId};
use crate::plan::{Plan, Planned, held_by};
use crate::record::{Answers, Guard, Named, Phase, Records, State};
use crate::refusal::Refusal;
use crate::step::{Place, Step};
use crate::undo::{self, Back};

/// How long the lock of a card is waited for that was waited for in vain.
const ONCE_MORE: Duration = Duration::from_millis(100);

/// What steps need besides themselves.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Its records.
    pub records: &'a Records,
    /// Limits.
    pub waits: Waits,
}

/// Carries out a prepare's plan: all of it, or nothing of it is left.
pub fn carry_out(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    name: &str,
    plan: &Plan,
    answers: Option<Answers>,
) -> Result<(), Refusal> {
    let done = go_through(means, guard, name, plan, answers);
    if done.is_err() {
        undo::unwind(means, guard, Back::Start, &|_| true, None).report();
    }
    done
}

fn go_through(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    name: &str,
    plan: &Plan,
    answers: Option<Answers>,
) -> Result<(), Refusal> {
    guard.begin(name)?;
    perform_all(means, guard, plan, answers)?;
    match answers {
        // Nobody would ever tell us that the domain has gone.
        Some(Answers::Starting(daemon)) if !daemon::is_alive(means.host, daemon) => {
            Err(Refusal::DaemonGone { pid: daemon.pid })
        }
        _ => Ok(guard.advance(Phase::Prepared, answers)?),
    }
}

/// Carries out a plan for a domain that runs: all of it, or nothing of it is left, and what the domain has is untouched.
pub fn add(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    name: &str,
    plan: &Plan,
    answers: Option<Answers>,
) -> Result<(), Refusal> {
    guard.join(name)?;
    let done = perform_all(means, guard, plan, answers).and_then(|()| Ok(guard.save()?));
    if done.is_err() {
        let added = plan.devices();
        undo::unwind(means, guard, Back::Start, &|device| added.contains(device), None).report();
        // What was refused by the last place stands in the file yet, as intended.
        if let Err(trouble) = guard.end() {
            log::warn!("{trouble}");
        }
    }
    done
}

fn perform_all(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    plan: &Plan,
    answers: Option<Answers>,
) -> Result<(), Refusal> {
    let mut busy = Vec::new();
    for planned in &plan.steps {
        log::info!(VIRT_MDEV_UUID:% = planned.step.device(); "{}", planned.step);
        perform(means, guard, &planned.step, answers, &mut busy)?;
    }
    Ok(())
}

/// Carries out a start's plan. What is done when it fails is undone by the release that libvirt calls then.
pub fn label(means: Means<'_>, guard: &mut Guard<'_>, plan: &Plan) -> Result<(), Refusal> {
    label_nodes(means, guard, plan)?;
    Ok(guard.advance(Phase::Starting, None)?)
}

/// The same for what is plugged into a domain that runs.
pub fn label_nodes(means: Means<'_>, guard: &mut Guard<'_>, plan: &Plan) -> Result<(), Refusal> {
    for Planned { step, .. } in &plan.steps {
        log::info!(VIRT_MDEV_UUID:% = step.device(); "{step}");
        let answers = guard.steps().iter().find(|entry| entry.step.device() == step.device());
        perform(means, guard, step, answers.and_then(|entry| entry.answers), &mut Vec::new())?;
    }
    let profile = plan.steps.iter().find_map(|planned| match &planned.step {
        Step::Allow { profile, .. } => Some(profile),
        _ => None,
    });
    Ok(profile.map_or(Ok(()), |profile| node::load(means.host, profile))?)
}

/// `busy`: the cards whose lock has been waited for in vain, as of one whose driver does not answer.
fn perform(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    step: &Step,
    answers: Option<Answers>,
    busy: &mut Vec<String>,
) -> Result<(), Refusal> {
    match step {
        Step::Create { device, place, keep, otherwise } => {
            let mut refused = Vec::new();
            // The places of one card follow one another: its lock is taken once for all of them, so that of many
            // prepares at once each waits for a card once.
            let mut locked: Option<(String, Lock)> = None;
            let mut skipped = None;
            for place in std::iter::once(place).chain(otherwise) {
                let card = backend::card(means.host, place);
                if locked.as_ref().is_none_or(|(of, _)| *of != card) {
                    drop(locked.take());
                    if skipped.as_ref() == Some(&card) {
                        continue;
                    }
                    let limit = match busy.is_empty() {
                        true => means.waits.lock,
                        false if busy.contains(&card) => ONCE_MORE,
                        // Where one hangs others may, and a start is not to wait as long for each.
                        false => means.waits.lock / 10,
                    };
                    match means.records.lock_card(&card, limit) {
                        Ok(lock) => locked = Some((card, lock)),
                        // Another card may answer.
                        Err(trouble) => {
                            refused.push(trouble.into());
                            busy.push(card.clone());
                            skipped = Some(card);
                            continue;
                        }
                    }
                }
                match create(means, guard, device, place, *keep, answers)? {
                    Tried::Made => {
                        for refusal in refused {
                            log::warn!(VIRT_MDEV_UUID:% = device; "{refusal}");
                        }
                        return Ok(());
                    }
                    Tried::Full => {
                        log::info!(VIRT_MDEV_UUID:% = device; "{place} has no room for {device} after all");
                    }
                    Tried::Refused(refusal) => refused.push(refusal),
                }
            }
            drop(locked);
            let mut refused = refused.into_iter();
            let first = refused.next();
            for refusal in refused {
                log::warn!(VIRT_MDEV_UUID:% = device; "{refusal}");
            }
            Err(match first {
                Some(refusal) => refusal,
                None => no_room(means, place)?,
            })
        }
        Step::Adopt { device, .. } => {
            let at = guard.steps().iter().position(|entry| {
                let made = matches!(&entry.step, Step::Create { device: kept, .. } if kept == device);
                made && entry.state == State::Kept
            });
            if let Some(at) = at {
                guard.replace(at, step.clone(), State::Done, answers)?;
            }
            match guard.claim(device, means.waits.lock)? {
                None => Ok(()),
                Some(owner) => Err(claimed_meanwhile(device, owner)),
            }
        }
        Step::Use { device, place } => {
            guard.intend(step.clone(), answers)?;
            claim(means, guard, device)?;
            guard.done();
            // Until the claim was made, whoever made the device could take it away.
            match backend::located(means.host, device)? {
                Some(found) if found.is_at(place) => Ok(()),
                _ => Err(Refusal::Vanished { device: device.clone() }),
            }
        }
        Step::Attribute { device, name, value } => {
            guard.intend(step.clone(), answers)?;
            backend::write_attribute(means.host, device, name, value)
                .map_err(|trouble| refused_attribute(device, name, value, &trouble))?;
            guard.done();
            Ok(())
        }
        Step::Online { device } => {
            guard.intend(step.clone(), answers)?;
            backend::set_online(means.host, device, true)
                .map_err(|trouble| Refusal::Online { device: device.clone(), why: trouble.to_string() })?;
            guard.done();
            Ok(())
        }
        Step::Label { device, node, label, .. } => once(guard, step, answers, || {
            // The helper of udev that has not seen this in the record is through with the node before it gets the label.
            let _lock = means.records.lock_labels(means.waits.lock)?;
            // Groups are numbered anew, where a driver was loaded anew while the lock was waited for.
            if !node::of(means.host, device)?.contains(node) {
                let path = means.host.path(&format!("dev/{node}"));
                return Err(Trouble::new(
                    "label",
                    &path,
                    std::io::Error::other(format!("it is no node of {device} any more")),
                ));
            }
            node::put(means.host, node, label, None).map(drop)
        }),
        Step::Allow { node, profile, .. } => {
            once(guard, step, answers, || node::allow(means.host, profile, node))
        }
        // The way back is `undo`'s: it asks first whose the device is and who has it open.
        Step::Offline { .. } | Step::Unlabel { .. } | Step::Withdraw { .. } | Step::Destroy { .. } => {
            Err(Refusal::Io { what: format!("cannot {step}"), why: "no plan takes anything away".to_owned() })
        }
    }
}

/// A start may be called again for a domain that is being started: what it did the first time stands in the record.
fn once(
    guard: &mut Guard<'_>,
    step: &Step,
    answers: Option<Answers>,
    act: impl FnOnce() -> Result<(), Trouble>,
) -> Result<(), Refusal> {
    let at = guard.steps().iter().position(|entry| entry.step.is_again(step));
    match at {
        Some(at) => guard.replace(at, step.clone(), State::Intended, answers)?,
        None => guard.intend(step.clone(), answers)?,
    }
    act()?;
    match at {
        Some(at) => guard.mark(at, State::Done)?,
        None => guard.done(),
    }
    Ok(())
}

fn refused_attribute(device: &DeviceId, name: &AttributeName, value: &str, trouble: &Trouble) -> Refusal {
    let why = match trouble.error.raw_os_error() {
        Some(_) if trouble.is(Errno::NOENT) => format!("the device has no such attribute: {trouble}"),
        Some(_) => trouble.to_string(),
        None => trouble.error.to_string(),
    };
    let (attribute, value) = (name.to_string(), value.to_owned());
    let errno = trouble.error.raw_os_error().map(Errno::from_raw_os_error);
    Refusal::Attribute { device: device.clone(), attribute, value, why, errno }
}

fn claim(means: Means<'_>, guard: &mut Guard<'_>, device: &DeviceId) -> Result<(), Refusal> {
    match guard.claim(device, means.waits.lock) {
        Ok(None) => Ok(()),
        Ok(Some(owner)) => {
            guard.forget_last();
            Err(claimed_meanwhile(device, owner))
        }
        Err(trouble) => {
            guard.forget_last();
            Err(trouble.into())
        }
    }
}

/// Since the plan was made. A step does not say who names the device.
fn claimed_meanwhile(device: &DeviceId, owner: Named) -> Refusal {
    Refusal::ClaimedByOther { device: device.clone(), owner: owner.name, in_metadata: false }
}

/// What became of making a device at one place.
enum Tried {
    Made,
    /// Somebody else was faster.
    Full,
    /// It may work elsewhere.
    Refused(Refusal),
}

/// Makes a device at one place; the caller has the lock of its card.
fn create(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    device: &DeviceId,
    place: &Place,
    keep: bool,
    answers: Option<Answers>,
) -> Result<Tried, Refusal> {
    let there = &means.host.near(&backend::place_path(place));
    match backend::free(there, place) {
        Ok(Some(0)) => return Ok(Tried::Full),
        Ok(_) => {}
        Err(trouble) => return Ok(Tried::Refused(trouble.into())),
    }
    let step = Step::Create { device: device.clone(), place: place.clone(), keep, otherwise: Vec::new() };
    guard.intend(step, answers)?;
    claim(means, guard, device)?;
    match backend::create(there, device, place) {
        Ok(()) => {
            guard.done();
            Ok(Tried::Made)
        }
        Err(trouble) => {
            let refusal =
                |why| Refusal::Create { device: device.clone(), place: Box::new(place.clone()), why };
            // Somebody else has made what is there since we looked (NVIDIA's for a function that has a vGPU: EPERM). After
            // any other error the kernel's mdev has made nothing, but a driver of another interface may have: then it is
            // undone with the rest.
            let nvidias = place.backend == Backend::Nvidia && trouble.is(Errno::PERM);
            let theirs = trouble.is(Errno::EXIST) || nvidias;
            if !theirs && !matches!(backend::located(means.host, device), Ok(None)) {
                return Err(refusal(format!("the driver made it and failed: {trouble}")));
            }
            // Before the claim goes: whoever finds the step takes away what is there.
            guard.forget_last();
            if theirs {
                guard.save()?;
            }
            guard.unclaim(device)?;
            if theirs {
                let (device, place) = (device.clone(), Box::new(place.clone()));
                return Err(Refusal::MadeMeanwhile { device, place, why: trouble.to_string() });
            }
            // EUSERS is the kernel's own word for it, where a driver only says how many there may be (`mdev_device_create`).
            if trouble.is(Errno::NOSPC) || trouble.is(Errno::USERS) {
                return Ok(Tried::Full);
            }
            // Others have none of their own.
            if matches!(backend::free(means.host, place), Ok(Some(0))) {
                log::warn!(VIRT_MDEV_UUID:% = device; "{trouble}");
                return Ok(Tried::Full);
            }
            Ok(Tried::Refused(refusal(trouble.to_string())))
        }
    }
}

fn no_room(means: Means<'_>, place: &Place) -> Result<Refusal, Trouble> {
    let holders = see::holders(means.host, means.records, place)?;
    let free = backend::free(means.host, place)?.unwrap_or(0);
    let left = match held_by(&holders.iter().collect::<Vec<_>>()) {
        held if held.is_empty() => format!("{free} left"),
        held => format!("{free} left, held by {held}"),
    };
    let (what, place) = (place.kind.to_string(), place.parent.to_string());
    Ok(Refusal::NoRoom { what, place, left, hint: None })
}
