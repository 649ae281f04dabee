//! The locks that this process holds. They are the kernel's, on open files, and a fork has those, too: one that is to
//! outlive us, blocked in a driver, must not keep them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::io::Errno;

use super::Lock;

/// A lock's open file.
type Held = Mutex<OwnedFd>;

static HELD: Mutex<Vec<Weak<Held>>> = Mutex::new(Vec::new());

/// A lock that has been taken on this file.
pub(super) fn held(file: File) -> Lock {
    let held = Arc::new(Mutex::new(OwnedFd::from(file)));
    let mut all = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|other| other.strong_count() > 0);
    all.push(Arc::downgrade(&held));
    Lock::new(held)
}

/// In a fork: closes the files of all locks, which their holder keeps. `nothing` is open in their place.
pub(in crate::host) fn let_go(nothing: impl AsFd) -> Result<(), Errno> {
    for held in HELD.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
        let mut file = held.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::io::dup2(nothing.as_fd(), &mut file)?;
    }
    Ok(())
}
