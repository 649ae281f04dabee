//! Which labels the nodes of a domain's devices must carry: `<seclabel>`s, `qemu.conf` and accounts → [`Labels`].
//!
//! At `start` libvirt has chosen the labels and written them into the XML. What is malformed is refused whole, before
//! anything is written anywhere: the texts end in `chown`, in an extended attribute and in a file's name.

use serde::{Deserialize, Serialize};

use crate::accounts::Accounts;
use crate::domain::Seclabel;
use crate::ids::{Context, Profile};
use crate::qemu_conf::QemuConf;
use crate::refusal::Refusal;
use crate::startable::QEMU_CONF;
use crate::words::printable;

/// Whom libvirt's packages run QEMU as, where `qemu.conf` names nobody: Debian, Ubuntu and Arch, then Fedora and SUSE.
const DEFAULT_USERS: [&str; 2] = ["libvirt-qemu", "qemu"];

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
        path: format!("/{QEMU_CONF}"),
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
