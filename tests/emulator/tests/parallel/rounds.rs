//! A thousand random events on a host with one of everything: starts, stops, hooks and daemons that are
//! killed at any moment, devices made by hand, reconcile. After each batch of events that run at once, the
//! host is quiet and is held against what must be there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use virt_mdev_emulator::client::Emulated;

use crate::Wrong;
use crate::calls::{Daemon, Said, cli, hook, hosts, let_go, start};
use crate::domains::{Dice, Wanted, device_uuid, domain_uuid, xml};
use crate::eyes::{Eyes, Sight, differences};
use crate::hand;
use crate::oracle::{Domain, Is, Oracle, shown};
use crate::turn::{Turn, What, act, judge};

const ROUNDS: usize = 1000;

/// How long release waits for QEMU here.
const CONFIG: &str = "[wait]\nrelease = \"1s\"\n";

/// After that long, the drivers of this host do to a device what they do when its user has ended.
const DRIVERS: Duration = Duration::from_millis(35);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn wanted(id: String, wish: &'static str, kind: &'static str, pool: &'static str, cost: u32) -> Wanted {
    Wanted { id, wish, kind, pool, cost, more: String::new(), attribute: None }
}

/// The domains: of every interface, with several devices, with two that want the same, and with more than
/// there is room for.
fn domains() -> Vec<Domain> {
    let uuid = device_uuid;
    let vf = |function: u32| format!("0000:41:00.{function}");
    let mut all: Vec<Vec<Wanted>> = vec![
        vec![wanted(uuid(1), "mtty-2", "mtty-2", "mtty", 2)],
        vec![
            wanted(uuid(2), "Single port serial", "mtty-1", "mtty", 1),
            wanted(uuid(3), "mtty-1", "mtty-1", "mtty", 1),
        ],
        vec![wanted(uuid(4), "NVIDIA A16-1B", "nvidia-699", "a16", 1)],
        vec![wanted(uuid(5), "NVIDIA A16-4Q", "nvidia-702", "a16", 4)],
        vec![wanted(uuid(6), "GRID M60-8Q", "18", "m60", 16)],
        vec![wanted(uuid(7), "14", "14", "m60", 2), wanted(uuid(8), "14", "14", "m60", 2)],
        vec![wanted(vf(4), "NVIDIA L40S-1B", "1145", "l40s", 1)],
        vec![wanted(vf(5), "1155", "1155", "l40s", 24)],
        vec![
            wanted(uuid(9), "GRID T4-2Q", "nvidia-230", "t4", 2),
            wanted(uuid(10), "GRID M60-1Q", "14", "m60", 2),
            wanted(vf(6), "NVIDIA L40S-1B", "1145", "l40s", 1),
        ],
        // A clone that kept its original's uuid, and one that passes the same function through.
        vec![wanted(uuid(1), "mtty-2", "mtty-2", "mtty", 2)],
        vec![wanted(vf(4), "1145", "1145", "l40s", 1)],
        // Two for one place.
        vec![wanted(uuid(11), "vfio_ccw-io", "vfio_ccw-io", "ccw", 1)],
        vec![wanted(uuid(12), "vfio_ccw-io", "vfio_ccw-io", "ccw", 1)],
        vec![wanted(uuid(13), "GVTg_V5_4", "i915-GVTg_V5_4", "i915", 2)],
    ];
    all[1][0].attribute = Some(("settings/first", "1"));
    all[2][0].more = "placement='spread'".to_owned();
    all[5][1].more = "parent='0000:86:00.0'".to_owned();
    all[6][0].attribute = Some(("nvidia/vgpu_params", "enable_uvm=1"));
    all[8][0].attribute = Some(("nvidia/vgpu_params", "frame_rate_limiter=0"));
    all[13][0].more = "keep='yes'".to_owned();
    let domain = |(number, wanted): (usize, Vec<Wanted>)| {
        let (name, uuid) = (format!("vm{}", number + 1), domain_uuid(number + 1));
        let xml = xml(&name, &uuid, &wanted);
        let (is, holders, past) = (Is::Off, Vec::new(), Vec::new());
        Domain { name, uuid, xml, wanted, is, answered: false, holders, past }
    };
    all.into_iter().enumerate().map(domain).collect()
}

struct Run {
    host: Emulated,
    eyes: Eyes,
    dice: Dice,
    oracle: Oracle,
    done: usize,
}

