//! The door for people.

use std::process::ExitCode;

fn main() -> ExitCode {
    virt_mdev::cli::main()
}
