//! `virt-mdev list`: the host's mediated devices and the domains that have them, and what is recorded and gone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::places::Places;
use super::table::{Column, Line, table};
use super::terminal::Terminal;
use super::{Failure, or_warn, prometheus, to_json, tree, types};
use crate::backend::{self, Backend, mdev, nvidia};
use crate::host::{Host, Trouble, holders};
use crate::ids::{DeviceId, MdevUuid, Parent, PciAddress, TypeId};
use crate::reap::{self, Standing};
use crate::record::{Named, Phase, Record, Records, State};
use crate::seen::Existing;
use crate::step::Place;
use crate::undo::Why;

/// How it is to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// For people
    Table,
    /// Card, virtual function, device, domain, and free places
    Tree,
    /// For programs
    Json,
    /// Numbers for a node exporter's textfile
    Prometheus,
}

/// One line, and one element of `--json` (packaging/schema/list.json).
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub uuid: DeviceId,
    pub parent: Option<Parent>,
    /// The physical card that the parent is on, or is.
    pub card: Option<String>,
    pub backend: Option<Backend>,
    #[serde(rename = "type")]
    pub kind: Option<TypeId>,
    /// The vendor's name for the type.
    pub name: Option<String>,
    /// `virt-mdev` or `other`.
    pub made_by: &'static str,
    /// The domain that has it, or that keeps it.
    pub domain: Option<Named>,
    /// How far that domain has come.
    pub phase: Option<Phase>,
    /// `present`, `kept`, `orphan`: it was to go and is still there; or `lost`: recorded, and not there.
    pub state: &'static str,
    /// Of an orphan: why it is there.
    pub why: Option<String>,
    /// Whether it is still there although it was to go.
    #[serde(skip)]
    pub pending: bool,
    /// Who answers for it, in words.
    #[serde(skip)]
    pub answers: Option<String>,
}

/// What devices have in common, read once for all of them.
#[derive(Debug, Default)]
pub(super) struct Common {
    names: BTreeMap<(Parent, TypeId), Option<String>>,
    cards: BTreeMap<(Backend, Parent), String>,
}

impl Common {
    fn name(&mut self, host: &Host, found: &Existing) -> Option<String> {
        let Place { backend, parent, kind, .. } = &found.place;
        if *backend != Backend::Mdev {
            return found.name.clone();
        }
        let read = || mdev::type_name(host, parent, kind).ok().flatten();
        self.names.entry((parent.clone(), kind.clone())).or_insert_with(read).clone()
    }

    fn card(&mut self, host: &Host, place: &Place) -> String {
        let key = (place.backend, place.parent.clone());
        self.cards.entry(key).or_insert_with(|| backend::card(host, place)).clone()
    }
}

/// A device as the host shows it; `None` for a function without a type.
pub(super) fn present(
    host: &Host,
    device: &DeviceId,
    found: Result<Option<Existing>, Trouble>,
    common: &mut Common,
) -> Option<Row> {
    let found = or_warn(found);
    if found.is_none() && matches!(device, DeviceId::Vf(_)) {
        return None;
    }
    // An mdev may go while we look: then it has neither. In the 2016 interface the type cannot be read back.
    let typed = found.as_ref().filter(|found| found.typed);
    Some(Row {
        uuid: device.clone(),
        kind: typed.map(|found| found.place.kind.clone()),
        name: typed.and_then(|found| common.name(host, found)),
        card: found.as_ref().map(|found| common.card(host, &found.place)),
        backend: found.as_ref().map(|found| found.place.backend),
        parent: found.map(|found| found.place.parent),
        made_by: "other",
        domain: None,
        phase: None,
        state: "present",
        why: None,
        pending: false,
        answers: None,
    })
}

