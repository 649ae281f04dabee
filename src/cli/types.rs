//! `virt-mdev types`: parents × types in one table, the properties that drivers put into their descriptions as
//! columns.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::table::{Column, table};
use super::terminal::Terminal;
use super::{Failure, or_warn, to_json};
use crate::backend::{self, Backend, listing, mdev, nvidia, proposal};
use crate::host::Host;
use crate::ids::{Parent, PciAddress, TypeId};
use crate::step::Place;
use crate::words;

/// What the default view has room for, on whatever it is shown.
const USUAL: usize = 80;

/// The properties that tell one type from another, in the order in which the default view shows them.
const FIRST: [&str; 5] = ["framebuffer", "max_resolution", "resolution", "num_heads", "low_gm_size"];

/// One line, and one element of `--json` (packaging/schema/types.json).
#[derive(Serialize)]
pub(super) struct Row {
    pub parent: Parent,
    /// The physical card that it shares with other parents, or is.
    pub card: String,
    pub backend: Backend,
    #[serde(rename = "type")]
    pub kind: TypeId,
    pub name: Option<String>,
    pub device_api: String,
    /// How many more fit now; null where the driver gives no number.
    pub free: Option<u32>,
    /// How many fit on an empty card; null where the driver does not say.
    pub max: Option<u32>,
    pub properties: BTreeMap<String, String>,
    /// The driver's text, from which properties and max are taken.
    pub description: Option<String>,
}

impl Row {
    fn of(listed: &listing::Row, backend: Backend, parent: &Parent, card: &str) -> Option<Self> {
        let properties = listed.properties.iter().filter(|(key, _)| key != mdev::MAX_KEY);
        Some(Self {
            parent: parent.clone(),
            card: card.to_owned(),
            backend,
            kind: TypeId::parse(&listed.id.to_string()).ok()?,
            name: listed.name.clone(),
            device_api: "vfio-pci".to_owned(),
            free: None,
            max: proposal::max(listed),
            properties: properties.cloned().collect(),
            description: None,
        })
    }
}

/// All types of all parents. What cannot be read of one is warned about, and leaves the others to be seen.
pub(super) fn rows(host: &Host) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    // A card may have many functions of many types.
    let mut known: BTreeMap<(String, TypeId), mdev::Type> = BTreeMap::new();
    for parent in mdev::parents(host)? {
        let mut card = None;
        let near = &host.near(&mdev::types_path(&parent));
        for kind in or_warn(mdev::type_ids(near, &parent)) {
            let place = Place::new(Backend::Mdev, parent.clone(), kind.clone());
            let card = card.get_or_insert_with(|| backend::card(host, &place));
            let key = (card.clone(), kind);
            let found = match known.get(&key) {
                Some(like) => mdev::type_like(near, &parent, like),
                None => mdev::read_type(near, &parent, key.1.clone()),
            };
            if found.name.is_some() {
                known.entry(key).or_insert_with(|| found.clone());
            }
            let description = found.description.unwrap_or_default();
            let properties =
                mdev::properties(&description).into_iter().filter(|(key, _)| key != mdev::MAX_KEY);
            rows.push(Row {
                max: mdev::max_instances(&description),
                properties: properties.collect(),
                card: card.clone(),
                parent: found.place.parent,
                backend: found.place.backend,
                kind: found.place.kind,
                name: found.name,
                device_api: found.api,
                free: found.free,
                description: Some(description).filter(|text| !text.is_empty()),
            });
        }
    }
    for parent in proposal::parents(host)? {
        // One card's damaged table leaves the others to be seen.
        let listed = or_warn(proposal::rows(host, &parent));
        let rows_of_it = listed.iter().filter_map(|row| {
            let kind = TypeId::parse(&row.id.to_string()).ok()?;
            let card = backend::card(host, &Place::new(Backend::Proposal, parent.clone(), kind.clone()));
            Row::of(row, Backend::Proposal, &parent, &card)
        });
        rows.extend(rows_of_it);
    }
    rows.extend(functions(host)?);
    Ok(rows)
}

/// Virtual functions that take types, counted for their card: free is on how many of its functions the type can be
/// made now, and a function has one place.
fn functions(host: &Host) -> Result<Vec<Row>, Failure> {
    let mut cards: BTreeMap<(String, TypeId), Row> = BTreeMap::new();
    for function in nvidia::parents(host)? {
        let creatable = or_warn(nvidia::creatable(host, &function));
        let taken = PciAddress::parse(&function.to_string())
            .is_ok_and(|address| or_warn(nvidia::existing(host, &address)).is_some());
        let mut card = None;
        for listed in &creatable {
            let Ok(kind) = TypeId::parse(&listed.id.to_string()) else { continue };
            let place = Place::new(Backend::Nvidia, function.clone(), kind.clone());
            let card = card.get_or_insert_with(|| backend::card(host, &place));
            let (Ok(parent), Some(row)) =
                (Parent::parse(card), Row::of(listed, Backend::Nvidia, &function, card))
            else {
                continue;
            };
            let row = cards.entry((card.clone(), kind)).or_insert(Row { parent, free: Some(0), ..row });
            row.free = row.free.map(|sum| sum + u32::from(!taken));
        }
    }
    Ok(cards.into_values().collect())
}

