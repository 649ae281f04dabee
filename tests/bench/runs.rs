//! One run of a program: its system calls, instructions, memory, time.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::Wrong;
use crate::table::Value;

/// How a command is started: as it is, or on an emulated host.
pub(crate) type Start<'a> = &'a dyn Fn(&str) -> Command;

/// Which system calls are counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Calls {
    All,
    Files,
}

/// A program with its arguments and what it reads.
#[derive(Debug, Clone)]
pub(crate) struct Run<'a> {
    pub(crate) command: Vec<&'a str>,
    pub(crate) stdin: &'a [u8],
    pub(crate) environment: &'a [(&'a str, &'a str)],
}

impl<'a> Run<'a> {
    pub(crate) fn new(command: &[&'a str], stdin: &'a [u8]) -> Self {
        Self { command: command.to_vec(), stdin, environment: &[] }
    }

    /// Runs it behind `before` (a tracer with its options) and fails where it fails. What stderr said is returned.
    pub(crate) fn behind(&self, start: Start<'_>, before: &[&str]) -> Result<String, Wrong> {
        let all: Vec<&str> = before.iter().chain(&self.command).copied().collect();
        let [program, arguments @ ..] = all.as_slice() else { return Err("no command".to_owned()) };
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", all.join(" "));
        let mut child = start(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .envs(self.environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program need not read all that it is given.
            let _ = pipe.write_all(self.stdin);
        }
        let output = child.wait_with_output().map_err(|error| failed(&error))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(said) } else { Err(failed(&format!("{}: {said}", output.status))) }
    }

    pub(crate) fn once(&self, start: Start<'_>) -> Result<(), Wrong> {
        self.behind(start, &[]).map(drop)
    }

    /// System calls of it and of its children: all, or those that are about files. How often a process that waits for
    /// another is woken is up to the scheduler, so of what has a worker only those can be compared.
    pub(crate) fn system_calls(&self, start: Start<'_>, scratch: &Path, which: Calls) -> Result<f64, Wrong> {
        let file = scratch.join("calls").display().to_string();
        let which = match which {
            Calls::All => "--trace=all",
            Calls::Files => "--trace=%file,getdents64,write,flock,fchown,fchmod",
        };
        self.behind(start, &["strace", "-f", "-qq", "-c", which, "-o", &file, "--"])?;
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        let total = text.lines().find(|line| line.ends_with(" total"));
        let calls =
            total.and_then(|line| line.split_whitespace().nth(3)).and_then(|calls| calls.parse().ok());
        calls.ok_or_else(|| format!("strace said no total: {text}"))
    }

    /// Instructions of it and of its children.
    pub(crate) fn instructions(&self, start: Start<'_>) -> Result<f64, Wrong> {
        let said = self.behind(
            start,
            &["valgrind", "--tool=callgrind", "--trace-children=yes", "--callgrind-out-file=/dev/null"],
        )?;
        let collected = said.lines().filter_map(|line| line.split_once("Collected : "));
        let numbers: Vec<f64> = collected.filter_map(|(_, number)| number.trim().parse().ok()).collect();
        if numbers.is_empty() {
            Err(format!("valgrind counted nothing: {said}"))
        } else {
            Ok(numbers.iter().sum())
        }
    }

    /// The most memory that it had, in KiB.
    pub(crate) fn peak_memory(&self, start: Start<'_>, scratch: &Path) -> Result<f64, Wrong> {
        let file = scratch.join("peak").display().to_string();
        self.behind(start, &["/usr/bin/time", "-q", "-f", "%M", "-o", &file])?;
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        text.trim().parse().map_err(|_| format!("time said: {text}"))
    }

    fn time(&self, start: Start<'_>) -> Result<Duration, Wrong> {
        let [program, arguments @ ..] = self.command.as_slice() else { return Err("no command".to_owned()) };
        let mut command = start(program);
        command
            .args(arguments)
            .envs(self.environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // A file, so that no pipe has to be filled meanwhile.
        let input = memory(self.stdin)?;
        command.stdin(input);
        let began = Instant::now();
        let status = command.status().map_err(|error| format!("{program}: {error}"))?;
        let took = began.elapsed();
        if status.success() { Ok(took) } else { Err(format!("{}: {status}", self.command.join(" "))) }
    }
}

fn memory(bytes: &[u8]) -> Result<File, Wrong> {
    let fill = || {
        let mut file = File::from(memfd_create(c"stdin", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file)
    };
    fill().map_err(|error: io::Error| format!("what it reads: {error}"))
}

/// Some steps that belong together, of which the first is timed and the others set things back.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    pub(crate) before: Vec<Run<'a>>,
    pub(crate) run: Run<'a>,
    pub(crate) after: Vec<Run<'a>>,
}

impl<'a> Timed<'a> {
    pub(crate) fn alone(run: Run<'a>) -> Self {
        Self { before: Vec::new(), run, after: Vec::new() }
    }

    fn time(&self, start: Start<'_>) -> Result<f64, Wrong> {
        for run in &self.before {
            run.once(start)?;
        }
        let took = self.run.time(start)?.as_secs_f64();
        for run in &self.after {
            run.once(start)?;
        }
        Ok(took)
    }
}

/// How many times longer `run` takes than `baseline`: in turns, which of them is first changing from turn to turn.
pub(crate) fn ratio(
    turns: usize,
    (run, on): (&Timed<'_>, Start<'_>),
    (baseline, baseline_on): (&Timed<'_>, Start<'_>),
) -> Result<Value, Wrong> {
    let mut ratios = Vec::new();
    // Once for the caches.
    run.time(on)?;
    baseline.time(baseline_on)?;
    for turn in 0..turns {
        let (ours, theirs);
        if turn % 2 == 0 {
            ours = run.time(on)?;
            theirs = baseline.time(baseline_on)?;
        } else {
            theirs = baseline.time(baseline_on)?;
            ours = run.time(on)?;
        }
        ratios.push(ours / theirs);
    }
    ratios.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let index = (ratios.len() as f64 * part) as usize;
        ratios.get(index).copied().unwrap_or(f64::NAN)
    };
    Ok(Value::Ratio { median: at(0.5), low: at(0.25), high: at(0.75) })
}
