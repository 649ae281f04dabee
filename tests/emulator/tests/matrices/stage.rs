//! An emulated host with a daemon and a QEMU on it, which can be brought to any state that was seen before.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use virt_mdev_emulator::client::Emulated;

use crate::agent::Agent;
use crate::shapes::{Backend, Shape};
use crate::snapshot::Snapshot;
use crate::state::{State, rename, written};

const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");

/// What anything here fails with: words.
pub(crate) type Told<T> = Result<T, String>;

fn words(error: std::io::Error) -> String {
    format!("the harness itself: {error}")
}

/// How a program ended.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    pub(crate) status: String,
    pub(crate) took: Duration,
    pub(crate) said: String,
}

impl Ran {
    pub(crate) fn succeeded(&self) -> bool {
        self.status == "0"
    }

    /// For messages.
    pub(crate) fn words(&self) -> String {
        format!("status {}, said \"{}\"", self.status, self.said.trim_end().replace('\n', " / "))
    }
}

/// The host.
pub(crate) struct Stage {
    pub(crate) host: Emulated,
    daemon: Agent,
    qemu: Agent,
    shape: Shape,
    config: &'static str,
    xml: [PathBuf; 2],
    hosts: PathBuf,
    /// All daemons and QEMUs that there have been.
    past: Vec<([String; 2], &'static str)>,
    /// What devices of the proposal were made with.
    arguments: Vec<String>,
    /// Writes to sysfs since the host was empty.
    writes: Vec<(String, String)>,
    held: bool,
    /// States that the emulator has kept, by number, each with the daemon that its records name.
    kept: BTreeMap<u64, [String; 2]>,
    /// What was seen, by the host's fingerprint.
    looks: HashMap<Vec<String>, (Vec<String>, Vec<String>)>,
    /// What was last seen, if nothing has happened since.
    seen: Option<Snapshot>,
}

/// The product's programs, built before.
pub(crate) fn built(program: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target =
        std::env::var_os("VIRT_MDEV_BUILT").map_or_else(|| here.join("../../target/release"), PathBuf::from);
    target.join(program)
}

impl Stage {
    /// A host for this shape, with this configuration.
    pub(crate) fn start(shape: &Shape, config: &'static str, number: usize) -> Told<Self> {
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let xml =
            [format!("{number}.xml"), format!("{number}-labelled.xml")].map(|name| temporary.join(name));
        let hosts = temporary.join(format!("{number}.toml"));
        let (host, daemon, qemu) = Self::boot(shape.backend, &hosts, config).map_err(words)?;
        let mut stage = Self {
            past: vec![(daemon.identity.clone(), "DAEMON"), (qemu.identity.clone(), "QEMU")],
            host,
            daemon,
            qemu,
            shape: shape.clone(),
            config,
            xml,
            hosts,
            arguments: Vec::new(),
            writes: Vec::new(),
            held: false,
            kept: BTreeMap::new(),
            looks: HashMap::new(),
            seen: None,
        };
        stage.take_up(shape, config)?;
        Ok(stage)
    }

    fn boot(backend: Backend, file: &Path, config: &str) -> std::io::Result<(Emulated, Agent, Agent)> {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts");
        std::fs::write(file, backend.text(&hosts)?)?;
        let host = Emulated::start(Path::new(EMULATOR), file, &[])?;
        let (mut daemon, qemu) = (Agent::start(&host)?, Agent::start(&host)?);
        daemon.ask(&["file", "/etc/virt-mdev/config.toml", config])?;
        Ok((host, daemon, qemu))
    }

    /// Another host of the same kind: this one is not what it was.
    fn restart(&mut self) -> Told<()> {
        let (host, daemon, qemu) = Self::boot(self.shape.backend, &self.hosts, self.config).map_err(words)?;
        self.past.push((daemon.identity.clone(), "DAEMON"));
        self.past.push((qemu.identity.clone(), "QEMU"));
        // The old agents go before their host does.
        (self.daemon, self.qemu) = (daemon, qemu);
        self.host = host;
        self.held = false;
        self.kept.clear();
        self.looks.clear();
        self.seen = None;
        Ok(())
    }

    /// What another stage has learnt of this shape.
    pub(crate) fn learn(&mut self, states: &[&State]) {
        let writes = states.iter().flat_map(|state| &state.writes);
        self.arguments
            .extend(writes.filter(|(path, _)| path.ends_with("/mdev_create")).map(|(_, data)| data.clone()));
        self.arguments.sort();
        self.arguments.dedup();
    }

