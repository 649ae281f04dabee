//! The world with what tests want of it: faults, a log, and requests that wait. Still without I/O: what is to be
//! done comes out as a list.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{O_ACCMODE, O_RDONLY, O_TRUNC};

use crate::call::{Call, Caller, Done, Outcome, Ticket, Weight};
use crate::fault::{Action, Fault, fits};
use crate::log::{self, Log};
use crate::model::{Attribute, Changed, Effect, Uevent, World};
use crate::tree::Kind;

/// What is to be done now, in this order.
#[derive(Debug)]
pub enum Todo<R> {
    /// Answer a request.
    Answer(R, Result<Done, Errno>),
    /// Kill a process.
    Kill(u32),
    /// Tell what the kernel would.
    Uevent(Uevent),
    /// Tell what udevd would.
    Udev(Uevent),
}

/// A request that waits.
#[derive(Debug)]
struct Waiting<R> {
    reply: R,
    caller: Caller,
    call: Call,
    text: String,
    weight: Weight,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The model answers it (a device in use).
    Model(Ticket),
    /// It does so in a moment.
    Moment(Ticket),
    /// A fault holds it back until then.
    Fault(Option<Duration>),
}

/// The machine. `R` is what a request is answered through.
#[derive(Debug)]
pub struct Machine<R> {
    /// The host.
    pub world: World,
    log: Log,
    faults: Vec<Fault>,
    waiting: BTreeMap<u64, Waiting<R>>,
    /// Hosts as they were, by name.
    saved: BTreeMap<String, World>,
    next: u64,
    todo: Vec<Todo<R>>,
    /// What the last line of the control file had wrong.
    complaint: String,
}

impl<R> Machine<R> {
    /// A machine without faults.
    pub fn new(world: World, log: Log) -> Self {
        Self {
            world,
            log,
            faults: Vec::new(),
            waiting: BTreeMap::new(),
            saved: BTreeMap::new(),
            next: 0,
            todo: Vec::new(),
            complaint: String::new(),
        }
    }

    /// What has come up since this was last asked.
    pub fn todo(&mut self) -> Vec<Todo<R>> {
        std::mem::take(&mut self.todo)
    }

    /// The log from a weight on.
    pub fn log(&self, weight: Weight) -> String {
        self.log.show(weight)
    }

    /// When [`Machine::tick`] has something to do.
    pub fn due(&self) -> Option<Duration> {
        let held = self.waiting.values().filter_map(|waiting| match waiting.why {
            Why::Fault(until) => until,
            Why::Model(_) | Why::Moment(_) => None,
        });
        held.chain(self.world.due()).min()
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Duration) {
        self.world.tick(now);
        self.settle();
        let over = |waiting: &Waiting<R>| matches!(waiting.why, Why::Fault(Some(until)) if until <= now);
        self.resume(over);
    }

    /// Takes a request. `who` names its process in the trace.
    pub fn submit(&mut self, caller: Caller, call: Call, reply: R, who: impl FnOnce() -> String) {
        let paths = self.paths(&call);
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        if paths.first().is_some_and(|path| path.starts_with("/sys/kernel/emulator")) {
            let answer = self.perform_own(caller, &call);
            self.todo.push(Todo::Answer(reply, answer));
            return;
        }
        let weight = self.weight(&call);
        let effect = weight == Weight::Effect;
        let struck = self.faults.iter_mut().filter_map(|fault| fault.strikes(call.word(), effect, &paths));
        // Every fault counts the request; the first that strikes decides.
        let action = struck.fold(None, |first, action| first.or(Some(action)));
        let logged = self.log.all || weight > Weight::Noise || action.is_some();
        let text = if logged { log::describe(&call, &paths) } else { String::new() };
        // Only a trace tells it, and to ask for a name takes longer than to answer.
        let who = if self.log.all { who() } else { String::new() };
        let who = if logged { format!("{} {who}", caller.pid) } else { String::new() };
        let weight = if action.is_some() { weight.max(Weight::Read) } else { weight };
        match action {
            Some(Action::Fail(errno)) => {
                self.note(weight, &who, format!("{text} = {errno:?} (fault)"));
                self.todo.push(Todo::Answer(reply, Err(errno)));
            }
            Some(Action::KillBefore) => {
                self.note(weight, &who, format!("{text} = killed before"));
                self.todo.push(Todo::Kill(caller.pid));
                self.todo.push(Todo::Answer(reply, Err(Errno::EINTR)));
            }
            Some(Action::Block(time)) => {
                self.note(weight, &who, format!("{text} = blocks (fault)"));
                let why = Why::Fault(time.map(|time| self.world.now + time));
                self.wait(Waiting { reply, caller, call, text, weight, why });
            }
            Some(Action::KillAfter) => self.run(caller, call, reply, (weight, &who, &text), true),
            None => self.run(caller, call, reply, (weight, &who, &text), false),
        }
    }

