//! One moment of the system, and what may happen next.

use std::collections::BTreeMap;
use std::hash::Hash;

use virt_mdev_emulator::tree::Ino;

use super::RECONCILE;
use crate::memory::{Sim, Who, Wide};
use crate::process::At;

/// What is wanted, and what else there is.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// The devices of the two domains.
    pub(crate) wanted: [&'static [&'static str]; 2],
    /// A device that somebody makes by hand at some time.
    pub(crate) hand: Option<&'static str>,
    /// Whether each start must succeed if nothing dies.
    pub(crate) both_fit: bool,
    /// How many deaths there may be in one run: one of a process, one of the daemon.
    pub(crate) deaths: u8,
    /// Whether looks at claims and devices are steps of their own: ten times as many states.
    pub(crate) fine: bool,
}

/// A call of libvirt's hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    Prepare,
    Start,
    Started,
    Reconnect,
    Release,
}

/// How far libvirt has come with a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Not started yet.
    Off,
    /// libvirt is about to call the hook.
    Due(Call),
    /// The hook runs, called by this daemon.
    Hook(Call, At, Daemon),
    /// QEMU has been started and has not opened its devices.
    Forked,
    /// It runs.
    Runs,
    /// It has gone, or its daemon has died and nobody knows of it any more.
    Gone,
}

/// libvirt's daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Daemon {
    First,
    Second,
}

#[derive(Debug, Clone)]
pub(crate) struct Domain {
    pub(crate) stage: Stage,
    /// What its QEMU has open.
    pub(crate) open: Vec<(Ino, u64)>,
    /// Its QEMU was being started when the daemon died: the next one kills it.
    pub(crate) doomed: bool,
    /// The next daemon will know of it: its status file has been written.
    pub(crate) known: bool,
    /// Its prepare has succeeded, and it has not been released since.
    pub(crate) has: bool,
    /// Its prepare has failed.
    pub(crate) refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reconcile {
    Off,
    /// In which part of its way, and where in it.
    Runs(usize, At),
    /// Between two parts.
    Before(usize),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Maker {
    Domain(usize),
    Hand,
}

/// The whole system at one moment.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) sim: Sim,
    pub(crate) domains: [Domain; 2],
    pub(crate) reconcile: Reconcile,
    pub(crate) daemon: Daemon,
    pub(crate) deaths: u8,
    pub(crate) crashed: bool,
    pub(crate) hand: bool,
    pub(crate) made: BTreeMap<String, Maker>,
    /// Devices whose claim a dead prepare has left: it is not known whether it made them.
    pub(crate) undecided: Vec<String>,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// libvirt calls its hook.
    Call(usize),
    /// A process goes on.
    Step(Who, At),
    /// A process is killed.
    Crash(Who, At),
    /// QEMU opens its devices.
    Open(usize),
    /// QEMU ends.
    End(usize),
    /// The daemon is killed and started again. How long that takes does not matter: whatever the new one does may be as
    /// late as it likes.
    Kill,
    /// `virt-mdev reconcile` is started.
    Reconcile,
    /// Somebody makes a device by hand.
    Hand,
}

impl State {
    /// The processes of virt-mdev, and where they are.
    pub(crate) fn running(&self) -> Vec<(Who, At)> {
        let mut running = Vec::new();
        for (who, domain) in (0..).zip(&self.domains) {
            if let Stage::Hook(_, at, _) = domain.stage {
                running.push((who, at));
            }
        }
        if let Reconcile::Runs(_, at) = self.reconcile {
            running.push((RECONCILE, at));
        }
        running
    }

    /// A number for what makes this state another than others: nothing of times, inodes or the way here.
    pub(crate) fn key(&self) -> u128 {
        let mut hasher = Wide::default();
        self.sim.digest(&mut hasher);
        for Domain { stage, open, doomed, known, has, refused } in &self.domains {
            (stage, open.len(), doomed, known, has, refused).hash(&mut hasher);
        }
        (self.reconcile, self.daemon, self.deaths, self.crashed, self.hand).hash(&mut hasher);
        (&self.made, &self.undecided).hash(&mut hasher);
        hasher.sum()
    }

    /// For the words of a violation.
    pub(crate) fn show(&self) -> String {
        self.sim.describe()
    }
}