pub(crate) fn main() -> Result<String, Wrong> {
    // The same choices each time: whoever wants others gives a seed.
    let seed = number("SEED").unwrap_or(7);
    let rounds = number("ROUNDS").and_then(|rounds| rounds.try_into().ok()).unwrap_or(ROUNDS);
    println!("parallel: the rounds' seed is {seed} (SEED={seed} repeats their choices)");
    // The usual host, with drivers that take less time.
    let text = std::fs::read_to_string(hosts().join("mixed.toml")).map_err(|error| error.to_string())?;
    let text = text.replace("\"300ms\"", "\"30ms\"").replace("\"400ms\"", "\"30ms\"");
    let file = std::env::temp_dir().join(format!("virt-mdev-rounds-{}.toml", std::process::id()));
    let config = format!("\n[files]\n\"/etc/virt-mdev/config.toml\" = {CONFIG:?}\n");
    std::fs::write(&file, text + &config).map_err(|error| error.to_string())?;
    let host = start(&file);
    // It has been read.
    let _ = std::fs::remove_file(&file);
    let host = host?;
    let eyes = Eyes::of(&host);
    let oracle = Oracle { domains: domains(), foreign: BTreeMap::new() };
    let mut run = Run { host, eyes, dice: Dice(seed), oracle, done: 0 };
    let before = run.eyes.all();
    while run.done < rounds {
        run.batch().map_err(|wrong| run.tell(&wrong))?;
    }
    run.end(&before).map_err(|wrong| run.tell(&wrong))?;
    Ok(format!("parallel: {} rounds of start, stop and kill: 0 leaks", rounds))
}

impl Run {
    /// One to three events at once, or one of the host's own; then all is looked at.
    fn batch(&mut self) -> Result<(), Wrong> {
        let before = self.eyes.look();
        self.eyes.control("clear-log")?;
        self.eyes.control("clear-faults")?;
        match self.dice.below(100) {
            0..5 => self.by_hand(&before),
            5..9 => self.reconcile(&before),
            9..11 => self.dry_run(),
            11..14 => self.release_verb(&before),
            _ => self.events(&before),
        }?;
        self.look()
    }

