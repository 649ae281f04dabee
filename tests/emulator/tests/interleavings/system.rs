//! The system whose every interleaving is tried: libvirt with two domains, a reconcile, and what may happen to them.

mod checks;
mod programs;
mod state;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use virt_mdev::host::Host;
use virt_mdev::ids::DomainUuid;
use virt_mdev::record::Records;
use virt_mdev_emulator::host;
use virt_mdev_emulator::model::World;

use checks::exists;
use programs::{called, matters, reconciled};
use state::{Call, Daemon, Domain, Maker, Reconcile, Stage};

use crate::memory::{Broken, Op, Seen, Sim, View, Who, alone};
use crate::process::{Come, DEFECT, Ended, Histories};

pub(crate) use state::{Move, Shape, State};

/// The card.
const HOST: &str = r#"
parent = [{ name = "mtty", units = 2, type = [{ id = "mtty-1", name = "Single port serial" }] }]
files = { "/etc/virt-mdev/config.toml" = "labels = 'never'\n[wait]\nrelease = \"1ms\"\n" }
"#;

const DEVICES: &str = "/sys/class/mdev_bus/mtty";
const CREATE: &str = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create";
const FREE: &str = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/available_instances";

/// The processes of the two domains are 0 and 1.
const RECONCILE: Who = 2;
const DOMAINS: [usize; 2] = [0, 1];
pub(crate) const UUIDS: [&str; 2] =
    ["0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01", "1cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02"];

const NAMES: [&str; 2] = ["vm1", "vm2"];

/// Their locks, by the hashes of their uuids ([`System::start`] makes sure).
const LOCKS: [&str; 2] = ["/run/virt-mdev/locks/domain-48b", "/run/virt-mdev/locks/domain-c03"];

/// The daemon that dies, and the one that is started after it.
const PIDS: [i32; 2] = [100, 101];

/// Programs, histories, and what has been found.
pub(crate) struct System<'a> {
    pub(crate) shape: &'a Shape,
    histories: Histories,
    programs: BTreeMap<(usize, Call), usize>,
    /// Its way through each domain, and through what has no record.
    reconcile: [usize; 3],
    broken: Broken,
    pub(crate) undecidable: u64,
}

pub(crate) type Violation = String;

impl<'a> System<'a> {
    pub(crate) fn new(shape: &'a Shape, broken: Broken) -> Self {
        let mut histories = Histories::new(matters);
        let mut programs = BTreeMap::new();
        for domain in DOMAINS {
            for call in [Call::Prepare, Call::Start, Call::Started, Call::Reconnect, Call::Release] {
                let wanted = shape.wanted[domain];
                let run = move |host: &Host| called(host, call, domain, wanted, PIDS[0]);
                programs.insert((domain, call), histories.add(View::Whole, Rc::new(run)));
            }
        }
        let views = [View::Domain(UUIDS[0]), View::Domain(UUIDS[1]), View::Strays];
        let reconcile = views.map(|view| histories.add(view, Rc::new(reconciled)));
        Self { shape, histories, programs, reconcile, broken, undecidable: 0 }
    }

    pub(crate) fn start(&self) -> State {
        let host = host::Host::parse(HOST).unwrap();
        let mut sim = Sim::default();
        sim.world = World::new(&host, &[], false);
        sim.broken = self.broken;
        sim.fine = self.shape.fine || std::env::var_os("FINE").is_some();
        sim.daemons = vec![PIDS[0]];
        // A first event makes the directories: twice five points that are the same on every host after its first.
        for directory in ["", "/domains", "/devices", "/by-name", "/locks"] {
            let _ = sim.act(RECONCILE, &Op::MakeDirectory(format!("/run/virt-mdev{directory}")));
        }
        for (uuid, path) in UUIDS.iter().zip(LOCKS) {
            let domain = DomainUuid::parse(uuid).unwrap();
            alone(&mut sim, RECONCILE, |host| {
                drop(Records::new(host).lock(&domain, Duration::ZERO).unwrap())
            });
            assert!(matches!(sim.act(RECONCILE, &Op::Kind(path.to_owned())), Some(Seen::Kind(1))), "{path}");
        }
        let domain = Domain {
            stage: Stage::Off,
            open: Vec::new(),
            doomed: false,
            known: false,
            has: false,
            refused: false,
        };
        State {
            sim,
            domains: [domain.clone(), domain],
            reconcile: Reconcile::Off,
            daemon: Daemon::First,
            deaths: 0,
            crashed: false,
            hand: false,
            made: BTreeMap::new(),
            undecided: Vec::new(),
        }
    }

