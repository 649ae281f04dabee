//! A domain's persistent definition, read and changed through `virsh`.

use rustix::io::Errno;

use super::Failure;
use super::virsh::{XmlFile, virsh};
use crate::domain::edit::Editable;
use crate::domain::{Domain, MAX_XML};
use crate::host::{Host, Trouble};
use crate::ids::{DeviceId, DomainUuid};
use crate::refusal::Refusal;
use crate::words::{for_shell, printable};

/// Where libvirt keeps the definitions of its domains.
pub(super) const DOMAINS: &str = "etc/libvirt/qemu";

/// What libvirt says of a domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) uuid: DomainUuid,
    /// It runs, with the devices that it was started with.
    pub(super) running: bool,
    /// Its next start restores it, with the devices that it had.
    saved: bool,
    persistent: bool,
    /// The definition, with what is secret in it.
    pub(super) xml: String,
}

impl Definition {
    /// Of a domain that a person has named, by its name or UUID.
    pub(super) fn of(vm: &str) -> Result<Self, Failure> {
        let info = virsh(&["dominfo", &format!("--domain={vm}")]).map_err(|failure| {
            let unknown = failure.text.contains("get domain");
            let hint = unknown.then(|| "`virsh list --all` shows the domains".to_owned());
            Failure { hint: failure.hint.clone().or(hint), ..failure }.about(vm)
        })?;
        let domain = Self::from_info(&info)
            .ok_or_else(|| Failure::new("`virsh dominfo` does not say what it is").about(vm))?;
        let refused = |text: String, hint: &str| Err(Failure::new(text).hint(hint));
        let name = printable(&domain.name).to_string();
        // To virsh a number is the id of what runs, before it is a name.
        if domain.name != vm && !domain.uuid.to_string().eq_ignore_ascii_case(vm) {
            return refused(
                format!("{}: that is the id of {name} for now", printable(vm)),
                "give its name or uuid",
            );
        }
        if !domain.persistent {
            return refused(
                format!("{name}: the domain is transient: it has no definition that could be changed"),
                "define it (`virsh define FILE`), or attach the device to it as it runs",
            );
        }
        let xml = domain.dump()?;
        Ok(Self { xml, ..domain })
    }

    /// Everything but the XML, from `virsh dominfo`.
    fn from_info(info: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(word, _)| *word == key).map(|(_, value)| value.trim_start())
        };
        Some(Self {
            name: value("Name")?.to_owned(),
            uuid: DomainUuid::parse(value("UUID")?).ok()?,
            running: value("State")? != "shut off",
            saved: value("Managed save") == Some("yes"),
            persistent: value("Persistent")? == "yes",
            xml: String::new(),
        })
    }

    fn dump(&self) -> Result<String, Failure> {
        let domain = format!("--domain={}", self.uuid);
        virsh(&["dumpxml", "--inactive", "--security-info", &domain])
            .map_err(|failure| failure.about(&self.name))
    }

    /// Puts `xml` into the place of what was read, if nobody has changed that since.
    pub(super) fn change(&self, xml: &str) -> Result<(), Failure> {
        let refused = |text: &str, hint: &str| Err(Failure::new(text).hint(hint).about(&self.name));
        if xml.len() > MAX_XML {
            return refused("the changed XML would be larger than 4 MiB", "libvirt takes no more");
        }
        if self.dump()? != self.xml {
            return refused(
                "somebody has changed the definition in the meantime; it is left as it is now",
                "try again",
            );
        }
        let file = XmlFile::new(xml)?;
        let defined = virsh(&["define", &format!("--file={}", file.path())]);
        defined.map(drop).map_err(|failure| failure.about(&self.name))
    }

    /// Whether a start would give the domain what it is defined to have.
    pub(super) fn starts(&self) -> Result<(), Failure> {
        let refused = |text: &str, hint: String| Err(Failure::new(text).hint(hint).about(&self.name));
        if self.running {
            return refused(
                "runs already, and cannot be started",
                "without --start, it has the device from its next start on; `virt-mdev attach` gives one now"
                    .to_owned(),
            );
        }
        if self.saved {
            return refused(
                "has a managed save, and a start would restore that, without the device",
                format!(
                    "`virsh managedsave-remove {}` drops it; without --start, only the definition is changed",
                    for_shell(&self.name, &self.uuid)
                ),
            );
        }
        Ok(())
    }

    /// `virsh start`; `said` is what was told before.
    pub(super) fn start(&self, said: String) -> Result<String, Failure> {
        match virsh(&["start", &format!("--domain={}", self.uuid)]) {
            Ok(_) => Ok(format!("{said}{}: started\n", printable(&self.name))),
            Err(failure) => Err(Failure { before: said, ..failure.about(&self.name) }),
        }
    }

    /// What a person may not expect of a change, as lines.
    pub(super) fn notes(&self) -> String {
        let name = printable(&self.name);
        if self.running {
            format!("note: {name} runs, and goes on with what it has: the change is for its next start\n")
        } else if self.saved {
            format!(
                "note: {name} has a managed save, and is restored with what it had: `virsh managedsave-remove {}` drops that\n",
                for_shell(&self.name, &self.uuid)
            )
        } else {
            String::new()
        }
    }
}

