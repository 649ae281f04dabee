//! One step taken back on the host: never on a device that is in use, never on what is another's by now.

use std::time::Duration;

use rustix::io::Errno;

use super::Why;
use crate::backend::{self, Backend};
use crate::execute::Means;
use crate::host::daemon::Process;
use crate::host::{Host, Trouble, child, holders, node};
use crate::ids::DeviceId;
use crate::record::Guard;
use crate::step::{Place, Step};
use crate::words::errno;

/// Puts back what a node carried, or takes a rule out. A node that is another's by now has nothing of ours: groups are
/// numbered anew. libvirt, too, gives nodes back, to root.
pub(super) fn unlabel(means: Means<'_>, guard: &Guard<'_>, back: &Step) -> Result<(), Trouble> {
    let Means { host, records, waits } = means;
    match back {
        Step::Unlabel { device, node, label, was } => {
            // The helper of udev looks at the record and labels the node under this lock: it does so before, or not any
            // more.
            let _lock = records.lock_labels(waits.lock)?;
            let has = guard.owns(device)? && node::of(host, device)?.contains(node);
            if has && node::put_back(host, node, label, was)? {
                log::info!(VIRT_MDEV_UUID:% = device; "{back}");
            }
            Ok(())
        }
        Step::Withdraw { profile, node, .. } => node::withdraw(host, profile, node),
        _ => Ok(()),
    }
}

/// There was no process, or no memory, for the child that writes: the driver has not been asked.
fn not_started(error: &std::io::Error) -> Why {
    Why::Failed {
        what: format!("the process that writes could not be started: {}", errno(error)),
        again: true,
    }
}

pub(super) fn held(host: &Host, device: &DeviceId) -> Option<Why> {
    match holders::is_held(host, device) {
        Ok(true) => Some(Why::Held { holder: holders::holder(host, device) }),
        Ok(false) => None,
        // A device that may be in use is one that is.
        Err(trouble) => Some(Why::Failed { what: trouble.to_string(), again: true }),
    }
}

/// Takes a device offline, if nobody has it open. A device that is gone is offline.
pub(super) fn take_offline(host: &Host, step: &Step, limit: Duration) -> Result<(), Why> {
    let device = step.device();
    if let Some(why) = held(host, device) {
        return Err(why);
    }
    log::info!(VIRT_MDEV_UUID:% = device; "{step}");
    match host.machine().perform(step, limit) {
        Ok(child::Outcome::Done) => Ok(()),
        Ok(child::Outcome::Blocked(writer)) => Err(Why::Pending { writer }),
        // A device that has no such file any more may be going, or be in trouble; only one that has gone is offline.
        Ok(child::Outcome::Failed(_)) if host.is_gone(&backend::directory(device)) => Ok(()),
        Err(error) => Err(not_started(&error)),
        Ok(child::Outcome::Failed(error)) => Err(Why::Failed {
            what: format!("it cannot be taken offline: {}", errno(&error)),
            again: is_passing(&error),
        }),
    }
}

/// What cannot be read just now cannot be called gone.
pub(super) fn has_gone(host: &Host, device: &DeviceId, place: &Place) -> bool {
    backend::located(host, device).is_ok_and(|found| !found.is_some_and(|found| found.is_at(place)))
}

/// Errors that are over in a moment. EAGAIN and ENODEV: another removal got there first (`mdev_device_remove`).
pub(super) fn is_passing(error: &std::io::Error) -> bool {
    [Errno::AGAIN, Errno::NODEV, Errno::NOENT, Errno::INTR, Errno::BUSY]
        .iter()
        .any(|again| error.raw_os_error() == Some(again.raw_os_error()))
}

/// Takes a device of ours away, if it is where we made it and nobody has it open. Says whether there was one.
/// `patient`: its user has just ended, and a driver that cleans up by itself is given the time to. `writer`: who is in a
/// write for it from before.
pub(super) fn destroy(
    means: Means<'_>,
    device: &DeviceId,
    place: &Place,
    patient: bool,
    limit: Duration,
    writer: Option<Process>,
) -> Result<bool, Why> {
    let host = means.host;
    match backend::located(host, device) {
        Ok(Some(found)) if found.is_at(place) => {}
        Ok(Some(found)) => {
            log::warn!("{device} is {} now and was {place}: not ours any more, left alone", found.place);
            return Ok(false);
        }
        Ok(None) if backend::is_there(host, device, place) => return Err(Why::Pending { writer }),
        Ok(None) => return Ok(false),
        Err(trouble) => return Err(trouble.into()),
    }
    if writer.is_some() {
        return Err(Why::Pending { writer });
    }
    if let Some(why) = held(host, device) {
        return Err(why);
    }
    if patient && backend::cleans_up_by_itself(host, device, place) {
        return Err(Why::Leaving);
    }
    let step = Step::Destroy { device: device.clone(), place: place.clone() };
    log::info!(VIRT_MDEV_UUID:% = device; "{step}");
    let outcome = host.machine().perform(&step, limit);
    // Whatever the write said: a device whose directory is gone is gone, and one whose directory is there is not.
    if !backend::is_there(host, device, place) {
        return Ok(true);
    }
    // A virtual function's type may be refused to go for some seconds after QEMU has ended.
    let lingers = place.backend == Backend::Nvidia;
    Err(match outcome {
        Ok(child::Outcome::Done) if lingers => {
            Why::Failed { what: "the driver took the write and kept the type".to_owned(), again: true }
        }
        Ok(child::Outcome::Blocked(writer)) => Why::Pending { writer },
        Ok(child::Outcome::Done) => Why::Pending { writer: None },
        Err(error) => not_started(&error),
        Ok(child::Outcome::Failed(error)) => Why::Failed {
            again: lingers || is_passing(&error),
            what: format!("the driver refused: {}", errno(&error)),
        },
    })
}
