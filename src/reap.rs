//! Who answers for a device, and what becomes of one that nobody answers for.
//!
//! A domain's own events never ask: there libvirt has said that it has gone. Everybody else may take a device away
//! only under its domain's lock, only if nobody has it open, and only if the daemon that was starting the domain is
//! dead, or its removal had begun, or the domain ran, and its QEMU has ended and let the device go. What is plugged into
//! a running domain is answered for by the command that does it, then by the domain for as long as it has it open.

use std::fmt;

use crate::backend;
use crate::execute::Means;
use crate::host::{Host, Trouble, daemon, holders};
use crate::ids::{DeviceId, DomainUuid};
use crate::record::{Answers, Entry, Phase, Record, Records, State};
use crate::seen::{Offer, Sight};
use crate::step::Step;
use crate::undo::{Back, Sweep, settle, unwind};
use crate::words::printable;

/// How a device of a record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Somebody answers for it.
    Answered(By),
    /// Nobody does.
    Abandoned(Because),
}

/// Who answers for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The living daemon with this pid, which is starting the domain.
    Daemon(i32),
    /// A process that has it open.
    Holder,
    /// The domain, which runs, whether it has the device open or not.
    Domain,
    /// The domain's `keep`.
    Keep,
    /// The living `virt-mdev attach` with this pid.
    Command(i32),
    /// Whoever had it made to attach it by hand, for so many seconds more.
    Hand(u64),
}

/// Why nobody answers for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// The hook died while it prepared: it holds the domain's lock for as long as it lives.
    Interrupted,
    /// A release has begun and did not get through.
    Released,
    /// The daemon that was starting the domain has ended.
    DaemonGone,
    /// The domain ran, has ended and has let it go; or it had it plugged in, and has it no more.
    LetGo,
    /// The command that was giving it to the domain has ended.
    CommandGone,
    /// It was made to be attached by hand, and nobody has.
    NotAttached,
    /// It was kept and has gone by itself: what comes back under its name is somebody else's.
    Gone,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(pid) => write!(f, "the libvirt daemon (pid {pid}) is starting the domain"),
            Self::Holder => f.write_str("it is in use"),
            Self::Domain => f.write_str("the domain runs"),
            Self::Keep => f.write_str("the domain keeps it for its next start"),
            Self::Command(pid) => write!(f, "virt-mdev attach (pid {pid}) is giving it to the domain"),
            Self::Hand(left) => {
                write!(f, "it was made to be attached by hand, and stays for {left} s if it is not")
            }
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupted => "the start of the domain was interrupted",
            Self::Released => "the domain has gone",
            Self::DaemonGone => "the libvirt daemon that was starting the domain has ended",
            Self::LetGo => "the domain has let it go",
            Self::CommandGone => "the command that was giving it to the domain has ended",
            Self::NotAttached => "it was made to be attached by hand, and nobody has done it in time",
            Self::Gone => "it was kept, and is not there any more",
        })
    }
}

/// How each device of a record stands, in the record's order. `locked`: the caller has the domain's lock. Who has not, and
/// only looks, gives a host that opens no node ([`Host::looking`]).
pub fn judge(host: &Host, record: &Record, locked: bool) -> Vec<(DeviceId, Standing)> {
    let mut judged: Vec<(DeviceId, Standing)> = Vec::new();
    for device in record.steps.iter().map(|entry| entry.step.device()) {
        let its = || record.steps.iter().filter(|entry| entry.step.device() == device);
        // What is kept may have steps beside it that are yet to be undone.
        let decides = its().find(|entry| entry.state != State::Kept).or(its().next());
        if let Some(entry) = decides.filter(|_| judged.iter().all(|(known, _)| known != device)) {
            judged.push((device.clone(), standing(host, record, entry, locked)));
        }
    }
    judged
}

