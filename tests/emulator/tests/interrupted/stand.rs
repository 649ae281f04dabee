//! A domain that runs on an emulated host, with a stand-in for libvirt.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use virt_mdev_emulator::client::Emulated;

const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");

/// What anything here fails with: words.
pub(crate) type Told<T> = Result<T, String>;

/// The product's programs, built before.
fn built() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target =
        std::env::var_os("VIRT_MDEV_BUILT").map_or_else(|| here.join("../../target/release"), PathBuf::from);
    assert!(target.join("virt-mdev").exists(), "{} is missing: make build", target.display());
    target
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) -> Told<()> {
    let start = Instant::now();
    while !so() {
        if start.elapsed() > Duration::from_secs(5) {
            return Err(format!("waited in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The domain, its host and its libvirt.
pub(crate) struct Stand {
    pub(crate) host: Emulated,
    /// Where libvirt's stand-in keeps what it knows.
    state: PathBuf,
    /// The domain as it runs without what is plugged in, and what there is on the host then.
    xml: String,
    base: String,
}

impl Stand {
    /// A domain that runs, with a device that its start has made, if `own` says which.
    pub(crate) fn start(host: &str, own: Option<&str>) -> Self {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts");
        let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interrupted-{host}"));
        let _ = fs::remove_dir_all(&state);
        fs::create_dir_all(&state).unwrap();
        // Few functions, and no time that a driver takes after its user has ended: nothing here is about that.
        let text = fs::read_to_string(hosts.join(host).with_extension("toml")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("refuses_zero"));
        let text: String = lines.map(|line| line.replace("vfs = 32", "vfs = 3") + "\n").collect();
        fs::write(state.join("host.toml"), text).unwrap();
        let host = Emulated::start(Path::new(EMULATOR), &state.join("host.toml"), &["--udevd"]).unwrap();
        let mut stand = Self { host, state, xml: domain(own), base: String::new() };
        stand.put("live.xml", &stand.xml);
        if own.is_some() {
            for event in ["prepare", "start", "started"] {
                let output = stand.host.run(
                    &[&built().join("virt-mdev-hook").display().to_string(), "vm1", event, "begin", "-"],
                    stand.xml.as_bytes(),
                );
                assert!(output.unwrap().status.success(), "{event}");
                if event == "start" {
                    stand.sh(
                        "setsid \"$EMULATOR\" hold /dev/vfio/0 --name qemu-system-x86 >$STATE/opened 2>&1 &
                        echo $! >$STATE/own-qemu
                        until [[ -s $STATE/opened ]]; do sleep 0.002; done",
                    );
                }
            }
        }
        stand.base = stand.now();
        stand
    }

    /// A program on the host, which finds libvirt's stand-in.
    fn on_host(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interrupted");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.host.command(program);
        command.env("PATH", format!("{}:{}:{path}", built().display(), here.display()));
        command.env("STATE", &self.state).env("EMULATOR", EMULATOR).stdin(Stdio::null());
        command
    }

    /// A verb, not yet started, of a process group of its own, as a shell starts it.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Command {
        let mut command = self.on_host(built().join("virt-mdev"));
        command.args(arguments).process_group(0);
        command
    }

    /// Runs a verb to its end; says what it said.
    pub(crate) fn run(&self, arguments: &[&str]) -> Told<String> {
        let Output { status, stdout, stderr } =
            self.verb(arguments).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
        if status.success() { Ok(said.into_owned()) } else { Err(format!("{arguments:?}: {status}, {said}")) }
    }

    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.on_host("bash").args(["-c", script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Tells libvirt's stand-in something.
    pub(crate) fn put(&self, file: &str, text: &str) {
        fs::write(self.state.join(file), text).unwrap();
    }

    pub(crate) fn take_back(&self, file: &str) {
        let _ = fs::remove_file(self.state.join(file));
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.state.join(file).exists()
    }

    /// What there is on the host: devices, who may open them, records, and locks that somebody holds. Not a record that was
    /// being written: of a domain that has another it is written anew with the next.
    pub(crate) fn now(&self) -> String {
        self.sh("shopt -s nullglob; ls -l --time-style=+ /sys/bus/mdev/devices | grep -o '[^ ]* ->'
            grep -Hvx 0 /dev/null /sys/bus/pci/devices/*/nvidia/current_vgpu_type
            stat -c '%n %u:%g %a' /dev/vfio/*
            cd /run/virt-mdev 2>/dev/null || exit 0
            find . -mindepth 2 ! -path './locks/*' ! -name '*.new' -printf '%p %l\\n' | sort
            for record in domains/*.json; do cat $record; done
            for lock in locks/*; do flock -n $lock true || echo \"$lock is held\"; done")
    }

    /// The device that was plugged in: claimed, and not there before.
    pub(crate) fn device(&self) -> Option<String> {
        let claims = self.sh("ls /run/virt-mdev/devices 2>/dev/null");
        let own = |claim: &&str| self.base.contains(&format!("devices/{claim} "));
        claims.lines().find(|claim| !own(claim)).map(str::to_owned)
    }

    /// Waits until nothing runs on the host but QEMU, and `virsh` where it is held up.
    pub(crate) fn settle(&self, and: &str) -> Told<()> {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own = self.host.pid().to_string();
        let here = namespace(&own);
        let mut left = String::new();
        let nobody = || {
            left.clear();
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let pid = entry.file_name().to_string_lossy().into_owned();
                if !pid.starts_with(|c: char| c.is_ascii_digit()) || pid == own || namespace(&pid) != here {
                    continue;
                }
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                if !["", "qemu-system-x86", and].contains(&name.trim_end()) {
                    left += &name;
                }
            }
            // `virsh` waits by starting one sleep after the other.
            left.is_empty() || (!and.is_empty() && left.lines().all(|name| name == "sleep"))
        };
        until("everything to end", nobody).map_err(|why| format!("{why}: {left}"))
    }

    /// Nothing of what was plugged in is left, neither here nor in the domain.
    pub(crate) fn is_gone(&self) -> Told<()> {
        let xml = fs::read_to_string(self.state.join("live.xml")).unwrap_or_default();
        if xml.trim_end() != self.xml.trim_end() {
            return Err(format!("the domain has a device:\n{xml}"));
        }
        match self.now() {
            now if now == self.base => Ok(()),
            now => Err(format!("left:\n{now}where there was:\n{}", self.base)),
        }
    }

    /// The device is the domain's, and QEMU has it open.
    pub(crate) fn is_attached(&self, device: &str) -> Told<()> {
        let xml = fs::read_to_string(self.state.join("live.xml")).unwrap_or_default();
        let function = device.rsplit_once('.').map(|(_, function)| format!("function='0x{function}'"));
        if !xml.contains(function.as_deref().unwrap_or(device)) {
            return Err(format!("{device} is not in the domain:\n{xml}"));
        }
        self.is_held(device)
    }

    /// The device is there, recorded, and QEMU has it open.
    pub(crate) fn is_held(&self, device: &str) -> Told<()> {
        let listed = self.run(&["show", device])?;
        let open = listed.contains("qemu-system-x86");
        let now = self.now();
        let lines = [format!("devices/{device} "), format!("\"{device}\"")];
        match lines.iter().all(|line| now.contains(line)) && open && !now.contains("is held") {
            true => Ok(()),
            false => Err(format!("{device} is not all there:\n{now}{listed}")),
        }
    }

    /// The domain ends; says what is left of it.
    pub(crate) fn end(&self) -> String {
        self.sh("cat $STATE/*qemu* | xargs --no-run-if-empty kill -KILL");
        let hook = built().join("virt-mdev-hook").display().to_string();
        let released = self.host.run(&[&hook, "vm1", "release", "end", "-"], self.xml.as_bytes());
        let status = released.map(|output| output.status.to_string()).unwrap_or_default();
        let left = self
            .sh("shopt -s nullglob; ls /sys/bus/mdev/devices; grep -Hvx 0 /dev/null /sys/bus/pci/devices/*/nvidia/current_vgpu_type
            find /run/virt-mdev -mindepth 2 ! -path '*/locks/*'");
        if status == "exit status: 0" { left } else { format!("{status}\n{left}") }
    }

    /// The guest has let it go, and nobody was there to see it.
    pub(crate) fn let_go_behind_our_back(&self) {
        self.sh("kill -KILL $(cat $STATE/qemu-*); rm -f $STATE/qemu-*");
        self.put("live.xml", &self.xml);
    }
}

/// Its XML; `own` are the attributes of a `<device>` of its own.
fn domain(own: Option<&str>) -> String {
    let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    let metadata = own.map(|attributes| {
        format!("<metadata><m:devices xmlns:m='urn:virt-mdev:domain:1'><m:device uuid='{uuid}' {attributes}/></m:devices></metadata>")
    });
    let hostdev = own.map(|_| {
        format!("<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/></source></hostdev>")
    });
    // A user namespace has one user: there is nobody else to give a node to.
    let owner = if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
    {
        "+64055:+64055"
    } else {
        "+0:+0"
    };
    format!(
        "<domain type='kvm' id='1'><name>vm1</name><uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid>{}<devices>{}</devices>\
         <seclabel type='dynamic' model='dac' relabel='yes'><label>{owner}</label><imagelabel>{owner}</imagelabel></seclabel>\
         </domain>",
        metadata.unwrap_or_default(),
        hostdev.unwrap_or_default()
    )
}
