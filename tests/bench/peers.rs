//! The baseline for what reads domain XML: the same reader, and nothing done with what it finds.

use std::hint::black_box;
use std::io::{Read as _, stdin};
use std::process::ExitCode;

use quick_xml::events::Event;
use quick_xml::reader::NsReader;

/// Reads stdin to its end through a reader that resolves namespaces.
pub(crate) fn read_xml() -> ExitCode {
    let mut text = Vec::new();
    if let Err(error) = stdin().read_to_end(&mut text) {
        println!("stdin: {error}");
        return ExitCode::FAILURE;
    }
    let mut reader = NsReader::from_reader(text.as_slice());
    loop {
        match reader.read_resolved_event() {
            Ok((_, Event::Eof)) => return ExitCode::SUCCESS,
            Ok(event) => drop(black_box(event)),
            Err(error) => {
                println!("stdin: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
}