    /// What may happen in this state. A process that waits for a lock is found out by trying.
    pub(crate) fn moves(&self, state: &State) -> Vec<Move> {
        let mut moves = Vec::new();
        for (who, at) in state.running() {
            if self.histories.is_private(&state.sim, at) {
                moves.push(Move::Step(who, at));
                if self.may_crash(state) {
                    moves.push(Move::Crash(who, at));
                }
                return moves;
            }
        }
        for (number, domain) in state.domains.iter().enumerate() {
            let who = Who::try_from(number).unwrap();
            match domain.stage {
                Stage::Off if state.daemon == Daemon::First => moves.push(Move::Call(number)),
                Stage::Due(call) => {
                    moves.push(Move::Call(number));
                    if call == Call::Reconnect {
                        moves.push(Move::End(number));
                    }
                }
                Stage::Hook(_, at, _) => {
                    moves.push(Move::Step(who, at));
                    if self.may_crash(state) {
                        moves.push(Move::Crash(who, at));
                    }
                }
                Stage::Forked => {
                    if domain.open.is_empty() {
                        moves.push(Move::Open(number));
                    }
                    // The next daemon knows that it had not come to run.
                    if domain.doomed {
                        moves.push(Move::End(number));
                    }
                }
                Stage::Runs => moves.push(Move::End(number)),
                _ => {}
            }
        }
        match state.reconcile {
            Reconcile::Off | Reconcile::Before(_) => moves.push(Move::Reconcile),
            Reconcile::Runs(_, at) => {
                moves.push(Move::Step(RECONCILE, at));
                if self.may_crash(state) {
                    moves.push(Move::Crash(RECONCILE, at));
                }
            }
            Reconcile::Done => {}
        }
        let any = state.domains.iter().any(|domain| !matches!(domain.stage, Stage::Off | Stage::Gone));
        if state.daemon == Daemon::First && any && state.deaths < self.shape.deaths {
            moves.push(Move::Kill);
        }
        if self.shape.hand.is_some() && !state.hand {
            moves.push(Move::Hand);
        }
        moves
    }

    /// Whether a process may be killed.
    fn may_crash(&self, state: &State) -> bool {
        !state.crashed && state.deaths < self.shape.deaths
    }

    /// The move in words.
    pub(crate) fn words(&self, state: &State, step: Move) -> String {
        let process = |who: Who| match state.domains.get(usize::from(who)).map(|domain| domain.stage) {
            Some(Stage::Hook(call, ..)) => format!("vm{} {call:?}", who + 1),
            _ => "reconcile".to_owned(),
        };
        match step {
            Move::Call(domain) => {
                let call = match state.domains[domain].stage {
                    Stage::Due(call) => call,
                    _ => Call::Prepare,
                };
                format!("vm{} {call:?}: the hook is called", domain + 1)
            }
            Move::Step(who, at) => format!("{}: {}", process(who), self.histories.op(at)),
            Move::Crash(who, at) => format!("{}: KILLED before: {}", process(who), self.histories.op(at)),
            Move::Open(domain) => format!("vm{}: QEMU opens its devices", domain + 1),
            Move::End(domain) => format!("vm{}: QEMU ends", domain + 1),
            Move::Kill => "the daemon is KILLED, and another one starts".to_owned(),
            Move::Reconcile => match state.reconcile {
                Reconcile::Before(2) => "reconcile goes on to what has no record".to_owned(),
                Reconcile::Before(part) => format!("reconcile goes on to vm{}", part + 1),
                _ => "reconcile is started, with vm1".to_owned(),
            },
            Move::Hand => format!("somebody makes {} by hand", self.shape.hand.unwrap_or_default()),
        }
    }