/// The devices of a record. `seen`: what of it has been found on the host.
pub(super) fn recorded(host: &Host, record: &Record, seen: impl Fn(&DeviceId) -> Option<Row>) -> Vec<Row> {
    let host = &host.looking();
    let standings: BTreeMap<DeviceId, Standing> = reap::judge(host, record, false).into_iter().collect();
    let row = |(device, place, made, state): (&DeviceId, &Place, bool, State)| {
        let seen = seen(device);
        let there = seen.is_some() || backend::is_there(host, device, place);
        // Beside one that is still to go, the record has what is kept, and that is to stay.
        let pending = there && state != State::Kept && record.is_orphan(device);
        let standing = standings.get(device);
        let (state, why) = match (state, standing) {
            _ if !there => ("lost", None),
            (State::Kept, _) => ("kept", None),
            (_, Some(Standing::Abandoned(because))) => {
                let why = record.why(device).map(|why| format!("{because}; last try: {why}"));
                ("orphan", Some(why.unwrap_or_else(|| because.to_string())))
            }
            _ if pending => ("orphan", Some(still_there(host, record, device))),
            _ => ("present", None),
        };
        Row {
            uuid: device.clone(),
            parent: Some(place.parent.clone()),
            card: Some(backend::card(host, place)),
            backend: Some(place.backend),
            kind: Some(place.kind.clone()),
            name: place.name.clone().or_else(|| seen?.name),
            made_by: if made { "virt-mdev" } else { "other" },
            domain: Some(record.domain.clone()),
            phase: Some(record.phase),
            state,
            why,
            pending,
            answers: standing.filter(|_| there).map(|standing| match standing {
                Standing::Answered(by) => by.to_string(),
                Standing::Abandoned(because) => format!("nobody: {because}"),
            }),
        }
    };
    record.devices().map(row).collect()
}

/// Why an orphan is there: who has it open now, or else what the last try said.
fn still_there(host: &Host, record: &Record, device: &DeviceId) -> String {
    match holders::is_held(host, device) {
        Ok(true) => Why::Held { holder: holders::holder(host, device) }.to_string(),
        _ => record.why(device).unwrap_or("its removal has not been tried").to_owned(),
    }
}

/// All devices that are there or recorded. What cannot be read of one is warned about, and leaves the others to be seen.
pub(super) fn rows(host: &Host) -> Result<Vec<Row>, Failure> {
    let records = Records::new(host);
    let mut common = Common::default();
    let mut rows = BTreeMap::new();
    let mut add = |host: &Host, device: DeviceId, found| {
        if let Some(row) = present(host, &device, found, &mut common) {
            rows.insert(device, row);
        }
    };
    let mut parents: BTreeMap<Parent, Vec<MdevUuid>> = BTreeMap::new();
    for uuid in mdev::devices(host)? {
        match backend::parent_of(host, &uuid) {
            Ok(Some(parent)) => parents.entry(parent).or_default().push(uuid),
            other => add(host, DeviceId::Mdev(uuid), other.map(|_| None)),
        }
    }
    for (parent, uuids) in parents {
        let host = &host.near(&mdev::parent_path(&parent));
        for uuid in uuids {
            let found = backend::located_on(host, &uuid, parent.clone());
            add(host, DeviceId::Mdev(uuid), found);
        }
    }
    for parent in nvidia::parents(host)? {
        if let Ok(address) = PciAddress::parse(&parent.to_string()) {
            let function = DeviceId::Vf(address);
            let found = backend::located(host, &function);
            add(host, function, found);
        }
    }
    for record in records.domains()?.iter().filter_map(|domain| or_warn(records.read(domain))) {
        for row in recorded(host, &record, |device| rows.get(device).cloned()) {
            rows.insert(row.uuid.clone(), row);
        }
    }
    Ok(rows.into_values().collect())
}

/// For whoever may not look: a device that cannot be looked at passes for one that is in use.
pub(super) fn warn_without_root(host: &Host) -> bool {
    let some = || Records::new(host).domains().is_ok_and(|domains| !domains.is_empty());
    let blind = !rustix::process::geteuid().is_root() && some();
    if blind {
        log::warn!(
            "not root: who has a device open cannot be told, so that an orphan may pass for one in use"
        );
    }
    blind
}

