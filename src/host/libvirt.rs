//! libvirt's daemon as it runs, and whether it calls our hook.

use std::fs::{metadata, symlink_metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};

use super::{Host, Trouble, daemon};

/// What libvirt runs at a domain's events, in this order: `qemu`, then what is in `qemu.d`.
const HOOKS: &str = "etc/libvirt/hooks";
/// The first of them.
pub const MAIN: &str = "etc/libvirt/hooks/qemu";
/// Where our hook is.
pub const HOOK: &str = "etc/libvirt/hooks/qemu.d/50-virt-mdev";
/// And what it is a link to.
pub const PROGRAM: &str = "usr/bin/virt-mdev-hook";
/// Written when the daemons that run have been told to look for hooks, by the package or by [`tell`].
pub const TOLD: &str = "run/virt-mdev.told";
/// The daemon of QEMU's domains, modular or monolithic.
const NAMES: [&str; 2] = ["virtqemud", "libvirtd"];

/// A daemon that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// `libvirtd` or `virtqemud`.
    pub name: &'static str,
    /// Its pid.
    pub pid: i32,
    /// When it was started, in ticks since boot.
    start_time: u64,
}

/// The daemon that runs, if one does: it ends by itself when it has nothing to do.
pub fn running(host: &Host) -> Option<Daemon> {
    NAMES.into_iter().find_map(|name| {
        let pid = host.read(&format!("run/{name}.pid")).ok()?.trim().parse().ok()?;
        let process = daemon::process(host, pid)?;
        let called = host.read(&format!("proc/{pid}/comm")).ok()?;
        (called.trim() == name).then_some(Daemon { name, pid, start_time: process.start_time })
    })
}

/// What our hook lacks to be called at all, in words.
pub fn hook_lacks(host: &Host) -> Option<String> {
    let Ok(link) = symlink_metadata(host.path(HOOK)) else { return Some("is not there".to_owned()) };
    let (is_link, target) = (link.is_symlink(), metadata(host.path(HOOK)));
    match target {
        Ok(file) if !file.is_file() => Some("is not a program".to_owned()),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => Some("is not executable".to_owned()),
        Ok(_) => None,
        Err(_) if is_link => Some("is a link to nothing".to_owned()),
        Err(error) => Some(format!("cannot be looked at: {}", crate::words::errno(&error))),
    }
}

/// Links our hook to where libvirt looks.
pub fn link(host: &Host) -> Result<(), Trouble> {
    let link = host.path(HOOK);
    let made = link.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::os::unix::fs::symlink(format!("/{PROGRAM}"), &link))
        .map_err(|error| Trouble::new("link", &link, error))
}

/// Whether a daemon has looked for hooks since there are some. It does when it starts, and at SIGHUP; from then on it
/// looks into `qemu.d` at every event (`virHookInitialize`, `virHookCall`).
pub fn sees_hooks(host: &Host, daemon: &Daemon) -> bool {
    let Some(started) = wall_clock(host, daemon) else { return true };
    let changed = |path: &str| {
        let found = symlink_metadata(host.path(path)).ok()?;
        Some(since_1970(found.ctime(), found.ctime_nsec()))
    };
    let scripts = host.names(&format!("{HOOKS}/qemu.d")).unwrap_or_default();
    let scripts = scripts.iter().map(|name| format!("{HOOKS}/qemu.d/{name}"));
    let mut all = scripts.chain([MAIN.to_owned()]);
    all.any(|script| changed(&script).is_some_and(|changed| changed <= started))
        || changed(TOLD).is_some_and(|told| told >= started)
}

fn since_1970(seconds: i64, nanoseconds: i64) -> Duration {
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(part(seconds)) + Duration::from_nanos(part(nanoseconds))
}

/// When the daemon was started, since 1970, as the clock is set now.
fn wall_clock(host: &Host, daemon: &Daemon) -> Option<Duration> {
    let runs_for = host.now().checked_sub(ticks(daemon.start_time))?;
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(runs_for)
}

/// Clock ticks, as `/proc` counts them.
fn ticks(number: u64) -> Duration {
    Duration::from_millis(number.saturating_mul(1000) / clock_ticks_per_second().max(1))
}

/// Makes the daemon look for hooks. One that does not expect the signal would die of it.
pub fn tell(host: &Host, daemon: &Daemon) -> Result<(), Trouble> {
    let status = host.read(&format!("proc/{}/status", daemon.pid))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let path = host.path(&format!("proc/{}", daemon.pid));
    let trouble = |error: std::io::Error| Trouble::new("send SIGHUP to", &path, error);
    if caught & 1 == 0 {
        return Err(trouble(std::io::Error::other("it does not expect it")));
    }
    let pid = Pid::from_raw(daemon.pid).ok_or_else(|| trouble(std::io::Error::other("no such pid")))?;
    kill_process(pid, Signal::HUP).map_err(|errno| trouble(errno.into()))?;
    let told = host.path(TOLD);
    std::fs::write(&told, "").map_err(|error| Trouble::new("write", &told, error))
}

