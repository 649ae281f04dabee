//! The only `use udev`: waiting until udev has dealt with the nodes of new devices, and for devices to come. And which of its
//! rules it heeds.

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
        let deadline = Instant::now() + limit;
        let mut nodes = Vec::new();
        for device in devices {
            let directory = backend::directory(device);
            let group = host.link_name(&format!("{directory}/iommu_group")).ok().flatten();
            let own = host.names(&format!("{directory}/vfio-dev")).unwrap_or_default();
            nodes.extend(group.into_iter().chain(own).map(|name| (name, device.to_string())));
        }
        // Noted last: what is looked at above is not what blocks.
        waiting(limit);
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

/// After an event that tells of something, others follow at once.
const TOGETHER: Duration = Duration::from_millis(50);

/// Hears what the kernel tells of devices that come, of their drivers, and of parents that begin to offer types.
pub struct Arrivals {
    /// `None` where it cannot be heard, as in a container: whoever waits looks by itself.
    socket: Option<udev::MonitorSocket>,
}

impl std::fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrivals").field("heard", &self.socket.is_some()).finish()
    }
}

impl Arrivals {
    /// Starts to listen: to the kernel, since udev may be busy with all else that a boot brings.
    pub fn listen() -> Self {
        let listened = udev::MonitorBuilder::new_kernel().and_then(udev::MonitorBuilder::listen);
        if let Err(error) = &listened {
            log::warn!("cannot listen to the kernel's events, looking every second: {error}");
        }
        Self { socket: listened.ok() }
    }

    /// Waits until something has come, or until `limit` has passed.
    pub fn wait(&mut self, limit: Duration) {
        waiting(limit);
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(socket) = &self.socket else { return std::thread::sleep(left) };
            let came = |event: &udev::Event| {
                let registered =
                    event.property_value("MDEV_STATE").is_some_and(|state| state == "registered");
                let action = event.action().and_then(std::ffi::OsStr::to_str);
                registered || matches!(action, Some("add" | "bind"))
            };
            // All of them are taken out, so that the next wait begins with the next one.
            if socket.iter().filter(came).count() > 0 {
                return std::thread::sleep(TOGETHER.min(left));
            }
            if left.is_zero() {
                return;
            }
            let timeout = Timespec::try_from(left).ok();
            // An interrupted poll is a poll that found nothing: the loop asks again.
            let _ = poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)], timeout.as_ref());
        }
    }
}

/// Where udevd looks for rules: the first file of a name is the one (`udev(7)`).
const RULES: [&str; 5] = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];

/// The file of rules that udevd heeds, and whether it masks those of the same name behind it, as an empty file does or a link
/// to `/dev/null`.
pub fn rules_file(host: &Host, name: &str) -> Option<(String, bool)> {
    let mut paths = RULES.iter().map(|place| format!("{place}/udev/rules.d/{name}"));
    let path = paths.find(|path| host.kind(path).is_ok_and(|kind| kind.is_some()))?;
    let masks = host.text(&path).is_ok_and(|text| text.trim().is_empty());
    Some((path, masks))
}
