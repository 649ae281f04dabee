//! `virt-mdev types`: parents × types in one table, the properties that drivers put into their descriptions as
//! columns.

use std::collections::BTreeMap;

use serde::Serialize;

use super::table::table;
use super::{Failure, to_json};
use crate::backend::{Backend, mdev};
use crate::host::Host;
use crate::ids::{Parent, TypeId};

/// One line, and one element of `--json`.
#[derive(Serialize)]
struct Row {
    parent: Parent,
    backend: Backend,
    #[serde(rename = "type")]
    kind: TypeId,
    name: Option<String>,
    device_api: String,
    /// How many more fit now; null where the driver gives no number.
    free: Option<u32>,
    /// How many fit on an empty card; null where the driver does not say.
    max: Option<u32>,
    properties: BTreeMap<String, String>,
}

pub(super) fn run(host: &Host, json: bool) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for parent in mdev::parents(host)? {
        for kind in mdev::type_ids(host, &parent)? {
            let found = mdev::read_type(host, &parent, kind);
            let description = found.description.unwrap_or_default();
            rows.push(Row {
                max: mdev::max_instances(&description),
                properties: mdev::properties(&description)
                    .into_iter()
                    .filter(|(key, _)| key != mdev::MAX_KEY)
                    .collect(),
                parent: found.place.parent,
                backend: found.place.backend,
                kind: found.place.kind,
                name: found.name,
                device_api: found.api,
                free: found.free,
            });
        }
    }
    if json {
        return to_json(&rows);
    }
    if rows.is_empty() {
        return Ok("No device on this host offers mediated devices.\n".to_owned());
    }
    let mut properties: Vec<&String> = rows.iter().flat_map(|row| row.properties.keys()).collect();
    properties.sort();
    properties.dedup();
    let headings: Vec<String> = properties.iter().map(|key| key.to_uppercase()).collect();
    let mut heading = vec!["PARENT", "TYPE", "NAME", "API", "FREE", "MAX"];
    heading.extend(headings.iter().map(String::as_str));
    let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut line = vec![
                row.parent.to_string(),
                row.kind.to_string(),
                row.name.clone().unwrap_or_default(),
                row.device_api.clone(),
                number(row.free),
                number(row.max),
            ];
            line.extend(properties.iter().map(|key| row.properties.get(*key).cloned().unwrap_or_default()));
            line
        })
        .collect();
    Ok(table(&heading, &lines))
}
