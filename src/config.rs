//! `/etc/virt-mdev/config.toml`: text → [`Config`].
//!
//! Read only once a domain wants something. A key that we do not know is a warning from the hook and an error from
//! the CLI; a value that we do not understand refuses a prepare and never a release.

use std::time::Duration;

use toml::{Table, Value};

use crate::domain::Placement;
use crate::host::Host;
use crate::refusal::Refusal;
use crate::words::{nearest, printable};

/// Where it lies, below the host's root.
pub const PATH: &str = "etc/virt-mdev/config.toml";

/// When the nodes of a domain's devices are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// At every start.
    Always,
    /// Where libvirt does not do it.
    Needed,
    /// Not at all.
    Never,
}

/// How long an event waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Release, for a process that still has the device open.
    pub release: Duration,
    /// Prepare, for a parent that is not there yet.
    pub parent: Duration,
    /// Prepare, for udev to deal with new nodes.
    pub udev: Duration,
    /// Any event, for a lock.
    pub lock: Duration,
    /// Any event, for a driver to return from a single operation.
    pub driver: Duration,
}

/// The configuration, every key with its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// `false`: prepare does nothing. A release of what was made before still works.
    pub enabled: bool,
    /// When nodes are labelled.
    pub labels: Labels,
    /// Where the metadata names no placement.
    pub placement: Placement,
    /// Devices that only a hostdev names are made from mdevctl's definitions.
    pub definitions: bool,
    /// What mdevctl's definitions say is to start with its parent is brought up when that comes.
    pub autostart: bool,
    /// Limits.
    pub waits: Waits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            labels: Labels::Always,
            placement: Placement::Pack,
            definitions: true,
            autostart: false,
            waits: Waits {
                release: Duration::from_secs(10),
                parent: Duration::from_secs(30),
                udev: Duration::from_secs(5),
                lock: Duration::from_secs(30),
                driver: Duration::from_secs(30),
            },
        }
    }
}

/// Every key, as `table.key`. Each stands in `packaging/config.toml` and in `virt-mdev.toml(5)`.
const KEYS: [&str; 10] = [
    "enabled",
    "labels",
    "placement.policy",
    "definitions.use",
    "udev.autostart",
    "wait.release",
    "wait.parent",
    "wait.udev",
    "wait.lock",
    "wait.driver",
];

impl Config {
    /// Reads the host's configuration; without a file all defaults hold. The second value lists the keys that we do
    /// not know, each as a sentence.
    pub fn load(host: &Host) -> Result<(Self, Vec<String>), Refusal> {
        Self::parse(&host.text(PATH)?)
            .map_err(|why| Refusal::Config { path: host.path(PATH).display().to_string(), why })
    }

    /// For a release, which nothing may stop: what cannot be understood keeps its default.
    pub fn load_or_default(host: &Host) -> Self {
        Self::load(host).map_or_else(
            |refusal| {
                log::warn!("{refusal}; the defaults hold");
                Self::default()
            },
            |(config, _)| config,
        )
    }

    fn parse(text: &str) -> Result<(Self, Vec<String>), String> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(1, |before| before.matches('\n').count() + 1);
            format!("line {line}: {}", printable(error.message()))
        })?;
        let mut config = Self::default();
        let mut unknown = Vec::new();
        for (key, value) in &table {
            match value {
                Value::Table(inner) => {
                    for (name, value) in inner {
                        config.set(&format!("{key}.{name}"), value, &mut unknown)?;
                    }
                }
                value => config.set(key, value, &mut unknown)?,
            }
        }
        Ok((config, unknown))
    }

    fn set(&mut self, key: &str, value: &Value, unknown: &mut Vec<String>) -> Result<(), String> {
        // What is not listed does not work, so that the list is whole.
        if !KEYS.contains(&key) {
            // The right key below the wrong section, or below none.
            let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
            let moved = KEYS.into_iter().find(|known| last(known) == last(key)).map(str::to_owned);
            unknown.push(match moved.or_else(|| nearest(key, KEYS)) {
                Some(meant) if key.contains('.') && !meant.contains('.') => {
                    format!(
                        "unknown key {}; did you mean {meant}, before the first [section]?",
                        printable(key)
                    )
                }
                Some(meant) => format!("unknown key {}; did you mean {meant}?", printable(key)),
                None => format!("unknown key {}", printable(key)),
            });
            return Ok(());
        }
        let bad = |must: &str| format!("{key} = {} must be {must}", printable(&value.to_string()));
        match key {
            "enabled" => self.enabled = value.as_bool().ok_or_else(|| bad("true or false"))?,
            "labels" => {
                self.labels = match value.as_str() {
                    Some("always") => Labels::Always,
                    Some("needed") => Labels::Needed,
                    Some("never") => Labels::Never,
                    _ => return Err(bad("\"always\", \"needed\" or \"never\"")),
                }
            }
            "placement.policy" => {
                self.placement =
                    value.as_str().and_then(Placement::parse).ok_or_else(|| bad("\"pack\" or \"spread\""))?;
            }
            "definitions.use" => self.definitions = value.as_bool().ok_or_else(|| bad("true or false"))?,
            "udev.autostart" => self.autostart = value.as_bool().ok_or_else(|| bad("true or false"))?,
            "wait.release" => self.waits.release = duration(value).ok_or_else(|| bad(DURATION))?,
            "wait.parent" => self.waits.parent = duration(value).ok_or_else(|| bad(DURATION))?,
            "wait.udev" => self.waits.udev = duration(value).ok_or_else(|| bad(DURATION))?,
            "wait.driver" => {
                // Without any, no start would succeed, and no release would end.
                let limit = duration(value).filter(|limit| !limit.is_zero());
                self.waits.driver = limit.ok_or_else(|| bad("a time above 0, like \"30s\""))?;
            }
            "wait.lock" => self.waits.lock = duration(value).ok_or_else(|| bad(DURATION))?,
            _ => {}
        }
        Ok(())
    }
}

