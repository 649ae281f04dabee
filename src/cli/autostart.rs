//! `virt-mdev autostart`: brings up what mdevctl's definitions of a parent say is to start with it. A unit runs it for
//! udev. Each device is made whole or not at all, by way of a record of its own, and is then nobody's, as if mdevctl had
//! made it: a domain uses it and leaves it.

use std::fmt::Write as _;

use uuid::Uuid;

use super::Failure;
use crate::backend;
use crate::config::Config;
use crate::execute::{self, Context};
use crate::host::{Host, Trouble, daemon, definitions, see, systemd};
use crate::ids::{DeviceId, DomainUuid, MdevUuid, Parent};
use crate::plan;
use crate::record::{Answers, Records};
use crate::refusal::Refusal;
use crate::request::Request;
use crate::undo::{self, Sweep};
use crate::words::printable;

pub(super) fn run(host: &Host, parent: &str) -> Result<String, Failure> {
    let parent = Parent::parse(parent).map_err(|why| Failure {
        text: format!("{} is no name of a parent: {why}", printable(parent)),
        ..Failure::default()
    })?;
    // A unit runs this at every boot, a wrong word in the configuration or not.
    let config = Config::load_or_default(host);
    let (mut said, mut failed) = (String::new(), 0);
    for name in definitions::names(host, &parent)? {
        let Ok(uuid) = MdevUuid::parse(&name) else {
            log::warn!("/{} is left out: its name is no uuid", definitions::path(&parent, &printable(&name)));
            continue;
        };
        match bring_up(host, config, &parent, &uuid) {
            Ok(Some(line)) => {
                let _ = writeln!(said, "{line}");
            }
            Ok(None) => {}
            // One that is damaged, or finds no room, is no reason to leave the others down.
            Err(refusal) => {
                failed += 1;
                log::error!("{refusal}");
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
    let records = Records::new(host);
    let context = Context { host, records: &records, waits: config.waits };
    let nobody = nobody(&device)?;
    // What has a record was begun and not finished, and is made anew.
    if !records.has(&nobody) && backend::existing(host, &device)?.is_some() {
        return Ok(None);
    }
    let (mut guard, _) = undo::settle(context, &nobody, Sweep::of_domain(config.waits.release))?;
    let request = Request {
        device: device.clone(),
        wanted: Some(definition.wanted(uuid.clone(), parent.clone())),
        model: None,
        opened: true,
        managed: false,
    };
    let requests = [request];
    let seen = see::see(host, &records, &nobody, &requests, false)?;
    let plan = plan::prepare(&nobody, &requests, &seen, config.placement).map_err(|refusal| {
        Refusal::Defined { uuid: device.clone(), path: path.clone(), refusal: Box::new(refusal) }
    })?;
    let own = i32::try_from(std::process::id()).ok().and_then(|pid| daemon::process(host, pid));
    execute::carry_out(
        context,
        &mut guard,
        &format!("definition/{uuid}"),
        &plan,
        own.map(Answers::Starting),
    )?;
    guard.give_away(&device)?;
    Ok(Some(format!("started {device} on {parent}")))
}

/// Whose the device is while it is made.
fn nobody(device: &DeviceId) -> Result<DomainUuid, Refusal> {
    let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("virt-mdev autostart {device}").as_bytes());
    DomainUuid::parse(&uuid.to_string()).map_err(|why| Refusal::Io {
        what: format!("cannot name a record for {device}"),
        why: why.to_string(),
    })
}

/// Has systemd run this, outside udev's worker, if the configuration says so and mdevctl does not do it by itself.
pub fn tell_systemd(host: &Host, parent: &Parent, comes: bool) -> Result<(), Trouble> {
    let wanted = Config::load_or_default(host).autostart && definitions::has(host, parent);
    if !wanted || definitions::mdevctl_starts(host).is_some() {
        return Ok(());
    }
    // What a unit's name may have, and a parent's usually has.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":._".contains(&byte);
    let name = parent.to_string();
    if !name.bytes().all(plain) {
        log::warn!("{} is no name for a unit: its devices are not brought up", printable(&name));
        return Ok(());
    }
    systemd::ask(host, if comes { "start" } else { "stop" }, &format!("virt-mdev-autostart@{name}.service"))
}
