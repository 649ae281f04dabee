//! What an event does to devices is done in a process of its own, so that libvirt waits for a driver no longer than
//! its limit: a kernel operation that blocks cannot be interrupted, and whoever waits for the process that is in it
//! (libvirt waits for its hook) would wait as long.
//!
//! The worker notes each operation before it begins ([`super::progress`]); one after which nothing more is noted is
//! the one that blocks. It dies with the process that waits for it, as if killed at that very place, and the record
//! says what was intended.
//!
//! It is a fork: it knows already what has been read, and nothing is loaded a second time. That is sound in a process
//! of one thread, which ours are, and no lock is held yet, which it would hold as well.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitStatus, exit};
use std::time::Duration;

use fork::{Fork, fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, chdir, getpid, getppid, pidfd_open,
    set_parent_process_death_signal, waitpid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::{progress, signals};

/// More than any refusal has.
const MAX_SAID: u64 = 64 * 1024;

/// The exit status of a worker in which a defect of ours has shown; Rust's own for it.
const PANICKED: i32 = 101;

/// How a worker ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// Not at all: nothing was noted after this operation.
    Blocked(String),
}

/// A file in memory, where a worker leaves what it has to say to more than people.
pub fn answer() -> io::Result<File> {
    Ok(memfd_create("answer", MemfdFlags::CLOEXEC)?.into())
}

/// Does `work` in a worker, whose exit status it gives; passes on what it says on stderr.
pub fn run(limit: Duration, work: impl FnOnce() -> i32) -> io::Result<Ended> {
    signals::heed();
    let nothing = File::open("/dev/null")?;
    let notes = File::from(memfd_create("notes", MemfdFlags::CLOEXEC)?);
    let (said, says) = pipe_with(PipeFlags::CLOEXEC)?;
    let parent = getpid();
    match fork()? {
        Fork::Child => {
            // What libvirt waits for to be closed is not held open by a worker that blocks.
            let apart = dup2_stdin(&nothing)
                .and_then(|()| dup2_stdout(&notes))
                .and_then(|()| dup2_stderr(&says))
                .and_then(|()| chdir("/"))
                .and_then(|()| set_parent_process_death_signal(Some(Signal::KILL)));
            // It may have died before it could be followed.
            if apart.is_err() || getppid() != Some(parent) {
                exit(PANICKED);
            }
            drop((nothing, notes, said, says));
            progress::start();
            exit(catch_unwind(AssertUnwindSafe(work)).unwrap_or(PANICKED))
        }
        Fork::Parent(child) => {
            drop(says);
            let child = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?;
            let ended = attend(child, &notes, limit)?;
            pass_on(said)?;
            Ok(ended)
        }
    }
}

/// From a process that may still hold the pipe's other end: what is there, and no waiting for more.
fn pass_on(said: OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&said, true)?;
    let mut text = Vec::new();
    let _ = File::from(said).take(MAX_SAID).read_to_end(&mut text);
    // Nobody reads it: nothing to do about that.
    let _ = io::stderr().lock().write_all(&text);
    Ok(())
}

/// Waits for the worker until it ends, or until nothing was noted by it for `limit`.
fn attend(child: Pid, notes: &File, limit: Duration) -> io::Result<Ended> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let begun = progress::now();
    loop {
        let noted = progress::last(notes)?;
        let (since, doing) =
            noted.map_or_else(|| (begun, "start".to_owned()), |note| (note.at + note.wait, note.doing));
        let left = (since + limit).saturating_sub(progress::now());
        // An interrupted poll is a poll that found nothing: the loop looks again.
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Timespec::try_from(left).ok().as_ref());
        if let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? {
            return Ok(Ended::Exited(ExitStatus::from_raw(status.as_raw())));
        }
        if left.is_zero() {
            return Ok(Ended::Blocked(doing));
        }
    }
}
