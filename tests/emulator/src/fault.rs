//! Faults on demand: what is to go wrong, and when.

use std::time::Duration;

use nix::errno::Errno;

use crate::host::{parse_duration, parse_errno};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is answered with this, and does nothing.
    Fail(Errno),
    /// It waits: for that long, or until `release`; then it is done.
    Block(Option<Duration>),
    /// Its process is killed, and it does nothing.
    KillBefore,
    /// It is done, and its process killed before it hears of it.
    KillAfter,
}

/// Which of the matching requests it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Only(u64),
    From(u64),
}

/// A fault.
#[derive(Debug, Clone)]
pub struct Fault {
    words: Vec<String>,
    glob: String,
    which: Which,
    action: Action,
    seen: u64,
}

impl Fault {
    /// `OP GLOB [NTH] ACTION`: see the README.
    pub fn parse(spec: &str) -> Result<Self, String> {
        let parts: Vec<&str> = spec.split_whitespace().collect();
        let (words, glob, which, action) = match parts.as_slice() {
            [words, glob, action] => (words, glob, "1", action),
            [words, glob, which, action] => (words, glob, *which, action),
            _ => return Err(format!("\"{spec}\" is not OP GLOB [NTH] ACTION")),
        };
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
        let which = match which.strip_suffix('+') {
            _ if which == "*" => Some(Which::From(1)),
            Some(text) => number(text).map(Which::From),
            None => number(which).map(Which::Only),
        };
        let action = match action.split_once('=') {
            Some(("block", time)) => parse_duration(time).map(|time| Action::Block(Some(time))),
            Some(_) => None,
            None => match *action {
                "block" => Some(Action::Block(None)),
                "kill-before" => Some(Action::KillBefore),
                "kill-after" => Some(Action::KillAfter),
                name => parse_errno(name).map(Action::Fail),
            },
        };
        Ok(Self {
            words: words.split(',').map(str::to_owned).collect(),
            glob: (*glob).to_owned(),
            which: which.ok_or_else(|| format!("\"{spec}\": NTH is a number, a number and +, or *"))?,
            action: action.ok_or_else(|| {
                format!("\"{spec}\": ACTION is an errno, block, block=TIME, kill-before or kill-after")
            })?,
            seen: 0,
        })
    }

    /// Counts a request and says whether it is to go wrong. `effect`: it has its line in `effects`.
    pub fn strikes(&mut self, word: &str, effect: bool, paths: &[&str]) -> Option<Action> {
        let fits_word = |known: &String| known == word || known == "any" || (effect && known == "effect");
        let named = self.words.iter().any(fits_word);
        if !named || !paths.iter().any(|path| fits(&self.glob, path)) {
            return None;
        }
        self.seen += 1;
        let now = match self.which {
            Which::Only(number) => self.seen == number,
            Which::From(number) => self.seen >= number,
        };
        now.then_some(self.action)
    }
}

/// Whether a path fits a pattern: `*` is any text, also over `/`; `?` is one character.
pub fn fits(glob: &str, path: &str) -> bool {
    let mut characters = glob.chars();
    match characters.next() {
        None => path.is_empty(),
        Some('*') => {
            let rest = characters.as_str();
            path.char_indices().any(|(at, _)| fits(rest, path.get(at..).unwrap_or_default()))
                || fits(rest, "")
        }
        Some(wanted) => {
            let mut seen = path.chars();
            seen.next().is_some_and(|one| wanted == '?' || wanted == one)
                && fits(characters.as_str(), seen.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (glob, path, expected) in [
            ("*/create", "/sys/a/create", true),
            ("*/create", "/sys/a/created", false),
            ("/run/*", "/run/virt-mdev/locks", true),
            ("/run/*", "/sys/run/a", false),
            ("*mtty-?/create", "/x/mtty-2/create", true),
            ("*", "", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(fits(glob, path), expected, "{glob} {path}");
        }
    }

    #[test]
    fn the_nth_one_only_or_from_there_on() {
        let strikes = |spec: &str| -> Vec<bool> {
            let mut fault = Fault::parse(spec).unwrap();
            (0..4).map(|_| fault.strikes("write", true, &["/sys/x/create"]).is_some()).collect()
        };
        assert_eq!(strikes("write */create ENOSPC"), [true, false, false, false]);
        assert_eq!(strikes("write */create 3 ENOSPC"), [false, false, true, false]);
        assert_eq!(strikes("write,open */create 2+ block=1s"), [false, true, true, true]);
        assert_eq!(strikes("any *x* * kill-after"), [true; 4]);
        assert_eq!(strikes("read */create ENOSPC"), [false; 4]);
        assert_eq!(strikes("effect * 2 ENOSPC"), [false, true, false, false]);
        let mut effects = Fault::parse("effect * 2 ENOSPC").unwrap();
        let mut strikes = |word, effect| effects.strikes(word, effect, &["/run/x"]).is_some();
        assert_eq!(
            [strikes("open", true), strikes("read", false), strikes("rename", true)],
            [false, false, true]
        );
        for bad in
            ["write */create", "write */create 0 EIO", "write */create EWHAT", "write */create 1 block=x"]
        {
            Fault::parse(bad).unwrap_err();
        }
    }
}
