//! Hostile input: every reader of what comes from outside gets what it ought to get, changed at random, and what has
//! once been found to break it (`corpus/TARGET/`, replayed first).
//!
//! A target is a plain function that panics when something does not hold. `cargo test --test fuzz` tries each for a
//! moment, with `FUZZ_MINUTES=1` for that long. What fails is written to `target/fuzz/TARGET`; `FUZZ_SEED` leads there
//! again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a test may fail"
)]

mod mutate;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../support/mod.rs"]
mod support;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Mutator;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The files of a directory, in order; none where there is no such directory.
fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn budget() -> Duration {
    let minutes =
        std::env::var("FUZZ_MINUTES").map(|text| text.parse::<f64>().expect("FUZZ_MINUTES: a number"));
    Duration::from_secs_f64(minutes.map_or(0.3, |minutes| minutes * 60.0))
}

/// Another one each time only where somebody has asked for more than a moment: what is found by chance must not stop
/// somebody else's change.
fn seed() -> u64 {
    let given = std::env::var("FUZZ_SEED").map(|text| text.parse().expect("FUZZ_SEED: a number"));
    given.unwrap_or_else(|_| if std::env::var_os("FUZZ_MINUTES").is_some() { fastrand::u64(..) } else { 1 })
}

/// Tries a target with its corpus, its seeds, and what becomes of them.
fn fuzz(name: &str, seeds: &[Vec<u8>], words: &[&str], mut target: impl FnMut(&[u8])) {
    let mut attempt = |input: &[u8], seed: Option<u64>| {
        if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
            let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            fs::create_dir_all(&found).unwrap();
            let file = found.join(name);
            fs::write(&file, input).unwrap();
            let seed = seed.map(|seed| format!(" (FUZZ_SEED={seed})")).unwrap_or_default();
            panic!("{name}: failed with the input in {}{seed}", file.display());
        }
    };
    assert!(!seeds.is_empty(), "{name}: nothing to begin with");
    for input in files(&here().join("fuzz/corpus").join(name)).iter().chain(seeds) {
        attempt(input, None);
    }
    let seed = seed();
    let mut mutator = Mutator::new(seed, seeds, words);
    let began = Instant::now();
    let mut tried = 0_u64;
    while began.elapsed() < budget() {
        for _ in 0..16 {
            attempt(&mutator.next(), Some(seed));
            tried += 1;
        }
    }
    eprintln!("fuzz: {name}: {tried} inputs");
}

/// Of each case its domain.
fn domains() -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        fs::read_dir(here().join("cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    // A few cases are as large as may be: that costs time, and shows nothing more.
    let read = |path: &PathBuf| fs::read(path.join("domain.xml")).unwrap();
    paths.iter().map(read).filter(|xml| xml.len() < 0x4000).collect()
}

const XML: [&str; 24] = [
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
];

#[test]
fn domain_xml() {
    fuzz("domain_xml", &domains(), &XML, targets::domain_xml);
}

#[test]
fn rewriting() {
    fuzz("rewriting", &domains(), &XML, targets::rewriting);
}

#[test]
fn plans() {
    let hosts = ["mtty", "sriov", "m60-2016", "l40s"].map(targets::host);
    let listings = || hosts.each_ref().map(|tree| tree.listing());
    let before = listings();
    fuzz("plans", &domains(), &XML, |input| targets::plans(&hosts, input));
    assert_eq!(listings(), before, "a plan has changed the host");
}

#[test]
fn arguments() {
    let seeds =
        ["vm1\nprepare\nbegin\n-", "vm1\nrelease\nend\nshutdown", "a b\nmigrate\nbegin\nqemu+tcp://x"];
    let words = ["prepare", "begin", "started", "reconnect", "restore", "\u{1b}[31m", "\n\n"];
    fuzz("arguments", &seeds.map(|seed| seed.as_bytes().to_vec()), &words, targets::arguments);
}

#[test]
fn listings() {
    let seeds = [
        "# num_type, name, num_heads, frl_config, framebuffer, max_resolution, max_instance\n\
         11 ,\"GRID M60-0B\", 2, 45, 512M, 2560x1600, 16\n12 ,\"GRID M60-0Q\", 2, 60, 512M, 2560x1600, 16\n",
        "# num_type, name 11 ,\"GRID M60-0B\", 2 12 ,\"GRID M60-0Q\", 2",
        "ID    : vGPU Name\n1155  : NVIDIA L40S-1B\n1156  : NVIDIA L40S-2B\n",
        "",
    ];
    let words = ["4294967296", "\"", "\r\n", ",", ":", "#", " ,\"", "\u{fffd}"];
    fuzz("listings", &seeds.map(|seed| seed.as_bytes().to_vec()), &words, targets::listings);
}

#[test]
fn definitions() {
    let seeds = [
        r#"{"mdev_type":"mtty-2","start":"auto","attrs":[{"settings/first":"1"},{"plain":"x"}]}"#,
        r#"{"mdev_type":"mtty-2","start":"manual"}"#,
    ];
    let words = ["null", "[]", "{}", "\"attrs\":", "\"start\":", "\\u0000", "1e999", "../", "\"mdev_type\":"];
    fuzz("definitions", &seeds.map(|seed| seed.as_bytes().to_vec()), &words, targets::definitions);
}

#[test]
fn configuration() {
    let shipped = fs::read(here().join("../packaging/config.toml")).unwrap();
    let all = String::from_utf8(shipped.clone()).unwrap().replace("\n#", "\n");
    let words = [
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
    fuzz("configuration", &[shipped, all.into_bytes(), b"enabled = true".to_vec()], &words, |input| {
        reader.load(input)
    });
}

#[test]
fn qemu_conf() {
    let seeds = [
        "user = \"libvirt-qemu\"\ngroup = \"kvm\"\ndynamic_ownership = 1\ncgroup_device_acl = [\n  \"/dev/null\", \"/dev/full\",\n  \"/dev/vfio/vfio\"\n]\n",
        "security_driver = [ \"selinux\", \"apparmor\" ]\n# user = 'x'\nnamespaces = [ ]\n",
    ];
    let words = ["cgroup_device_acl", "namespaces = [", "]", "\"", "'", "#", "user = \"+0\"", "\\", ","];
    fuzz("qemu_conf", &seeds.map(|seed| seed.as_bytes().to_vec()), &words, targets::qemu_conf);
}

#[test]
fn records() {
    let words =
        ["\"phase\":", "null", "\"Intended\"", "\"version\":2", "[]", "{}", "\"..\"", "\\u0000", "-1"];
    let mut reader = targets::RecordFile::new();
    let seeds = vec![reader.written()];
    fuzz("records", &seeds, &words, |input| reader.read(input));
}

#[test]
fn udev_events() {
    let seeds = [
        "add\nvfio\n/devices/virtual/vfio/7",
        "add\nvfio-dev\n/devices/virtual/mtty/mtty/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001/vfio-dev/vfio0",
    ];
    let words = ["..", "/", "vfio-dev", "\0", "18446744073709551616"];
    fuzz("udev_events", &seeds.map(|seed| seed.as_bytes().to_vec()), &words, targets::udev_events);
}
