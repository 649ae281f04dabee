//! The domain's UUID out of anything.

use crate::ids::DomainUuid;

/// libvirt writes name and uuid first (`virDomainDefFormatInternal`); this is far more than any name takes.
const WINDOW: usize = 64 * 1024;

const OPEN: &[u8] = b"<uuid>";
const UUID_LEN: usize = 36;

/// The first `<uuid>` of what libvirt wrote, if there is one within the first 64 KiB. Cut off, oversized, or
/// malformed input is no reason to give none: a release must find its record whatever stands around the UUID.
///
/// The first one is the domain's own: only `<name>` stands before it, and a `<` within a name is escaped.
pub fn uuid_in(bytes: &[u8]) -> Option<DomainUuid> {
    let window = bytes.get(..WINDOW).unwrap_or(bytes);
    let start = window.windows(OPEN.len()).position(|at| at == OPEN)? + OPEN.len();
    let rest = window.get(start..)?.trim_ascii_start();
    DomainUuid::parse(std::str::from_utf8(rest.get(..UUID_LEN)?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01";

    #[test]
    fn whatever_stands_around_it_the_uuid_is_found() {
        for text in [
            format!("<domain><name>a</name><uuid>{UUID}</uuid><metadata><x><uuid>other</uuid>"),
            format!("<domain><name>a</name>\n  <uuid>\n  {UUID}"),
            format!("\u{0}garbage<uuid>{UUID}"),
            format!("<uuid>{UUID}</uuid>{}", "x".repeat(5 << 20)),
        ] {
            assert_eq!(uuid_in(text.as_bytes()), DomainUuid::parse(UUID).ok());
        }
        let not_utf8 = [b"\xff\xfe<uuid>", UUID.as_bytes()].concat();
        assert_eq!(uuid_in(&not_utf8), DomainUuid::parse(UUID).ok());
    }

    #[test]
    fn where_none_is_none_is_found() {
        let late = format!("{}<uuid>{UUID}</uuid>", " ".repeat(WINDOW));
        for text in ["", "<uuid>", "<uuid>0cd8a2ab", "<uuid>zzzzzzzz-6c8d-4b2c-9a8e-6a2f9a7d4e01", &late] {
            assert_eq!(uuid_in(text.as_bytes()), None);
        }
    }
}
