//! A state that the host was in, as it is kept to come back to.

use crate::snapshot::Snapshot;

/// A state of the host, and how to get there from an empty one.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// No other state has it.
    pub(crate) number: u64,
    pub(crate) snapshot: Snapshot,
    /// Whether QEMU has the devices open.
    pub(crate) held: bool,
    /// Writes to sysfs.
    pub(crate) writes: Vec<(String, String)>,
    /// Files and links of the record, as they were.
    pub(crate) records: Vec<String>,
    /// Files of locks.
    pub(crate) locks: Vec<String>,
    /// Who was the daemon then.
    pub(crate) daemon: [String; 2],
}

impl State {
    /// What is recorded of it, with this daemon in the place of the one that there was.
    pub(crate) fn records(&self, [pid, start]: &[String; 2]) -> Vec<String> {
        let now = |number: &str| match number {
            _ if number == self.daemon[0] => Some(pid.clone()),
            _ if number == self.daemon[1] => Some(start.clone()),
            _ => None,
        };
        self.records.iter().map(|line| rename(line, now)).collect()
    }
}

/// What a number of a process stands after, in a record and in words.
const BEFORE_NUMBERS: [&str; 3] = ["\"pid\":", "\"start_time\":", "pid "];

/// Puts something else in the place of numbers of processes. Other numbers may be the same by chance: an owner's, once
/// in a machine's life, is the tick in which a process began.
pub(crate) fn rename(text: &str, other: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    let next = |rest: &str| {
        let ends = BEFORE_NUMBERS.iter().filter_map(|before| Some(rest.find(before)? + before.len()));
        ends.min()
    };
    while let Some(at) = next(rest) {
        let (before, after) = rest.split_at(at);
        let end = after.find(|next: char| !next.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(end);
        out.push_str(before);
        out.push_str(&other(number).unwrap_or_else(|| number.to_owned()));
        rest = after;
    }
    out + rest
}

/// Path and data of a successful write to sysfs, as the log has it.
pub(crate) fn written(line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix("write ")?.strip_prefix("/sys/")?;
    let (path, rest) = rest.split_once(" \"")?;
    let (data, result) = rest.rsplit_once("\" = ")?;
    result.parse::<usize>().ok()?;
    let data = data.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\");
    Some((format!("/sys/{path}"), data))
}
