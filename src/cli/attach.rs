//! `virt-mdev attach` and `detach`: hot-plug, with the device's life around it. What the domain's definition says stays
//! as it is: that is `assign`'s.

mod live;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;

use super::assign::random_uuid;
use super::choose::{self, Chosen, Which, parsed};
use super::heir::Heir;
use super::virsh::virsh;
use super::{Failure, config, reconcile};
use crate::attach::{self, Made, answer, take};
use crate::config::Config;
use crate::domain::{Domain, Wanted, hostdev_xml};
use crate::execute::Means;
use crate::host::udev::Watch;
use crate::host::{Host, daemon, holders};
use crate::ids::{DeviceId, MdevUuid, Parent, TypeWish};
use crate::record::{Answers, Record, Records, State};
use crate::refusal::Refusal;
use crate::request::Request;
use crate::undo::Undone;
use crate::words::{plain_word, printable};

/// How often a domain is asked whether it still has the device.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Attach {
    /// Name or UUID of a running domain
    #[arg(value_name = "VM")]
    domain: String,
    /// The type's id, or the vendor's name for it
    #[arg(value_name = "TYPE", value_parser = parsed(TypeWish::parse))]
    wish: TypeWish,
    #[command(flatten)]
    which: Which,
    /// Make it and print its XML; attach it yourself
    #[arg(long)]
    prepare_only: bool,
    /// How long, if nobody opens it
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "prepare_only")]
    keep_for: u32,
}

#[derive(Args)]
pub(super) struct Detach {
    /// Name or UUID of a running domain
    #[arg(value_name = "VM")]
    domain: String,
    /// The device, as `virt-mdev list` names it
    #[arg(value_name = "UUID|ADDRESS", value_parser = parsed(DeviceId::parse))]
    device: DeviceId,
    /// How long the guest may take to let go
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u32,
}

/// The domain as it runs, and its XML.
fn running(vm: &str, otherwise: &str) -> Result<(Domain, String), Failure> {
    let of = format!("--domain={vm}");
    let state = virsh(&["domstate", &of])?;
    if !matches!(state.trim(), "running" | "idle" | "paused" | "pmsuspended") {
        let text = format!("{}: does not run ({})", printable(vm), printable(state.trim()));
        return Err(Failure::new(text).hint(otherwise));
    }
    let xml = virsh(&["dumpxml", &of])?;
    let domain = Domain::read(xml.as_bytes()).map_err(|refusal| Failure::from(refusal).about(vm))?;
    // To virsh a number is the id of what runs, before it is a name.
    if domain.name != vm && !domain.uuid.to_string().eq_ignore_ascii_case(vm) {
        let text = format!("{}: that is the id of {} for now", printable(vm), printable(&domain.name));
        return Err(Failure::new(text).hint("give its name or uuid"));
    }
    Ok((domain, xml))
}

/// The way for a domain that does not run; whose uuid nobody has told us.
fn for_next_start(vm: &str) -> String {
    let vm = plain_word(vm).unwrap_or("VM");
    format!("virt-mdev assign gives a device to its next start: virt-mdev assign {vm} …")
}

fn only_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new("only root may make and remove devices").hint("call it with sudo"))
}

