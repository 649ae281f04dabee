//! `virt-mdev show`: all that is known of one device, or of the devices of one domain.

use serde::Serialize;

use super::list::warn_without_root;
use super::list::{self, Common, Row};
use super::terminal::{Terminal, pad};
use super::{Failure, or_warn, reconcile, to_json};
use crate::backend::{self, Backend, mdev, nvidia};
use crate::host::{Host, Kind, definitions, holders, node};
use crate::ids::{AttributeName, Context, DeviceId, Node};
use crate::labels::{Label, Owner};
use crate::record::{Entry, Named, Phase, Record, Records, State};
use crate::words;

/// Version of the JSON (packaging/schema/show.json).
const VERSION: u32 = 1;

/// More attributes than any driver gives one device; what lies beyond is not shown.
const MOST: usize = 64;

/// What `--json` prints.
#[derive(Serialize)]
struct Shown {
    version: u32,
    /// The domain that has the devices.
    domain: Option<Named>,
    phase: Option<Phase>,
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Device {
    #[serde(flatten)]
    row: Row,
    device_api: Option<String>,
    description: Option<String>,
    /// Who answers for it, in words; null where no record has it.
    answers: Option<String>,
    /// Who has it open.
    holder: Option<Holder>,
    /// mdevctl's definition.
    definition: Option<String>,
    nodes: Vec<Carried>,
    /// The driver's attributes that can be read.
    attributes: Vec<Attribute>,
    /// What was done for it, and is to be undone.
    steps: Vec<Told>,
}

#[derive(Serialize)]
struct Holder {
    pid: i32,
    name: String,
    domain: Option<String>,
}

#[derive(Serialize)]
struct Carried {
    node: String,
    owner: Option<Owner>,
    /// In octal, as `ls` and `chmod` have it.
    mode: Option<String>,
    context: Option<Context>,
    #[serde(skip)]
    label: Label,
}

#[derive(Serialize)]
struct Attribute {
    name: String,
    value: String,
}

#[derive(Serialize)]
struct Told {
    state: State,
    words: String,
    why: Option<String>,
}

pub(super) fn run(host: &Host, terminal: Terminal, who: &str, json: bool) -> Result<String, Failure> {
    let shown = look(host, who)?;
    warn_without_root(host);
    if json { to_json(&shown) } else { Ok(in_words(terminal, &shown)) }
}

fn look(host: &Host, who: &str) -> Result<Shown, Failure> {
    let records = Records::new(host);
    let (record, only) = match reconcile::find(&records, who) {
        Some((domain, only)) => match (records.read(&domain), only) {
            // Of a device whose record is damaged the host still says something.
            (Err(trouble), Some(only)) => {
                log::warn!("{trouble}");
                (None, Some(only))
            }
            (record, only) => (record?, only),
        },
        None => (None, DeviceId::parse(who).ok()),
    };
    let present = |device: &DeviceId| {
        let found = backend::located(host, device);
        list::present(host, device, found, &mut Common::default()).filter(|row| row.parent.is_some())
    };
    let mut rows = record.as_ref().map_or_else(Vec::new, |record| list::recorded(host, record, present));
    if let Some(only) = &only {
        rows.retain(|row| row.uuid == *only);
        if rows.is_empty() {
            rows.extend(present(only));
        }
    }
    if rows.is_empty() && (record.is_none() || only.is_some()) {
        return Err(Failure::new(format!(
            "{}: no such device, and no domain of this name has any",
            words::printable(who)
        ))
        .hint("`virt-mdev list` shows what there is"));
    }
    Ok(Shown {
        version: VERSION,
        domain: record.as_ref().map(|record| record.domain.clone()),
        phase: record.as_ref().map(|record| record.phase),
        devices: rows.into_iter().map(|row| device(host, record.as_ref(), row)).collect(),
    })
}

fn device(host: &Host, record: Option<&Record>, row: Row) -> Device {
    let device = row.uuid.clone();
    let existing = backend::existing(host, &device).ok().flatten();
    let api = existing.map(|existing| existing.api).filter(|api| !api.is_empty());
    let kind = match (&row.parent, &row.kind) {
        (Some(parent), Some(kind)) if row.backend == Some(Backend::Mdev) => {
            Some(mdev::read_type(host, parent, kind.clone()))
        }
        _ => None,
    };
    let nodes = or_warn(node::of(host, &device));
    let steps = record.iter().flat_map(|record| &record.steps).filter(|entry| *entry.step.device() == device);
    Device {
        device_api: api,
        description: kind.and_then(|kind| kind.description).filter(|text| !text.is_empty()),
        answers: row.answers.clone(),
        // By /proc alone: to open the node of a domain that is being started would take it from its QEMU.
        holder: holders::holder(host, &device).map(|holders::Holder { pid, name, domain }| Holder {
            pid,
            name,
            domain,
        }),
        definition: match (&device, &row.parent) {
            (DeviceId::Mdev(uuid), Some(parent)) => Some(definitions::path(parent, uuid))
                .filter(|path| host.exists(path))
                .map(|path| format!("/{path}")),
            _ => None,
        },
        nodes: nodes.iter().map(|node| carried(host, node)).collect(),
        attributes: attributes(host, &device),
        steps: steps.map(told).collect(),
        row,
    }
}

fn carried(host: &Host, node: &Node) -> Carried {
    let label = or_warn(node::carried(host, node));
    Carried {
        node: format!("/dev/{node}"),
        owner: label.owner.clone(),
        mode: label.mode.map(|mode| format!("{mode:04o}")),
        context: label.context.clone(),
        label,
    }
}

fn told(entry: &Entry) -> Told {
    Told { state: entry.state, words: entry.step.to_string(), why: entry.why.clone() }
}

/// The driver's attributes, in the device's directory and in those of the driver's below it. Beside those of a virtual
/// function lie the PCI device's own, which are none.
fn attributes(host: &Host, device: &DeviceId) -> Vec<Attribute> {
    let directory = backend::directory(device);
    let mut names = Vec::new();
    if matches!(device, DeviceId::Mdev(_)) {
        for name in host.names(&directory).unwrap_or_default() {
            // What belongs to the kernel's device model is no attribute's name.
            match AttributeName::parse(&name).map(|_| host.kind(&format!("{directory}/{name}"))) {
                Ok(Ok(Some(Kind::File))) => names.push(name),
                Ok(Ok(Some(Kind::Directory))) => names.extend(below(host, &directory, &name)),
                _ => {}
            }
        }
    } else {
        names = below(host, &directory, nvidia::ATTRIBUTES.trim_end_matches('/'));
    }
    let read = |name: String| {
        let attribute = AttributeName::parse(&name).ok()?;
        // One that can only be written, or that the driver refuses to show.
        let value = backend::read_attribute(host, device, &attribute)?;
        Some(Attribute { name, value: value.trim_end().to_owned() })
    };
    names.into_iter().take(MOST).filter_map(read).collect()
}

fn below(host: &Host, directory: &str, group: &str) -> Vec<String> {
    let names = host.names(&format!("{directory}/{group}")).unwrap_or_default();
    names.into_iter().map(|name| format!("{group}/{name}")).collect()
}

fn in_words(terminal: Terminal, shown: &Shown) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    if let Some(domain) = &shown.domain {
        lines.push(("domain", format!("{} ({})", terminal.printable(&domain.name), domain.uuid)));
        lines.extend(shown.phase.map(|phase| ("phase", word(&phase))));
    }
    for device in &shown.devices {
        if !lines.is_empty() {
            lines.push(("", String::new()));
        }
        of_device(terminal, device, &mut lines);
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    let mut before = "";
    for (name, value) in lines {
        for (at, line) in terminal.wrap(&value, width).iter().enumerate() {
            let name = if at == 0 && name != std::mem::replace(&mut before, name) { name } else { "" };
            text.push_str(format!("{}{line}", pad(name, width)).trim_end());
            text.push('\n');
        }
    }
    text
}

fn of_device<'a>(terminal: Terminal, device: &Device, lines: &mut Vec<(&'a str, String)>) {
    let row = &device.row;
    let text = |text: &str| words::escaped(text);
    let mut say = |name: &'a str, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    say("device", Some(row.uuid.to_string()));
    say("state", Some(row.state.to_owned()));
    say("why", row.why.as_deref().map(text));
    say("parent", row.parent.as_ref().map(|parent| text(&parent.to_string())));
    let card = row
        .card
        .as_ref()
        .filter(|card| row.parent.as_ref().is_none_or(|parent| parent.to_string() != **card));
    say("card", card.map(|card| text(card)));
    say("interface", row.backend.map(|backend| backend.to_string()));
    say("type", row.kind.as_ref().map(|kind| text(&kind.to_string())));
    say("name", row.name.as_deref().map(text));
    say("api", device.device_api.as_deref().map(text));
    let description = device.description.as_deref().unwrap_or_default();
    for line in description.lines().filter(|line| !line.trim().is_empty()) {
        say("description", Some(text(line.trim())));
    }
    let made_by = if row.made_by == "other" { "somebody else" } else { row.made_by };
    say("made by", Some(made_by.to_owned()));
    say("answers", device.answers.as_deref().map(text));
    say("held by", device.holder.as_ref().map(in_use));
    say("definition", device.definition.as_deref().map(text));
    for Carried { node, label, .. } in &device.nodes {
        say("node", Some(format!("{node}: {label}")));
    }
    for Attribute { name, value } in &device.attributes {
        say("attribute", Some(format!("{} = {}", text(name), terminal.printable(value))));
    }
    for (at, Told { state, words, why }) in device.steps.iter().enumerate() {
        let why = why.as_ref().map(|why| format!(": {}", text(why))).unwrap_or_default();
        say("record", Some(format!("{}. {words} ({}{why})", at + 1, word(state))));
    }
}

fn in_use(holder: &Holder) -> String {
    let Holder { pid, name, domain } = holder;
    holders::Holder { pid: *pid, name: name.clone(), domain: domain.clone() }.to_string()
}

/// The word that the record has for it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
