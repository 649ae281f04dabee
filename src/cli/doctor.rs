//! `virt-mdev doctor`: what on this host would keep a domain from its devices, each finding with its fix.

mod domains;
mod hook;
mod machine;

use std::fmt::Write as _;

use serde::Serialize;

use super::list::warn_without_root;
use super::virsh::virsh;
use super::{Failure, reconcile, to_json};
use crate::config::Config;
use crate::host::libvirt::{self, Daemon};
use crate::host::{Host, Trouble, definitions, programs};
use crate::ids::MdevUuid;
use crate::qemu_conf::{self, QemuConf};

/// What `--fix` can do about a finding: nothing that a running domain, or anybody else's work, would notice.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    /// Link the hook to where libvirt looks.
    Link,
    /// Make the daemon look for hooks.
    Tell(Daemon),
    /// Let everybody ask VFIO for a container, as the kernel and udev have it.
    Open,
    /// Load a module that the kernel has.
    Load(&'static str),
    /// Take away what nobody answers for.
    Reconcile,
}

/// One finding, and one element of `--json` (packaging/schema/doctor.json).
#[derive(Debug, Serialize)]
struct Finding {
    /// What is wrong.
    what: String,
    /// What comes of it.
    why: &'static str,
    /// What to do about it; the lines of it stand alone, to be copied.
    fix: String,
    /// Whether `--fix` does it.
    fixable: bool,
    #[serde(skip)]
    act: Option<Act>,
}

impl Finding {
    fn new(what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Self {
        Self { what: what.into(), why, fix: fix.into(), fixable: false, act: None }
    }

    fn with(self, act: Act) -> Self {
        Self { fixable: true, act: Some(act), ..self }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    fixed: &'a [String],
    findings: &'a [Finding],
    notes: &'a [String],
}

pub(super) fn run(host: &Host, fix: bool, json: bool) -> Result<String, Failure> {
    let mut fixed = Vec::new();
    if fix {
        for finding in look(host)? {
            let Some(act) = &finding.act else { continue };
            match mend(host, act) {
                Ok(done) => fixed.push(format!("{}: {done}", finding.what)),
                Err(failure) => log::warn!("not fixed: {}: {}", finding.what, failure.text),
            }
        }
    }
    let findings = look(host)?;
    warn_without_root(host);
    let notes: Vec<String> = who_brings_up(host)?.into_iter().collect();
    let number = findings.len();
    let text = format!("{number} problem{} found", if number == 1 { "" } else { "s" });
    let mut said = String::new();
    if json {
        said = to_json(&Report { version: 1, fixed: &fixed, findings: &findings, notes: &notes })?;
    } else {
        for fixed in &fixed {
            let _ = writeln!(said, "fixed: {fixed}");
        }
        for note in &notes {
            let _ = writeln!(said, "note: {note}");
        }
        if findings.is_empty() {
            said.push_str("Nothing found that would keep a domain from its devices.\n");
        }
        for Finding { what, why, fix, .. } in &findings {
            let _ = writeln!(said, "problem: {what}\nwhy: {why}\nfix: {fix}");
        }
    }
    if findings.is_empty() {
        return Ok(said);
    }
    let hint = findings
        .iter()
        .any(|finding| finding.fixable)
        .then(|| "`virt-mdev doctor --fix` does what is safe".to_owned());
    Err(Failure { before: said, text, hint })
}

/// All that is wrong, the most general first.
fn look(host: &Host) -> Result<Vec<Finding>, Trouble> {
    let mut findings = hook::look(host);
    let config = match Config::load(host) {
        Ok((config, unknown)) => {
            let path = crate::config::PATH;
            findings.extend(unknown.into_iter().map(|unknown| {
                Finding::new(
                    format!("/{path}: {unknown}"),
                    "what it was to say is not done",
                    "correct that line",
                )
            }));
            config
        }
        Err(refusal) => {
            findings.push(Finding::new(
                refusal.to_string(),
                "every start with mediated devices is refused",
                "correct it",
            ));
            Config::default()
        }
    };
    if !config.enabled {
        findings.push(Finding::new(
            format!("/{}: enabled = false", crate::config::PATH),
            "no domain gets its devices",
            "set it to true, unless that is what you want",
        ));
    }
    let conf = match QemuConf::parse(&host.text(qemu_conf::PATH)?) {
        Ok(conf) => conf,
        Err(why) => {
            findings.push(Finding::new(
                format!("/{}: {why}", qemu_conf::PATH),
                "neither libvirt nor virt-mdev knows what QEMU is to run as",
                "correct that line",
            ));
            QemuConf::default()
        }
    };
    findings.extend(domains::look(host, &config, &conf)?);
    findings.extend(machine::look(host)?);
    if let (true, Some(rule)) = (config.autostart, definitions::mdevctl_starts(host)) {
        findings.push(Finding::new(
            format!("udev.autostart is set and does nothing: {rule} has mdevctl bring up what is defined"),
            "two that bring up the same devices would meet",
            "leave it to mdevctl, or: ln -s /dev/null /etc/udev/rules.d/60-mdevctl.rules",
        ));
    }
    Ok(findings)
}

fn mend(host: &Host, act: &Act) -> Result<String, Failure> {
    match act {
        Act::Link => {
            libvirt::link(host)?;
            // A daemon that runs is the next look's.
            if let Some(daemon) = libvirt::running(host).filter(|daemon| !libvirt::sees_hooks(host, daemon)) {
                tell(host, &daemon)?;
            }
            Ok(format!("linked /{} to /{}", libvirt::HOOK, libvirt::PROGRAM))
        }
        Act::Tell(daemon) => {
            tell(host, daemon)?;
            Ok(format!("told {} (pid {})", daemon.name, daemon.pid))
        }
        Act::Open => {
            host.set_mode(machine::CONTAINER, 0o666)?;
            Ok(format!("/{} is 0666", machine::CONTAINER))
        }
        Act::Load(module) => {
            programs::load_module(module)?;
            Ok("loaded, until the next boot".to_owned())
        }
        Act::Reconcile => Ok(reconcile::run(host, false, false)?.trim_end().replace('\n', "; ")),
    }
}

/// A daemon that is only beginning drops the signal (`daemonReloadHandler`). It answers once it has begun.
fn tell(host: &Host, daemon: &Daemon) -> Result<(), Failure> {
    // What virsh says is no matter, nor whether there is one.
    let _ = virsh(&["uri"]);
    Ok(libvirt::tell(host, daemon)?)
}

/// Who brings up what is defined, where something is.
fn who_brings_up(host: &Host) -> Result<Option<String>, Trouble> {
    let mut any = false;
    for parent in definitions::parents(host)? {
        any |= definitions::names(host, &parent)?.iter().any(|name| MdevUuid::parse(name).is_ok());
    }
    let who = match (definitions::mdevctl_starts(host), Config::load_or_default(host).autostart) {
        _ if !any => return Ok(None),
        (Some(rule), _) => format!("mdevctl, by {rule}"),
        (None, true) => "virt-mdev (udev.autostart)".to_owned(),
        (None, false) => "nobody: set udev.autostart in /etc/virt-mdev/config.toml".to_owned(),
    };
    Ok(Some(format!("what /etc/mdevctl.d has with \"start\": \"auto\" is brought up by {who}")))
}