fn standing(host: &Host, record: &Record, entry: &Entry, locked: bool) -> Standing {
    let because = match unanswered(host, record, entry, locked) {
        Ok(because) => because,
        Err(by) => return Standing::Answered(by),
    };
    // Claimed by another domain since, or about to be, it is not this one's to look at: that one's QEMU may be about to
    // open it. Without a claim only what was made here is.
    let (records, device, domain) = (Records::new(host), entry.step.device(), &record.domain.uuid);
    let is_open_to_all = !entry.state.outlives_the_claim() && !records.is_of(device, domain);
    if is_open_to_all || records.is_anothers(device, domain) {
        return Standing::Abandoned(because);
    }
    // A device that may be in use is one that is.
    match holders::is_held(host, entry.step.device()) {
        Ok(false) if holders::sees_all(host) => Standing::Abandoned(because),
        Ok(_) | Err(_) => Standing::Answered(By::Holder),
    }
}

/// Why nobody answers for the device, or who does; whether somebody has it open is not looked at.
fn unanswered(host: &Host, record: &Record, entry: &Entry, locked: bool) -> Result<Because, By> {
    if entry.state == State::Kept {
        return if is_there(host, entry) { Err(By::Keep) } else { Ok(Because::Gone) };
    }
    // Milliseconds since boot, as records count them.
    let now = u64::try_from(host.now().as_millis()).unwrap_or(u64::MAX);
    Ok(match (record.phase, entry.answers) {
        (Phase::Preparing, _) if locked => Because::Interrupted,
        (Phase::Releasing, _) => Because::Released,
        // Of an earlier run: the domain that is being started, or runs, has nothing to do with it.
        _ if entry.state == State::Undoing => Because::Released,
        (_, Some(Answers::Starting(daemon))) if daemon::is_alive(host, daemon) => {
            // Nobody looks at the node of a domain that is being started: its QEMU would find it taken.
            return Err(By::Daemon(daemon.pid));
        }
        (_, Some(Answers::Starting(_)) | None) => Because::DaemonGone,
        // It may have a device that it opens later, or never.
        (_, Some(Answers::Running)) if holders::runs(host, &record.domain.name) => {
            return Err(By::Domain);
        }
        (_, Some(Answers::Attach(command))) if daemon::is_alive(host, command) => {
            return Err(By::Command(command.pid));
        }
        (_, Some(Answers::ByHand { until })) if now < until => {
            return Err(By::Hand((until - now).div_ceil(1000)));
        }
        (_, Some(Answers::Attach(_))) => Because::CommandGone,
        (_, Some(Answers::ByHand { .. })) => Because::NotAttached,
        (_, Some(Answers::Running | Answers::Plugged)) => Because::LetGo,
    })
}

/// Whether what a step is about is there; of what is about no place that cannot be told.
fn is_there(host: &Host, entry: &Entry) -> bool {
    let device = entry.step.device();
    entry.step.place().is_none_or(|place| backend::is_there(host, device, place))
}

/// The devices of a record that nobody answers for, as seen under the domain's lock.
pub(crate) fn abandoned(host: &Host, record: Option<&Record>) -> Vec<DeviceId> {
    let judged = record.map(|record| judge(host, record, true)).unwrap_or_default();
    let abandoned = |(device, standing)| matches!(standing, Standing::Abandoned(_)).then_some(device);
    judged.into_iter().filter_map(abandoned).collect()
}

/// Whether it is worth taking the domain's lock to find out. Without it nobody looks at a node: the record may be an old
/// one by now, and a QEMU that is about to open the node would find it taken.
fn may_be_abandoned(host: &Host, record: &Record) -> bool {
    record.steps.iter().any(|entry| unanswered(host, record, entry, true).is_ok())
}

