//! One call of libvirt's hook, from its arguments to its exit status.

use std::ffi::OsString;
use std::io::{self, Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, getppid};

use crate::arrive;
use crate::backend;
use crate::config::Config;
use crate::domain::{self, Domain, MAX_XML};
use crate::event::{Action, Call};
use crate::execute::Means;
use crate::host::worker::Ended;
use crate::host::{Host, daemon, journal, worker};
use crate::ids::DomainUuid;
use crate::prepare::prepare;
use crate::record::{Answers, Phase, Records, State};
use crate::refusal::Refusal;
use crate::start;
use crate::undo::{self, Sweep};
use crate::words::{errno, printable};

/// What `virt-mdev-hook` does. `args` are its arguments without the program's name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    // Session daemons run the system's hooks too, as their user.
    if !rustix::process::geteuid().is_root() {
        return ExitCode::SUCCESS;
    }
    // What we make is to be readable for all whatever the daemon's umask is.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let host = Host::real();
    let args: Vec<String> = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let Some(call) = Call::parse(&args) else { return ExitCode::SUCCESS };
    // Before anything is waited for.
    let parent = getppid();
    let act = || match call.event.action() {
        Action::Nothing => Ok(()),
        Action::Prepare => begin_prepare(&host, &call, parent),
        Action::Label => begin_label(&host, &call),
        Action::Follow => follow(&host, &call),
        Action::Compare => hand_over(&host, &call, compare),
        Action::Release => hand_over(&host, &call, release),
        Action::Arrive => begin_arrive(&host, &call, parent),
    };
    if !call.event.action().may_refuse() {
        return never_fail(&call, act);
    }
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            refuse(&call, &refusal);
            ExitCode::FAILURE
        }
    }
}

/// Not for anything, a mistake of ours included.
fn never_fail(call: &Call, act: impl FnOnce() -> Result<(), Refusal>) -> ExitCode {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => refuse(call, &refusal),
        Err(_) => tell(call, || log_defect(call)),
    }
    ExitCode::SUCCESS
}

fn log_defect(call: &Call) {
    log::error!("{}: a defect of virt-mdev; the record is as it was last written", call.event.word());
}

/// What the worker had to say has been passed on already.
fn refuse(call: &Call, refusal: &Refusal) {
    if !matches!(refusal, Refusal::Told) {
        tell(call, || log_refusal(refusal));
        show(&call.name, refusal);
    }
}

/// The one place outside `src/cli` that tells people: libvirt shows this to the user of `virsh`.
fn show(name: &str, refusal: &Refusal) {
    // Nobody reads it: nothing to do about that.
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {}: {refusal}", printable(name));
    if let Some(hint) = refusal.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
}

fn log_refusal(refusal: &Refusal) {
    log::error!("{refusal}");
    if let Some(hint) = refusal.hint() {
        log::error!("hint: {hint}");
    }
}

/// A worker's exit status when it has told why not.
const REFUSED: i32 = 1;

/// What a release, which goes by the UUID alone, reads of the XML.
const MAX_SCAN: usize = 64 * 1024;

/// At most `limit` bytes of stdin; libvirt does not mind that the rest is left.
fn read_stdin(limit: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(limit.min(64 * 1024));
    // An error leaves what came before it, and that is judged.
    let _ = io::stdin().lock().take(limit as u64).read_to_end(&mut bytes);
    bytes
}

/// Has a worker do `work`, and waits for it. A refusal it tells itself.
fn delegate(call: &Call, limit: Duration, work: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Refusal> {
    let worker = |how| Refusal::Worker { how };
    let ended = worker::run(limit, || {
        journal::start(&call.name);
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => 0,
            Ok(Err(refusal)) => {
                log_refusal(&refusal);
                show(&call.name, &refusal);
                REFUSED
            }
            Err(panic) => {
                log_defect(call);
                resume_unwind(panic)
            }
        }
    });
    let not_started = |error| worker(format!("could not be started, or not followed: {}", errno(&error)));
    match ended.map_err(not_started)? {
        Ended::Exited(status) if status.success() => Ok(()),
        Ended::Exited(status) if status.code() == Some(REFUSED) => Err(Refusal::Told),
        Ended::Exited(status) => Err(worker(format!("ended with {status}"))),
        Ended::Blocked(doing) => Err(Refusal::Blocked { doing, limit }),
    }
}

/// The same for what a mistake in the configuration does not stop: it is told in the journal, by the worker, since
/// whoever writes there may have to wait, too.
fn forgiving(
    host: &Host,
    call: &Call,
    work: impl FnOnce(Config) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let limit = Config::load_or_default(host).waits.driver;
    delegate(call, limit, || work(Config::load_or_default(host)))
}

/// How long the journal may take for a line.
const TELLING: Duration = Duration::from_secs(2);

/// Tells the journal what no worker has told. In one, since whoever writes there waits while it is full.
fn tell(call: &Call, what: impl FnOnce()) {
    let tell = || {
        journal::start(&call.name);
        what();
        0
    };
    // Without memory for it, stderr has to do.
    let _ = worker::run(TELLING, tell);
}

