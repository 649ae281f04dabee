//! What the pages in `docs/` quote is what the programs say.
//!
//! A block of code without a language is quoted from us: each line of it is one of the expected outputs of the cases
//! and of the runs on the emulated host, or stands in the source; `…` in it stands for anything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, wanted, found);
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

/// Every text that shows what we say, as lines.
fn said() -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let expected = |path: &Path| path.file_name().is_some_and(|name| name == "expected");
    files(&root().join("tests/cases"), &expected, &mut paths);
    files(&root().join("tests/emulator/runs"), &expected, &mut paths);
    files(&root().join("src"), &|path| path.extension().is_some_and(|kind| kind == "rs"), &mut paths);
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    paths.iter().map(lines).collect()
}

/// The quoted line's parts stand in that line, in that order.
fn fits(quoted: &str, line: &str) -> bool {
    let mut rest = line;
    quoted.split('…').all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// The blocks of a page that have no language.
fn blocks(page: &str) -> Vec<Vec<&str>> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, Vec<&str>)> = None;
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some((language.is_empty(), Vec::new())),
            (Some(_), Some((ours, lines))) => blocks.extend(ours.then_some(lines)),
            (None, Some((ours, mut lines))) => {
                lines.push(line);
                open = Some((ours, lines));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

#[test]
fn what_the_pages_quote_is_said() {
    let said = said();
    let mut pages = Vec::new();
    files(&root().join("docs"), &|path| path.extension().is_some_and(|kind| kind == "md"), &mut pages);
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for block in blocks(&text) {
            let mut before: Option<&str> = None;
            for line in block {
                let fixed: usize = line.split('…').map(str::len).sum();
                assert!(fixed > 15, "{}: \"{line}\" says nothing", page.display());
                // A hint belongs to the error above it.
                let is_said = match before.filter(|_| line.starts_with("hint: ")) {
                    Some(error) => said
                        .iter()
                        .any(|text| text.windows(2).any(|two| fits(error, &two[0]) && fits(line, &two[1]))),
                    // In the source a sentence stands without what it begins with.
                    None => {
                        let sentence = line.strip_prefix("hint: ").unwrap_or(line);
                        said.iter().flatten().any(|one| fits(sentence, one))
                    }
                };
                if !is_said {
                    wrong.push(format!("{}: {line}", page.display()));
                }
                before = line.starts_with("error: ").then_some(line);
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "the pages quote us");
    assert!(wrong.is_empty(), "nothing says this any more:\n{}", wrong.join("\n"));
}

#[test]
fn what_the_pages_link_to_is_there() {
    let mut pages = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|page| root().join(page)).to_vec();
    files(&root().join("docs"), &|path| path.extension().is_some_and(|kind| kind == "md"), &mut pages);
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") {
                let path = page.parent().unwrap().join(target.split('#').next().unwrap());
                assert!(path.exists(), "{} links to {target}, which is not there", page.display());
            }
        }
    }
}

/// A threat without a test is a claim.
#[test]
fn each_threat_names_tests_that_are_there() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let threats = text.split("## Threats").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<_> = threats.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() > 10, "the table of threats");
    for row in rows {
        let shown_by = row.rsplit('|').nth(1).unwrap();
        let tests: Vec<_> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let (path, function) = test.split_once(": ").unwrap_or((test, ""));
            let path = root().join(path);
            assert!(path.exists(), "{test} is not there");
            let named = || fs::read_to_string(&path).unwrap().contains(&format!("fn {function}("));
            assert!(function.is_empty() || named(), "{test} is not there");
        }
    }
}