    fn run(
        &mut self,
        caller: Caller,
        call: Call,
        reply: R,
        (weight, who, text): (Weight, &str, &str),
        kill: bool,
    ) {
        // Its line stands before what it sets off.
        match self.world.perform(caller, &call) {
            Outcome::Now(answer) => {
                let mark = if kill { " killed after" } else { "" };
                let weight = lighter(weight, &call, &answer);
                self.note(weight, who, format!("{text} = {}{mark}", log::result(&answer)));
                self.settle();
                if kill {
                    self.todo.push(Todo::Kill(caller.pid));
                }
                self.todo.push(Todo::Answer(reply, answer));
            }
            Outcome::Soon(ticket) => {
                let why = Why::Moment(ticket);
                self.wait(Waiting { reply, caller, call, text: text.to_owned(), weight, why });
            }
            Outcome::Later(ticket) => {
                self.note(weight, who, format!("{text} = blocks"));
                let why = Why::Model(ticket);
                self.wait(Waiting { reply, caller, call, text: text.to_owned(), weight, why });
                self.settle();
                if kill {
                    self.todo.push(Todo::Kill(caller.pid));
                }
            }
        }
    }

    fn note(&mut self, weight: Weight, who: &str, text: String) {
        self.log.add(weight, self.world.now, who, text);
    }

    fn wait(&mut self, waiting: Waiting<R>) {
        self.next += 1;
        self.waiting.insert(self.next, waiting);
    }

    /// Passes on what the model gave out.
    fn settle(&mut self) {
        for effect in std::mem::take(&mut self.world.out) {
            match effect {
                Effect::Uevent(event) => self.todo.push(Todo::Uevent(event)),
                Effect::Udev(event) => self.todo.push(Todo::Udev(event)),
                Effect::Kill(pid) => self.todo.push(Todo::Kill(pid)),
                Effect::Answer(ticket, answer) => {
                    let whys = [Why::Model(ticket), Why::Moment(ticket)];
                    let found = self.waiting.iter().find(|(_, waiting)| whys.contains(&waiting.why));
                    let number = found.map(|(number, _)| *number);
                    let Some(waiting) = number.and_then(|number| self.waiting.remove(&number)) else {
                        continue;
                    };
                    let answer = answer.map(|done| match &waiting.call {
                        Call::Write { data, .. } => Done::Written(data.len()),
                        _ => done,
                    });
                    let after = if waiting.why == Why::Model(ticket) { " after blocking" } else { "" };
                    let text = format!("{} = {}{after}", waiting.text, log::result(&answer));
                    self.note(waiting.weight, &waiting.caller.pid.to_string(), text);
                    self.todo.push(Todo::Answer(waiting.reply, answer));
                }
            }
        }
    }

    /// Goes on with requests that a fault held back.
    fn resume(&mut self, over: impl Fn(&Waiting<R>) -> bool) -> usize {
        let ready: Vec<u64> =
            self.waiting.iter().filter(|(_, waiting)| over(waiting)).map(|(number, _)| *number).collect();
        for number in &ready {
            let Some(waiting) = self.waiting.remove(number) else { continue };
            let Waiting { reply, caller, call, text, weight, .. } = waiting;
            self.run(caller, call, reply, (weight, &caller.pid.to_string(), &text), false);
        }
        ready.len()
    }

    /// Paths that a request is about: one, or two of a rename.
    fn paths(&self, call: &Call) -> Vec<String> {
        let (ino, name) = call.place();
        let open = match call {
            // A file that is gone is still what its user has open.
            Call::Read { handle, .. }
            | Call::Write { handle, .. }
            | Call::Flush { handle, .. }
            | Call::Release { handle, .. } => self.world.path_of(*handle),
            _ => None,
        };
        let path = open.unwrap_or_else(|| self.world.tree.path(ino));
        let mut paths = vec![match name {
            Some(name) => format!("{path}/{name}"),
            None => path,
        }];
        if let Call::Rename { to, new, .. } = call {
            paths.push(format!("{}/{new}", self.world.tree.path(*to)));
        }
        if let Call::Link { ino, .. } = call {
            paths.insert(0, self.world.tree.path(*ino));
        }
        paths
    }

