//! A process on the emulated host that does what it is told: one is libvirt's daemon (the parent of the hooks, so that
//! it can die), one is QEMU (it has the devices open). It is this same program, started with `--agent`.
//!
//! A line in, of fields between tabs; out comes the number of lines that follow, and the lines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use virt_mdev_emulator::client::Emulated;
use virt_mdev_emulator::model::GET_DEVICE;

use crate::labels;
use crate::look::Places;

/// Where the records are.
pub(crate) const RECORDS: &str = "/run/virt-mdev";
/// The directories in it.
const DIRECTORIES: [&str; 4] = ["domains", "devices", "by-name", "locks"];

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(one) = characters.next() {
        match (one, characters.clone().next()) {
            ('\\', Some(next)) => {
                characters.next();
                out.push(match next {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                });
            }
            (one, _) => out.push(one),
        }
    }
    out
}

/// An agent, seen from the test.
pub(crate) struct Agent {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Process id and start time, as a record would name it.
    pub(crate) identity: [String; 2],
}

impl Agent {
    /// Starts one on this host.
    pub(crate) fn start(host: &Emulated) -> io::Result<Self> {
        let mut command = host.command(std::env::current_exe()?);
        let mut process = command.arg("--agent").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let missing = || io::Error::other("no pipe");
        let input = process.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(process.stdout.take().ok_or_else(missing)?);
        let mut agent = Self { process, input, output, identity: Default::default() };
        let lines = agent.ask(&["identity"])?;
        agent.identity = lines.try_into().map_err(|_| io::Error::other("no identity"))?;
        Ok(agent)
    }

    /// Has it do something.
    pub(crate) fn ask(&mut self, fields: &[&str]) -> io::Result<Vec<String>> {
        let line: Vec<String> = fields.iter().map(|field| escape(field)).collect();
        writeln!(self.input, "{}", line.join("\t"))?;
        self.input.flush()?;
        let mut read = || {
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            Ok::<_, io::Error>(unescape(line.trim_end_matches('\n')))
        };
        let first = read()?;
        let count: usize =
            first.parse().map_err(|_| io::Error::other(format!("{fields:?}: the agent says \"{first}\"")))?;
        (0..count).map(|_| read()).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an agent is while it runs.
#[derive(Default)]
struct Serving {
    open: Vec<File>,
    places: Option<Places>,
}

/// The agent's side: until its stdin ends.
pub(crate) fn serve() -> io::Result<()> {
    // The children of a hook that was killed become ours, so that we know when the last of them has ended.
    prctl::set_child_subreaper(true)?;
    let mut serving = Serving::default();
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let fields: Vec<String> = line?.split('\t').map(unescape).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let mut text = String::new();
        match serving.obey(&fields) {
            Ok(lines) => {
                text += &format!("{}\n", lines.len());
                lines.iter().for_each(|line| text += &format!("{}\n", escape(line)));
            }
            Err(error) => text += &format!("{}\n", escape(&error.to_string())),
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

impl Serving {
    fn obey(&mut self, fields: &[&str]) -> io::Result<Vec<String>> {
        match fields {
            ["identity"] => {
                let stat = fs::read_to_string("/proc/self/stat")?;
                let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
                Ok(vec![std::process::id().to_string(), start.unwrap_or_default().to_owned()])
            }
            ["run", limit, stdin, program, arguments @ ..] => {
                let limit = Duration::from_millis(limit.parse().map_err(io::Error::other)?);
                run(limit, stdin, program, arguments)
            }
            ["settle", limit] => {
                let limit = Duration::from_millis(limit.parse().map_err(io::Error::other)?);
                settle(limit).map(|()| Vec::new())
            }
            ["look"] => {
                let places = self.places.get_or_insert_with(Places::find);
                let mut lines = places.look();
                let hardware = lines.len().to_string();
                records(Path::new(RECORDS), &mut lines)?;
                lines.insert(0, hardware);
                Ok(lines)
            }
            ["label", line] => labels::put(line).map(|()| Vec::new()),
            ["directories"] => directories().map(|()| Vec::new()),
            ["locks"] => Ok(locks()),
            ["locks-are", wanted @ ..] => {
                for path in locks().iter().filter(|path| !wanted.contains(&path.as_str())) {
                    fs::remove_file(path)?;
                }
                let make = |path: &&str| File::options().write(true).create(true).truncate(false).open(path);
                wanted.iter().try_for_each(|path| make(path).map(drop)).map(|()| Vec::new())
            }
            ["write", path, data] => {
                let mut file = File::options().write(true).open(path)?;
                file.write_all(data.as_bytes())?;
                Ok(Vec::new())
            }
            ["file", path, text] => fs::write(path, text).map(|()| Vec::new()),
            ["link", path, text] => symlink(text, path).map(|()| Vec::new()),
            ["clear", keep_locks, arguments @ ..] => {
                let left = clear(arguments)?;
                labels::clear()?;
                forget(*keep_locks == "yes")?;
                Ok(left)
            }
            ["hold", devices @ ..] => {
                for device in devices {
                    let group = fs::read_link(directory(device).join("iommu_group"))?;
                    let group = group.file_name().unwrap_or_default().to_owned();
                    let mut node =
                        File::options().read(true).write(true).open(Path::new("/dev/vfio").join(group))?;
                    node.write_all(GET_DEVICE)?;
                    self.open.push(node);
                }
                Ok(Vec::new())
            }
            ["let-go"] => {
                self.open.clear();
                Ok(Vec::new())
            }
            other => Err(io::Error::other(format!("unknown: {other:?}"))),
        }
    }
}

/// Directory of a device: of an mdev's uuid, or of a function's address.
pub(crate) fn directory(device: &str) -> PathBuf {
    let bus = if device.len() == 36 { "mdev" } else { "pci" };
    Path::new("/sys/bus").join(bus).join("devices").join(device)
}

/// Runs a program as libvirt runs its hooks: until it has ended and nobody has its output open any more. Answers with
/// its status (`timeout` beyond the limit), the milliseconds it took, and what it printed.
fn run(limit: Duration, stdin: &str, program: &str, arguments: &[&str]) -> io::Result<Vec<String>> {
    let start = Instant::now();
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let both = |writer: &OwnedFd| writer.try_clone().map(Stdio::from);
    let mut command = Command::new(program);
    command.args(arguments).stdin(File::open(stdin)?).stdout(both(&writer)?).stderr(both(&writer)?);
    let mut child = command.spawn()?;
    drop((command, writer));
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = File::from(reader).read_to_end(&mut bytes);
        // Nobody waits for it after the limit.
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
    });
    let output = receiver.recv_timeout(limit);
    let took = start.elapsed().as_millis().to_string();
    let Ok(output) = output else {
        child.kill()?;
        return Ok(vec!["timeout".to_owned(), took, String::new()]);
    };
    let status = child.wait()?;
    let word = status.code().map(|code| code.to_string());
    let word = word.or_else(|| status.signal().map(|signal| format!("signal {signal}")));
    Ok(vec![word.unwrap_or_default(), took, output?])
}

/// Waits until no child of ours and no child of theirs is left; an error names those that are there after the limit.
fn settle(limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::StillAlive) if Instant::now() >= deadline => {
                let left = children().join(", ");
                return Err(io::Error::other(format!("after {limit:?} there are still: {left}")));
            }
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

/// Our children, each with its process id, its name and its state.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let child = |process: fs::DirEntry| {
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        let (who, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?);
        (parent == own).then(|| format!("{who}) {state}"))
    };
    processes.filter_map(child).collect()
}

