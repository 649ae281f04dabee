//! What can be done to the host while programs run on it: the lines of the control file that concern the model.

use std::sync::Arc;

use super::{Effect, World};
use crate::host::parse_duration;
use crate::tree::Node;

impl World {
    /// Does what a line says; `None` if it is no line for the model.
    pub fn control(&mut self, words: &[&str]) -> Option<Result<(), String>> {
        let found = |done: bool, what: &str| done.then_some(()).ok_or_else(|| format!("no {what}"));
        Some(match words {
            ["register", parent] => {
                let known = self.parents.contains_key(*parent);
                self.register(parent);
                found(known, "such parent")
            }
            ["unregister", parent] => found(self.unregister(parent), "such parent that is registered"),
            ["unplug", parent] => found(self.unplug(parent), "such parent, or a device of it is used"),
            ["lose-types", parent] => found(self.set_types(parent, None, false), "such parent"),
            ["lose-types", parent, kind] => {
                found(self.set_types(parent, Some(kind), false), "such parent or type")
            }
            ["gain-types", parent] => found(self.set_types(parent, None, true), "such parent"),
            ["gain-types", parent, kind] => {
                found(self.set_types(parent, Some(kind), true), "such parent or type")
            }
            ["enumerate", function] => found(self.enumerate(function), "such physical function"),
            ["table", address] => found(self.set_table(address, None), "such card"),
            ["table", address, hex] => match bytes(hex) {
                Some(table) => found(self.set_table(address, Some(table)), "such card"),
                None => Err("the table is to be given in hexadecimal digits".to_owned()),
            },
            ["udev-delay", delay] => match parse_duration(delay) {
                Some(delay) => {
                    Arc::make_mut(&mut self.host).udev_delay = delay;
                    Ok(())
                }
                None => Err(format!("{delay} is no time")),
            },
            ["remove-device", uuid] => {
                let known = self.devices.contains_key(*uuid);
                self.remove_itself(uuid);
                found(known, "such device")
            }
            // QEMU ends, as if killed.
            ["end", group] => {
                let number = group.parse().unwrap_or(u32::MAX);
                let mut pids = self.openers(Node::Group(number));
                pids.extend(self.openers(Node::Device(number)));
                self.out.extend(pids.iter().map(|pid| Effect::Kill(*pid)));
                found(!pids.is_empty(), "process that has this group open")
            }
            _ => return None,
        })
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
