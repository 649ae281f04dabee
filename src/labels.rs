//! Which labels the nodes of a domain's devices must carry: `<seclabel>`s, `qemu.conf` and accounts → [`Labels`].
//!
//! At `start` libvirt has chosen the labels and written them into the XML. What is malformed is refused whole, before
//! anything is written anywhere: the texts end in `chown`, in an extended attribute and in a file's name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::accounts::Accounts;
use crate::domain::{Domain, Seclabel};
use crate::ids::{Context, DeviceId, Node, Profile};
use crate::plan::{Plan, Planned};
use crate::qemu_conf::{self, QemuConf};
use crate::record::Entry;
use crate::refusal::Refusal;
use crate::step::Step;
use crate::words::printable;

/// Whom libvirt's packages run QEMU as, where `qemu.conf` names nobody: Debian, Ubuntu and Arch, then Fedora and SUSE.
const DEFAULT_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

/// Read and write, for the owner.
const USABLE: u32 = 0o600;

/// Longest label that libvirt keeps, in bytes (`VIR_SECURITY_LABEL_BUFLEN` less its NUL).
const MAX_LABEL: usize = 4096;

/// Owner and group of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// As [`labels`] makes it, never 4294967295.
    pub uid: u32,
    /// Likewise.
    pub gid: u32,
}

/// What a node carries, or is to: a part that is `None` is not meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Owner and group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Permissions, without the type of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// SELinux context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self.owner.as_ref().map(|Owner { uid, gid }| format!("owner {uid}:{gid}"));
        let mode = self.mode.map(|mode| format!("mode {mode:04o}"));
        let context = self.context.as_ref().map(|context| format!("context {context}"));
        let parts: Vec<String> = [owner, mode, context].into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

/// `None` is a label that the domain does not want set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Whom QEMU runs as.
    pub owner: Option<Owner>,
    /// For a host with SELinux.
    pub context: Option<Context>,
    /// For a host with AppArmor: the profile that libvirt makes for this domain.
    pub profile: Option<Profile>,
}

/// What the XML, and where it says nothing `qemu.conf`, ask for.
pub fn labels(seclabels: &[Seclabel], conf: &QemuConf, accounts: &Accounts) -> Result<Labels, Refusal> {
    let owner = match said(seclabels, "dac") {
        Said::No => None,
        Said::Yes(seclabel) => match seclabel.imagelabel.as_ref().or(seclabel.label.as_ref()) {
            Some(label) => Some(owner(label, accounts)?),
            None => Some(default_owner(conf, accounts)?),
        },
        Said::Nothing => Some(default_owner(conf, accounts)?),
    };
    let context = match said(seclabels, "selinux") {
        Said::Yes(Seclabel { imagelabel: Some(label), .. }) => {
            Some(Context::parse(label).map_err(|bad| refuse("selinux", label, &bad))?)
        }
        _ => None,
    };
    let profile = match said(seclabels, "apparmor") {
        Said::Yes(Seclabel { label: Some(label), kind, .. }) => profile(label, kind)?,
        _ => None,
    };
    Ok(Labels { owner, context, profile })
}

/// Whether the XML itself says who owns the domain's nodes, or that nobody is to be given them.
pub fn names_an_owner(seclabels: &[Seclabel]) -> bool {
    match said(seclabels, "dac") {
        Said::Nothing => false,
        Said::No => true,
        Said::Yes(seclabel) => seclabel.imagelabel.is_some() || seclabel.label.is_some(),
    }
}

/// A node as it is before a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carrying {
    /// Whose it is.
    pub device: DeviceId,
    /// Which.
    pub node: Node,
    /// All that it carries.
    pub carried: Label,
}

/// A mode with which the owner of a node can use it, where it has another.
pub fn usable(mode: Option<u32>) -> Option<u32> {
    mode.filter(|mode| mode & USABLE != USABLE).map(|mode| mode | USABLE)
}

