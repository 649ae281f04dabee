//! `virt-mdev-emulator`: see `README.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    virt_mdev_emulator::cli::main()
}
