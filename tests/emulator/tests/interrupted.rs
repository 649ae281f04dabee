//! `attach` and `detach`, ended by a signal at every stage: Ctrl-C, which whatever they have started gets as well, and a
//! SIGTERM or a SIGKILL of their own. The device is the domain's and answered for afterwards, or all is as if there had
//! never been one; and from either it is not far to the other.

#[path = "interrupted/stand.rs"]
mod stand;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use stand::{Stand, Told, until};

/// Where a verb is held up when the signal comes.
#[derive(Debug, Clone)]
enum Stage {
    /// In this one of its effects; its line in the log says which it is.
    Effect(usize, #[expect(dead_code, reason = "printed")] String),
    /// At this one of its locks.
    Lock(usize),
    /// It waits for a lock that another process has.
    Locked(&'static str),
    /// It has called `virsh`, which is here.
    Virsh(&'static str),
    /// It waits for udev.
    Udev,
    /// It waits for a guest that is deaf.
    Guest,
    /// The guest has let go, and QEMU has the node open yet.
    Qemu,
}

/// The signal, and whether whatever the verb has started gets it, too.
const SIGNALS: [(Signal, bool); 3] =
    [(Signal::SIGINT, true), (Signal::SIGTERM, false), (Signal::SIGKILL, false)];

/// Who holds up a verb, until this is called off.
struct Held {
    stage: Stage,
    locker: Option<Child>,
}

impl Held {
    /// Before the verb begins.
    fn prepare(stand: &mut Stand, stage: &Stage) -> Told<Self> {
        let mut held = Self { stage: stage.clone(), locker: None };
        let control = |stand: &mut Stand, line: &str| stand.host.control(line).map_err(|why| why.to_string());
        control(stand, "clear-log")?;
        match stage {
            Stage::Effect(number, _) => control(stand, &format!("fault effect * {number} block"))?,
            Stage::Lock(number) => {
                control(stand, &format!("fault open /run/virt-mdev/locks/* {number} block"))?;
            }
            Stage::Locked(lock) => {
                let script = format!(
                    "for lock in /run/virt-mdev/locks/{lock}; do exec {{fd}}>$lock; flock $fd; done; echo; exec sleep 60"
                );
                let mut locker = stand.host.command("bash");
                let mut locker = locker
                    .args(["-c", &script])
                    .stdout(Stdio::piped())
                    .spawn()
                    .map_err(|why| why.to_string())?;
                let mut told = [0];
                let _ = locker.stdout.take().ok_or("no pipe")?.read(&mut told);
                held.locker = Some(locker);
            }
            Stage::Virsh(place) => stand.put("hold", place),
            Stage::Udev => control(stand, "udev-delay 300ms")?,
            Stage::Guest => stand.put("guest-is-deaf", ""),
            Stage::Qemu => stand.put("qemu-is-slow", ""),
        }
        Ok(held)
    }

    /// Waits until the verb has come to the stage.
    fn reached(&self, stand: &mut Stand, verb: &mut Child) -> Told<()> {
        let mut logged = |words: &[&str]| {
            let lines = stand.host.lines("log").unwrap_or_default();
            lines.iter().any(|line| words.iter().all(|word| line.contains(word)))
        };
        match &self.stage {
            Stage::Effect(..) | Stage::Lock(_) => until("its stage", || logged(&["= blocks (fault)"])),
            Stage::Virsh(_) => until("virsh", || stand.has("held")),
            Stage::Udev => until("the device", || logged(&["write", "/create", "= 36"])),
            // It asks again and again, with the file open.
            Stage::Locked(_) => {
                let open = format!("/proc/{}/fd", verb.id());
                let is_lock = |entry: std::fs::DirEntry| {
                    let file = std::fs::read_link(entry.path());
                    file.is_ok_and(|file| file.starts_with("/run/virt-mdev/locks"))
                };
                until("it to want the lock", || {
                    std::fs::read_dir(&open).into_iter().flatten().flatten().any(is_lock)
                })
            }
            Stage::Guest | Stage::Qemu => {
                let pipe = verb.stderr.as_mut().ok_or("no pipe")?;
                let (mut told, mut byte) = (String::new(), [0]);
                while !told.contains("waiting for the guest") {
                    match pipe.read(&mut byte) {
                        Ok(1) => told.push(char::from(byte[0])),
                        _ => return Err(format!("it does not wait for the guest: {told}")),
                    }
                }
                Ok(())
            }
        }
    }

    /// Goes on. The signal has been sent.
    fn go_on(&mut self, stand: &mut Stand, verb: &mut Child) -> Told<()> {
        match &self.stage {
            // It ends once the kernel's operation has returned.
            Stage::Effect(..) | Stage::Lock(_) => {
                stand.host.control("release").map_err(|why| why.to_string())?
            }
            // What comes after the verb comes first: libvirt may take its time.
            Stage::Virsh(_) => {
                let _ = verb.wait();
                stand.settle("virsh")?;
                stand.take_back("hold");
                stand.take_back("held");
            }
            Stage::Udev => stand.host.control("udev-delay 0ms").map_err(|why| why.to_string())?,
            Stage::Guest => stand.take_back("guest-is-deaf"),
            Stage::Qemu => stand.take_back("qemu-is-slow"),
            Stage::Locked(_) => {
                let _ = verb.wait();
            }
        }
        if let Some(mut locker) = self.locker.take() {
            let _ = locker.kill().and_then(|()| locker.wait());
        }
        Ok(())
    }
}

/// Ends a verb at a stage; says what it said.
fn end_at(stand: &mut Stand, verb: &[&str], stage: &Stage, (signal, to_all): (Signal, bool)) -> Told<String> {
    let mut held = Held::prepare(stand, stage)?;
    let mut command = stand.verb(verb);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|why| why.to_string())?;
    let reached = held.reached(stand, &mut child);
    let pid = Pid::from_raw(child.id().cast_signed());
    let sent = if to_all { killpg(pid, signal) } else { kill(pid, signal) };
    let went_on = held.go_on(stand, &mut child);
    let status = child.wait().map_err(|why| why.to_string())?;
    // Whoever cleans up may say so, and has the pipe until it is done.
    let mut said = String::new();
    let _ = child.stderr.take().ok_or("no pipe")?.read_to_string(&mut said);
    stand.host.control("clear-faults").map_err(|why| why.to_string())?;
    stand.settle("")?;
    reached?;
    went_on?;
    sent.map_err(|errno| errno.to_string())?;
    // What a shell calls 128 and the signal's number.
    if status.signal() == Some(signal as i32) { Ok(said) } else { Err(format!("{status}, it said: {said}")) }
}

/// Nobody has anything to take away, and takes nothing.
fn is_answered_for(stand: &Stand) -> Told<()> {
    let before = stand.now();
    let said = stand.run(&["reconcile"])?;
    if said != "Nothing to reconcile.\n" || stand.now() != before {
        return Err(format!("reconcile had something to do: {said}"));
    }
    Ok(())
}

/// One interruption, what is there then, and the way from there to nothing.
fn interrupt(stand: &mut Stand, attach: bool, wish: &str, stage: &Stage, signal: (Signal, bool)) -> Told<()> {
    let device = if attach {
        end_at(stand, &["attach", "vm1", wish], stage, signal)?;
        stand.device()
    } else {
        stand.run(&["attach", "vm1", wish])?;
        let device = stand.device().ok_or("nothing was attached")?;
        end_at(stand, &["detach", "vm1", &device], stage, signal)?;
        stand.device()
    };
    let Some(device) = device else {
        if matches!(stage, Stage::Virsh("after attach-device") | Stage::Guest | Stage::Qemu) {
            return Err("it is gone".to_owned());
        }
        stand.is_gone()?;
        return is_answered_for(stand);
    };
    match stage {
        // The request stands, and a guest that answers it when nobody waits any more is the timer's.
        Stage::Virsh("before detach-device") => {
            stand.run(&["reconcile"])?;
            return stand.is_gone();
        }
        Stage::Qemu => stand.is_held(&device)?,
        _ => stand.is_attached(&device)?,
    }
    is_answered_for(stand)?;
    // By turns as a person does it, and as a guest does that answers late.
    if signal.0 == Signal::SIGINT && !matches!(stage, Stage::Qemu) {
        stand.run(&["detach", "vm1", &device])?;
    } else {
        stand.let_go_behind_our_back();
        stand.run(&["reconcile"])?;
    }
    stand.is_gone()
}

/// What a verb does without a signal: the stages that it goes through.
fn stages(stand: &mut Stand, attach: bool, wish: &str) -> Vec<Stage> {
    // The first one on a host makes directories and locks.
    stand.run(&["attach", "vm1", wish]).unwrap();
    let device = stand.device().unwrap();
    stand.run(&["detach", "vm1", &device]).unwrap();
    if !attach {
        stand.run(&["attach", "vm1", wish]).unwrap();
    }
    stand.host.control("clear-log").unwrap();
    stand.host.control("trace on").unwrap();
    let device = stand.device().unwrap_or_default();
    let verb = if attach { ["attach", "vm1", wish] } else { ["detach", "vm1", &device] };
    stand.run(&verb).unwrap();
    stand.host.control("trace off").unwrap();
    let effects = stand.host.lines("effects").unwrap();
    let trace = stand.host.lines("trace").unwrap();
    let locks = trace.iter().filter(|line| line.contains(" open /run/virt-mdev/locks/")).count();
    if attach {
        let device = stand.device().unwrap();
        stand.run(&["detach", "vm1", &device]).unwrap();
    }
    stand.is_gone().unwrap();
    // QEMU's own are not the verb's.
    let own = effects.into_iter().enumerate().filter(|(_, line)| !line.starts_with("write /dev/vfio"));
    let mut stages: Vec<Stage> = own.map(|(at, line)| Stage::Effect(at + 1, line)).collect();
    stages.extend((1..=locks).map(Stage::Lock));
    stages.push(Stage::Locked("domain-*"));
    let others: &[Stage] = if attach {
        &[
            Stage::Locked("card-*"),
            Stage::Locked("labels"),
            Stage::Virsh("before domstate"),
            Stage::Virsh("after dumpxml"),
            Stage::Virsh("before attach-device"),
            Stage::Virsh("after attach-device"),
        ]
    } else {
        &[
            Stage::Virsh("before domstate"),
            Stage::Virsh("before detach-device"),
            Stage::Virsh("after detach-device"),
            Stage::Guest,
            Stage::Qemu,
        ]
    };
    stages.extend_from_slice(others);
    stages
}

/// Goes through all stages of both verbs. Where a verb works, one signal after the other; where it waits, which is where
/// a person has the time, each of them. `turn`: with which it begins.
fn goes_through(host: &str, own: Option<&str>, wish: &str, turn: usize, further: &[Stage]) {
    let mut stand = Stand::start(host, own);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for attach in [true, false] {
        let mut stages = stages(&mut stand, attach, wish);
        stages.extend(further.iter().filter(|_| attach).cloned());
        for (number, stage) in stages.iter().enumerate() {
            let works = matches!(stage, Stage::Effect(..) | Stage::Lock(_));
            for (which, signal) in SIGNALS.into_iter().enumerate() {
                if works && which != (number + turn) % SIGNALS.len() {
                    continue;
                }
                seen += 1;
                if let Err(why) = interrupt(&mut stand, attach, wish, stage, signal) {
                    let verb = if attach { "attach" } else { "detach" };
                    wrong.push(format!("{verb}, {signal:?} at {stage:?}: {why}"));
                    stand = Stand::start(host, own);
                    self::stages(&mut stand, attach, wish);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{host}, {} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{host}: {seen}");
    assert_eq!(stand.end(), "", "left by {host}'s domain");
}

#[test]
fn a_second_device_of_upstream_mdev() {
    goes_through("mtty", Some("type='mtty-2' parent='mtty'"), "mtty-2", 0, &[Stage::Udev]);
}

#[test]
fn a_device_of_the_proposal() {
    goes_through("m60-2016", None, "11", 1, &[]);
}

#[test]
fn a_function_of_vendor_vfio() {
    goes_through("l40s-vfio", None, "1145", 2, &[]);
}