/// Whether a domain that runs has let go of a device which somebody else made: `virsh detach-device` calls no hook. Not asked
/// but for another domain that is given the device: it may be one that its domain opens later. No node is opened for it.
fn has_let_go(host: &Host, record: &Record, device: &DeviceId) -> bool {
    let host = &host.looking();
    let its = |entry: &&Entry| {
        entry.step.device() == device
            && entry.state == State::Done
            && entry.answers == Some(Answers::Running)
            && matches!(entry.step, Step::Use { .. })
            && is_there(host, entry)
    };
    record.phase == Phase::Running
        && record.steps.iter().any(|entry| its(&entry))
        && holders::sees_all(host)
        && matches!(holders::is_held(host, device), Ok(false))
}

/// Lets another domain have such a device: says whether it may. What was so a moment ago is looked at once more, under the lock.
fn hand_over(means: Means<'_>, domain: &DomainUuid, device: &DeviceId) -> Result<bool, Trouble> {
    let mut guard = means.records.lock(domain, means.waits.lock)?;
    let Some(record) = guard.record().filter(|record| has_let_go(means.host, record, device)) else {
        return Ok(false);
    };
    log::warn!(
        VIRT_MDEV_UUID:% = device;
        "{}, which runs, has let go of {device}: another domain is given it", printable(&record.domain.name)
    );
    unwind(means, &mut guard, Back::Release, &|its| its == device, None).report();
    Ok(guard.is_unclaimed(device))
}

/// For a domain that found no place in what it saw, or its device taken: takes away what other domains left on those
/// cards, or this device. Says whether it is worth another look.
pub fn make_room(
    means: Means<'_>,
    except: &DomainUuid,
    device: Option<&DeviceId>,
    sights: &[Sight],
) -> Result<bool, Trouble> {
    let (host, records) = (means.host, means.records);
    let deadline = host.now() + means.waits.release;
    let offers = || sights.iter().flat_map(|sight| &sight.offers);
    let full = sights.iter().filter_map(|sight| sight.full_card.clone());
    let cards: Vec<String> = offers().map(|offer| offer.card.clone()).chain(full).collect();
    let mut some = false;
    for other in records.domains()?.iter().filter(|other| *other != except) {
        let record = match records.read(other) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            // Damaged, it is set aside under its lock, and its claims are nobody's then.
            Err(_) => {
                let guard = records.lock(other, means.waits.lock);
                some |= guard.is_ok_and(|guard| guard.record().is_none());
                continue;
            }
        };
        let on_card = |place| cards.contains(&backend::card(host, place));
        let in_the_way = record.devices().any(|(its, place, ..)| Some(its) == device || on_card(place));
        let patience = deadline.saturating_sub(host.now());
        if let Some(device) = device.filter(|device| has_let_go(host, &record, device)) {
            match hand_over(means, other, device) {
                Ok(may) => some |= may,
                Err(trouble) => log::warn!("{trouble}"),
            }
            continue;
        }
        if !in_the_way || patience.is_zero() || !may_be_abandoned(host, &record) {
            continue;
        }
        let sweep = Sweep { abandoned: true, ..Sweep::of_domain(patience) };
        match settle(means, other, sweep) {
            Ok((guard, undone)) => {
                for step in &undone.done {
                    log::warn!("{step}: nobody answers any more for {}", printable(&record.domain.name));
                }
                undone.report();
                // Its own release may have been faster: room all the same.
                some |= guard.steps().len() < record.steps.len();
            }
            // One that is at work just now is none of those.
            Err(trouble) => log::warn!("{trouble}"),
        }
    }
    // What was in the way may have gone, by a reconcile or its own release, before its record was looked at here. A
    // function that lists no such type says nothing of its card's room: it is read once more.
    let unlisted = sights.iter().any(|sight| sight.full_card.is_some());
    let has_room = |offer: &Offer| {
        let free = backend::free(host, &offer.place).ok().flatten();
        offer.free == Some(0) && free.is_some_and(|free| free > 0)
    };
    let is_let_go = |device| matches!(records.owner(device), Ok(None));
    Ok(some || unlisted || offers().any(has_room) || device.is_some_and(is_let_go))
}
