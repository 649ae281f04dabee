//! PCI functions: the files that every one has, and the links between physical and virtual ones.

use super::{Attribute, World};
use crate::host::Pci;

/// Whether a name is a PCI address: `0000:86:00.0`.
pub(super) fn is_address(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() == 12
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b':',
            10 => *byte == b'.',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The addresses of a card's virtual functions: four functions of slot 0 are the physical function's, as on NVIDIA's.
pub(super) fn virtual_functions(address: &str, count: u32) -> Vec<String> {
    let bus = address.get(..8).unwrap_or(address);
    (4..4 + count).map(|devfn| format!("{bus}{:02x}.{}", devfn / 8, devfn % 8)).collect()
}

impl World {
    /// Adds a function; gives its directory.
    pub(super) fn add_pci(&mut self, address: &str, pci: &Pci) -> String {
        let root = address.get(..7).unwrap_or(address);
        let path = format!("/sys/devices/pci{root}/{address}");
        let file = |name: &str| format!("{path}/{name}");
        let hex = |text: &str| text.trim_start_matches("0x").to_ascii_uppercase();
        let uevent = format!(
            "DRIVER={}\nPCI_CLASS={}\nPCI_ID={}:{}\nPCI_SLOT_NAME={address}\n",
            pci.driver,
            hex(&pci.class).trim_start_matches('0'),
            hex(&pci.vendor),
            hex(&pci.device),
        );
        self.device_files(&path, "bus/pci", &uevent);
        let line = |text: &str| format!("{text}\n");
        for (name, text) in [
            ("vendor", line(&pci.vendor)),
            ("device", line(&pci.device)),
            ("subsystem_vendor", line(&pci.vendor)),
            ("subsystem_device", line("0x0000")),
            ("revision", line("0xa1")),
            ("class", line(&pci.class)),
            ("resource", line("0x00000000a0000000 0x00000000a0ffffff 0x0000000000040200")),
            ("local_cpulist", line("0-1")),
        ] {
            self.text(&file(name), &text);
        }
        self.attribute(&file("numa_node"), Attribute::Stored(format!("{}\n", pci.numa)), 0o644);
        self.attribute(&file("driver_override"), Attribute::Stored("(null)\n".to_owned()), 0o644);
        self.attribute(&file("enable"), Attribute::Stored("1\n".to_owned()), 0o644);
        self.attribute(&file("config"), Attribute::Binary(4096), 0o644);
        self.attribute(&file("resource0"), Attribute::Binary(16 * 1024 * 1024), 0o600);
        self.attribute(&file("reset"), Attribute::Sink, 0o200);
        self.attribute(&file("remove"), Attribute::Sink, 0o220);
        self.attribute(&file("rescan"), Attribute::Sink, 0o200);
        self.tree.add_link(&format!("/sys/bus/pci/devices/{address}"), &path);
        self.bind(&path, address, "pci", &pci.driver);
        path
    }

    /// Adds a physical function and its virtual ones; gives the names and directories of those.
    pub(super) fn add_physical_function(
        &mut self,
        address: &str,
        pci: &Pci,
        vfs: u32,
    ) -> Vec<(String, String)> {
        let physical = self.add_pci(address, pci);
        self.attribute(&format!("{physical}/sriov_numvfs"), Attribute::Numvfs { count: vfs }, 0o644);
        self.text(&format!("{physical}/sriov_totalvfs"), &format!("{}\n", vfs.max(16)));
        let mut functions = Vec::new();
        for (number, name) in virtual_functions(address, vfs).into_iter().enumerate() {
            let path = self.add_pci(&name, pci);
            self.tree.add_link(&format!("{path}/physfn"), &physical);
            self.tree.add_link(&format!("{physical}/virtfn{number}"), &path);
            functions.push((name, path));
        }
        functions
    }

    /// Takes a device's directory away, and the links to it.
    pub(super) fn remove_pci(&mut self, name: &str, path: &str) {
        self.tree.remove(&format!("/sys/bus/pci/devices/{name}"));
        for bus in ["pci", "css"] {
            let drivers = self.tree.find(&format!("/sys/bus/{bus}/drivers"));
            let names = match drivers.and_then(|ino| self.tree.get(ino)).map(|file| &file.kind) {
                Some(crate::tree::Kind::Dir(names)) => names.keys().cloned().collect::<Vec<_>>(),
                _ => Vec::new(),
            };
            for driver in names {
                self.tree.remove(&format!("/sys/bus/{bus}/drivers/{driver}/{name}"));
            }
        }
        self.tree.remove(path);
        let subsystem = if is_address(name) { "pci" } else { "virtual" };
        self.uevent("remove", path, subsystem, &[]);
    }
}
