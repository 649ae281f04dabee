//! A write that can block, done by a process that nobody waits for past the limit.
//!
//! A write of `1` to `remove` does not return while somebody holds the device, and after one signal its writer cannot
//! even be killed (`vfio_unregister_group_dev`). A thread would not do: blocked, it would keep our process alive, and
//! with it the pipe that libvirt reads to the end. So the program starts itself again, in a session of its own, with
//! `/dev/null` for stdin, stdout and stderr and no other descriptor of ours.

use std::ffi::OsString;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, setsid};

use super::Host;
use super::daemon::{self, Process};
use crate::backend;
use crate::step::Step;

/// The one argument, before the step as JSON, that makes a program of ours the child. libvirt calls its hook with
/// four arguments, so no domain's name can be mistaken for it.
const FLAG: &str = "--perform-step";

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
    let json = serde_json::to_string(step)?;
    let mut child = Command::new("/proc/self/exe")
        .args([FLAG, &json])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(match status.code() {
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
            return Ok(Outcome::Blocked(
                pid.and_then(|pid| daemon::process(&Host::real(), pid.as_raw_nonzero().get())),
            ));
        }
        if let Some(pidfd) = &pidfd {
            let timeout = Timespec::try_from(left).ok();
            let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], timeout.as_ref());
        }
    }
}

/// If these are a child's arguments: does what they say and gives the exit status, which is 0 or the errno of the
/// write.
pub fn run_if_child(args: &[OsString]) -> Option<u8> {
    let [flag, json] = args else { return None };
    if flag != FLAG {
        return None;
    }
    // Away from the session of libvirt's daemon; fails only if we lead a session already, which is as good.
    let _ = setsid();
    let errno =
        |error: &io::Error| error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(5);
    let step = json.to_str().and_then(|json| serde_json::from_str::<Step>(json).ok());
    Some(match step {
        Some(Step::Destroy { device, place }) => backend::destroy(&Host::real(), &device, &place)
            .map_or_else(|trouble| errno(&trouble.error), |()| 0),
        Some(Step::Attribute { device, name, value, .. }) => {
            backend::write_attribute(&Host::real(), &device, &name, &value)
                .map_or_else(|trouble| errno(&trouble.error), |_| 0)
        }
        Some(Step::Offline { device }) => backend::set_online(&Host::real(), &device, false)
            .map_or_else(|trouble| errno(&trouble.error), |()| 0),
        _ => 22,
    })
}
