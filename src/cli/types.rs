//! `virt-mdev types`: parents × types in one table, the properties that drivers put into their descriptions as
//! columns.

use std::collections::BTreeMap;

use serde::Serialize;

use super::table::table;
use super::{Failure, to_json};
use crate::backend::{self, Backend, listing, mdev, nvidia, proposal};
use crate::host::Host;
use crate::ids::{Parent, TypeId};
use crate::step::Place;

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

impl Row {
    fn of(listed: &listing::Row, backend: Backend, parent: &Parent) -> Option<Self> {
        let properties = listed.properties.iter().filter(|(key, _)| key != mdev::MAX_KEY);
        Some(Self {
            parent: parent.clone(),
            backend,
            kind: TypeId::parse(&listed.id.to_string()).ok()?,
            name: listed.name.clone(),
            device_api: "vfio-pci".to_owned(),
            free: None,
            max: proposal::max(listed),
            properties: properties.cloned().collect(),
        })
    }
}

fn rows(host: &Host) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for parent in mdev::parents(host)? {
        for kind in mdev::type_ids(host, &parent)? {
            let found = mdev::read_type(host, &parent, kind);
            let description = found.description.unwrap_or_default();
            let properties =
                mdev::properties(&description).into_iter().filter(|(key, _)| key != mdev::MAX_KEY);
            rows.push(Row {
                max: mdev::max_instances(&description),
                properties: properties.collect(),
                parent: found.place.parent,
                backend: found.place.backend,
                kind: found.place.kind,
                name: found.name,
                device_api: found.api,
                free: found.free,
            });
        }
    }
    for parent in proposal::parents(host)? {
        // One card's damaged table leaves the others to be seen.
        let listed = proposal::rows(host, &parent).unwrap_or_default();
        rows.extend(listed.iter().filter_map(|row| Row::of(row, Backend::Proposal, &parent)));
    }
    rows.extend(functions(host)?);
    Ok(rows)
}

/// Virtual functions that take types, counted for their card: free is on how many of its functions the type can be
/// made now, and a function has one place.
fn functions(host: &Host) -> Result<Vec<Row>, Failure> {
    let mut cards: BTreeMap<(Parent, TypeId), Row> = BTreeMap::new();
    for function in nvidia::parents(host)? {
        let creatable = nvidia::creatable(host, &function).unwrap_or_default();
        for row in creatable.iter().filter_map(|row| Row::of(row, Backend::Nvidia, &function)) {
            let place = Place {
                backend: Backend::Nvidia,
                parent: function.clone(),
                kind: row.kind.clone(),
                arguments: String::new(),
                name: None,
            };
            let free = nvidia::free(host, &place).unwrap_or_default();
            let Ok(card) = Parent::parse(&backend::card(host, &place)) else { continue };
            let row = cards.entry((card.clone(), row.kind.clone())).or_insert(Row {
                parent: card,
                free: Some(0),
                ..row
            });
            row.free = row.free.map(|sum| sum + free);
        }
    }
    Ok(cards.into_values().collect())
}

pub(super) fn run(host: &Host, json: bool) -> Result<String, Failure> {
    let rows = rows(host)?;
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