pub(super) fn run(host: &Host, terminal: Terminal, json: bool, long: bool) -> Result<String, Failure> {
    let rows = rows(host)?;
    if json {
        return to_json(&rows);
    }
    if rows.is_empty() {
        return nothing(host);
    }
    Ok(shown(&rows, terminal, long))
}

/// Why there is no type to show.
pub(super) fn nothing(host: &Host) -> Result<String, Failure> {
    let functions = nvidia::parents(host)?;
    let addresses = functions.iter().filter_map(|function| PciAddress::parse(&function.to_string()).ok());
    let mut taken = addresses.filter(|address| or_warn(nvidia::existing(host, address)).is_some());
    // They list only what still fits.
    let said = if taken.next().is_some() {
        "No type fits on the virtual functions of this host now: `virt-mdev list` shows what is on them."
    } else if !functions.is_empty() || !backend::parents(host)?.is_empty() {
        "No type is listed yet by the parents of this host: is their vendor's service running? (NVIDIA: systemctl status nvidia-vgpud nvidia-vgpu-mgr)"
    } else if let Some(card) = nvidia::cards_without_functions(host)?.first() {
        return Ok(format!(
            "No device on this host offers mediated devices yet: {card} has no virtual functions, which {} switches on.\n",
            nvidia::functions_on(card)
        ));
    } else {
        "No device on this host offers mediated devices."
    };
    Ok(format!("{said}\n"))
}

fn shown(rows: &[Row], terminal: Terminal, long: bool) -> String {
    // All of it, and whole, for whoever asks for that.
    let (terminal, spare) = if long {
        (Terminal { width: None, ..terminal }, None)
    } else {
        (terminal, terminal.width.or(Some(USUAL)))
    };
    let keys: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.properties.keys()).map(String::as_str).collect();
    let first = FIRST.iter().copied().filter(|key| keys.contains(key));
    let properties: Vec<&str> =
        first.chain(keys.iter().copied().filter(|key| !FIRST.contains(key))).collect();
    let mut columns = vec![
        Column::whole("PARENT"),
        Column::whole("TYPE"),
        Column::cut("NAME", 16),
        // Mostly the same for all: the first of the properties says more.
        Column::spare("API", 1),
        Column::whole("FREE"),
        Column::whole("MAX"),
    ];
    columns.extend(properties.iter().enumerate().map(|(at, key)| {
        let rank = if at == 0 { 0 } else { at + 1 };
        Column::spare(&terminal.printable(&key.to_uppercase()), rank)
    }));
    // Prose, where pairs do not say all that the driver does.
    let prose = |row: &Row| row.description.clone().filter(|_| row.properties.is_empty());
    if long && rows.iter().any(|row| prose(row).is_some()) {
        columns.push(Column::whole("DESCRIPTION"));
    }
    let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let text = |text: &str| if long { words::escaped(text) } else { terminal.printable(text) };
    let lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut line = vec![
                text(&row.parent.to_string()),
                text(&row.kind.to_string()),
                text(row.name.as_deref().unwrap_or_default()),
                text(&row.device_api),
                number(row.free),
                number(row.max),
            ];
            let property = |key: &&str| row.properties.get(*key).map(|value| text(value)).unwrap_or_default();
            line.extend(properties.iter().map(property));
            line.extend(
                long.then(|| prose(row).map(|prose| words::escaped(prose.trim())).unwrap_or_default()),
            );
            line.into()
        })
        .collect();
    table(terminal, spare, &columns, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_type_has_a_reason() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        let said = || nothing(&host).unwrap();
        std::fs::create_dir_all(root.path().join("sys/bus/pci/devices")).unwrap();
        assert_eq!(said(), "No device on this host offers mediated devices.\n");
        let function = root.path().join("sys/bus/pci/devices/0000:41:00.4/nvidia");
        std::fs::create_dir_all(&function).unwrap();
        std::fs::write(function.join("creatable_vgpu_types"), "").unwrap();
        std::fs::write(function.join("current_vgpu_type"), "0\n").unwrap();
        assert!(said().starts_with("No type is listed yet"), "{}", said());
        std::fs::write(function.join("current_vgpu_type"), "1148\n").unwrap();
        assert!(said().starts_with("No type fits on the virtual functions"), "{}", said());
        let plain = Terminal { width: None, unicode: true };
        assert_eq!(run(&host, plain, false, false).unwrap(), said());
    }
}
