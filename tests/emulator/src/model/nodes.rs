//! VFIO nodes, IOMMU groups, and who has them open (`drivers/vfio/group.c`, `vfio_main.c`).

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::World;
use crate::tree::{Kind, Node};

/// Majors are handed out at run time; these are what a machine without much else has.
const GROUP_MAJOR: u32 = 511;
const DEVICE_MAJOR: u32 = 510;

/// Whose a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// An mdev device, by its uuid.
    Mdev(String),
    /// A device of the proposal.
    Proposed(String),
    /// A virtual function.
    Function(String),
}

/// A group with one device, as mediated devices have them.
#[derive(Debug, Clone)]
pub(super) struct Group {
    owner: Owner,
    /// Directory of the device.
    path: String,
    /// Number in `vfio-dev/vfioN`.
    vfio: u32,
    /// Whether its node is open.
    open: bool,
    /// How many have the device itself open: through the group, or through the node of the device.
    users: u32,
}

/// Numbers as the kernel gives them, the lowest that is free (`ida_alloc`).
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    given_back: BTreeSet<u32>,
    next: u32,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        self.given_back.pop_first().unwrap_or_else(|| {
            let number = self.next;
            self.next = number.saturating_add(1);
            number
        })
    }

    fn give_back(&mut self, number: u32) {
        self.given_back.insert(number);
    }
}

