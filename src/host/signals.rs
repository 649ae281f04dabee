//! Signals as a caller may have left them: whoever ignores one has the programs it starts ignore it, too, and limits
//! bring signals of their own.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGCHLD, SIGXFSZ};

/// From here on a child that ends is waited for even where the caller ignores `SIGCHLD` (the kernel would forget how it
/// ended, and waiting fails with `ECHILD`), and a file that may not grow (`RLIMIT_FSIZE`) is an error, `EFBIG`, and not
/// the end of this process in the middle of its work.
pub fn heed() {
    for signal in [SIGCHLD, SIGXFSZ] {
        // Nobody asks whether it came: that it has a handler is all there is to it. Where there can be none, all is as
        // it was left.
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
}
