use nix::errno::Errno;
use nix::libc::{O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use super::*;
use crate::call::{Call, Caller, Outcome};

mod labels;
mod saved;

const A: &str = "aaaaaaaa-0000-4000-8000-00000000000a";
const B: &str = "bbbbbbbb-0000-4000-8000-00000000000b";

fn world(name: &str) -> World {
    let path = format!("{}/hosts/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let (host, tables) = Host::load(std::path::Path::new(&path)).unwrap();
    World::new(&host, &tables, false)
}

/// A path as a program would write it: links on the way are followed.
fn walk(world: &World, path: &str) -> Option<u64> {
    let mut at = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = format!("{at}/{name}");
        while let Kind::Link(target) = &world.tree.get(world.tree.find(&at)?)?.kind {
            let mut parts: Vec<&str> = at.split('/').collect();
            parts.pop();
            for part in target.split('/') {
                if part == ".." {
                    parts.pop();
                } else {
                    parts.push(part);
                }
            }
            at = parts.join("/");
        }
    }
    world.tree.find(&at)
}

fn ask(world: &mut World, call: Call) -> Result<Done, Errno> {
    match world.perform(Caller::default(), &call) {
        Outcome::Now(answer) => answer,
        Outcome::Later(ticket) | Outcome::Soon(ticket) => panic!("{call:?} waits as {ticket}"),
    }
}

fn open(world: &mut World, path: &str, flags: i32) -> Result<(u64, u64), Errno> {
    let ino = walk(world, path).ok_or(Errno::ENOENT)?;
    match ask(world, Call::Open { ino, flags })? {
        Done::Opened(handle) => Ok((ino, handle)),
        other => panic!("{other:?}"),
    }
}

fn write_all(world: &mut World, path: &str, data: &str) -> Result<usize, Errno> {
    let (ino, handle) = open(world, path, O_WRONLY)?;
    let answer = ask(world, Call::Write { ino, handle, offset: 0, data: data.as_bytes().to_vec() });
    ask(world, Call::Release { ino, handle })?;
    answer.map(|done| match done {
        Done::Written(count) => count,
        other => panic!("{other:?}"),
    })
}

fn read(world: &mut World, path: &str) -> Result<String, Errno> {
    let (ino, handle) = open(world, path, O_RDONLY)?;
    let answer = ask(world, Call::Read { ino, handle, offset: 0, size: 65536 });
    ask(world, Call::Release { ino, handle })?;
    answer.map(|done| match done {
        Done::Data(data) => String::from_utf8(data).unwrap(),
        other => panic!("{other:?}"),
    })
}

fn free(world: &mut World, parent: &str, kind: &str) -> u32 {
    let path = format!("{CLASS}/{parent}/mdev_supported_types/{kind}/available_instances");
    read(world, &path).unwrap().trim_end().parse().unwrap()
}

fn create(world: &mut World, parent: &str, kind: &str, uuid: &str) -> Result<usize, Errno> {
    write_all(world, &format!("{CLASS}/{parent}/mdev_supported_types/{kind}/create"), uuid)
}

fn uuid(number: u32) -> String {
    format!("cccccccc-0000-4000-8000-{number:012x}")
}

#[test]
fn create_takes_36_bytes_or_37() {
    let mut world = world("mtty");
    let upper = B.to_uppercase();
    for (data, expected) in [
        (A[..35].to_owned(), Err(Errno::EINVAL)),
        (format!("{A}\n\n"), Err(Errno::EINVAL)),
        (A.replace('-', "0"), Err(Errno::EINVAL)),
        (A.replacen('a', "g", 1), Err(Errno::EINVAL)),
        (String::new(), Err(Errno::EINVAL)),
        (A.to_owned(), Ok(36)),
        (format!("{A}\n"), Err(Errno::EEXIST)),
        (format!("{upper}x"), Ok(37)),
        (B.to_owned(), Err(Errno::EEXIST)),
    ] {
        assert_eq!(create(&mut world, "mtty", "mtty-1", &data), expected, "{data:?}");
    }
    assert!(walk(&world, &format!("{BUS}/{B}")).is_some(), "shown in lower case");
    assert_eq!(create(&mut world, "mbochs", "mbochs-small", A), Err(Errno::EEXIST), "on the whole host");
}

#[test]
fn remove_takes_a_number() {
    let mut world = world("mtty");
    create(&mut world, "mtty", "mtty-1", A).unwrap();
    let path = format!("{BUS}/{A}/remove");
    for (data, expected) in [
        ("", Err(Errno::EINVAL)),
        ("yes", Err(Errno::EINVAL)),
        ("-1", Err(Errno::EINVAL)),
        ("1 ", Err(Errno::EINVAL)),
        ("0", Ok(1)),
        ("0x0\n", Ok(4)),
        ("0x1\n", Ok(4)),
        ("1", Err(Errno::ENOENT)),
    ] {
        assert_eq!(write_all(&mut world, &path, data), expected, "{data:?}");
    }
    create(&mut world, "mtty", "mtty-1", A).unwrap();
    let (ino, handle) = open(&mut world, &path, O_WRONLY).unwrap();
    assert_eq!(write_all(&mut world, &path, "1"), Ok(1));
    let again = Call::Write { ino, handle, offset: 0, data: b"1".to_vec() };
    assert_eq!(ask(&mut world, again), Err(Errno::ENODEV), "through a handle from before");
}

#[test]
fn types_share_a_pool() {
    let mut world = world("mtty");
    for number in 0..23 {
        create(&mut world, "mtty", "mtty-1", &uuid(number)).unwrap();
    }
    assert_eq!((free(&mut world, "mtty", "mtty-1"), free(&mut world, "mtty", "mtty-2")), (1, 0));
    assert_eq!(create(&mut world, "mtty", "mtty-2", A), Err(Errno::ENOSPC));
    for number in 100..104 {
        create(&mut world, "mdpy", "mdpy-hd", &uuid(number)).unwrap();
    }
    assert_eq!(
        create(&mut world, "mdpy", "mdpy-vga", A),
        Err(Errno::EUSERS),
        "the framework counts for mdpy"
    );
}

#[test]
fn virtual_functions_share_their_card() {
    let mut world = world("a16-mdev");
    create(&mut world, "0000:41:00.4", "nvidia-702", A).unwrap();
    assert_eq!(free(&mut world, "0000:41:00.4", "nvidia-702"), 0, "one for each function");
    assert_eq!(free(&mut world, "0000:41:00.5", "nvidia-702"), 1);
    assert_eq!(free(&mut world, "0000:41:00.5", "nvidia-699"), 0, "one type at a time");
    assert_eq!(free(&mut world, "0000:42:00.5", "nvidia-699"), 1, "another card");
    for function in 5..8 {
        create(&mut world, &format!("0000:41:00.{function}"), "nvidia-702", &uuid(function)).unwrap();
    }
    assert_eq!(create(&mut world, "0000:41:01.0", "nvidia-702", B), Err(Errno::ENOSPC), "4 times 4 GiB");
    assert_eq!(read(&mut world, &format!("{CLASS}/0000:41:02.3/physfn/numa_node")).unwrap(), "0\n");
    assert_eq!(read(&mut world, &format!("{CLASS}/0000:81:00.4/numa_node")).unwrap(), "1\n");
    let virtfn = "/sys/bus/pci/devices/0000:41:00.0/virtfn15";
    assert_eq!(walk(&world, virtfn), walk(&world, "/sys/bus/pci/devices/0000:41:02.3"));
}

#[test]
fn sysfs_lets_nobody_make_or_move_files() {
    let mut world = world("mtty");
    let dir = walk(&world, CLASS).unwrap();
    let name = || "nope".to_owned();
    let there = || "mtty".to_owned();
    for (call, expected) in [
        (Call::Create { dir, name: name(), mode: 0o644, flags: O_WRONLY }, Errno::EACCES),
        (Call::Create { dir, name: there(), mode: 0o644, flags: O_WRONLY }, Errno::EEXIST),
        (Call::Mkdir { dir, name: name(), mode: 0o755 }, Errno::EPERM),
        (Call::Mknod { dir, name: name(), mode: 0o100644 }, Errno::EPERM),
        (Call::Symlink { dir, name: name(), target: name() }, Errno::EPERM),
        (Call::Unlink { dir, name: there() }, Errno::EPERM),
        (Call::Unlink { dir, name: name() }, Errno::ENOENT),
        (Call::Rmdir { dir, name: there() }, Errno::EPERM),
        (Call::Rename { dir, name: there(), to: dir, new: name(), flags: 0 }, Errno::EPERM),
        (Call::Lookup { dir, name: name() }, Errno::ENOENT),
    ] {
        assert_eq!(ask(&mut world, call.clone()), Err(expected), "{call:?}");
    }
}

#[test]
fn the_mode_counts_for_root_and_a_write_is_a_whole_value() {
    let mut world = world("mtty");
    let types = format!("{CLASS}/mtty/mdev_supported_types/mtty-1");
    assert_eq!(open(&mut world, &format!("{types}/create"), O_RDONLY), Err(Errno::EACCES));
    assert_eq!(open(&mut world, &format!("{types}/create"), O_RDWR), Err(Errno::EACCES));
    assert_eq!(open(&mut world, &format!("{types}/name"), O_WRONLY), Err(Errno::EACCES));
    let (ino, handle) = open(&mut world, &format!("{types}/create"), O_WRONLY | O_TRUNC).unwrap();
    let data = A.as_bytes().to_vec();
    let written = ask(&mut world, Call::Write { ino, handle, offset: 4096, data });
    assert_eq!(written, Ok(Done::Written(36)), "wherever in the file");
    let params = format!("{BUS}/{A}/settings/first");
    assert_eq!(write_all(&mut world, &params, &"x".repeat(5000)), Err(Errno::E2BIG));
    let uevent = format!("{BUS}/{A}/uevent");
    assert_eq!(write_all(&mut world, &uevent, &"x".repeat(5000)), Ok(4096), "a page at most");
}

#[test]
fn a_reader_sees_one_state_to_its_end() {
    let mut world = world("mtty");
    let path = format!("{CLASS}/mtty/mdev_supported_types/mtty-1/available_instances");
    let (ino, handle) = open(&mut world, &path, O_RDONLY).unwrap();
    let part = |world: &mut World, offset| ask(world, Call::Read { ino, handle, offset, size: 1 });
    assert_eq!(part(&mut world, 0), Ok(Done::Data(b"2".to_vec())));
    for number in 0..20 {
        create(&mut world, "mtty", "mtty-1", &uuid(number)).unwrap();
    }
    assert_eq!(part(&mut world, 1), Ok(Done::Data(b"4".to_vec())));
    assert_eq!(part(&mut world, 0), Ok(Done::Data(b"4".to_vec())));
    assert_eq!(part(&mut world, 2), Ok(Done::Data(Vec::new())));
}

#[test]
fn the_2016_driver_wants_its_order() {
    let mut world = world("m60-2016");
    let card = "/sys/bus/pci/devices/0000:86:00.0";
    let (make, unmake) = (format!("{card}/mdev_create"), format!("{card}/mdev_destroy"));
    let request = |uuid: &str, kind: u32, vm: &str| format!("{uuid}:vgpu_type_id={kind},vm_uuid={vm}");
    let online = |uuid: &str| format!("{BUS}/{uuid}/online");
    assert_eq!(write_all(&mut world, &make, A), Err(Errno::EINVAL), "no arguments");
    assert_eq!(write_all(&mut world, &make, &format!("{A}:vgpu_type_id=17")), Err(Errno::EINVAL), "no VM");
    assert_eq!(write_all(&mut world, &make, &request(A, 99, "v")), Err(Errno::EINVAL), "no such type");
    assert!(write_all(&mut world, &make, &(request(A, 17, "v") + "\n")).is_ok(), "one newline is accepted");
    assert_eq!(write_all(&mut world, &make, &request(A, 17, "v")), Err(Errno::EEXIST));
    assert_eq!(read(&mut world, &online(A)).unwrap(), "0\n");
    assert_eq!(write_all(&mut world, &online(A), "1"), Ok(1));
    assert_eq!(write_all(&mut world, &make, &request(B, 11, "v")), Err(Errno::EBUSY), "too late for this VM");
    assert!(write_all(&mut world, &make, &request(B, 11, "w")).is_ok(), "another VM");
    assert_eq!(write_all(&mut world, &make, &request(&uuid(1), 17, "w")), Err(Errno::ENOSPC));
    assert_eq!(write_all(&mut world, &unmake, &request(A, 17, "v")), Err(Errno::EBUSY), "online");
    assert_eq!(write_all(&mut world, &online(A), "0"), Ok(1));
    assert_eq!(write_all(&mut world, &unmake, A), Err(Errno::EINVAL), "not what create got");
    assert!(write_all(&mut world, &unmake, &request(A, 17, "v")).is_ok());
    assert_eq!(read(&mut world, &online(A)), Err(Errno::ENOENT));
}

#[test]
fn other_vendors_of_2016() {
    let mut world = world("vendors-2016");
    let file = |address: &str, name: &str| format!("/sys/bus/pci/devices/0000:{address}:00.0/{name}");
    assert_eq!(read(&mut world, &file("04", "mdev_supported_types")).unwrap(), "");
    assert_eq!(read(&mut world, &file("05", "mdev_supported_types")), Err(Errno::ENOENT));
    assert_eq!(write_all(&mut world, &file("05", "mdev_create"), A), Ok(36));
    assert_eq!(write_all(&mut world, &file("05", "mdev_create"), &format!("{B}:")), Ok(37));
    assert_eq!(world.control(&["table", "0000:05:00.0", "ff0a"]), Some(Ok(())));
    assert_eq!(world.table("0000:05:00.0").unwrap(), b"\xff\n");
}

#[test]
fn ap_queues_are_checked_as_they_are_assigned() {
    let mut world = world("s390");
    for uuid in [A, B] {
        create(&mut world, "matrix", "vfio_ap-passthrough", uuid).unwrap();
    }
    for (uuid, name, data, expected) in [
        (A, "assign_adapter", "0x40", Err(Errno::ENODEV)),
        (A, "assign_adapter", "five", Err(Errno::EINVAL)),
        (A, "assign_adapter", "5", Ok(1)),
        (A, "assign_adapter", "0x2", Ok(3)),
        (A, "assign_domain", "3", Err(Errno::EADDRNOTAVAIL)),
        (A, "assign_domain", "0xab", Err(Errno::ENODEV)),
        (A, "assign_domain", "0x10", Ok(4)),
        (A, "assign_control_domain", "0x10", Ok(4)),
        (B, "assign_adapter", "5", Ok(1)),
        (B, "assign_domain", "0x10", Err(Errno::EADDRINUSE)),
    ] {
        let answer = write_all(&mut world, &format!("{BUS}/{uuid}/{name}"), data);
        assert_eq!(answer, expected, "{uuid} {name} {data}");
    }
    assert_eq!(read(&mut world, &format!("{BUS}/{A}/matrix")).unwrap(), "02.0010\n05.0010\n");
    assert_eq!(read(&mut world, &format!("{BUS}/{A}/control_domains")).unwrap(), "0010\n");
    assert_eq!(read(&mut world, &format!("{BUS}/{B}/matrix")).unwrap(), "05.\n");
    create(&mut world, "0.0.0313", "vfio_ccw-io", &uuid(1)).unwrap();
    assert_eq!(create(&mut world, "0.0.0313", "vfio_ccw-io", &uuid(2)), Err(Errno::EUSERS));
}

#[test]
fn nvidia_eats_the_last_byte() {
    let mut world = world("a16-mdev");
    create(&mut world, "0000:41:00.4", "nvidia-702", A).unwrap();
    let params = format!("{BUS}/{A}/nvidia/vgpu_params");
    for (data, expected) in [("a=1,b=22", "a=1,b=2\n"), ("a=1\n", "a=1\n"), (" \n", "\n")] {
        write_all(&mut world, &params, data).unwrap();
        assert_eq!(read(&mut world, &params).unwrap(), expected);
    }
}

#[test]
fn private_directories_are_plain_ones() {
    let mut world = world("empty");
    let run = walk(&world, "/run").unwrap();
    let make = |name: &str| Call::Create { dir: run, name: name.to_owned(), mode: 0o600, flags: O_RDWR };
    let Ok(Done::Created(ino, handle)) = ask(&mut world, make("a")) else { panic!() };
    let write = |offset, data: &[u8]| Call::Write { ino, handle, offset, data: data.to_vec() };
    ask(&mut world, write(0, b"hello")).unwrap();
    ask(&mut world, write(7, b"!")).unwrap();
    let (name, new) = ("a".to_owned(), "b".to_owned());
    ask(&mut world, Call::Rename { dir: run, name, to: run, new, flags: 0 }).unwrap();
    assert_eq!(read(&mut world, "/run/b").unwrap(), "hello\0\0!");
    let exists = Call::Symlink { dir: run, name: "b".to_owned(), target: "x".to_owned() };
    assert_eq!(ask(&mut world, exists), Err(Errno::EEXIST));
    ask(&mut world, Call::Unlink { dir: run, name: "b".to_owned() }).unwrap();
    let rest = ask(&mut world, Call::Read { ino, handle, offset: 0, size: 5 });
    assert_eq!(rest, Ok(Done::Data(b"hello".to_vec())), "whoever has it open keeps it");
    let lib = Call::Rmdir { dir: run, name: "udev".to_owned() };
    assert_eq!(ask(&mut world, lib), Err(Errno::ENOTEMPTY));
}