    fn weight(&self, call: &Call) -> Weight {
        let is_node = |ino| matches!(self.world.tree.get(ino).map(|file| &file.kind), Some(Kind::Node(_)));
        match call {
            Call::Setattr { .. }
            | Call::Create { .. }
            | Call::Write { .. }
            | Call::Mknod { .. }
            | Call::Mkdir { .. }
            | Call::Symlink { .. }
            | Call::Link { .. }
            | Call::Unlink { .. }
            | Call::Rmdir { .. }
            | Call::Rename { .. }
            | Call::Setxattr { .. }
            | Call::Removexattr { .. } => Weight::Effect,
            Call::Open { ino, flags }
                if flags & O_TRUNC != 0 && flags & O_ACCMODE != O_RDONLY && !self.world.is_sysfs(*ino) =>
            {
                Weight::Effect
            }
            Call::Open { ino, .. } | Call::Release { ino, .. } if is_node(*ino) => Weight::Read,
            Call::Read { offset: 0, .. } | Call::Fsync { .. } => Weight::Read,
            _ => Weight::Noise,
        }
    }

    /// Requests on the emulator's own files: neither logged nor faulted.
    fn perform_own(&mut self, caller: Caller, call: &Call) -> Result<Done, Errno> {
        let (ino, _) = call.place();
        let attribute = match self.world.tree.get(ino).map(|file| &file.kind) {
            Some(Kind::Attribute(attribute)) => Some(attribute.clone()),
            _ => None,
        };
        match (call, attribute) {
            (Call::Read { offset, size, .. }, Some(attribute)) => {
                let text = match attribute {
                    Attribute::Log(weight) => self.log.show(weight),
                    Attribute::Blocked => self.blocked(),
                    _ => self.complaint.clone(),
                };
                let start = usize::try_from(*offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(*size as usize).min(text.len());
                Ok(Done::Data(text.as_bytes().get(start..end).unwrap_or_default().to_vec()))
            }
            (Call::Write { data, .. }, Some(Attribute::Control)) => {
                let text = String::from_utf8_lossy(data).into_owned();
                let done = text.lines().try_for_each(|line| self.control(line));
                self.complaint = done.as_ref().err().map(|why| format!("{why}\n")).unwrap_or_default();
                done.map(|()| Done::Written(data.len())).map_err(|_| Errno::EINVAL)
            }
            _ => match self.world.perform(caller, call) {
                Outcome::Now(answer) => answer,
                Outcome::Later(_) | Outcome::Soon(_) => Err(Errno::EIO),
            },
        }
    }

    /// The requests that wait now, one on a line.
    fn blocked(&self) -> String {
        let line = |waiting: &Waiting<R>| format!("{} {}\n", waiting.caller.pid, waiting.text);
        let long = |waiting: &&Waiting<R>| !matches!(waiting.why, Why::Moment(_));
        self.waiting.values().filter(long).map(line).collect()
    }

    /// Keeps the host as it is now.
    pub fn save(&mut self, name: &str) -> Result<(), String> {
        self.must_be_quiet()?;
        self.saved.insert(name.to_owned(), self.world.saved()?);
        Ok(())
    }

    /// The host is as it was when it was kept; what the kernel remembers of it is to be forgotten.
    pub fn load(&mut self, name: &str) -> Result<Changed, String> {
        self.must_be_quiet()?;
        let saved = self.saved.get(name).ok_or_else(|| format!("nothing is saved as {name}"))?;
        self.world.load(saved)
    }

    fn must_be_quiet(&self) -> Result<(), String> {
        if self.waiting.is_empty() { Ok(()) } else { Err("somebody waits for an answer".to_owned()) }
    }

    /// Does what a line of the control file says.
    pub fn control(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let done = match words.as_slice() {
            [] => Ok(()),
            ["fault", ..] => {
                let spec = line.trim_start().strip_prefix("fault").unwrap_or_default();
                Fault::parse(spec).map(|fault| self.faults.push(fault))
            }
            ["clear-faults"] => {
                self.faults.clear();
                Ok(())
            }
            ["clear-log"] => {
                self.log.clear();
                Ok(())
            }
            ["trace", word @ ("on" | "off")] => {
                self.log.all = *word == "on";
                Ok(())
            }
            ["release", globs @ ..] => {
                let glob = globs.first().copied().unwrap_or("*");
                let held = |waiting: &Waiting<R>| {
                    let path = waiting.text.split(' ').nth(1).unwrap_or_default();
                    matches!(waiting.why, Why::Fault(_)) && fits(glob, path)
                };
                match self.resume(held) {
                    0 => Err("nothing is held back by a fault".to_owned()),
                    _ => Ok(()),
                }
            }
            words => match self.world.control(words) {
                Some(done) => done,
                None => Err(format!("unknown: {line}")),
            },
        };
        self.settle();
        done
    }
}

/// What turned out not to matter: the read that finds the end, and the open that everybody does. A refusal matters.
fn lighter(weight: Weight, call: &Call, answer: &Result<Done, Errno>) -> Weight {
    match call {
        Call::Open { .. } | Call::Read { .. } if answer.is_err() => weight.max(Weight::Read),
        _ => weight,
    }
}
