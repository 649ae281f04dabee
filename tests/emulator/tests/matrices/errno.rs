//! The errno matrix: every operation of an event fails, with every errno that it may meet, or never returns.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::labels;
use crate::life::{Event, Life, go};
use crate::operations::{Operation, operations};
use crate::report::Report;
use crate::shapes::{Backend, Shape};
use crate::snapshot::Snapshot;
use crate::stage::{Ran, Stage, Told};

const FAULTS: [&str; 12] = [
    "EIO", "ENOSPC", "EROFS", "EBUSY", "EAGAIN", "ENODEV", "EINVAL", "EEXIST", "EACCES", "ENOENT", "EINTR",
    "block",
];

/// All limits at 50 ms.
pub(crate) const CONFIG: &str =
    "[wait]\nrelease = \"50ms\"\nlock = \"50ms\"\nudev = \"50ms\"\nparent = \"50ms\"\ndriver = \"50ms\"\n";

/// What an event may take with these limits, on a machine that does something else as well.
const LIMIT: Duration = Duration::from_secs(3);

/// What a message says of an operation that took longer than its limit.
pub(crate) const GIVEN_UP: &str = "has not returned";
/// What a record says of such a removal.
const PENDING: &str = "its removal is pending";

/// The events of a shape in which operations are to fail: what one shape has shown, another need not show again.
pub(crate) fn concerns(shape: &Shape, event: Event) -> bool {
    match (shape.name, event) {
        (_, Event::Settle) => false,
        ("two with attributes" | "two with arguments", _) => true,
        ("by argument", event) => matches!(event, Event::Prepare | Event::Start | Event::Release),
        // Directories are made, and listed.
        ("one device" | "no parent named", Event::Prepare) => shape.backend == Backend::Mdev,
        ("foreign device", Event::Prepare | Event::Release) => shape.backend == Backend::Mdev,
        ("keep", Event::Release) => shape.backend == Backend::Mdev,
        _ => false,
    }
}

/// The limit itself stands in the configuration; and `start` and `started` ask no driver for anything, only for links
/// and listings, nodes and records, which lie in memory: they do without a process that could be left behind.
fn never_blocks(event: Event, operation: &Operation) -> bool {
    let in_memory = matches!(event, Event::Start | Event::Started);
    in_memory || ["/etc/virt-mdev", "/etc/libvirt"].iter().any(|below| operation.path.starts_with(below))
}

/// Does something, and does it anew if a limit of 50 ms was too short where nothing was to block: on a machine that has
/// much else to do, they may go by without a step.
pub(crate) fn in_time<T>(mut act: impl FnMut() -> Told<T>) -> Told<T> {
    // What the event itself said is behind that: there it may be what is wanted.
    let late = |why: &String| {
        why.split("(the event: ")
            .next()
            .is_some_and(|why| [GIVEN_UP, PENDING].iter().any(|late| why.contains(late)))
    };
    for _ in 0..2 {
        let told = act();
        if !told.as_ref().is_err_and(late) {
            return told;
        }
    }
    act()
}

/// Goes through all operations of an event.
pub(crate) fn explore(
    stage: &mut Stage,
    shape: &Shape,
    life: &Life,
    event: Event,
    report: &Report,
) -> Told<()> {
    let operations = operations(life.traces.get(&event).map_or(&[], Vec::as_slice));
    if operations.is_empty() {
        return Err("no operations".to_owned());
    }
    let mut known = BTreeMap::new();
    for operation in &operations {
        for (number, fault) in FAULTS.into_iter().enumerate() {
            if fault == "block" && never_blocks(event, operation) {
                continue;
            }
            report.operation_of(operation.word);
            let mut point =
                Point { stage, shape, life, event, operation, fault, reconcile: report.reconcile };
            // By the record's own domain, and by whoever comes along.
            let reconcile = report.reconcile && event == Event::Release && number % 2 == 1;
            let verdict = in_time(|| point.fail(reconcile, &mut known));
            let title = || {
                let Operation { word, path, number, .. } = operation;
                format!("{}, {}: {fault} at {word} {path} ({number})", shape.title(), event.title())
            };
            report.errno(title, verdict);
        }
    }
    Ok(())
}

/// How recoveries went, by the state that they found.
type Known = BTreeMap<(Snapshot, bool, bool, bool), Told<()>>;