/// What start does about the nodes. `recorded`: what an earlier call of the same start did; what a node carried before
/// that one is what it will carry again.
pub fn plan(domain: &Domain, labels: &Labels, nodes: &[Carrying], recorded: &[Entry]) -> Plan {
    let mut plan = Plan::default();
    for Carrying { device, node, carried } in nodes {
        let (device, node) = (device.clone(), node.clone());
        let mut label = Label {
            owner: labels.owner.clone(),
            mode: usable(carried.mode).filter(|_| labels.owner.is_some()),
            context: labels.context.clone(),
        };
        let mut was = Label {
            owner: carried.owner.clone().filter(|_| label.owner.is_some()),
            // Whoever owns the node may change it.
            mode: carried.mode.filter(|_| label.owner.is_some()),
            context: carried.context.clone().filter(|_| label.context.is_some()),
        };
        let again = Step::Label {
            device: device.clone(),
            node: node.clone(),
            label: label.clone(),
            was: was.clone(),
        };
        let before = recorded.iter().find(|entry| entry.step.is_again(&again));
        if let Some(Step::Label { label: ours, was: before, .. }) = before.map(|entry| &entry.step) {
            label.mode = label.mode.or(ours.mode);
            was.owner = before.owner.clone().or(was.owner);
            was.mode = before.mode.or(was.mode);
            was.context = before.context.clone().or(was.context);
        }
        if label != Label::default() {
            let step = Step::Label { device: device.clone(), node: node.clone(), label, was };
            plan.steps.push(Planned { step, why: "so that the domain's QEMU can open it".to_owned() });
        }
        if let Some(profile) = labels.profile.clone().filter(|_| domain.has_argument_only(&device)) {
            let why = "the domain names the device in <qemu:commandline>, of which libvirt makes no rule"
                .to_owned();
            plan.steps.push(Planned { step: Step::Allow { device, node, profile }, why });
        }
    }
    plan
}

/// What the XML says for one security model.
enum Said<'a> {
    Nothing,
    /// `type='none'` or `relabel='no'`.
    No,
    Yes(&'a Seclabel),
}

/// `<seclabel type='none'/>` is for every model that has no label of its own: on a host without SELinux and AppArmor
/// libvirt writes `<seclabel type='none' model='none'/>` beside a `dac` label that holds.
fn said<'a>(seclabels: &'a [Seclabel], model: &str) -> Said<'a> {
    let own = |seclabel: &&Seclabel| seclabel.model.as_deref() == Some(model);
    let for_all = |seclabel: &&Seclabel| {
        seclabel.kind == "none" && matches!(seclabel.model.as_deref(), None | Some("none"))
    };
    match seclabels.iter().find(own).or_else(|| seclabels.iter().find(for_all)) {
        None => Said::Nothing,
        Some(seclabel) if seclabel.kind == "none" || !seclabel.relabel => Said::No,
        Some(seclabel) => Said::Yes(seclabel),
    }
}

/// `user:group`, split at the first colon as libvirt's `virParseOwnershipIds` does.
fn owner(label: &str, accounts: &Accounts) -> Result<Owner, Refusal> {
    let (user, group) =
        label.split_once(':').ok_or_else(|| refuse("dac", label, &"not of the form user:group"))?;
    let uid = accounts.uid(user).map_err(|why| refuse("dac", label, &format!("the user {why}")))?;
    let gid = accounts.gid(group).map_err(|why| refuse("dac", label, &format!("the group {why}")))?;
    Ok(Owner { uid, gid })
}

/// User and group stand in `qemu.conf` or are built into libvirt, each by itself.
fn default_owner(conf: &QemuConf, accounts: &Accounts) -> Result<Owner, Refusal> {
    let bad = |key: &str, value: &str, why: String| Refusal::Config {
        path: format!("/{}", qemu_conf::PATH),
        why: format!("{key} = \"{}\": the {key} {why}", printable(value)),
    };
    let built_in = built_in(accounts);
    let uid = match &conf.user {
        Some(user) => accounts.uid(user).map_err(|why| bad("user", user, why.to_string()))?,
        None => built_in.uid,
    };
    let gid = match &conf.group {
        Some(group) => accounts.gid(group).map_err(|why| bad("group", group, why.to_string()))?,
        None => built_in.gid,
    };
    Ok(Owner { uid, gid })
}

/// The distribution's choice. Its group has the user's name; on Debian that is not the user's primary group, which is
/// kvm there. Ubuntu builds kvm in: QEMU has the node by its user then, and the group less than libvirt would give.
fn built_in(accounts: &Accounts) -> Owner {
    let account = |user: &&str| {
        let primary = accounts.primary_gid(user)?;
        Some(Owner { uid: accounts.uid(user).ok()?, gid: accounts.gid(user).unwrap_or(primary) })
    };
    DEFAULT_USERS.iter().find_map(account).unwrap_or(Owner { uid: 0, gid: 0 })
}

/// A static profile is the administrator's own: libvirt makes no file for it to which a rule could be added.
fn profile(label: &str, kind: &str) -> Result<Option<Profile>, Refusal> {
    if kind != "static" {
        return Profile::parse(label).map(Some).map_err(|bad| refuse("apparmor", label, &bad));
    }
    if label.len() > MAX_LABEL || label.chars().any(char::is_control) {
        return Err(refuse("apparmor", label, &"no AppArmor profile has a name like this"));
    }
    Ok(None)
}

fn refuse(model: &'static str, value: &str, why: &impl ToString) -> Refusal {
    Refusal::Seclabel { model, value: value.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests;
