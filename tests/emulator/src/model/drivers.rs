//! What the drivers of mdev devices have of their own: names, places, attributes.

use nix::errno::Errno;

use super::{Attribute, World};
use crate::host::{self, Attributes};

/// Directory and subsystem of a parent that is no PCI function.
pub(super) fn place(name: &str) -> (String, String) {
    if name == "matrix" {
        return ("/sys/devices/vfio_ap/matrix".to_owned(), "bus/matrix".to_owned());
    }
    if name.starts_with("0.") || name.starts_with("css_") {
        return (format!("/sys/devices/css0/{name}"), "bus/css".to_owned());
    }
    (format!("/sys/devices/virtual/{name}/{name}"), format!("class/{name}"))
}

/// The driver on the mdev bus.
pub(super) fn of_devices(parent: &host::Parent) -> &'static str {
    match parent.attributes {
        Attributes::Nvidia => "nvidia-vgpu-vfio",
        Attributes::I915 => "intel_vgpu_mdev",
        Attributes::Ap => "vfio_ap_mdev",
        Attributes::Sample | Attributes::Settings => "mtty",
        Attributes::None if parent.types.iter().any(|kind| kind.api == "vfio-ccw") => "vfio_ccw_mdev",
        Attributes::None if parent.name == "mdpy" => "mdpy",
        Attributes::None => "mbochs",
    }
}

/// `settings/…` takes less than this many bytes (`tests/vm/guest/attributes.h`).
const SETTING: usize = 64;

impl World {
    pub(super) fn add_driver_attributes(&mut self, uuid: &str, path: &str, attributes: Attributes) {
        let files: &[(&str, u32)] = match attributes {
            Attributes::None => &[],
            Attributes::Sample => &[("vendor/sample_mdev_dev", 0o444)],
            Attributes::Settings => &[
                ("vendor/sample_mdev_dev", 0o444),
                ("plain", 0o644),
                ("settings/first", 0o644),
                ("settings/second", 0o644),
                ("settings/log", 0o444),
            ],
            Attributes::Nvidia => &[("nvidia/vgpu_params", 0o644), ("nvidia/vm_name", 0o444)],
            Attributes::I915 => &[("intel_vgpu/vgpu_id", 0o444)],
            Attributes::Ap => super::ap::FILES,
        };
        for (name, mode) in files {
            let attribute = Attribute::Driver { uuid: uuid.to_owned(), name };
            self.attribute(&format!("{path}/{name}"), attribute, *mode);
        }
        if attributes == Attributes::Settings {
            self.tree.add_link(&format!("{path}/link"), &format!("{path}/plain"));
        }
    }

    pub(super) fn show_driver(&self, uuid: &str, name: &str) -> Result<Vec<u8>, Errno> {
        let device = self.devices.get(uuid).ok_or(Errno::ENODEV)?;
        let text = match name {
            "vendor/sample_mdev_dev" => format!("This is MDEV {uuid}\n"),
            "intel_vgpu/vgpu_id" => "1\n".to_owned(),
            _ => match device.matrix.show(name) {
                Some(text) => text,
                None => device.state.get(name).cloned().unwrap_or_default() + "\n",
            },
        };
        Ok(text.into_bytes())
    }

    pub(super) fn store_driver(&mut self, uuid: &str, name: &'static str, data: &[u8]) -> Result<(), Errno> {
        if name.contains("assign_") {
            return self.assign(uuid, name, data);
        }
        let device = self.devices.get_mut(uuid).ok_or(Errno::ENODEV)?;
        if name == "nvidia/vgpu_params" {
            // It takes the last byte for the newline that `echo` writes; a blank clears.
            let text = data.split_last().map_or(&[][..], |(_, rest)| rest);
            device.state.insert(name, String::from_utf8_lossy(text).trim().to_owned());
            return Ok(());
        }
        if name == "settings/second" && data.starts_with(b"bad") {
            return Err(Errno::EINVAL);
        }
        if data.len() >= SETTING {
            return Err(Errno::E2BIG);
        }
        if data.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        let text = String::from_utf8_lossy(data).into_owned();
        let log = device.state.entry("settings/log").or_default();
        let blank = if log.is_empty() { "" } else { " " };
        *log += &format!("{blank}{}={text}", name.trim_start_matches("settings/"));
        device.state.insert(name, text);
        Ok(())
    }
}
