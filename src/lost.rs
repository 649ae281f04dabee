//! udev's event of a device that has gone: if a domain has it still, its record says from then on that it is lost, and
//! the journal names the domain. Should a device of the same name come back, it is somebody else's: nothing is guessed. One
//! that was kept is the domain's no more.

use std::time::Duration;

use crate::backend;
use crate::host::{Host, Trouble, journal};
use crate::ids::DeviceId;
use crate::record::{Record, Records, State};
use crate::step::Place;

const MOMENT: Duration = Duration::from_millis(20);

/// Looks whose it was. One that no domain has costs a single system call. `limit`: for the domain's lock, which a driver
/// that answers slowly may keep; what is not noted here is taken for ours if it comes back.
pub fn look(host: &Host, device: &DeviceId, limit: Duration) -> Result<(), Trouble> {
    let records = Records::new(host);
    if !records.is_claimed(device) {
        return Ok(());
    }
    // A device that is being taken away is marked so before it goes; and some drivers take theirs away by themselves once
    // QEMU has ended.
    let has = |record: &Record| {
        let lost = |(its, place, _, state): (&DeviceId, _, _, State)| {
            its == device
                && (state == State::Kept
                    || (state == State::Done && !backend::cleans_up_by_itself(host, device, place)))
                && is_gone(host, device, place)
        };
        record.devices().any(lost)
    };
    let is_kept = |(its, _, _, state): (&DeviceId, _, _, State)| its == device && state == State::Kept;
    let Some(record) = records.of_device(device)?.filter(has) else { return Ok(()) };
    let mut guard = records.lock(&record.domain.uuid, limit)?;
    if let Some(record) = guard.record().filter(|record| has(record)) {
        journal::start(&record.domain.name);
        if record.devices().any(is_kept) {
            log::warn!(VIRT_MDEV_UUID:% = device; "device {device}, which the domain kept, has gone");
        } else {
            log::error!(
                VIRT_MDEV_UUID:% = device;
                "device {device} has gone although the domain has it: was its driver unloaded, or the device removed by hand?"
            );
        }
        guard.lose(device)?;
    }
    Ok(())
}

/// The kernel tells a moment before the last of a device has gone.
fn is_gone(host: &Host, device: &DeviceId, place: &Place) -> bool {
    (0..3).any(|_| {
        let gone = !backend::is_there(host, device, place);
        if !gone {
            host.machine().sleep(MOMENT);
        }
        gone
    })
}
