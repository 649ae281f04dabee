//! udev's event of a device that has gone: if a domain has it still, its record says from then on that it is lost, and
//! the journal names the domain. Should a device of the same name come back, it is somebody else's: nothing is guessed. One
//! that was kept, or was to go, is the domain's no more.

use std::time::Duration;

use crate::backend;
use crate::host::{Host, Trouble, holders, journal};
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
    let gone = |record: &Record| {
        let its = record.devices().find(|(its, ..)| *its == device);
        its.filter(|(_, place, ..)| is_gone(host, device, place))
            .map(|(_, place, _, state)| (place.clone(), state))
    };
    let Some(record) = records.of_device(device)?.filter(|record| gone(record).is_some()) else {
        return Ok(());
    };
    // A release that has just taken it away is through with the record when it lets go of the lock.
    let mut guard = records.lock(&record.domain.uuid, limit)?;
    let Some((place, state)) = guard.record().and_then(gone) else { return Ok(()) };
    let name = &record.domain.name;
    journal::start(name);
    match state {
        State::Kept => {
            log::warn!(VIRT_MDEV_UUID:% = device; "device {device}, which the domain kept, has gone");
        }
        // Some drivers take theirs away by themselves once QEMU has ended.
        State::Done if holders::runs(host, name) || !backend::cleans_up_by_itself(host, device, &place) => {
            log::error!(
                VIRT_MDEV_UUID:% = device;
                "device {device} has gone although the domain has it: was its driver unloaded, or the device removed by hand?"
            );
        }
        // It was to go.
        State::Done | State::Intended | State::Undoing => {}
    }
    guard.lose(device)
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
