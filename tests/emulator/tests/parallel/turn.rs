//! One domain's turn: what may happen to it next, doing it, and judging what the programs made of it.

use std::time::Duration;

use virt_mdev_emulator::client::Emulated;

use crate::Wrong;
use crate::calls::{Daemon, Said, hold, hook, let_go};
use crate::domains::{Dice, Wanted};
use crate::eyes::{Eyes, Sight};
use crate::oracle::{Domain, Is, Oracle};

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// `kill`: of the hook, that long after it began.
    Prepare {
        daemon: Daemon,
        kill: Option<Duration>,
    },
    /// QEMU is started and opens the devices; `started` follows or not.
    Start {
        started: bool,
    },
    /// QEMU was started, and the daemon died before it could say so.
    Open,
    Started,
    /// The daemon is there again and finds the domain running.
    Reconnect,
    /// QEMU ends, and libvirt has not noticed yet.
    LetGo,
    /// QEMU ends, and libvirt says so.
    Stop {
        kill: Option<Duration>,
    },
    /// Without waiting for QEMU, if there is one.
    Release {
        kill: Option<Duration>,
    },
}

/// A domain's turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// Which domain.
    pub(crate) at: usize,
    pub(crate) what: What,
}

/// What a judgement rests on.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) before: &'a Sight,
    pub(crate) after: &'a Sight,
    /// A fault has killed a process.
    pub(crate) struck: bool,
    /// Domains whose turn it was at the same time.
    pub(crate) others: &'a [usize],
    /// A reconcile ran at the same time: what it was just taking away may have been in the way, and seen in use.
    pub(crate) reconciles: bool,
}

fn moment(dice: &mut Dice) -> Duration {
    Duration::from_micros(dice.below(12_000) as u64)
}

impl What {
    /// The next thing, or another that may happen to it now.
    pub(crate) fn roll(dice: &mut Dice, domain: &Domain) -> Self {
        let kill = dice.percent(15).then(|| moment(dice));
        let prepare = |dice: &mut Dice| match dice.below(100) {
            0..60 => Self::Prepare { daemon: Daemon::Lives, kill },
            60..85 => Self::Prepare { daemon: Daemon::Ends, kill: None },
            _ => Self::Prepare { daemon: Daemon::KilledAfter(moment(dice)), kill: None },
        };
        let held = !domain.holders.is_empty();
        match (domain.is, dice.below(100)) {
            (Is::Off, 0..94) | (Is::Ended | Is::Dead | Is::Unsure { .. }, 0..30) => prepare(dice),
            (Is::Stuck, 0..25) => prepare(dice),
            (Is::Stuck, 25..80) if held => Self::LetGo,
            (Is::Ready, 0..85) => Self::Start { started: dice.percent(75) },
            (Is::Ready, 85..90) => prepare(dice),
            (Is::Dead, 30..60) => Self::Open,
            (Is::Held, 0..50) => Self::Started,
            (Is::Held, 50..60) => Self::Reconnect,
            (Is::Running, 0..10) => Self::Reconnect,
            (Is::Running, 10..18) => Self::Release { kill: None },
            (Is::Running, 18..40) => Self::LetGo,
            (Is::Held | Is::Running, _) => Self::Stop { kill },
            _ => Self::Release { kill },
        }
    }
}