impl World {
    /// Makes the group of a device, its nodes and what sysfs shows of them; tells the two nodes' uevents.
    pub(super) fn add_group(&mut self, path: &str, name: &str, owner: Owner) -> u32 {
        let number = self.host.first_group.saturating_add(self.group_numbers.take());
        let vfio = self.vfio_numbers.take();
        self.groups.insert(number, Group { owner, path: path.to_owned(), vfio, open: false, users: 0 });

        let group = format!("/sys/kernel/iommu_groups/{number}");
        self.tree.add_link(&format!("{path}/iommu_group"), &group);
        self.tree.add_link(&format!("{group}/devices/{name}"), path);
        self.text(&format!("{group}/reserved_regions"), "");
        // The name that every group without an IOMMU behind it gets (`vfio_noiommu_group_alloc`).
        self.text(&format!("{group}/name"), "vfio-noiommu\n");
        self.attribute(&format!("{group}/type"), super::Attribute::Text("unknown\n".to_owned()), 0o644);

        let class = format!("/sys/devices/virtual/vfio/{number}");
        let minor = number.to_string();
        let major = GROUP_MAJOR.to_string();
        let node = format!("vfio/{number}");
        self.device_files(&class, "class/vfio", &format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={node}\n"));
        self.text(&format!("{class}/dev"), &format!("{major}:{minor}\n"));
        self.tree.add_link(&format!("/sys/class/vfio/{number}"), &class);
        self.tree.add_link(&format!("/sys/dev/char/{major}:{minor}"), &class);
        self.tree.add(&format!("/dev/vfio/{number}"), Kind::Node(Node::Group(number)), self.host.node_mode);
        let names = [("MAJOR", major.as_str()), ("MINOR", &minor), ("DEVNAME", &node)];
        self.uevent("add", &class, "vfio", &names);

        let class = format!("{path}/vfio-dev/vfio{vfio}");
        self.tree.add_link(&format!("{class}/device"), path);
        self.tree.add_link(&format!("/sys/class/vfio-dev/vfio{vfio}"), &class);
        if self.host.cdev {
            let (major, minor) = (DEVICE_MAJOR.to_string(), vfio.to_string());
            let node = format!("vfio/devices/vfio{vfio}");
            let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={node}\n");
            self.device_files(&class, "class/vfio-dev", &uevent);
            self.text(&format!("{class}/dev"), &format!("{major}:{minor}\n"));
            self.tree.add(&format!("/dev/{node}"), Kind::Node(Node::Device(number)), self.host.node_mode);
            let names = [("MAJOR", major.as_str()), ("MINOR", &minor), ("DEVNAME", &node)];
            self.uevent("add", &class, "vfio-dev", &names);
        } else {
            self.device_files(&class, "class/vfio-dev", "");
            self.uevent("add", &class, "vfio-dev", &[]);
        }
        number
    }

    /// The device's own node and class device: the first to go (`vfio_device_del`).
    pub(super) fn remove_vfio_device(&mut self, number: u32) {
        let Some(Group { path, vfio, .. }) = self.groups.get(&number).cloned() else { return };
        self.tree.remove(&format!("/sys/class/vfio-dev/vfio{vfio}"));
        self.tree.remove(&format!("{path}/vfio-dev"));
        self.tree.remove(&format!("/dev/vfio/devices/vfio{vfio}"));
        self.uevent("remove", &format!("{path}/vfio-dev/vfio{vfio}"), "vfio-dev", &[]);
    }

    /// The group and its node: last, when nobody has the device open.
    pub(super) fn remove_group(&mut self, number: u32) {
        let Some(Group { path, vfio, .. }) = self.groups.remove(&number) else { return };
        self.group_numbers.give_back(number.saturating_sub(self.host.first_group));
        self.vfio_numbers.give_back(vfio);
        let class = format!("/sys/devices/virtual/vfio/{number}");
        self.tree.remove(&format!("/sys/class/vfio/{number}"));
        self.tree.remove(&format!("/sys/dev/char/{GROUP_MAJOR}:{number}"));
        self.tree.remove(&class);
        self.tree.remove(&format!("/dev/vfio/{number}"));
        let node = format!("vfio/{number}");
        let minor = number.to_string();
        let major = GROUP_MAJOR.to_string();
        let names = [("MAJOR", major.as_str()), ("MINOR", &minor), ("DEVNAME", &node)];
        self.uevent("remove", &class, "vfio", &names);
        self.tree.remove(&format!("/sys/kernel/iommu_groups/{number}"));
        self.tree.remove(&format!("{path}/iommu_group"));
    }

    /// Whether somebody has the device itself open: what a removal waits for.
    pub(super) fn is_used(&self, number: u32) -> bool {
        self.groups.get(&number).is_some_and(|group| group.users > 0)
    }

    /// Opens a node; says whether that alone makes the caller a user of the device.
    pub(super) fn open_node(&mut self, node: Node) -> Result<bool, Errno> {
        match node {
            Node::Container => Ok(false),
            // Once, and not while the device is used through its own node (`vfio_group_fops_open`).
            Node::Group(number) => {
                let group = self.groups.get_mut(&number).ok_or(Errno::ENODEV)?;
                if group.open || group.users > 0 {
                    return Err(Errno::EBUSY);
                }
                group.open = true;
                Ok(false)
            }
            Node::Device(number) => {
                let group = self.groups.get_mut(&number).ok_or(Errno::ENODEV)?;
                group.users += 1;
                Ok(true)
            }
        }
    }

    /// The caller gets the device of the group that it has open (`VFIO_GROUP_GET_DEVICE_FD`).
    pub(super) fn use_device(&mut self, node: Node) -> Result<(), Errno> {
        let (Node::Group(number) | Node::Device(number)) = node else { return Err(Errno::EINVAL) };
        self.groups.get_mut(&number).ok_or(Errno::ENODEV)?.users += 1;
        Ok(())
    }

    /// A node is closed; `uses` says whether its user had the device itself.
    pub(super) fn close_node(&mut self, node: Node, uses: bool) {
        let (Node::Group(number) | Node::Device(number)) = node else { return };
        let Some(group) = self.groups.get_mut(&number) else { return };
        if matches!(node, Node::Group(_)) {
            group.open = false;
        }
        if !uses {
            return;
        }
        group.users = group.users.saturating_sub(1);
        if group.users > 0 {
            return;
        }
        match group.owner.clone() {
            Owner::Mdev(uuid) => self.let_go(&uuid),
            Owner::Proposed(_) => {}
            Owner::Function(vf) => self.function_let_go(&vf),
        }
    }
}