/// All that is recorded, but locks: one line for each file and link.
fn records(directory: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths.iter().filter(|path| !path.ends_with("locks")) {
        let metadata = fs::symlink_metadata(path)?;
        let shown = path.display();
        if metadata.is_dir() {
            records(path, lines)?;
        } else if metadata.is_symlink() {
            lines.push(format!("link {shown} {}", fs::read_link(path)?.display()));
        } else {
            let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
            let odd = if metadata.mode() & 0o7777 == 0o644 { "" } else { " of another mode" };
            lines.push(format!("file {shown}{odd} {text}"));
        }
    }
    Ok(())
}

/// Takes all devices away by hand; says which would not go. `arguments` are what devices of the proposal were made
/// with.
fn clear(arguments: &[&str]) -> io::Result<Vec<String>> {
    let arguments: BTreeMap<&str, &str> =
        arguments.iter().filter_map(|made| Some((made.get(..36)?, *made))).collect();
    let write =
        |path: PathBuf, data: &str| File::options().write(true).open(path)?.write_all(data.as_bytes());
    let mut left = Vec::new();
    for entry in fs::read_dir("/sys/bus/mdev/devices")? {
        let device = fs::canonicalize(entry?.path())?;
        let uuid = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let done = if device.join("remove").exists() {
            write(device.join("remove"), "1")
        } else {
            let made = arguments.get(uuid.as_str()).copied().unwrap_or(&uuid);
            write(device.join("online"), "0")
                .and_then(|()| write(device.parent().unwrap_or(Path::new("/")).join("mdev_destroy"), made))
        };
        left.extend(done.err().map(|error| format!("{uuid}: {error}")));
    }
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let current = entry?.path().join("nvidia/current_vgpu_type");
        if fs::read_to_string(&current).is_ok_and(|kind| kind.trim() != "0") {
            left.extend(
                write(current.clone(), "0").err().map(|error| format!("{}: {error}", current.display())),
            );
        }
    }
    Ok(left)
}

/// Removes all that is recorded: with its directories, or all but them and the locks.
fn forget(keep_locks: bool) -> io::Result<()> {
    if !keep_locks {
        return match fs::remove_dir_all(RECORDS) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    directories()?;
    for name in DIRECTORIES.iter().filter(|name| **name != "locks") {
        for entry in fs::read_dir(Path::new(RECORDS).join(name))? {
            fs::remove_file(entry?.path())?;
        }
    }
    Ok(())
}

/// The lock files that there are.
fn locks() -> Vec<String> {
    let entries = fs::read_dir(Path::new(RECORDS).join("locks")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

fn directories() -> io::Result<()> {
    DIRECTORIES.iter().try_for_each(|name| fs::create_dir_all(Path::new(RECORDS).join(name)))
}