    fn look(&mut self) -> Result<(), Wrong> {
        self.eyes.wait_for_quiet()?;
        let left =
            shown().filter_map(|(pool, file)| Some((pool, self.eyes.text(&file)?.parse().ok()?))).collect();
        let (sight, blocked) = (self.eyes.look(), self.eyes.blocked());
        let wrong = self.oracle.check(&sight, &left, &blocked);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    fn events(&mut self, before: &Sight) -> Result<(), Wrong> {
        let count = 1 + self.dice.below(3);
        let mut turns: Vec<Turn> = Vec::new();
        for _ in 0..count {
            let at = self.dice.below(self.oracle.domains.len());
            if turns.iter().any(|turn| turn.at == at) {
                continue;
            }
            let what = What::roll(&mut self.dice, &self.oracle.domains[at]);
            // Its QEMU may come to late, if somebody reaps it meanwhile.
            if what == What::Open && !turns.is_empty() {
                continue;
            }
            let alone = what == What::Open;
            turns.push(Turn { at, what });
            if alone {
                break;
            }
        }
        let fault = if self.dice.percent(25) { self.fault(&turns) } else { None };
        if let Some(fault) = &fault {
            self.eyes.control(&format!("fault {fault}"))?;
            turns.truncate(2);
        }
        let reconciles = self.dice.percent(15) && turns.iter().all(|turn| turn.what != What::Open);
        let (host, eyes) = (&self.host, &self.eyes);
        let (outcomes, reconciled) = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (at, domain) in self.oracle.domains.iter_mut().enumerate() {
                let Some(turn) = turns.iter().find(|turn| turn.at == at) else { continue };
                running.push((turn, scope.spawn(move || act(host, eyes, domain, turn.what))));
            }
            let reconciled = reconciles.then(|| cli(host, &["reconcile"]));
            let ended: Vec<_> = running.into_iter().map(|(turn, thread)| (turn, thread.join())).collect();
            (ended, reconciled)
        });
        self.eyes.wait_for_quiet()?;
        self.eyes.control("clear-faults")?;
        let effects = self.eyes.effects();
        let struck = effects.contains(" killed before") || effects.contains(" killed after");
        if let Some(said) = reconciled.transpose()?
            && (said.is_too_slow() || said.is_a_defect() || (said.code != Some(0) && !struck))
        {
            return Err(format!("reconcile, with events at the same time: {said}\n{}", said.stdout));
        }
        let after = self.eyes.look();
        let mut wrong = Vec::new();
        for (turn, outcome) in outcomes {
            let outcome = outcome.map_err(|_| "a thread panicked".to_owned())?;
            let note = match &outcome {
                Ok(said) => format!("{:?}: {said}", turn.what),
                Err(why) => format!("{:?}: {why}", turn.what),
            };
            let fault =
                fault.as_ref().filter(|_| struck).map(|fault| format!(" [{fault}]")).unwrap_or_default();
            self.oracle.domains[turn.at].past.push(format!("{:>4} {note}{fault}", self.done));
            let others: Vec<usize> = turns.iter().map(|turn| turn.at).filter(|at| *at != turn.at).collect();
            let context = crate::turn::Context { before, after: &after, struck, others: &others, reconciles };
            wrong.extend(judge(&mut self.oracle, turn, &outcome?, &context));
            self.done += 1;
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// Something of one of the domains at which the process that does it is killed.
    fn fault(&mut self, turns: &[Turn]) -> Option<String> {
        let domain = &self.oracle.domains[turns.first()?.at];
        let id = &self.dice.pick(&domain.wanted).id;
        let glob = match self.dice.below(5) {
            0 => format!("/run/virt-mdev/domains/{}*", domain.uuid),
            1 => format!("/run/virt-mdev/devices/{id}"),
            2 if turns.len() == 1 => "*create".to_owned(),
            3 => "/run/virt-mdev/by-name/*".to_owned(),
            _ => format!("*{id}*"),
        };
        let nth = 1 + self.dice.below(6);
        let when = if self.dice.percent(50) { "before" } else { "after" };
        Some(format!("write,create,rename,symlink,unlink,chown,chmod,setxattr {glob} {nth} kill-{when}"))
    }

    fn by_hand(&mut self, before: &Sight) -> Result<(), Wrong> {
        self.done += 1;
        if self.oracle.foreign.len() < 4 && self.dice.percent(60) {
            hand::make(&mut self.oracle, &self.eyes, &mut self.dice, before);
            return Ok(());
        }
        hand::remove(&mut self.oracle, &self.eyes, &mut self.dice, before)
    }

    /// Alone on the host, it must clear away all that nobody answers for, and leave the rest as it is.
    fn reconcile(&mut self, before: &Sight) -> Result<(), Wrong> {
        self.done += 1;
        std::thread::sleep(DRIVERS);
        let said = cli(&self.host, &["reconcile"])?;
        let after = self.eyes.look();
        let mut wrong = Vec::new();
        for domain in &mut self.oracle.domains {
            let name = &domain.name;
            let of_it: Vec<&str> =
                said.stdout.lines().filter(|line| line.starts_with(&format!("{name}: "))).collect();
            domain.past.push(format!("{:>4} reconcile: {}", self.done, of_it.join(", ")));
            if domain.must_be_reaped() && !domain.is_clean(&after) {
                wrong.push(format!("reconcile has left {name}, for which nobody answers: {:?}", domain.is));
            }
            let seen = |sight: &Sight| {
                let own = sight.claims.iter().filter(|(_, of)| **of == domain.uuid);
                let devices: Vec<_> =
                    own.map(|(id, _)| (id.clone(), sight.devices.get(id).cloned())).collect();
                let record = sight.records.get(&domain.uuid).cloned();
                // The release of what stays anyway may be ended although its QEMU has it still.
                (devices, record.filter(|_| !(domain.keeps() && domain.is == Is::Stuck)))
            };
            if !domain.may_be_reaped() && seen(before) != seen(&after) {
                wrong.push(format!("reconcile has touched {name}: {:?}", seen(&after)));
            }
        }
        if said.code != Some(0) || said.is_too_slow() {
            wrong.push(format!("reconcile: {said}"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n{}", wrong.join("\n"), said.stdout)) }
    }

    /// Says what it would do and does nothing.
    fn dry_run(&mut self) -> Result<(), Wrong> {
        self.done += 1;
        std::thread::sleep(DRIVERS);
        let before = self.eyes.all();
        let said = cli(&self.host, &["reconcile", "--dry-run"])?;
        match differences(&before, &self.eyes.all()) {
            none if none.is_empty() && said.code == Some(0) => Ok(()),
            changed => Err(format!("reconcile --dry-run: {said}\n{}", changed.join("\n"))),
        }
    }

    /// `virt-mdev release`: what nobody answers for goes, what somebody answers for stays.
    fn release_verb(&mut self, before: &Sight) -> Result<(), Wrong> {
        self.done += 1;
        std::thread::sleep(DRIVERS);
        let at = self.dice.below(self.oracle.domains.len());
        let domain = &mut self.oracle.domains[at];
        if !before.records.contains_key(&domain.uuid) || domain.is == Is::Off {
            return Ok(());
        }
        let said = cli(&self.host, &["release", &domain.name])?;
        domain.past.push(format!("{:>4} virt-mdev release: {said}", self.done));
        let after = self.eyes.look();
        let refused = domain.is == Is::Ready && domain.answered;
        if refused && said.code == Some(0) {
            return Err(format!(
                "virt-mdev release takes {} from the daemon that starts it: {said}",
                domain.name
            ));
        }
        // Of a domain that keeps a device it says that the device stays, and exits with 1.
        let well = said.code == Some(0) || domain.keeps();
        if domain.must_be_reaped() && !(well && domain.is_clean(&after)) {
            return Err(format!("virt-mdev release of {}, for which nobody answers: {said}", domain.name));
        }
        // Held ones keep their devices, but their release may have begun.
        if domain.is == Is::Running && said.code == Some(0) {
            domain.is = Is::Stuck;
        }
        Ok(())
    }

    /// All domains end, all that was made by hand goes: the host is what it was.
    fn end(&mut self, before: &[String]) -> Result<(), Wrong> {
        for domain in &mut self.oracle.domains {
            let_go(&mut domain.holders);
        }
        std::thread::sleep(DRIVERS);
        let call = |domain: &Domain, operation: &str, xml: &str| -> Result<Said, Wrong> {
            hook(&self.host, &domain.name, operation, xml, Daemon::Lives, None)
        };
        let mut wrong = Vec::new();
        for domain in &mut self.oracle.domains {
            let said = call(domain, "release", &domain.xml)?;
            domain.past.push(format!(" end release: {said}"));
            if !said.is_well() {
                wrong.push(format!("the last release of {}: {said}", domain.name));
            }
            domain.is = Is::Off;
            if domain.keeps() {
                // What it keeps goes with a run that does not keep it.
                let xml = domain.xml.replace("keep='yes'", "");
                for operation in ["prepare", "release"] {
                    let said = call(domain, operation, &xml)?;
                    if !said.is_well() {
                        wrong.push(format!("{operation} of {} without keep: {said}", domain.name));
                    }
                }
            }
        }
        while !self.oracle.foreign.is_empty() {
            hand::remove(&mut self.oracle, &self.eyes, &mut self.dice, &Sight::default())?;
        }
        let said = cli(&self.host, &["reconcile"])?;
        if !said.is_well() {
            wrong.push(format!("the last reconcile: {said}"));
        }
        self.look()?;
        let left = differences(before, &self.eyes.all());
        if !left.is_empty() {
            wrong.push(format!("{} things are not what they were:\n{}", left.len(), left.join("\n")));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    /// What went wrong, with all that helps to understand it.
    fn tell(&self, wrong: &str) -> Wrong {
        let mut text = format!("after {} rounds:\n{wrong}\n", self.done);
        for domain in self
            .oracle
            .domains
            .iter()
            .filter(|domain| wrong.contains(domain.name.as_str()) || wrong.contains(&domain.uuid))
        {
            let _ = writeln!(text, "{} ({}) is {:?}:", domain.name, domain.uuid, domain.is);
            for line in domain.past.iter().rev().take(8).rev() {
                let _ = writeln!(text, "  {line}");
            }
        }
        let effects = self.eyes.effects();
        let _ = writeln!(text, "what was done in the last batch:");
        let told =
            effects.lines().filter(|line| !line.contains(".new <") && !line.starts_with("create /run"));
        for line in told.rev().take(60).collect::<Vec<_>>().into_iter().rev() {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}
