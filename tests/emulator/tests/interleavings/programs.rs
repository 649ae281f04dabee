//! What the processes run: the shipped code, called as its doors call it.

use virt_mdev::config::Config;
use virt_mdev::domain::Domain;
use virt_mdev::execute::Means;
use virt_mdev::host::Host;
use virt_mdev::host::daemon::Process;
use virt_mdev::ids::DomainUuid;
use virt_mdev::record::Records;
use virt_mdev::refusal::Refusal;
use virt_mdev::{cli, hook, prepare, start};

use super::{Call, DOMAINS, LOCKS, NAMES, RECONCILE, UUIDS};
use crate::memory::{Op, START_TIME, Seen, Sim, Who};
use crate::process::Ended;

fn xml(domain: usize, wanted: &[&str]) -> String {
    let name = NAMES[domain];
    let uuid = UUIDS[domain];
    let devices: String =
        wanted.iter().map(|uuid| format!("<mdev:device uuid='{uuid}' type='mtty-1'/>")).collect();
    let hostdevs: String = wanted
        .iter()
        .map(|uuid| {
            format!(
                "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/></source></hostdev>"
            )
        })
        .collect();
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata><mdev:devices \
         xmlns:mdev='urn:virt-mdev:domain:1'>{devices}</mdev:devices></metadata><devices>{hostdevs}</devices></domain>"
    )
}

/// What the hook does for a call, with what it reads from the daemon.
pub(super) fn called(host: &Host, call: Call, domain: usize, wanted: &[&str], daemon: i32) -> Ended {
    let records = Records::new(host);
    let uuid = DomainUuid::parse(UUIDS[domain]).unwrap();
    let xml = xml(domain, wanted);
    let in_words = |refusal: Refusal| refusal.to_string();
    let config = || Config::load_or_default(host);
    let done = match call {
        Call::Prepare => {
            let caller = Process { pid: daemon, start_time: START_TIME };
            let (config, _) = Config::load(host).map_err(in_words)?;
            let domain = Domain::read(xml.as_bytes()).map_err(in_words)?;
            prepare::prepare(host, config, domain, Some(caller)).map_err(in_words)
        }
        _ if !records.has(&uuid) => Ok(()),
        Call::Start => start::start(host, config(), xml.as_bytes()).map_err(in_words),
        Call::Started => {
            let means = Means { host, records: &records, waits: config().waits };
            hook::runs(means, &uuid).map_err(in_words)
        }
        Call::Reconnect => hook::compare(host, config(), &uuid).map_err(in_words),
        Call::Release => hook::release(host, config(), &uuid).map_err(in_words),
    };
    done.map(|()| String::new())
}

/// Of a record that a domain's hook reads without its lock, only the name, the places and who answers for them matter:
/// before anything is done about it, it is read again under its lock.
pub(super) fn matters(sim: &Sim, who: Who, op: &Op, seen: Seen) -> Seen {
    let (Op::Read { path, .. }, Seen::Bytes(bytes)) = (op, &seen) else { return seen };
    let other = DOMAINS.iter().find(|number| path.ends_with(&format!("{}.json", UUIDS[**number])));
    match other {
        Some(number)
            if who != RECONCILE && *number != usize::from(who) && !sim.has_lock(who, LOCKS[*number]) =>
        {
            let mut text = String::from_utf8_lossy(bytes).into_owned();
            for state in ["intended", "done", "undoing"] {
                text = text.replace(&format!("\"state\":\"{state}\""), "");
            }
            for phase in ["preparing", "prepared", "starting"] {
                text = text.replace(&format!("\"phase\":\"{phase}\""), "");
            }
            Seen::Text(text)
        }
        _ => seen,
    }
}

pub(super) fn reconciled(host: &Host) -> Ended {
    cli::reconcile::run(host, false, false).map_err(|failure| format!("{}{}", failure.before, failure.text))
}
