//! A case is a directory: `domain.xml`, `host.toml`, and what `virt-mdev plan` answers, in `expected`.
//!
//! `host.toml` names one of `tests/hosts/*.toml` (`host = "mtty"`) and may add what is on it. `UPDATE=1 cargo test
//! --test cases` writes `expected` anew: read the difference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail"
)]

mod support;

use std::fs;
use std::path::Path;

use support::tree::Tree;
use virt_mdev::cli::plan;
use virt_mdev::event::Event;

#[test]
fn every_case_is_answered_as_expected() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let update = std::env::var_os("UPDATE").is_some();
    let mut seen = 0;
    let mut wrong = Vec::new();
    let mut cases: Vec<_> =
        fs::read_dir(here.join("cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let description: toml::Table = fs::read_to_string(case.join("host.toml")).unwrap().parse().unwrap();
        let tree = Tree::build(&here.join("hosts"), &description);
        let before = tree.listing();
        let event = description.get("event").and_then(|event| event.as_str()).unwrap_or("prepare");
        let xml = fs::read(case.join("domain.xml")).unwrap();
        let answer = match plan::text(&tree.host(), Event::from_word(event).unwrap(), &xml, false) {
            Ok(text) => text,
            Err(failure) => {
                let hint = failure.hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
                format!("error: {}\n{hint}", failure.text)
            }
        }
        .replace(&tree.root_text(), "");
        assert_eq!(tree.listing(), before, "{name}: a plan has changed the host");
        let expected = case.join("expected");
        if update {
            fs::write(&expected, &answer).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != answer {
            wrong.push(format!("{name}:\n{answer}"));
        }
        seen += 1;
    }
    assert!(seen > 0, "no cases found");
    assert!(
        wrong.is_empty(),
        "{} of {seen} cases are answered otherwise now:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
