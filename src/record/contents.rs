//! What a record says: a domain, how far it has come, and the steps that were intended and done for it.

use serde::{Deserialize, Serialize};

use crate::host::daemon::Process;
use crate::ids::{DeviceId, DomainUuid};
use crate::step::{Place, Step};

/// How far the domain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Prepare has not ended: what there is is undone whole.
    Preparing,
    /// Prepare has ended.
    Prepared,
    /// libvirt is about to fork QEMU.
    Starting,
    /// The domain runs.
    Running,
    /// A release has begun and has not ended.
    Releasing,
    /// The domain is gone; only devices with `keep` are left.
    Kept,
}

/// How far a step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Written down, and perhaps done: whoever finds this looks at the host.
    Intended,
    /// Done.
    Done,
    /// Being undone, and perhaps undone; or what could not be undone.
    Undoing,
    /// A device of an earlier run that `keep` has left.
    Kept,
}

impl State {
    /// Whether a device that we made is ours although nobody has claimed it. Before it was made, and while it goes, it is
    /// not: a hook that died had not made its claim yet, or had let it go, and somebody else may have the device since.
    pub fn outlives_the_claim(self) -> bool {
        matches!(self, Self::Done | Self::Kept)
    }
}

/// Who answers for a device: while that one lives, nobody else may take it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "who", rename_all = "lowercase")]
pub enum Answers {
    /// The daemon that starts the domain, from prepare until started.
    Starting(Process),
    /// The domain itself, for as long as it runs.
    Running,
    /// The command that gives the device to a running domain, until the domain has it.
    Attach(Process),
    /// A person, who gives it to the domain by hand until then: milliseconds since boot.
    #[serde(rename = "by hand")]
    ByHand {
        /// When nobody has it open then, it goes.
        until: u64,
    },
    /// Whoever has it open: it was plugged into a running domain, or the domain has been asked to give it back.
    Plugged,
}

impl Answers {
    /// Whether it is the start of the domain that answers, or its running: a device that was plugged in has its own.
    pub fn follows_the_domain(self) -> bool {
        matches!(self, Self::Starting(_) | Self::Running)
    }
}

/// A step of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What.
    pub step: Step,
    /// How far.
    pub state: State,
    /// Who answers for the device; `None` where the one who would have had died already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
    /// Why it could not be undone when that was last tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The process of ours whose write for that had not returned. While it lives, a second one would only wait with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Process>,
}

impl Entry {
    /// A step as it is first written down.
    pub fn intended(step: Step, answers: Option<Answers>) -> Self {
        Self { step, state: State::Intended, answers, why: None, writer: None }
    }
}

/// A domain as the record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// UUID.
    pub uuid: DomainUuid,
    /// Name at the last prepare.
    pub name: String,
}

/// What was intended and done for a domain, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`super::VERSION`].
    pub version: u32,
    /// The domain.
    pub domain: Named,
    /// How far it has come.
    pub phase: Phase,
    /// The steps.
    pub steps: Vec<Entry>,
}

impl Record {
    /// The devices of this domain: each once, with where it is, whether we made it, and how far that has come.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &Place, bool, State)> {
        self.steps.iter().filter_map(|entry| match &entry.step {
            Step::Create { device, place, .. } | Step::Adopt { device, place, .. } => {
                Some((device, place, true, entry.state))
            }
            Step::Use { device, place } => Some((device, place, false, entry.state)),
            _ => None,
        })
    }

    /// Whether a device is still there although it was to go.
    pub fn is_orphan(&self, device: &DeviceId) -> bool {
        let undoing = |entry: &Entry| entry.state == State::Undoing && entry.step.device() == device;
        self.phase == Phase::Releasing || self.steps.iter().any(undoing)
    }

    /// Why it could not be taken away when that was last tried.
    pub fn why(&self, device: &DeviceId) -> Option<&str> {
        self.steps.iter().filter(|entry| entry.step.device() == device).find_map(|entry| entry.why.as_deref())
    }
}
