//! Uevents in the network namespace: the kernel's, and udevd's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};

use crate::model::{Uevent, properties};

/// Group that udevd tells its listeners on (`MONITOR_GROUP_UDEV`).
const UDEV: u32 = 2;

/// `udev_monitor_netlink_header`: its size and its magic number.
const HEADER: u32 = 40;
const MAGIC: u32 = 0xfeed_cafe;

/// The sending side.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    sequence: u64,
}

impl Sender {
    /// For the network namespace of the caller.
    pub fn new() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has the kernel tell a uevent: since Linux 4.18 it passes on what the owner of the network namespace hands it
    /// (`uevent_net_rcv_skb`), adds `SEQNUM` and names itself as the sender.
    pub fn kernel(&mut self, event: &Uevent) -> io::Result<()> {
        let mut text = format!("{}@{}\0", event.action, event.devpath);
        for (key, value) in properties(event, 0).iter().filter(|(key, _)| key != "SEQNUM") {
            text += &format!("{key}={value}\0");
        }
        let length = u32::try_from(16 + text.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(0x10_u16.to_ne_bytes()); // NLMSG_MIN_TYPE: the first that is not netlink's own
        message.extend(1_u16.to_ne_bytes()); // NLM_F_REQUEST
        message.extend([0; 8]);
        message.extend(text.as_bytes());
        self.send(&message, 0)
    }

    /// Tells what udevd tells when it has dealt with an event.
    pub fn udev(&mut self, event: &Uevent) -> io::Result<()> {
        self.sequence += 1;
        let mut text = String::new();
        for (key, value) in properties(event, self.sequence) {
            // udevd gives the whole path of a node, the kernel what is below /dev.
            let dev = if key == "DEVNAME" { "/dev/" } else { "" };
            text += &format!("{key}={dev}{value}\0");
        }
        text += "USEC_INITIALIZED=1\0";
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        let mut message = b"libudev\0".to_vec();
        message.extend(MAGIC.to_be_bytes());
        message.extend(HEADER.to_ne_bytes());
        message.extend(HEADER.to_ne_bytes());
        message.extend(length.to_ne_bytes());
        message.extend(murmur2(event.subsystem.as_bytes()).to_be_bytes());
        message.extend([0; 12]);
        message.extend(text.as_bytes());
        self.send(&message, UDEV)
    }

    fn send(&self, message: &[u8], groups: u32) -> io::Result<()> {
        let to = NetlinkAddr::new(0, groups);
        match sendto(self.socket.as_raw_fd(), message, &to, MsgFlags::empty()) {
            // Nobody listens: that is what a multicast without members answers.
            Ok(_) | Err(nix::errno::Errno::ECONNREFUSED) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// MurmurHash2 with seed 0, by which libudev's filter in the kernel knows a subsystem.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = u32::try_from(data.len()).unwrap_or_default();
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let word: [u8; 4] = chunk.try_into().unwrap_or_default();
        let mut word = u32::from_le_bytes(word).wrapping_mul(M);
        word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}
