//! The crash matrix: every event is killed before and after each of its effects, and each time the host is brought back
//! in three ways.

use crate::life::{Event, Life, go};
use crate::report::{Report, kind_of};
use crate::shapes::Shape;
use crate::snapshot::Snapshot;
use crate::stage::{Ran, Stage, Told};

/// When the process is killed.
const KILLS: [&str; 2] = ["kill-before", "kill-after"];

/// How the host is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Recovery {
    /// What libvirt calls next.
    NextEvent,
    /// The daemon dies as well, and somebody calls `virt-mdev reconcile`.
    Reconcile,
    /// The domain is started again.
    Prepare,
}

impl Recovery {
    const ALL: [Self; 3] = [Self::NextEvent, Self::Reconcile, Self::Prepare];

    fn title(self) -> &'static str {
        match self {
            Self::NextEvent => "the next event",
            Self::Reconcile => "the daemon dies, then reconcile",
            Self::Prepare => "a new prepare",
        }
    }
}

/// Limits that nothing here comes near to, unless it waits for what never comes.
pub(crate) const CONFIG: &str =
    "[wait]\nrelease = \"2s\"\nlock = \"2s\"\nudev = \"1s\"\nparent = \"1s\"\ndriver = \"5s\"\n";

/// Goes through all points of an event.
pub(crate) fn explore(
    stage: &mut Stage,
    shape: &Shape,
    life: &Life,
    event: Event,
    report: &Report,
) -> Told<()> {
    let effects = life.effects.get(&event).cloned().unwrap_or_default();
    if effects.is_empty() {
        return Err(format!("{}, {}: no effects", shape.title(), event.title()));
    }
    for (at, effect) in effects.iter().enumerate() {
        let kind = kind_of(effect).ok_or_else(|| format!("an effect of no known kind: {effect}"))?;
        for kill in KILLS {
            report.point_of(kind);
            let point = Point { event, effect, number: at + 1, kill };
            let mut struck = Some(point.strike(stage, life));
            let first = struck.as_ref().and_then(|struck| struck.as_ref().ok().cloned());
            for recovery in Recovery::ALL {
                if recovery == Recovery::Reconcile && !report.reconcile {
                    continue;
                }
                let way = |ran: &Ran| way(event, recovery, ran.succeeded());
                let found = first.as_ref().map(|(ran, left)| {
                    // Killed when all was written down: it is a domain that was prepared.
                    let prepared = *left == life.prepared.snapshot;
                    let released = ran.succeeded() || prepared;
                    let end = if released { &life.released.snapshot } else { life.end(event) };
                    (left.clone(), way(ran), end.clone())
                });
                let known = found.as_ref().and_then(|found| life.known(found));
                let verdict = known.unwrap_or_else(|| {
                    // Each recovery begins with what the kill has left, not with what another recovery made of it.
                    let struck = struck.take().unwrap_or_else(|| point.strike(stage, life));
                    let (ran, _) = struck?;
                    let Some(found) = found else { return Err("the first time was another".to_owned()) };
                    let verdict = Judge { stage, life, event, end: &found.2 }.recover(recovery, &ran);
                    life.learn(found, verdict.clone());
                    verdict
                });
                let title = || {
                    let (event, recovery) = (event.title(), recovery.title());
                    format!("{}, {event}: {kill} {effect}; recovered by {recovery}", shape.title())
                };
                report.crash(title, verdict);
            }
        }
    }
    Ok(())
}

/// What a recovery depends on besides the state that it finds and the one that it is to reach. Killed after one effect
/// or before the next, in one event or another, is the same state most of the time: it is recovered from once.
fn way(event: Event, recovery: Recovery, succeeded: bool) -> String {
    match recovery {
        Recovery::Prepare => "prepare".to_owned(),
        Recovery::NextEvent if event != Event::Release && !succeeded => "failed".to_owned(),
        Recovery::NextEvent => format!("next, {event:?}"),
        Recovery::Reconcile => format!("reconcile, {event:?}"),
    }
}

/// An effect of an event, and when the process is killed.
struct Point<'a> {
    event: Event,
    effect: &'a str,
    number: usize,
    kill: &'a str,
}

impl Point<'_> {
    /// Kills the event there. Says how it ended, and what there is.
    fn strike(&self, stage: &mut Stage, life: &Life) -> Told<(Ran, Snapshot)> {
        let first_words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        for last in [false, true] {
            stage.restore(life.before(self.event))?;
            stage.control("clear-log")?;
            stage.control(&format!("fault effect * {} {}", self.number, self.kill))?;
            let ran = stage.hook(self.event.operation());
            stage.settle()?;
            stage.control("clear-faults")?;
            let ran = ran?;
            let log = stage.lines("log")?;
            let struck =
                log.iter().find(|line| line.contains("= killed before") || line.ends_with(" killed after"));
            if struck.is_some_and(|line| first_words(line) == first_words(self.effect)) {
                return Ok((ran, stage.look()?));
            }
            // On a machine that has much else to do, something may have been waited for.
            if last {
                let struck = struck.map_or("none", String::as_str);
                return Err(format!("another effect was the one: {struck}\n    ({})", log.join("\n    ")));
            }
        }
        Err("never tried".to_owned())
    }
}