    /// Goes on with another shape; on another host, if it is of another kind.
    pub(crate) fn take_up(&mut self, shape: &Shape, config: &'static str) -> Told<()> {
        // Emptied by what is known of the shape before.
        let same = self.shape.backend == shape.backend && self.config == config && self.clear()?;
        self.shape = shape.clone();
        self.config = config;
        self.arguments = shape.before.iter().map(|(_, data)| data.clone()).collect();
        for (path, text) in self.xml.iter().zip([&shape.xml, &shape.labelled]) {
            std::fs::write(path, text).map_err(words)?;
        }
        if !same {
            self.restart()?;
        }
        Ok(())
    }

    /// Makes the host empty, but for what others have made.
    pub(crate) fn begin(&mut self) -> Told<()> {
        if !self.clear()? {
            self.restart()?;
            self.clear()?;
        }
        self.writes.clear();
        for (path, data) in self.shape.before.clone() {
            self.write(&path, &data)?;
        }
        Ok(())
    }

    /// Whether all has gone.
    fn clear(&mut self) -> Told<bool> {
        self.seen = None;
        self.let_go()?;
        let keep_locks = if self.shape.fresh { "no" } else { "yes" };
        let mut fields = vec!["clear", keep_locks];
        fields.extend(self.arguments.iter().map(String::as_str));
        Ok(self.daemon.ask(&fields).map_err(words)?.is_empty())
    }

    fn write(&mut self, path: &str, data: &str) -> Told<()> {
        self.daemon.ask(&["write", path, data]).map_err(words)?;
        self.writes.push((path.to_owned(), data.to_owned()));
        Ok(())
    }

    pub(crate) fn control(&mut self, line: &str) -> Told<()> {
        self.host.control(line).map_err(words)
    }

    /// Lines of `effects`, `log` or `trace`.
    pub(crate) fn lines(&mut self, which: &str) -> Told<Vec<String>> {
        self.host.lines(which).map_err(words)
    }

    /// Calls the hook, as the daemon.
    pub(crate) fn hook(&mut self, operation: &str) -> Told<Ran> {
        let sub = if matches!(operation, "release" | "stopped") { "end" } else { "begin" };
        // libvirt chooses a domain's labels after prepare, and takes them away before it stops.
        let labelled = matches!(operation, "start" | "started" | "reconnect");
        self.run("virt-mdev-hook", &["vm1", operation, sub, "-"], usize::from(labelled))
    }

    /// Runs `virt-mdev`.
    pub(crate) fn command(&mut self, arguments: &[&str]) -> Told<Ran> {
        self.run("virt-mdev", arguments, 0)
    }

    fn run(&mut self, program: &str, arguments: &[&str], xml: usize) -> Told<Ran> {
        self.seen = None;
        let (xml, program) = (self.xml[xml].display().to_string(), built(program).display().to_string());
        let mut fields = vec!["run", "5000", &xml, &program];
        fields.extend(arguments);
        let [status, took, said]: [String; 3] =
            self.daemon.ask(&fields).map_err(words)?.try_into().map_err(|lines| format!("{lines:?}"))?;
        let took = took.parse().map_err(|_| took)?;
        Ok(Ran { status, took: Duration::from_millis(took), said })
    }

    /// Waits until nothing of a hook runs any more; that something does is an error.
    pub(crate) fn settle(&mut self) -> Told<()> {
        let Err(left) = self.daemon.ask(&["settle", "5000"]) else { return Ok(()) };
        // What came to where a fault blocks after all that waited there had been let go is no fault of its own. That
        // there is nothing of the kind is refused, and what runs yet has another reason.
        self.control("release").map_err(|_| words(left))?;
        self.daemon.ask(&["settle", "5000"]).map_err(words).map(drop)
    }

    /// The daemon dies, and there is another.
    pub(crate) fn daemon_dies(&mut self) -> Told<()> {
        self.seen = None;
        let daemon = Agent::start(&self.host).map_err(words)?;
        self.past.push((daemon.identity.clone(), "DAEMON"));
        self.daemon = daemon;
        Ok(())
    }

    /// QEMU opens the devices.
    pub(crate) fn hold(&mut self) -> Told<()> {
        if !self.held {
            let mut fields = vec!["hold"];
            fields.extend(&self.shape.devices);
            self.qemu.ask(&fields).map_err(words)?;
        }
        self.held = true;
        Ok(())
    }

    /// QEMU ends.
    pub(crate) fn let_go(&mut self) -> Told<()> {
        if self.held {
            self.qemu.ask(&["let-go"]).map_err(words)?;
        }
        self.held = false;
        Ok(())
    }

    fn named(&self, line: &str) -> String {
        rename(line, |number| {
            // The latest first: numbers of processes are given out anew.
            self.past.iter().rev().find_map(|([pid, start], name)| match number {
                _ if number == pid => Some(format!("\"{name}\"")),
                _ if number == start => Some("\"then\"".to_owned()),
                _ => None,
            })
        })
    }