const DURATION: &str = "a time like \"10s\" or \"500ms\", at most an hour";

/// `"10s"`, `"500ms"`, or seconds as a number.
fn duration(value: &Value) -> Option<Duration> {
    let duration = match value {
        Value::Integer(seconds) => Duration::from_secs(u64::try_from(*seconds).ok()?),
        Value::String(text) => match text.strip_suffix("ms") {
            Some(number) => Duration::from_millis(number.trim().parse().ok()?),
            None => Duration::from_secs(text.strip_suffix('s')?.trim().parse().ok()?),
        },
        _ => return None,
    };
    (duration <= Duration::from_secs(3600)).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_shows_every_key_with_its_default() {
        let shipped = include_str!("../packaging/config.toml");
        // As shipped, nothing is set.
        assert_eq!(Config::parse(shipped).unwrap(), (Config::default(), vec![]));
        // `echo enabled = false >>` is the off switch.
        assert!(!Config::parse(&format!("{shipped}enabled = false\n")).unwrap().0.enabled);
        // With every commented key taken in, nothing changes either, and no key is missing.
        let taken_in: String = shipped
            .lines()
            .map(|line| {
                let key = line.trim_start_matches('#').trim_start();
                let is_key = key.split_once('=').is_some_and(|(name, _)| {
                    let name = name.trim();
                    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '.')
                });
                if line.starts_with('#') && is_key { key } else { line }
            })
            .collect::<Vec<_>>()
            .join("\n");
        assert_eq!(Config::parse(&taken_in).unwrap(), (Config::default(), vec![]));
        let table: Table = taken_in.parse().unwrap();
        for key in KEYS {
            let found = match key.split_once('.') {
                Some((outer, inner)) => table.get(outer).and_then(|table| table.get(inner)).is_some(),
                None => table.contains_key(key),
            };
            assert!(found, "{key} is not in packaging/config.toml");
        }
    }

    #[test]
    fn the_manual_has_every_key_and_its_default() {
        let manual = include_str!("../packaging/man/virt-mdev.toml.5");
        let shipped = include_str!("../packaging/config.toml");
        let mut said = Vec::new();
        let mut section = String::new();
        for line in manual.lines() {
            if let Some(heading) = line.strip_prefix(".Ss ") {
                section =
                    heading.strip_prefix("The section ").map(|name| format!("{name}.")).unwrap_or_default();
            } else if let Some(entry) = line.strip_prefix(".It Ic ") {
                let name = entry.split(' ').next().unwrap();
                // The entry ends with "Default", and the value as the shipped file has it.
                let (_, after) = manual.split_once(line).unwrap();
                let (_, default) = after.split_once("Default\n.Cm ").unwrap();
                let default = default.lines().next().unwrap().trim_end_matches(" .").replace("\\(dq", "\"");
                assert!(
                    shipped.contains(&format!("\n#{section}{name} = {default}\n")),
                    "{section}{name}: {default}"
                );
                said.push(format!("{section}{name}"));
            }
        }
        said.sort();
        let mut keys = KEYS.map(str::to_owned);
        keys.sort();
        assert_eq!(said, keys);
    }

    #[test]
    fn values_are_taken() {
        let text = "enabled = false\nlabels = \"never\"\n[placement]\npolicy = \"spread\"\n[definitions]\nuse = false\n[wait]\nrelease = \"50ms\"\nlock = 3";
        let (config, unknown) = Config::parse(text).unwrap();
        assert!(!config.enabled && !config.definitions && unknown.is_empty());
        assert_eq!((config.labels, config.placement), (Labels::Never, Placement::Spread));
        assert_eq!(
            (config.waits.release, config.waits.lock),
            (Duration::from_millis(50), Duration::from_secs(3))
        );
    }

    #[test]
    fn unknown_keys_are_named_and_bad_values_refused() {
        let (_, unknown) =
            Config::parse("enable = true\nrelease = 1\n[wait]\nrelase = 1\nenabled = false\n[x]\ny = 1")
                .unwrap();
        assert_eq!(
            unknown,
            [
                "unknown key enable; did you mean enabled?",
                "unknown key release; did you mean wait.release?",
                "unknown key wait.enabled; did you mean enabled, before the first [section]?",
                "unknown key wait.relase; did you mean wait.release?",
                "unknown key x.y"
            ]
        );
        for (text, says) in [
            ("enabled = \"yes\"", "enabled = \"yes\" must be true or false"),
            ("[definitions]\nuse = 1", "definitions.use = 1 must be true or false"),
            ("[wait]\nudev = \"5m\"", "wait.udev = \"5m\" must be a time"),
            ("[wait]\nudev = -1", "wait.udev = -1 must be a time"),
            ("[placement]\npolicy = \"pakc\"", "placement.policy = \"pakc\" must be \"pack\" or \"spread\""),
            ("enabled = true\nlabels = = 1", "line 2:"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
