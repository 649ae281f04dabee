//! Where the programs are, and those that they are compared with.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Wrong;

/// All by path.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) hook: String,
    pub(crate) cli: String,
    pub(crate) udev: String,
    /// `fn main() {}`, linked with the libraries of the hook, and of the udev helper.
    pub(crate) empty: String,
    pub(crate) empty_udev: String,
    /// A hook as people write it, in bash and in Python, for a domain that it has nothing to do for.
    pub(crate) bash: String,
    pub(crate) python: String,
    /// Where their files are, and traces go.
    pub(crate) scratch: PathBuf,
}

/// Reads nothing, does nothing: the least that a hook in bash costs.
const BASH: &str = "#!/bin/bash\nexit 0\n";

/// The usual form: read the XML, look for what concerns us, find nothing.
const PYTHON: &str = r#"#!/usr/bin/env python3
import sys
import xml.etree.ElementTree as ElementTree

domain = ElementTree.fromstring(sys.stdin.read())
for address in domain.findall("./devices/hostdev[@type='mdev']/source/address"):
    print(address.get("uuid"), file=sys.stderr)
"#;

impl Programs {
    /// Those that `make build` has built, and the peers made for this run.
    pub(crate) fn found() -> Result<Self, Wrong> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let built = std::env::var_os("VIRT_MDEV_BUILT")
            .map_or_else(|| here.join("../../target/release"), PathBuf::from);
        let built =
            built.canonicalize().map_err(|error| format!("{}: {error}: make build", built.display()))?;
        let program = |name: &str| -> Result<String, Wrong> {
            let path = built.join(name);
            if path.exists() {
                Ok(path.display().to_string())
            } else {
                Err(format!("no {}: make build", path.display()))
            }
        };
        // Tests may run at once; each has its own.
        let scratch = std::env::temp_dir().join(format!("virt-mdev-bench.{}", std::process::id()));
        fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
        let (hook, udev) = (program("virt-mdev-hook")?, program("virt-mdev-udev")?);
        Ok(Self {
            empty: empty(&hook, &scratch.join("empty"))?,
            empty_udev: empty(&udev, &scratch.join("empty-udev"))?,
            bash: script(&scratch.join("hook.sh"), BASH)?,
            python: script(&scratch.join("hook.py"), PYTHON)?,
            cli: program("virt-mdev")?,
            hook,
            udev,
            scratch,
        })
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

fn script(path: &Path, text: &str) -> Result<String, Wrong> {
    let write = || {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    write().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))?;
    Ok(path.display().to_string())
}

/// An empty program with the shared libraries of another one.
fn empty(like: &str, path: &Path) -> Result<String, Wrong> {
    let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("../empty");
    let said = Command::new(&make).arg(like).arg(path).output();
    let said = said.map_err(|error| format!("{}: {error}", make.display()))?;
    if said.status.success() {
        Ok(path.display().to_string())
    } else {
        Err(format!("{}: {}", make.display(), String::from_utf8_lossy(&said.stderr)))
    }
}
