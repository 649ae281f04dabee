//! `virt-mdev list`: the host's mediated devices and the domains that have them, and what is recorded and gone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::table::table;
use super::{Failure, to_json};
use crate::backend::mdev;
use crate::host::Host;
use crate::ids::{MdevUuid, Parent, TypeId};
use crate::record::{Named, Phase, Records, State};

/// One line, and one element of `--json`.
#[derive(Serialize)]
struct Row {
    uuid: MdevUuid,
    parent: Option<Parent>,
    #[serde(rename = "type")]
    kind: Option<TypeId>,
    /// `virt-mdev` or `other`.
    made_by: &'static str,
    /// The domain that has it, or that keeps it.
    domain: Option<Named>,
    /// How far that domain has come.
    phase: Option<Phase>,
    /// `present`, `kept`, `removing`, or `lost`: recorded, and not there.
    state: &'static str,
}

pub(super) fn run(host: &Host, json: bool) -> Result<String, Failure> {
    let records = Records::new(host);
    let mut rows: BTreeMap<MdevUuid, Row> = BTreeMap::new();
    for device in mdev::devices(host)? {
        // It may go while we look: then it has neither.
        let place = mdev::place_of(host, &device).ok().flatten();
        let (parent, kind) = place.map(|place| (place.parent, place.kind)).unzip();
        let row = Row {
            uuid: device.clone(),
            parent,
            kind,
            made_by: "other",
            domain: None,
            phase: None,
            state: "present",
        };
        rows.insert(device, row);
    }
    for record in records.domains().iter().filter_map(|domain| records.read(domain).ok().flatten()) {
        for (device, place, made, state) in record.devices() {
            let state = match state {
                _ if !rows.contains_key(device) => "lost",
                State::Kept => "kept",
                State::Undoing => "removing",
                State::Intended | State::Done => "present",
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
                row.state.to_owned(),
            ]
        })
        .collect();
    Ok(table(&["UUID", "PARENT", "TYPE", "DOMAIN", "MADE BY", "STATE"], &lines))
}
