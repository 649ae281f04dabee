//! `virt-mdev autostart`: brings up what mdevctl's definitions of a parent say is to start with it. A unit runs it for
//! udev. Each device is made whole or not at all, by way of a record of its own, and is then nobody's, as if mdevctl had
//! made it: a domain uses it and leaves it.

use std::fmt::Write as _;
use std::time::Duration;

use uuid::Uuid;

use super::Failure;
use crate::backend;
use crate::config::{Config, Waits};
use crate::execute::{self, Means};
use crate::host::{Host, daemon, definitions, see};
use crate::ids::{DeviceId, DomainUuid, MdevUuid, Parent};
use crate::plan;
use crate::ready::Patience;
use crate::record::{Answers, Records};
use crate::refusal::Refusal;
use crate::request::Request;
use crate::step::Step;
use crate::undo::{self, Sweep};
use crate::words::printable;

/// How long one device waits for others of its card.
const LOCK: Duration = Duration::from_secs(10 * 60);

pub(super) fn run(host: &Host, parent: &str) -> Result<String, Failure> {
    let parent = Parent::parse(parent)
        .map_err(|why| Failure::new(format!("{} is no name of a parent: {why}", printable(parent))))?;
    // A unit runs this at every boot, a wrong word in the configuration or not.
    let config = Config::load_or_default(host);
    let records = Records::new(host);
    let mut patience = Patience::new(host, &records, config.waits);
    let (mut said, mut failed) = (String::new(), 0);
    for name in definitions::names(host, &parent)? {
        let Ok(uuid) = MdevUuid::parse(&name) else {
            log::warn!("/{} is left out: its name is no uuid", definitions::path(&parent, &printable(&name)));
            continue;
        };
        let done = loop {
            match bring_up(host, &records, config, &parent, &uuid) {
                // The driver has registered, and its types come with the vendor's service.
                Err(refusal) => match patience.outlast(refusal, |_| false) {
                    Ok(()) => {}
                    Err(refusal) => break Err(refusal),
                },
                done => break done,
            }
        };
        match done {
            Ok(Some(line)) => {
                let _ = writeln!(said, "{line}");
            }
            // A domain or mdevctl has made it in the meantime, or is about to.
            Ok(None) | Err(Refusal::ClaimedByOther { .. } | Refusal::MadeMeanwhile { .. }) => {}
            // One that is damaged, or finds no room, is no reason to leave the others down.
            Err(refusal) => {
                failed += 1;
                let hint = refusal.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                log::error!("{refusal}{hint}");
            }
        }
    }
    match failed {
        0 => Ok(said),
        failed => Err(Failure {
            before: said,
            text: format!("{failed} of the devices defined for {parent} could not be brought up"),
            ..Failure::default()
        }),
    }
}

/// One device. `None`: there is nothing to do for it.
fn bring_up(
    host: &Host,
    records: &Records,
    config: Config,
    parent: &Parent,
    uuid: &MdevUuid,
) -> Result<Option<String>, Refusal> {
    let (device, path) = (DeviceId::Mdev(uuid.clone()), format!("/{}", definitions::path(parent, uuid)));
    let definition =
        definitions::of(host, parent, uuid).map_err(|bad| Refusal::Definition { path: path.clone(), bad })?;
    if !definition.auto {
        return Ok(None);
    }
    // Hundreds of functions of a card are a unit each, and nobody waits for them.
    let waits = Waits { lock: LOCK.max(config.waits.lock), ..config.waits };
    let means = Means { host, records, waits };
    let nobody = nobody(&device)?;
    // What has a record was begun and not finished, and is made anew.
    if !records.has(&nobody) && backend::existing(host, &device)?.is_some() {
        return Ok(None);
    }
    let (mut guard, undone) = undo::settle(means, &nobody, Sweep::of_domain(config.waits.release))?;
    if let Some(left) = undone.left.into_iter().next() {
        return Err(Refusal::Remove { device: left.device, why: left.why.to_string() });
    }
    let (wish, kind) = (definition.kind.clone(), definition.kind.as_id());
    let request = Request {
        device: device.clone(),
        wanted: Some(definition.wanted(uuid.clone(), parent.clone())),
        model: None,
        opened: true,
        managed: false,
    };
    let requests = [request];
    let seen = see::see(host, records, &nobody, &requests, false)?;
    let plan =
        plan::prepare(&nobody, &requests, &seen, config.placement).map_err(|refusal| match refusal {
            claimed @ Refusal::ClaimedByOther { .. } => claimed,
            other => {
                Refusal::Defined { device: device.clone(), path: path.clone(), refusal: Box::new(other) }
            }
        })?;
    // To mdevctl a vendor's name for a type is none.
    let by_name = |step: &Step| step.place().is_some_and(|place| place.kind != kind);
    if plan.steps.iter().any(|planned| by_name(&planned.step)) {
        let known = backend::detect(host, parent)?.map(|backend| backend.known(host, parent));
        let known = known.transpose()?.unwrap_or_default();
        let refusal =
            Refusal::NoSuchType { wish, parents: vec![parent.clone()], known, meant: None, clue: None };
        return Err(Refusal::Defined { device, path, refusal: Box::new(refusal) });
    }
    let own = daemon::own(host);
    execute::carry_out(means, &mut guard, &format!("definition/{uuid}"), &plan, own.map(Answers::Starting))?;
    guard.give_away(&device)?;
    Ok(Some(format!("started {device} on {parent}")))
}

/// Whose the device is while it is made.
fn nobody(device: &DeviceId) -> Result<DomainUuid, Refusal> {
    let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("virt-mdev autostart {device}").as_bytes());
    DomainUuid::parse(&uuid.to_string()).map_err(|why| io(device, &why))
}

fn io(device: &DeviceId, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::Io { what: format!("cannot name what is recorded of {device}"), why: why.to_string() }
}
