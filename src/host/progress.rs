//! What a worker is about to do, told to the process that waits for it: a kernel operation that blocks cannot tell
//! afterwards, so that each is named before it begins.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Begins the line of a wait; its milliseconds follow.
pub(super) const WAIT: &str = "wait ";

/// Whether anybody listens.
static LISTENED: AtomicBool = AtomicBool::new(false);

/// From here on [`tell`] writes to stdout, one line for each operation.
pub(super) fn start() {
    LISTENED.store(true, Ordering::Relaxed);
}

/// A wait with a limit of its own begins.
pub(super) fn waiting(limit: Duration) {
    line(|| format!("{WAIT}{}\n", limit.as_millis()));
}

/// `verb` is about to be done to `path`.
pub(super) fn tell(verb: &str, path: &Path) {
    line(|| format!("{verb} {}\n", path.display()));
}

fn line(text: impl Fn() -> String) {
    if LISTENED.load(Ordering::Relaxed) {
        // One write is one line; a listener that is gone has killed us already, or is about to.
        let _ = rustix::io::write(rustix::stdio::stdout(), text().as_bytes());
    }
}
