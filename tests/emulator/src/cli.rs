//! The command line.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use clap::{Args, Parser, Subcommand};
use fuser::Notifier;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::call::Weight;
use crate::client::Namespaces;
use crate::fuse::{Builder, Emulator};
use crate::host::Host;
use crate::log::Log;
use crate::model::{GET_DEVICE, World};
use crate::netlink::Sender;
use crate::sandbox;

/// Runs a command on an emulated host with mediated devices.
#[derive(Debug, Parser)]
#[command(version, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    start: Option<Start>,
    /// What to run, with its arguments; this program ends with it, and with its status
    #[arg(last = true, required = true)]
    command: Vec<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// How the host is to be.
#[derive(Debug, Clone, Args)]
struct Start {
    /// The host: a file as in tests/emulator/hosts
    #[arg(long)]
    host: PathBuf,
    /// Where to write the log of operations, too
    #[arg(long)]
    log: Option<PathBuf>,
    /// Keep lookups, listings and closes in the log, too
    #[arg(long)]
    trace: bool,
    /// Behave as if udevd ran
    #[arg(long)]
    udevd: bool,
    /// What is to go wrong: "OP GLOB [NTH] ACTION"
    #[arg(long)]
    fault: Vec<String>,
    /// One more directory that is to lie on the emulator
    #[arg(long)]
    private: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Keeps a host until stdin ends: prints its process id, then answers each line of stdin, which is one for the
    /// control file, or `log`, `effects` or `trace`
    Serve {
        #[command(flatten)]
        start: Start,
    },
    /// Runs a command on the host that this process keeps
    Enter {
        /// Process id of an emulator
        pid: u32,
        /// What to run
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Opens a VFIO node as QEMU does, and keeps it until killed
    Hold {
        /// /dev/vfio/N
        node: PathBuf,
        /// What ps is to call this process
        #[arg(long)]
        name: Option<String>,
    },
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (cli.verb, cli.start) {
        (Some(Verb::Serve { start }), _) => {
            begin(&start).and_then(|(emulator, mount)| serve(&emulator, &mount.notifier()))
        }
        (Some(Verb::Enter { pid, command }), _) => enter(pid, &command),
        (Some(Verb::Hold { node, name }), _) => hold(&node, name.as_deref()),
        (None, Some(start)) => begin(&start).and_then(|(_, _mount)| run(&cli.command)),
        (None, None) => Err(io::Error::other("--host is missing")),
    };
    match done {
        // Not by returning: what waits in the file system may never end.
        Ok(status) => std::process::exit(status),
        Err(error) => {
            eprintln!("virt-mdev-emulator: {error}");
            std::process::exit(125);
        }
    }
}

fn begin(start: &Start) -> io::Result<(Emulator, fuser::BackgroundSession)> {
    let (host, tables) = Host::load(&start.host).map_err(io::Error::other)?;
    let copy = start.log.as_ref().map(File::create).transpose()?;
    let mut world = World::new(&host, &tables, start.udevd);
    for dir in &start.private {
        world.tree.dir(dir);
    }
    sandbox::leave()?;
    let emulator = Emulator::new(Builder::new(world, Log::new(copy, start.trace)), Some(Sender::new()?));
    let mount = sandbox::enter(emulator.clone(), &start.private)?;
    for fault in &start.fault {
        emulator.control(&format!("fault {fault}")).map_err(io::Error::other)?;
    }
    let clock = emulator.clone();
    std::thread::Builder::new().name("clock".to_owned()).spawn(move || clock.keep_time())?;
    Ok((emulator, mount))
}

fn spawn(command: &[String]) -> io::Result<Child> {
    let [program, arguments @ ..] = command else { return Err(io::Error::other("no command")) };
    let mut command = Command::new(program);
    command.args(arguments).envs(crate::client::environment(std::process::id()));
    crate::client::die_with_parent(&mut command);
    command.spawn().map_err(|error| io::Error::new(error.kind(), format!("cannot run {program}: {error}")))
}

fn status_of(child: &mut Child) -> io::Result<i32> {
    let status = child.wait()?;
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(125))
}

fn run(command: &[String]) -> io::Result<i32> {
    // What the command leaves behind becomes ours, and ends with us.
    prctl::set_child_subreaper(true)?;
    let status = status_of(&mut spawn(command)?)?;
    end_all();
    Ok(status)
}

/// Kills whatever is still in our mount namespace.
fn end_all() {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let ours = namespace("self");
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Ok(pid) = name.parse::<i32>() else { continue };
        if pid.cast_unsigned() != std::process::id() && namespace(&name) == ours {
            // Gone meanwhile is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn serve(emulator: &Emulator, kernel: &Notifier) -> io::Result<i32> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", std::process::id())?;
    out.flush()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let weight = match line.as_str() {
            "log" => Some(Weight::Read),
            "effects" => Some(Weight::Effect),
            "trace" => Some(Weight::Noise),
            _ => None,
        };
        match weight {
            _ if line == "fingerprint" => writeln!(out, "1\n{}", emulator.fingerprint())?,
            Some(weight) => {
                let text = emulator.log(weight);
                writeln!(out, "{}", text.lines().count())?;
                out.write_all(text.as_bytes())?;
            }
            None => match told(emulator, kernel, &line) {
                Ok(()) => writeln!(out, "ok")?,
                Err(why) => writeln!(out, "error: {why}")?,
            },
        }
        out.flush()?;
    }
    end_all();
    Ok(0)
}

fn told(emulator: &Emulator, kernel: &Notifier, line: &str) -> Result<(), String> {
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["save", name] => emulator.save(name),
        ["load", name] => emulator.load(name, kernel),
        _ => emulator.control(line),
    }
}

fn enter(pid: u32, command: &[String]) -> io::Result<i32> {
    let [program, arguments @ ..] = command else { return Err(io::Error::other("no command")) };
    let mut inside = Namespaces::of(pid)?.command(program);
    status_of(inside.args(arguments).spawn().as_mut().map_err(|error| io::Error::other(error.to_string()))?)
}

fn hold(node: &Path, name: Option<&str>) -> io::Result<i32> {
    if let Some(name) = name {
        prctl::set_name(&std::ffi::CString::new(name)?)?;
    }
    let mut file = File::options().read(true).write(true).open(node)?;
    // Stands for VFIO_GROUP_GET_DEVICE_FD; the node of a device is the device already.
    if !node.starts_with("/dev/vfio/devices") {
        file.write_all(GET_DEVICE)?;
    }
    println!("held");
    io::stdout().flush()?;
    // Its host may be killed; nobody would miss this process then.
    while file.metadata().is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    Ok(0)
}
