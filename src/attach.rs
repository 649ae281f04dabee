//! A device's life around a hot-plug: made, labelled and recorded before `virsh attach-device`, and taken away after
//! `virsh detach-device`. The domain's record has it beside what the start made, and its release takes both.

use std::time::Duration;

use crate::backend;
use crate::config::Config;
use crate::domain::{Domain, MdevHostdev, PciHostdev};
use crate::execute::{self, Means};
use crate::host::udev::Watch;
use crate::host::{Trouble, daemon, see};
use crate::ids::{DeviceId, DomainUuid};
use crate::plan::{self, Plan};
use crate::reap;
use crate::record::{Answers, Guard, State};
use crate::refusal::Refusal;
use crate::request::{Request, check_attributes};
use crate::seen::Sight;
use crate::start;
use crate::step::{Place, Step};
use crate::undo::{self, Sweep, Undone};

/// A device that is ready for the domain to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Which.
    pub device: DeviceId,
    /// Where.
    pub place: Place,
    /// What QEMU will speak to it (`model` of the hostdev).
    pub api: String,
}

/// Makes a device for a domain that runs. `answers`: who answers for it from the first step on.
pub fn make(
    means: Means<'_>,
    config: Config,
    domain: &Domain,
    request: &Request,
    answers: Answers,
) -> Result<Made, Refusal> {
    if let (DeviceId::Vf(_), Some(wanted)) = (&request.device, &request.wanted) {
        check_attributes(wanted)?;
    }
    let attempt = |sights: &mut _| make_now(means, config, domain, request, answers, sights);
    let mut sights = Vec::new();
    match attempt(&mut sights) {
        // What a dead start left may not stand in the way.
        Err(Refusal::NoRoom { .. } | Refusal::Create { .. })
            if reap::make_room(means, &domain.uuid, None, &sights)? =>
        {
            attempt(&mut sights)
        }
        done => done,
    }
}

fn make_now(
    means: Means<'_>,
    config: Config,
    domain: &Domain,
    request: &Request,
    answers: Answers,
    sights: &mut Vec<Sight>,
) -> Result<Made, Refusal> {
    // What nobody answers for any more: a device that was unplugged behind our back, or of an attach that died.
    let sweep = Sweep { abandoned: true, ..Sweep::of_domain(means.waits.release) };
    let (mut guard, undone) = undo::settle(means, &domain.uuid, sweep)?;
    undone.report();
    if is_being_started(means, &guard) {
        return Err(Refusal::BeingStarted);
    }
    let requests = std::slice::from_ref(request);
    let seen = see::see(means.host, means.records, &domain.uuid, requests, false)?;
    sights.clone_from(&seen.sights);
    let plan = plan::prepare(&domain.uuid, requests, &seen, config.placement)?;
    carry_out(means, &mut guard, domain, &plan, answers)
}

/// A daemon that is starting the domain has the record; whoever asks has seen an earlier run of it.
fn is_being_started(means: Means<'_>, guard: &Guard<'_>) -> bool {
    let starting =
        |answers| matches!(answers, Some(Answers::Starting(daemon)) if daemon::is_alive(means.host, daemon));
    guard.steps().iter().any(|entry| entry.state != State::Undoing && starting(entry.answers))
}

fn carry_out(
    means: Means<'_>,
    guard: &mut Guard<'_>,
    domain: &Domain,
    plan: &Plan,
    answers: Answers,
) -> Result<Made, Refusal> {
    let Some(device) = plan.devices().into_iter().next() else {
        return Err(Refusal::NoParents { clue: None });
    };
    execute::add(means, guard, &domain.name, plan, Some(answers))?;
    // The plan's place may have been full after all, and another taken.
    let place = guard.record().into_iter().flat_map(|record| record.devices());
    let place = place.into_iter().find(|(its, ..)| **its == device).map(|(_, place, ..)| place.clone());
    let existing = backend::existing(means.host, &device)?;
    match (place, existing) {
        (Some(place), Some(existing)) => Ok(Made { device, place, api: existing.api }),
        _ => Err(Refusal::Vanished { device }),
    }
}

/// Waits until udev has dealt with the new nodes, and gives them the labels of the domain that is to open them.
pub fn label(
    means: Means<'_>,
    config: Config,
    domain: &Domain,
    device: &DeviceId,
    watch: Option<Watch>,
) -> Result<(), Refusal> {
    if watch.is_some_and(|watch| !watch.wait(means.host, std::slice::from_ref(device), means.waits.udev)) {
        log::warn!("udev has not dealt with the new nodes within {:?}; going on", means.waits.udev);
    }
    let mut guard = means.records.lock(&domain.uuid, means.waits.lock)?;
    // No lock was held: the domain may have ended since.
    let is_its = |step: &Step| matches!(step, Step::Create { .. }) && step.device() == device;
    let Some(record) = guard
        .record()
        .filter(|record| record.steps.iter().any(|entry| entry.state == State::Done && is_its(&entry.step)))
    else {
        return Err(Refusal::Vanished { device: device.clone() });
    };
    let mut plan = start::plan(means.host, &with(domain, device), record, config.labels)?;
    plan.steps.retain(|planned| planned.step.device() == device);
    execute::label_nodes(means, &mut guard, &plan)?;
    Ok(guard.save()?)
}

/// The domain as it is once it has the device.
fn with(domain: &Domain, device: &DeviceId) -> Domain {
    let mut domain = domain.clone();
    match device {
        DeviceId::Mdev(uuid) => {
            domain.mdevs.push(MdevHostdev { uuid: uuid.clone(), model: String::new(), managed: false });
        }
        DeviceId::Vf(address) => domain.pcis.push(PciHostdev { address: address.clone(), managed: false }),
    }
    domain
}

/// From here on `answers` answers for the device: the domain that has it, for one that was plugged in.
pub fn answer(
    means: Means<'_>,
    domain: &DomainUuid,
    device: &DeviceId,
    answers: Answers,
) -> Result<(), Trouble> {
    let mut guard = means.records.lock(domain, means.waits.lock)?;
    if guard.steps().iter().any(|entry| entry.step.device() == device) {
        guard.answer(device, answers)?;
    }
    Ok(())
}

/// Takes a device away that the domain has let go, or did not get. One that somebody else made is only let go.
pub fn take(
    means: Means<'_>,
    domain: &DomainUuid,
    device: &DeviceId,
    patience: Duration,
) -> Result<Undone, Trouble> {
    let sweep = Sweep { only: Some(device), ..Sweep::of_domain(patience) };
    Ok(undo::settle(means, domain, sweep)?.1)
}
