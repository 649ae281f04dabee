//! [`Step`]: at once the plan's line, the dry run's output, the record's entry, the log's line and the thing that is
//! undone. Thought and effect meet nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::ids::{AttributeName, DeviceId, Node, Parent, Profile, TypeId};
use crate::labels::Label;
use crate::words::printable;

/// Where a device lives: the interface, the parent and the type that make it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The kernel interface of this parent.
    pub backend: Backend,
    /// The parent.
    pub parent: Parent,
    /// The type's id there.
    #[serde(rename = "type")]
    pub kind: TypeId,
    /// What follows the UUID in the 2016 interface: its destroy gets the same as its create.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arguments: String,
    /// The vendor's name for the type, where it was known when the device was made: not every interface tells later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// One effect on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Step {
    /// Make a device.
    Create {
        /// Which.
        device: DeviceId,
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// Left alone at release.
        keep: bool,
        /// Where else, in this order, if there is no room when it comes to it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        otherwise: Vec<Place>,
    },
    /// Take up a device of ours that an earlier run kept.
    Adopt {
        /// Which.
        device: DeviceId,
        /// Where it is.
        #[serde(flatten)]
        place: Place,
        /// Left alone at release, again.
        keep: bool,
    },
    /// Use a device that somebody else made. It is never destroyed.
    Use {
        /// Which.
        device: DeviceId,
        /// Where it is.
        #[serde(flatten)]
        place: Place,
    },
    /// Write a driver attribute. It goes with the device: a virtual function, too, has it of its vGPU.
    Attribute {
        /// Whose.
        device: DeviceId,
        /// Which.
        name: AttributeName,
        /// What.
        value: String,
    },
    /// Bring a device of ours online, where the interface has that (2016).
    Online {
        /// Which.
        device: DeviceId,
    },
    /// Take a device of ours offline.
    Offline {
        /// Which.
        device: DeviceId,
    },
    /// Give a node of a device a label, so that the domain's QEMU can open it.
    Label {
        /// Whose node.
        device: DeviceId,
        /// Which.
        node: Node,
        /// What it is to carry.
        label: Label,
        /// What it carried before: the mode goes back with the owner, also where it was good enough.
        was: Label,
    },
    /// Put back what a node carried, where it has this label's owner still, and this label's context.
    Unlabel {
        /// Whose node.
        device: DeviceId,
        /// Which.
        node: Node,
        /// What it carries.
        label: Label,
        /// What it is to carry again.
        was: Label,
    },
    /// Let the domain's AppArmor profile open a node of which libvirt does not know.
    Allow {
        /// Whose node.
        device: DeviceId,
        /// Which.
        node: Node,
        /// The domain's profile.
        profile: Profile,
    },
    /// Take that rule out again.
    Withdraw {
        /// Whose node.
        device: DeviceId,
        /// Which.
        node: Node,
        /// The domain's profile.
        profile: Profile,
    },
    /// Take a device of ours away.
    Destroy {
        /// Which.
        device: DeviceId,
        /// Where it must be found: elsewhere it is not ours.
        #[serde(flatten)]
        place: Place,
    },
}

impl Step {
    /// The device that this is about.
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::Create { device, .. }
            | Self::Adopt { device, .. }
            | Self::Use { device, .. }
            | Self::Attribute { device, .. }
            | Self::Online { device }
            | Self::Offline { device }
            | Self::Label { device, .. }
            | Self::Unlabel { device, .. }
            | Self::Allow { device, .. }
            | Self::Withdraw { device, .. }
            | Self::Destroy { device, .. } => device,
        }
    }

    /// Where the device is, for a step that is about a whole device.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Create { place, .. }
            | Self::Adopt { place, .. }
            | Self::Use { place, .. }
            | Self::Destroy { place, .. } => Some(place),
            _ => None,
        }
    }

    /// Whether this and `other` label the same node, or make the same rule: the record has one of them.
    pub fn is_again(&self, other: &Step) -> bool {
        match (self, other) {
            (Self::Label { device, node, .. }, Self::Label { device: its, node: other, .. })
            | (Self::Allow { device, node, .. }, Self::Allow { device: its, node: other, .. }) => {
                device == its && node == other
            }
            _ => false,
        }
    }

    /// What brings the host back to where it was before this step: a start that fails leaves nothing, not even what
    /// would have been kept.
    pub fn inverse(&self) -> Option<Step> {
        match self {
            Self::Create { device, place, .. } => Some(destroy(device, place)),
            step => step.change_back(),
        }
    }

    /// What leaves nothing of it, `keep` or not.
    pub fn removal(&self) -> Option<Step> {
        match self {
            Self::Create { device, place, .. } | Self::Adopt { device, place, .. } => {
                Some(destroy(device, place))
            }
            step => step.release(),
        }
    }

    /// What a release does about this step.
    pub fn release(&self) -> Option<Step> {
        match self {
            Self::Create { device, place, keep: false, .. } | Self::Adopt { device, place, keep: false } => {
                Some(destroy(device, place))
            }
            step => step.change_back(),
        }
    }

    /// What takes a change of a device back, whoever made the device and however long it stays.
    fn change_back(&self) -> Option<Step> {
        match self.clone() {
            Self::Online { device } => Some(Self::Offline { device }),
            Self::Label { device, node, label, was } => Some(Self::Unlabel { device, node, label, was }),
            Self::Allow { device, node, profile } => Some(Self::Withdraw { device, node, profile }),
            _ => None,
        }
    }
}

