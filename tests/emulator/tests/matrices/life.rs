//! A domain's life without faults: the states that it goes through, and what each event does on the way.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::errno::GIVEN_UP;
use crate::labels;
use crate::shapes::Shape;
use crate::snapshot::Snapshot;
use crate::stage::{Stage, Told};
use crate::state::State;

/// An event that something goes wrong in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Prepare,
    Start,
    Started,
    Reconnect,
    Release,
    /// A prepare that finds what an earlier run has left: nobody called release.
    Settle,
}

impl Event {
    pub(crate) const ALL: [Self; 6] =
        [Self::Prepare, Self::Start, Self::Started, Self::Reconnect, Self::Release, Self::Settle];

    /// The hook's argument.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Prepare | Self::Settle => "prepare",
            Self::Start => "start",
            Self::Started => "started",
            Self::Reconnect => "reconnect",
            Self::Release => "release",
        }
    }

    /// For messages.
    pub(crate) fn title(self) -> &'static str {
        if self == Self::Settle { "prepare with leftovers" } else { self.operation() }
    }
}

/// What was seen of a life.
#[derive(Debug)]
pub(crate) struct Life {
    /// Before anything, and after each event.
    pub(crate) base: State,
    pub(crate) prepared: State,
    starting: State,
    pub(crate) running: State,
    pub(crate) reconnected: State,
    /// QEMU has ended, release is yet to come.
    ended: State,
    pub(crate) released: State,
    /// Prepared again, with all that the run before left.
    pub(crate) again: State,
    /// What each event changed, in order.
    pub(crate) effects: BTreeMap<Event, Vec<String>>,
    /// All that it did.
    pub(crate) traces: BTreeMap<Event, Vec<String>>,
    /// How recoveries went.
    known: Mutex<BTreeMap<Found, Told<()>>>,
}

/// What a recovery finds, which way it goes, and where it is to lead.
pub(crate) type Found = (Snapshot, String, Snapshot);

/// An event that must go well.
pub(crate) fn go(stage: &mut Stage, operation: &str) -> Told<()> {
    let ran = stage.hook(operation)?;
    stage.settle()?;
    // A release succeeds whatever it leaves: given up on a busy machine, it shows that nothing was to block here.
    let went_well = ran.succeeded() && !ran.said.contains(GIVEN_UP);
    if went_well { Ok(()) } else { Err(format!("{operation}, {}", ran.words())) }
}

/// All of a life from prepare to release.
fn live(stage: &mut Stage) -> Told<()> {
    for operation in ["prepare", "start"] {
        go(stage, operation)?;
    }
    stage.hold()?;
    go(stage, "started")?;
    stage.let_go()?;
    go(stage, "release")
}

impl Life {
    /// Goes through it.
    pub(crate) fn record(stage: &mut Stage, shape: &Shape) -> Told<Self> {
        stage.begin()?;
        if !shape.fresh {
            live(stage)?;
            // For what it has learnt of the devices that are kept.
            stage.state()?;
            stage.begin()?;
        }
        stage.control("trace on")?;
        stage.control("clear-log")?;
        if shape.kept_before {
            go(stage, "prepare")?;
            go(stage, "release")?;
        }
        let base = stage.state()?;
        let (mut effects, mut traces) = (BTreeMap::new(), BTreeMap::new());
        let mut go = |stage: &mut Stage, event: Event| {
            go(stage, event.operation())?;
            effects.insert(event, stage.lines("effects")?);
            traces.insert(event, stage.lines("trace")?);
            stage.state()
        };
        let prepared = go(stage, Event::Prepare)?;
        go(stage, Event::Start)?;
        // QEMU opens its devices before libvirt says that it runs.
        stage.hold()?;
        let starting = stage.state()?;
        let running = go(stage, Event::Started)?;
        let reconnected = go(stage, Event::Reconnect)?;
        stage.let_go()?;
        let ended = stage.state()?;
        let released = go(stage, Event::Release)?;
        stage.restore(&ended)?;
        stage.control("clear-log")?;
        let again = go(stage, Event::Settle)?;
        stage.control("trace off")?;
        stage.control("clear-log")?;
        let life = Self {
            base,
            prepared,
            starting,
            running,
            reconnected,
            ended,
            released,
            again,
            effects,
            traces,
            known: Mutex::default(),
        };
        life.is_one()?;
        Ok(life)
    }

    /// What the judgements below rest on: a release leaves nothing but what is kept, and a domain has what it wants. Its
    /// nodes are labelled when it starts, and only then.
    fn is_one(&self) -> Told<()> {
        let same = |what: &str, one: &State, other: &State| match one
            .snapshot
            .differs_in_hardware(&other.snapshot)
        {
            Some(difference) => Err(format!("{what}:\n    {difference}")),
            None => Ok(()),
        };
        if let Some(difference) = self.running.snapshot.differs_in_devices(&self.prepared.snapshot) {
            return Err(format!("a start changes what prepare made:\n    {difference}"));
        }
        same("a reconnect changes what a domain has", &self.reconnected, &self.running)?;
        same("a domain that has ended has changed", &self.ended, &self.running)?;
        let put = |state: &State| state.snapshot.labels().filter(|line| labels::is_put(line)).count();
        let put = self.states().map(put);
        let [base, prepared, starting, running, .., released, again] = put;
        if [base, prepared, released, again] != [0; 4] || starting == 0 || running != starting {
            return Err(format!("labels at another time than while it runs: {put:?}"));
        }
        same("a prepare with leftovers makes something else", &self.again, &self.prepared)?;
        if self.prepared.snapshot.records.is_empty() {
            return Err("prepare has recorded nothing".to_owned());
        }
        Ok(())
    }

    /// The state that an event begins in.
    pub(crate) fn before(&self, event: Event) -> &State {
        match event {
            Event::Prepare => &self.base,
            Event::Start => &self.prepared,
            Event::Started => &self.starting,
            Event::Reconnect => &self.running,
            Event::Release | Event::Settle => &self.ended,
        }
    }

    /// What there is when all is over, after something went wrong in this event.
    pub(crate) fn end(&self, event: Event) -> &Snapshot {
        if event == Event::Prepare { &self.base.snapshot } else { &self.released.snapshot }
    }

    /// How such a recovery went.
    pub(crate) fn known(&self, found: &Found) -> Option<Told<()>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(found).cloned()
    }

    pub(crate) fn learn(&self, found: Found, verdict: Told<()>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(found, verdict);
    }

    /// All states, for whoever must take them up.
    pub(crate) fn states(&self) -> [&State; 8] {
        [
            &self.base,
            &self.prepared,
            &self.starting,
            &self.running,
            &self.reconnected,
            &self.ended,
            &self.released,
            &self.again,
        ]
    }
}
