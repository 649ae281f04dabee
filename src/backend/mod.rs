//! The kernel interfaces that make mediated devices: one file each, behind one closed enum.

use std::fmt;

use serde::{Deserialize, Serialize};

pub mod mdev;

/// A kernel interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Upstream mdev, Linux 4.10 and later (`Documentation/ABI/testing/sysfs-bus-vfio-mdev`).
    Mdev,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mdev => "mdev",
        })
    }
}