    /// Makes a move. `None`: the process has to wait.
    pub(crate) fn make(&mut self, state: &State, step: Move) -> Result<Option<State>, Violation> {
        let mut next = state.clone();
        match step {
            Move::Call(number) => {
                let call = match next.domains[number].stage {
                    Stage::Due(call) => call,
                    _ => Call::Prepare,
                };
                let program = self.programs[&(number, call)];
                next.domains[number].stage = Stage::Hook(call, 0, next.daemon);
                let who = Who::try_from(number).unwrap();
                let Some(come) = self.histories.begin(&mut next.sim, who, program) else { return Ok(None) };
                self.come(&mut next, who, come)?;
            }
            Move::Reconcile => {
                let part = match next.reconcile {
                    Reconcile::Before(part) => part,
                    _ => 0,
                };
                next.reconcile = Reconcile::Runs(part, 0);
                let program = self.reconcile[part];
                let Some(come) = self.histories.begin(&mut next.sim, RECONCILE, program) else {
                    return Ok(None);
                };
                self.come(&mut next, RECONCILE, come)?;
            }
            Move::Step(who, at) => {
                let op = self.histories.op(at);
                self.may(&mut next, who, &op)?;
                let Some(come) = self.histories.step(&mut next.sim, who, at) else { return Ok(None) };
                if let Op::Write { path, data } = &*op
                    && path.ends_with("/create")
                {
                    let uuid = String::from_utf8_lossy(data).into_owned();
                    if exists(&next.sim, &uuid) {
                        next.made.entry(uuid).or_insert(Maker::Domain(usize::from(who)));
                    }
                }
                self.come(&mut next, who, come)?;
            }
            Move::Crash(who, _) => {
                next.crashed = true;
                next.deaths += 1;
                self.doubt(&mut next, who);
                next.sim.die(who);
                self.ended(&mut next, who, None)?;
            }
            Move::Open(number) => self.open(&mut next, number)?,
            Move::End(number) => {
                close(&mut next, number);
                next.domains[number].has = false;
                next.domains[number].stage = Stage::Due(Call::Release);
            }
            Move::Kill => {
                next.deaths += 1;
                next.daemon = Daemon::Second;
                next.sim.daemons = vec![PIDS[1]];
                for domain in &mut next.domains {
                    match domain.stage {
                        Stage::Off | Stage::Due(Call::Prepare | Call::Start) => domain.stage = Stage::Gone,
                        Stage::Due(Call::Release) if !domain.known => domain.stage = Stage::Gone,
                        Stage::Due(Call::Started) | Stage::Runs => domain.stage = Stage::Due(Call::Reconnect),
                        Stage::Forked => domain.doomed = true,
                        _ => {}
                    }
                    domain.has &= domain.stage != Stage::Gone;
                }
            }
            Move::Hand => {
                next.hand = true;
                let uuid = self.shape.hand.unwrap_or_default();
                if next.sim.echo(uuid, CREATE).is_ok() {
                    // Where a claim stands whose device is gone, as after a removal that nobody has noticed yet, this one
                    // looks exactly as if it was that device. A prepare that runs will be told that it exists, before it goes back.
                    let claim = next.sim.link(&format!("/run/virt-mdev/devices/{uuid}"));
                    let by = DOMAINS.iter().find(|number| claim == UUIDS[**number]);
                    let told = |number: &&usize| {
                        let record = format!("/run/virt-mdev/domains/{}.json", UUIDS[**number]);
                        matches!(next.domains[**number].stage, Stage::Hook(Call::Prepare, ..))
                            && !next.sim.text(&record).contains("undoing")
                    };
                    if by.is_some() && by.filter(told).is_none() {
                        next.undecided.push(uuid.to_owned());
                    }
                    next.made.insert(uuid.to_owned(), Maker::Hand);
                }
            }
        }
        let sim = &next.sim;
        next.made.retain(|uuid, maker| *maker == Maker::Hand || exists(sim, uuid));
        let sim = &next.sim;
        next.undecided.retain(|uuid| !sim.link(&format!("/run/virt-mdev/devices/{uuid}")).is_empty());
        Ok(Some(next))
    }