struct Point<'a> {
    stage: &'a mut Stage,
    shape: &'a Shape,
    life: &'a Life,
    event: Event,
    operation: &'a Operation,
    fault: &'a str,
    /// Whether there is a `virt-mdev reconcile`.
    reconcile: bool,
}

impl Point<'_> {
    fn fail(&mut self, reconcile: bool, known: &mut Known) -> Told<()> {
        let (ran, now) = self.strike()?;
        let judged = self.judge(&ran, &now);
        let key = (now, ran.succeeded(), reconcile, self.says_that_there_is_none());
        let recovered = match known.get(&key) {
            Some(verdict) => verdict.clone(),
            None => {
                let verdict = self.recover(&ran, reconcile);
                // One that went wrong is tried at every point: it says nothing of the others.
                if verdict.is_ok() {
                    known.insert(key, verdict.clone());
                }
                verdict
            }
        };
        judged.and(recovered).map_err(|why| format!("{why}\n    (the event: {})", ran.words()))
    }

    /// Lets the operation fail. Says how the event ended, and what there is.
    fn strike(&mut self) -> Told<(Ran, Snapshot)> {
        let Operation { word, path, number, .. } = self.operation;
        for last in [false, false, true] {
            self.stage.restore(self.life.before(self.event))?;
            self.stage.control("clear-log")?;
            self.stage.control(&format!("fault {word} {path} {number} {}", self.fault))?;
            let ran = self.stage.hook(self.event.operation());
            if self.fault == "block" {
                // An error says that nothing waits: for what did not come, or came to its end with its process.
                let _ = self.stage.control("release");
            }
            self.stage.settle()?;
            self.stage.control("clear-faults")?;
            let ran = ran?;
            let struck = self.stage.lines("log")?.iter().any(|line| line.contains("(fault)"));
            // On a machine that has much else to do, 50 ms may go by without a step: that says nothing of this point.
            let late = self.fault != "block" && ran.said.contains(GIVEN_UP);
            if struck && !late {
                return Ok((ran, self.stage.look()?));
            }
            if last {
                let what = if late { "it was given up" } else { "the operation did not come" };
                return Err(format!("{what} (the event: {})", ran.words()));
            }
        }
        Err("never tried".to_owned())
    }

    /// Whether the answer is that a device has no node, that AppArmor knows the domain no more, or, to a start, that the
    /// domain has no record: then there is nothing to label, and nothing to put back.
    fn says_that_there_is_none(&self) -> bool {
        let Operation { word, path, .. } = self.operation;
        let node = path.ends_with("/iommu_group") || (*word == "readdir" && path.ends_with("/vfio-dev"));
        let (start, read) = (self.event == Event::Start, matches!(*word, "open" | "read"));
        let record = start && path.starts_with("/run/virt-mdev/domains");
        let rules = !start && read && path.ends_with(".files");
        self.fault == "ENOENT" && (node || record || rules)
    }

    fn judge(&self, ran: &Ran, now: &Snapshot) -> Told<()> {
        if ran.took > LIMIT || ran.status == "timeout" {
            return Err(format!("it took {:?}", ran.took));
        }
        if ran.said.contains("defect") || ran.said.contains("panic") {
            return Err("a defect".to_owned());
        }
        self.nothing_else_is_gone(now)?;
        match self.event {
            Event::Prepare | Event::Settle if ran.succeeded() => {
                match now.differs_in_hardware(&self.life.prepared.snapshot) {
                    Some(difference) => Err(format!("not complete although it succeeded:\n    {difference}")),
                    None => Ok(()),
                }
            }
            Event::Prepare | Event::Settle => {
                self.told(ran)?;
                // What blocks may end later than the hook.
                match now.differs(&self.life.base.snapshot) {
                    Some(difference) if self.fault != "block" => {
                        Err(format!("left by a prepare that failed:\n    {difference}"))
                    }
                    _ => Ok(()),
                }
            }
            Event::Release => self.went_on(ran, now),
            // libvirt calls the release of a start that failed, and what it has labelled is put back then.
            Event::Start if !ran.succeeded() => {
                self.told(ran)?;
                match now.differs_in_devices(&self.life.prepared.snapshot) {
                    Some(difference) => Err(format!("devices have changed:\n    {difference}")),
                    None => Ok(()),
                }
            }
            Event::Start if self.says_that_there_is_none() => {
                match now.differs_in_devices(&self.life.running.snapshot) {
                    Some(difference) => Err(format!("devices have changed:\n    {difference}")),
                    None => Ok(()),
                }
            }
            _ => match now.differs_in_hardware(&self.life.running.snapshot) {
                Some(difference) => Err(format!("not what a domain that runs has:\n    {difference}")),
                None if self.event == Event::Reconnect && !ran.succeeded() => {
                    Err("a reconnect that fails kills the domain".to_owned())
                }
                None => Ok(()),
            },
        }
    }

    /// What others have made, and what is kept, is there.
    fn nothing_else_is_gone(&self, now: &Snapshot) -> Told<()> {
        let own = |snapshot: &Snapshot| -> Vec<String> {
            let devices = snapshot.hardware.iter().filter(|line| line.starts_with("device "));
            let functions = snapshot.hardware.iter().filter(|line| line.starts_with("function "));
            devices.chain(functions.filter(|line| line.split(' ').nth(2) != Some("0"))).cloned().collect()
        };
        let always = own(&self.life.base.snapshot);
        let others = |line: &&String| {
            line.starts_with("label ") && !self.shape.devices.iter().any(|device| line.contains(device))
        };
        let always = always.iter().chain(self.life.base.snapshot.hardware.iter().filter(others));
        let gone: Vec<_> = always.filter(|line| !now.hardware.contains(line)).collect();
        if gone.is_empty() { Ok(()) } else { Err(format!("gone, and not ours: {gone:?}")) }
    }

    /// Which devices of the domain are there, or have kept its label.
    fn left(&self, now: &Snapshot) -> Vec<&'static str> {
        let there = |device: &&&'static str| {
            now.hardware.iter().any(|line| {
                let mut words = line.split(' ');
                let kind = words.next();
                let this = words.next() == Some(**device);
                this && (kind == Some("device") || (kind == Some("function") && words.next() != Some("0")))
            })
        };
        let end = &self.life.released.snapshot;
        let stays =
            |device: &&&str| end.hardware.iter().any(|line| line.starts_with(&format!("device {device} ")));
        let put = |device: &str| {
            let label = format!("label {device} ");
            now.labels().any(|line| line.starts_with(&label) && labels::is_put(line))
        };
        let left = |device: &&&'static str| (there(device) && !stays(device)) || put(device);
        self.shape.devices.iter().filter(left).copied().collect()
    }

    /// A release does not stop early: what is left is the one device that the failure was about.
    fn went_on(&self, ran: &Ran, now: &Snapshot) -> Told<()> {
        if !ran.succeeded() {
            return Err("a release must not fail".to_owned());
        }
        let Operation { word, path, data, .. } = self.operation;
        let written_down = path.starts_with("/run") || path.starts_with("/etc");
        // Without its lock or its record nothing may be done; and what blocks in the hook itself blocks the rest. The
        // configuration is nothing that a release needs.
        let cannot_go_on = path.contains("/locks/")
            || (path.starts_with("/run") && matches!(*word, "open" | "read" | "readlink" | "create"))
            || (self.fault == "block" && !(*word == "write" && path.starts_with("/sys")))
            // The devices of a card share it, and in FUSE one write to a file waits for another.
            || (self.fault == "block" && path.ends_with("/mdev_destroy"));
        let left = self.left(now);
        let about = |device: &&str| {
            path.contains(*device) || data.as_ref().is_some_and(|data| data.contains(*device))
        };
        let hit: Vec<_> = self.shape.devices.iter().copied().filter(|device| about(device)).collect();
        let wrong: Vec<_> = match (hit.as_slice(), left.len()) {
            _ if cannot_go_on => Vec::new(),
            // A node's number says nothing: it is about one of them.
            ([], 0 | 1) if !written_down => Vec::new(),
            ([], _) => left,
            (hit, _) => left.into_iter().filter(|device| !hit.contains(device)).collect(),
        };
        if wrong.is_empty() { Ok(()) } else { Err(format!("the release stopped early: {wrong:?} are there")) }
    }

    /// The message names what was done, where, with what, and the kernel's answer.
    fn told(&self, ran: &Ran) -> Told<()> {
        let Operation { word, path, data, .. } = self.operation;
        if ran.status != "1" || !ran.said.starts_with("error: vm1: ") {
            return Err("it did not fail in words".to_owned());
        }
        // An errno that has a meaning of its own is told by its meaning.
        let sysfs = path.starts_with("/sys");
        let meant = match self.fault {
            "ENOSPC" => sysfs && ran.said.contains("no room for"),
            "EBUSY" => path.starts_with("/dev/vfio") && ran.said.contains("in use"),
            "ENOENT" => (sysfs && *word != "write") || path.starts_with("/etc/libvirt"),
            "EEXIST" => *word == "mkdir",
            _ => false,
        };
        if meant {
            return Ok(());
        }
        let answer = match (self.fault, *word) {
            ("block", _) => GIVEN_UP,
            // The kernel takes it for its own way to say that (`__vfs_setxattr_noperm`).
            ("EAGAIN", "setxattr") => "EOPNOTSUPP",
            (fault, _) => fault,
        };
        let verbs: &[&str] = match *word {
            "open" => &["read", "write", "open", "use", "lock", "make", "allow"],
            "read" => &["read", "use", "understand", "allow"],
            "write" => &["write", "allow"],
            "create" => &["write", "lock", "make"],
            "rename" => &["write", "rename"],
            "unlink" => &["remove"],
            "symlink" => &["make", "write"],
            "mkdir" => &["make"],
            "readlink" => &["read"],
            "chown" | "chmod" | "setxattr" => &["set"],
            "getxattr" => &["look at"],
            _ => &["list"],
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        let name = name
            .strip_suffix(".new")
            .unwrap_or(name)
            .split('.')
            .next()
            .filter(|_| path.starts_with("/run"))
            .unwrap_or(name);
        let mut lacks = Vec::new();
        if !ran.said.contains(answer) {
            lacks.push(answer.to_owned());
        }
        // What blocks is named by what it is a part of: an attribute is read before it is written.
        if self.fault != "block" && !verbs.iter().any(|verb| ran.said.contains(verb)) {
            lacks.push(verbs.join(" or "));
        }
        if !ran.said.contains(name) {
            lacks.push(name.to_owned());
        }
        if let Some(data) = data.as_ref().filter(|_| path.starts_with("/sys") && self.fault != "block") {
            let data = data.trim_end_matches("\\n");
            if !ran.said.contains(data) {
                lacks.push(format!("\"{data}\""));
            }
        }
        if lacks.is_empty() { Ok(()) } else { Err(format!("the message lacks {}", lacks.join(", "))) }
    }

    /// What libvirt does next, or somebody else.
    fn recover(&mut self, ran: &Ran, reconcile: bool) -> Told<()> {
        let end = match self.event {
            Event::Prepare | Event::Settle if !ran.succeeded() => &self.life.base.snapshot,
            _ => &self.life.released.snapshot,
        };
        let rest: &[&str] = match self.event {
            Event::Prepare | Event::Settle if ran.succeeded() => &["start", "started"],
            Event::Start if ran.succeeded() => &["started"],
            _ => &[],
        };
        for operation in rest {
            if *operation == "started" {
                self.stage.hold()?;
            }
            go(self.stage, operation)?;
        }
        self.stage.let_go()?;
        if !reconcile {
            go(self.stage, "stopped")?;
            go(self.stage, "release")?;
        }
        // A claim may outlive its record: it is nobody's then, and the timer's reconcile takes it away.
        let stray = |now: &Snapshot| {
            now.differs_in_hardware(end).is_none() && now.records.iter().all(|line| line.starts_with("link "))
        };
        if reconcile || (self.reconcile && stray(&self.stage.look()?)) {
            let ran = self.stage.command(&["reconcile"])?;
            self.stage.settle()?;
            if !ran.succeeded() {
                return Err(format!("reconcile: {}", ran.words()));
            }
        }
        let mut now = self.stage.look()?;
        let mut end = end.clone();
        if self.says_that_there_is_none() {
            (now, end) = (now.without_labels(), end.without_labels());
        }
        match now.differs(&end) {
            Some(difference) => Err(format!("left in the end:\n    {difference}")),
            None => Ok(()),
        }
    }
}