pub(super) fn attach(host: &Host, arguments: &Attach) -> Result<String, Failure> {
    only_root()?;
    let config = config(host)?;
    let records = Records::new(host);
    let means = Means { host, records: &records, waits: config.waits };
    let (domain, xml) = running(&arguments.domain, &for_next_start(&arguments.domain))?;
    let wanted = arguments.which.wanted(&arguments.wish);
    let choose = || choose::choose(host, &xml, &wanted, 1, config.placement);
    let pick = || -> Result<Request, Failure> {
        let chosen = match choose() {
            // What dead starts left may not stand in the way.
            Err(Refusal::NoRoom { .. })
                if reconcile::run(host, false, true).is_ok_and(|said| !said.is_empty()) =>
            {
                choose()
            }
            chosen => chosen,
        };
        let device = match chosen.map_err(|refusal| Failure::from(refusal).about(&domain.name))? {
            Chosen::Mdev { .. } => DeviceId::Mdev(random_uuid(host)?),
            Chosen::Functions(functions) => DeviceId::Vf(
                functions
                    .into_iter()
                    .next()
                    .ok_or_else(|| Failure::from(Refusal::NoParents { clue: None }))?,
            ),
        };
        let wanted = Some(as_of(wanted.clone(), &device));
        Ok(Request { wanted, device, model: None, opened: true, managed: false })
    };
    let mut request = pick()?;
    let own = daemon::own(host)
        .ok_or_else(|| Failure::new("cannot find this very process in /proc").hint("is /proc mounted?"))?;
    let _heir = Heir::appoint(&domain.uuid)?;
    let (made, watch) = loop {
        // Before the device is, so that nothing is missed. A virtual function has had its node since its driver was bound.
        let is_new = matches!(request.device, DeviceId::Mdev(_));
        let watch = if is_new { Watch::start(host) } else { None };
        match attach::make(means, config, &domain, &request, Answers::Attach(own)) {
            Ok(made) => break (made, watch),
            // Somebody was faster, and has it: it is not chosen again.
            Err(refusal) if is_one_of_several(&refusal, &wanted.parents) => request = pick()?,
            Err(refusal) => return Err(failure(refusal).about(&domain.name)),
        }
    };
    let done = plug(means, config, &domain, (&request, &made), watch, arguments);
    let Err(failed) = done else { return done };
    let undone = take(means, &domain.uuid, &made.device, means.waits.release);
    let left = match &undone {
        Ok(undone) => undone.left.iter().map(|left| left.why.to_string()).next(),
        Err(trouble) => Some(trouble.to_string()),
    };
    Err(match left {
        None => failed.about(&domain.name),
        Some(why) => {
            let text = format!("{}; and device {} cannot be removed: {why}", failed.text, made.device);
            Failure { text, ..failed }.about(&domain.name)
        }
    })
}

/// Whether it is about a function that somebody else has got, and that a person has not named alone.
fn is_one_of_several(refusal: &Refusal, named: &[Parent]) -> bool {
    match refusal {
        Refusal::ClaimedByOther { device: DeviceId::Vf(address), .. }
        | Refusal::Reserved { device: DeviceId::Vf(address), .. } => *named != [address.as_parent()],
        _ => false,
    }
}

/// From a device that is there to one that the domain has.
fn plug(
    means: Means<'_>,
    config: Config,
    domain: &Domain,
    (request, made): (&Request, &Made),
    watch: Option<Watch>,
    arguments: &Attach,
) -> Result<String, Failure> {
    let Made { device, place, api } = made;
    attach::label(means, config, domain, device, watch).map_err(failure)?;
    let xml = hostdev_xml(device, if api.is_empty() { choose::USUAL_API } else { api });
    if arguments.prepare_only {
        let keep = Duration::from_secs(arguments.keep_for.into());
        let until = u64::try_from((means.host.now() + keep).as_millis()).unwrap_or(u64::MAX);
        answer(means, &domain.uuid, device, Answers::ByHand { until })?;
        return Ok(xml);
    }
    live::plug("attach-device", &domain.uuid, &xml)?;
    let mut said = format!("{}: attached {device}, {place}\n", printable(&domain.name));
    // The domain has it: that this cannot be written down is no reason to take it away again.
    if let Err(trouble) = answer(means, &domain.uuid, device, Answers::Plugged) {
        let _ = writeln!(said, "warning: {trouble}");
    }
    if let Some(Err(failure)) = request.wanted.as_ref().map(|wanted| live::describe(&domain.uuid, wanted)) {
        let _ = writeln!(
            said,
            "warning: its metadata does not say so, and what is saved or migrated lacks the device: {}",
            failure.text
        );
    }
    Ok(said)
}

