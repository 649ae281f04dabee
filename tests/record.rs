//! Records, claims and locks, in a directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test may fail"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use virt_mdev::backend::Backend;
use virt_mdev::config::Config;
use virt_mdev::execute::Means;
use virt_mdev::host::Host;
use virt_mdev::host::daemon::{Process, process};
use virt_mdev::ids::{AttributeName, DeviceId, DomainUuid, Parent, TypeId};
use virt_mdev::reap::{Because, By, Standing, judge};
use virt_mdev::record::{Answers, Entry, Guard, Phase, Records, State};
use virt_mdev::step::{Place, Step};
use virt_mdev::undo::{Sweep, Undone, settle};

const LIMIT: Duration = Duration::from_millis(50);

fn domain(number: u8) -> DomainUuid {
    DomainUuid::parse(&format!("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e{number:02}")).unwrap()
}

fn device() -> DeviceId {
    DeviceId::parse("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001").unwrap()
}

fn create() -> Step {
    let place = Place {
        backend: Backend::Mdev,
        parent: Parent::parse("mtty").unwrap(),
        kind: TypeId::parse("mtty-2").unwrap(),
        arguments: String::new(),
        name: None,
    };
    Step::Create { device: device(), place, keep: false, otherwise: vec![] }
}

struct Run {
    directory: tempfile::TempDir,
    records: Records,
}

fn run() -> Run {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("run")).unwrap();
    let records = Records::new(&Host::at(directory.path()));
    Run { directory, records }
}

impl Run {
    fn path(&self, relative: &str) -> std::path::PathBuf {
        self.directory.path().join("run/virt-mdev").join(relative)
    }

