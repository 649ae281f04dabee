//! Who may open a node: owner, mode and context, and AppArmor's rules of a domain; all of it logged, and all of it may
//! fail.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use super::*;

const CONTEXT: &str = "system_u:object_r:svirt_image_t:s0:c1,c2";

/// A host with these settings, besides what `mtty.toml` says.
fn host_with(name: &str, settings: &str, emulator: &Path) -> Emulated {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts/mtty.toml");
    let text = fs::read_to_string(text).unwrap();
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("toml");
    fs::write(&file, format!("{settings}\n{text}")).unwrap();
    Emulated::start(emulator, &file, &[]).unwrap()
}

/// This program again, on the host: `what_a_program_does` is then told what to do.
fn program(host: &Emulated, task: &str) -> Command {
    let mut command = host.command(std::env::current_exe().unwrap());
    command.args(["--exact", "labels::what_a_program_does", "--nocapture"]).env("LABELS_TASK", task);
    command
}

/// What it says of each step.
fn does(host: &Emulated, task: &str) -> Vec<String> {
    let output = program(host, task).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().filter_map(|line| line.strip_prefix("said: "));
    let said: Vec<String> = said.map(str::to_owned).collect();
    assert_eq!(said.len(), task.split("; ").count(), "{output:?}");
    said
}

/// No test of its own: what a process on the host does.
#[test]
fn what_a_program_does() {
    let Ok(task) = std::env::var("LABELS_TASK") else { return };
    for step in task.split("; ") {
        let words: Vec<&str> = step.split(' ').collect();
        let path = Path::new(words[1]);
        let metadata = || fs::metadata(path).unwrap();
        let said = match words.as_slice() {
            ["chown", _, uid, gid] => {
                done(std::os::unix::fs::chown(path, uid.parse().ok(), gid.parse().ok()))
            }
            ["chmod", _, mode] => {
                let mode = u32::from_str_radix(mode, 8).unwrap();
                done(fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            }
            ["label", _, context] => done(rustix::fs::setxattr(
                path,
                "security.selinux",
                context.as_bytes(),
                rustix::fs::XattrFlags::empty(),
            )),
            ["show", _] => {
                let mut value = [0; 100];
                let context = match rustix::fs::getxattr(path, "security.selinux", &mut value) {
                    Ok(length) => value[..length].escape_ascii().to_string(),
                    Err(errno) => format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error())),
                };
                format!(
                    "{}:{} {:04o} {context}",
                    metadata().uid(),
                    metadata().gid(),
                    metadata().mode() & 0o7777
                )
            }
            other => panic!("{other:?}"),
        };
        println!("\nsaid: {said}");
    }
}

