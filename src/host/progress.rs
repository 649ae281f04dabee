//! What a worker is about to do, noted where the process that waits for it finds it: a kernel operation that blocks
//! cannot tell afterwards, so that each is named before it begins.
//!
//! Notes are lines of a file in memory: nobody is woken by one, and only a wait that has reached its limit reads the last.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::time::{ClockId, clock_gettime};

/// Begins what a wait is called; its milliseconds follow.
const WAIT: &str = "wait ";

/// More than the longest line has.
const MAX_LINE: usize = 64 * 1024;

/// How much is kept, or a little more.
const MAX_KEPT: usize = 1024 * 1024;

/// How much has been written since old lines were forgotten last.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);

/// Whether anybody will look.
static LISTENED: AtomicBool = AtomicBool::new(false);

/// What was noted last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// When, by [`now`].
    pub(super) at: Duration,
    /// For a wait: its own limit.
    pub(super) wait: Duration,
    /// What was about to be done.
    pub(super) doing: String,
}

/// The clock of the notes.
pub(super) fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// From here on [`tell`] writes to stdout, one line for each operation.
pub(super) fn start() {
    LISTENED.store(true, Ordering::Relaxed);
}

/// A wait with a limit of its own begins.
pub(super) fn waiting(limit: Duration) {
    line(|| format!("{WAIT}{}", limit.as_millis()));
}

/// `verb` is about to be done to `path`.
pub(super) fn tell(verb: &str, path: &Path) {
    line(|| format!("{verb} {}", path.display()));
}

fn line(doing: impl Fn() -> String) {
    if LISTENED.load(Ordering::Relaxed) {
        // One write is one line; without memory for it, what is said of an operation that blocks is an earlier one.
        let text = format!("{} {}\n", now().as_millis(), doing());
        let written = rustix::io::write(rustix::stdio::stdout(), text.as_bytes()).unwrap_or(0);
        if WRITTEN.fetch_add(written, Ordering::Relaxed) > MAX_KEPT {
            WRITTEN.store(0, Ordering::Relaxed);
            forget_old();
        }
    }
}

/// Gives back the memory of all but the last lines: a long wait makes very many.
fn forget_old() {
    let stdout = rustix::stdio::stdout();
    if let Ok(end) = seek(stdout, SeekFrom::Current(0)) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(stdout, flags, 0, end.saturating_sub(MAX_LINE as u64).max(1));
    }
}

/// The last line that is whole.
pub(super) fn last(notes: &File) -> std::io::Result<Option<Note>> {
    let from = notes.metadata()?.len().saturating_sub(MAX_LINE as u64);
    let mut bytes = vec![0; MAX_LINE];
    let read = notes.read_at(&mut bytes, from)?;
    let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned();
    Ok(text.rsplit('\n').nth(1).and_then(note))
}

fn note(line: &str) -> Option<Note> {
    let (at, doing) = line.split_once(' ')?;
    let wait = doing.strip_prefix(WAIT).and_then(|wait| wait.parse().ok());
    Some(Note {
        at: Duration::from_millis(at.parse().ok()?),
        wait: wait.map_or(Duration::ZERO, Duration::from_millis),
        doing: doing.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_last_whole_line_counts() {
        let mut notes = tempfile::tempfile().unwrap();
        assert_eq!(last(&notes).unwrap(), None);
        let note = |at, wait, doing: &str| {
            let (at, wait) = (Duration::from_millis(at), Duration::from_millis(wait));
            Some(Note { at, wait, doing: doing.to_owned() })
        };
        notes.write_all(b"7 read /sys/a b\n9 wait 1000\n12 look").unwrap();
        assert_eq!(last(&notes).unwrap(), note(9, 1000, "wait 1000"));
        notes.write_all(b" at /sys\n").unwrap();
        assert_eq!(last(&notes).unwrap(), note(12, 0, "look at /sys"));
        for _ in 0..MAX_LINE {
            notes.write_all(b"13 read /sys/c\n").unwrap();
        }
        assert_eq!(last(&notes).unwrap(), note(13, 0, "read /sys/c"));
    }
}
