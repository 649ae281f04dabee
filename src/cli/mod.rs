//! `virt-mdev`, for people: one file per verb. A verb returns what it prints, so that a closed pipe is no accident.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::host::{Host, Trouble, signals};
use crate::ids::DeviceId;
use crate::refusal::Refusal;
use crate::words::is_order;
use terminal::Terminal;

pub mod assign;
mod attach;
pub mod autostart;
mod choose;
mod definition;
mod doctor;
mod heir;
#[cfg(test)]
mod help;
mod list;
mod places;
pub mod plan;
mod prometheus;
pub mod reconcile;
mod show;
mod table;
mod terminal;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod unassign;
pub mod virsh;

#[derive(Parser)]
#[command(
    name = "virt-mdev",
    version,
    about = "Mediated devices that live and die with their libvirt domain",
    before_help = "Example: virsh dumpxml vm1 | virt-mdev plan",
    after_help = "Manual pages: virt-mdev(8), virt-mdev-domain(7) for the domain XML.",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// What the host's parents offer, and how many places are free
    #[command(before_help = "Example: virt-mdev types --json | jq '.[].name'")]
    Types {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// All that the drivers say, however wide
        #[arg(long, conflicts_with = "json")]
        long: bool,
    },
    /// The host's mediated devices and the domains that have them
    #[command(before_help = "Example: virt-mdev list --tree")]
    List {
        /// Draw card, function, device and domain, and free places
        #[arg(long, conflicts_with_all = ["json", "format"])]
        tree: bool,
        /// Print JSON
        #[arg(long, conflicts_with = "format")]
        json: bool,
        /// table, tree, json or prometheus (for a node exporter)
        #[arg(
            long,
            value_enum,
            default_value = "table",
            hide_possible_values = true,
            hide_default_value = true
        )]
        format: list::Form,
    },
    /// All that is known of one device, or of the devices of one domain
    #[command(before_help = "Example: virt-mdev show vm1")]
    Show {
        /// A domain's name or UUID, a device's UUID or PCI address
        #[arg(value_name = "DEVICE|DOMAIN")]
        who: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a domain a device, in its definition
    #[command(
        before_help = "Example: virt-mdev assign vm1 \"Dual port serial\" --start",
        override_usage = "virt-mdev assign [OPTIONS] <VM> <TYPE>\n       virt-mdev assign --fresh <VM>"
    )]
    Assign(assign::Assign),
    /// Take a device out of a domain's definition
    #[command(before_help = "Example: virt-mdev unassign vm1")]
    Unassign {
        /// Name or UUID of the domain
        vm: String,
        /// Not needed where the domain has one only
        #[arg(value_name = "UUID|ADDRESS", value_parser = DeviceId::parse)]
        devices: Vec<DeviceId>,
        /// All that it has from virt-mdev
        #[arg(long, conflicts_with = "devices")]
        all: bool,
    },
    /// What on this host would keep a domain from its devices, with fixes
    #[command(before_help = "Example: virt-mdev doctor")]
    Doctor {
        /// Do what is safe about it, and say so
        #[arg(long)]
        fix: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring up the devices of a parent that mdevctl's definitions say are to start with it; udev asks for that
    #[command(hide = true)]
    Autostart {
        /// Its name in /sys/class/mdev_bus
        parent: String,
    },
    /// Give a running domain a device: make it, label it, plug it in
    #[command(before_help = "Example: virt-mdev attach vm1 \"GRID M60-4Q\"")]
    Attach(attach::Attach),
    /// Take a device out of a running domain, and away
    #[command(before_help = "Example: virt-mdev detach vm1 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")]
    Detach(attach::Detach),
    /// Take away devices that nobody answers for any more
    #[command(before_help = "Example: virt-mdev reconcile --dry-run")]
    Reconcile {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Say nothing if there is nothing to do
        #[arg(long)]
        quiet: bool,
    },
    /// Take away the devices of one domain that has gone, or one device
    #[command(before_help = "Example: virt-mdev release vm1")]
    Release {
        /// A domain's name or UUID, a device's UUID or PCI address
        #[arg(value_name = "DOMAIN|UUID")]
        who: String,
        /// Even if somebody answers for it, or it is kept; never if in use
        #[arg(long)]
        force: bool,
    },
    /// What an event would do to a domain, whose XML is read on stdin
    #[command(before_help = "Example: virsh dumpxml vm1 | virt-mdev plan")]
    Plan {
        /// The hook's event, as prepare (the default) or release
        #[arg(long, hide_default_value = true, hide_possible_values = true, default_value = "prepare", value_parser = ["prepare", "start", "started", "stopped", "release", "reconnect", "migrate", "restore"])]
        event: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What `virt-mdev` does. Exit status: 0 done, 1 failed, 2 usage.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    signals::heed();
    // What we write is to be readable for all whatever the caller's umask is.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Without a logger nothing is logged, so a second one that is refused is no loss.
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    let host = Host::real();
    if args.get(1..).and_then(|args| heir::run_if_heir(&host, args)).is_some() {
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::try_parse_from(&args) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, and go to stdout.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let printed = match &arguments.verb {
        Verb::Assign(asked) => assign::run(&host, asked),
        Verb::Unassign { vm, devices, all } => unassign::run(&host, vm, devices, *all),
        Verb::Types { json, long } => types::run(&host, Terminal::here(), *json, *long),
        Verb::List { tree: true, .. } => list::run(&host, Terminal::here(), list::Form::Tree),
        Verb::List { json: true, .. } => list::run(&host, Terminal::here(), list::Form::Json),
        Verb::List { format, .. } => list::run(&host, Terminal::here(), *format),
        Verb::Show { who, json } => show::run(&host, Terminal::here(), who, *json),
        Verb::Doctor { fix, json } => doctor::run(&host, *fix, *json),
        Verb::Autostart { parent } => autostart::run(&host, parent),
        Verb::Attach(attach) => attach::attach(&host, attach),
        Verb::Detach(detach) => attach::detach(&host, detach),
        Verb::Reconcile { dry_run, quiet } => reconcile::run(&host, *dry_run, *quiet),
        Verb::Release { who, force } => reconcile::release(&host, who, *force),
        Verb::Plan { event, json } => plan::run(&host, event, *json),
    };
    match printed {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            // `virt-mdev list | head` has what it wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                complain(&format!("cannot write to stdout: {}", crate::words::errno(&error)), None)
            }
            _ => ExitCode::SUCCESS,
        },
        Err(failure) => {
            let _ = io::stdout().lock().write_all(failure.before.as_bytes());
            let hint = failure.hint.or_else(|| only_for_root(&failure.text));
            complain(&failure.text, hint.as_deref())
        }
    }
}

