//! Virtual functions that are set aside for domains that are about to come: links in `reserved/`, whose target is the
//! domain's uuid and until when that holds, in ms since boot. No claim: nothing has been made yet, a domain that does not
//! come after all is never heard of again, and so each ends by itself.

use std::path::PathBuf;
use std::time::Duration;

use super::Records;
use crate::host::{Lock, Trouble};
use crate::ids::{DeviceId, DomainUuid, PciAddress};

/// Where they lie.
const DIRECTORY: &str = "reserved";

/// What a link is called while it is made, before the function's address.
const NEW: &str = "new-";

/// How long one holds. Between `migrate` or `restore` and `prepare` libvirt does little; prepare then makes the claim.
pub const HOLDS: Duration = Duration::from_secs(5 * 60);

fn parse(text: &str) -> Option<(DomainUuid, Duration)> {
    let (domain, until) = text.split_once(' ')?;
    Some((DomainUuid::parse(domain).ok()?, Duration::from_millis(until.parse().ok()?)))
}

impl Records {
    fn reservation(&self, address: &str) -> PathBuf {
        self.base.join(DIRECTORY).join(address)
    }

    /// The domain that a function is set aside for now.
    pub fn reserved(&self, device: &DeviceId) -> Result<Option<DomainUuid>, Trouble> {
        let text = self.link_text(&self.reservation(&device.to_string()))?;
        let now = self.host.now();
        // One that ends later than any made now was written by nobody.
        let holds = |until: Duration| now < until && until <= now + HOLDS;
        Ok(text.and_then(|text| parse(&text)).filter(|(_, until)| holds(*until)).map(|(domain, _)| domain))
    }

    /// Takes the lock that is held while functions are chosen and set aside.
    pub fn lock_reservations(&self, limit: Duration) -> Result<Lock, Trouble> {
        self.make_directories()?;
        self.host.lock(&self.base.join("locks/reserved"), limit)
    }

    /// Sets a function aside for a domain, whoever had it before. The caller has the lock.
    pub fn reserve(&self, address: &PciAddress, domain: &DomainUuid) -> Result<(), Trouble> {
        self.make_directory(&self.base.join(DIRECTORY))?;
        let path = self.reservation(&address.to_string());
        let new = self.reservation(&format!("{NEW}{address}"));
        let text = format!("{domain} {}", (self.host.now() + HOLDS).as_millis());
        // What a process left that died between the two steps.
        self.remove_if_there(&new)?;
        let machine = self.host.machine();
        let done = machine.link(&text, &new).and_then(|()| machine.rename(&new, &path));
        done.map_err(|error| Trouble::new("make the reservation", &path, error))
    }

    /// The domain has come, or has been refused: what was set aside for it is so no more.
    pub fn end_reservation(&self, address: &PciAddress, domain: &DomainUuid) {
        let path = self.reservation(&address.to_string());
        let is_ours = |text: String| parse(&text).is_some_and(|(whose, _)| whose == *domain);
        if self.link_text(&path).is_ok_and(|text| text.is_some_and(is_ours)) {
            if let Err(trouble) = self.remove_if_there(&path) {
                log::warn!("{trouble}");
            }
        }
    }

    /// Takes away those that have ended, and what is none.
    pub fn forget_old_reservations(&self, limit: Duration) -> Result<(), Trouble> {
        let names = self.names_in(DIRECTORY)?;
        if names.is_empty() {
            return Ok(());
        }
        let _lock = self.lock_reservations(limit)?;
        let mut done = Ok(());
        for name in names {
            let device = PciAddress::parse(&name).ok().map(DeviceId::Vf);
            if device.is_none_or(|device| matches!(self.reserved(&device), Ok(None))) {
                done = done.and(self.remove_if_there(&self.reservation(&name)));
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    #[test]
    fn a_reservation_is_one_domains_until_it_ends_or_the_time_is_over() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        let records = Records::new(&Host::at(root.path()));
        let address = PciAddress::parse("0000:41:00.4").unwrap();
        let device = DeviceId::Vf(address.clone());
        let domain =
            |last: char| DomainUuid::parse(&format!("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e0{last}")).unwrap();
        let (one, two) = (domain('1'), domain('2'));
        assert_eq!(records.reserved(&device).unwrap(), None);
        let lock = records.lock_reservations(Duration::from_secs(1)).unwrap();
        records.reserve(&address, &one).unwrap();
        assert_eq!(records.reserved(&device).unwrap(), Some(one.clone()));
        // It is no claim.
        assert!(!records.is_claimed(&device));
        records.end_reservation(&address, &two);
        assert_eq!(records.reserved(&device).unwrap(), Some(one.clone()));
        records.reserve(&address, &two).unwrap();
        records.end_reservation(&address, &one);
        assert_eq!(records.reserved(&device).unwrap(), Some(two.clone()));
        drop(lock);
        records.forget_old_reservations(Duration::from_secs(1)).unwrap();
        assert_eq!(records.reserved(&device).unwrap(), Some(two.clone()));
        records.end_reservation(&address, &two);
        let path = root.path().join("run/virt-mdev/reserved/0000:41:00.4");
        assert!(!path.is_symlink());
        let now = u64::try_from(records.host.now().as_millis()).unwrap();
        let holds = u64::try_from(HOLDS.as_millis()).unwrap();
        for (text, valid) in [
            (format!("{two} {}", now + 60_000), true),
            (format!("{two} {}", now.saturating_sub(1)), false),
            (format!("{two} {}", now + holds + 60_000), false),
            (format!("{two}"), false),
            ("x 5".to_owned(), false),
        ] {
            std::os::unix::fs::symlink(&text, &path).unwrap();
            assert_eq!(records.reserved(&device).unwrap().is_some(), valid, "{text}");
            records.forget_old_reservations(Duration::from_secs(1)).unwrap();
            assert_eq!(path.is_symlink(), valid, "{text}");
            let _ = std::fs::remove_file(&path);
        }
    }
}