/// A refusal, with the fix of a domain that runs where it has another one at a start.
fn failure(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Vanished { .. } | Refusal::MadeMeanwhile { .. } => Failure::new(refusal.to_string())
            .hint("attach it again; `virsh list` says whether the domain still runs"),
        _ => refusal.into(),
    }
}

/// The wish as it is for that device: of a function there is nothing left to choose.
fn as_of(wanted: Wanted, device: &DeviceId) -> Wanted {
    match device {
        DeviceId::Mdev(uuid) => Wanted { uuid: Some(uuid.clone()), ..wanted },
        DeviceId::Vf(address) => {
            Wanted { parents: vec![address.as_parent()], placement: None, numa: None, ..wanted }
        }
    }
}

/// The devices that a record says the domain has, and whether we made them.
fn recorded(record: Option<&Record>) -> Vec<(&DeviceId, bool)> {
    let devices = record.into_iter().flat_map(Record::devices);
    devices.filter(|(.., state)| *state != State::Kept).map(|(device, _, made, _)| (device, made)).collect()
}

pub(super) fn detach(host: &Host, arguments: &Detach) -> Result<String, Failure> {
    only_root()?;
    let records = Records::new(host);
    // No mistake in the configuration keeps a device.
    let means = Means { host, records: &records, waits: Config::load_or_default(host).waits };
    let (device, wait) = (&arguments.device, Duration::from_secs(arguments.wait.into()));
    let (domain, _) = running(
        &arguments.domain,
        "its devices went with it; `virt-mdev unassign` takes one out of its definition",
    )?;
    let name = printable(&domain.name).to_string();
    let _heir = Heir::appoint(&domain.uuid)?;
    let record = records.read(&domain.uuid)?;
    let recorded = recorded(record.as_ref());
    let made = recorded.iter().find(|(its, _)| *its == device).map(|(_, made)| *made);
    if domain.has_argument_only(device) {
        return Err(Failure::new(format!(
            "{name}: names {device} in <qemu:commandline> only, and QEMU does not let go of that while it runs"
        ))
        .hint("stop the domain: its release takes away what virt-mdev made"));
    }
    if made.is_some() {
        // A guest that answers late lets it go behind our back.
        answer(means, &domain.uuid, device, Answers::Plugged)?;
    }
    if domain.has_hostdev(device) {
        let api = host_api(&domain, device);
        live::plug("detach-device", &domain.uuid, &hostdev_xml(device, &api))
            .map_err(|failure| failure.about(&domain.name))?;
        let held = || made == Some(true) && holders::is_held(host, device).unwrap_or(false);
        let of = format!("--domain={}", domain.uuid);
        let ended = let_go(&name, &of, device, wait, &held)?;
        if ended {
            return Ok(format!("{name}: has ended, and its devices with it\n"));
        }
    } else if made.is_none() {
        let hostdevs = domain.mdevs.iter().map(|its| its.uuid.to_string());
        let has: BTreeSet<_> = hostdevs.chain(recorded.iter().map(|(its, _)| its.to_string())).collect();
        let has: Vec<_> = has.into_iter().collect();
        let hint =
            if has.is_empty() { "it has none".to_owned() } else { format!("it has {}", has.join(", ")) };
        return Err(Failure::new(format!("{name}: has no device {device}")).hint(hint));
    }
    // What is left in it means nothing any more.
    if let Err(failure) = live::tidy(&domain.uuid) {
        log::info!("{name}: its metadata names {device} until it ends: {}", failure.text);
    }
    let Some(made) = made else { return Ok(stays(&name, device, NOT_OURS)) };
    let undone = take(means, &domain.uuid, device, means.waits.release)?;
    let record = records.read(&domain.uuid).ok().flatten();
    let mut devices = record.iter().flat_map(Record::devices);
    let kept = devices.any(|(its, .., state)| its == device && state == State::Kept);
    detached(&name, device, made, kept, undone)
}

