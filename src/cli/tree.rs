//! `virt-mdev list --tree`: card → virtual function → device → domain, and what is free on each card.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthStr;

use super::list::Row;
use super::places::{Places, Room};
use super::terminal::{Terminal, pad};
use crate::ids::{DeviceId, TypeId};

/// Where a device is whose card cannot be read.
const NOWHERE: &str = "(card unknown)";

/// A line, and what hangs below it.
struct Branch {
    text: String,
    below: Vec<Branch>,
}

impl Branch {
    fn leaf(text: String) -> Self {
        Self { text, below: Vec::new() }
    }
}

/// Empty where there is neither a device nor a type.
pub(super) fn text(terminal: Terminal, places: &Places, rows: &[Row]) -> String {
    let mut cards: BTreeMap<&str, BTreeMap<String, Vec<&Row>>> =
        places.cards.keys().map(|card| (card.as_str(), BTreeMap::new())).collect();
    for row in rows {
        let card = row.card.as_deref().unwrap_or(NOWHERE);
        let parent = row.parent.as_ref().map_or_else(|| card.to_owned(), ToString::to_string);
        cards.entry(card).or_default().entry(parent).or_default().push(row);
    }
    let mut text = String::new();
    for (card, parents) in cards {
        let mut below = places.cards.get(card).map(|rooms| free(terminal, rooms)).unwrap_or_default();
        for (parent, devices) in parents {
            // A virtual function of vendor VFIO is the device itself, and a card without functions its own parent.
            let alone = parent == card || devices.iter().any(|row| matches!(row.uuid, DeviceId::Vf(_)));
            let devices = devices.into_iter().map(|row| device(terminal, row));
            if alone {
                below.extend(devices);
            } else {
                below.push(Branch {
                    text: format!("{} virtual function", terminal.printable(&parent)),
                    below: devices.collect(),
                });
            }
        }
        line(terminal, &mut text, "", "", &terminal.printable(card));
        draw(terminal, &mut text, "", &below);
    }
    text
}

/// How much room a card has for each type.
fn free(terminal: Terminal, rooms: &BTreeMap<TypeId, Room>) -> Vec<Branch> {
    let named = |(kind, room): (&TypeId, &Room)| {
        let name = room.name.as_deref().filter(|name| *name != kind.to_string());
        (
            terminal.printable(&kind.to_string()),
            terminal.printable(name.unwrap_or_default()),
            places(terminal, room),
        )
    };
    let lines: Vec<(String, String, String)> = rooms.iter().map(named).collect();
    let ids = lines.iter().map(|(id, ..)| id.width()).max().unwrap_or(0);
    let names = lines.iter().map(|(_, name, _)| name.width()).max().unwrap_or(0);
    let gap = if names == 0 { "" } else { "  " };
    lines
        .iter()
        .map(|(id, name, places)| {
            Branch::leaf(format!("{}  {}{gap}{places}", pad(id, ids), pad(name, names)))
        })
        .collect()
}

fn places(terminal: Terminal, room: &Room) -> String {
    match (room.taken(), room.max, room.free) {
        (Some(taken), Some(max), _) => format!("{} {taken} of {max} taken", terminal.bar(taken, max)),
        (_, _, Some(free)) => format!("{free} free"),
        (_, Some(max), None) => format!("at most {max}"),
        (_, None, None) => "?".to_owned(),
    }
}

fn device(terminal: Terminal, row: &Row) -> Branch {
    let mut text = row.uuid.to_string();
    if let Some(kind) = &row.kind {
        text.push_str(&format!(" {}", terminal.printable(&kind.to_string())));
    }
    let (arrow, state) = (terminal.mark("→", "->"), row.state);
    let state = if state == "present" { String::new() } else { format!(", {state}") };
    match &row.domain {
        Some(domain) => text.push_str(&format!(" {arrow} {}{state}", terminal.printable(&domain.name))),
        None => text.push_str(&format!(" {arrow} no domain{state}")),
    }
    let mut below = Vec::new();
    if let Some(why) = &row.why {
        below.push(Branch::leaf(terminal.printable(why)));
    }
    Branch { text, below }
}

fn draw(terminal: Terminal, text: &mut String, before: &str, branches: &[Branch]) {
    let last = branches.len().saturating_sub(1);
    for (at, Branch { text: shown, below }) in branches.iter().enumerate() {
        let (fork, side) = if at == last {
            (terminal.mark("└─ ", "`- "), "   ")
        } else {
            (terminal.mark("├─ ", "|- "), terminal.mark("│  ", "|  "))
        };
        line(terminal, text, before, fork, shown);
        draw(terminal, text, &format!("{before}{side}"), below);
    }
}

fn line(terminal: Terminal, text: &mut String, before: &str, fork: &str, shown: &str) {
    let whole = format!("{before}{fork}{shown}");
    text.push_str(&terminal.width.map_or_else(|| whole.clone(), |width| terminal.cut(&whole, width)));
    text.push('\n');
}
