//! Programs of the system that `virt-mdev doctor` asks and uses. Never from the hook, whose caller waits for it.

use std::io;
use std::process::{Command, Output, Stdio};

use super::Trouble;
use crate::words::printable;

const UDEVADM: &str = "udevadm";
/// Where the kernel itself takes it from (`CONFIG_MODPROBE_PATH`): not every shell that is root's has `/sbin` in its
/// `PATH`.
const MODPROBE: &str = "/sbin/modprobe";

/// The version of udev. `udevadm` prints systemd's number alone, and eudev's prints the one that it keeps up with.
pub fn udev_version() -> Option<u32> {
    let output = run(UDEVADM, &["--version"]).ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let digits = text.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|_| output.status.success())
}

/// Whether the kernel that runs has this module, loaded or not.
pub fn has_module(module: &str) -> bool {
    run(MODPROBE, &["--quiet", "--dry-run", module]).is_ok_and(|output| output.status.success())
}

/// Loads a module.
pub fn load_module(module: &str) -> Result<(), Trouble> {
    run(MODPROBE, &[module])
        .and_then(|output| succeeded(&output))
        .map_err(|error| Trouble { doing: format!("load the module {module}"), error })
}

/// An error with the last line that a program complained in, or with its exit status; of `apparmor_parser`, too.
pub(super) fn succeeded(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(match said.trim().lines().next_back() {
        Some(said) => printable(said).to_string(),
        None => output.status.to_string(),
    }))
}

fn run(program: &str, arguments: &[&str]) -> io::Result<Output> {
    Command::new(program).args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).output()
}