pub(super) fn run(host: &Host, terminal: Terminal, form: Form) -> Result<String, Failure> {
    let rows = rows(host)?;
    warn_without_root(host);
    Ok(match form {
        Form::Json => return to_json(&rows),
        Form::Tree => match tree::text(terminal, &Places::of(&types::rows(host)?, &rows), &rows) {
            text if text.is_empty() => types::nothing(host)?,
            text => text,
        },
        Form::Prometheus => prometheus::text(&Places::of(&types::rows(host)?, &rows), &rows),
        Form::Table if rows.is_empty() => "No mediated devices.\n".to_owned(),
        Form::Table => shown(&rows, terminal),
    })
}

fn shown(rows: &[Row], terminal: Terminal) -> String {
    let columns = [
        Column::whole("DEVICE"),
        Column::whole("PARENT"),
        Column::cut("TYPE", 10),
        Column::cut("DOMAIN", 7),
        Column::spare("MADE BY", 0),
        Column::whole("STATE"),
    ];
    let lines: Vec<Line> = rows
        .iter()
        .map(|row| {
            let word =
                |word: Option<String>| word.map_or_else(|| "-".to_owned(), |word| terminal.printable(&word));
            let why = row.why.as_ref().map(|why| format!("{}: {}", row.state, terminal.printable(why)));
            let mut line = Line::from(vec![
                row.uuid.to_string(),
                word(row.parent.as_ref().map(ToString::to_string)),
                word(row.kind.as_ref().map(ToString::to_string)),
                word(row.domain.as_ref().map(|domain| domain.name.clone())),
                row.made_by.to_owned(),
                row.state.to_owned(),
            ]);
            match (terminal.width, line.cells.last_mut()) {
                // A program that reads lines wants all of it on one.
                (None, Some(state)) => *state = why.unwrap_or_else(|| row.state.to_owned()),
                _ => line.note = why,
            }
            line
        })
        .collect();
    table(terminal, terminal.width, &columns, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As who is not root cannot tell by /proc, it is in use for him.
    #[test]
    fn no_node_is_opened_to_see_whether_somebody_has_it() {
        let root = tempfile::tempdir().unwrap();
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let device = root.path().join("sys/bus/mdev/devices").join(uuid);
        std::fs::create_dir_all(&device).unwrap();
        std::os::unix::fs::symlink("../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
        // What cannot be opened passes for a device in use, if somebody tries.
        std::fs::create_dir_all(root.path().join("dev/vfio/7")).unwrap();
        let record: Record = serde_json::from_value(serde_json::json!({
            "version": 1, "domain": { "uuid": "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01", "name": "vm1" },
            "phase": "running", "steps": [{ "state": "done", "answers": { "who": "plugged" }, "step": {
                "do": "create", "device": uuid, "backend": "mdev", "parent": "mtty", "type": "mtty-1", "keep": false,
            } }],
        }))
        .unwrap();
        let host = Host::at(root.path());
        assert!(holders::is_held(&host, &DeviceId::parse(uuid).unwrap()).is_err());
        let rows = recorded(&host, &record, |_| None);
        let expected = if rustix::process::geteuid().is_root() { "orphan" } else { "present" };
        assert_eq!(rows.iter().map(|row| row.state).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn what_is_kept_is_no_pending_removal() {
        let root = tempfile::tempdir().unwrap();
        let uuid = |last: u32| format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa100{last}");
        let entry = |last: u32, state: &str| {
            let device = format!("sys/class/mdev_bus/mtty/{}", uuid(last));
            std::fs::create_dir_all(root.path().join(device)).unwrap();
            let (device, keep) = (uuid(last), state == "kept");
            serde_json::json!({ "state": state, "step": {
                "do": "create", "device": device, "backend": "mdev", "parent": "mtty", "type": "mtty-1", "keep": keep,
            } })
        };
        let record: Record = serde_json::from_value(serde_json::json!({
            "version": 1, "domain": { "uuid": "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01", "name": "vm1" },
            "phase": "releasing", "steps": [entry(1, "kept"), entry(2, "undoing")],
        }))
        .unwrap();
        let rows = recorded(&Host::at(root.path()), &record, |_| None);
        let shown: Vec<_> = rows.iter().map(|row| (row.state, row.pending)).collect();
        assert_eq!(shown, [("kept", false), ("orphan", true)]);
    }
}
