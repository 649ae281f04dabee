//! The door that udev opens, by `60-virt-mdev.rules`: `virt-mdev-udev [--apply|--gone|--arrived]`, the event in the environment.

use std::process::ExitCode;

fn main() -> ExitCode {
    virt_mdev::relabel::main(std::env::args_os().skip(1))
}
