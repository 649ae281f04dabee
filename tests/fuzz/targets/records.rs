//! A record that somebody else may have written: read, judged, and settled.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use virt_mdev::backend::Backend;
use virt_mdev::config::Config;
use virt_mdev::execute::Means;
use virt_mdev::host::Host;
use virt_mdev::host::daemon::Process;
use virt_mdev::ids::{AttributeName, Context, DeviceId, DomainUuid, Node, Parent, Profile, TypeId};
use virt_mdev::labels::{Label, Owner};
use virt_mdev::reap::{self, Standing};
use virt_mdev::record::{Answers, Entry, Named, Phase, Record, Records, State, VERSION};
use virt_mdev::step::{Place, Step};
use virt_mdev::undo::{Sweep, settle};

use super::presentable;

const DOMAIN: &str = "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01";
const OTHER: &str = "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02";
const MDEV: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const SECOND: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
const OTHERS: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003";
const VF: &str = "0000:41:00.4";
const BASE: &str = "run/virt-mdev";
const RULES: &str = "etc/apparmor.d/libvirt/libvirt-0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01.files";

fn device(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn domain(text: &str) -> DomainUuid {
    DomainUuid::parse(text).unwrap()
}

fn place(backend: Backend, parent: &str, kind: &str) -> Place {
    Place::new(backend, Parent::parse(parent).unwrap(), TypeId::parse(kind).unwrap())
}

fn record(uuid: &str, phase: Phase, steps: Vec<Entry>) -> Record {
    Record { version: VERSION, domain: Named { uuid: domain(uuid), name: "vm1".to_owned() }, phase, steps }
}

/// Every kind of step: of two mediated devices, of which one was there, and of a virtual function.
fn steps() -> Vec<Step> {
    let context = |kind: &str| Context::parse(&format!("system_u:object_r:{kind}:s0:c1,c2")).ok();
    let label = |id: u32, kind: &str| Label {
        owner: Some(Owner { uid: id, gid: id }),
        mode: Some(0o600),
        context: context(kind),
    };
    let (ours, before) = (label(64055, "svirt_image_t"), label(0, "vfio_device_t"));
    let (node, function) = (Node::parse("vfio/7").unwrap(), Node::parse("vfio/devices/vfio0").unwrap());
    let profile = Profile::parse(&format!("libvirt-{DOMAIN}")).unwrap();
    let proposal = Place {
        arguments: "frame_rate_limiter=0".to_owned(),
        name: Some("GRID M60-0B".to_owned()),
        ..place(Backend::Proposal, "0000:86:00.0", "11")
    };
    let mtty = place(Backend::Mdev, "mtty", "mtty-2");
    let vgpu = place(Backend::Nvidia, VF, "1145");
    let (mdev, second, vf) = (device(MDEV), device(SECOND), device(VF));
    vec![
        Step::Create {
            device: mdev.clone(),
            place: mtty.clone(),
            keep: false,
            otherwise: vec![place(Backend::Mdev, "mtty2", "mtty-2")],
        },
        Step::Attribute {
            device: mdev.clone(),
            name: AttributeName::parse("settings/first").unwrap(),
            value: "1".to_owned(),
        },
        Step::Label { device: mdev.clone(), node: node.clone(), label: ours.clone(), was: before.clone() },
        Step::Allow { device: mdev.clone(), node: node.clone(), profile: profile.clone() },
        Step::Use { device: second.clone(), place: mtty.clone() },
        Step::Adopt { device: vf.clone(), place: vgpu.clone(), keep: true },
        Step::Label {
            device: vf.clone(),
            node: function.clone(),
            label: Label { mode: None, ..ours.clone() },
            was: Label { mode: None, ..before.clone() },
        },
        Step::Create { device: second.clone(), place: proposal.clone(), keep: true, otherwise: vec![] },
        Step::Online { device: second.clone() },
        Step::Create { device: vf.clone(), place: vgpu.clone(), keep: false, otherwise: vec![] },
        // These are never written down, and would be read.
        Step::Offline { device: second.clone() },
        Step::Unlabel { device: vf, node: function, label: ours, was: before },
        Step::Withdraw { device: mdev.clone(), node, profile },
        Step::Destroy { device: second, place: proposal },
    ]
}

/// Records as they are written: each phase, with every kind of step, every state, and everybody who may answer.
pub(crate) fn records() -> Vec<Vec<u8>> {
    let process = Process { pid: 4711, start_time: 815 };
    let states = [State::Done, State::Intended, State::Undoing, State::Kept];
    let answers = [
        Some(Answers::Running),
        Some(Answers::Starting(process)),
        Some(Answers::Attach(process)),
        Some(Answers::ByHand { until: u64::MAX }),
        Some(Answers::Plugged),
        None,
    ];
    let phases =
        [Phase::Preparing, Phase::Prepared, Phase::Starting, Phase::Running, Phase::Releasing, Phase::Kept];
    let entry = |step: Step, turn: usize| {
        let state = states[turn % states.len()];
        let undoes = state == State::Undoing;
        Entry {
            state,
            why: undoes.then(|| "the driver refused: Invalid argument (EINVAL, 22)".to_owned()),
            writer: (undoes && turn % 3 == 0).then_some(process),
            ..Entry::intended(step, answers[turn % answers.len()])
        }
    };
    let mut records = Vec::new();
    for (round, phase) in phases.into_iter().enumerate() {
        let all = steps().into_iter().enumerate().map(|(number, step)| entry(step, number + round));
        records.push(record(DOMAIN, phase, all.collect()));
        // What is mostly there: one device, in one state.
        let few = steps().into_iter().skip(round).take(3).map(|step| entry(step, round));
        records.push(record(DOMAIN, phase, few.collect()));
    }
    records.iter().map(|record| serde_json::to_vec(record).unwrap()).collect()
}

/// Every file and link of a host, and what is in it.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A host with the domain's record, and with another one's.
pub(crate) struct RecordFile {
    directory: tempfile::TempDir,
    domain: DomainUuid,
    /// But for the record, and for locks, which stay.
    before: Files,
}

impl RecordFile {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut file = Self { directory, domain: domain(DOMAIN), before: Files::new() };
        for directory in ["domains", "devices", "by-name", "locks"] {
            fs::create_dir_all(file.path(BASE).join(directory)).unwrap();
        }
        let entry = Entry::intended(
            Step::Use { device: device(OTHERS), place: place(Backend::Mdev, "mtty", "mtty-2") },
            None,
        );
        let other = serde_json::to_string(&record(OTHER, Phase::Running, vec![entry])).unwrap();
        // What an undoing might touch; no device is there, so nothing waits for a driver.
        for (path, text) in [
            (format!("{BASE}/domains/{OTHER}.json"), &*other),
            (RULES.to_owned(), "  \"/dev/vfio/7\" rw, # of somebody else\n"),
            ("dev/vfio/7".to_owned(), ""),
        ] {
            fs::create_dir_all(file.path(&path).parent().unwrap()).unwrap();
            fs::write(file.path(&path), text).unwrap();
        }
        for (device, domain) in [(MDEV, DOMAIN), (VF, DOMAIN), (OTHERS, OTHER)] {
            symlink(domain, file.claim(device)).unwrap();
        }
        file.before = file.files();
        for seed in records() {
            fs::write(file.file(), seed).unwrap();
            let read = Records::new(&Host::at(file.directory.path())).read(&file.domain);
            assert!(read.expect("a record").is_some());
        }
        file
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn file(&self) -> PathBuf {
        self.path(&format!("{BASE}/domains/{DOMAIN}.json"))
    }

    fn claim(&self, device: &str) -> PathBuf {
        self.path(&format!("{BASE}/devices/{device}"))
    }

    fn files(&self) -> Files {
        let (mut files, mut open) = (Files::new(), vec![self.directory.path().to_owned()]);
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                if kind.is_symlink() {
                    let link = fs::read_link(&path).unwrap();
                    files.insert(path, link.into_os_string().into_encoded_bytes());
                } else if kind.is_file() {
                    let text = fs::read(&path).unwrap();
                    files.insert(path, text);
                } else if !path.ends_with("locks") {
                    open.push(path);
                }
            }
        }
        files
    }

    /// What is another than before, or gone, or new.
    fn changed(&self) -> Vec<PathBuf> {
        let now = self.files();
        let new = now.keys().filter(|path| !self.before.contains_key(*path));
        let differs = |path: &&PathBuf| self.before.get(*path) != now.get(*path);
        self.before.keys().filter(differs).chain(new).cloned().collect()
    }

    /// Brings all back to where it was.
    fn lay_out(&self) {
        for path in self.changed() {
            if fs::symlink_metadata(&path).is_ok() {
                fs::remove_file(&path).unwrap();
            }
            match self.before.get(&path) {
                Some(domain) if path.parent() == self.claim(MDEV).parent() => {
                    symlink(std::str::from_utf8(domain).unwrap(), path).unwrap();
                }
                Some(text) => fs::write(path, text).unwrap(),
                None => {}
            }
        }
    }

    pub(crate) fn read(&mut self, input: &[u8]) {
        fs::write(self.file(), input).unwrap();
        let host = Host::at(self.directory.path());
        let records = Records::new(&host);
        let record = match records.read(&self.domain) {
            Ok(record) => Some(record.expect("it is there")),
            Err(trouble) => {
                presentable(&trouble.to_string());
                None
            }
        };
        assert_eq!(fs::read(self.file()).unwrap(), input, "whatever it is, it stays");
        if let Some(record) = &record {
            assert_eq!(record.domain.uuid, self.domain);
            judged(&host, record);
            let again = serde_json::to_vec(record).unwrap();
            assert_eq!(serde_json::from_slice::<Record>(&again).unwrap(), *record);
        }
        self.locked(&records, record.as_ref(), input);
        if let Some(record) = record.filter(is_undone_without_a_child) {
            self.settled(&host, &records, &record);
        }
        self.lay_out();
    }

    /// Under its lock a record is taken as it was read, or set aside, whole.
    fn locked(&self, records: &Records, record: Option<&Record>, input: &[u8]) {
        let guard = records.lock(&self.domain, Duration::from_secs(5)).expect("nobody has it");
        assert_eq!(guard.record(), record);
        let aside = self.file().with_extension("damaged");
        let place = if record.is_some() { self.file() } else { aside };
        assert_eq!(self.changed(), [&*place], "nothing but where the record is");
        assert_eq!(fs::read(&place).unwrap(), input, "what was in it is lost");
    }

    /// The domain has gone, and what its record says is undone: nothing that is not its own, and nothing outside of what
    /// is ours.
    fn settled(&self, host: &Host, records: &Records, record: &Record) {
        let means = Means { host, records, waits: Config::default().waits };
        let (guard, undone) = settle(means, &self.domain, Sweep::of_domain(Duration::ZERO)).expect("settled");
        undone.done.iter().for_each(|step| presentable(&step.to_string()));
        undone.left.iter().for_each(|left| presentable(&left.why.to_string()));
        let is_its = |device: &DeviceId| record.steps.iter().any(|entry| entry.step.device() == device);
        assert!(guard.steps().iter().all(|entry| is_its(entry.step.device())));
        let its = [self.file(), self.claim(MDEV), self.claim(VF)];
        for path in self.changed() {
            assert!(its.contains(&path), "{} is not the domain's", path.display());
        }
    }
}

/// Each device is judged, once, and each step can be told.
fn judged(host: &Host, record: &Record) {
    for locked in [false, true] {
        let judged = reap::judge(host, record, locked);
        for entry in &record.steps {
            let its = judged.iter().filter(|(device, _)| device == entry.step.device());
            assert_eq!(its.count(), 1, "{}", entry.step);
        }
        for (_, standing) in judged {
            match standing {
                Standing::Answered(by) => presentable(&by.to_string()),
                Standing::Abandoned(because) => presentable(&because.to_string()),
            }
        }
    }
    for Entry { step, .. } in &record.steps {
        presentable(&step.to_string());
        for back in [step.inverse(), step.release(), step.removal()].into_iter().flatten() {
            presentable(&back.to_string());
            assert_eq!(back.device(), step.device());
            assert_eq!(back.place(), step.place(), "taken away where it was made");
            assert!(!matches!(step, Step::Use { .. }), "another's is destroyed");
        }
    }
}

/// What is online is taken offline by a child, which libFuzzer would take for the end of itself.
fn is_undone_without_a_child(record: &Record) -> bool {
    !record.steps.iter().any(|entry| matches!(entry.step, Step::Online { .. }))
}