/// A file's name, and the domain that it defines or what is wrong with that.
pub(super) type Read = (String, Result<Domain, Refusal>);

/// What libvirt has on file, of each domain: of one that runs, too, what it will be.
pub(super) fn files(host: &Host) -> Result<Vec<Read>, Trouble> {
    Ok(texts(host)?.into_iter().map(|(file, xml)| (file, Domain::read(&xml))).collect())
}

/// The devices that a domain's hostdevs open, whatever is wrong with its metadata: its name is `otherwise` then.
pub(super) struct Opens {
    pub(super) name: String,
    pub(super) devices: Vec<DeviceId>,
}

impl Opens {
    pub(super) fn of(xml: &[u8], otherwise: &str) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(xml).map_err(|error| Refusal::XmlNotUtf8(error.valid_up_to()))?;
        let devices = Editable::read(text)?.opened().cloned().collect();
        Ok(Self {
            name: Domain::read(xml).map_or_else(|_| otherwise.to_owned(), |domain| domain.name),
            devices,
        })
    }
}

/// The same, of what libvirt has on file.
pub(super) fn opens(host: &Host) -> Result<Vec<Opens>, Trouble> {
    let mut domains = Vec::new();
    for (file, xml) in texts(host)? {
        // The file is called after the domain (`virDomainConfigFile`).
        match Opens::of(&xml, file.strip_suffix(".xml").unwrap_or(&file)) {
            Ok(opens) => domains.push(opens),
            Err(refusal) => log::warn!(
                "/{DOMAINS}/{}: {refusal}; what it passes through is not known, and may be given to another domain",
                printable(&file)
            ),
        }
    }
    Ok(domains)
}

fn texts(host: &Host) -> Result<Vec<(String, Vec<u8>)>, Trouble> {
    let mut texts = Vec::new();
    for file in host.names(DOMAINS)?.into_iter().filter(|file| file.ends_with(".xml")) {
        match host.read_whole(&format!("{DOMAINS}/{file}")) {
            Ok(xml) => texts.push((file, xml)),
            // Whoever may not read them knows nothing of what they have.
            Err(trouble) if trouble.is(Errno::ACCESS) => return Err(trouble),
            // Undefined in the meantime, or no file.
            Err(trouble) if trouble.is(Errno::NOENT) => {}
            Err(trouble) => log::warn!("{trouble}"),
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_virsh_says_of_a_domain_is_understood() {
        let info = "Id:             -\nName:           a: b\nUUID:           0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01\n\
                    OS Type:        hvm\nState:          shut off\nCPU(s):         1\nPersistent:     yes\n\
                    Autostart:      disable\nManaged save:   no\nSecurity model: apparmor\n\n";
        let expected = Definition {
            name: "a: b".to_owned(),
            uuid: DomainUuid::parse("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap(),
            running: false,
            saved: false,
            persistent: true,
            xml: String::new(),
        };
        assert_eq!(Definition::from_info(info), Some(expected));
        let other = info.replace("shut off", "paused").replace("save:   no", "save:   yes");
        let other =
            Definition::from_info(&other.replace("Persistent:     yes", "Persistent:     no")).unwrap();
        assert!(other.running && other.saved && !other.persistent);
        assert_eq!(Definition::from_info(""), None);
    }
}