/// Does it. The domain's state changes only by what QEMU does; the rest is for [`judge`]. The answer is the
/// last call of a program, and the first that was not done without a word.
pub(crate) fn act(host: &Emulated, eyes: &Eyes, domain: &mut Domain, what: What) -> Result<Said, Wrong> {
    let call = |domain: &Domain, operation: &str, daemon: Daemon, kill: Option<Duration>| {
        hook(host, &domain.name, operation, &domain.xml, daemon, kill)
    };
    match what {
        What::Prepare { daemon, kill } => call(domain, "prepare", daemon, kill),
        What::Start { started } => {
            let said = call(domain, "start", Daemon::Lives, None)?;
            if !said.is_well() {
                return Ok(said);
            }
            open(host, eyes, domain)?;
            if started { call(domain, "started", Daemon::Lives, None) } else { Ok(said) }
        }
        What::Open => {
            open(host, eyes, domain)?;
            call(domain, "stopped", Daemon::Lives, None)
        }
        What::Started => call(domain, "started", Daemon::Lives, None),
        What::Reconnect => call(domain, "reconnect", Daemon::Lives, None),
        What::LetGo => {
            let_go(&mut domain.holders);
            call(domain, "stopped", Daemon::Lives, None)
        }
        What::Stop { kill } => {
            let_go(&mut domain.holders);
            let said = call(domain, "stopped", Daemon::Lives, None)?;
            if said.is_well() { call(domain, "release", Daemon::Lives, kill) } else { Ok(said) }
        }
        What::Release { kill } => call(domain, "release", Daemon::Lives, kill),
    }
}

/// QEMU opens all devices of its domain.
fn open(host: &Emulated, eyes: &Eyes, domain: &mut Domain) -> Result<(), Wrong> {
    for Wanted { id, .. } in &domain.wanted {
        let bus = if id.contains('.') { "pci" } else { "mdev" };
        let group = eyes.link_name(&format!("sys/bus/{bus}/devices/{id}/iommu_group"));
        let group =
            group.ok_or_else(|| format!("{} has no group for its QEMU to open: {id}", domain.name))?;
        match hold(host, &group)? {
            Some(holder) => domain.holders.push(holder),
            None => {
                return Err(format!("QEMU of {} cannot open {id}: somebody else has it open", domain.name));
            }
        }
    }
    Ok(())
}

/// What became of the domain, and what should not have.
pub(crate) fn judge(oracle: &mut Oracle, turn: &Turn, said: &Said, context: &Context<'_>) -> Vec<Wrong> {
    let domain = &oracle.domains[turn.at];
    let (name, was, held) = (domain.name.clone(), domain.is, !domain.holders.is_empty());
    let mut wrong = Vec::new();
    if said.is_too_slow() {
        wrong.push(format!("{name}: {:?} took too long: {said}", turn.what));
    }
    // Whoever was killed beside it.
    if said.is_a_defect() {
        wrong.push(format!("{name}: {:?} is a defect: {said}", turn.what));
    }
    let well = said.is_well();
    // Not whoever was at it beside the one that a fault has hit.
    let killed = said.killed() || (context.struck && said.was_hit());
    let clean = domain.is_clean(context.after);
    let unsure = |reap: bool| if clean { Is::Off } else { Is::Unsure { reap } };
    let mut answered = domain.answered;
    let is = match turn.what {
        What::Prepare { daemon, .. } => {
            let lives = daemon == Daemon::Lives;
            match said.code {
                _ if matches!(daemon, Daemon::KilledAfter(_)) && said.killed() => {
                    answered = false;
                    // What its QEMU has open stays, whatever happened to the hook.
                    if held { was } else { unsure(true) }
                }
                Some(0) if well => {
                    answered = lives;
                    if lives { Is::Ready } else { Is::Dead }
                }
                _ if killed && held => was,
                _ if killed => {
                    answered = lives;
                    unsure(!lives)
                }
                _ => {
                    if let Err(why) = refusal(oracle, turn, said, context) {
                        wrong.push(format!("{name}: {why}: {said}"));
                    }
                    if held { was } else { Is::Off }
                }
            }
        }
        What::Release { .. } | What::Stop { .. } => {
            // What runs and has ended, and what was released before, is nobody's any more.
            let reap = matches!(was, Is::Running | Is::Ended | Is::Stuck | Is::Dead) || !answered;
            let reap = reap && was != (Is::Unsure { reap: false });
            match (killed || (context.struck && well), held) {
                (_, true) if well => Is::Stuck,
                // What somebody else made is let go of whoever has it open.
                (true, true) if oracle.uses_foreign(domain) => Is::Stuck,
                (true, true) => was,
                (true, false) => unsure(reap),
                (false, _) if well => Is::Off,
                (false, _) => {
                    wrong.push(format!("{name}: {:?}: {said}", turn.what));
                    was
                }
            }
        }
        _ if !well && !killed => {
            wrong.push(format!("{name}: {:?}: {said}", turn.what));
            was
        }
        What::Start { .. } | What::Started | What::Reconnect | What::Open | What::LetGo => {
            let running =
                well && matches!(turn.what, What::Start { started: true } | What::Started | What::Reconnect);
            match turn.what {
                What::LetGo if was == Is::Running => Is::Ended,
                What::LetGo => was,
                _ if running => Is::Running,
                _ if held => Is::Held,
                _ => was,
            }
        }
    };
    let domain = &mut oracle.domains[turn.at];
    (domain.is, domain.answered) = (is, answered);
    wrong
}

