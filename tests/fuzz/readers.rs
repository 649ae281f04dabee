//! Every target by its name, with what it is given to begin with.

use std::fs;
use std::path::PathBuf;

use crate::{here, targets};

/// Panics when something does not hold.
pub(crate) type Target = Box<dyn FnMut(&[u8])>;

pub(crate) struct Reader {
    /// Good input.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// What is put into it, because a reader heeds it.
    pub(crate) words: &'static [&'static str],
    pub(crate) target: Target,
}

impl Reader {
    fn new(
        seeds: Vec<Vec<u8>>,
        words: &'static [&'static str],
        target: impl FnMut(&[u8]) + 'static,
    ) -> Option<Self> {
        Some(Self { seeds, words, target: Box::new(target) })
    }
}

pub(crate) const NAMES: [&str; 11] = [
    "domain_xml",
    "rewriting",
    "plans",
    "seclabels",
    "arguments",
    "listings",
    "definitions",
    "configuration",
    "qemu_conf",
    "records",
    "udev_events",
];

pub(crate) fn reader(name: &str) -> Option<Reader> {
    match name {
        "domain_xml" => Reader::new(domains(), &XML, targets::domain_xml),
        "rewriting" => Reader::new(domains(), &XML, targets::rewriting),
        "plans" => {
            let hosts = targets::Hosts::new();
            Reader::new(domains(), &XML, move |input| hosts.plans(input))
        }
        "seclabels" => {
            let words = &[
                "<seclabel type='none'/>",
                "<seclabel type='dynamic' model='dac' relabel='no'/>",
                "relabel='no'",
                "type='static'",
                "type='none'",
                "model='none'",
                "model='apparmor'",
                "<label>",
                "</label>",
                "<imagelabel>",
                "</imagelabel>",
                "+4294967295:+0",
                "+64055:",
                "libvirt-qemu:kvm",
                "1000:",
                "system_u:object_r:svirt_image_t:s0:c1,c2",
                "libvirt-0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02",
                "../",
                "&#10;",
                "&#0;",
                "\u{202e}",
                "<![CDATA[",
                "]]>",
            ];
            let mut reader = targets::Seclabels::new();
            Reader::new(labelled(), words, move |input| reader.read(input))
        }
        "arguments" => {
            let seeds = [
                "vm1\nprepare\nbegin\n-",
                "vm1\nstart\nbegin\n-",
                "vm1\nstarted\nbegin\n-",
                "vm1\nstopped\nend\ndestroyed",
                "vm1\nrelease\nend\nshutdown",
                "vm1\nreconnect\nbegin\n-",
                "a b\nmigrate\nbegin\nqemu+tcp://x",
                "-x\nrestore\nbegin\n-",
            ];
            let words = &[
                "\nprepare\n",
                "\nbegin\n",
                "\nend\n",
                "\nattach\n",
                "started",
                "reconnect",
                "restore",
                "\u{1b}[31m",
                "\n\n",
                "$(x)",
                "\u{2066}",
            ];
            Reader::new(bytes(&seeds), words, targets::arguments)
        }
        "listings" => {
            let seeds = [
                "# num_type, name, num_heads, frl_config, framebuffer, max_resolution, max_instance\n\
                 11 ,\"GRID M60-0B\", 2, 45, 512M, 2560x1600, 16\n12 ,\"GRID M60-0Q\", 2, 60, 512M, 2560x1600, 16\n",
                "# num_type, name 11 ,\"GRID M60-0B\", 2 12 ,\"GRID M60-0Q\", 2",
                "ID    : vGPU Name\n1155  : NVIDIA L40S-1B\n1156  : NVIDIA L40S-2B\n",
                "",
            ];
            let words = &["4294967296", "\"", "\r\n", ",", ":", "#", " ,\"", "\u{fffd}"];
            Reader::new(bytes(&seeds), words, targets::listings)
        }
        "definitions" => {
            let seeds = [
                r#"{"mdev_type":"mtty-2","start":"auto","attrs":[{"settings/first":"1"},{"plain":"x"}]}"#,
                r#"{"mdev_type":"mtty-2","start":"manual"}"#,
            ];
            let words = &[
                "null",
                "[]",
                "{}",
                "\"attrs\":",
                "\"start\":",
                "\\u0000",
                "1e999",
                "../",
                "\"mdev_type\":",
            ];
            Reader::new(bytes(&seeds), words, targets::definitions)
        }
        "configuration" => {
            let shipped = fs::read_to_string(here().join("../packaging/config.toml")).unwrap();
            let all = shipped.replace("\n#", "\n");
            let words = &[
                "enabled = false",
                "[wait]",
                "release = \"1h\"",
                "\"\"\"",
                "99999999999999999999",
                "'",
                "= [",
                "1.5",
            ];
            let mut reader = targets::Configuration::new();
            Reader::new(bytes(&[&shipped, &all, "enabled = true"]), words, move |input| reader.load(input))
        }
        "qemu_conf" => {
            let seeds = [
                "user = \"libvirt-qemu\"\ngroup = \"kvm\"\ndynamic_ownership = 1\ncgroup_device_acl = [\n  \"/dev/null\", \"/dev/full\",\n  \"/dev/vfio/vfio\"\n]\n",
                "security_driver = [ \"selinux\", \"apparmor\" ]\n# user = 'x'\nnamespaces = [ ]\n",
            ];
            let words =
                &["cgroup_device_acl", "namespaces = [", "]", "\"", "'", "#", "user = \"+0\"", "\\", ","];
            Reader::new(bytes(&seeds), words, targets::qemu_conf)
        }
        "records" => {
            let words = &[
                "\"phase\":",
                "null",
                "\"intended\"",
                "\"undoing\"",
                "\"kept\"",
                "\"preparing\"",
                "\"releasing\"",
                "\"running\"",
                "\"do\":\"create\"",
                "\"do\":\"use\"",
                "\"do\":\"label\"",
                "\"do\":\"allow\"",
                "\"backend\":\"nvidia\"",
                "\"keep\":true",
                "\"who\":\"by hand\",\"until\":0",
                "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003",
                "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e02",
                "\u{202e}",
                "\"version\":2",
                "[]",
                "{}",
                "\"..\"",
                "\\u0000",
                "-1",
            ];
            let mut reader = targets::RecordFile::new();
            Reader::new(targets::records(), words, move |input| reader.read(input))
        }
        "udev_events" => {
            let seeds = [
                "add\nvfio\n/devices/virtual/vfio/7",
                "add\nvfio-dev\n/devices/virtual/mtty/mtty/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001/vfio-dev/vfio0",
            ];
            let words = &["..", "/", "vfio-dev", "\0", "18446744073709551616"];
            Reader::new(bytes(&seeds), words, targets::udev_events)
        }
        _ => None,
    }
}

