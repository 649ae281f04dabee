//! The host at one moment.

use super::*;

#[test]
fn a_saved_host_comes_back_and_whatever_differs_is_told() {
    let mut world = world("mtty");
    create(&mut world, "mtty", "mtty-2", A).unwrap();
    let run = walk(&world, "/run").unwrap();
    let make = |name: &str| Call::Mkdir { dir: run, name: name.to_owned(), mode: 0o755 };
    ask(&mut world, make("kept")).unwrap();
    let settings = format!("{BUS}/{A}/settings/first");
    world.out.clear();
    let (saved, before) = (world.saved().unwrap(), world.fingerprint());

    let node = walk(&world, "/dev/vfio/0").unwrap();
    let with = |mode, uid| Call::Setattr { ino: node, mode, uid, gid: None, size: None };
    let context =
        Call::Setxattr { ino: node, name: "security.selinux".to_owned(), value: b"x".to_vec(), flags: 0 };
    let link = Call::Symlink { dir: run, name: "link".to_owned(), target: "kept".to_owned() };
    let gone = Call::Rmdir { dir: run, name: "kept".to_owned() };
    let mut seen = vec![before.clone()];
    type Change<'a> = Box<dyn Fn(&mut World) -> Result<(), Errno> + 'a>;
    let asks = |call: Call| -> Change { Box::new(move |world| ask(world, call.clone()).map(drop)) };
    let changes: [Change; 8] = [
        asks(with(Some(0o440), None)),
        asks(with(None, Some(7))),
        asks(context),
        asks(link),
        asks(gone),
        Box::new(|world| write_all(world, &settings, "b").map(|_| ())),
        Box::new(|world| create(world, "mtty", "mtty-2", B).map(|_| ())),
        Box::new(|world| write_all(world, &format!("{BUS}/{A}/remove"), "1").map(|_| ())),
    ];
    for change in &changes {
        change(&mut world).unwrap();
        let now = world.fingerprint();
        assert!(!seen.contains(&now), "the change of number {} is not told", seen.len());
        seen.push(now);
    }
    world.out.clear();
    world.load(&saved).unwrap();
    assert_eq!(world.fingerprint(), before);
    for change in &changes {
        world.load(&saved).unwrap();
        change(&mut world).unwrap();
        world.out.clear();
        assert_ne!(world.fingerprint(), before);
    }
    world.load(&saved).unwrap();
    assert_eq!(world.fingerprint(), before);
    assert_eq!(world.load(&saved), Ok(Changed::default()), "nothing has changed since");
}

#[test]
fn what_is_open_is_not_saved() {
    let mut world = world("mtty");
    create(&mut world, "mtty", "mtty-2", A).unwrap();
    assert_eq!(world.saved().unwrap_err(), "something is under way", "the uevents");
    world.out.clear();
    let saved = world.saved().unwrap();
    let (ino, handle) = open(&mut world, "/dev/vfio/0", O_RDWR).unwrap();
    assert_eq!(world.saved().unwrap_err(), "somebody has a node open");
    assert_eq!(world.load(&saved).unwrap_err(), "somebody has a node open");
    ask(&mut world, Call::Flush { ino, handle }).unwrap();
    // Its close comes later than the load.
    world.load(&saved).unwrap();
    let (_, other) = open(&mut world, "/dev/vfio/0", O_RDWR).unwrap();
    assert_ne!(handle, other);
    ask(&mut world, Call::Release { ino, handle }).unwrap();
    assert_eq!(open(&mut world, "/dev/vfio/0", O_RDWR), Err(Errno::EBUSY), "the other has it still");
}

#[test]
fn no_number_of_a_file_is_used_twice() {
    let mut world = world("empty");
    let saved = world.saved().unwrap();
    let run = walk(&world, "/run").unwrap();
    let make = Call::Mkdir { dir: run, name: "a".to_owned(), mode: 0o755 };
    let first = ask(&mut world, make.clone()).unwrap();
    let changed = world.load(&saved).unwrap();
    assert_eq!(changed.names, [(run, "a".to_owned())]);
    assert_ne!(ask(&mut world, make).unwrap(), first);
}