    fn names(&self, relative: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(relative)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn a_run_leaves_nothing_but_locks() {
    let run = run();
    let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
    guard.begin("vm1").unwrap();
    guard.intend(create(), None).unwrap();
    assert_eq!(guard.claim(&device(), LIMIT).unwrap(), None);
    guard.done();
    guard.advance(Phase::Prepared, None).unwrap();
    let record = run.records.read(&domain(1)).unwrap().unwrap();
    assert_eq!(
        (record.phase, record.steps[0].state, &record.steps[0].step),
        (Phase::Prepared, State::Done, &create())
    );
    assert_eq!(run.records.by_name("vm1"), Some(domain(1)));
    assert_eq!(run.records.by_name("vm2"), None);
    assert_eq!(run.records.owner(&device()).unwrap().unwrap().name, "vm1");
    guard.unclaim(&device()).unwrap();
    guard.remove(0);
    guard.end().unwrap();
    for directory in ["domains", "devices", "by-name"] {
        assert_eq!(run.names(directory), [""; 0], "{directory}");
    }
    assert!(!run.records.has(&domain(1)));
}

#[test]
fn nobody_else_can_take_a_lock() {
    use std::os::unix::fs::PermissionsExt;

    let run = run();
    let _guard = run.records.lock(&domain(1), LIMIT).unwrap();
    let _labels = run.records.lock_labels(LIMIT).unwrap();
    for name in run.names("locks") {
        let mode = fs::metadata(run.path("locks").join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    assert_eq!(run.names("locks").len(), 2);
}

#[test]
fn the_intent_is_on_disk_before_the_outcome() {
    let run = run();
    let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
    guard.begin("vm1").unwrap();
    guard.intend(create(), None).unwrap();
    assert_eq!(run.records.read(&domain(1)).unwrap().unwrap().steps[0].state, State::Intended);
}

#[test]
fn a_directory_that_was_cleared_away_is_made_again() {
    for directory in ["domains", "devices", "by-name"] {
        let run = run();
        let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
        fs::remove_dir(run.path(directory)).unwrap();
        guard.begin("vm1").unwrap();
        guard.intend(create(), None).unwrap();
        assert_eq!(guard.claim(&device(), LIMIT).unwrap(), None, "{directory}");
        assert!(run.records.has(&domain(1)), "{directory}");
        assert_eq!(run.records.by_name("vm1"), Some(domain(1)), "{directory}");
        assert_eq!(run.records.owner(&device()).unwrap().unwrap().name, "vm1", "{directory}");
    }
}

#[test]
fn a_claim_is_one_domains_and_a_stale_one_nobodys() {
    let run = run();
    let mut first = run.records.lock(&domain(1), LIMIT).unwrap();
    first.begin("vm1").unwrap();
    assert_eq!(first.claim(&device(), LIMIT).unwrap(), None);
    assert_eq!(first.claim(&device(), LIMIT).unwrap(), None, "its own claim is no obstacle");
    let mut second = run.records.lock(&domain(2), LIMIT).unwrap();
    second.begin("clone").unwrap();
    assert_eq!(second.claim(&device(), LIMIT).unwrap().unwrap().name, "vm1");
    second.unclaim(&device()).unwrap();
    assert!(first.owns(&device()).unwrap(), "nobody lets go of another's claim");
    // The first one's record goes, as in a crash after which somebody cleaned up: its claim is nobody's then.
    fs::remove_file(run.path(&format!("domains/{}.json", domain(1)))).unwrap();
    assert_eq!(second.claim(&device(), LIMIT).unwrap(), None);
    assert!(second.owns(&device()).unwrap());
}

#[test]
fn a_domain_has_one_lock() {
    let run = run();
    let guard = run.records.lock(&domain(1), LIMIT).unwrap();
    let error = run.records.lock(&domain(1), LIMIT).unwrap_err().to_string();
    assert!(error.contains("another process has held it for 50ms"), "{error}");
    drop(guard);
    drop(run.records.lock(&domain(1), LIMIT).unwrap());
}

#[test]
fn a_record_that_cannot_be_trusted_is_set_aside() {
    let good = "{\"version\":1,\"domain\":{\"uuid\":\"0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01\",\"name\":\"vm1\"},\"phase\":\"running\",\"steps\":[]}";
    let run = run();
    drop(run.records.lock(&domain(1), LIMIT).unwrap());
    let file = run.path(&format!("domains/{}.json", domain(1)));
    fs::write(&file, good).unwrap();
    assert!(run.records.read(&domain(1)).unwrap().is_some(), "the good one is read");
    let path = "\"steps\":[{\"step\":{\"do\":\"create\",\"device\":\"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\",\"backend\":\"mdev\",\"parent\":\"../../etc\",\"type\":\"t\",\"keep\":false},\"state\":\"done\"}]";
    for bad in [
        "",
        "{",
        &good[..good.len() - 1],
        &good.replace("\"version\":1", "\"version\":2"),
        &good.replace("4e01", "4e02"),
        &good.replace("\"steps\":[]", path),
        &good.replace("running", "flying"),
    ] {
        fs::write(&file, bad).unwrap();
        assert!(run.records.read(&domain(1)).is_err(), "{bad}");
        let guard = run.records.lock(&domain(1), LIMIT).unwrap();
        assert!(guard.record().is_none(), "{bad}");
        assert!(!file.exists(), "{bad}");
        let aside = file.with_extension("damaged");
        assert_eq!(fs::read_to_string(&aside).unwrap(), bad, "kept for a look");
        fs::remove_file(aside).unwrap();
    }
    // Something has been set aside before.
    fs::create_dir(file.with_extension("damaged")).unwrap();
    for number in 2..12 {
        fs::write(&file, format!("{{{number}")).unwrap();
        assert!(run.records.lock(&domain(1), LIMIT).unwrap().record().is_none());
        let aside = file.with_extension(format!("{}.damaged", number.min(9)));
        assert_eq!(fs::read_to_string(&aside).unwrap(), format!("{{{number}"));
    }
    assert_eq!(run.records.damaged().unwrap().len(), 9);
    for aside in run.records.damaged().unwrap() {
        fs::remove_file(&aside).or_else(|_| fs::remove_dir(&aside)).unwrap();
    }
    let elsewhere = run.directory.path().join("elsewhere");
    fs::write(&elsewhere, good).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert!(run.records.read(&domain(1)).is_err(), "a link is not a record");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(run.records.read(&domain(1)).is_err(), "nor is a directory");
    fs::remove_dir(&file).unwrap();
    fs::write(&file, good).unwrap();
    // Only root can give a file away; whoever else runs the tests owns no file of another user's.
    if std::os::unix::fs::chown(&file, Some(4711), None).is_ok() {
        assert!(run.records.read(&domain(1)).is_err(), "nor is another user's");
    }
    for what in ["another user's", "a link", "a directory"] {
        match what {
            "a link" => symlink(&elsewhere, &file).unwrap(),
            "a directory" => fs::create_dir(&file).unwrap(),
            _ if run.records.read(&domain(1)).is_ok() => continue,
            _ => {}
        }
        assert!(run.records.lock(&domain(1), LIMIT).unwrap().record().is_none(), "{what}");
        assert!(fs::symlink_metadata(&file).is_err(), "{what} is set aside");
        let aside = file.with_extension("damaged");
        fs::remove_file(&aside).or_else(|_| fs::remove_dir(&aside)).unwrap();
    }
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), good, "what a link led to is not touched");
}

#[test]
fn an_unfinished_first_record_is_found_and_goes() {
    let run = run();
    drop(run.records.lock(&domain(1), LIMIT).unwrap());
    let unfinished = run.path(&format!("domains/{}.new", domain(1)));
    fs::write(&unfinished, "{\"vers").unwrap();
    assert!(run.records.has(&domain(1)));
    run.records.lock(&domain(1), LIMIT).unwrap().end().unwrap();
    assert!(!unfinished.exists());
}

#[test]
fn a_renamed_domain_leaves_the_name_to_its_new_owner() {
    let run = run();
    let mut first = run.records.lock(&domain(1), LIMIT).unwrap();
    let begin = |guard: &mut Guard<'_>, name| guard.begin(name).and_then(|()| guard.save()).unwrap();
    begin(&mut first, "old");
    let mut second = run.records.lock(&domain(2), LIMIT).unwrap();
    begin(&mut second, "old");
    assert_eq!(run.records.by_name("old"), Some(domain(2)));
    begin(&mut first, "new");
    assert_eq!(run.records.by_name("old"), Some(domain(2)));
    first.end().unwrap();
    assert_eq!(run.records.by_name("new"), None);
    assert_eq!(run.records.by_name("old"), Some(domain(2)));
}

#[test]
fn a_record_that_could_not_be_read_back_is_not_written() {
    let run = run();
    let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
    guard.begin("vm1").unwrap();
    let name = AttributeName::parse("a").unwrap();
    let step = || Step::Attribute { device: device(), name: name.clone(), value: "x".repeat(4000) };
    let refused = (0..300).find_map(|_| guard.intend(step(), None).err()).unwrap();
    assert!(refused.to_string().contains("more than a record can hold"), "{refused}");
    assert!(run.records.read(&domain(1)).unwrap().is_some(), "what was written before stands");
}

#[test]
fn a_device_that_another_domain_has_claimed_since_is_not_destroyed() {
    let run = run();
    let host = Host::at(run.directory.path());
    let mut first = run.records.lock(&domain(1), LIMIT).unwrap();
    first.begin("vm1").unwrap();
    // The hook dies between intent and claim; the other domain makes the device.
    first.intend(create(), None).unwrap();
    drop(first);
    let mut second = run.records.lock(&domain(2), LIMIT).unwrap();
    second.begin("vm2").unwrap();
    assert_eq!(second.claim(&device(), LIMIT).unwrap(), None);
    drop(second);
    let parent = run.directory.path().join("sys/devices/mtty");
    fs::create_dir_all(parent.join(device().to_string())).unwrap();
    fs::create_dir_all(run.directory.path().join("sys/bus/mdev/devices")).unwrap();
    symlink("../mdev_supported_types/mtty-2", parent.join(format!("{}/mdev_type", device()))).unwrap();
    let on_bus = run.directory.path().join(format!("sys/bus/mdev/devices/{}", device()));
    symlink(format!("../../../devices/mtty/{}", device()), on_bus).unwrap();
    let means = Means { host: &host, records: &run.records, waits: Config::default().waits };
    let (guard, undone) = settle(means, &domain(1), Sweep::of_domain(LIMIT)).unwrap();
    assert!(guard.record().is_none());
    assert_eq!(undone, Undone::default(), "settled at once: nothing was waited for and nothing written");
    assert_eq!(run.records.owner(&device()).unwrap().unwrap().name, "vm2");
}

#[test]
fn what_a_running_domain_does_not_open_is_its_own_until_it_ends() {
    let run = run();
    let host = Host::at(run.directory.path());
    let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
    guard.begin("vm1").unwrap();
    guard.intend(create(), None).unwrap();
    guard.done();
    guard.advance(Phase::Running, Some(Answers::Running)).unwrap();
    let standing = || judge(&host, guard.record().unwrap(), true).remove(0).1;
    let write = |path: &str, text: &str| {
        let path = run.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    assert_eq!(standing(), Standing::Abandoned(Because::LetGo), "nobody runs");
    write("run/libvirt/qemu/vm1.pid", "4711\n");
    assert_eq!(standing(), Standing::Abandoned(Because::LetGo), "its QEMU has ended");
    write("proc/4711/cmdline", "sleep\x0060\0");
    assert_eq!(standing(), Standing::Abandoned(Because::LetGo), "another process has its pid");
    write("proc/4711/cmdline", "qemu\0-name\0guest=vm1,debug-threads=on\0");
    assert_eq!(standing(), Standing::Answered(By::Domain));
}

#[test]
fn what_is_plugged_in_is_answered_for_by_whoever_is_at_it() {
    let run = run();
    let host = Host::at(run.directory.path());
    let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
    guard.join("vm1").unwrap();
    let myself = process(&Host::real(), i32::try_from(std::process::id()).unwrap()).unwrap();
    let stat = format!("proc/{}/stat", myself.pid);
    fs::create_dir_all(run.directory.path().join(&stat).parent().unwrap()).unwrap();
    fs::copy(format!("/{stat}"), run.directory.path().join(&stat)).unwrap();
    guard.intend(create(), Some(Answers::Attach(myself))).unwrap();
    guard.done();
    let standing = |guard: &Guard<'_>| judge(&host, guard.record().unwrap(), true).remove(0).1;
    assert_eq!(standing(&guard), Standing::Answered(By::Command(myself.pid)));
    // The daemon has been restarted: the domain runs, and has the device no more than before.
    guard.advance(Phase::Running, Some(Answers::Running)).unwrap();
    assert_eq!(standing(&guard), Standing::Answered(By::Command(myself.pid)));
    let dead = Process { start_time: myself.start_time + 1, ..myself };
    guard.answer(&device(), Answers::Attach(dead)).unwrap();
    assert_eq!(standing(&guard), Standing::Abandoned(Because::CommandGone));
    let now = u64::try_from(host.now().as_millis()).unwrap();
    guard.answer(&device(), Answers::ByHand { until: now + 60_000 }).unwrap();
    assert_eq!(standing(&guard), Standing::Answered(By::Hand(60)));
    guard.advance(Phase::Running, Some(Answers::Running)).unwrap();
    assert_eq!(standing(&guard), Standing::Answered(By::Hand(60)));
    guard.answer(&device(), Answers::ByHand { until: now }).unwrap();
    assert_eq!(standing(&guard), Standing::Abandoned(Because::NotAttached));
    guard.answer(&device(), Answers::Plugged).unwrap();
    assert_eq!(standing(&guard), Standing::Abandoned(Because::LetGo));
    let kept = run.records.read(&domain(1)).unwrap().unwrap();
    assert_eq!(
        (kept.phase, kept.steps[0].answers),
        (Phase::Running, Some(Answers::Plugged)),
        "written and read"
    );
}

#[test]
fn a_kept_device_that_goes_leaves_what_lies_about_without_it() {
    let run = run();
    let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
    guard.begin("vm1").unwrap();
    guard.intend(create(), None).unwrap();
    assert!(guard.claim(&device(), LIMIT).unwrap().is_none());
    let allow = serde_json::json!({ "do": "allow", "device": device(), "node": "vfio/7",
        "profile": format!("libvirt-{}", domain(1)) });
    guard.intend(serde_json::from_value(allow).unwrap(), None).unwrap();
    guard.mark(0, State::Kept).unwrap();
    guard.lose(&device()).unwrap();
    assert!(matches!(guard.steps(), [Entry { step: Step::Allow { .. }, .. }]), "{:?}", guard.steps());
    assert!(guard.is_unclaimed(&device()));
    guard.remove(0);
    guard.end().unwrap();
    assert!(run.records.read(&domain(1)).unwrap().is_none());
}

#[test]
fn joining_leaves_what_is_to_be_undone_to_be_undone() {
    let run = run();
    let mut guard = run.records.lock(&domain(1), LIMIT).unwrap();
    guard.begin("vm1").unwrap();
    guard.intend(create(), None).unwrap();
    guard.done();
    guard.advance(Phase::Releasing, None).unwrap();
    guard.join("vm1").unwrap();
    let record = guard.record().unwrap();
    assert_eq!((record.phase, record.steps[0].state), (Phase::Running, State::Undoing));
}
