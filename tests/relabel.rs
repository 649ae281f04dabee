//! What udev's helper does with a node, by the record that it finds: in a directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test may fail"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use virt_mdev::host::Host;
use virt_mdev::ids::{Context, DeviceId, DomainUuid, Node};
use virt_mdev::labels::{Label, Owner};
use virt_mdev::record::{Guard, Records, State};
use virt_mdev::relabel::{Event, Given, apply, properties};
use virt_mdev::step::Step;

const LIMIT: Duration = Duration::from_millis(50);
const DEVICE: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const OURS: &str = "system_u:object_r:svirt_image_t:s0:c1,c2";
const BEFORE: &str = "system_u:object_r:vfio_device_t:s0";
/// The mode that stands for a label that the tests can give without being root, and the one before it.
const LABELLED: u32 = 0o640;
const PLAIN: u32 = 0o600;

fn domain(number: u8) -> DomainUuid {
    DomainUuid::parse(&format!("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e{number:02}")).unwrap()
}

fn device() -> DeviceId {
    DeviceId::parse(DEVICE).unwrap()
}

fn event() -> Event {
    Event::parse("add", "vfio", "/devices/virtual/vfio/7").unwrap()
}

fn label(mode: u32, context: Option<&str>) -> Label {
    let context = context.map(|context| Context::parse(context).unwrap());
    Label { owner: None, mode: Some(mode), context }
}

