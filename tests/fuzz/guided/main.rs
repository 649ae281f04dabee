//! The targets of `tests/fuzz` for libFuzzer: it keeps what takes a new branch, and changes that further.
//!
//! `FUZZ_TARGET` names one; without it all names are printed. Where `FUZZ_SEEDS` names a directory, libFuzzer finds there
//! what it is to begin with: files of good input in `seeds`, and the words that a reader heeds in `dictionary`. `run`
//! beside this file does all of it.

#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "a test may fail"
)]

#[path = "../readers.rs"]
mod readers;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../support/mod.rs"]
mod support;
#[path = "../targets/mod.rs"]
mod targets;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use readers::Reader;

thread_local! {
    /// libFuzzer begins, and gives its input, on one thread.
    static READER: RefCell<Reader> = RefCell::new(named());
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn named() -> Reader {
    let Ok(name) = std::env::var("FUZZ_TARGET") else {
        println!("{}", readers::NAMES.join("\n"));
        std::process::exit(0);
    };
    readers::reader(&name).unwrap_or_else(|| panic!("FUZZ_TARGET: one of {}", readers::NAMES.join(", ")))
}

/// libFuzzer reads the directory of seeds and the dictionary after this.
fn begin(reader: &Reader) {
    let Some(directory) = std::env::var_os("FUZZ_SEEDS").map(PathBuf::from) else { return };
    fs::create_dir_all(directory.join("seeds")).unwrap();
    for (number, seed) in reader.seeds.iter().enumerate() {
        fs::write(directory.join(format!("seeds/{number}")), seed).unwrap();
    }
    fs::write(directory.join("dictionary"), reader.words.iter().map(|word| entry(word)).collect::<String>())
        .unwrap();
}

/// A word as libFuzzer's dictionaries spell it.
fn entry(word: &str) -> String {
    let spelt = |byte: u8| match byte {
        b'"' | b'\\' | 0..0x20 | 0x7f.. => format!("\\x{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    format!("\"{}\"\n", word.bytes().map(spelt).collect::<String>())
}

fuzz_target!(init: READER.with_borrow(begin), |input: &[u8]| {
    READER.with_borrow_mut(|reader| (reader.target)(input));
});