    fn come(&mut self, state: &mut State, who: Who, come: Come) -> Result<(), Violation> {
        match come {
            Come::To(at) => {
                match state.domains.get_mut(usize::from(who)) {
                    Some(domain) => {
                        let Stage::Hook(call, _, daemon) = domain.stage else { return Ok(()) };
                        domain.stage = Stage::Hook(call, at, daemon);
                    }
                    None => {
                        let Reconcile::Runs(part, _) = state.reconcile else { return Ok(()) };
                        state.reconcile = Reconcile::Runs(part, at);
                    }
                }
                Ok(())
            }
            Come::End(ended) => {
                state.sim.die(who);
                self.ended(state, who, Some(&ended))
            }
        }
    }

    /// A process has ended, or was killed.
    fn ended(&self, state: &mut State, who: Who, ended: Option<&Ended>) -> Result<(), Violation> {
        if let Some(Err(why)) = ended
            && why.starts_with(DEFECT)
        {
            return Err(why.clone());
        }
        let number = usize::from(who);
        let living = state.daemon;
        let Some(domain) = state.domains.get_mut(number) else {
            state.reconcile = match state.reconcile {
                Reconcile::Runs(part, _) if part < 2 && ended.is_some() => Reconcile::Before(part + 1),
                _ => Reconcile::Done,
            };
            return match ended {
                Some(Err(why)) => Err(format!("reconcile failed: {why}")),
                _ => Ok(()),
            };
        };
        let Stage::Hook(call, _, daemon) = domain.stage else { return Ok(()) };
        let killed = ended.is_none();
        let well = matches!(ended, Some(Ok(_)));
        let theirs = living == daemon;
        domain.has |= call == Call::Prepare && well && theirs;
        domain.refused |= call == Call::Prepare && !well && !killed && !self.shape.both_fit;
        let stage = match (call, theirs) {
            (Call::Prepare, true) if well => Stage::Due(Call::Start),
            (Call::Start, true) if well => {
                domain.known = true;
                Stage::Forked
            }
            (Call::Prepare | Call::Start, true) => Stage::Due(Call::Release),
            // libvirt kills the domain where these fail, and a hook that was killed has failed.
            (Call::Started | Call::Reconnect, true) if killed => {
                close(state, number);
                Stage::Due(Call::Release)
            }
            (Call::Started | Call::Reconnect, true) => Stage::Runs,
            (Call::Started | Call::Reconnect, false) => Stage::Due(Call::Reconnect),
            (Call::Release, _) => Stage::Gone,
            (Call::Prepare | Call::Start, false) => Stage::Gone,
        };
        let domain = &mut state.domains[number];
        domain.stage = stage;
        domain.has &= stage != Stage::Gone && stage != Stage::Due(Call::Release);
        let quiet = !state.crashed && state.daemon == Daemon::First && !state.hand;
        match ended {
            Some(Err(why)) if call == Call::Prepare && self.shape.both_fit && quiet => {
                Err(format!("vm{} is refused although nothing happened: {why}", number + 1))
            }
            Some(Err(why)) if call != Call::Prepare => {
                Err(format!("vm{} {call:?} failed: {why}", number + 1))
            }
            _ => Ok(()),
        }
    }

    fn open(&self, state: &mut State, number: usize) -> Result<(), Violation> {
        for uuid in self.shape.wanted[number] {
            let group = state.sim.link(&format!("/sys/bus/mdev/devices/{uuid}/iommu_group"));
            let group = group.rsplit('/').next().unwrap_or_default().to_owned();
            match state.sim.open_device(&format!("/dev/vfio/{group}")) {
                Ok(open) if !group.is_empty() => state.domains[number].open.push(open),
                _ if state.domains[number].doomed => {
                    // It ends, and nobody waits for it.
                    close(state, number);
                    state.domains[number].stage = Stage::Due(Call::Release);
                    return Ok(());
                }
                other => return Err(format!("vm{}: QEMU cannot open {uuid}: {other:?}", number + 1)),
            }
        }
        if !state.domains[number].doomed {
            state.domains[number].stage = Stage::Due(Call::Started);
        }
        Ok(())
    }
}

/// QEMU ends: the kernel closes what it had open.
fn close(state: &mut State, number: usize) {
    for (ino, handle) in std::mem::take(&mut state.domains[number].open) {
        state.sim.close(ino, handle);
    }
    state.sim.world.out.clear();
    state.sim.world.tick(Duration::ZERO);
}
