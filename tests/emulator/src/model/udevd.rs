//! A udevd that runs: some time after the kernel has told of a device it writes its database and tells so itself.

use super::{Effect, Uevent, World};
use crate::tree::Kind;

/// The properties of a uevent in the order of the kernel (`kobject_uevent_env`).
pub fn properties(event: &Uevent, sequence: u64) -> Vec<(String, String)> {
    let mut all = vec![
        ("ACTION".to_owned(), event.action.to_owned()),
        ("DEVPATH".to_owned(), event.devpath.clone()),
        ("SUBSYSTEM".to_owned(), event.subsystem.clone()),
    ];
    all.extend(event.more.iter().cloned());
    all.push(("SEQNUM".to_owned(), sequence.to_string()));
    all
}

impl Uevent {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.more.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

impl World {
    pub(super) fn udev_has_dealt_with(&mut self, event: Uevent) {
        let name = event.devpath.rsplit('/').next().unwrap_or_default();
        // `c511:0` for a node, `+mdev:<uuid>` for what has none.
        let entry = match (event.get("MAJOR"), event.get("MINOR")) {
            (Some(major), Some(minor)) => format!("c{major}:{minor}"),
            _ => format!("+{}:{name}", event.subsystem),
        };
        let file = format!("/run/udev/data/{entry}");
        match event.action {
            "remove" => self.tree.remove(&file),
            _ => {
                let text = format!("I:{}\nV:1\n", self.now.as_micros());
                self.tree.add(&file, Kind::File(text.into_bytes()), 0o644);
                self.udev_has_labelled(&event);
            }
        }
        self.out.push(Effect::Udev(event));
    }
}