/// Whether a start may be refused with these words.
fn refusal(oracle: &Oracle, turn: &Turn, said: &Said, context: &Context<'_>) -> Result<(), &'static str> {
    let domain = &oracle.domains[turn.at];
    let Some(text) = said.stderr.strip_prefix(&format!("error: {}: ", domain.name)) else {
        return Err("refused without a sentence");
    };
    if said.code != Some(1) {
        return Err("a refusal exits with 1");
    }
    let meets = |at: &usize, same: fn(&Wanted, &Wanted) -> bool| {
        let other = &oracle.domains[*at];
        other.wanted.iter().any(|theirs| domain.wanted.iter().any(|own| same(own, theirs)))
    };
    // What nobody answers for is no reason: it is reaped first.
    let reaped = |other: &&Domain| other.must_be_reaped() && other.uuid != domain.uuid;
    let same_id = |at: &usize| meets(at, |own, theirs| own.id == theirs.id);
    let disputed = context.reconciles || context.others.iter().any(same_id);
    if text.starts_with("no room for ") {
        let reapable = oracle.domains.iter().filter(reaped).flat_map(|other| &other.wanted);
        let without: Vec<&str> = reapable
            .map(|wanted| wanted.id.as_str())
            .filter(|id| !oracle.foreign.contains_key(*id) && !domain.wanted.iter().any(|own| own.id == *id))
            .collect();
        let busy = context.others.iter().any(|at| meets(at, |own, theirs| own.pool == theirs.pool));
        let room = oracle.has_room(context.before, domain, &without);
        return if busy || context.reconciles || !room { Ok(()) } else { Err("there was room") };
    }
    if text.contains("belongs to domain ") {
        let claimed = domain.wanted.iter().filter_map(|wanted| context.before.claims.get(&wanted.id));
        let mut others = claimed.filter(|uuid| **uuid != domain.uuid);
        let answers =
            |uuid: &String| oracle.domains.iter().any(|other| other.uuid == *uuid && !reaped(&other));
        return if disputed || others.any(answers) { Ok(()) } else { Err("nobody else has it") };
    }
    // Two that look at one node at once see each other.
    if text.contains(" is in use by ") {
        // Its own QEMU, or that of one that was released while it had a device that somebody else made.
        let holds = |other: &Domain| {
            let same = |theirs: &Wanted| domain.wanted.iter().any(|own| own.id == theirs.id);
            !other.holders.is_empty() && other.wanted.iter().any(same)
        };
        return if disputed || oracle.domains.iter().any(holds) { Ok(()) } else { Err("nobody has it open") };
    }
    if text.contains("exists already") {
        let other = |own: &Wanted| oracle.foreign.get(&own.id).is_some_and(|(made, _)| made.kind != own.kind);
        return if disputed || domain.wanted.iter().any(other) { Ok(()) } else { Err("nobody has made it") };
    }
    Err("refused for something else")
}
