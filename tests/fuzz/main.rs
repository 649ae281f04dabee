//! Hostile input: every reader of what comes from outside gets what it ought to get, changed at random, and what has
//! once been found to break it (`corpus/TARGET/`, replayed first).
//!
//! A target is a plain function that panics when something does not hold. `cargo test --test fuzz` tries each for a
//! moment, with `FUZZ_MINUTES=1` for that long. What fails is written to `target/fuzz/TARGET`; `FUZZ_SEED` leads there
//! again. `guided/` gives the same targets input that follows their branches.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a test may fail"
)]

mod mutate;
mod readers;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../support/mod.rs"]
mod support;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Mutator;
use readers::Reader;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The files of a directory, in order; none where there is no such directory.
fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn budget() -> Duration {
    let minutes =
        std::env::var("FUZZ_MINUTES").map(|text| text.parse::<f64>().expect("FUZZ_MINUTES: a number"));
    Duration::from_secs_f64(minutes.map_or(0.3, |minutes| minutes * 60.0))
}

/// Another one each time only where somebody has asked for more than a moment: what is found by chance must not stop
/// somebody else's change.
fn seed() -> u64 {
    let given = std::env::var("FUZZ_SEED").map(|text| text.parse().expect("FUZZ_SEED: a number"));
    given.unwrap_or_else(|_| if std::env::var_os("FUZZ_MINUTES").is_some() { fastrand::u64(..) } else { 1 })
}

/// Tries a target with its corpus, its seeds, and what becomes of them.
fn fuzz(name: &str) {
    let Reader { seeds, words, mut target } = readers::reader(name).expect("a reader of that name");
    let mut attempt = |input: &[u8], seed: Option<u64>| {
        if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
            let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            fs::create_dir_all(&found).unwrap();
            let file = found.join(name);
            fs::write(&file, input).unwrap();
            let seed = seed.map(|seed| format!(" (FUZZ_SEED={seed})")).unwrap_or_default();
            panic!("{name}: failed with the input in {}{seed}", file.display());
        }
    };
    assert!(!seeds.is_empty(), "{name}: nothing to begin with");
    for input in files(&here().join("fuzz/corpus").join(name)).iter().chain(&seeds) {
        attempt(input, None);
    }
    let seed = seed();
    let mut mutator = Mutator::new(seed, &seeds, words);
    let began = Instant::now();
    let mut tried = 0_u64;
    while began.elapsed() < budget() {
        for _ in 0..16 {
            attempt(&mutator.next(), Some(seed));
            tried += 1;
        }
    }
    eprintln!("fuzz: {name}: {tried} inputs");
}

/// Each name has a reader and a test of its own, and what `FUZZ_TARGETS` asks for is one of them: a name that fits no
/// test would pass for one of which nothing was found.
#[test]
fn names() {
    for name in readers::NAMES {
        assert!(readers::reader(name).is_some(), "{name}");
        assert!(include_str!("main.rs").contains(&format!("fuzz(\"{name}\")")), "{name} is tried by no test");
    }
    for name in std::env::var("FUZZ_TARGETS").unwrap_or_default().split_whitespace() {
        assert!(readers::NAMES.contains(&name), "no such target: {name} ({})", readers::NAMES.join(" "));
    }
}

#[test]
fn whole_domains_are_good() {
    for xml in files(&here().join("fuzz/seeds")) {
        assert!(!virt_mdev::domain::Domain::read(&xml).expect("a domain").wanted.is_empty());
    }
}

#[test]
fn domain_xml() {
    fuzz("domain_xml");
}

#[test]
fn rewriting() {
    fuzz("rewriting");
}

#[test]
fn plans() {
    fuzz("plans");
}

#[test]
fn seclabels() {
    fuzz("seclabels");
}

#[test]
fn arguments() {
    fuzz("arguments");
}

#[test]
fn listings() {
    fuzz("listings");
}

#[test]
fn definitions() {
    fuzz("definitions");
}

#[test]
fn configuration() {
    fuzz("configuration");
}

#[test]
fn qemu_conf() {
    fuzz("qemu_conf");
}

#[test]
fn records() {
    fuzz("records");
}

#[test]
fn udev_events() {
    fuzz("udev_events");
}
