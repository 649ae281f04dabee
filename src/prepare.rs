//! The prepare event: the devices that a domain wants are made before libvirt looks at anything of it.

use std::time::Duration;

use crate::backend::{self, nvidia};
use crate::config::Config;
use crate::domain::Domain;
use crate::execute::{self, Means};
use crate::host::daemon::Process;
use crate::host::udev::Watch;
use crate::host::{Host, see};
use crate::ids::DeviceId;
use crate::plan;
use crate::ready::{Patience, unless_late};
use crate::reap;
use crate::record::{Answers, Records};
use crate::refusal::Refusal;
use crate::request::{Request, requests};
use crate::seen::Sight;
use crate::start;
use crate::step::Step;
use crate::undo::{self, Back, Sweep};

/// How soon to look again for what somebody else is making, and how soon to try again to make it, were that given up.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Makes the devices that a domain wants, or says why not. `caller` is the daemon that is starting it.
pub fn prepare(
    host: &Host,
    config: Config,
    mut domain: Domain,
    caller: Option<Process>,
) -> Result<(), Refusal> {
    let records = Records::new(host);
    let means = Means { host, records: &records, waits: config.waits };
    if domain.is_plain() {
        let sweep = Sweep { awaited: Some(&[]), ..Sweep::of_domain(means.waits.release) };
        undo::settle(means, &domain.uuid, sweep)?.1.report();
        return Ok(());
    }
    let done = prepare_patiently(means, config, &mut domain, caller);
    // Its claims stand in their place; and a domain that is refused does not come.
    let has_functions = domain.wanted.iter().any(|wanted| wanted.uuid.is_none());
    for pci in domain.pcis.iter().filter(|_| has_functions) {
        records.end_reservation(&pci.address, &domain.uuid);
    }
    done
}

/// The same, with what is yet to come.
fn prepare_patiently(
    means: Means<'_>,
    config: Config,
    domain: &mut Domain,
    caller: Option<Process>,
) -> Result<(), Refusal> {
    let mut patience = Patience::new(means.host, means.records, config.waits);
    loop {
        match prepare_now(means, config, domain, caller) {
            Err(refusal) => patience.outlast(refusal, |missing| domain.relocate(missing))?,
            done => return done,
        }
    }
}

/// The same, with what is there now.
fn prepare_now(
    means: Means<'_>,
    config: Config,
    domain: &Domain,
    caller: Option<Process>,
) -> Result<(), Refusal> {
    let host = means.host;
    let requests = requests(domain, |address| nvidia::function(host, address))?;
    start::judge(host, domain, config.labels, caller, &[])?;
    let mut sights = Vec::new();
    let attempt = |sights: &mut _| make(means, config, domain, &requests, caller, sights);
    let mut done = attempt(&mut sights);
    // It may have been another domain's that was just being released: its device and its claim are not read at once.
    if matches!(done, Err(Refusal::Vanished { .. } | Refusal::OtherDevice { .. })) {
        done = attempt(&mut sights);
    }
    let deadline = host.now() + means.waits.driver;
    while let (Err(Refusal::MadeMeanwhile { device, .. }), true) = (&done, host.now() < deadline) {
        await_other(host, device, deadline);
        done = attempt(&mut sights);
    }
    match done {
        // Not every driver has a word of its own for having no room.
        Err(refusal @ (Refusal::NoRoom { .. } | Refusal::ClaimedByOther { .. } | Refusal::Create { .. })) => {
            let device = match &refusal {
                Refusal::ClaimedByOther { device, .. } => Some(device),
                _ => None,
            };
            // What a dead start left may not stand in the way of another domain.
            let again = match reap::make_room(means, &domain.uuid, device, &sights)? {
                true => attempt(&mut sights),
                false => Err(refusal),
            };
            again.map_err(|refusal| unless_late(refusal, &sights))
        }
        done => done,
    }
}

/// Somebody else is making the device, mdevctl at boot for one: its uuid is taken before its driver has begun, and its type
/// is shown once that is through (`mdev_device_create`).
fn await_other(host: &Host, device: &DeviceId, deadline: Duration) {
    let until = deadline.min(host.now() + TRY_AGAIN);
    // At least once, whatever is seen: nobody is asked without a pause.
    loop {
        host.machine().sleep(LOOK_AGAIN);
        if host.now() >= until || matches!(backend::located(host, device), Ok(Some(_))) {
            return;
        }
    }
}

/// One attempt at it. `sights` is filled with what was seen for each request.
fn make(
    means: Means<'_>,
    config: Config,
    domain: &Domain,
    requests: &[Request],
    caller: Option<Process>,
    sights: &mut Vec<Sight>,
) -> Result<(), Refusal> {
    let host = means.host;
    let asked: Vec<DeviceId> = requests.iter().map(|request| request.device.clone()).collect();
    // What the domain does not want any more is nothing that its start should fail or wait for.
    let sweep = Sweep { awaited: Some(&asked), ..Sweep::of_domain(means.waits.release) };
    let (mut guard, undone) = undo::settle(means, &domain.uuid, sweep)?;
    undone.report();
    if let Some(left) = undone.left.into_iter().find(|left| asked.contains(&left.device)) {
        return Err(left.refusal());
    }
    let seen = see::see(host, means.records, &domain.uuid, requests, config.definitions)?;
    sights.clone_from(&seen.sights);
    let plan = plan::prepare(&domain.uuid, requests, &seen, config.placement)?;
    for note in &plan.notes {
        log::warn!("{note}");
    }
    if plan.steps.is_empty() {
        return Ok(());
    }
    // A virtual function has had its node since its driver was bound: nothing new comes of its type.
    let made: Vec<_> = plan
        .steps
        .iter()
        .filter(|planned| matches!(planned.step, Step::Create { device: DeviceId::Mdev(_), .. }))
        .map(|planned| planned.step.device().clone())
        .collect();
    let watch = if made.is_empty() { None } else { Watch::start(host) };
    execute::carry_out(means, &mut guard, &domain.name, &plan, caller.map(Answers::Starting))?;
    if let Err(refusal) = start::judge(host, domain, config.labels, caller, &plan.devices()) {
        undo::unwind(means, &mut guard, Back::Start, &|_| true, None).report();
        return Err(refusal);
    }
    // Not before all is done: what has failed leaves nothing.
    if !plan.stay.is_empty() {
        plan.stay.iter().for_each(|device| guard.disown(device));
        // Otherwise they go with the domain.
        if let Err(trouble) = guard.save() {
            log::warn!("{trouble}");
        }
    }
    // No lock is held while udev is waited for.
    drop(guard);
    if watch.is_some_and(|watch| !watch.wait(host, &made, means.waits.udev)) {
        log::warn!("udev has not dealt with the new nodes within {:?}; going on", means.waits.udev);
    }
    Ok(())
}