const NOT_OURS: &str = "virt-mdev did not make it";

fn stays(name: &str, device: &DeviceId, why: &str) -> String {
    format!("{name}: detached {device}, which stays: {why}\n")
}

/// What is said of a device that the domain has let go. `made`: by us; `kept`: it is, by the record.
fn detached(
    name: &str,
    device: &DeviceId,
    made: bool,
    kept: bool,
    undone: Undone,
) -> Result<String, Failure> {
    match undone.left.into_iter().next() {
        Some(left) => Err(Failure::new(format!(
            "{name}: has let go of {device}, and {}: {}",
            if made { "it cannot be removed" } else { "its label stays" },
            left.why
        ))
        .hint("it stays recorded and is tried again; `virt-mdev list` shows it")),
        None if !made => Ok(stays(name, device, NOT_OURS)),
        None if kept => {
            let why = format!("the domain keeps it; `virt-mdev release --force {device}` removes it");
            Ok(stays(name, device, &why))
        }
        None if undone.done.is_empty() => Ok(format!("{name}: detached {device}\n")),
        None => Ok(undone
            .done
            .iter()
            .fold(String::new(), |said, step| said + &format!("{name}: detached, {step}\n"))),
    }
}

fn host_api(domain: &Domain, device: &DeviceId) -> String {
    let its = |uuid: &MdevUuid| matches!(device, DeviceId::Mdev(its) if its == uuid);
    domain
        .mdevs
        .iter()
        .find(|hostdev| its(&hostdev.uuid))
        .map(|hostdev| hostdev.model.clone())
        .unwrap_or_default()
}

/// Waits until the domain has the device no more. `Ok(true)`: it has ended. libvirt takes the device out of its XML
/// when QEMU says that the guest has let it go (`DEVICE_DELETED`), and virsh waits for that for a few seconds only.
/// `held`: somebody has it open; asked once libvirt says that the domain has not.
fn let_go(
    name: &str,
    of: &str,
    device: &DeviceId,
    wait: Duration,
    held: &dyn Fn() -> bool,
) -> Result<bool, Failure> {
    let begun = Instant::now();
    let mut stderr = io::stderr().lock();
    let terminal = stderr.is_terminal();
    let mut told = false;
    let done = loop {
        match virsh(&["domstate", of]) {
            Ok(state) if state.trim() == "shut off" => break Ok(true),
            // A transient domain that has ended is none.
            Err(failure)
                if failure.text.contains("Domain not found")
                    || failure.text.contains("failed to get domain") =>
            {
                break Ok(true);
            }
            Err(failure) => break Err(failure.about(name)),
            Ok(_) => {}
        }
        let xml = virsh(&["dumpxml", of]).map_err(|failure| failure.about(name))?;
        let domain = Domain::read(xml.as_bytes()).map_err(|refusal| Failure::from(refusal).about(name))?;
        if !domain.has_hostdev(device) && !held() {
            break Ok(false);
        }
        let waited = begun.elapsed();
        if waited >= wait {
            break Err(Failure::new(
                format!(
                    "{name}: the guest has not let go of {device} within {} s; the domain still has it",
                    wait.as_secs()
                )).hint(
                "an operating system that answers hot-unplug must run in it; if it lets go later, `virt-mdev reconcile` (a timer runs it) takes the device away",
            ));
        }
        if terminal {
            let _ = write!(
                stderr,
                "\r{name}: waiting for the guest to let go of {device}: {} s of {} ",
                waited.as_secs(),
                wait.as_secs()
            );
        } else if !told {
            let _ = writeln!(
                stderr,
                "{name}: waiting for the guest to let go of {device}, {} s at most",
                wait.as_secs()
            );
        }
        told = true;
        sleep(LOOK_AGAIN.min(wait.saturating_sub(waited)));
    };
    if terminal && told {
        let _ = writeln!(stderr);
    }
    done
}

#[cfg(test)]
mod tests;