/// The hint for what the kernel keeps from others than root.
fn only_for_root(text: &str) -> Option<String> {
    let denied = ["(EACCES, 13)", "(EPERM, 1)"].iter().any(|errno| text.contains(errno));
    (denied && !rustix::process::geteuid().is_root()).then(|| "call it with sudo".to_owned())
}

fn complain(text: &str, hint: Option<&str>) -> ExitCode {
    let mut stderr = io::stderr().lock();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let error = if colour { "\u{1b}[1;31merror:\u{1b}[0m" } else { "error:" };
    let _ = writeln!(stderr, "{error} {text}");
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    ExitCode::FAILURE
}

/// What the hook tells the journal, such as a damaged type table, is told to the person here.
struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let word = if record.level() == log::Level::Error { "error" } else { "warning" };
            let _ = writeln!(io::stderr().lock(), "{word}: {}", record.args());
        }
    }

    fn flush(&self) {}
}

/// What a verb says when it fails.
#[derive(Debug, Default)]
pub struct Failure {
    /// What it had printed before.
    pub before: String,
    /// One sentence: subject and cause.
    pub text: String,
    /// The fix, where there is one.
    pub hint: Option<String>,
}

impl Failure {
    /// One for which there is no fix to name.
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// With a fix.
    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With a domain for its subject.
    fn about(self, domain: &str) -> Self {
        Self { text: format!("{}: {}", crate::words::printable(domain), self.text), ..self }
    }
}

impl<T: Into<Refusal>> From<T> for Failure {
    fn from(refusal: T) -> Self {
        let refusal = refusal.into();
        Self { text: refusal.to_string(), hint: refusal.hint(), ..Self::default() }
    }
}

/// What was read, or nothing and a warning: what cannot be read of one device must not keep the others from being seen.
fn or_warn<T: Default>(read: Result<T, Trouble>) -> T {
    read.unwrap_or_else(|trouble| {
        log::warn!("{trouble}");
        T::default()
    })
}

/// The configuration, strictly: what the hook only warns about is an error here.
fn config(host: &Host) -> Result<Config, Failure> {
    let (config, unknown) = Config::load(host)?;
    match unknown.first() {
        None => Ok(config),
        Some(unknown) => Err(Failure::new(format!("/{}: {unknown}", crate::config::PATH))),
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("cannot write JSON: {error}")))?;
    // JSON itself escapes only a part of what a terminal obeys, and nothing of this stands outside its strings.
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c == '\n' || !is_order(c) {
            safe.push(c);
        } else {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        }
    }
    Ok(safe + "\n")
}
