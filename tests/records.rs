//! The record's format: what programs of each version have written is read for ever after.
//!
//! `records/VERSION/` holds records as the shipped programs wrote them, byte for byte, on emulated hosts. They are not
//! to be edited and not to be written anew: whoever changes the format makes another version, adds its directory, and
//! says what becomes of the records that a running host has when its package is updated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use virt_mdev::host::Host;
use virt_mdev::ids::DomainUuid;
use virt_mdev::record::{Answers, Phase, Record, Records, State, VERSION};
use virt_mdev::step::Step;

/// All that a record may say. What undoes a step is in none: the step's own entry is.
const SAID: [&str; 24] = [
    "a phase: kept",
    "a phase: prepared",
    "a phase: preparing",
    "a phase: releasing",
    "a phase: running",
    "a phase: starting",
    "a state: done",
    "a state: intended",
    "a state: kept",
    "a state: undoing",
    "answers: attach",
    "answers: by hand",
    "answers: plugged",
    "answers: running",
    "answers: starting",
    "step: adopt",
    "step: adopt, keep",
    "step: allow",
    "step: attribute",
    "step: create",
    "step: create, keep",
    "step: label",
    "step: online",
    "step: use",
];

/// Fields that are left out where they say nothing.
const OPTIONAL: [&str; 8] = ["answers", "arguments", "context", "mode", "name", "owner", "why", "writer"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records").join(VERSION.to_string())
}

/// Reads it as the programs do, out of a host's `/run/virt-mdev`.
fn read(text: &[u8]) -> Record {
    let uuid = DomainUuid::parse("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap();
    let host = tempfile::tempdir().unwrap();
    let domains = host.path().join("run/virt-mdev/domains");
    fs::create_dir_all(&domains).unwrap();
    fs::write(domains.join(format!("{uuid}.json")), text).unwrap();
    Records::new(&Host::at(host.path())).read(&uuid).unwrap().expect("a record")
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "a phase: preparing",
        Phase::Prepared => "a phase: prepared",
        Phase::Starting => "a phase: starting",
        Phase::Running => "a phase: running",
        Phase::Releasing => "a phase: releasing",
        Phase::Kept => "a phase: kept",
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Intended => "a state: intended",
        State::Done => "a state: done",
        State::Undoing => "a state: undoing",
        State::Kept => "a state: kept",
    }
}

fn answers(answers: Answers) -> &'static str {
    match answers {
        Answers::Starting(_) => "answers: starting",
        Answers::Running => "answers: running",
        Answers::Attach(_) => "answers: attach",
        Answers::ByHand { .. } => "answers: by hand",
        Answers::Plugged => "answers: plugged",
    }
}

fn step(step: &Step) -> &'static str {
    match step {
        Step::Create { keep: false, .. } => "step: create",
        Step::Create { keep: true, .. } => "step: create, keep",
        Step::Adopt { keep: false, .. } => "step: adopt",
        Step::Adopt { keep: true, .. } => "step: adopt, keep",
        Step::Use { .. } => "step: use",
        Step::Attribute { .. } => "step: attribute",
        Step::Online { .. } => "step: online",
        Step::Label { .. } => "step: label",
        Step::Allow { .. } => "step: allow",
        Step::Offline { .. } | Step::Unlabel { .. } | Step::Withdraw { .. } | Step::Destroy { .. } => {
            panic!("no step of a record: {step}")
        }
    }
}

#[test]
fn what_was_written_is_read_and_would_be_written_again() {
    let (mut said, mut all) = (BTreeSet::new(), String::new());
    for entry in fs::read_dir(directory()).expect("records of this version") {
        let path = entry.unwrap().path();
        let text = fs::read(&path).unwrap();
        let record = read(&text);
        let again = serde_json::to_string(&record).unwrap();
        assert_eq!(again, String::from_utf8_lossy(&text), "{}", path.display());
        said.insert(phase(record.phase));
        for entry in &record.steps {
            said.extend([state(entry.state), step(&entry.step)]);
            said.extend(entry.answers.map(answers));
        }
        all += &again;
    }
    assert_eq!(said.into_iter().collect::<Vec<_>>(), SAID, "one record of each kind");
    for field in OPTIONAL {
        assert!(all.contains(&format!("\"{field}\":")), "no record with `{field}`");
    }
}