/// Brings the host back, and says what is wrong with it then.
struct Judge<'a> {
    stage: &'a mut Stage,
    life: &'a Life,
    event: Event,
    /// What there is to be in the end.
    end: &'a Snapshot,
}

impl Judge<'_> {
    fn recover(&mut self, recovery: Recovery, ran: &Ran) -> Told<()> {
        let told = match recovery {
            Recovery::NextEvent => self.next_event(ran),
            Recovery::Reconcile => self.reconcile(),
            Recovery::Prepare => self.new_prepare(),
        };
        told.map_err(|why| format!("{why}\n    (the event: {})", ran.words()))
    }

    fn must_be(&mut self, what: &str, expected: &Snapshot) -> Told<()> {
        match self.stage.look()?.differs(expected) {
            Some(difference) => Err(format!("{what}:\n    {difference}")),
            None => Ok(()),
        }
    }

    /// The devices are those of a running domain, its QEMU can open them, and they are recorded.
    fn must_run(&mut self, what: &str) -> Told<()> {
        self.must_have(what, &self.life.running.snapshot)
    }

    fn must_have(&mut self, what: &str, expected: &Snapshot) -> Told<()> {
        let now = self.stage.look()?;
        match now.differs_in_hardware(expected) {
            Some(difference) => Err(format!("{what}:\n    {difference}")),
            None if now.records.is_empty() => Err(format!("{what}: nothing is recorded")),
            None => Ok(()),
        }
    }

    /// QEMU ends, and libvirt says so.
    fn end(&mut self, expected: &Snapshot) -> Told<()> {
        self.stage.let_go()?;
        go(self.stage, "stopped")?;
        go(self.stage, "release")?;
        self.must_be("left after release", expected)
    }

    fn next_event(&mut self, ran: &Ran) -> Told<()> {
        // libvirt does not look at how a release ended, and has nothing more to say: it is asked once more.
        if self.event == Event::Release {
            go(self.stage, "release")?;
            return self.must_be("left after a second release", self.end);
        }
        if !ran.succeeded() {
            return self.end(self.end);
        }
        // Only a child was killed, and the hook has got over it: libvirt goes on.
        let rest: &[&str] = match self.event {
            Event::Prepare | Event::Settle => &["start", "started"],
            Event::Start => &["started"],
            _ => &[],
        };
        for operation in rest {
            let expected = if *operation == "start" { &self.life.prepared } else { &self.life.running };
            self.must_have(&format!("not complete before {operation}"), &expected.snapshot)?;
            if *operation == "started" {
                self.stage.hold()?;
            }
            go(self.stage, operation)?;
        }
        self.must_run("not complete although all events succeeded")?;
        self.end(&self.life.released.snapshot)
    }

    fn reconcile(&mut self) -> Told<()> {
        let before = self.stage.look()?;
        let prepared = before == self.life.prepared.snapshot;
        let held = matches!(self.event, Event::Started | Event::Reconnect);
        // Whoever asks while the daemon is still at it: what is prepared may not be touched. A prepare that has died is
        // one that libvirt has seen fail: it may go, but not in part.
        if matches!(self.event, Event::Prepare | Event::Start) {
            self.reconciled()?;
            let now = self.stage.look()?;
            let gone = !prepared && self.event == Event::Prepare && now == *self.end;
            if let Some(difference) = now.differs_in_hardware(&before).filter(|_| !gone) {
                return Err(format!("reconcile has touched what a living daemon starts:\n    {difference}"));
            }
        }
        self.stage.daemon_dies()?;
        self.reconciled()?;
        if held {
            self.must_run("reconcile has touched a domain that runs")?;
            go(self.stage, "reconnect")?;
            self.must_be("after the reconnect", &self.life.reconnected.snapshot)?;
            self.stage.let_go()?;
            self.reconciled()?;
        }
        self.must_be("left after reconcile", self.end)?;
        let again = self.reconciled()?;
        if again.trim_end() == "Nothing to reconcile." {
            return Ok(());
        }
        Err(format!("reconcile after reconcile: {again}"))
    }

    fn reconciled(&mut self) -> Told<String> {
        let ran = self.stage.command(&["reconcile"])?;
        self.stage.settle()?;
        if ran.succeeded() { Ok(ran.said) } else { Err(format!("reconcile: {}", ran.words())) }
    }

    fn new_prepare(&mut self) -> Told<()> {
        self.stage.let_go()?;
        go(self.stage, "prepare")?;
        let now = self.stage.look()?;
        let complete = [&self.life.prepared.snapshot, &self.life.again.snapshot];
        if let Some(difference) = now.differs(complete[0]) {
            // With devices that the run before has kept, it is the same domain with another record.
            if now != *complete[1] {
                return Err(format!("not complete after a new prepare:\n    {difference}"));
            }
        }
        go(self.stage, "start")?;
        self.stage.hold()?;
        go(self.stage, "started")?;
        self.must_run("not complete once started")?;
        self.end(&self.life.released.snapshot)
    }
}