fn destroy(device: &DeviceId, place: &Place) -> Step {
    Step::Destroy { device: device.clone(), place: place.clone() }
}

impl Place {
    /// A type on a parent, of which nothing else is known yet.
    pub fn new(backend: Backend, parent: Parent, kind: TypeId) -> Self {
        Self { backend, parent, kind, arguments: String::new(), name: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A virtual function of vendor VFIO is the device itself.
        match self.backend {
            Backend::Nvidia => write!(f, "type {}", self.kind),
            Backend::Mdev | Backend::Proposal => write!(f, "{} on {}", self.kind, self.parent),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { device, place, keep, .. } => {
                let keep = if *keep { ", kept at release" } else { "" };
                let with = if place.arguments.is_empty() { "" } else { " with " };
                write!(f, "create {device} as {place}{with}{}{keep}", printable(&place.arguments))
            }
            Self::Adopt { device, place, .. } => {
                write!(f, "take up {device}, {place}, kept from an earlier run")
            }
            Self::Use { device, place } => write!(f, "use {device}, {place}, made by somebody else"),
            Self::Attribute { device, name, value } => {
                write!(f, "write \"{}\" to {name} of {device}", printable(value))
            }
            Self::Online { device } => write!(f, "bring {device} online"),
            Self::Offline { device } => write!(f, "take {device} offline"),
            Self::Label { device, node, label, .. } => write!(f, "label /dev/{node} of {device}: {label}"),
            Self::Unlabel { device, node, was, .. } => {
                write!(f, "label /dev/{node} of {device} as before: {was}")
            }
            Self::Allow { device, node, profile } => {
                write!(f, "allow {profile} to open /dev/{node} of {device} (AppArmor)")
            }
            Self::Withdraw { device, node, profile } => {
                write!(f, "allow {profile} no more to open /dev/{node} of {device} (AppArmor)")
            }
            Self::Destroy { device, place, .. } => write!(f, "destroy {device}, {place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> DeviceId {
        DeviceId::parse("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001").unwrap()
    }

    fn place() -> Place {
        Place::new(Backend::Mdev, Parent::parse("mtty").unwrap(), TypeId::parse("mtty-2").unwrap())
    }

    #[test]
    fn only_what_we_made_is_destroyed() {
        let destroy = Some(destroy(&device(), &place()));
        let create = |keep| Step::Create { device: device(), place: place(), keep, otherwise: vec![] };
        let adopt = |keep| Step::Adopt { device: device(), place: place(), keep };
        for (step, inverse, release) in [
            (create(false), destroy.clone(), destroy.clone()),
            (create(true), destroy.clone(), None),
            (adopt(false), None, destroy.clone()),
            (adopt(true), None, None),
            (Step::Use { device: device(), place: place() }, None, None),
        ] {
            assert_eq!(step.inverse(), inverse, "{step}");
            assert_eq!(step.release(), release, "{step}");
        }
    }

    #[test]
    fn the_record_reads_back_what_it_wrote() {
        let step = Step::Create { device: device(), place: place(), keep: true, otherwise: vec![place()] };
        let json = serde_json::to_string(&step).unwrap();
        assert_eq!(
            json,
            "{\"do\":\"create\",\"device\":\"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\",\"backend\":\"mdev\",\
             \"parent\":\"mtty\",\"type\":\"mtty-2\",\"keep\":true,\
             \"otherwise\":[{\"backend\":\"mdev\",\"parent\":\"mtty\",\"type\":\"mtty-2\"}]}"
        );
        assert_eq!(serde_json::from_str::<Step>(&json).unwrap(), step);
    }

    #[test]
    fn a_record_cannot_smuggle_a_path() {
        for bad in ["../../x", "", "a/b"] {
            let json = format!(
                "{{\"do\":\"use\",\"device\":\"{}\",\"backend\":\"mdev\",\"parent\":\"{bad}\",\"type\":\"t\"}}",
                device()
            );
            assert!(serde_json::from_str::<Step>(&json).is_err(), "{bad}");
        }
    }
}
