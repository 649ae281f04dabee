//! One call of libvirt's hook, from its arguments to its exit status.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::backend::{self, nvidia};
use crate::config::Config;
use crate::domain::{self, Domain, MAX_XML};
use crate::event::{Action, Call, Event};
use crate::execute::{self, Context};
use crate::host::udev::Watch;
use crate::host::{Host, child, daemon, journal, see};
use crate::ids::{DeviceId, DomainUuid};
use crate::plan;
use crate::record::{Answers, Phase, Records};
use crate::refusal::Refusal;
use crate::request::requests;
use crate::step::Step;
use crate::undo;
use crate::words::printable;

/// What `virt-mdev-hook` does. `args` are its arguments without the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    if let Some(status) = child::run_if_child(&args) {
        return ExitCode::from(status);
    }
    // Session daemons run the system's hooks too, as their user.
    if !rustix::process::geteuid().is_root() {
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let Some(call) = Call::parse(&args) else { return ExitCode::SUCCESS };
    // What we make is to be readable for all whatever the daemon's umask is.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let host = Host::real();
    match call.event.action() {
        Action::Nothing => ExitCode::SUCCESS,
        Action::Prepare => prepare(&host, &call).map_or_else(
            |refusal| {
                refuse(&call.name, &refusal);
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        ),
        // libvirt kills the domain if a reconnect fails, and ignores the status of a release. Neither may fail for
        // anything, a mistake of ours included.
        Action::Follow(event) => never_fail(&call, || follow(&host, &call, event)),
        Action::Release => never_fail(&call, || release(&host, &call)),
    }
}

fn never_fail(call: &Call, act: impl FnOnce() -> Result<(), Refusal>) -> ExitCode {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)) {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => refuse(&call.name, &refusal),
        Err(_) => {
            log::error!("{}: a defect of virt-mdev; the record is as it was last written", call.event.word())
        }
    }
    ExitCode::SUCCESS
}

/// The one place outside `src/cli` that prints: libvirt shows this to the user of `virsh`.
fn refuse(name: &str, refusal: &Refusal) {
    log::error!("{refusal}");
    // Nobody reads it: nothing to do about that.
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {}: {refusal}", printable(name));
    if let Some(hint) = refusal.hint() {
        log::error!("hint: {hint}");
        let _ = writeln!(stderr, "hint: {hint}");
    }
}

/// At most `limit` bytes of stdin; libvirt does not mind that the rest is left.
fn read_stdin(limit: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(limit.min(64 * 1024));
    // An error leaves what came before it, and that is judged.
    let _ = io::stdin().lock().take(limit as u64).read_to_end(&mut bytes);
    bytes
}

fn prepare(host: &Host, call: &Call) -> Result<(), Refusal> {
    let domain = Domain::read(&read_stdin(MAX_XML + 1))?;
    let records = Records::new(host);
    if domain.is_plain() && !records.has(&domain.uuid) {
        return Ok(());
    }
    let (config, warnings) = Config::load(host)?;
    if !config.enabled {
        return Ok(());
    }
    journal::start(&call.name);
    for warning in warnings {
        log::warn!("/{}: {warning}", crate::config::PATH);
    }
    let context = Context { host, records: &records, waits: config.waits };
    let requests = requests(&domain, |address| nvidia::is_vgpu(host, address))?;
    let (mut guard, left) = undo::settle(context, &domain.uuid)?;
    if let Some(left) = left.into_iter().next() {
        return Err(Refusal::Remove { uuid: left.device, why: left.why.to_string() });
    }
    let seen = see::see(host, &records, &domain.uuid, &requests)?;
    let plan = plan::prepare(&domain.uuid, &requests, &seen, config.placement)?;
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
    let answers = daemon::caller(host).map(Answers::Starting);
    execute::carry_out(context, &mut guard, &domain.name, &plan, answers)?;
    // No lock is held while udev is waited for.
    drop(guard);
    if watch.is_some_and(|watch| !watch.wait(host, &made, config.waits.udev)) {
        log::warn!("udev has not dealt with the new nodes within {:?}; going on", config.waits.udev);
    }
    Ok(())
}

/// The domain that the call is about: the UUID of its XML, or else what was recorded under its name.
fn whose(records: &Records, call: &Call) -> Option<DomainUuid> {
    domain::uuid_in(&read_stdin(64 * 1024))
        .or_else(|| records.by_name(&call.name))
        .filter(|domain| records.has(domain))
}

/// The record follows what libvirt says of the domain.
fn follow(host: &Host, call: &Call, event: Event) -> Result<(), Refusal> {
    let records = Records::new(host);
    let Some(domain) = whose(&records, call) else { return Ok(()) };
    journal::start(&call.name);
    let config = Config::load_or_default(host);
    let mut guard = records.lock(&domain, config.waits.lock)?;
    match event {
        Event::Start => guard.advance(Phase::Starting, None)?,
        Event::Started | Event::Reconnect => guard.advance(Phase::Running, Some(Answers::Running))?,
        _ => {}
    }
    for (device, place, ..) in guard.record().iter().flat_map(|record| record.devices()) {
        if !backend::is_there(host, device, place) {
            log::error!(VIRT_MDEV_UUID:% = device; "device {device}, {place}, is gone although the domain has it");
        }
    }
    Ok(())
}

fn release(host: &Host, call: &Call) -> Result<(), Refusal> {
    let records = Records::new(host);
    let Some(domain) = whose(&records, call) else { return Ok(()) };
    journal::start(&call.name);
    let config = Config::load_or_default(host);
    let context = Context { host, records: &records, waits: config.waits };
    let (_guard, left) = undo::settle(context, &domain)?;
    undo::report(&left);
    Ok(())
}