fn begin_prepare(host: &Host, call: &Call, parent: Option<Pid>) -> Result<(), Refusal> {
    let xml = read_stdin(MAX_XML + 1);
    let Some(domain) = read_domain(host, &xml)? else { return Ok(()) };
    if domain.is_plain() {
        // What an earlier run left is cleared up, and stops nobody who wants nothing.
        if Records::new(host).has(&domain.uuid) {
            let cleared = forgiving(host, call, |config| match config.enabled {
                true => prepare(host, config, domain, None),
                false => Ok(()),
            });
            if let Err(refusal) = cleared {
                refuse(call, &refusal);
            }
        }
        return Ok(());
    }
    let (config, warnings) = Config::load(host)?;
    if !config.enabled {
        return Ok(());
    }
    let caller = daemon::caller(host, parent)?;
    delegate(call, config.waits.driver, || {
        for warning in warnings {
            log::warn!("/{}: {warning}", crate::config::PATH);
        }
        prepare(host, config, domain, caller)
    })
}

/// Nothing where the XML is not to our taste, and we are switched off: then nobody asks for our taste.
fn read_domain(host: &Host, xml: &[u8]) -> Result<Option<Domain>, Refusal> {
    match Domain::read(xml) {
        Err(_) if Config::load(host).is_ok_and(|(config, _)| !config.enabled) => Ok(None),
        read => read.map(Some),
    }
}

/// A domain comes from another host, or out of a file.
fn begin_arrive(host: &Host, call: &Call, parent: Option<Pid>) -> Result<(), Refusal> {
    let xml = read_stdin(MAX_XML + 1);
    if read_domain(host, &xml)?.is_none_or(|domain| domain.is_plain()) {
        return Ok(());
    }
    let (config, _) = Config::load(host)?;
    if !config.enabled {
        return Ok(());
    }
    let caller = daemon::caller(host, parent)?;
    let mut answer = worker::answer().map_err(|error| cannot_answer(&error))?;
    delegate(call, config.waits.driver, || {
        let records = Records::new(host);
        let means = Means { host, records: &records, waits: config.waits };
        let another = arrive::arrive(means, config, &xml, caller)?.unwrap_or_default();
        (&answer).write_all(another.as_bytes()).map_err(|error| cannot_answer(&error))
    })?;
    let mut stdout = io::stdout().lock();
    // libvirt takes it in place of the XML that it has given; nothing: that one is right.
    let given =
        answer.rewind().and_then(|()| io::copy(&mut answer, &mut stdout)).and_then(|_| stdout.flush());
    given.map_err(|error| cannot_answer(&error))
}

fn cannot_answer(error: &io::Error) -> Refusal {
    Refusal::Io { what: "cannot give the XML to libvirt".to_owned(), why: errno(error) }
}

/// The labels are in the XML; a domain without a record has no use for them.
fn begin_label(host: &Host, call: &Call) -> Result<(), Refusal> {
    let mut xml = read_stdin(MAX_SCAN);
    if whose(&Records::new(host), &call.name, &xml).is_none() {
        return Ok(());
    }
    xml.append(&mut read_stdin(MAX_XML + 1 - xml.len()));
    forgiving(host, call, |config| start::start(host, config, &xml))
}

/// For events that go by the record alone.
fn hand_over(
    host: &Host,
    call: &Call,
    work: impl FnOnce(&Host, Config, &DomainUuid) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let Some(domain) = whose(&Records::new(host), &call.name, &read_stdin(MAX_SCAN)) else { return Ok(()) };
    forgiving(host, call, |config| work(host, config, &domain))
}

/// The domain that the call is about: the UUID of its XML, or else what was recorded under its name.
fn whose(records: &Records, name: &str, xml: &[u8]) -> Option<DomainUuid> {
    domain::uuid_in(xml).or_else(|| records.by_name(name)).filter(|domain| records.has(domain))
}

/// The record follows what libvirt says of the domain. It touches no device, so no driver can hold it up.
fn follow(host: &Host, call: &Call) -> Result<(), Refusal> {
    let records = Records::new(host);
    let Some(domain) = whose(&records, &call.name, &read_stdin(MAX_SCAN)) else { return Ok(()) };
    let noted = |config: Config| runs(Means { host, records: &records, waits: config.waits }, &domain);
    match records.read(&domain) {
        Ok(_) => noted(Config::load_or_default(host)),
        // It is set aside, which the journal is told.
        Err(_) => forgiving(host, call, noted),
    }
}

/// Notes in the record of `domain` that it runs.
pub fn runs(means: Means<'_>, domain: &DomainUuid) -> Result<(), Refusal> {
    let mut guard = means.records.lock(domain, means.waits.lock)?;
    Ok(guard.advance(Phase::Running, Some(Answers::Running))?)
}

/// The daemon has restarted and the domain runs: what the record says is compared with the host.
pub fn compare(host: &Host, config: Config, domain: &DomainUuid) -> Result<(), Refusal> {
    let records = Records::new(host);
    runs(Means { host, records: &records, waits: config.waits }, domain)?;
    let record = records.read(domain)?;
    for (device, place, _, state) in record.iter().flat_map(|record| record.devices()) {
        let has = !matches!(state, State::Undoing | State::Kept);
        if has && !backend::is_there(host, device, place) {
            log::error!(VIRT_MDEV_UUID:% = device; "device {device}, {place}, is gone although the domain has it");
        }
    }
    Ok(())
}

/// Takes away what was made for a domain.
pub fn release(host: &Host, config: Config, domain: &DomainUuid) -> Result<(), Refusal> {
    let records = Records::new(host);
    let means = Means { host, records: &records, waits: config.waits };
    let (_guard, undone) = undo::settle(means, domain, Sweep::of_domain(config.waits.release))?;
    undone.report();
    Ok(())
}
