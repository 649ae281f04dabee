//! Metadata and hostdevs → [`Request`]s: what the domain asks of the host, joined by UUID and judged.

use crate::domain::{Domain, Wanted};
use crate::ids::MdevUuid;

/// One device that the domain will open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The device.
    pub device: MdevUuid,
    /// What the metadata says of it. Without metadata the device is used if it is there; if it is not, libvirt says
    /// so in its own words.
    pub wanted: Option<Wanted>,
    /// `model` of the hostdev: the API that QEMU will speak.
    pub model: Option<String>,
    /// A hostdev or a `sysfsdev=` argument names the device. Otherwise only the metadata does, which is how a device
    /// is prepared for a later hot-plug.
    pub opened: bool,
}

/// The devices of a domain: those of the metadata in their order, then those that only a hostdev or `sysfsdev=` names.
pub fn requests(domain: &Domain) -> Vec<Request> {
    let model = |uuid: &MdevUuid| {
        domain.mdevs.iter().find(|hostdev| hostdev.uuid == *uuid).map(|hostdev| hostdev.model.clone())
    };
    let wanted = domain.wanted.iter().map(|wanted| {
        let model = model(&wanted.uuid);
        let opened = model.is_some() || domain.sysfsdevs.contains(&wanted.uuid);
        Request { device: wanted.uuid.clone(), wanted: Some(wanted.clone()), model, opened }
    });
    let only_opened = domain
        .mdevs
        .iter()
        .map(|hostdev| &hostdev.uuid)
        .chain(&domain.sysfsdevs)
        .filter(|uuid| !domain.wanted.iter().any(|wanted| wanted.uuid == **uuid))
        .map(|uuid| Request { device: uuid.clone(), wanted: None, model: model(uuid), opened: true });
    let mut requests: Vec<Request> = Vec::new();
    for request in wanted.chain(only_opened) {
        if !requests.iter().any(|other| other.device == request.device) {
            requests.push(request);
        }
    }
    requests
}
