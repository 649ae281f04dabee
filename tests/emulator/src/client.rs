//! For tests in Rust: a host, and commands on it. It needs the program `virt-mdev-emulator` and nothing of this
//! crate but this file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};

/// What programs on the host have in their environment: libudev is not to ask whether `/sys` is a sysfs.
pub fn environment(pid: u32) -> [(&'static str, String); 2] {
    [("SYSTEMD_DEVICE_VERIFY_SYSFS", "0".to_owned()), ("VIRT_MDEV_EMULATOR_PID", pid.to_string())]
}

/// Has a command killed when the thread that started it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only this one system call is made; it touches no memory.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}

/// The namespaces of a host.
#[derive(Debug)]
pub struct Namespaces {
    pid: u32,
    /// `None` where the host has no user namespace of its own.
    user: Option<File>,
    mounts: File,
    network: File,
}

impl Namespaces {
    /// Those of an emulator.
    pub fn of(pid: u32) -> io::Result<Self> {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user"));
        let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}"));
        let user = (link(&pid.to_string())? != link("self")?).then(|| open("user")).transpose()?;
        Ok(Self { pid, user, mounts: open("mnt")?, network: open("net")? })
    }

    /// A command that will run in them, in the directory of the caller. Signals that a shell has its background jobs
    /// ignore, or nohup, it does not ignore: what they do is a part of what is tested.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(environment(self.pid));
        let own = |file: &File| file.try_clone();
        let user = self.user.as_ref().map(own).transpose();
        let (mounts, network) = (own(&self.mounts), own(&self.network));
        let here = std::env::current_dir();
        let enter = move || {
            for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: no handler is given.
                unsafe { signal(ignored, SigHandler::SigDfl) }?;
            }
            let failed = |error: &io::Error| io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(5));
            if let Some(user) = user.as_ref().map_err(failed)? {
                setns(user, CloneFlags::CLONE_NEWUSER)?;
            }
            setns(network.as_ref().map_err(failed)?, CloneFlags::CLONE_NEWNET)?;
            // This also leads to the root directory.
            setns(mounts.as_ref().map_err(failed)?, CloneFlags::CLONE_NEWNS)?;
            if let Ok(here) = &here {
                let _ = nix::unistd::chdir(here.as_path());
            }
            Ok(())
        };
        // SAFETY: between fork and exec it gives signals no handler, makes system calls on descriptors that were opened
        // before, and allocates nothing but what `chdir` needs for a path that is longer than its buffer on the stack.
        unsafe { command.pre_exec(enter) };
        command
    }
}

/// A host that is there until this is dropped.
#[derive(Debug)]
pub struct Emulated {
    server: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    namespaces: Namespaces,
}

impl Emulated {
    /// Starts `program` (`virt-mdev-emulator`) with a host file and further options (`--udevd`, `--trace`, …).
    pub fn start(program: &Path, host: &Path, options: &[&str]) -> io::Result<Self> {
        let mut server = Command::new(program)
            .arg("serve")
            .arg("--host")
            .arg(host)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = server.stdin.take();
        let mut output = BufReader::new(server.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?);
        let mut pid = String::new();
        output.read_line(&mut pid)?;
        let pid = pid.trim().parse().map_err(|_| io::Error::other("the emulator did not start"))?;
        Ok(Self { server, input, output, namespaces: Namespaces::of(pid)? })
    }

    /// Process id of the emulator.
    pub fn pid(&self) -> u32 {
        self.namespaces.pid
    }

    /// A command on the host, to be completed and started as any other.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespaces.command(program)
    }

    /// Runs a command to its end.
    pub fn run(&self, command: &[&str], stdin: &[u8]) -> io::Result<Output> {
        let [program, arguments @ ..] = command else { return Err(io::Error::other("no command")) };
        let mut child = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // A program need not read all that it is given.
            let _ = pipe.write_all(stdin);
        }
        child.wait_with_output()
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        let input = self.input.as_mut().ok_or_else(|| io::Error::other("it has ended"))?;
        writeln!(input, "{line}")?;
        input.flush()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    /// Does what a line of the control file says.
    pub fn control(&mut self, line: &str) -> io::Result<()> {
        match self.ask(line)?.as_str() {
            "ok" => Ok(()),
            error => Err(io::Error::other(error.to_owned())),
        }
    }

    /// The lines of `log`, `effects` or `trace`.
    pub fn lines(&mut self, which: &str) -> io::Result<Vec<String>> {
        let count: usize = self.ask(which)?.parse().map_err(io::Error::other)?;
        let mut lines = Vec::new();
        for _ in 0..count {
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            lines.push(line.trim_end_matches('\n').to_owned());
        }
        Ok(lines)
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // End of its stdin is its end; whatever goes wrong with that, the kill does not.
        drop(self.input.take());
        let _ = self.server.wait();
    }
}
