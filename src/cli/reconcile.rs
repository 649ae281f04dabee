//! `virt-mdev reconcile`: takes away what nobody answers for any more, of all domains. `virt-mdev release`: of one
//! domain or device that a person names.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Failure;
use super::list::warn_without_root;
use crate::backend;
use crate::config::Config;
use crate::execute::Means;
use crate::host::Host;
use crate::ids::{DeviceId, DomainUuid};
use crate::reap::{self, By, Standing};
use crate::record::{Record, Records};
use crate::undo::{Left, Sweep, Undone, Why, settle};
use crate::words::{escaped, printable};

/// What a domain is called here: its name, where a record says it.
pub(super) fn name(record: Option<&Record>, domain: &DomainUuid) -> String {
    record.map_or_else(|| domain.to_string(), |record| printable(&record.domain.name).to_string())
}

/// The lines about what was done for one domain.
fn done(name: &str, undone: &Undone) -> String {
    undone.done.iter().fold(String::new(), |said, step| said + &format!("{name}: {step}\n"))
}

/// The same, and what is left.
fn told(name: &str, undone: &Undone) -> String {
    let mut told = done(name, undone);
    for Left { device, why } in &undone.left {
        let _ = writeln!(told, "{name}: left {device}: {why}");
    }
    told
}

/// What becomes of a device that nobody answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is taken away.
    Destroyed,
    /// It stays, as somebody else made it: the claim and our labels go.
    LetGo,
    /// It has gone already, or is another domain's by now.
    Forgotten,
}

impl Fate {
    fn of(self, device: &DeviceId) -> String {
        match self {
            Self::Destroyed => format!("destroy {device}"),
            Self::LetGo => format!("let go of {device}, which stays"),
            Self::Forgotten => format!("forget {device}"),
        }
    }
}

pub(super) fn fate(host: &Host, record: &Record, device: &DeviceId) -> Fate {
    let is_anothers = || Records::new(host).is_anothers(device, &record.domain.uuid);
    match record.devices().find(|(its, ..)| *its == device) {
        Some((_, place, ..)) if is_anothers() || !backend::is_there(host, device, place) => Fate::Forgotten,
        Some((_, _, true, _)) => Fate::Destroyed,
        // Of what is not ours to take away, a label may be all that is left.
        _ => Fate::LetGo,
    }
}

/// The lines about what would be done for one domain.
fn would(host: &Host, record: &Record, name: &str) -> String {
    let mut said = String::new();
    for (device, standing) in reap::judge(host, record, false) {
        let Standing::Abandoned(because) = standing else { continue };
        let fate = fate(host, record, &device).of(&device);
        let _ = writeln!(said, "{name}: would {fate}: {because}");
    }
    said
}

/// Takes away, on the whole host, what nobody answers for; says what it did and what it left.
pub fn run(host: &Host, dry_run: bool, quiet: bool) -> Result<String, Failure> {
    let records = Records::new(host);
    // The timer runs this on every host, a wrong word in the configuration or not.
    let means = Means { host, records: &records, waits: Config::load_or_default(host).waits };
    let mut said = String::new();
    let mut failed = 0;
    let blind = dry_run && warn_without_root(host);
    for domain in records.domains()? {
        let read = records.read(&domain);
        if let (true, Err(trouble)) = (dry_run, &read) {
            let _ = writeln!(said, "{domain}: would set its record aside: {trouble}");
        }
        let record = read.ok().flatten();
        let name = name(record.as_ref(), &domain);
        if dry_run {
            if let Some(record) = &record {
                said.push_str(&would(&host.looking(), record, &name));
            }
            continue;
        }
        let sweep = Sweep { abandoned: true, ..Sweep::of_domain(means.waits.release) };
        match settle(means, &domain, sweep) {
            Ok((_guard, undone)) => {
                said.push_str(&told(&name, &undone));
                failed += undone
                    .left
                    .iter()
                    .filter(|left| matches!(left.why, Why::Failed { .. } | Why::Labelled { .. }))
                    .count();
            }
            // One domain whose record cannot be had now must not keep the others from being cleaned up.
            Err(trouble) => {
                let _ = writeln!(said, "{name}: left as it is: {trouble}");
                failed += 1;
            }
        }
        if let Some(record) = records.read(&domain).ok().flatten() {
            // Its lock has been let go of: nobody opens a node.
            for (device, standing) in reap::judge(&host.looking(), &record, false) {
                if matches!(standing, Standing::Answered(By::Holder)) && record.is_orphan(&device) {
                    let _ = writeln!(said, "{name}: left {device}: {}", holder(host, &device));
                }
            }
        }
    }
    if !dry_run {
        let reservations = records.forget_old_reservations(means.waits.lock);
        for trouble in [records.forget_old_deadlines(), reservations].into_iter().filter_map(Result::err) {
            log::warn!("{trouble}");
        }
    }
    // What was done before is told all the same.
    let strays = records.strays().unwrap_or_else(|trouble| {
        let _ = writeln!(said, "not looked for claims without a record: {trouble}");
        failed += 1;
        Vec::new()
    });
    for (domain, path) in strays {
        let shown = escaped(&path.display().to_string());
        if dry_run {
            let _ = writeln!(said, "{domain}: would remove {shown}: the domain has no record");
            continue;
        }
        let limit = means.waits.lock;
        let removed = records.lock(&domain, limit).and_then(|guard| guard.remove_stray(&path, limit));
        match removed {
            Ok(true) => {
                let _ = writeln!(said, "{domain}: removed {shown}: the domain has no record");
            }
            Ok(false) => {}
            Err(trouble) => {
                let _ = writeln!(said, "{domain}: left {shown}: {trouble}");
                failed += 1;
            }
        }
    }
    match failed {
        0 if said.is_empty() && !quiet && !blind => Ok("Nothing to reconcile.\n".to_owned()),
        0 => Ok(said),
        failed => Err(Failure {
            before: said,
            text: format!("{failed} could not be cleaned up; it stays recorded and is tried again"),
            hint: Some(
                "the kernel's log (dmesg) may say more; `virt-mdev list` shows what there is".to_owned(),
            ),
        }),
    }
}

