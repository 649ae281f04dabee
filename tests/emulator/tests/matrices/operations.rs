//! What an event did, as far as it can be made to fail.

use std::collections::BTreeMap;

/// The operations that are made to fail.
pub(crate) const OPERATIONS: [&str; 14] = [
    "open", "read", "write", "create", "rename", "unlink", "symlink", "mkdir", "readlink", "readdir",
    "chown", "chmod", "setxattr", "getxattr",
];

/// Where they are made to fail.
const BELOW: [&str; 6] =
    ["/sys", "/run/virt-mdev", "/dev/vfio", "/etc/virt-mdev", "/etc/libvirt", "/etc/apparmor.d"];

/// One operation of an event: what, where, and which of several that are alike.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) word: &'static str,
    pub(crate) path: String,
    pub(crate) number: usize,
    /// What is written.
    pub(crate) data: Option<String>,
}

/// The operations of a trace that a program asked for: not the way that the kernel takes to a file, and not how often
/// it has to read until it has all of it.
pub(crate) fn operations(trace: &[String]) -> Vec<Operation> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut begun: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    let mut found = Vec::new();
    let lines: Vec<Vec<&str>> = trace.iter().map(|line| line.splitn(6, ' ').collect()).collect();
    for (at, line) in lines.iter().enumerate() {
        let [_, pid, _, word, path, rest] = line.as_slice() else { continue };
        let number = counts.entry((word, path)).or_default();
        *number += 1;
        let Some(known) = OPERATIONS.iter().find(|known| *known == word) else { continue };
        if !BELOW.iter().any(|below| path.starts_with(below)) {
            continue;
        }
        let asked_for = match *known {
            "open" | "create" => {
                begun.insert((pid, path), true);
                true
            }
            "read" => begun.insert((pid, path), false).unwrap_or(true),
            "readlink" => {
                let next = lines.iter().skip(at + 1).find(|next| next.get(1) == Some(pid));
                next.is_none_or(|next| !is_on_the_way(path, rest, next))
            }
            _ => true,
        };
        if asked_for {
            let written = rest.strip_prefix('"').and_then(|rest| rest.rsplit_once("\" = "));
            let data = written.filter(|_| *known == "write").map(|(data, _)| data.to_owned());
            found.push(Operation { word: known, path: (*path).to_owned(), number: *number, data });
        }
    }
    found
}

/// Whether a link was read because a path leads through it: then the kernel goes on from the link's directory, or
/// along the way to its target.
fn is_on_the_way(path: &str, rest: &str, next: &[&str]) -> bool {
    let [_, _, _, word, after, ..] = next else { return false };
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let target = rest.trim_start_matches("= ").trim_matches('"');
    let mut parts: Vec<&str> = directory.split('/').collect();
    for part in target.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let target = parts.join("/");
    let along = |one: &str, other: &str| one == other || one.starts_with(&format!("{other}/"));
    (*word == "getattr" && *after == directory)
        || (!BELOW.contains(after) && (along(&target, after) || along(after, &target)))
}
