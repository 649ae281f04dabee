//! How outside text and errors are shown: on one line, bounded, with nothing a terminal could obey.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::ids::DomainUuid;

/// Longest piece of outside text that a message repeats, in characters.
const SHOWN: usize = 120;

/// `text` with control characters escaped and cut at a length that a message can bear.
pub fn printable(text: &str) -> impl fmt::Display + '_ {
    Printable(text, SHOWN)
}

/// The same, however long it is: where a person has asked for all of it.
pub fn escaped(text: &str) -> String {
    Printable(text, usize::MAX).to_string()
}

/// A domain in a command that a person may copy: its name where no shell would read more into that, else its UUID.
pub fn for_shell(name: &str, uuid: &DomainUuid) -> String {
    plain_word(name).map_or_else(|| uuid.to_string(), str::to_owned)
}

/// A text into which no shell would read more than a word.
pub fn plain_word(text: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    Some(text).filter(|text| !text.is_empty() && !text.starts_with('-') && text.chars().all(plain))
}

/// A character that a terminal or a journal could obey. U+2028 and the bidirectional controls are not `is_control` but
/// break or turn a line all the same.
pub(crate) fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

struct Printable<'a>(&'a str, usize);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, c) in self.0.chars().enumerate() {
            if at == self.1 {
                return f.write_str("…");
            }
            if is_order(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

/// The errors that sysfs, files and locks are known to give, by the name that every manual uses.
const NAMES: [(Errno, &str); 24] = [
    (Errno::PERM, "EPERM"),
    (Errno::NOENT, "ENOENT"),
    (Errno::INTR, "EINTR"),
    (Errno::IO, "EIO"),
    (Errno::NXIO, "ENXIO"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::ACCESS, "EACCES"),
    (Errno::BUSY, "EBUSY"),
    (Errno::EXIST, "EEXIST"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::MFILE, "EMFILE"),
    (Errno::FBIG, "EFBIG"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::ROFS, "EROFS"),
    (Errno::RANGE, "ERANGE"),
    (Errno::LOOP, "ELOOP"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::ADDRINUSE, "EADDRINUSE"),
    (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (Errno::XDEV, "EXDEV"),
];

/// An I/O error as `Invalid argument (EINVAL, 22)`.
pub fn errno(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    match NAMES.iter().find(|(errno, _)| errno.raw_os_error() == number) {
        Some((_, name)) => format!("{text} ({name}, {number})"),
        None => format!("{text} (errno {number})"),
    }
}

/// How many items a list names: a host may have hundreds of virtual functions.
const LISTED: usize = 8;

/// `items` as `a, b and c`; of very many, the first ones and how many more there are.
pub fn list<T: fmt::Display>(items: &[T]) -> String {
    let joined = |items: &[T]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match items {
        [..] if items.len() > LISTED => {
            let first = items.get(..LISTED - 1).unwrap_or_default();
            format!("{} and {} more", joined(first), items.len() - first.len())
        }
        [] => String::new(),
        [one] => one.to_string(),
        [most @ .., last] => format!("{} and {last}", joined(most)),
    }
}

/// The candidate that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.chars().count() / 3)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_copies_into_a_shell_is_a_word() {
        let uuid = DomainUuid::parse("0cd8a2ab-6c8d-4b2c-9a8e-6a2f9a7d4e01").unwrap();
        assert_eq!(for_shell("web-1.example_2", &uuid), "web-1.example_2");
        for name in ["", "-x", "a b", "a;reboot", "$(reboot)", "a'b", "größe"] {
            assert_eq!(for_shell(name, &uuid), uuid.to_string(), "{name}");
        }
    }

    #[test]
    fn outside_text_stays_on_its_line() {
        assert_eq!(printable("a\nb\u{1b}[31m\u{202e}").to_string(), "a\\nb\\u{1b}[31m\\u{202e}");
        assert_eq!(printable("Größe").to_string(), "Größe");
        assert_eq!(printable(&"x".repeat(500)).to_string().chars().count(), SHOWN + 1);
    }

    #[test]
    fn errors_carry_name_and_number() {
        assert_eq!(errno(&io::Error::from(Errno::INVAL)), "Invalid argument (EINVAL, 22)");
        assert_eq!(errno(&io::Error::other("short write")), "short write");
    }

    #[test]
    fn lists_read_as_people_write_them() {
        let items: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(list(&items), "a, b and c");
        assert_eq!(list(&items[..1]), "a");
        let many: Vec<String> = (1..=9).map(|number| number.to_string()).collect();
        assert_eq!(list(&many[..8]), "1, 2, 3, 4, 5, 6, 7 and 8");
        assert_eq!(list(&many), "1, 2, 3, 4, 5, 6, 7 and 2 more");
    }

    #[test]
    fn a_slip_of_the_finger_is_understood_and_another_word_is_not() {
        let known = ["uuid", "type", "parent", "placement"];
        assert_eq!(nearest("tpye", known).as_deref(), Some("type"));
        assert_eq!(nearest("Parnet", known).as_deref(), Some("parent"));
        assert_eq!(nearest("driver", known), None);
        assert_eq!(nearest("", [""; 0]), None);
    }
}
