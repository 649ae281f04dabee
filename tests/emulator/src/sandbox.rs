//! The namespaces and mounts that programs see the emulated host in. They are this process's own: when it and those
//! in them are gone, so are they.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::fuse::Emulator;

/// What lies on the emulator, besides `/sys`.
pub const PRIVATE: &[&str] =
    &["/dev/vfio", "/run", "/etc/virt-mdev", "/etc/mdevctl.d", "/etc/libvirt", "/etc/apparmor.d"];

const NONE: Option<&str> = None;

fn while_doing(what: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

/// Leaves the machine's namespaces. Only while the process has one thread.
pub fn leave() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|errno| while_doing("make namespaces", errno))?;
    if !user.is_root() {
        let write = |file: &str, text: String| {
            fs::write(format!("/proc/self/{file}"), text).map_err(|error| while_doing(file, error))
        };
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("0 {user} 1"))?;
        write("gid_map", format!("0 {group} 1"))?;
    }
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(|errno| while_doing("make the mounts private", errno))
}

/// Makes a directory exist to mount on, without making it on the machine.
fn make_room(path: &Path, covered: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.ancestors().skip(1).find(|above| above.is_dir()).unwrap_or(Path::new("/"));
    if !covered.iter().any(|covered| covered == parent) {
        cover(parent)?;
        covered.push(parent.to_owned());
    }
    fs::create_dir_all(path).map_err(|error| while_doing(&format!("make {}", path.display()), error))
}

/// Covers a directory by a copy in memory whose entries are the real ones.
fn cover(parent: &Path) -> io::Result<()> {
    let shown = parent.display();
    let entries: Vec<(PathBuf, fs::FileType)> = fs::read_dir(parent)?
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.file_type().ok()?)))
        .collect();
    // The real directory stays reachable through its descriptor once the copy covers it.
    let real_one = fs::File::open(parent)?;
    let real = format!("/proc/self/fd/{}", real_one.as_raw_fd());
    mount(Some("tmpfs"), parent, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .map_err(|errno| while_doing(&format!("cover {shown}"), errno))?;
    for (entry, kind) in entries {
        let Some(name) = entry.file_name() else { continue };
        let from = Path::new(&real).join(name);
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &entry)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&entry)?;
        } else {
            fs::File::create(&entry)?;
        }
        match mount(Some(&from), &entry, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE) {
            // One that went meanwhile is not missed.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(while_doing(&format!("show {} again", entry.display()), errno)),
        }
    }
    Ok(())
}

/// Mounts the emulator over the machine's directories. It must be kept alive.
pub fn enter(emulator: Emulator, private: &[String]) -> io::Result<BackgroundSession> {
    let dirs: Vec<&str> = PRIVATE.iter().copied().chain(private.iter().map(String::as_str)).collect();
    let mut covered = Vec::new();
    for dir in &dirs {
        make_room(Path::new(dir), &mut covered)?;
    }
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("virt-mdev-emulator".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    // QEMU runs as somebody else.
    config.acl = SessionACL::All;
    let fuse = fs::File::options().read(true).write(true).open("/dev/fuse");
    drop(fuse.map_err(|error| while_doing("open /dev/fuse (is it there, and open to this user?)", error))?);
    let session =
        Session::new(emulator, "/sys", &config).map_err(|error| while_doing("mount on /sys", error))?;
    let session = session.spawn()?;
    // All of it is mounted on /sys now; its parts go where they belong, /sys itself last.
    for dir in dirs.iter().copied().chain(["/sys"]) {
        let from = format!("/sys{dir}");
        mount(Some(from.as_str()), dir, NONE, MsFlags::MS_BIND, NONE)
            .map_err(|errno| while_doing(&format!("mount on {dir}"), errno))?;
    }
    Ok(session)
}
