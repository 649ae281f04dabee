//! A host with mediated devices that the kernel has not: a FUSE file system over `/sys`, `/dev/vfio`, `/run` and
//! what libvirt and virt-mdev keep in `/etc`, in namespaces of its own.
//!
//! ```text
//! host file ──► model/ (pure: World) ◄── call.rs ── machine.rs (faults, log, blocked calls) ◄── fuse.rs ◄── processes
//!                 └─► uevents ──► netlink.rs                                       sandbox.rs (namespaces, mounts)
//! ```

pub mod call;
pub mod cli;
pub mod client;
pub mod fault;
pub mod fuse;
pub mod host;
pub mod log;
pub mod machine;
pub mod model;
pub mod netlink;
pub mod sandbox;
pub mod tree;
