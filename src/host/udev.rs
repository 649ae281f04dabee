//! The only `use udev`: waiting until udev has dealt with the nodes of new devices.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Host;
use super::progress::waiting;
use crate::backend;
use crate::ids::DeviceId;

/// Hears what udev has finished, from before the devices were made, so that nothing is missed.
pub struct Watch {
    socket: udev::MonitorSocket,
}

impl Watch {
    /// Starts to listen. `None` where no udevd runs, as in a container: nobody would ever answer.
    pub fn start(host: &Host) -> Option<Self> {
        if !host.exists("run/udev/control") {
            return None;
        }
        let listen =
            || udev::MonitorBuilder::new()?.match_subsystem("vfio")?.match_subsystem("vfio-dev")?.listen();
        match listen() {
            Ok(socket) => Some(Self { socket }),
            Err(error) => {
                log::warn!("cannot listen to udev, not waiting for it: {error}");
                None
            }
        }
    }

    /// Waits until udev has dealt with the VFIO group of each device and with its own node, or until `limit` has passed; says whether it
    /// has.
    pub fn wait(self, host: &Host, devices: &[DeviceId], limit: Duration) -> bool {
        waiting(limit);
        let deadline = Instant::now() + limit;
        let mut nodes = Vec::new();
        for device in devices {
            let directory = backend::directory(device);
            let group = host.link_name(&format!("{directory}/iommu_group")).ok().flatten();
            let own = host.names(&format!("{directory}/vfio-dev")).unwrap_or_default();
            nodes.extend(group.into_iter().chain(own).map(|name| (name, device.to_string())));
        }
        loop {
            for event in self.socket.iter() {
                if event.event_type() == udev::EventType::Add {
                    // Numbers are given out anew: an event can be a late one of a device that has gone.
                    let of = event.property_value("VIRT_MDEV_UUID");
                    nodes.retain(|(name, device)| {
                        event.sysname() != name.as_str() || of.is_some_and(|of| of != device.as_str())
                    });
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if nodes.is_empty() || left.is_zero() {
                return nodes.is_empty();
            }
            let timeout = Timespec::try_from(left).ok();
            // An interrupted poll is a poll that found nothing: the loop asks again.
            let _ =
                poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)], timeout.as_ref());
        }
    }
}
