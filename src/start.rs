//! The start event: libvirt has chosen the domain's labels and has not forked QEMU yet. What the nodes of its devices
//! carry then is what its QEMU finds, in a `/dev` of its own that libvirt copies from the host's.

use crate::accounts::Accounts;
use crate::config::{Config, Labels};
use crate::domain::Domain;
use crate::execute::{self, Means};
use crate::host::daemon::Process;
use crate::host::{Host, daemon, node};
use crate::ids::{DeviceId, Node};
use crate::labels::{self, Carrying};
use crate::plan::Plan;
use crate::qemu_conf::{self, QemuConf};
use crate::record::{Phase, Record, Records, State};
use crate::refusal::Refusal;
use crate::startable;

/// There where SELinux is loaded, enforcing or not (`is_selinux_enabled`).
const SELINUX: &str = "sys/fs/selinux/enforce";

/// Labels the nodes of a domain that has a record.
pub fn start(host: &Host, config: Config, xml: &[u8]) -> Result<(), Refusal> {
    if !config.enabled {
        return Ok(());
    }
    let domain = Domain::read(xml)?;
    let records = Records::new(host);
    let means = Means { host, records: &records, waits: config.waits };
    let mut guard = records.lock(&domain.uuid, means.waits.lock)?;
    // Another phase is that of an earlier run, which a hook that is switched off has not settled.
    let begun = |record: &&Record| matches!(record.phase, Phase::Prepared | Phase::Starting);
    let Some(record) = guard.record().filter(begun) else { return Ok(()) };
    let plan = plan(host, &domain, record, config.labels)?;
    execute::label(means, &mut guard, &plan)
}

/// What start does about the nodes of the devices in a domain's record.
pub fn plan(host: &Host, domain: &Domain, record: &Record, when: Labels) -> Result<Plan, Refusal> {
    if when == Labels::Never {
        return Ok(Plan::default());
    }
    let conf = conf(host, domain)?;
    let labels = labels(host, domain, &conf)?;
    let mut nodes = Vec::new();
    for (device, ..) in record.devices().filter(|(.., state)| !matches!(state, State::Kept | State::Undoing))
    {
        for node in node::of(host, device)? {
            let carried = node::carried(host, &node)?;
            nodes.push(Carrying { device: device.clone(), node, carried });
        }
    }
    let by_libvirt = |device: &_| conf.dynamic_ownership && domain.has_hostdev(device);
    nodes.retain(|node| when == Labels::Always || !by_libvirt(&node.device));
    Ok(labels::plan(domain, &labels, &nodes, &record.steps))
}

/// Whether the labels that a domain's author wrote can be given to a node.
pub fn judge_labels(host: &Host, domain: &Domain, when: Labels) -> Result<(), Refusal> {
    if when != Labels::Never && !domain.seclabels.is_empty() {
        labels(host, domain, &QemuConf::default())?;
    }
    Ok(())
}

/// What stands in the way of a start already at prepare: labels that its author wrote himself, and what a hook cannot do
/// for devices that libvirt does not know of. `made`: the domain's devices, once they are there.
pub fn judge(
    host: &Host,
    domain: &Domain,
    when: Labels,
    caller: Option<Process>,
    made: &[DeviceId],
) -> Result<(), Refusal> {
    if made.is_empty() {
        judge_labels(host, domain, when)?;
    }
    if domain.sysfsdevs.is_empty() {
        return Ok(());
    }
    let mut nodes = Vec::new();
    for device in made.iter().filter(|device| domain.has_argument_only(device)) {
        // By the device's own node QEMU would be given a descriptor, and such a domain cannot give it one.
        nodes.extend(node::of(host, device)?.into_iter().filter(Node::is_group));
    }
    let lockable = caller.and_then(|caller| daemon::lockable(host, caller.pid));
    startable::judge(domain, &nodes, &conf(host, domain)?, lockable)
}

/// The labels of a domain, or what is wrong with them. Those that the domain's author wrote are in the XML from the
/// beginning.
fn labels(host: &Host, domain: &Domain, conf: &QemuConf) -> Result<labels::Labels, Refusal> {
    let accounts = Accounts::new(&host.text("etc/passwd")?, &host.text("etc/group")?);
    let mut labels = labels::labels(&domain.seclabels, conf, &accounts)?;
    if let Some(profile) = labels.profile.as_ref().filter(|profile| !profile.is_of(&domain.uuid)) {
        let why = "the profile of another domain".to_owned();
        return Err(Refusal::Seclabel { model: "apparmor", value: profile.to_string(), why });
    }
    if host.kind(SELINUX)?.is_none() {
        labels.context = None;
    }
    Ok(labels)
}

/// libvirt's configuration of QEMU. One that libvirt would not start with is no reason to stop a domain that says itself
/// what it needs.
fn conf(host: &Host, domain: &Domain) -> Result<QemuConf, Refusal> {
    match QemuConf::parse(&host.text(qemu_conf::PATH)?) {
        Err(why) if domain.sysfsdevs.is_empty() && labels::names_an_owner(&domain.seclabels) => {
            log::warn!("/{}: {why}; the defaults hold", qemu_conf::PATH);
            Ok(QemuConf::default())
        }
        parsed => parsed.map_err(|why| Refusal::Config { path: format!("/{}", qemu_conf::PATH), why }),
    }
}