fn done<E: Into<std::io::Error>>(result: Result<(), E>) -> String {
    match result.map_err(Into::into) {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("{:?}", nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    }
}

#[test]
fn nodes_keep_owner_mode_and_label() {
    let mut host = host("mtty", &[]);
    says(&host, &format!("echo {UUID} >{CREATE}"));
    assert_eq!(says(&host, "stat -c '%a %u %s' /dev/vfio/0 /dev/vfio/vfio"), "600 0 0\n666 0 0");
    host.control("clear-log").unwrap();
    let task = format!("show NODE; chown NODE 64055 108; chmod NODE 640; label NODE {CONTEXT}; show NODE");
    let labelled = ["0:0 0600 ENODATA", "done", "done", "done", &format!("64055:108 0640 {CONTEXT}")];
    assert_eq!(does(&host, &task.replace("NODE", "/dev/vfio/0")), labelled);
    assert_eq!(
        host.lines("effects").unwrap(),
        [
            "chown /dev/vfio/0 uid=64055 gid=108 = 0",
            "chmod /dev/vfio/0 mode=0640 = 0",
            &format!("setxattr /dev/vfio/0 security.selinux \"{CONTEXT}\" = 0"),
        ]
    );
    // The kernel itself refuses whoever is not root.
    let refused = format!(
        "setpriv --reuid 64055 --regid 108 --clear-groups bash -c '{}'",
        "chown 0 NODE; chmod 600 NODE; cat NODE"
    );
    let refused = says(&host, &refused.replace("NODE", "/dev/vfio/0"));
    assert_eq!(
        refused.lines().next().unwrap(),
        "chown: changing ownership of '/dev/vfio/0': Operation not permitted"
    );
    says(&host, &format!("echo 1 >/sys/bus/mdev/devices/{UUID}/remove; echo {UUID} >{CREATE}"));
    assert_eq!(does(&host, "show /dev/vfio/0"), ["0:0 0600 ENODATA"], "another node of the same name");
    // As on the kernel's own.
    let task = format!("chown FILE 64055 108; chmod FILE 600; label FILE {CONTEXT}; show FILE");
    let labelled = ["done", "done", "done", &format!("64055:108 0600 {CONTEXT}")];
    assert_eq!(does(&host, &task.replace("FILE", CREATE)), labelled);
}

#[test]
fn whatever_labels_a_node_fails_blocks_and_kills() {
    let mut host = host_with("faults", "cdev = true\nselinux = 'enforcing'", Path::new(EMULATOR));
    says(&host, &format!("echo {UUID} >{CREATE}"));
    let node = "/dev/vfio/devices/vfio0";
    let was = "0:0 0600 system_u:object_r:device_t:s0\\x00";
    let show = format!("show {node}");
    for (word, step, then) in [
        ("chown", format!("chown {node} 64055 108"), was.replace("0:0", "64055:108")),
        ("chmod", format!("chmod {node} 660"), was.replace("0600", "0660")),
        ("setxattr", format!("label {node} {CONTEXT}"), format!("0:0 0600 {CONTEXT}\\x00")),
    ] {
        let back = format!("chown {node} 0 0; chmod {node} 600; label {node} system_u:object_r:device_t:s0");
        host.control(&format!("fault {word} {node} EROFS")).unwrap();
        assert_eq!(does(&host, &format!("{step}; {show}; {step}; {show}")), ["EROFS", was, "done", &then]);
        does(&host, &back);
        host.control("clear-faults").unwrap();
        for (kill, expected) in [("kill-before", was), ("kill-after", then.as_str())] {
            host.control("clear-log").unwrap();
            host.control(&format!("fault effect * {kill}")).unwrap();
            let output = program(&host, &format!("{step}; {show}")).output().unwrap();
            assert_eq!(output.status.signal(), Some(9), "{output:?}");
            let line = host.lines("effects").unwrap().remove(0);
            assert!(line.starts_with(&format!("{word} {node} ")), "{line}");
            assert!(
                line.ends_with(if kill == "kill-before" { " = killed before" } else { " = 0 killed after" }),
                "{line}"
            );
            host.control("clear-faults").unwrap();
            assert_eq!(does(&host, &show), [expected], "{word} {kill}");
            does(&host, &back);
        }
        host.control(&format!("fault {word} {node} block")).unwrap();
        let mut blocked = program(&host, &step).stdout(Stdio::null()).spawn().unwrap();
        let waits = format!("{word} {node}");
        wait_for("it to block", || says(&host, "cat /sys/kernel/emulator/blocked").contains(&waits));
        assert_eq!(does(&host, &show), [was]);
        blocked.kill().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(blocked.try_wait().unwrap(), None, "it cannot be killed");
        host.control(&format!("release {node}")).unwrap();
        assert_eq!(blocked.wait().unwrap().signal(), Some(9));
        assert_eq!(does(&host, &show), [then]);
        host.control("clear-faults").unwrap();
        does(&host, &back);
    }
    host.control("clear-log").unwrap();
    host.control(&format!("fault getxattr {node} EIO")).unwrap();
    assert_eq!(does(&host, &show), [was.replace(was.split(' ').nth(2).unwrap(), "EIO")]);
    assert_eq!(host.lines("log").unwrap(), [format!("getxattr {node} security.selinux = EIO (fault)")]);
    assert_eq!(says(&host, "cat /sys/fs/selinux/enforce"), "1");
}

#[test]
fn apparmors_files_are_private_logged_and_may_fail() {
    let mut host = host("mtty", &[]);
    let mine = fs::read_dir("/etc/apparmor.d").into_iter().flatten().count();
    assert_eq!(
        says(&host, "ls /etc/apparmor.d /etc/apparmor.d/libvirt"),
        "/etc/apparmor.d:\nlibvirt\n\n/etc/apparmor.d/libvirt:"
    );
    let file = "/etc/apparmor.d/libvirt/libvirt-0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01.files";
    says(&host, &format!("echo '  \"/dev/vfio/vfio\" rw,' >{file}"));
    host.control("clear-log").unwrap();
    host.control("fault write *.files ENOSPC").unwrap();
    host.control("fault rename *.files EROFS").unwrap();
    host.control("fault unlink *.files EBUSY").unwrap();
    let append = format!("echo '  \"/dev/vfio/1\" rw,' >>{file}");
    assert!(says(&host, &append).ends_with("No space left on device"));
    assert_eq!(says(&host, &append), "");
    assert_eq!(says(&host, &format!("cat {file}")), "  \"/dev/vfio/vfio\" rw,\n  \"/dev/vfio/1\" rw,");
    let replace = format!("cd /etc/apparmor.d/libvirt; head -1 {file} >new; mv new {file}");
    assert!(says(&host, &replace).ends_with("Read-only file system"));
    assert_eq!(says(&host, &replace), "");
    assert_eq!(says(&host, &format!("cat {file}; rm {file}")).lines().count(), 2);
    assert_eq!(says(&host, &format!("rm {file}; ls /etc/apparmor.d/libvirt")), "");
    let (rule, first) = ("\"  \\\"/dev/vfio/1\\\" rw,\\n\"", "\"  \\\"/dev/vfio/vfio\\\" rw,\\n\"");
    let new = "/etc/apparmor.d/libvirt/new";
    assert_eq!(
        host.lines("effects").unwrap(),
        [
            format!("write {file} {rule} = ENOSPC (fault)"),
            format!("write {file} {rule} = 20"),
            format!("create {new} = 0"),
            format!("write {new} {first} = 23"),
            format!("rename {new} -> {file} = EROFS (fault)"),
            format!("open {new} = 0"),
            format!("write {new} {first} = 23"),
            format!("rename {new} -> {file} = 0"),
            format!("unlink {file} = EBUSY (fault)"),
            format!("unlink {file} = 0"),
        ]
    );
    says(&host, &format!("echo >{file}"));
    for (kill, lines) in [("kill-before", "1"), ("kill-after", "2")] {
        host.control("clear-faults").unwrap();
        host.control(&format!("fault write *.files {kill}")).unwrap();
        assert_eq!(sh(&host, &append).status.signal(), Some(9));
        assert_eq!(says(&host, &format!("wc -l <{file}")), lines, "{kill}");
    }
    assert_eq!(
        fs::read_dir("/etc/apparmor.d").into_iter().flatten().count(),
        mine,
        "this machine's own are as before"
    );
}

/// Where nobody is root but in a namespace of users, contexts come through, and there is nobody to give a node to.
#[test]
fn in_a_namespace_of_users() {
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("in-a-namespace");
    fs::write(&script, format!("#!/bin/sh\nexec unshare --user --map-root-user {EMULATOR} \"$@\"\n"))
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut host = host_with("namespace", "", &script);
    says(&host, &format!("echo {UUID} >{CREATE}"));
    host.control("clear-log").unwrap();
    let task =
        format!("label NODE {CONTEXT}; chown NODE 64055 108; chmod NODE 640; chown NODE 0 0; show NODE");
    let said = ["done", "EINVAL", "done", "done", &format!("0:0 0640 {CONTEXT}")];
    assert_eq!(does(&host, &task.replace("NODE", "/dev/vfio/0")), said);
    assert_eq!(
        host.lines("effects").unwrap(),
        [
            &format!("setxattr /dev/vfio/0 security.selinux \"{CONTEXT}\" = 0"),
            "chmod /dev/vfio/0 mode=0640 = 0",
            "chown /dev/vfio/0 uid=0 gid=0 = 0",
        ]
    );
}
