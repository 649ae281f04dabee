//! The daemon that called the hook, by pid and start time: a pid alone may belong to somebody else by now.

use rustix::io::Errno;
use rustix::process::{Pid, getpgrp, getppid};
use serde::{Deserialize, Serialize};

use super::{Host, Trouble};
use crate::refusal::Refusal;

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_time: u64,
}

/// Our parent when we began: libvirt forks its hooks from the daemon itself (`virHookCall` → `virCommandRun`). `None` if it
/// had died by then, and we had been handed to init, which is nobody's daemon unless it leads our own process group, as a
/// daemon does that is its container's first process. If it has died since, that is refused.
pub fn caller(host: &Host, parent: Option<Pid>) -> Result<Option<Process>, Refusal> {
    let Some(pid) = parent.map(|parent| parent.as_raw_nonzero().get()) else { return Ok(None) };
    if pid == 1 && getpgrp().as_raw_nonzero().get() != 1 {
        return Ok(None);
    }
    let start_time = start_time(host, pid);
    // What was read is our parent's only if that is our parent still.
    if getppid() != parent {
        return Err(Refusal::DaemonGone { pid });
    }
    // Of one that cannot be looked at it could not be told later whether it is still starting the domain.
    Ok(start_time?.map(|start_time| Process { pid, start_time }))
}

/// The process with this pid, while it runs.
pub fn process(host: &Host, pid: i32) -> Option<Process> {
    Some(Process { pid, start_time: start_time(host, pid).ok().flatten()? })
}

/// This process.
pub fn own(host: &Host) -> Option<Process> {
    i32::try_from(std::process::id()).ok().and_then(|pid| process(host, pid))
}

/// Whether this very process still runs. One that cannot be looked at cannot be called dead.
pub fn is_alive(host: &Host, process: Process) -> bool {
    start_time(host, process.pid).map_or(true, |start_time| start_time == Some(process.start_time))
}

/// How much memory what it starts may lock, in KiB (`RLIMIT_MEMLOCK` is inherited); `None` for any amount.
pub fn lockable(host: &Host, pid: i32) -> Option<u64> {
    let limits = host.read(&format!("proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    let soft: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(soft / 1024)
}

fn start_time(host: &Host, pid: i32) -> Result<Option<u64>, Trouble> {
    match host.read(&format!("proc/{pid}/stat")) {
        Ok(stat) => Ok(field_22(&stat)),
        Err(trouble) if trouble.is(Errno::NOENT) || trouble.is(Errno::SRCH) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

fn field_22(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    // One that nobody has waited for yet has ended all the same.
    let mut fields = fields.split_whitespace();
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_not_another_of_the_same_pid() {
        let host = Host::real();
        let caller = caller(&host, getppid()).unwrap().unwrap();
        assert!(is_alive(&host, caller));
        assert!(!is_alive(&host, Process { start_time: caller.start_time + 1, ..caller }));
        let dir = tempfile::tempdir().unwrap();
        let (here, process) = (Host::at(dir.path()), Process { pid: 7, start_time: 4711 });
        assert!(!is_alive(&here, process));
        std::fs::create_dir_all(dir.path().join("proc/7/stat")).unwrap();
        assert!(is_alive(&here, process), "what cannot be read may be that process");
        let gone = super::caller(&host, Some(rustix::process::getpid()));
        assert!(matches!(gone, Err(Refusal::DaemonGone { .. })), "we were not begun by ourselves: {gone:?}");
    }

    #[test]
    fn a_program_may_call_itself_anything() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/7")).unwrap();
        let stat = "7 (a) b 1 2) S 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 4711 1000 10";
        std::fs::write(dir.path().join("proc/7/stat"), stat).unwrap();
        assert_eq!(start_time(&Host::at(dir.path()), 7).unwrap(), Some(4711));
        std::fs::write(dir.path().join("proc/7/stat"), stat.replace(") S ", ") Z ")).unwrap();
        assert_eq!(start_time(&Host::at(dir.path()), 7).unwrap(), None, "it has ended");
    }
}
