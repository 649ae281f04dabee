//! Kernel locks with a limit. Their files are never unlinked: whoever unlinks one lets two processes hold it at once.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::{Trouble, open};

/// How often a lock that somebody else holds is tried again. Locks are held for single writes, not for waits.
const RETRY: Duration = Duration::from_millis(5);

/// A held lock; dropping it, or dying, lets it go.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _file: File,
}

/// Takes the lock `path`, or gives up after `limit`.
pub fn take(path: &Path, limit: Duration) -> Result<Lock, Trouble> {
    let trouble = |error: std::io::Error| Trouble::new("lock", path, error);
    let file = open(path, OFlags::WRONLY | OFlags::CREATE).map_err(trouble)?;
    let deadline = Instant::now() + limit;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => std::thread::sleep(RETRY),
            Err(Errno::WOULDBLOCK) => {
                return Err(trouble(std::io::Error::other(format!(
                    "another process has held it for {limit:?}; `fuser -v {}` names it",
                    path.display()
                ))));
            }
            Err(errno) => return Err(trouble(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_waited_for_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = take(&path, Duration::ZERO).unwrap();
        let error = take(&path, Duration::from_millis(20)).unwrap_err().to_string();
        assert!(error.contains("another process has held it"), "{error}");
        drop(held);
        let _again = take(&path, Duration::ZERO).unwrap();
    }
}
