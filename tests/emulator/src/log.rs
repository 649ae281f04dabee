//! The log of operations.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use nix::errno::Errno;

use crate::call::{Call, Done, Weight};

/// Longer data is only counted.
const SHOWN: usize = 160;

/// One operation.
#[derive(Debug)]
struct Line {
    weight: Weight,
    text: String,
    /// When, and by whom: only in `trace`; its name only if noise is kept.
    who: String,
}

/// All operations since the last `clear-log`.
#[derive(Debug, Default)]
pub struct Log {
    lines: Vec<Line>,
    copy: Option<File>,
    /// Whether noise is kept.
    pub all: bool,
}

impl Log {
    /// A log that is also written to a file.
    pub fn new(copy: Option<File>, all: bool) -> Self {
        Self { lines: Vec::new(), copy, all }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Adds an operation.
    pub fn add(&mut self, weight: Weight, now: Duration, who: &str, text: String) {
        if weight == Weight::Noise && !self.all {
            return;
        }
        if let Some(copy) = self.copy.as_mut().filter(|_| weight > Weight::Noise) {
            // Whoever reads the copy sees what is missing.
            let _ = writeln!(copy, "{text}");
        }
        let who = format!("{:.6} {who}", now.as_secs_f64());
        self.lines.push(Line { weight, text, who });
    }

    /// The lines of this weight and above.
    pub fn show(&self, weight: Weight) -> String {
        let mut text = String::new();
        for line in self.lines.iter().filter(|line| line.weight >= weight) {
            let who = if weight == Weight::Noise { format!("{} ", line.who) } else { String::new() };
            let _ = writeln!(text, "{who}{}", line.text);
        }
        text
    }
}

/// An operation in one line: its name, where, with what.
pub fn describe(call: &Call, paths: &[&str]) -> String {
    let mut text = format!("{} {}", call.word(), paths.join(" -> "));
    match call {
        Call::Write { data, .. } => quote(&mut text, data),
        Call::Symlink { target, .. } => quote(&mut text, target.as_bytes()),
        Call::Setxattr { name, value, .. } => {
            let _ = write!(text, " {name}");
            quote(&mut text, value);
        }
        Call::Removexattr { name, .. } | Call::Getxattr { name, .. } => {
            let _ = write!(text, " {name}");
        }
        Call::Setattr { mode, uid, gid, size, .. } => {
            for (name, value) in [("uid", uid), ("gid", gid)] {
                if let Some(value) = value {
                    let _ = write!(text, " {name}={value}");
                }
            }
            if let Some(mode) = mode {
                let _ = write!(text, " mode={:04o}", mode & 0o7777);
            }
            if let Some(size) = size {
                let _ = write!(text, " size={size}");
            }
        }
        _ => {}
    }
    text
}

/// The answer, as `strace` would show it.
pub fn result(answer: &Result<Done, Errno>) -> String {
    match answer {
        Err(errno) => format!("{errno:?}"),
        Ok(Done::Written(count)) => count.to_string(),
        Ok(Done::Data(data)) => {
            let mut text = String::new();
            quote(&mut text, data);
            text.trim_start().to_owned()
        }
        Ok(_) => "0".to_owned(),
    }
}

fn quote(text: &mut String, data: &[u8]) {
    let _ = if data.len() > SHOWN {
        write!(text, " <{} bytes>", data.len())
    } else {
        write!(text, " \"{}\"", data.escape_ascii())
    };
}
