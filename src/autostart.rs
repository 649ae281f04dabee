//! When a parent comes or goes: whether systemd is to bring up what is defined for it.

use crate::backend;
use crate::config::Config;
use crate::host::{Host, Trouble, definitions, systemd};
use crate::ids::Parent;
use crate::words::printable;

/// Has systemd run `virt-mdev autostart`, outside udev's worker, if the configuration says so and mdevctl does not do it
/// by itself.
/// `state`: what the kernel's event says of the parent; nothing where udevd has found it there.
pub fn tell_systemd(host: &Host, parent: &Parent, state: &str) -> Result<(), Trouble> {
    let name = parent.to_string();
    // What a unit's name may have, and a parent's usually has.
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":._".contains(&byte));
    let unit = format!("virt-mdev-autostart@{name}.service");
    if state == "unregistered" {
        return if plain && systemd::is_active(host, &unit) {
            systemd::ask(host, "stop", &unit)
        } else {
            Ok(())
        };
    }
    // A device that comes may become a parent, and that will be told.
    let wanted = definitions::has(host, parent)
        && Config::load_or_default(host).autostart
        && definitions::mdevctl_starts(host).is_none()
        && backend::detect(host, parent)?.is_some();
    match state {
        _ if !wanted => Ok(()),
        _ if !plain => {
            log::warn!("{} is no name for a unit: its devices are not brought up", printable(&name));
            Ok(())
        }
        // The stop of the time before may not have come to its end.
        "registered" => systemd::ask(host, "restart", &unit),
        _ if systemd::is_active(host, &unit) => Ok(()),
        _ => systemd::ask(host, "start", &unit),
    }
}
