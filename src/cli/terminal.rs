//! What the tables are drawn on: how wide it is, and whether it shows more than ASCII. Decided once, at the door.

use std::io::{self, IsTerminal};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::words;

/// Cells of a bar.
const BAR: u32 = 8;

/// Where text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terminal {
    /// Columns; `None` in a pipe, where nothing is cut.
    pub width: Option<usize>,
    /// Whether more than ASCII may be drawn. What comes from outside is shown as it is all the same.
    pub unicode: bool,
}

impl Terminal {
    /// Standard output, in this process's locale.
    pub(super) fn here() -> Self {
        let stdout = io::stdout();
        let columns = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        // A serial console has no size and says 0.
        let width = if stdout.is_terminal() { columns().filter(|&columns| columns > 0) } else { None };
        Self::of(width, |name| std::env::var(name).ok())
    }

    /// The same, from what is known of the terminal and its environment.
    fn of(width: Option<usize>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let columns = || set(&"COLUMNS")?.parse().ok().filter(|&columns| columns > 0);
        // The first of them that is set decides (`setlocale(3)`); without any, or as C or POSIX, it is ASCII.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default();
        let charset = locale.to_ascii_lowercase().replace('-', "");
        Self { width: width.or_else(columns), unicode: charset.contains("utf8") }
    }

    /// A mark in Unicode, or what stands for it in ASCII.
    pub(super) fn mark(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    /// Outside text as a message may show it.
    pub(super) fn printable(self, text: &str) -> String {
        let shown = words::printable(text).to_string();
        if self.unicode { shown } else { shown.replace('…', "...") }
    }

    /// `text` in at most so many columns, its end replaced by an ellipsis where it takes more.
    pub(super) fn cut(self, text: &str, columns: usize) -> String {
        if text.width() <= columns {
            return text.to_owned();
        }
        let ellipsis = self.mark("…", "...");
        let room = columns.saturating_sub(ellipsis.width());
        let mut used = 0;
        let mut shown: String = text
            .chars()
            .take_while(|c| {
                used += c.width().unwrap_or(0);
                used <= room
            })
            .collect();
        shown.push_str(ellipsis);
        shown
    }

    /// `text` broken at blanks into lines that fit beside `indent` columns; whole where there is no limit. A word that
    /// is longer than a line stays whole: somebody may want to copy it.
    pub(super) fn wrap(self, text: &str, indent: usize) -> Vec<String> {
        let Some(room) = self.width.map(|width| width.saturating_sub(indent).max(20)) else {
            return vec![text.to_owned()];
        };
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if line.width() + 1 + word.width() <= room => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }

    /// How much of `max` is taken: a cell for each place, or for a part of them where there are many. Neither looks full
    /// before it is, nor empty when it is not.
    pub(super) fn bar(self, taken: u32, max: u32) -> String {
        let cells = max.min(BAR);
        let full = match taken {
            0 => 0,
            taken if taken >= max => cells,
            // Of 64 bits, for a driver may name any number.
            taken => u32::try_from(u64::from(taken) * u64::from(cells) / u64::from(max))
                .unwrap_or(cells)
                .clamp(1, cells.saturating_sub(1).max(1)),
        };
        let cell = |number: u32, mark: &str| mark.repeat(usize::try_from(number).unwrap_or(0));
        cell(full, self.mark("▓", "#")) + &cell(cells - full, self.mark("░", "."))
    }
}

/// `text` filled up with blanks to so many columns.
pub(super) fn pad(text: &str, columns: usize) -> String {
    text.to_owned() + &" ".repeat(columns.saturating_sub(text.width()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(width: usize, unicode: bool) -> Terminal {
        Terminal { width: Some(width), unicode }
    }

    #[test]
    fn the_locale_and_the_columns_decide() {
        let of = |width, set: &[(&str, &str)]| {
            Terminal::of(width, |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(None, &[]), Terminal { width: None, unicode: false });
        assert_eq!(of(None, &[("COLUMNS", "80"), ("LANG", "de_DE.UTF-8")]), on(80, true));
        assert_eq!(of(Some(60), &[("COLUMNS", "80"), ("LANG", "C.utf8"), ("LC_ALL", "")]), on(60, true));
        assert_eq!(of(Some(60), &[("LC_ALL", "C"), ("LANG", "C.UTF-8")]), on(60, false));
        assert_eq!(of(Some(60), &[("LC_CTYPE", "POSIX"), ("LANG", "C.UTF-8")]), on(60, false));
        for odd in ["", "0", "-1", "wide"] {
            assert_eq!(of(None, &[("COLUMNS", odd)]).width, None, "{odd}");
        }
    }

    #[test]
    fn what_is_too_wide_is_cut_by_columns() {
        for (text, columns, unicode, ascii) in [
            ("GRID M60-4Q", 11, "GRID M60-4Q", "GRID M60-4Q"),
            ("GRID M60-4Q", 10, "GRID M60-…", "GRID M6..."),
            ("仮想機械", 8, "仮想機械", "仮想機械"),
            ("仮想機械", 7, "仮想機…", "仮想..."),
            ("仮想機械", 6, "仮想…", "仮..."),
        ] {
            assert_eq!(on(80, true).cut(text, columns), unicode);
            assert_eq!(on(80, false).cut(text, columns), ascii);
        }
        assert_eq!(pad("仮想", 6), "仮想  ");
    }

    #[test]
    fn lines_break_at_blanks() {
        let text = "the domain has gone; last try: Device or resource busy (EBUSY, 16)";
        assert_eq!(
            on(40, true).wrap(text, 8),
            ["the domain has gone; last try:", "Device or resource busy (EBUSY,", "16)"]
        );
        assert_eq!(Terminal { width: None, unicode: true }.wrap(text, 8), [text]);
    }

    #[test]
    fn a_bar_is_full_only_when_it_is() {
        for (taken, max, unicode, ascii) in [
            (3, 4, "▓▓▓░", "###."),
            (0, 4, "░░░░", "...."),
            (1, 1, "▓", "#"),
            (1, 16, "▓░░░░░░░", "#......."),
            (15, 16, "▓▓▓▓▓▓▓░", "#######."),
            (17, 16, "▓▓▓▓▓▓▓▓", "########"),
            (u32::MAX - 1, u32::MAX, "▓▓▓▓▓▓▓░", "#######."),
            (0, 0, "", ""),
        ] {
            assert_eq!(on(80, true).bar(taken, max), unicode, "{taken} of {max}");
            assert_eq!(on(80, false).bar(taken, max), ascii, "{taken} of {max}");
        }
    }
}