/// The main script of libvirt's, where one is that libvirt would run.
pub fn main_script(host: &Host) -> Option<String> {
    host.mode(MAIN).ok().flatten().filter(|mode| mode & 0o111 != 0)?;
    host.read_if_there(MAIN).ok().flatten()
}

/// Where the daemon's AppArmor profile does not let it run our hook: the program's path.
///
/// The profile has `/{usr/,}{bin,sbin}/*` and the hooks' own directory.
pub fn confined_out_of(host: &Host) -> Option<String> {
    let profiles = host.read("sys/kernel/security/apparmor/profiles").ok()?;
    let enforced = |line: &str| NAMES.iter().any(|name| line == format!("{name} (enforce)"));
    if !profiles.lines().any(enforced) {
        return None;
    }
    let program = std::fs::canonicalize(host.path(HOOK)).ok()?;
    let directory = program.parent()?;
    let allowed = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|directory| host.path(directory));
    let fits = allowed.iter().any(|allowed| directory == allowed) || program.starts_with(host.path(HOOKS));
    (!fits).then(|| program.display().to_string())
}

/// Where SELinux is enforced and our hook has no type of its own, in which the daemon may run it: the type that it has.
pub fn mislabelled(host: &Host) -> Option<String> {
    if host.read("sys/fs/selinux/enforce").ok()?.trim() != "1" {
        return None;
    }
    let mut context = vec![0; 256];
    let length = rustix::fs::getxattr(host.path(HOOK), "security.selinux", &mut context).ok()?;
    let context = String::from_utf8_lossy(context.get(..length)?).trim_end_matches('\0').to_owned();
    let kind = context.split(':').nth(2).unwrap_or_default().to_owned();
    (kind != "virt_mdev_exec_t").then_some(kind)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A host whose daemon was started then, since boot.
    fn host(started: Duration) -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: String| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let ticks = started.as_secs() * clock_ticks_per_second();
        write("run/libvirtd.pid", "7".to_owned());
        write("proc/7/comm", "libvirtd\n".to_owned());
        write("proc/7/stat", format!("7 (libvirtd) S 1 7 7 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 {ticks} 0 0"));
        write("usr/bin/virt-mdev-hook", String::new());
        std::fs::create_dir_all(directory.path().join("etc/libvirt/hooks/qemu.d")).unwrap();
        let host = Host::at(directory.path());
        (directory, host)
    }

    fn link(directory: &tempfile::TempDir) {
        symlink("../../../../usr/bin/virt-mdev-hook", directory.path().join(HOOK)).unwrap();
    }

    #[test]
    fn a_daemon_sees_what_was_there_when_it_started_or_what_it_was_told_of() {
        let now = Host::real().now();
        let (directory, host) = host(now.saturating_sub(Duration::from_secs(50)));
        let daemon = running(&host).unwrap();
        assert_eq!((daemon.name, daemon.pid), ("libvirtd", 7));
        assert_eq!(hook_lacks(&host).as_deref(), Some("is not there"));
        link(&directory);
        assert_eq!(hook_lacks(&host).as_deref(), Some("is not executable"));
        let program = directory.path().join("usr/bin/virt-mdev-hook");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(hook_lacks(&host), None);
        assert!(!sees_hooks(&host, &daemon), "it is newer than the daemon");
        std::fs::write(directory.path().join(TOLD), "").unwrap();
        assert!(sees_hooks(&host, &daemon));
        std::fs::remove_file(program).unwrap();
        assert_eq!(hook_lacks(&host).as_deref(), Some("is a link to nothing"));
        std::fs::write(directory.path().join("proc/7/comm"), "bash\n").unwrap();
        assert_eq!(running(&host), None, "another process has its pid");
    }

    #[test]
    fn a_daemon_that_started_later_sees_it() {
        let (directory, host) = host(Host::real().now().saturating_sub(Duration::from_secs(1)));
        link(&directory);
        assert!(!sees_hooks(&host, &running(&host).unwrap()));
        std::thread::sleep(Duration::from_millis(1100));
        let later = Host::real().now().as_secs() * clock_ticks_per_second();
        let stat = format!("7 (libvirtd) S 1 7 7 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 {later} 0 0");
        std::fs::write(directory.path().join("proc/7/stat"), stat).unwrap();
        assert!(sees_hooks(&host, &running(&host).unwrap()));
    }
}
