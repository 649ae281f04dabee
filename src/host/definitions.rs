//! mdevctl's definition of one device, found by its UUID: no file but its own is opened.

use super::{Host, Kind, Trouble, udev};
use crate::backend;
use crate::definitions::{self, Definition};
use crate::ids::{MdevUuid, Parent};
use crate::refusal::BadDefinition;
use crate::seen::{Defined, Lookup};
use crate::words::errno;

use rustix::io::Errno;

/// One directory for each parent, in it a file for each device, named by its UUID (`mdevctl(8)`).
const DIRECTORY: &str = "etc/mdevctl.d";

/// More than any definition has, in bytes.
const MAX: u64 = 64 * 1024;

/// Where the definition of a device on `parent` lies, below the host's root.
pub fn path(parent: &Parent, device: &impl std::fmt::Display) -> String {
    format!("{DIRECTORY}/{parent}/{device}")
}

/// The parents that have definitions, by the names of their directories; whatever else lies there has no name of a
/// device in it.
pub fn parents(host: &Host) -> Result<Vec<Parent>, Trouble> {
    Ok(host.names(DIRECTORY)?.iter().filter_map(|name| Parent::parse(name).ok()).collect())
}

/// Looks for a device's definition, with one `stat` for each of the `parents`.
pub fn look(host: &Host, parents: &[Parent], device: &MdevUuid) -> Result<Lookup, Trouble> {
    let mut found = Vec::new();
    let mut trouble = None;
    for parent in parents {
        match host.kind(&path(parent, device)) {
            Ok(Some(kind)) => found.push((parent, kind)),
            Ok(None) => {}
            // What cannot be looked into matters only where nothing else is found.
            Err(error) => trouble = Some(error),
        }
    }
    let mut paths: Vec<String> =
        found.iter().map(|(parent, _)| format!("/{}", path(parent, device))).collect();
    if found.len() > 1 {
        let mut there = Vec::new();
        for (parent, kind) in &found {
            if backend::detect(host, parent)?.is_some() {
                there.push((*parent, *kind));
            }
        }
        if there.len() != 1 {
            paths.sort();
            let mut parents: Vec<Parent> = found.iter().map(|(parent, _)| (*parent).clone()).collect();
            parents.sort();
            return Ok(Lookup::Several { paths, parents, there: there.len() });
        }
        found = there;
    }
    match (found.first(), trouble) {
        (Some((parent, kind)), _) => {
            let definition = read(host, parent, device, *kind);
            Ok(Lookup::One(Defined {
                path: format!("/{}", path(parent, device)),
                auto: definition.as_ref().is_ok_and(|definition| definition.auto),
                wanted: definition.map(|definition| definition.wanted(device.clone(), (*parent).clone())),
            }))
        }
        (None, Some(trouble)) => Err(trouble),
        (None, None) => Ok(Lookup::Nowhere),
    }
}

/// What lies in the directory of a parent.
pub fn names(host: &Host, parent: &Parent) -> Result<Vec<String>, Trouble> {
    host.names(&format!("{DIRECTORY}/{parent}"))
}

/// Whether a parent has a directory of definitions.
pub fn has(host: &Host, parent: &Parent) -> bool {
    host.exists(&format!("{DIRECTORY}/{parent}"))
}

/// The definition of a device on this parent.
pub fn of(host: &Host, parent: &Parent, device: &MdevUuid) -> Result<Definition, BadDefinition> {
    match host.kind(&path(parent, device)) {
        Ok(Some(kind)) => read(host, parent, device, kind),
        Ok(None) => Err(BadDefinition::Unreadable(errno(&Errno::NOENT.into()))),
        Err(trouble) => Err(BadDefinition::Unreadable(errno(&trouble.error))),
    }
}

/// mdevctl's own udev rule, which brings up what is defined; `None` where it is not there, or masked.
pub fn mdevctl_starts(host: &Host) -> Option<String> {
    let (path, masks) = udev::rules_file(host, "60-mdevctl.rules")?;
    (!masks).then(|| format!("/{path}"))
}

