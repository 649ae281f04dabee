//! The journal: libvirt drops the stderr of hooks that succeed, so this is where their story is told.

use systemd_journal_logger::JournalLog;

use crate::words::printable;

/// Sends what is logged from here on to the journal, as `virt-mdev`, with the domain's name as a field. Without a
/// journal nothing is logged: no domain fails for that.
pub fn start(domain: &str) {
    let Ok(journal) = JournalLog::new() else { return };
    let journal = journal
        .with_syslog_identifier("virt-mdev".to_owned())
        .with_extra_fields([("VIRT_MDEV_DOMAIN", printable(domain).to_string())]);
    if journal.install().is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
