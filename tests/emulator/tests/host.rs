//! The emulated host from the inside: programs run on it as on any other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use virt_mdev_emulator::client::Emulated;

#[path = "host/anybody.rs"]
mod anybody;
#[path = "host/foreign.rs"]
mod foreign;
#[path = "host/labels.rs"]
mod labels;
#[path = "host/names.rs"]
mod names;
#[path = "host/saved.rs"]
mod saved;
#[path = "host/surroundings.rs"]
mod surroundings;

const EMULATOR: &str = env!("CARGO_BIN_EXE_virt-mdev-emulator");
const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const CREATE: &str = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create";

fn host(name: &str, options: &[&str]) -> Emulated {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts").join(name).with_extension("toml");
    Emulated::start(Path::new(EMULATOR), &file, options).unwrap()
}

// bash, because dash says "I/O error" for every errno.
fn sh(host: &Emulated, script: &str) -> Output {
    host.run(&["bash", "-c", script], b"").unwrap()
}

/// What a script prints, with what the shell complains about.
fn says(host: &Emulated, script: &str) -> String {
    let output = sh(host, &format!("exec 2>&1; {script}"));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(5), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn hold(host: &Emulated, node: &str) -> Child {
    let mut command = host.command(EMULATOR);
    let command = command.args(["hold", node, "--name", "qemu-system-x86"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The product's programs, built before.
fn built(program: &str) -> PathBuf {
    let target = std::env::var_os("VIRT_MDEV_BUILT")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release"), PathBuf::from);
    let path = target.join(program);
    assert!(path.exists(), "{} is missing: cargo build --release, at the top", path.display());
    path.canonicalize().unwrap()
}

const DOMAIN: &str = r#"<domain type='qemu'>
  <name>vm1</name><uuid>11111111-0000-4000-8000-000000000001</uuid>
  <metadata><mdev:devices xmlns:mdev="urn:virt-mdev:domain:1">
    <mdev:device uuid="83b8f4f2-509f-382f-3c1e-e6bfe0fa1001" type="mtty-2" parent="mtty">
      <mdev:attribute name="settings/first" value="1"/>
    </mdev:device>
  </mdev:devices></metadata>
  <devices><hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>
    <address uuid='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'/>
  </source></hostdev></devices>
</domain>"#;

fn hook(host: &Emulated, event: &str, subevent: &str) -> Output {
    let hook = built("virt-mdev-hook");
    host.run(&[hook.to_str().unwrap(), "vm1", event, subevent, "-"], DOMAIN.as_bytes()).unwrap()
}

#[test]
fn a_domains_life_with_the_shipped_hook() {
    let mut host = host("mtty", &["--udevd"]);
    let start = Instant::now();
    for (event, subevent) in [("prepare", "begin"), ("start", "begin"), ("started", "begin")] {
        let output = hook(&host, event, subevent);
        assert!(output.status.success() && output.stderr.is_empty(), "{event}: {output:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "it heard udev, and did not wait in vain");
    assert_eq!(says(&host, &format!("cat /sys/bus/mdev/devices/{UUID}/settings/first")), "1");
    assert_eq!(
        says(&host, "cat /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/available_instances"),
        "22"
    );
    let qemu = hold(&host, "/dev/vfio/0");
    end(qemu);
    for (event, subevent) in [("stopped", "end"), ("release", "end")] {
        assert!(hook(&host, event, subevent).status.success());
    }
    assert_eq!(
        says(&host, "ls /sys/bus/mdev/devices /run/virt-mdev/domains /run/virt-mdev/devices | grep -v /"),
        ""
    );
    let device = format!("/sys/devices/virtual/mtty/mtty/{UUID}");
    let mut expected = vec![
        format!("write /sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-2/create \"{UUID}\" = 36"),
        format!("write {device}/settings/first \"1\" = 1"),
    ];
    expected.push(format!("write {device}/remove \"1\" = 1"));
    let on_sysfs = |line: &String| line.contains(" /sys/");
    assert_eq!(host.lines("effects").unwrap().into_iter().filter(on_sysfs).collect::<Vec<_>>(), expected);
}

#[test]
fn a_removal_waits_for_the_user_and_cannot_be_killed() {
    let host = host("mtty", &[]);
    assert_eq!(says(&host, &format!("echo {UUID} >{CREATE}")), "");
    let device = format!("/sys/bus/mdev/devices/{UUID}");
    let parent = "/sys/class/mdev_bus/mtty";
    assert!(says(&host, "exec 3<>/dev/vfio/0 4<>/dev/vfio/0").contains("resource busy"));
    let qemu = hold(&host, "/dev/vfio/0");
    let mut writer = host.command("sh").arg("-c").arg(format!("echo 1 >{device}/remove")).spawn().unwrap();
    wait_for("the removal to begin", || !says(&host, "cat /sys/kernel/emulator/blocked").is_empty());
    writer.kill().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(writer.try_wait().unwrap(), None, "its writer cannot be killed");
    assert_eq!(says(&host, "ls /sys/bus/mdev/devices"), "");
    assert_eq!(says(&host, &format!("ls {parent}/{UUID}")), "iommu_group", "the directory stays");
    assert!(says(&host, &format!("echo {UUID} >{CREATE}")).ends_with("File exists"));
    let free = format!("cat {parent}/mdev_supported_types/mtty-1/available_instances");
    assert_eq!(says(&host, &free), "22", "its place is taken until the end");
    end(qemu);
    assert_eq!(writer.wait().unwrap().signal(), Some(9));
    assert_eq!(says(&host, &format!("ls -d {parent}/{UUID} /dev/vfio/0 | wc -l")).lines().last(), Some("0"));
    assert_eq!(says(&host, &free), "24");
}

#[test]
fn a_parent_comes_late_goes_and_loses_types() {
    let mut host = host("mixed", &[]);
    let listed = |host: &Emulated| says(host, "ls /sys/class/mdev_bus/mtty/mdev_supported_types");
    host.control("lose-types mtty mtty-1").unwrap();
    assert_eq!(listed(&host), "mtty-2");
    host.control("gain-types mtty").unwrap();
    assert_eq!(listed(&host), "mtty-1\nmtty-2");
    assert_eq!(says(&host, &format!("echo {UUID} >{CREATE}")), "");
    let qemu = hold(&host, "/dev/vfio/4");
    host.control("unregister mtty").unwrap();
    assert!(listed(&host).contains("No such file"));
    let busy = format!("echo {UUID} >/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-2/create");
    assert!(says(&host, &busy).ends_with("File exists"), "the device is still there");
    end(qemu);
    wait_for("the parent to go", || !says(&host, "ls /sys/devices/virtual/mtty/mtty").contains("mdev_"));
    host.control("register mtty").unwrap();
    assert_eq!(listed(&host), "mtty-1\nmtty-2");
    host.control("unplug 0000:3b:00.0").unwrap();
    assert!(says(&host, "ls -d /sys/bus/pci/devices/0000:3b:00.0").contains("No such file"));
    assert!(host.control("unplug 0000:3b:00.0").is_err());
    assert!(host.control("nonsense").unwrap_err().to_string().contains("unknown"));
}

#[test]
fn a_driver_removes_by_itself() {
    let host = host("mixed", &[]);
    let create = "/sys/class/mdev_bus/0000:3b:00.0/mdev_supported_types/nvidia-222/create";
    assert_eq!(says(&host, &format!("echo {UUID} >{create}; ls /sys/bus/mdev/devices")), UUID);
    end(hold(&host, "/dev/vfio/4"));
    wait_for("the driver", || says(&host, "ls /sys/bus/mdev/devices").is_empty());
}

#[test]
fn faults_fail_block_and_kill() {
    let mut host = host("mtty", &[]);
    host.control("fault write */mtty-2/create 2 EIO").unwrap();
    host.control("fault symlink /run/* EROFS").unwrap();
    let other = UUID.replace("1001", "1002");
    assert_eq!(says(&host, &format!("echo {UUID} >{CREATE}")), "");
    assert!(says(&host, &format!("echo {other} >{CREATE}")).ends_with("Input/output error"));
    assert!(says(&host, "ln -s a /run/b").ends_with("Read-only file system"));
    assert_eq!(says(&host, "ln -s a /run/b && readlink /run/b"), "a", "only the first");

    host.control("clear-faults").unwrap();
    host.control("fault write */mtty-2/create kill-before").unwrap();
    host.control("fault write */mtty-2/create 2 kill-after").unwrap();
    let write = format!("echo {other} >{CREATE}; echo survived");
    let there = |host: &Emulated| says(host, "ls /sys/bus/mdev/devices | wc -l");
    let killed = sh(&host, &write);
    assert_eq!((killed.status.signal(), killed.stdout), (Some(9), Vec::new()));
    assert_eq!(there(&host), "1", "killed before it was made");
    assert_eq!(sh(&host, &write).status.signal(), Some(9));
    assert_eq!(there(&host), "2", "killed after it was made");

    host.control("clear-faults").unwrap();
    host.control("fault write /run/held block").unwrap();
    let mut held = host.command("sh");
    let mut held = held.args(["-c", "echo 1 >/run/held"]).spawn().unwrap();
    wait_for("the write", || says(&host, "cat /sys/kernel/emulator/blocked").contains("write /run/held"));
    assert_eq!(says(&host, "echo 2 >/run/free; cat /run/free"), "2", "others go on");
    assert_eq!(held.try_wait().unwrap(), None);
    host.control("release /run/held").unwrap();
    assert!(held.wait().unwrap().success());
    assert_eq!(says(&host, "cat /run/held"), "1");
    host.control("clear-log").unwrap();
    host.control("fault create /run/slow block=200ms").unwrap();
    let start = Instant::now();
    says(&host, "echo >/run/slow");
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(
        host.lines("log").unwrap(),
        ["create /run/slow = blocks (fault)", "create /run/slow = 0", "write /run/slow \"\\n\" = 1"]
    );
}

#[test]
fn vendor_vfio_shrinks_refuses_and_forgets() {
    let mut host = host("l40s-vfio", &[]);
    let vf = "cd /sys/bus/pci/devices/0000:41:00.4/nvidia";
    // What is the vGPU's is not there without one.
    for file in ["vgpu_params", "placement_id", "gpu_instance_id"] {
        assert!(says(&host, &format!("{vf}; cat {file}")).ends_with("No such device or address"), "{file}");
        assert!(
            says(&host, &format!("{vf}; echo 1 >{file}")).ends_with("No such device or address"),
            "{file}"
        );
    }
    let sibling = "cat ../../0000:41:00.5/nvidia/creatable_vgpu_types";
    assert_eq!(
        says(
            &host,
            &format!("{vf}; echo 1155 >current_vgpu_type; cat current_vgpu_type creatable_vgpu_types")
        ),
        "1155"
    );
    assert_eq!(says(&host, &format!("{vf}; {sibling} | tail -1")), "1155  : NVIDIA L40S-24Q");
    let header = "head -1 /sys/bus/pci/devices/0000:c1:00.4/nvidia/creatable_vgpu_types";
    assert_eq!(says(&host, header), "ID    : vGPU Name");
    let qemu = hold(&host, "/dev/vfio/0");
    let clear = format!("{vf}; echo 0 >current_vgpu_type");
    assert!(says(&host, &clear).ends_with("Operation not permitted"));
    let again = format!("{vf}; echo 1145 >current_vgpu_type");
    assert!(says(&host, &again).ends_with("Operation not permitted"), "it has one");
    end(qemu);
    assert!(says(&host, &clear).ends_with("Device or resource busy"), "and for a while after");
    wait_for("the driver", || says(&host, &clear).is_empty());
    assert!(says(&host, &clear).ends_with("Operation not permitted"), "it has none any more");
    assert!(says(&host, "echo 4 >/sys/bus/pci/devices/0000:41:00.0/sriov_numvfs").contains("not permitted"));
    says(&host, &format!("{vf}; echo 1145 >current_vgpu_type"));
    host.control("enumerate 0000:41:00.0").unwrap();
    assert_eq!(says(&host, &format!("{vf}; cat current_vgpu_type")), "0");
}

#[test]
fn uevents_are_the_kernels_and_udevs() {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
    };
    use std::os::fd::AsRawFd;
    let host = host("mtty", &["--udevd"]);
    let network = fs::File::open(format!("/proc/{}/ns/net", host.pid())).unwrap();
    let (ready, when_ready) = std::sync::mpsc::channel();
    let listener = std::thread::spawn(move || {
        nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), protocol).unwrap();
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 3)).unwrap();
        ready.send(()).unwrap();
        let mut heard = Vec::new();
        while heard.len() < 8 {
            let mut buffer = [0; 4096];
            let (length, from) = recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut buffer).unwrap();
            let _ = MsgFlags::empty();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let kernel = from.unwrap().pid() == 0;
            let get = |key: &str| {
                let found = text.split('\0').find_map(|pair| pair.strip_prefix(key));
                found.unwrap_or("-").to_owned()
            };
            assert_eq!(text.starts_with("libudev\0"), !kernel, "{text:?}");
            heard.push(format!("{kernel} {} {} {}", get("ACTION="), get("SUBSYSTEM="), get("DEVNAME=")));
        }
        heard
    });
    when_ready.recv().unwrap();
    says(&host, &format!("echo {UUID} >{CREATE}"));
    let heard = listener.join().unwrap();
    assert_eq!(
        heard.iter().filter(|line| line.starts_with("true")).collect::<Vec<_>>(),
        ["true add mdev -", "true add vfio vfio/0", "true add vfio-dev -", "true bind mdev -"]
    );
    assert_eq!(
        heard.iter().filter(|line| line.starts_with("false")).collect::<Vec<_>>(),
        ["false add mdev -", "false add vfio /dev/vfio/0", "false add vfio-dev -", "false bind mdev -"]
    );
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts/mtty.toml");
    let mut emulator = std::process::Command::new(EMULATOR)
        .args(["--host", file.to_str().unwrap(), "--", "sh", "-c"])
        .arg(format!("echo {UUID} >{CREATE}; {EMULATOR} hold /dev/vfio/0 --name hold-to-be-ended & wait"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(emulator.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let named = || {
        let names = fs::read_dir("/proc").unwrap().flatten();
        let comms = names.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
        comms.filter(|comm| comm.trim_end() == "hold-to-be-e" || comm.starts_with("hold-to-be-end")).count()
    };
    assert_eq!(named(), 1);
    emulator.kill().unwrap();
    emulator.wait().unwrap();
    wait_for("the holder to end", || named() == 0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("virt-mdev-emulator"), "{mounts}");
}

#[test]
fn the_status_is_the_commands() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts/empty.toml");
    let run = |script: &str| {
        let mut command = std::process::Command::new(EMULATOR);
        command.arg("--host").arg(&file).args(["--", "sh", "-c", script]).status().unwrap().code()
    };
    assert_eq!(run("exit 7"), Some(7));
    assert_eq!(run("kill -9 $$"), Some(137));
}

/// Held against the real kernel: `tests/vm/scenarios/emulator.sh` runs the same script there. `UPDATE=1` writes the
/// transcript anew; what is in it is the kernel's, and a difference is a mistake of the emulator.
#[test]
fn it_answers_as_the_kernel_does() {
    let host = host("mtty", &[]);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = host.run(&[here.join("compare.sh").to_str().unwrap()], b"").unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let transcript = here.join("mtty.transcript");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&transcript, &output.stdout).unwrap();
    }
    let seen = String::from_utf8(output.stdout).unwrap();
    let expected = fs::read_to_string(&transcript).unwrap();
    for (number, (seen, expected)) in seen.lines().zip(expected.lines()).enumerate() {
        assert_eq!(seen, expected, "line {}", number + 1);
    }
    assert_eq!(seen.lines().count(), expected.lines().count());
}

/// On every file system of Linux a name that is replaced leads to the old file or to the new one.
#[test]
fn a_file_that_is_replaced_is_there_all_the_time() {
    let host = host("mtty", &[]);
    let place = PathBuf::from(format!("/proc/{}/root/run", host.pid()));
    let (file, new) = (place.join("file"), place.join("new"));
    fs::write(&file, "0").unwrap();
    let replaced = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !replaced.load(Ordering::Relaxed) {
                    let text = fs::read_to_string(&file).unwrap();
                    assert!(text.parse::<u32>().is_ok(), "{text:?}");
                    assert_eq!(fs::symlink_metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
                }
            });
        }
        let replace = |number: u32| {
            fs::write(&new, number.to_string())?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
            fs::rename(&new, &file)
        };
        let done: Result<Vec<()>, _> = (0..1000).map(replace).collect();
        replaced.store(true, Ordering::Relaxed);
        done.unwrap();
    });
}
