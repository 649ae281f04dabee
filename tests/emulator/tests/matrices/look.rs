//! What there is on the host, in lines that can be compared.

use std::fs;
use std::path::{Path, PathBuf};

use crate::labels;

/// Attributes of devices whose values matter.
const ATTRIBUTES: [&str; 6] =
    ["online", "nvidia/vgpu_params", "settings/first", "settings/second", "settings/log", "plain"];

/// Where to look: parents, types and functions do not change while the tests run.
pub(crate) struct Places {
    /// Directories of types.
    types: Vec<PathBuf>,
    /// Virtual functions of vendor VFIO.
    functions: Vec<PathBuf>,
    /// Directories in which devices lie.
    parents: Vec<PathBuf>,
}

pub(crate) fn entries(path: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn text(path: &Path) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim_end().to_owned(),
        Err(error) => error.to_string(),
    }
}

fn attributes(device: &Path) -> String {
    let shown = |attribute: &&str| {
        let text = fs::read_to_string(device.join(attribute)).ok()?;
        Some(format!(" {attribute}=\"{}\"", text.trim_end()))
    };
    ATTRIBUTES.iter().filter_map(shown).collect()
}

impl Places {
    /// Those of this host.
    pub(crate) fn find() -> Self {
        let real = |path: PathBuf| fs::canonicalize(&path).unwrap_or(path);
        let mut parents: Vec<PathBuf> =
            entries(Path::new("/sys/class/mdev_bus")).into_iter().map(real).collect();
        let types = parents.iter().flat_map(|parent| entries(&parent.join("mdev_supported_types"))).collect();
        let pci: Vec<PathBuf> = entries(Path::new("/sys/bus/pci/devices")).into_iter().map(real).collect();
        let functions =
            pci.iter().filter(|device| device.join("nvidia/current_vgpu_type").exists()).cloned().collect();
        parents.extend(pci.into_iter().filter(|device| device.join("mdev_create").exists()));
        Self { types, functions, parents }
    }

    /// All that a domain may have changed.
    pub(crate) fn look(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for link in entries(Path::new("/sys/bus/mdev/devices")) {
            let device = fs::canonicalize(&link).unwrap_or(link);
            let kind = fs::read_link(device.join("mdev_type")).map(|kind| name(&kind)).unwrap_or_default();
            let parent = device.parent().map(name).unwrap_or_default();
            lines.push(format!("device {} {kind} on {parent}{}", name(&device), attributes(&device)));
            lines.extend(labels::look(&device));
        }
        // A removal that is pending leaves a directory that the bus does not show.
        for parent in &self.parents {
            for device in entries(parent).iter().filter(|path| name(path).len() == 36) {
                if !Path::new("/sys/bus/mdev/devices").join(name(device)).exists() {
                    lines.push(format!("pending {} on {}", name(device), name(parent)));
                }
            }
        }
        for kind in &self.types {
            let parent = kind.ancestors().nth(2).map(name).unwrap_or_default();
            lines.push(format!("free {parent} {} {}", name(kind), text(&kind.join("available_instances"))));
        }
        for function in &self.functions {
            let current = text(&function.join("nvidia/current_vgpu_type"));
            let params = text(&function.join("nvidia/vgpu_params"));
            let instance = text(&function.join("nvidia/gpu_instance_id"));
            lines.push(format!("function {} {current} \"{params}\" {instance}", name(function)));
            lines.extend(labels::look(function));
        }
        for directory in ["/dev/vfio", "/dev/vfio/devices"] {
            lines.push(format!("nodes in {directory} {}", entries(Path::new(directory)).len()));
        }
        lines.extend(labels::look_at_rules());
        lines
    }
}
