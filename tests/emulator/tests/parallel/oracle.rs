//! What must be there: the test's own idea of each domain, held against what the host shows.

use std::collections::BTreeMap;
use std::process::Child;

use crate::Wrong;
use crate::domains::Wanted;
use crate::eyes::{Device, Sight};

/// What of a domain there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    /// Nothing, or what it keeps.
    Off,
    /// Prepared by a daemon that lives: nobody may touch it.
    Ready,
    /// QEMU has its devices, and the daemon has not said `started`.
    Held,
    /// It runs.
    Running,
    /// It ran, QEMU has ended, and libvirt has not called release yet.
    Ended,
    /// Prepared by a daemon that has died since.
    Dead,
    /// Released while QEMU had its devices.
    Stuck,
    /// A process of its prepare or release was killed; `reap`: nobody answers for it any more.
    Unsure { reap: bool },
}

/// A domain.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) xml: String,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) is: Is,
    /// Whether a daemon that lives has prepared it.
    pub(crate) answered: bool,
    /// Its QEMU: one process for each device.
    pub(crate) holders: Vec<Child>,
    /// What happened to it.
    pub(crate) past: Vec<String>,
}

impl Domain {
    pub(crate) fn keeps(&self) -> bool {
        self.wanted.iter().any(|wanted| wanted.more.contains("keep='yes'"))
    }

    /// All its devices must be there.
    fn is_whole(&self) -> bool {
        matches!(self.is, Is::Ready | Is::Held | Is::Running) || !self.holders.is_empty()
    }

    /// Somebody else may take away what there is of it: reconcile, or the prepare of a domain that needs the
    /// place.
    pub(crate) fn may_be_reaped(&self) -> bool {
        self.holders.is_empty() && matches!(self.is, Is::Ended | Is::Dead | Is::Stuck | Is::Unsure { .. })
    }

    /// Reconcile must.
    pub(crate) fn must_be_reaped(&self) -> bool {
        self.may_be_reaped() && self.is != (Is::Unsure { reap: false })
    }

    /// Nothing of it is left, or only what it keeps.
    pub(crate) fn is_clean(&self, sight: &Sight) -> bool {
        let has = |wanted: &Wanted| sight.claims.get(&wanted.id) == Some(&self.uuid);
        match sight.records.get(&self.uuid) {
            Some(record) => {
                self.keeps() && record.contains("\"phase\":\"kept\"") && self.wanted.iter().all(has)
            }
            None => {
                !sight.claims.values().any(|domain| *domain == self.uuid)
                    && !sight.stray.iter().any(|path| path.contains(&self.uuid))
            }
        }
    }
}

/// What a pool of places holds: only one type at a time where it is `homogeneous`.
struct Pool {
    name: &'static str,
    units: u32,
    homogeneous: bool,
    /// A type of cost 1, and how many of it the host says there is room for.
    shown: Option<(&'static str, &'static str)>,
}

/// `hosts/mixed.toml`. Virtual functions of one card share its pool.
const POOLS: [Pool; 7] = [
    Pool { name: "mtty", units: 24, homogeneous: false, shown: Some(("mtty", "mtty-1")) },
    Pool { name: "i915", units: 8, homogeneous: false, shown: Some(("0000:00:02.0", "i915-GVTg_V5_8")) },
    Pool { name: "ccw", units: 1, homogeneous: false, shown: Some(("0.0.0313", "vfio_ccw-io")) },
    Pool { name: "t4", units: 16, homogeneous: true, shown: None },
    Pool { name: "a16", units: 16, homogeneous: true, shown: None },
    Pool { name: "m60", units: 16, homogeneous: false, shown: None },
    Pool { name: "l40s", units: 48, homogeneous: false, shown: None },
];

/// Where a pool says how much it has left.
pub(crate) fn shown() -> impl Iterator<Item = (&'static str, String)> {
    POOLS.iter().filter_map(|pool| {
        let (parent, kind) = pool.shown?;
        let file = format!("sys/class/mdev_bus/{parent}/mdev_supported_types/{kind}/available_instances");
        Some((pool.name, file))
    })
}

/// All domains, and what was made by hand.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) domains: Vec<Domain>,
    /// Devices that somebody made by hand, and as what.
    pub(crate) foreign: BTreeMap<String, (Wanted, Device)>,
}

impl Oracle {
    /// What a device takes of which pool.
    fn cost(&self, id: &str) -> Option<&Wanted> {
        let foreign = self.foreign.get(id).map(|(wanted, _)| wanted);
        foreign
            .or_else(|| self.domains.iter().flat_map(|domain| &domain.wanted).find(|wanted| wanted.id == id))
    }