    fn lines_now(&mut self) -> Told<(Vec<String>, Vec<String>)> {
        // A host that looks the same to every program has been looked at.
        let fingerprint = self.lines("fingerprint")?;
        if let Some(seen) = self.looks.get(&fingerprint) {
            return Ok(seen.clone());
        }
        // Not by the daemon: another would have to find out where to look.
        let mut lines = self.qemu.ask(&["look"]).map_err(words)?;
        let count: usize = lines.remove(0).parse().map_err(|_| "no count".to_owned())?;
        let records = lines.split_off(count);
        self.looks.insert(fingerprint, (lines.clone(), records.clone()));
        Ok((lines, records))
    }

    /// What there is now.
    pub(crate) fn look(&mut self) -> Told<Snapshot> {
        if let Some(seen) = &self.seen {
            return Ok(seen.clone());
        }
        let (hardware, records) = self.lines_now()?;
        let snapshot = Snapshot { hardware, records: records.iter().map(|line| self.named(line)).collect() };
        self.seen = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// The state that the host is in, after a run without faults whose effects are in the log.
    pub(crate) fn state(&mut self) -> Told<State> {
        for line in self.lines("effects")? {
            if let Some((path, data)) = written(&line) {
                if path.ends_with("/mdev_create") {
                    self.arguments.push(data.clone());
                }
                self.writes.push((path, data));
            }
        }
        let snapshot = self.look()?;
        let records = self.lines_now()?.1;
        let locks = self.daemon.ask(&["locks"]).map_err(words)?;
        let daemon = self.daemon.identity.clone();
        self.control("clear-log")?;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(State { number, snapshot, held: self.held, writes: self.writes.clone(), records, locks, daemon })
    }

    /// Brings the host to a state that it was in.
    pub(crate) fn restore(&mut self, state: &State) -> Told<()> {
        let kept = self.kept.contains_key(&state.number);
        let difference = if kept { self.load(state) } else { self.build(state) };
        if let Ok(None) = difference {
            return Ok(());
        }
        self.restart()?;
        match self.build(state)? {
            None => Ok(()),
            Some(difference) => Err(format!("the harness cannot restore a state:\n    {difference}")),
        }
    }

    /// As the emulator has kept it.
    fn load(&mut self, state: &State) -> Told<Option<String>> {
        self.seen = None;
        self.let_go()?;
        self.control(&format!("load {}", state.number))?;
        self.writes.clone_from(&state.writes);
        let there = self.kept.get(&state.number).map(|daemon| state.records(daemon)).unwrap_or_default();
        let wanted = state.records(&self.daemon.identity);
        self.record(wanted.iter().filter(|line| !there.contains(line)))?;
        self.complete(state)
    }

    /// What was not kept, because it is open.
    fn complete(&mut self, state: &State) -> Told<Option<String>> {
        if state.held {
            self.hold()?;
        }
        Ok(self.look()?.differs(&state.snapshot))
    }

    /// Writes lines of a record as they are.
    fn record<'a>(&mut self, lines: impl IntoIterator<Item = &'a String>) -> Told<()> {
        for line in lines {
            let mut parts = line.splitn(3, ' ');
            let (kind, path, text) = (parts.next(), parts.next(), parts.next());
            let (Some(kind), Some(path), Some(text)) = (kind, path, text) else { return Err(line.clone()) };
            self.daemon.ask(&[kind, path, text]).map_err(words)?;
        }
        Ok(())
    }

    fn make_locks(&mut self, state: &State) -> Told<()> {
        self.daemon.ask(&["directories"]).map_err(words)?;
        let mut fields = vec!["locks-are"];
        fields.extend(state.locks.iter().map(String::as_str));
        self.daemon.ask(&fields).map_err(words).map(drop)
    }

    /// From an empty host on, as it was brought about; the emulator keeps it.
    fn build(&mut self, state: &State) -> Told<Option<String>> {
        self.begin()?;
        for (path, data) in state.writes.iter().skip(self.shape.before.len()).cloned().collect::<Vec<_>>() {
            self.write(&path, &data)?;
        }
        // Also where the life began without any.
        if !self.shape.fresh || !state.records.is_empty() {
            self.make_locks(state)?;
        }
        self.record(&state.records(&self.daemon.identity))?;
        for line in state.snapshot.labels() {
            self.daemon.ask(&["label", line]).map_err(words)?;
        }
        self.control(&format!("save {}", state.number))?;
        let difference = self.complete(state)?;
        if difference.is_none() {
            self.kept.insert(state.number, self.daemon.identity.clone());
        }
        Ok(difference)
    }
}
