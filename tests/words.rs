//! Every sentence of a refusal and its hint, listed in `words.txt`, and where it is shown to be said.
//!
//! `UPDATE=1 cargo test --test words` writes the list anew: read it as somebody who is tired. A variant that is new does
//! not compile here until it is named, and fails until it has an example and a place that shows it: a case, a run on the
//! emulated host, or another test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

mod examples;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use examples::{ABSENT, AWAITED, DEFINITION, REFUSAL, WHY, absent, awaited, definitions, refusals, whys};
use virt_mdev::ids::{DeviceId, Parent};
use virt_mdev::refusal::{Absent, Refusal};
use virt_mdev::undo::Left;

/// What neither a case nor a run can show, and the test that names the variant or says the sentence.
const ELSEWHERE: [(&str, &str); 6] = [
    // Larger than a file of the repository should be.
    ("XmlTooLarge", "src/domain/mod.rs"),
    ("BadDefinition::BehindALink", "src/host/definitions.rs"),
    ("BadDefinition::TooLarge", "src/host/definitions.rs"),
    ("BadDefinition::NotUtf8", "src/host/definitions.rs"),
    ("BadDefinition::NotAnObject", "src/definitions.rs"),
    ("BadDefinition::Twice", "src/definitions.rs"),
];

/// What is read here only: nothing makes it happen at will.
const NOWHERE: [(&str, &str); 6] = [
    ("DaemonGone", "the daemon that called has ended, and nobody reads what the hook says"),
    ("Told", "the worker has told already, and this is not printed"),
    ("BadDefinition::Unreadable", "the disk fails, or the file goes while it is opened"),
    ("Why::Leaving", "only while a release waits for NVIDIA's driver"),
    ("Vanished", "somebody takes a device away between two system calls of ours"),
    ("Worker", "somebody kills the worker, or there is no memory for it"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A sentence with example values, and a part of it that never differs.
struct Entry {
    name: String,
    sentence: String,
    hint: Option<String>,
    fixed: &'static str,
}

fn entries() -> Vec<Entry> {
    let of = |name: String, refusal: &Refusal, fixed| Entry {
        name,
        sentence: refusal.to_string(),
        hint: refusal.hint(),
        fixed,
    };
    let parent = |absent: &Absent| {
        let subchannel = match absent {
            Absent::Device { bus } | Absent::Driver { bus } => *bus == "css",
            Absent::Offer { driver } => driver == "io_subchannel",
            Absent::OnSubchannel { .. } => true,
            Absent::Unknown | Absent::Functions { .. } | Absent::NoFunctions => false,
        };
        Parent::parse(if subchannel { "0.0.0313" } else { "0000:86:00.0" }).unwrap()
    };
    let mut entries: Vec<Entry> =
        refusals().iter().map(|(fixed, it)| of(examples::refusal(it).to_owned(), it, *fixed)).collect();
    for (fixed, it) in absent() {
        let name = format!("Absent::{}", examples::absence(&it));
        entries.push(of(
            name,
            &Refusal::NoSuchParent { parent: parent(&it), absent: it, relocate: None },
            fixed,
        ));
    }
    for (fixed, it) in awaited() {
        let name = format!("Awaited::{}", examples::awaiting(&it));
        let refusal = Refusal::NoParents { clue: None }.until(it).after_waiting();
        entries.push(of(name, &refusal, fixed));
    }
    for (fixed, bad) in definitions() {
        let name = format!("BadDefinition::{}", examples::definition(&bad));
        entries.push(of(name, &Refusal::Definition { path: "/etc/mdevctl.d/P/U".to_owned(), bad }, fixed));
    }
    for (fixed, it) in whys() {
        let name = format!("Why::{}", examples::why(&it));
        let device = DeviceId::parse("0000:41:00.4").unwrap();
        entries.push(of(name, &Left { device, why: it }.refusal(), fixed));
    }
    entries
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn every_sentence_is_listed() {
    let mut text = String::new();
    for Entry { name, sentence, hint, .. } in entries() {
        writeln!(text, "{name}\n  error: vm1: {sentence}").unwrap();
        if let Some(hint) = hint {
            writeln!(text, "  hint: {hint}").unwrap();
        }
        text.push('\n');
    }
    let path = root().join("tests/words.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text, "UPDATE=1 cargo test --test words");
}

#[test]
fn every_variant_has_an_example() {
    let listed: BTreeSet<String> = entries().into_iter().map(|entry| entry.name).collect();
    let kinds = [
        ("", &REFUSAL[..]),
        ("Absent::", &ABSENT),
        ("Awaited::", &AWAITED),
        ("BadDefinition::", &DEFINITION),
        ("Why::", &WHY),
    ];
    let all: BTreeSet<String> = kinds
        .iter()
        .flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind}{name}")))
        .collect();
    assert_eq!(listed, all);
}

#[test]
fn every_sentence_is_one_line_that_a_person_can_read() {
    for Entry { name, sentence, hint, .. } in entries() {
        for text in [Some(&sentence), hint.as_ref()].into_iter().flatten() {
            assert!(!text.is_empty() && !text.contains(['\n', '\t']), "{name}: {text:?}");
            assert!(!text.contains("  ") && !text.ends_with('.') && text.trim() == text, "{name}: {text:?}");
        }
    }
}

#[test]
fn every_sentence_is_shown() {
    let mut expected = Vec::new();
    files(&root().join("tests/cases"), &mut expected);
    files(&root().join("tests/emulator/runs"), &mut expected);
    expected.retain(|path| path.file_name().is_some_and(|name| name == "expected"));
    let said: String = expected.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut wrong = Vec::new();
    for Entry { name, sentence, fixed, .. } in entries() {
        assert!(sentence.contains(fixed), "{name}: \"{fixed}\" is not in \"{sentence}\"");
        let known = said.contains(fixed);
        if known && ELSEWHERE.iter().chain(&NOWHERE).any(|(named, _)| *named == name) {
            wrong.push(format!("{name}: a case or a run shows it, so no table need name it"));
        }
        if NOWHERE.iter().any(|(nowhere, _)| *nowhere == name) {
            continue;
        }
        match ELSEWHERE.iter().find(|(elsewhere, _)| *elsewhere == name) {
            Some((_, path)) => {
                let text = fs::read_to_string(root().join(path)).unwrap();
                // In a source file, what stands in its tests.
                let test = text.split_once("#[cfg(test)]").map_or(text.as_str(), |(_, tests)| tests);
                let variant = name.rsplit("::").next().unwrap();
                if !test.contains(fixed) && !test.contains(variant) {
                    wrong.push(format!("{name}: {path} does not show it"));
                }
            }
            None if !known => wrong.push(format!("{name}: no expected output has \"{fixed}\"")),
            None => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