    fn taken<'a>(&'a self, sight: &'a Sight, pool: &'a str) -> impl Iterator<Item = &'a Wanted> {
        let ids = sight.devices.keys().filter_map(|id| self.cost(id));
        ids.filter(move |wanted| wanted.pool == pool)
    }

    /// Whether somebody has made by hand what this domain wants.
    pub(crate) fn uses_foreign(&self, domain: &Domain) -> bool {
        domain.wanted.iter().any(|wanted| self.foreign.contains_key(&wanted.id))
    }

    /// Whether all that a domain wants has room, by the oracle's own count; `without` is not counted.
    pub(crate) fn has_room(&self, sight: &Sight, domain: &Domain, without: &[&str]) -> bool {
        let mut rest = sight.clone();
        rest.devices.retain(|id, _| !without.contains(&id.as_str()));
        POOLS.iter().all(|pool| {
            let missing: Vec<&Wanted> = domain
                .wanted
                .iter()
                .filter(|wanted| wanted.pool == pool.name && !rest.devices.contains_key(&wanted.id))
                .collect();
            let taken: Vec<&Wanted> = self.taken(&rest, pool.name).collect();
            let cost = |wanted: &[&Wanted]| wanted.iter().map(|wanted| wanted.cost).sum::<u32>();
            let mixed = || missing.iter().any(|new| taken.iter().any(|old| old.kind != new.kind));
            // Each virtual function of the A16 takes one device, and there are four.
            let functions = pool.name != "a16" || taken.len() + missing.len() <= 4;
            missing.is_empty()
                || (cost(&taken) + cost(&missing) <= pool.units
                    && functions
                    && !(pool.homogeneous && mixed()))
        })
    }

    /// Holds what is seen against what must be. The host is quiet: nothing runs but QEMUs.
    pub(crate) fn check(
        &mut self,
        sight: &Sight,
        left: &BTreeMap<&'static str, u32>,
        blocked: &str,
    ) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        self.check_devices(sight, &mut wrong);
        for (id, uuid) in &sight.claims {
            if !sight.records.contains_key(uuid) {
                wrong.push(format!("{id} is claimed by {uuid}, which has no record"));
            }
        }
        for (id, (_, made)) in &self.foreign {
            if sight.devices.get(id) != Some(made) {
                wrong.push(format!("foreign device {id} was {made:?} and is {:?}", sight.devices.get(id)));
            }
        }
        for pool in &POOLS {
            let used: u32 = self.taken(sight, pool.name).map(|wanted| wanted.cost).sum();
            if used > pool.units {
                wrong.push(format!("{used} of {} units of {} are taken", pool.units, pool.name));
            }
            if left.get(pool.name).is_some_and(|left| used + left != pool.units) {
                wrong.push(format!("{}: {left:?} left with {used} taken", pool.name));
            }
        }
        let let_go: Vec<bool> =
            self.domains.iter().map(|domain| domain.is == Is::Stuck && self.uses_foreign(domain)).collect();
        for (domain, let_go) in self.domains.iter_mut().zip(let_go) {
            check_domain(domain, let_go, sight, &mut wrong);
        }
        // What a process that died was writing: the next save of its domain replaces it, and its end takes it
        // away.
        let alive = |domain: &&Domain| domain.is != Is::Off || sight.records.contains_key(&domain.uuid);
        let half_written = |path: &&String| {
            path.ends_with(".new")
                && self.domains.iter().filter(alive).any(|domain| path.contains(&domain.uuid))
        };
        wrong.extend(
            sight.stray.iter().filter(|path| !half_written(path)).map(|path| format!("stray: {path}")),
        );
        if !blocked.is_empty() {
            wrong.push(format!("operations that wait in the kernel: {blocked}"));
        }
        wrong
    }

    /// Every device is somebody's, and one's only.
    fn check_devices(&self, sight: &Sight, wrong: &mut Vec<Wrong>) {
        for id in sight.devices.keys().filter(|id| !self.foreign.contains_key(*id)) {
            let record = sight.claims.get(id).and_then(|uuid| sight.records.get(uuid));
            match record {
                Some(record) if record.contains(id.as_str()) => {}
                Some(record) => wrong.push(format!("{id} is claimed, and its domain's record is {record}")),
                None => wrong.push(format!(
                    "leak: device {id} is nobody's: claimed by {:?}, made by no other",
                    sight.claims.get(id)
                )),
            }
        }
    }
}

/// `let_go`: it was released while its QEMU had a device that somebody else made, which is no longer claimed then.
fn check_domain(domain: &mut Domain, let_go: bool, sight: &Sight, wrong: &mut Vec<Wrong>) {
    let Domain { name, uuid, .. } = &*domain;
    let record = sight.records.get(uuid).map(String::as_str);
    if domain.is_whole() && !let_go {
        for Wanted { id, kind, .. } in &domain.wanted {
            let there = sight.devices.get(id);
            if there.is_none_or(|device| !device.kind.is_empty() && device.kind != *kind) {
                wrong.push(format!("{name} must have {id} of type {kind}: {there:?}"));
            }
            if sight.claims.get(id) != Some(uuid) {
                wrong.push(format!("{name} must have the claim on {id}: {:?}", sight.claims.get(id)));
            }
            if !record.is_some_and(|record| record.contains(id.as_str())) {
                wrong.push(format!("{name} has {id}, and its record is {record:?}"));
            }
        }
        if !sight.index.contains(uuid) {
            wrong.push(format!("{name} is not in the index by name"));
        }
    } else if domain.is == Is::Off && !domain.is_clean(sight) {
        let claims: Vec<_> = sight.claims.iter().filter(|(_, of)| *of == uuid).collect();
        wrong.push(format!("leak: {name} must have left nothing: claims {claims:?}, record {record:?}"));
    } else if domain.is == Is::Off && record.is_none() && sight.index.contains(uuid) {
        wrong.push(format!("leak: {name} is in the index by name"));
    }
    for holder in &mut domain.holders {
        if !matches!(holder.try_wait(), Ok(None)) {
            wrong.push(format!("QEMU of {} has lost its device", domain.name));
        }
    }
    // Somebody else may have reaped it, and then it is as good as off.
    let indexed = record.is_none() && sight.index.contains(&domain.uuid);
    if domain.may_be_reaped() && domain.is_clean(sight) && !indexed {
        domain.is = Is::Off;
    }
}
