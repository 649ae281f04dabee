//! Domains: what they want, and their XML.

use std::fmt::Write as _;

/// A device that a domain wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// UUID, or address of a virtual function.
    pub(crate) id: String,
    /// The type as the domain writes it.
    pub(crate) wish: &'static str,
    /// The type's id.
    pub(crate) kind: &'static str,
    /// Whose room it takes, and how much.
    pub(crate) pool: &'static str,
    pub(crate) cost: u32,
    /// Further attributes of the element.
    pub(crate) more: String,
    /// A driver attribute and its value.
    pub(crate) attribute: Option<(&'static str, &'static str)>,
}

impl Wanted {
    pub(crate) fn is_function(&self) -> bool {
        self.id.contains('.')
    }
}

/// XML of a domain.
pub(crate) fn xml(name: &str, uuid: &str, devices: &[Wanted]) -> String {
    let (mut wanted, mut hostdevs) = (String::new(), String::new());
    for device in devices {
        let Wanted { id, wish, more, .. } = device;
        let uuid = if device.is_function() { String::new() } else { format!("uuid='{id}' ") };
        // Another subchannel has another disk: it has to be named.
        let parent = if device.kind == "vfio_ccw-io" { "parent='0.0.0313' " } else { "" };
        let _ = write!(wanted, "<m:device {uuid}type='{wish}' {parent}{more}>");
        if let Some((name, value)) = device.attribute {
            let _ = write!(wanted, "<m:attribute name='{name}' value='{value}'/>");
        }
        wanted.push_str("</m:device>");
        let parts: Vec<&str> = id.split([':', '.']).collect();
        let _ = match parts.as_slice() {
            [domain, bus, slot, function] if device.is_function() => write!(
                hostdevs,
                "<hostdev mode='subsystem' type='pci' managed='no'><source><address domain='0x{domain}' \
                 bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source></hostdev>"
            ),
            _ => {
                let model = if device.kind == "vfio_ccw-io" { "vfio-ccw" } else { "vfio-pci" };
                write!(
                    hostdevs,
                    "<hostdev mode='subsystem' type='mdev' model='{model}'><source>\
                     <address uuid='{id}'/></source></hostdev>"
                )
            }
        };
    }
    format!(
        "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><metadata>\
         <m:devices xmlns:m='urn:virt-mdev:domain:1'>{wanted}</m:devices></metadata>\
         <devices>{hostdevs}</devices></domain>"
    )
}

/// UUID of a domain by its number.
pub(crate) fn domain_uuid(number: usize) -> String {
    format!("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d{number:04x}")
}

/// UUID of a device by its number.
pub(crate) fn device_uuid(number: usize) -> String {
    format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa{number:04x}")
}

/// Numbers that nobody can foresee and a seed repeats (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or_default()
    }

    /// True that many times of a hundred.
    pub(crate) fn percent(&mut self, of_hundred: usize) -> bool {
        self.below(100) < of_hundred
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
