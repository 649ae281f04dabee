//! `virt-mdev list`: the host's mediated devices and the domains that have them, and what is recorded and gone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::table::table;
use super::{Failure, to_json};
use crate::backend::{self, mdev, nvidia};
use crate::host::{Host, holders};
use crate::ids::{DeviceId, Parent, PciAddress, TypeId};
use crate::reap::{self, Standing};
use crate::record::{Named, Phase, Record, Records, State};
use crate::undo::Why;

/// One line, and one element of `--json`.
#[derive(Serialize)]
struct Row {
    uuid: DeviceId,
    parent: Option<Parent>,
    #[serde(rename = "type")]
    kind: Option<TypeId>,
    /// `virt-mdev` or `other`.
    made_by: &'static str,
    /// The domain that has it, or that keeps it.
    domain: Option<Named>,
    /// How far that domain has come.
    phase: Option<Phase>,
    /// `present`, `kept`, `orphan`: it was to go and is still there; or `lost`: recorded, and not there.
    state: &'static str,
    /// Of an orphan: why it is there.
    why: Option<String>,
}

pub(super) fn run(host: &Host, json: bool) -> Result<String, Failure> {
    let records = Records::new(host);
    let mut rows: BTreeMap<DeviceId, Row> = BTreeMap::new();
    let mdevs = mdev::devices(host)?.into_iter().map(DeviceId::Mdev);
    let functions = nvidia::parents(host)?;
    let functions =
        functions.iter().filter_map(|parent| PciAddress::parse(&parent.to_string()).ok()).map(DeviceId::Vf);
    for device in mdevs.chain(functions) {
        let found = backend::existing(host, &device).ok().flatten();
        if found.is_none() && matches!(device, DeviceId::Vf(_)) {
            continue; // a function without a type
        }
        // An mdev may go while we look: then it has neither. In the 2016 interface the type cannot be read back.
        let kind = found.as_ref().filter(|found| found.typed).map(|found| found.place.kind.clone());
        let parent = found.map(|found| found.place.parent);
        let row = Row {
            uuid: device.clone(),
            parent,
            kind,
            made_by: "other",
            domain: None,
            phase: None,
            state: "present",
            why: None,
        };
        rows.insert(device, row);
    }
    for record in records.domains()?.iter().filter_map(|domain| records.read(domain).ok().flatten()) {
        let standings = reap::judge(host, &record, false);
        for (device, place, made, state) in record.devices() {
            let standing =
                standings.iter().find(|(judged, _)| judged == device).map(|(_, standing)| standing);
            let there = rows.contains_key(device) || backend::is_there(host, device, place);
            let (state, why) = match (state, standing) {
                _ if !there => ("lost", None),
                (State::Kept, _) => ("kept", None),
                (_, Some(Standing::Abandoned(because))) => {
                    let why = record.why(device).map(|why| format!("{because}; last try: {why}"));
                    ("orphan", Some(why.unwrap_or_else(|| because.to_string())))
                }
                _ if record.is_orphan(device) => ("orphan", Some(still_there(host, &record, device))),
                _ => ("present", None),
            };
            rows.insert(
                device.clone(),
                Row {
                    uuid: device.clone(),
                    parent: Some(place.parent.clone()),
                    kind: Some(place.kind.clone()),
                    made_by: if made { "virt-mdev" } else { "other" },
                    domain: Some(record.domain.clone()),
                    phase: Some(record.phase),
                    state,
                    why,
                },
            );
        }
    }
    let rows: Vec<Row> = rows.into_values().collect();
    if json {
        return to_json(&rows);
    }
    if rows.is_empty() {
        return Ok("No mediated devices.\n".to_owned());
    }
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let word = |word: Option<String>| word.unwrap_or_else(|| "-".to_owned());
            vec![
                row.uuid.to_string(),
                word(row.parent.as_ref().map(ToString::to_string)),
                word(row.kind.as_ref().map(ToString::to_string)),
                word(row.domain.as_ref().map(|domain| domain.name.clone())),
                row.made_by.to_owned(),
                row.why.as_ref().map_or_else(|| row.state.to_owned(), |why| format!("{}: {why}", row.state)),
            ]
        })
        .collect();
    Ok(table(&["DEVICE", "PARENT", "TYPE", "DOMAIN", "MADE BY", "STATE"], &lines))
}

/// Why an orphan is there: who has it open now, or else what the last try said.
fn still_there(host: &Host, record: &Record, device: &DeviceId) -> String {
    match holders::is_held(host, device) {
        Ok(true) => Why::Held { holder: holders::holder(host, device) }.to_string(),
        _ => record.why(device).unwrap_or("its removal has not been tried").to_owned(),
    }
}
