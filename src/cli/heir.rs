//! Whoever goes on where `attach` or `detach` was ended.
//!
//! A signal ends a verb between any two steps, and what nobody answers for then would stay until the timer's
//! `reconcile`. So before it changes anything the verb starts this program once more, in a session of its own, which a
//! Ctrl-C does not reach. That process waits until the verb has ended, and takes away what nobody answers for any more.
//! A signal handler would not do: a SIGKILL has none, and what blocks in the kernel cannot be called off.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open, setsid};

use super::{Failure, reconcile};
use crate::config::Config;
use crate::execute::Means;
use crate::host::Host;
use crate::ids::DomainUuid;
use crate::record::Records;
use crate::undo::{Sweep, settle};
use crate::words::errno;

/// The first of an heir's arguments; its parent's pid and the domain follow. No verb begins with a dash.
const FLAG: &str = "--inherit";

/// For as long as this lives, somebody stands by.
#[derive(Debug)]
pub(super) struct Heir(Child);

impl Heir {
    /// Starts one, which is about this domain.
    pub(super) fn appoint(domain: &DomainUuid) -> Result<Self, Failure> {
        let mut command = Command::new("/proc/self/exe");
        let parent = std::process::id().to_string();
        // Its stderr is ours: the person who has ended us is told.
        command.args([FLAG, &parent, &domain.to_string()]).current_dir("/");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let standing_by = child.and_then(|child| {
            let mut heir = Self(child);
            let mut word = [0];
            heir.0.stdout.take().map_or(Ok(()), |mut says| says.read_exact(&mut word)).map(|()| heir)
        });
        standing_by.map_err(|error| {
            Failure::new(format!(
                "cannot run virt-mdev once more to clean up if this is ended: {}",
                errno(&error)
            ))
        })
    }
}

impl Drop for Heir {
    /// The verb has come to its own end, and there is nothing to inherit.
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// If these are an heir's arguments: waits for the end of its parent and cleans up.
pub(super) fn run_if_heir(host: &Host, args: &[OsString]) -> Option<()> {
    let [flag, parent, domain] = args else { return None };
    if flag != FLAG {
        return None;
    }
    let parent = parent.to_str()?.parse().ok().and_then(Pid::from_raw)?;
    let domain = DomainUuid::parse(domain.to_str()?).ok()?;
    // It fails only if we lead a session already, which is as good.
    let _ = setsid();
    let followed = pidfd_open(parent, PidfdFlags::empty());
    // From here on no signal but our own reaches us; a parent that is gone does not hear it.
    let _ = rustix::io::write(rustix::stdio::stdout(), b"\n");
    // One that ended before it could be followed has left us to somebody else, and its pid to anybody.
    if let Some(parent_ends) = followed.ok().filter(|_| getppid() == Some(parent)) {
        while poll(&mut [PollFd::new(&parent_ends, PollFlags::IN)], None) == Err(Errno::INTR) {}
    }
    clean_up(host, &domain);
    Some(())
}

fn clean_up(host: &Host, domain: &DomainUuid) {
    let records = Records::new(host);
    let means = Means { host, records: &records, waits: Config::load_or_default(host).waits };
    let name = reconcile::name(records.read(domain).ok().flatten().as_ref(), domain);
    let sweep = Sweep { abandoned: true, ..Sweep::of_domain(means.waits.release) };
    match settle(means, domain, sweep) {
        Ok((guard, undone)) => {
            // Whoever reads this may be slow.
            drop(guard);
            undone.report();
            for step in undone.done {
                let _ = writeln!(io::stderr().lock(), "{name}: interrupted, {step}");
            }
        }
        Err(trouble) => log::warn!("{name}: interrupted: {trouble}"),
    }
}
