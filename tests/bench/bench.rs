//! What the programs cost, beside what others cost: `make bench`.
//!
//! Counts (system calls, instructions, memory, sizes) are the same on every machine; `cargo test --test bench` takes
//! them and fails where one is over its goal. Times are only ever ratios to a baseline that ran in the same minute, in
//! turns with what is measured; they are taken with `--times`, and `--check` fails only beyond one and a half times a
//! goal. `--json FILE` writes all that the table shows.

mod costs;
mod hosts;
mod peers;
mod programs;
mod runs;
mod table;

use std::process::ExitCode;

use table::Table;

/// What went wrong, in words.
type Wrong = String;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The programs under test are given by name; this one also plays the baseline for what reads XML.
    if arguments.as_slice() == ["read-xml"] {
        return peers::read_xml();
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let json = arguments.iter().skip_while(|argument| *argument != "--json").nth(1);
    let times = has("--times");
    match measure(times) {
        Ok(table) => {
            print!("{table}");
            if let Some(Err(error)) = json.map(|file| std::fs::write(file, table.json())) {
                println!("bench: {}: {error}", json.map_or("", String::as_str));
                return ExitCode::FAILURE;
            }
            // Without times it is a test; with them a look, unless it is asked.
            let missed = if times && !has("--check") { Vec::new() } else { table.missed() };
            for line in &missed {
                println!("bench: missed: {line}");
            }
            if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(wrong) => {
            println!("bench: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn measure(times: bool) -> Result<Table, Wrong> {
    let mut table = Table::default();
    let programs = programs::Programs::found()?;
    costs::plain_domain(&mut table, &programs, times)?;
    costs::domain_xml(&mut table, &programs, times)?;
    costs::sizes(&mut table, &programs)?;
    hosts::one_device(&mut table, &programs, times)?;
    hosts::full_host(&mut table, &programs, times)?;
    hosts::many_devices(&mut table, &programs)?;
    hosts::candidates(&mut table, &programs)?;
    hosts::lists(&mut table, &programs, times)?;
    Ok(table)
}
