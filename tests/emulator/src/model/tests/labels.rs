//! Owner, mode and context of nodes, and of files elsewhere.

use super::*;

const CONTEXT: &str = "security.selinux";

fn with(settings: &str) -> World {
    let path = format!("{}/hosts/mtty.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    World::new(&Host::parse(&format!("{settings}\n{text}")).unwrap(), &[], false)
}

fn get(world: &mut World, path: &str, name: &str) -> Result<String, Errno> {
    let ino = walk(world, path).ok_or(Errno::ENOENT)?;
    ask(world, Call::Getxattr { ino, name: name.to_owned() }).map(|done| match done {
        Done::Data(data) => String::from_utf8(data).unwrap(),
        other => panic!("{other:?}"),
    })
}

fn set(world: &mut World, path: &str, name: &str, value: &str, flags: i32) -> Result<(), Errno> {
    let ino = walk(world, path).ok_or(Errno::ENOENT)?;
    let (name, value) = (name.to_owned(), value.as_bytes().to_vec());
    ask(world, Call::Setxattr { ino, name, value, flags }).map(drop)
}

fn remove(world: &mut World, path: &str, name: &str) -> Result<(), Errno> {
    let ino = walk(world, path).ok_or(Errno::ENOENT)?;
    ask(world, Call::Removexattr { ino, name: name.to_owned() }).map(drop)
}

fn list(world: &mut World, path: &str) -> String {
    let ino = walk(world, path).unwrap();
    match ask(world, Call::Listxattr { ino }).unwrap() {
        Done::Data(names) => String::from_utf8(names).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn change(world: &mut World, path: &str, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) {
    let ino = walk(world, path).unwrap();
    ask(world, Call::Setattr { ino, mode, uid, gid, size: None }).unwrap();
}

/// Owner, group and mode.
fn owned(world: &World, path: &str) -> (u32, u32, u32) {
    let file = world.tree.get(walk(world, path).unwrap()).unwrap();
    (file.uid, file.gid, file.mode)
}

#[test]
fn a_node_that_is_made_again_is_as_new() {
    for (settings, mode) in [("cdev = true", 0o600), ("cdev = true\nnode_mode = 0o400", 0o400)] {
        let mut world = with(settings);
        let nodes = ["/dev/vfio/0", "/dev/vfio/devices/vfio0"];
        for _ in 0..2 {
            create(&mut world, "mtty", "mtty-1", A).unwrap();
            for node in nodes {
                assert_eq!(owned(&world, node), (0, 0, mode), "{node}");
                assert_eq!(get(&mut world, node, CONTEXT), Err(Errno::ENODATA), "{node}");
                change(&mut world, node, None, Some(64055), Some(108));
                assert_eq!(owned(&world, node), (64055, 108, mode), "{node}");
                change(&mut world, node, None, None, Some(36));
                change(&mut world, node, Some(0o100_660), None, None);
                assert_eq!(owned(&world, node), (64055, 36, 0o660), "{node}");
                set(&mut world, node, CONTEXT, "a:b:c", 0).unwrap();
            }
            assert_eq!(owned(&world, "/dev/vfio/vfio"), (0, 0, 0o666), "it is always there");
            write_all(&mut world, &format!("{BUS}/{A}/remove"), "1").unwrap();
            assert!(nodes.iter().all(|node| walk(&world, node).is_none()));
        }
    }
}

#[test]
fn attributes_are_kept_as_on_the_kernels_own_file_systems() {
    let mut world = with("");
    create(&mut world, "mtty", "mtty-1", A).unwrap();
    let (node, attribute) = ("/dev/vfio/0", format!("{CLASS}/mtty/mdev_supported_types/mtty-1/create"));
    let rule = "/etc/apparmor.d/libvirt/a.files";
    world.tree.add(rule, Kind::File(Vec::new()), 0o600);
    for (path, name, expected) in [
        (node, CONTEXT, Ok(())),
        (node, "trusted.a", Ok(())),
        (node, "user.a", Err(Errno::EPERM)),
        (node, "other.a", Err(Errno::EOPNOTSUPP)),
        (&attribute, CONTEXT, Ok(())),
        (&attribute, "user.a", Err(Errno::EOPNOTSUPP)),
        (rule, CONTEXT, Ok(())),
        (rule, "user.a", Ok(())),
    ] {
        let unset = if expected == Err(Errno::EOPNOTSUPP) && !name.starts_with("user.") {
            Errno::EOPNOTSUPP
        } else {
            Errno::ENODATA
        };
        assert_eq!(get(&mut world, path, name), Err(unset), "{path} {name}");
        // Whatever it is: nobody looks.
        assert_eq!(set(&mut world, path, name, "nonsense\0", 0), expected, "{path} {name}");
        if expected.is_ok() {
            assert_eq!(get(&mut world, path, name).unwrap(), "nonsense\0", "{path} {name}");
        }
    }
    assert_eq!(list(&mut world, node), "security.selinux\0trusted.a\0");
    assert_eq!(set(&mut world, node, CONTEXT, "x", nix::libc::XATTR_CREATE), Err(Errno::EEXIST));
    assert_eq!(set(&mut world, node, CONTEXT, "", nix::libc::XATTR_REPLACE), Ok(()));
    assert_eq!(get(&mut world, node, CONTEXT).unwrap(), "");
    assert_eq!(remove(&mut world, node, CONTEXT), Ok(()));
    assert_eq!(remove(&mut world, node, CONTEXT), Err(Errno::ENODATA));
    assert_eq!(set(&mut world, node, CONTEXT, "x", nix::libc::XATTR_REPLACE), Err(Errno::ENODATA));
    assert_eq!(read(&mut world, "/sys/fs/selinux/enforce"), Err(Errno::ENOENT));
}

#[test]
fn with_selinux_everything_has_a_context() {
    let ours = "system_u:object_r:svirt_image_t:s0:c1,c2";
    for (settings, enforce) in [("selinux = 'permissive'", "0"), ("selinux = 'enforcing'", "1")] {
        let mut world = with(settings);
        create(&mut world, "mtty", "mtty-1", A).unwrap();
        assert_eq!(read(&mut world, "/sys/fs/selinux/enforce").unwrap(), enforce);
        let node = "/dev/vfio/0";
        assert_eq!(list(&mut world, node), "security.selinux\0");
        assert_eq!(get(&mut world, node, CONTEXT).unwrap(), "system_u:object_r:device_t:s0\0");
        assert_eq!(get(&mut world, "/sys/bus", CONTEXT).unwrap(), "system_u:object_r:sysfs_t:s0\0");
        // With its zero byte or without.
        for value in [ours.to_owned(), format!("{ours}\0")] {
            set(&mut world, node, CONTEXT, &value, 0).unwrap();
            assert_eq!(get(&mut world, node, CONTEXT).unwrap(), format!("{ours}\0"));
        }
        for wrong in ["", "a", "a:b", "a:b:", "a::c", "a:b:c\0d"] {
            assert_eq!(set(&mut world, node, CONTEXT, wrong, 0), Err(Errno::EINVAL), "{wrong:?}");
        }
        assert_eq!(remove(&mut world, node, CONTEXT), Err(Errno::EACCES));
        assert_eq!(get(&mut world, node, CONTEXT).unwrap(), format!("{ours}\0"));
        assert_eq!(list(&mut world, node), "security.selinux\0");
        let number = walk(&world, node).unwrap();
        write_all(&mut world, &format!("{BUS}/{A}/remove"), "1").unwrap();
        create(&mut world, "mtty", "mtty-1", A).unwrap();
        assert_ne!(walk(&world, node).unwrap(), number);
        assert_eq!(get(&mut world, node, CONTEXT).unwrap(), "system_u:object_r:device_t:s0\0");
    }
}