fn bytes(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Of each case its domain, and whole ones as libvirt writes them.
fn domains() -> Vec<Vec<u8>> {
    let paths = |directory: &str| {
        let entries = fs::read_dir(here().join(directory)).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let whole = paths("fuzz/seeds").into_iter().chain([here().join("../src/domain/live.xml")]);
    let cases = paths("cases").into_iter().map(|case| case.join("domain.xml"));
    // A few cases are as large as may be: that costs time, and shows nothing more.
    whole.chain(cases).map(|path| fs::read(path).unwrap()).filter(|xml| xml.len() < 0x4000).collect()
}

/// Domains of little else than `<seclabel>`s.
fn labelled() -> Vec<Vec<u8>> {
    let seclabel = |kind: &str, model: &str, relabel: &str, label: &str, imagelabel: &str| {
        let text = |name: &str, text: &str| match text {
            "" => String::new(),
            text => format!("<{name}>{text}</{name}>"),
        };
        format!(
            "<seclabel type='{kind}' model='{model}' relabel='{relabel}'>{}{}</seclabel>",
            text("label", label),
            text("imagelabel", imagelabel)
        )
    };
    let dac = seclabel("dynamic", "dac", "yes", "+64055:+64055", "libvirt-qemu:kvm");
    let svirt = |kind: &str| format!("system_u:object_r:{kind}:s0:c1,c2");
    let selinux = seclabel("dynamic", "selinux", "yes", &svirt("svirt_t"), &svirt("svirt_image_t"));
    let profile = "libvirt-0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01";
    let apparmor = seclabel("dynamic", "apparmor", "yes", profile, profile);
    let none = "<seclabel type='none' model='none'/>";
    let sets = [
        format!("{dac}{selinux}"),
        format!("{apparmor}{dac}"),
        format!("{none}{}", seclabel("static", "dac", "yes", "1000:104", "")),
        format!("{}<seclabel type='none'/>", seclabel("static", "selinux", "yes", &svirt("t"), &svirt("t"))),
        format!("{}{selinux}", seclabel("static", "dac", "no", "root:root", "")),
        seclabel("static", "apparmor", "yes", "my-profile", ""),
        format!("{apparmor}{}", seclabel("none", "dac", "yes", "", "")),
    ];
    let text = |seclabels: &String| {
        format!(
            "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name>\
             <uuid>0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01</uuid><devices><hostdev mode='subsystem' type='mdev' \
             model='vfio-pci'><source><address uuid='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'/></source></hostdev>\
             </devices>{seclabels}<qemu:commandline><qemu:arg value='-device'/><qemu:arg \
             value='vfio-pci,sysfsdev=/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1002'/>\
             </qemu:commandline></domain>"
        )
        .into_bytes()
    };
    sets.iter().map(text).collect()
}

const XML: [&str; 37] = [
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?x ?>",
    "&amp;",
    "&#0;",
    "&#x1b;",
    "&lt;",
    "xmlns:mdev='urn:virt-mdev:domain:1'",
    "xmlns=''",
    "<mdev:device",
    "<mdev:devices>",
    "</mdev:devices>",
    "<metadata>",
    "</metadata>",
    "<hostdev ",
    "</domain>",
    "parent=\"../../x\"",
    "uuid='00000000-0000-0000-0000-000000000000'",
    "type=\"\"",
    "<qemu:arg value='",
    "\r\n",
    "\u{202e}",
    "\u{2028}",
    "\u{61c}",
    "\u{2067}",
    "&#x200f;",
    "&#48;",
    "<metadata/>",
    "<devices/>",
    "<mdev:device type='1145' parent='0000:41:00.4'/>",
    "<mdev:attribute name='a/b' value='1'/>",
    "<address domain='0x0000' bus='0x41' slot='0x00' function='0x4'/>",
    "bus='65' slot='0'",
    "0000:41:00.4",
    "{\"sysfsdev\":\"",
];