/// A device with group 7 and its node.
struct Bench {
    directory: tempfile::TempDir,
    host: Host,
    records: Records,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::at(directory.path());
        let records = Records::new(&host);
        let bench = Self { directory, host, records };
        for path in ["run", "dev/vfio", "sys/kernel/iommu_groups/7/devices"] {
            fs::create_dir_all(bench.path(path)).unwrap();
        }
        fs::write(bench.path(&format!("sys/kernel/iommu_groups/7/devices/{DEVICE}")), "").unwrap();
        let device = bench.path(&format!("sys/bus/mdev/devices/{DEVICE}"));
        fs::create_dir_all(&device).unwrap();
        symlink("../../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
        fs::write(bench.node(), "").unwrap();
        bench.set(PLAIN);
        bench
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn node(&self) -> PathBuf {
        self.path("dev/vfio/7")
    }

    fn set(&self, mode: u32) {
        fs::set_permissions(self.node(), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn mode(&self) -> u32 {
        fs::metadata(self.node()).unwrap().mode() & 0o7777
    }

    /// Whether this user, on this file system, may give a node a context.
    fn set_context(&self, context: &str) -> bool {
        setxattr(self.node(), "security.selinux", context.as_bytes(), XattrFlags::empty()).is_ok()
    }

    fn context(&self) -> String {
        let mut bytes = [0; 256];
        let length = getxattr(self.node(), "security.selinux", &mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).trim_end_matches('\0').to_owned()
    }

    /// A domain that has claimed the device.
    fn claimed(&self, number: u8) -> Guard<'_> {
        let mut guard = self.records.lock(&domain(number), LIMIT).unwrap();
        guard.begin(&format!("vm{number}")).unwrap();
        assert_eq!(guard.claim(&device(), LIMIT).unwrap(), None);
        guard
    }

    fn properties(&self) -> String {
        properties(&self.host, &event()).unwrap()
    }

    /// The helper's second call, after udev did to the node what it does; the mode that the node has then.
    fn apply(&self) -> u32 {
        apply(&self.host, &event(), &Given::default(), LIMIT).unwrap();
        self.mode()
    }
}

fn intend(guard: &mut Guard<'_>, context: Option<&str>) {
    let node = Node::parse("vfio/7").unwrap();
    let was = label(PLAIN, context.map(|_| BEFORE));
    guard.intend(Step::Label { device: device(), node, label: label(LABELLED, context), was }, None).unwrap();
}

#[test]
fn a_node_gets_its_label_again_as_long_as_it_stands_in_the_record() {
    let bench = Bench::new();
    assert_eq!((bench.properties().lines().count(), bench.apply()), (1, PLAIN), "nobody's");
    assert!(!bench.path("run/virt-mdev").exists(), "nothing was made for it");
    let mut guard = bench.claimed(1);
    assert_eq!((bench.properties().lines().count(), bench.apply()), (2, PLAIN), "prepared");
    intend(&mut guard, Some(OURS));
    // Whoever runs this without being root may not set contexts.
    if bench.set_context(BEFORE) {
        for state in [State::Intended, State::Done] {
            bench.set(PLAIN);
            assert!(bench.set_context(BEFORE));
            guard.mark(0, state).unwrap();
            assert_eq!((bench.apply(), bench.context().as_str()), (LABELLED, OURS), "{state:?}");
            assert_eq!(bench.apply(), LABELLED, "and once more");
        }
        assert!(
            bench.properties().contains(&format!("VIRT_MDEV_CONTEXT=\"{OURS}\"\nVIRT_MDEV_WAS=\"{BEFORE}\""))
        );
    }
    bench.set(PLAIN);
    guard.mark(0, State::Undoing).unwrap();
    assert_eq!(bench.apply(), PLAIN, "it is being put back");
    assert_eq!(bench.properties(), format!("VIRT_MDEV_UUID=\"{DEVICE}\"\nVIRT_MDEV_DOMAIN=\"vm1\"\n"));
    guard.remove(0);
    guard.unclaim(&device()).unwrap();
    guard.end().unwrap();
    assert_eq!((bench.properties().lines().count(), bench.apply()), (1, PLAIN), "released");
}

#[test]
fn a_node_that_another_domain_or_device_has_by_now_is_not_labelled() {
    let bench = Bench::new();
    let mut first = bench.claimed(1);
    intend(&mut first, None);
    assert_eq!(bench.apply(), LABELLED);
    bench.set(PLAIN);
    first.unclaim(&device()).unwrap();
    assert_eq!(bench.apply(), PLAIN, "without the claim");
    let second = bench.claimed(2);
    assert_eq!(bench.apply(), PLAIN, "another's claim");
    assert!(bench.properties().contains("VIRT_MDEV_DOMAIN=\"vm2\""));
    second.unclaim(&device()).unwrap();
    assert_eq!(first.claim(&device(), LIMIT).unwrap(), None);
    // The group's number went to another device.
    let group = bench.path(&format!("sys/bus/mdev/devices/{DEVICE}/iommu_group"));
    fs::remove_file(&group).unwrap();
    symlink("../../../../kernel/iommu_groups/8", &group).unwrap();
    assert_eq!(bench.apply(), PLAIN, "the device has another group");
    fs::remove_file(&group).unwrap();
    symlink("../../../../kernel/iommu_groups/7", &group).unwrap();
    assert_eq!(bench.apply(), LABELLED);
}

/// What it carried was good enough and is not in the record; a rule of somebody else has set another.
#[test]
fn an_owner_can_use_the_node_whatever_mode_it_was_given() {
    let bench = Bench::new();
    let mut guard = bench.claimed(1);
    let node = Node::parse("vfio/7").unwrap();
    let owner = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let label = Label { owner: Some(owner), ..Label::default() };
    guard.intend(Step::Label { device: device(), node, was: label.clone(), label }, None).unwrap();
    for (mode, then) in [(0o600, 0o600), (0o666, 0o666), (0o440, 0o640), (0, 0o600)] {
        bench.set(mode);
        assert_eq!(bench.apply(), then, "{mode:o}");
    }
}

#[test]
fn what_cannot_be_trusted_is_nobodys() {
    let bench = Bench::new();
    let mut guard = bench.claimed(1);
    intend(&mut guard, None);
    let record = bench.path(&format!("run/virt-mdev/domains/{}.json", domain(1)));
    let good = fs::read_to_string(&record).unwrap();
    let nobodys = |what: &str| {
        assert_eq!(bench.properties(), format!("VIRT_MDEV_UUID=\"{DEVICE}\"\n"), "{what}");
        assert_eq!(bench.apply(), PLAIN, "{what}");
    };
    for bad in
        ["", "{", &good.replace("\"version\":1", "\"version\":2"), &good.replace("vfio/7", "../etc/passwd")]
    {
        fs::write(&record, bad).unwrap();
        nobodys(bad);
    }
    fs::remove_file(&record).unwrap();
    nobodys("a claim without a record");
    symlink("/etc/passwd", &record).unwrap();
    nobodys("a link");
    fs::remove_file(&record).unwrap();
    fs::write(&record, &good).unwrap();
    let claim = bench.path(&format!("run/virt-mdev/devices/{DEVICE}"));
    for text in ["../../etc", "x"] {
        fs::remove_file(&claim).unwrap();
        symlink(text, &claim).unwrap();
        nobodys(text);
    }
    fs::remove_file(&claim).unwrap();
    fs::write(&claim, domain(1).to_string()).unwrap();
    nobodys("a file in the claim's place");
}

#[test]
fn a_device_without_a_node_and_a_node_without_a_device_are_no_errors() {
    let bench = Bench::new();
    let mut guard = bench.claimed(1);
    intend(&mut guard, None);
    fs::remove_file(bench.node()).unwrap();
    apply(&bench.host, &event(), &Given::default(), LIMIT).unwrap();
    let gone = Event::parse("change", "vfio", "/devices/virtual/vfio/9").unwrap();
    apply(&bench.host, &gone, &Given::default(), LIMIT).unwrap();
    assert_eq!(properties(&bench.host, &gone).unwrap(), "");
    // Kernels without nodes of devices have the class all the same.
    let own = format!("/devices/virtual/mtty/mtty/{DEVICE}/vfio-dev/vfio0");
    let own = Event::parse("add", "vfio-dev", &own).unwrap();
    apply(&bench.host, &own, &Given::default(), LIMIT).unwrap();
    assert!(properties(&bench.host, &own).unwrap().contains("VIRT_MDEV_DOMAIN=\"vm1\""));
}

#[test]
fn a_node_without_a_claim_waits_for_no_lock_and_another_not_for_ever() {
    let bench = Bench::new();
    let mut guard = bench.claimed(1);
    intend(&mut guard, None);
    let lock = bench.records.lock_labels(LIMIT).unwrap();
    let began = Instant::now();
    let error = apply(&bench.host, &event(), &Given::default(), LIMIT).unwrap_err().to_string();
    assert!(error.contains("another process has held it for 50ms"), "{error}");
    assert!(began.elapsed() < LIMIT * 20);
    assert!(bench.properties().contains("VIRT_MDEV_DOMAIN"), "the first call takes no lock");
    guard.unclaim(&device()).unwrap();
    assert_eq!(bench.apply(), PLAIN);
    drop(lock);
}

/// The release came between what udev was told and what it did: it set the context of a domain that has gone.
#[test]
fn a_context_that_came_too_late_is_taken_back() {
    let bench = Bench::new();
    if !bench.set_context(BEFORE) {
        eprintln!("not tested: this user may not set contexts here");
        return;
    }
    let given = Given::parse(OURS, BEFORE);
    let apply = |given: &Given| {
        apply(&bench.host, &event(), given, LIMIT).unwrap();
        bench.context()
    };
    let mut guard = bench.claimed(1);
    intend(&mut guard, Some(OURS));
    guard.done();
    assert!(bench.set_context(OURS));
    assert_eq!(apply(&given), OURS, "the domain has it");
    guard.mark(0, State::Undoing).unwrap();
    assert_eq!(apply(&given), BEFORE);
    // What somebody else has given it since stays.
    let other = OURS.replace("c1,c2", "c3,c4");
    assert!(bench.set_context(&other));
    assert_eq!(apply(&given), other);
    guard.remove(0);
    guard.unclaim(&device()).unwrap();
    guard.end().unwrap();
    assert!(bench.set_context(OURS));
    assert_eq!(apply(&given), BEFORE, "without record and claim");
    // The next domain has the device, and the same context.
    let mut next = bench.claimed(2);
    intend(&mut next, Some(OURS));
    assert!(bench.set_context(BEFORE));
    assert_eq!(apply(&given), OURS);
}
