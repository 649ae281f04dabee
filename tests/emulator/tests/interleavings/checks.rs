//! What must hold: whenever a device is taken away, in every state, and after everything has ended.

use std::hash::{DefaultHasher, Hash, Hasher};

use virt_mdev::step::Step;

use super::programs::{called, reconciled};
use super::{
    Call, DEVICES, DOMAINS, Daemon, FREE, Maker, PIDS, RECONCILE, Reconcile, Stage, State, System, UUIDS,
    Violation, close,
};
use crate::memory::{Broken, OneStep, Op, Sim, Who, alone};

impl System<'_> {
    /// Whether a process may take a device away now.
    pub(super) fn may(&mut self, state: &mut State, who: Who, op: &Op) -> Result<(), Violation> {
        let Op::Perform(OneStep(Step::Destroy { device, .. })) = op else { return Ok(()) };
        let uuid = device.to_string();
        let domains = usize::from(who);
        for (number, domain) in state.domains.iter().enumerate() {
            if !self.shape.wanted[number].contains(&uuid.as_str())
                || state.made.get(&uuid) != Some(&Maker::Domain(number))
            {
                continue;
            }
            if !domain.open.is_empty() && !domain.doomed {
                return Err(format!("{uuid} is taken away from vm{}, whose QEMU has it open", number + 1));
            }
            if number != domains && self.starting(state, number) {
                return Err(format!(
                    "{uuid} is taken away from vm{}, which a living daemon starts",
                    number + 1
                ));
            }
        }
        if state.made.get(&uuid) == Some(&Maker::Hand) {
            if !state.undecided.contains(&uuid) {
                return Err(format!("{uuid}, which somebody made by hand, is taken away"));
            }
            // The record of a prepare that was killed between its claim and its create, and the device that somebody
            // made since, look exactly as if that prepare had made it.
            self.undecidable += 1;
            state.made.remove(&uuid);
        }
        Ok(())
    }

    /// Whether a living daemon is starting the domain.
    fn starting(&self, state: &State, number: usize) -> bool {
        match state.domains[number].stage {
            Stage::Hook(Call::Prepare | Call::Start | Call::Started, _, daemon) => daemon == state.daemon,
            Stage::Due(Call::Start | Call::Started) => true,
            Stage::Forked => !state.domains[number].doomed,
            _ => false,
        }
    }

    /// A prepare is killed while it was intending to make a device.
    pub(super) fn doubt(&self, state: &mut State, who: Who) {
        let Some(uuid) = UUIDS.get(usize::from(who)) else { return };
        for device in self.shape.wanted[usize::from(who)] {
            let claimed = state.sim.link(&format!("/run/virt-mdev/devices/{device}")) == *uuid;
            if claimed && state.made.get(*device) != Some(&Maker::Domain(usize::from(who))) {
                state.undecided.push((*device).to_owned());
            }
        }
    }

    /// What must hold in every state.
    pub(crate) fn check(&self, state: &mut State) -> Result<(), Violation> {
        let there: Vec<String> =
            state.sim.names(DEVICES).into_iter().filter(|name| name.len() == 36).collect();
        for uuid in &there {
            // One that was taken for ours may still be there: its removal waits for whoever has opened it since.
            if !state.made.contains_key(uuid) && !state.undecided.contains(uuid) {
                return Err(format!("{uuid} is there and nobody made it"));
            }
        }
        let State { made, undecided, .. } = state;
        made.retain(|uuid, maker| *maker != Maker::Hand || there.contains(uuid) || !undecided.contains(uuid));
        for (uuid, maker) in &state.made {
            if *maker == Maker::Hand && !there.contains(uuid) {
                return Err(format!("{uuid}, which somebody made by hand, is gone"));
            }
        }
        let free: usize = state.sim.attribute(FREE).and_then(|free| free.parse().ok()).unwrap_or(usize::MAX);
        if free != 2 - there.len() {
            return Err(format!("{free} instances are left beside {there:?}"));
        }
        for (number, domain) in state.domains.iter().enumerate() {
            if domain.open.is_empty() || domain.doomed {
                continue;
            }
            for uuid in self.shape.wanted[number] {
                if state.sim.link(&format!("/sys/bus/mdev/devices/{uuid}")).is_empty() {
                    return Err(format!("{uuid} is gone and vm{} has it open", number + 1));
                }
            }
        }
        let both = state.domains.iter().all(|domain| domain.has);
        let shared = |uuid: &&&str| self.shape.wanted[1].contains(*uuid);
        if let (true, Some(uuid)) = (both, self.shape.wanted[0].iter().find(shared)) {
            return Err(format!("both domains have {uuid}"));
        }
        let ours: Vec<(String, usize)> = state
            .made
            .iter()
            .filter_map(|(uuid, maker)| match maker {
                Maker::Domain(number) => Some((uuid.clone(), *number)),
                Maker::Hand => None,
            })
            .collect();
        if ours.is_empty() {
            return Ok(());
        }
        for (uuid, number) in &ours {
            let claim = state.sim.link(&format!("/run/virt-mdev/devices/{uuid}"));
            if claim != UUIDS[*number] {
                return Err(format!("{uuid} is of vm{}, and its claim says {claim:?}", number + 1));
            }
        }
        for (uuid, number) in &ours {
            let record = state.sim.text(&format!("/run/virt-mdev/domains/{}.json", UUIDS[*number]));
            // A device that we made is in its record as one to be made: parsing each of them would take half the time.
            if !record.contains(&format!("\"do\":\"create\",\"device\":\"{uuid}\"")) {
                return Err(format!(
                    "{uuid} is of vm{}, and its record does not name it: {record}",
                    number + 1
                ));
            }
        }
        Ok(())
    }

    /// Whether everything has ended.
    pub(crate) fn is_over(&self, state: &State) -> bool {
        state.domains.iter().all(|domain| {
            domain.stage == Stage::Gone || (domain.stage == Stage::Off && state.daemon != Daemon::First)
        }) && state.reconcile == Reconcile::Done
    }

    /// Whether neither domain could be started, though one of them fits.
    pub(crate) fn none_started(&self, state: &State) -> bool {
        state.domains.iter().all(|domain| domain.refused)
    }

    /// What tells this end from others for [`System::recover`].
    pub(crate) fn end(&self, state: &State) -> u64 {
        let mut hasher = DefaultHasher::new();
        (state.sim.describe(), &state.made).hash(&mut hasher);
        hasher.finish()
    }

    /// From any end, in two ways: reconcile, or the next start of each domain, brings the host to where it was.
    pub(crate) fn recover(&self, state: &State) -> Result<(), Violation> {
        for reconcile_first in [true, false] {
            let mut state = state.clone();
            state.sim.broken = Broken::Nothing;
            state.sim.daemons = vec![PIDS[1]];
            let how = if reconcile_first { "after a reconcile" } else { "by the domains' next starts" };
            let told = |why: String| format!("{how}: {why}");
            if reconcile_first {
                alone(&mut state.sim, RECONCILE, reconciled)
                    .map_err(|why| told(format!("it failed: {why}")))?;
                self.clean(&mut state).map_err(told)?;
            }
            for number in DOMAINS {
                self.live(&mut state, number).map_err(|why| told(format!("vm{}: {why}", number + 1)))?;
            }
            self.clean(&mut state).map_err(told)?;
        }
        Ok(())
    }

    /// A whole life, with nobody else there.
    fn live(&self, state: &mut State, number: usize) -> Result<(), Violation> {
        let wanted = self.shape.wanted[number];
        let call = |sim: &mut Sim, call| {
            alone(sim, Who::try_from(number).unwrap(), |host| called(host, call, number, wanted, PIDS[1]))
                .map(drop)
                .map_err(|why| format!("{call:?}: {why}"))
        };
        call(&mut state.sim, Call::Prepare)?;
        call(&mut state.sim, Call::Start)?;
        state.domains[number].doomed = false;
        self.open(state, number)?;
        call(&mut state.sim, Call::Started)?;
        close(state, number);
        call(&mut state.sim, Call::Release)
    }

    fn clean(&self, state: &mut State) -> Result<(), Violation> {
        for directory in ["domains", "devices", "by-name"] {
            let names = state.sim.names(&format!("/run/virt-mdev/{directory}"));
            if !names.is_empty() {
                return Err(format!("{names:?} are left in {directory}/"));
            }
        }
        let left: Vec<String> = state
            .sim
            .names(DEVICES)
            .into_iter()
            .filter(|name| name.len() == 36 && state.made.get(name) != Some(&Maker::Hand))
            .collect();
        if !left.is_empty() {
            return Err(format!("{left:?} are left"));
        }
        state.made.retain(|_, maker| *maker == Maker::Hand);
        self.check(state)
    }
}

pub(super) fn exists(sim: &Sim, uuid: &str) -> bool {
    sim.names(DEVICES).iter().any(|name| name == uuid)
}
