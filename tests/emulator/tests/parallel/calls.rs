//! Calls of the shipped programs.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use virt_mdev_emulator::client::Emulated;

use crate::Wrong;

pub(crate) const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");

/// No call takes longer: each of its waits has a limit far below.
const TOO_LONG: Duration = Duration::from_secs(10);

pub(crate) fn hosts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts")
}

pub(crate) fn start(host: &Path) -> Result<Emulated, Wrong> {
    Emulated::start(Path::new(EMULATOR), host, &[]).map_err(|error| format!("{}: {error}", host.display()))
}

/// The product's programs, built before.
pub(crate) fn built(program: &str) -> Result<String, Wrong> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target =
        std::env::var_os("VIRT_MDEV_BUILT").map_or_else(|| here.join("../../target/release"), PathBuf::from);
    let path = target.join(program).canonicalize();
    path.map(|path| path.display().to_string()).map_err(|_| format!("{program} is missing: make build"))
}

/// What a call did.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Said {
    fn new(output: &Output, took: Duration) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr), took }
    }

    /// Killed itself, or its shell says so of it.
    pub(crate) fn killed(&self) -> bool {
        matches!(self.code, None | Some(137))
    }

    pub(crate) fn is_too_slow(&self) -> bool {
        self.took > TOO_LONG
    }

    /// Killed itself, or it tells that a process of its own was.
    pub(crate) fn was_hit(&self) -> bool {
        let words = ["SIGKILL", "the writing process was killed"];
        self.killed() || words.iter().any(|words| self.stderr.contains(words))
    }

    /// What no fault and no state of the host may lead to.
    pub(crate) fn is_a_defect(&self) -> bool {
        let words = ["panicked", "a defect of virt-mdev"];
        self.code == Some(101) || words.iter().any(|words| self.stderr.contains(words))
    }

    /// Done without a word.
    pub(crate) fn is_well(&self) -> bool {
        self.code == Some(0) && self.stderr.is_empty()
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.map_or("killed".to_owned(), |code| format!("exit {code}"));
        write!(f, "{code} after {:?} {}", self.took, self.stderr.trim_end())
    }
}

/// The daemon that a hook is called by: its parent process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// This test, which lives.
    Lives,
    /// A shell that ends when the hook has.
    Ends,
    /// One that is killed that long after the call has begun; the hook goes on.
    KilledAfter(Duration),
}

/// A call of the hook that has not been given its XML yet: it waits for that.
#[derive(Debug)]
pub(crate) struct Call {
    child: Child,
}

impl Call {
    pub(crate) fn new(host: &Emulated, name: &str, operation: &str, daemon: Daemon) -> Result<Self, Wrong> {
        let hook = built("virt-mdev-hook")?;
        let sub = if matches!(operation, "release" | "stopped") { "end" } else { "begin" };
        let mut command = match daemon {
            Daemon::Lives => host.command(hook),
            Daemon::Ends | Daemon::KilledAfter(_) => {
                let mut shell = host.command("bash");
                // What follows the call keeps the shell from becoming the hook.
                shell.args(["-c", r#""$@"; code=$?; exit $code"#, "bash", &hook]);
                shell
            }
        };
        command.args([name, operation, sub, "-"]);
        Ok(Self { child: spawn(&mut command)? })
    }

    /// Gives it the XML, with which it begins.
    pub(crate) fn begin(&mut self, xml: &str) {
        if let Some(mut pipe) = self.child.stdin.take() {
            // It need not read all that it is given.
            let _ = pipe.write_all(xml.as_bytes());
        }
    }

    /// Kills it (or its shell) after a while.
    pub(crate) fn kill_after(&mut self, delay: Duration) {
        std::thread::sleep(delay);
        // It may have ended.
        let _ = self.child.kill();
    }

    /// Waits until it and all that have its stderr have ended.
    pub(crate) fn end(self, began: Instant) -> Result<Said, Wrong> {
        let output = self.child.wait_with_output().map_err(|error| error.to_string())?;
        Ok(Said::new(&output, began.elapsed()))
    }
}

fn spawn(command: &mut Command) -> Result<Child, Wrong> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().map_err(|error| format!("cannot run {:?}: {error}", command.get_program()))
}

/// One call of the hook from beginning to end; `kill` kills the hook itself.
pub(crate) fn hook(
    host: &Emulated,
    name: &str,
    operation: &str,
    xml: &str,
    daemon: Daemon,
    kill: Option<Duration>,
) -> Result<Said, Wrong> {
    let mut call = Call::new(host, name, operation, daemon)?;
    let began = Instant::now();
    call.begin(xml);
    if let (_, Some(delay)) | (Daemon::KilledAfter(delay), None) = (daemon, kill) {
        call.kill_after(delay);
    }
    call.end(began)
}

/// `virt-mdev VERB …`.
pub(crate) fn cli(host: &Emulated, args: &[&str]) -> Result<Said, Wrong> {
    let began = Instant::now();
    let child = spawn(host.command(built("virt-mdev")?).args(args))?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    Ok(Said::new(&output, began.elapsed()))
}

/// A process that has a VFIO node open, as QEMU does. `None`: it could not open it.
pub(crate) fn hold(host: &Emulated, group: &str) -> Result<Option<Child>, Wrong> {
    let node = format!("/dev/vfio/{group}");
    let mut command = host.command(EMULATOR);
    command.args(["hold", &node, "--name", "qemu-system-x86"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("cannot hold {node}: {error}"))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        // No line means that it has ended.
        let _ = BufReader::new(out).read_line(&mut line);
    }
    if line == "held\n" {
        return Ok(Some(child));
    }
    let _ = child.wait();
    Ok(None)
}

/// QEMU ends, as it does when killed.
pub(crate) fn let_go(holders: &mut Vec<Child>) {
    for mut holder in holders.drain(..) {
        let _ = holder.kill();
        let _ = holder.wait();
    }
}