/// Reads a definition. A link is not followed, neither in place of the file nor of the parent's directory.
fn read(host: &Host, parent: &Parent, device: &MdevUuid, kind: Kind) -> Result<Definition, BadDefinition> {
    let unreadable = |error: &std::io::Error| BadDefinition::Unreadable(errno(error));
    match host.kind(&format!("{DIRECTORY}/{parent}")) {
        Ok(Some(Kind::Link)) => return Err(BadDefinition::BehindALink(parent.clone())),
        Ok(_) => {}
        Err(trouble) => return Err(unreadable(&trouble.error)),
    }
    // Opening a node can do things.
    match kind {
        Kind::File => {}
        Kind::Directory => return Err(BadDefinition::NotAFile("a directory")),
        Kind::Link => return Err(BadDefinition::NotAFile("a symbolic link")),
        Kind::Other => return Err(BadDefinition::NotAFile("a pipe, a socket or a node")),
    }
    let bytes = host
        .machine()
        .read_plain(&host.path(&path(parent, device)), MAX + 1)
        .map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX {
        return Err(BadDefinition::TooLarge(MAX / 1024));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| BadDefinition::NotUtf8(error.valid_up_to()))?;
    definitions::parse(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    const GOOD: &str = r#"{"mdev_type":"mtty-2","start":"auto","attrs":[]}"#;

    fn look_for(root: &Path) -> Lookup {
        let host = Host::at(root);
        look(&host, &parents(&host).unwrap(), &MdevUuid::parse(UUID).unwrap()).unwrap()
    }

    fn bad(root: &Path) -> String {
        match look_for(root) {
            Lookup::One(Defined { wanted: Err(bad), .. }) => bad.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_devices_own_file_counts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look_for(root.path()), Lookup::Nowhere);
        let directory = root.path().join("etc/mdevctl.d/mtty");
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(root.path().join("etc/mdevctl.d/scripts.d/callouts")).unwrap();
        fs::write(root.path().join("etc/mdevctl.d/a file"), "").unwrap();
        symlink("nowhere", root.path().join("etc/mdevctl.d/dangling")).unwrap();
        fs::write(directory.join("83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"), "garbage").unwrap();
        assert_eq!(look_for(root.path()), Lookup::Nowhere);
        fs::write(directory.join(UUID), GOOD).unwrap();
        let Lookup::One(Defined { path, wanted: Ok(wanted), .. }) = look_for(root.path()) else { panic!() };
        assert_eq!(path, format!("/etc/mdevctl.d/mtty/{UUID}"));
        assert_eq!((wanted.wish.to_string(), wanted.parents.len()), ("mtty-2".to_owned(), 1));
    }

    #[test]
    fn what_is_no_file_is_not_opened_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("etc/mdevctl.d/mtty").join(UUID);
        fs::create_dir_all(&file).unwrap();
        assert_eq!(bad(root.path()), "it is a directory, not a file");
        fs::remove_dir(&file).unwrap();
        fs::write(root.path().join("outside"), GOOD).unwrap();
        symlink(root.path().join("outside"), &file).unwrap();
        assert_eq!(bad(root.path()), "it is a symbolic link, not a file");
        fs::remove_file(&file).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(bad(root.path()), "it is a pipe, a socket or a node, not a file");
        fs::remove_file(&file).unwrap();
        fs::write(&file, [b"{\"mdev_type\": \"", [0xff].as_slice(), b"\"}"].concat()).unwrap();
        assert_eq!(bad(root.path()), "not UTF-8 at byte 15");
        let long = format!("{GOOD}{}", " ".repeat(64 * 1024 - GOOD.len()));
        fs::write(&file, &long).unwrap();
        assert!(matches!(look_for(root.path()), Lookup::One(Defined { wanted: Ok(_), .. })));
        fs::write(&file, format!("{long} ")).unwrap();
        assert_eq!(bad(root.path()), "larger than 64 KiB");
        let directory = root.path().join("etc/mdevctl.d/mtty");
        fs::rename(&directory, root.path().join("elsewhere")).unwrap();
        symlink(root.path().join("elsewhere"), &directory).unwrap();
        assert_eq!(bad(root.path()), "the directory of mtty is a symbolic link, which is not followed");
    }
}
