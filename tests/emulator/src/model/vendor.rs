//! NVIDIA's vendor VFIO (vGPU 17 and later): no mdev, a type is written to a virtual function.

use std::time::Duration;

use nix::errno::Errno;

use super::attributes::VendorFile;
use super::nodes::Owner;
use super::{Attribute, World, kstrtoul};
use crate::host;

/// A virtual function.
#[derive(Debug, Clone)]
pub(super) struct Function {
    physical: String,
    spec: host::Vendor,
    group: u32,
    /// 0 for none, as the file shows it.
    kind: u32,
    params: String,
    placement: String,
    /// Of which GPU instance (MIG) the vGPU is.
    gpu_instance: String,
    /// Until when it refuses `0`.
    busy_until: Duration,
}

/// More is refused.
const MAX_PARAMS: usize = 1024;

impl Function {
    /// Its parameters go with the vGPU.
    fn without_vgpu(self) -> Self {
        let (params, placement, gpu_instance) = Default::default();
        Self { kind: 0, params, placement, gpu_instance, ..self }
    }
}

impl World {
    /// Adds a physical function with its virtual ones.
    pub(super) fn add_function(&mut self, spec: &host::Vendor) {
        for (vf, path) in self.add_physical_function(&spec.address, &spec.pci, spec.vfs) {
            let group = self.add_group(&path, &vf, Owner::Function(vf.clone()));
            for (name, file, mode) in [
                ("creatable_vgpu_types", VendorFile::Creatable, 0o444),
                ("current_vgpu_type", VendorFile::Current, 0o644),
                ("vgpu_params", VendorFile::Params, 0o644),
                ("placement_id", VendorFile::PlacementId, 0o644),
                ("gpu_instance_id", VendorFile::GpuInstanceId, 0o644),
            ] {
                let attribute = Attribute::Vendor { vf: vf.clone(), file };
                self.attribute(&format!("{path}/nvidia/{name}"), attribute, mode);
            }
            let function = Function {
                physical: spec.address.clone(),
                spec: spec.clone(),
                group,
                kind: 0,
                params: String::new(),
                placement: String::new(),
                gpu_instance: String::new(),
                busy_until: Duration::ZERO,
            };
            self.functions.insert(vf, function);
        }
    }

    /// Whether a type fits on the function's card now.
    fn fits(&self, function: &Function, kind: &host::VendorType) -> bool {
        let cost =
            |id: u32| function.spec.types.iter().find(|kind| kind.id == id).map_or(0, |kind| kind.cost);
        let taken = || {
            let siblings = self.functions.values().filter(|other| other.physical == function.physical);
            siblings.filter(|other| other.kind != 0)
        };
        let used: u32 = taken().map(|other| cost(other.kind)).sum();
        let mixed = function.spec.homogeneous && taken().any(|other| other.kind != kind.id);
        !mixed && kind.cost <= function.spec.units.saturating_sub(used)
    }

    pub(super) fn show_vendor(&self, vf: &str, file: VendorFile) -> Result<String, Errno> {
        let function = self.functions.get(vf).ok_or(Errno::ENODEV)?;
        Ok(match file {
            VendorFile::Creatable => {
                let header = if function.spec.header { "ID    : vGPU Name\n" } else { "" };
                // A function that has a type offers none.
                let free = function.spec.types.iter().filter(|_| function.kind == 0);
                let fitting = free.filter(|kind| self.fits(function, kind));
                let lines = fitting.map(|kind| format!("{:<5} : {}\n", kind.id, kind.name));
                header.to_owned() + &lines.collect::<String>()
            }
            VendorFile::Current => format!("{}\n", function.kind),
            // All of these are the vGPU's: without one, there is nothing to show.
            _ if function.kind == 0 => return Err(Errno::ENXIO),
            VendorFile::Params => format!("{}\n", function.params),
            VendorFile::PlacementId => format!("{}\n", function.placement),
            VendorFile::GpuInstanceId => format!("{}\n", function.gpu_instance),
        })
    }

    pub(super) fn store_vendor(&mut self, vf: &str, file: VendorFile, data: &[u8]) -> Result<(), Errno> {
        let now = self.now;
        let function = self.functions.get(vf).ok_or(Errno::ENODEV)?.clone();
        let used = self.is_used(function.group);
        let text = String::from_utf8_lossy(data).trim().to_owned();
        let changed = match file {
            VendorFile::Creatable => return Err(Errno::EIO),
            VendorFile::Current => {
                let kind = kstrtoul(data).and_then(|id| u32::try_from(id).ok()).ok_or(Errno::EINVAL)?;
                if kind == 0 {
                    if used || function.kind == 0 {
                        return Err(Errno::EPERM);
                    }
                    if now < function.busy_until {
                        return Err(Errno::EBUSY);
                    }
                    function.without_vgpu()
                } else if function.kind != 0 {
                    return Err(Errno::EPERM);
                } else {
                    let spec = function.spec.types.iter().find(|known| known.id == kind);
                    if !self.fits(&function, spec.ok_or(Errno::EINVAL)?) {
                        return Err(Errno::ENOSPC);
                    }
                    Function { kind, ..function }
                }
            }
            // There is no vGPU that they could be of, and a running one keeps its own.
            _ if function.kind == 0 => return Err(Errno::ENXIO),
            _ if used => return Err(Errno::EPERM),
            VendorFile::Params if data.len() > MAX_PARAMS => return Err(Errno::E2BIG),
            // As in the mdev era, the last byte is taken for the newline of `echo`.
            VendorFile::Params => {
                let rest = data.split_last().map_or(&[][..], |(_, rest)| rest);
                Function { params: String::from_utf8_lossy(rest).trim().to_owned(), ..function }
            }
            VendorFile::PlacementId => Function { placement: text, ..function },
            VendorFile::GpuInstanceId => Function { gpu_instance: text, ..function },
        };
        self.functions.insert(vf.to_owned(), changed);
        Ok(())
    }

    /// The user of a function has ended.
    pub(super) fn function_let_go(&mut self, vf: &str) {
        let now = self.now;
        if let Some(function) = self.functions.get_mut(vf) {
            function.busy_until = now + function.spec.refuses_zero;
        }
    }

    /// PCI is enumerated anew, the driver reloaded, or the host booted: no VF has a type any more.
    pub(super) fn enumerate(&mut self, physical: &str) -> bool {
        let mut any = false;
        for function in self.functions.values_mut().filter(|function| function.physical == physical) {
            *function = function.clone().without_vgpu();
            any = true;
        }
        any
    }
}
