use super::*;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[test]
fn only_regular_files_with_a_write_bit_are_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("device");
    std::fs::create_dir_all(device.join("nvidia")).unwrap();
    std::fs::write(dir.path().join("outside"), "safe").unwrap();
    std::fs::write(device.join("nvidia/vgpu_params"), "old").unwrap();
    std::fs::write(device.join("read_only"), "old").unwrap();
    std::fs::set_permissions(device.join("read_only"), PermissionsExt::from_mode(0o444)).unwrap();
    symlink(dir.path().join("outside"), device.join("link")).unwrap();
    symlink(dir.path(), device.join("dirlink")).unwrap();
    let why = |name: &str| Real::default().write_attribute(&device, name, b"new").unwrap_err();
    assert!(why("link").to_string().contains("symbolic link"), "{}", why("link"));
    assert!(why("dirlink/outside").to_string().contains("symbolic link"), "{}", why("dirlink/outside"));
    assert!(why("read_only").to_string().contains("for reading only"));
    assert!(why("nvidia").to_string().contains("not a file"));
    assert_eq!(why("missing").raw_os_error(), Some(Errno::NOENT.raw_os_error()));
    assert_eq!(std::fs::read_to_string(dir.path().join("outside")).unwrap(), "safe");
    assert_eq!(std::fs::read_to_string(device.join("read_only")).unwrap(), "old");
    assert!(!device.join("missing").exists());
}

/// Exchanges what is in `place` with what is in `aside`, and back, until it is told to stop.
fn keep_exchanging(place: &Path, aside: &Path, stop: &AtomicBool) {
    let spare = place.with_extension("spare");
    while !stop.load(Ordering::Relaxed) {
        for (from, to) in [(place, &*spare), (aside, place), (&*spare, aside)] {
            std::fs::rename(from, to).unwrap();
        }
    }
}

#[test]
fn what_becomes_a_link_in_between_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (device, outside) = (dir.path().join("device"), dir.path().join("outside"));
    for directory in [&device.join("settings"), &outside] {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("first"), "safe").unwrap();
    }
    std::fs::write(device.join("second"), "safe").unwrap();
    symlink(&outside, device.join("settings.aside")).unwrap();
    symlink(outside.join("first"), device.join("second.aside")).unwrap();
    let stop = AtomicBool::new(false);
    // Each has been a link, and has been none, this often.
    let mut seen = [("settings/first", 0, 0), ("second", 0, 0)];
    let calls = std::thread::scope(|scope| {
        for name in ["settings", "second"] {
            let (place, aside) = (device.join(name), device.join(format!("{name}.aside")));
            let stop = &stop;
            scope.spawn(move || keep_exchanging(&place, &aside, stop));
        }
        let begun = Instant::now();
        let mut calls = 0;
        while calls < 20_000
            || seen.iter().any(|(_, links, written)| *links < 500 || *written < 500)
                && begun.elapsed() < Duration::from_secs(20)
        {
            let value = format!("{calls:04}");
            for (name, links, written) in &mut seen {
                match Real::default().write_attribute(&device, name, value.as_bytes()) {
                    Ok(_) => *written += 1,
                    Err(error) if error.to_string().contains("symbolic link") => *links += 1,
                    Err(_) => {}
                }
            }
            calls += 1;
        }
        stop.store(true, Ordering::Relaxed);
        calls
    });
    assert_eq!(std::fs::read_to_string(outside.join("first")).unwrap(), "safe", "{calls} calls");
    assert!(seen.iter().all(|(_, links, written)| *links >= 500 && *written >= 500), "{seen:?}");
}

#[test]
fn an_equal_value_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), "1\n").unwrap();
    assert_eq!(Real::default().write_attribute(dir.path(), "a", b"1").unwrap(), Written::Equal);
    assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "1\n");
    assert_eq!(Real::default().write_attribute(dir.path(), "a", b"2").unwrap(), Written::Yes);
    assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "2\n", "no truncation");
}

#[test]
fn a_held_lock_is_waited_for_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let held = Real::default().lock(&path, Duration::ZERO).unwrap();
    let error = Real::default().lock(&path, Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(held);
    let _again = Real::default().lock(&path, Duration::ZERO).unwrap();
}
