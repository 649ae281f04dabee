//! A write that can block, done by a process that nobody waits for past the limit.
//!
//! A write of `1` to `remove` does not return while somebody holds the device, and after one signal its writer cannot
//! even be killed (`vfio_unregister_group_dev`). A thread would not do: blocked, it would keep our process alive, and
//! with it the pipe that libvirt reads to the end. So we fork: a process in a session of its own, with `/dev/null` for
//! stdin, stdout and stderr, which holds no lock of ours. As with the worker ([`super::worker`]), that is sound in a
//! process of one thread.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::panic::catch_unwind;
use std::process::{ExitStatus, exit};
use std::time::{Duration, Instant};

use fork::{Fork, fork};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, chdir, pidfd_open, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::set_name;

use super::daemon::{self, Process};
use super::machine::locks;
use super::{Host, Trouble};
use crate::backend;
use crate::step::Step;

/// What `ps` and `top` call it, should it be there for long.
const NAME: &CStr = c"virt-mdev-write";

/// How often a child that cannot be followed is looked for.
const RETRY: Duration = Duration::from_millis(5);

/// The exit status of a panic; as an errno it is the network's.
const PANICKED: i32 = 101;

/// How the child ended.
#[derive(Debug)]
pub enum Outcome {
    /// The write has returned.
    Done,
    /// It has failed with this error.
    Failed(io::Error),
    /// It still blocks; the kernel will finish it when the device is let go. Who is in it, if it has not just ended.
    Blocked(Option<Process>),
}

/// Performs `step` in a child and waits for it until `limit` has passed.
pub fn perform(step: &Step, limit: Duration) -> io::Result<Outcome> {
    let deadline = Instant::now() + limit;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    let child = match fork()? {
        Fork::Child => {
            let written = catch_unwind(|| {
                stand_apart(&nothing).map_or_else(|errno| errno.raw_os_error(), |()| write(step))
            });
            exit(written.unwrap_or(PANICKED))
        }
        Fork::Parent(child) => Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?,
    };
    // Without one, for want of descriptors or memory, it is looked for now and then: it is at work.
    let pidfd = pidfd_open(child, PidfdFlags::empty()).ok();
    loop {
        if let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? {
            return Ok(match ExitStatus::from_raw(status.as_raw()).code() {
                Some(0) => Outcome::Done,
                Some(PANICKED) => {
                    Outcome::Failed(io::Error::other("a defect of virt-mdev ended the writing process"))
                }
                Some(errno) => Outcome::Failed(io::Error::from_raw_os_error(errno)),
                None => Outcome::Failed(io::Error::other("the writing process was killed")),
            });
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Outcome::Blocked(daemon::process(&Host::real(), child.as_raw_nonzero().get())));
        }
        match &pidfd {
            Some(pidfd) => {
                let timeout = Timespec::try_from(left).ok();
                let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref());
            }
            None => std::thread::sleep(RETRY.min(left)),
        }
    }
}

/// Keeps nothing that somebody waits for to be closed or let go: what libvirt reads, its daemon's session, our locks.
fn stand_apart(nothing: &File) -> Result<(), Errno> {
    locks::let_go(nothing)?;
    dup2_stdin(nothing)?;
    dup2_stdout(nothing)?;
    dup2_stderr(nothing)?;
    // Fails only if we lead a session already, which is as good.
    let _ = setsid();
    let _ = set_name(NAME);
    chdir("/")
}

/// Does what the step says; 0, or the errno of the write.
fn write(step: &Step) -> i32 {
    let host = &Host::real();
    let written = match step {
        Step::Destroy { device, place } => backend::destroy(host, device, place),
        Step::Offline { device } => backend::set_online(host, device, false),
        _ => return Errno::INVAL.raw_os_error(),
    };
    // The kernel's own (ENOTSUPP, 524), which a driver may let out, are no exit status.
    let errno = |trouble: Trouble| {
        trouble
            .error
            .raw_os_error()
            .filter(|errno| (1..=255).contains(errno))
            .unwrap_or(Errno::IO.raw_os_error())
    };
    written.map_or_else(errno, |()| 0)
}
