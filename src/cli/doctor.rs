//! `virt-mdev doctor`: what on this host would keep a domain from its devices, each finding with its fix.

use std::fmt::Write as _;

use super::Failure;
use crate::config::Config;
use crate::domain::Domain;
use crate::host::{Host, Trouble, daemon, definitions, node};
use crate::ids::{DeviceId, MdevUuid, Node};
use crate::qemu_conf::QemuConf;
use crate::refusal::Refusal;
use crate::startable::{self, QEMU_CONF};
use crate::words::printable;

/// Where libvirt keeps the definitions of its domains.
const DOMAINS: &str = "etc/libvirt/qemu";
const HOOK: &str = "etc/libvirt/hooks/qemu.d/50-virt-mdev";
/// libvirt's daemon, monolithic or modular.
const PIDS: [&str; 2] = ["run/libvirtd.pid", "run/virtqemud.pid"];

struct Finding {
    what: String,
    fix: String,
}

pub(super) fn run(host: &Host) -> Result<String, Failure> {
    let mut findings = Vec::new();
    let mut find = |what: String, fix: String| findings.push(Finding { what, fix });
    if !host.exists(HOOK) {
        find(
            format!("libvirt does not call virt-mdev: /{HOOK} is not there"),
            "install the package again, or: ln -s /usr/bin/virt-mdev-hook /etc/libvirt/hooks/qemu.d/50-virt-mdev"
                .to_owned(),
        );
    }
    let conf = match QemuConf::parse(&host.text(QEMU_CONF)?) {
        Ok(conf) => conf,
        Err(why) => {
            find(format!("/{QEMU_CONF}: {why}"), "correct that line".to_owned());
            QemuConf::default()
        }
    };
    for (name, refusal) in by_argument(host, &conf)? {
        // The lines of the fix stand alone, to be copied.
        let fix = match &refusal {
            Refusal::NotInNamespace { verb, lines, .. } => {
                format!("{verb} /{QEMU_CONF}, and restart libvirt's daemon:\n{lines}")
            }
            refusal => refusal.hint().unwrap_or_default(),
        };
        find(format!("{name}: {refusal}"), fix);
    }
    if let (true, Some(rule)) = (Config::load_or_default(host).autostart, definitions::mdevctl_starts(host)) {
        find(
            format!("udev.autostart is set and does nothing: {rule} has mdevctl bring up what is defined"),
            "leave it to mdevctl, or: ln -s /dev/null /etc/udev/rules.d/60-mdevctl.rules".to_owned(),
        );
    }
    let mut said = who_brings_up(host)?;
    if findings.is_empty() {
        said.push_str("Nothing found that would keep a domain from its devices.\n");
        return Ok(said);
    }
    for Finding { what, fix } in &findings {
        let _ = writeln!(said, "problem: {what}\nfix: {fix}");
    }
    let number = findings.len();
    let text = format!("{number} problem{} found", if number == 1 { "" } else { "s" });
    Err(Failure { before: said, text, hint: None })
}

/// Who brings up what is defined, where something is.
fn who_brings_up(host: &Host) -> Result<String, Trouble> {
    let mut any = false;
    for parent in definitions::parents(host)? {
        any |= definitions::names(host, &parent)?.iter().any(|name| MdevUuid::parse(name).is_ok());
    }
    let who = match (definitions::mdevctl_starts(host), Config::load_or_default(host).autostart) {
        _ if !any => return Ok(String::new()),
        (Some(rule), _) => format!("mdevctl, by {rule}"),
        (None, true) => "virt-mdev (udev.autostart)".to_owned(),
        (None, false) => "nobody: set udev.autostart in /etc/virt-mdev/config.toml".to_owned(),
    };
    Ok(format!("note: what /etc/mdevctl.d has with \"start\": \"auto\" is brought up by {who}\n"))
}

/// Domains that name devices in `<qemu:commandline>`, and why QEMU could not open those.
fn by_argument(host: &Host, conf: &QemuConf) -> Result<Vec<(String, Refusal)>, Trouble> {
    let pid = PIDS.iter().find_map(|file| host.read(file).ok()?.trim().parse().ok());
    let lockable = pid.and_then(|pid| daemon::lockable(host, pid));
    let mut found = Vec::new();
    for file in host.names(DOMAINS)?.iter().filter(|file| file.ends_with(".xml")) {
        // A definition of somebody else's that we cannot read is not what is asked about.
        let Ok(xml) = host.read_whole(&format!("{DOMAINS}/{file}")) else { continue };
        let Ok(domain) = Domain::read(&xml) else { continue };
        if !domain.sysfsdevs.is_empty() {
            // A device that is not there now will have a group's node of some number.
            let alone = |device: &&DeviceId| domain.has_argument_only(device);
            let devices: Vec<DeviceId> = domain.sysfsdevs.iter().cloned().map(DeviceId::Mdev).collect();
            let mut nodes = Vec::new();
            for device in devices.iter().filter(alone) {
                let of_it = node::of(host, device).unwrap_or_default().into_iter().find(Node::is_group);
                nodes.extend(of_it.or_else(|| Node::parse("vfio/0").ok()));
            }
            let judged = startable::judge(&domain, &nodes, conf, lockable);
            found.extend(judged.err().map(|refusal| (printable(&domain.name).to_string(), refusal)));
        }
    }
    Ok(found)
}
