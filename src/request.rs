//! Metadata and hostdevs → [`Request`]s: what the domain asks of the host, joined and judged.

use crate::backend::nvidia;
use crate::domain::{Domain, PciHostdev, Wanted};
use crate::ids::{DeviceId, PciAddress};
use crate::ready::Awaited;
use crate::refusal::{Absent, Refusal};

/// One device that the domain will open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The device.
    pub device: DeviceId,
    /// What the metadata says of it. Without metadata the device is used if it is there, and made if mdevctl has a
    /// definition of it.
    pub wanted: Option<Wanted>,
    /// `model` of the hostdev: the API that QEMU will speak.
    pub model: Option<String>,
    /// A hostdev or a `sysfsdev=` argument names the device. Otherwise only the metadata does, which is how a device
    /// is prepared for a later hot-plug.
    pub opened: bool,
    /// `managed='yes'` of the hostdev: somebody is to make the device, and libvirt does not.
    pub managed: bool,
}

/// What a PCI function that a domain passes through is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Function {
    /// It takes vGPU types.
    Vgpu,
    /// It does not, and may when its driver or the card's functions have come.
    NotYet(Absent),
    /// Something else.
    Other,
}

/// The devices of a domain: those of the metadata in their order, then those that only a hostdev or `sysfsdev=` names.
///
/// `function` tells what a PCI function that the domain passes through is: asked only for devices that the metadata
/// names without a UUID.
pub fn requests(
    domain: &Domain,
    function: impl Fn(&PciAddress) -> Function,
) -> Result<Vec<Request>, Refusal> {
    let mut requests: Vec<Request> = Vec::new();
    for wanted in &domain.wanted {
        let request = match &wanted.uuid {
            Some(uuid) => {
                let hostdev = domain.mdevs.iter().find(|hostdev| hostdev.uuid == *uuid);
                Request {
                    device: DeviceId::Mdev(uuid.clone()),
                    wanted: Some(wanted.clone()),
                    model: hostdev.map(|hostdev| hostdev.model.clone()),
                    opened: hostdev.is_some() || domain.sysfsdevs.contains(uuid),
                    managed: hostdev.is_some_and(|hostdev| hostdev.managed),
                }
            }
            None => {
                let device = DeviceId::Vf(function_of(domain, wanted, &function)?.address.clone());
                if requests.iter().any(|other| other.device == device) {
                    return Err(Refusal::FunctionTwice { device: device.to_string() });
                }
                Request { device, wanted: Some(wanted.clone()), model: None, opened: true, managed: false }
            }
        };
        requests.push(request);
    }
    let mdevs =
        domain.mdevs.iter().map(|hostdev| (&hostdev.uuid, Some(hostdev.model.clone()), hostdev.managed));
    for (uuid, model, managed) in mdevs.chain(domain.sysfsdevs.iter().map(|uuid| (uuid, None, false))) {
        let device = DeviceId::Mdev(uuid.clone());
        if !requests.iter().any(|other| other.device == device) {
            requests.push(Request { device, wanted: None, model, opened: true, managed });
        }
    }
    Ok(requests)
}

/// The virtual function that a `<device>` without a UUID means: libvirt drops what a prepare hook prints, so it is one
/// that the domain passes through already.
fn function_of<'a>(
    domain: &'a Domain,
    wanted: &Wanted,
    function: impl Fn(&PciAddress) -> Function,
) -> Result<&'a PciHostdev, Refusal> {
    let is_vgpu = |address: &PciAddress| function(address) == Function::Vgpu;
    // What is none yet may become one.
    let not_yet = |pcis: &mut dyn Iterator<Item = &PciHostdev>| {
        let absent = pcis.filter_map(|pci| match function(&pci.address) {
            Function::NotYet(absent) => Some((pci.address.as_parent(), absent)),
            _ => None,
        });
        let (parents, absent): (Vec<_>, Vec<_>) = absent.unzip();
        let (function, absent) = (parents.first()?.clone(), absent.into_iter().next()?);
        let refusal = Refusal::FunctionNotReady { device: wanted.words(), function, absent };
        Some(refusal.until(Awaited::Parents(parents)))
    };
    let refused = |why, hint| Refusal::Function { device: wanted.words(), why, hint };
    let pass_it = "a virtual function is passed through by <hostdev type='pci' managed='no'> with its address; a mediated device has uuid=\"…\" in its place";
    if wanted.placement.is_some() || wanted.numa.is_some() || wanted.parents.len() > 1 {
        return Err(refused(
            "has no uuid, so it is a virtual function that the domain passes through, and there is nothing to choose: \
             placement, numa and a list of parents are not for it",
            "take them out; a mediated device, which has them, has uuid=\"…\" too",
        ));
    }
    if !wanted.arguments.is_empty() {
        return Err(refused(
            "has arguments, which are for the interface of 2016",
            "a vGPU's attributes are written with <attribute name=\"nvidia/…\" value=\"…\"/>",
        ));
    }
    let found = match wanted.parents.first() {
        Some(parent) => {
            let named = domain.pcis.iter().find(|pci| pci.address.as_parent() == *parent);
            let named = named.ok_or_else(|| {
                refused(
                    "has no uuid, and no <hostdev type='pci'> of the domain passes that function through",
                    pass_it,
                )
            })?;
            if !is_vgpu(&named.address) {
                return Err(not_yet(&mut [named].into_iter()).unwrap_or_else(|| {
                    refused(
                        "has no uuid, and that function takes no vGPU types (no nvidia/current_vgpu_type)",
                        "`virt-mdev types` shows the cards whose functions take them",
                    )
                }));
            }
            named
        }
        None => match domain.pcis.iter().filter(|pci| is_vgpu(&pci.address)).collect::<Vec<_>>().as_slice() {
            [one] => one,
            [] => {
                return Err(not_yet(&mut domain.pcis.iter()).unwrap_or_else(|| {
                    refused(
                        "has no uuid, and no <hostdev type='pci'> of the domain is a virtual function that takes vGPU types",
                        pass_it,
                    )
                }));
            }
            _ => {
                return Err(refused(
                    "has neither uuid nor parent, and the domain passes several virtual functions through",
                    "name one with parent=\"…\"",
                ));
            }
        },
    };
    if found.managed {
        return Err(Refusal::ManagedFunction { address: found.address.to_string() });
    }
    check_attributes(wanted).map(|()| found)
}

/// Refuses attributes of a virtual function that are not the vGPU's: beside the vendor's lie the PCI function's own, reset,
/// config, sriov_numvfs.
pub fn check_attributes(wanted: &Wanted) -> Result<(), Refusal> {
    let foreign = |name: &str| !name.starts_with(nvidia::ATTRIBUTES) || name == nvidia::CURRENT;
    match wanted.attributes.iter().find(|attribute| foreign(&attribute.name.to_string())) {
        Some(attribute) => Err(Refusal::BadValue {
            element: format!("<attribute> of {}", wanted.words()),
            attribute: "name".to_owned(),
            value: attribute.name.to_string(),
            why: "of a virtual function, only names in nvidia/ are a domain's to write, and its type only by type=\"…\""
                .to_owned(),
        }),
        None => Ok(()),
    }
}
