//! The door that libvirt opens: `virt-mdev-hook NAME OPERATION SUBOPERATION EXTRA < domain.xml`.

use std::process::ExitCode;

fn main() -> ExitCode {
    virt_mdev::hook::main(std::env::args_os().skip(1))
}
