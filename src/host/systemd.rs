//! systemd's manager, asked and not waited for.

use std::io;
use std::process::{Command, Stdio};

use super::{Host, Trouble};

/// There where systemd runs the host (`sd_booted`).
const BOOTED: &str = "run/systemd/system";
const PROGRAM: &str = "/usr/bin/systemctl";

/// What systemd shows of units that are active, for the journal; where it does not, it is asked once more than needed.
const ACTIVE: &str = "run/systemd/units/invocation:";

/// Whether a unit is active, as far as that can be seen: it may just be stopping.
pub fn is_active(host: &Host, unit: &str) -> bool {
    matches!(host.kind(&format!("{ACTIVE}{unit}")), Ok(Some(_)))
}

/// Has a unit started, stopped or restarted (`verb`). Without systemd nothing is done.
pub fn ask(host: &Host, verb: &str, unit: &str) -> Result<(), Trouble> {
    if !host.exists(BOOTED) {
        return Ok(());
    }
    let mut command = Command::new(PROGRAM);
    command.args(["--no-block", "--quiet", verb, unit]).stdin(Stdio::null()).stdout(Stdio::null());
    let failed = |error: io::Error| Trouble { doing: format!("{verb} {unit}"), error };
    match command.status().map_err(failed)? {
        status if status.success() => Ok(()),
        status => Err(failed(io::Error::other(format!("systemctl: {status}")))),
    }
}
