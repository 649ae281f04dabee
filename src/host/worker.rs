//! What an event does to devices is done in a process of its own, so that libvirt waits for a driver no longer than
//! its limit: a kernel operation that blocks cannot be interrupted, and whoever waits for the process that is in it
//! (libvirt waits for its hook) would wait as long.
//!
//! The worker notes each operation before it begins ([`super::progress`]); one after which nothing more is noted is
//! the one that blocks. It dies with the process that waits for it, as if killed at that very place, and the record
//! says what was intended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, set_parent_process_death_signal};

use super::daemon::Process;
use super::{progress, signals};

/// The first argument of a worker. libvirt calls its hook with four arguments and a worker has more, so no domain's
/// name can be mistaken for it.
const FLAG: &str = "--worker";

/// More than any refusal has.
const MAX_SAID: u64 = 64 * 1024;

/// How a worker ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// Not at all: nothing was noted after this operation.
    Blocked(String),
}

/// A call that a worker was given.
#[derive(Debug)]
pub struct Given {
    /// The daemon that called the hook, for a prepare.
    pub caller: Option<Process>,
    /// The hook's own arguments.
    pub args: Vec<String>,
}

/// Does a hook's call in a worker, which finds `stdin` on its standard input; passes on what it says on stderr. With how it
/// ended comes that input: a file in memory, in which it may have left an [`answer`].
pub fn run(
    caller: Option<Process>,
    args: &[&str],
    stdin: &[u8],
    limit: Duration,
) -> io::Result<(Ended, File)> {
    signals::heed();
    let mut input = File::from(memfd_create("domain", MemfdFlags::CLOEXEC)?);
    input.write_all(stdin)?;
    input.rewind()?;
    let notes = File::from(memfd_create("notes", MemfdFlags::CLOEXEC)?);
    let (pid, start_time) = caller.map_or((0, 0), |caller| (caller.pid, caller.start_time));
    let mut child = Command::new("/proc/self/exe")
        .arg(FLAG)
        .args([std::process::id().to_string(), pid.to_string(), start_time.to_string()])
        .args(args)
        .current_dir("/")
        .stdin(input.try_clone()?)
        .stdout(notes.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()?;
    let ended = attend(&mut child, &notes, limit)?;
    // Through a pipe from a process that may still hold its other end: what is there, and no waiting for more.
    if let Some(said) = child.stderr.take() {
        rustix::io::ioctl_fionbio(&said, true)?;
        let mut text = Vec::new();
        let _ = said.take(MAX_SAID).read_to_end(&mut text);
        let _ = io::stderr().lock().write_all(&text);
    }
    Ok((ended, input))
}

/// Leaves this in place of the worker's input; its output is for its notes.
pub fn answer(text: &[u8]) -> io::Result<()> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    input.set_len(0)?;
    input.write_all_at(text, 0)
}

/// Waits for the worker until it ends, or until nothing was noted by it for `limit`.
fn attend(child: &mut Child, notes: &File, limit: Duration) -> io::Result<Ended> {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return child.wait().map(Ended::Exited);
    };
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let begun = progress::now();
    loop {
        let noted = progress::last(notes)?;
        let (since, doing) =
            noted.map_or_else(|| (begun, "start".to_owned()), |note| (note.at + note.wait, note.doing));
        let left = (since + limit).saturating_sub(progress::now());
        if left.is_zero() {
            return Ok(match child.try_wait()? {
                Some(status) => Ended::Exited(status),
                None => Ended::Blocked(doing),
            });
        }
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        // An interrupted poll is a poll that found nothing: the loop looks again.
        let _ = poll(&mut ended, Timespec::try_from(left).ok().as_ref());
        if ended.iter().any(|ended| ended.revents().contains(PollFlags::IN)) {
            return child.wait().map(Ended::Exited);
        }
    }
}

/// If these are a worker's arguments: makes this process one, which dies with the process that started it.
pub fn become_one(args: &[OsString]) -> Option<Given> {
    let [flag, parent, pid, start_time, rest @ ..] = args else { return None };
    if flag != FLAG || rest.len() < 3 {
        return None;
    }
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<i32>().ok());
    signals::heed();
    let (parent, pid) = (number(parent)?, number(pid)?);
    let start_time = start_time.to_str()?.parse().ok()?;
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // It may have died before it could be followed.
    if getppid().is_none_or(|now| now.as_raw_nonzero().get() != parent) {
        return None;
    }
    progress::start();
    Some(Given {
        caller: (pid != 0).then_some(Process { pid, start_time }),
        args: rest.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
    })
}