fn holder(host: &Host, device: &DeviceId) -> Why {
    Why::Held { holder: crate::host::holders::holder(host, device) }
}

/// Whom a person means: a domain by name or UUID, or a device.
pub(super) fn find(records: &Records, who: &str) -> Option<(DomainUuid, Option<DeviceId>)> {
    let by_uuid = DomainUuid::parse(who).ok().filter(|domain| records.has(domain));
    // A hook that died between its first record and the index has left a name that only the record knows.
    let named = |domain: &DomainUuid| {
        records.read(domain).ok().flatten().is_some_and(|record| record.domain.name == who)
    };
    let all = || records.domains().unwrap_or_default().into_iter().find(named);
    if let Some(domain) = by_uuid.or_else(|| records.by_name(who)).or_else(all) {
        return Some((domain, None));
    }
    let device = DeviceId::parse(who).ok()?;
    records.owner(&device).ok().flatten().map(|owner| (owner.uuid, Some(device)))
}

pub(super) fn release(host: &Host, who: &str, force: bool) -> Result<String, Failure> {
    let records = Records::new(host);
    // No mistake in the configuration keeps a device.
    let means = Means { host, records: &records, waits: Config::load_or_default(host).waits };
    let Some((domain, only)) = find(&records, who) else {
        return Err(Failure::new(format!(
            "{}: no domain and no device of this name is recorded",
            printable(who)
        ))
        .hint("`virt-mdev list` shows what is"));
    };
    let name = name(records.read(&domain)?.as_ref(), &domain);
    let sweep = Sweep {
        abandoned: !force,
        forced: force,
        only: only.as_ref(),
        patience: means.waits.release,
        awaited: None,
    };
    let undone = settle(means, &domain, sweep)?.1;
    let mut said = done(&name, &undone);
    let mut stays: Vec<String> = undone.left.iter().map(|left| left.refusal().to_string()).collect();
    let tried: BTreeSet<&DeviceId> = undone.left.iter().map(|left| &left.device).collect();
    let record =
        records.read(&domain).map_err(|trouble| Failure { before: said.clone(), ..trouble.into() })?;
    for (device, standing) in record.iter().flat_map(|record| reap::judge(&host.looking(), record, false)) {
        let meant = only.as_ref().is_none_or(|only| *only == device) && !tried.contains(&device);
        match standing {
            Standing::Answered(By::Holder) if meant => {
                stays.push(format!("device {device}: {}", holder(host, &device)))
            }
            // That is what it was told to do.
            Standing::Answered(by @ By::Keep) if meant && only.is_none() && !force => {
                let _ = writeln!(said, "{name}: left {device}: {by}");
            }
            Standing::Answered(by) if meant && !force => stays.push(format!("device {device}: {by}")),
            _ => {}
        }
    }
    match stays.into_iter().next() {
        None if said.is_empty() => Ok(format!("{name}: nothing to release.\n")),
        None => Ok(said),
        Some(why) => Err(Failure {
            before: said,
            text: format!("{name}: {why}"),
            hint: (!force).then(|| {
                "stop the domain; --force takes a device whoever answers for it, unless it is in use"
                    .to_owned()
            }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01";

    #[test]
    fn a_dry_run_says_what_a_run_would_do() {
        let root = tempfile::tempdir().unwrap();
        let uuid = |last: u32| format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa100{last}");
        let entry = |last: u32, verb: &str| {
            let (device, keep) = (uuid(last), (verb == "create").then_some(false));
            serde_json::json!({ "state": "done", "step": {
                "do": verb, "device": device, "backend": "mdev", "parent": "mtty", "type": "mtty-1", "keep": keep,
            } })
        };
        for there in [1, 2, 4].map(uuid) {
            let directory = root.path().join("sys/class/mdev_bus/mtty").join(there);
            std::fs::create_dir_all(directory).unwrap();
        }
        let record = serde_json::json!({
            "version": 1, "domain": { "uuid": DOMAIN, "name": "vm1" }, "phase": "releasing",
            "steps": [entry(1, "create"), entry(2, "use"), entry(3, "create"), entry(4, "create")],
        });
        let other = DOMAIN.replace("e01", "e02");
        let another = serde_json::json!({
            "version": 1, "domain": { "uuid": other, "name": "vm2" }, "phase": "kept", "steps": [],
        });
        let run = root.path().join("run/virt-mdev");
        std::fs::create_dir_all(run.join("domains")).unwrap();
        std::fs::create_dir_all(run.join("devices")).unwrap();
        std::fs::write(run.join(format!("domains/{other}.json")), another.to_string()).unwrap();
        std::os::unix::fs::symlink(&other, run.join("devices").join(uuid(4))).unwrap();
        let record: Record = serde_json::from_value(record).unwrap();
        let said = would(&Host::at(root.path()), &record, "vm1");
        let expected = [
            format!("vm1: would destroy {}: the domain has gone\n", uuid(1)),
            format!("vm1: would let go of {}, which stays: the domain has gone\n", uuid(2)),
            format!("vm1: would forget {}: the domain has gone\n", uuid(3)),
            format!("vm1: would forget {}: the domain has gone\n", uuid(4)),
        ];
        assert_eq!(said, expected.concat());
    }
}
