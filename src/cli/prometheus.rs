//! `virt-mdev list --format prometheus`: for the textfile collector of a node exporter
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Here and not at `types`, because most of it is
//! about devices.

use std::fmt::Write as _;

use super::list::Row;
use super::places::{Places, Room};
use crate::words::escaped;

/// A gauge with a value for each type of each card.
fn per_type(
    text: &mut String,
    name: &str,
    help: &str,
    places: &Places,
    value: impl Fn(&Room) -> Option<u32>,
) {
    head(text, name, help);
    for (card, rooms) in &places.cards {
        for (kind, room) in rooms {
            if let Some(value) = value(room) {
                let vendor = label(room.name.as_deref().unwrap_or_default());
                let (card, kind) = (label(card), label(&kind.to_string()));
                let _ = writeln!(text, "{name}{{card=\"{card}\",type=\"{kind}\",name=\"{vendor}\"}} {value}");
            }
        }
    }
}

/// A gauge with one value, for the whole host.
fn single(text: &mut String, name: &str, help: &str, value: usize) {
    head(text, name, help);
    let _ = writeln!(text, "{name} {value}");
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

/// A label's value, with the three escapes that the format has. Other control characters are shown, not sent.
fn label(text: &str) -> String {
    let escape = |line: &str| escaped(line).replace('\\', "\\\\").replace('"', "\\\"");
    text.split('\n').map(escape).collect::<Vec<_>>().join("\\n")
}

pub(super) fn text(places: &Places, rows: &[Row]) -> String {
    let mut text = String::new();
    let count = |is: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count();
    per_type(
        &mut text,
        "virt_mdev_places_free",
        "Devices of this type that still fit on this card; types of a card share its room.",
        places,
        |room| room.free,
    );
    per_type(
        &mut text,
        "virt_mdev_places_max",
        "Devices of this type that fit on this card when it is empty, where the driver says so.",
        places,
        |room| room.max,
    );
    per_type(
        &mut text,
        "virt_mdev_devices",
        "Devices of this type on this card, whoever made them.",
        places,
        |room| Some(room.devices),
    );
    single(
        &mut text,
        "virt_mdev_removals_pending",
        "Devices that were to be removed and are still there.",
        count(&|row| row.pending),
    );
    single(
        &mut text,
        "virt_mdev_orphans",
        "Devices that nobody answers for any more, or that were to go.",
        count(&|row| row.state == "orphan"),
    );
    single(
        &mut text,
        "virt_mdev_lost",
        "Devices that are recorded for a domain and are not there.",
        count(&|row| row.state == "lost"),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::ids::TypeId;

    #[test]
    fn each_gauge_has_its_help_and_labels_are_escaped() {
        let room = Room {
            backend: Backend::Mdev,
            name: Some("a \"b\" \\ c\nd\u{1b}".to_owned()),
            free: Some(3),
            max: None,
            devices: 2,
        };
        let kind = TypeId::parse("mtty-1").unwrap();
        let mut places = Places::default();
        places.cards.entry("mtty".to_owned()).or_default().insert(kind, room);
        let text = text(&places, &[]);
        let labels = r#"{card="mtty",type="mtty-1",name="a \"b\" \\ c\nd\\u{1b}"}"#;
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                &format!("virt_mdev_places_free{labels} 3"),
                &format!("virt_mdev_devices{labels} 2"),
                "virt_mdev_removals_pending 0",
                "virt_mdev_orphans 0",
                "virt_mdev_lost 0",
            ]
        );
        let names = |word: &str| -> Vec<String> {
            let of = |line: &str| Some(line.strip_prefix(word)?.split(' ').next()?.to_owned());
            text.lines().filter_map(of).collect()
        };
        assert_eq!(names("# HELP "), names("# TYPE "));
        assert_eq!(names("# TYPE ").len(), 6);
        assert!(text.ends_with('\n'));
    }
}
