//! Plain tables: aligned columns, no lines, nothing that a terminal could obey, and no wider than the terminal.

use unicode_width::UnicodeWidthStr;

use super::terminal::{Terminal, pad};

/// Between two columns.
const GAP: usize = 2;

/// A column's heading, and what may become of it where the terminal is too narrow.
pub(super) struct Column {
    heading: String,
    narrow: Narrow,
}

/// What a narrow terminal may do to a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Narrow {
    /// Nothing: people copy what is in it.
    Keep,
    /// It is cut, to this many columns at most.
    Cut(usize),
    /// It is left out; of several, the one with the highest number first.
    Drop(usize),
}

impl Column {
    /// One that is always whole.
    pub(super) fn whole(heading: &str) -> Self {
        Self { heading: heading.to_owned(), narrow: Narrow::Keep }
    }

    /// One that may be cut, but not below `least` columns.
    pub(super) fn cut(heading: &str, least: usize) -> Self {
        Self { heading: heading.to_owned(), narrow: Narrow::Cut(least) }
    }

    /// One that may be left out; of several, the one with the highest number first.
    pub(super) fn spare(heading: &str, rank: usize) -> Self {
        Self { heading: heading.to_owned(), narrow: Narrow::Drop(rank) }
    }
}

/// A line, and what is said below it where it has no column of its own.
pub(super) struct Line {
    pub cells: Vec<String>,
    pub note: Option<String>,
}

impl From<Vec<String>> for Line {
    fn from(cells: Vec<String>) -> Self {
        Self { cells, note: None }
    }
}

/// Lines under a heading. Cells are fit to be shown: see [`Terminal::printable`].
/// What is spare is left out beyond `spare` columns, which a pipe has, too.
pub(super) fn table(terminal: Terminal, spare: Option<usize>, columns: &[Column], lines: &[Line]) -> String {
    let wide = |at: usize, column: &Column| {
        let cells = lines.iter().filter_map(|line| line.cells.get(at)).map(|cell| cell.width());
        cells.chain([column.heading.width()]).max().unwrap_or(0)
    };
    let mut widths: Vec<Option<usize>> =
        columns.iter().enumerate().map(|(at, column)| Some(wide(at, column))).collect();
    if let Some(limit) = spare {
        leave_out(columns, &mut widths, limit, terminal.width.is_some());
    }
    if let Some(limit) = terminal.width {
        narrow(columns, &mut widths, limit);
    }
    let row = |cells: &[String]| {
        let shown: Vec<String> = cells
            .iter()
            .zip(&widths)
            .filter_map(|(cell, width)| width.map(|width| pad(&terminal.cut(cell, width), width)))
            .collect();
        shown.join(&" ".repeat(GAP)).trim_end().to_owned() + "\n"
    };
    let headings: Vec<String> = columns.iter().map(|column| column.heading.clone()).collect();
    let mut text = row(&headings);
    for line in lines {
        text.push_str(&row(&line.cells));
        for note in line.note.iter().flat_map(|note| terminal.wrap(note, GAP)) {
            text.push_str(&format!("{}{note}\n", " ".repeat(GAP)));
        }
    }
    text
}

/// How wide a line is, with what may be cut as it is, or as narrow as it may become.
fn total(columns: &[Column], widths: &[Option<usize>], least: bool) -> usize {
    let shown = widths.iter().zip(columns).filter_map(|(width, column)| match column.narrow {
        Narrow::Cut(to) if least => width.map(|width| width.min(to) + GAP),
        _ => width.map(|width| width + GAP),
    });
    shown.sum::<usize>().saturating_sub(GAP)
}

/// Leaves out spare columns until the rest fits, with names `cut` if need be: better than to lose what says more.
fn leave_out(columns: &[Column], widths: &mut [Option<usize>], limit: usize, cut: bool) {
    while total(columns, widths, cut) > limit {
        let spare = columns.iter().zip(widths.iter_mut()).filter_map(|(column, width)| match column.narrow {
            Narrow::Drop(rank) if width.is_some() => Some((rank, width)),
            _ => None,
        });
        match spare.max_by_key(|(rank, _)| *rank) {
            Some((_, width)) => *width = None,
            None => break,
        }
    }
}

/// Cuts the widest of those that may be cut, as far as they may.
fn narrow(columns: &[Column], widths: &mut [Option<usize>], limit: usize) {
    for _ in limit..total(columns, widths, false) {
        let may_be_cut = widths.iter_mut().zip(columns).filter_map(|(width, column)| {
            let Narrow::Cut(least) = column.narrow else { return None };
            width.as_mut().filter(|width| **width > least)
        });
        if let Some(width) = may_be_cut.max() {
            *width -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: Option<usize>, unicode: bool) -> String {
        let columns =
            [Column::whole("PARENT"), Column::cut("NAME", 6), Column::spare("A", 0), Column::spare("B", 1)];
        let line = |cells: [&str; 4]| Line::from(cells.map(str::to_owned).to_vec());
        let mut last = line(["m", "", "", "x"]);
        last.note = Some("orphan: the domain has gone".to_owned());
        table(
            Terminal { width, unicode },
            width,
            &columns,
            &[line(["mtty", "Dual port serial", "1", "22"]), last],
        )
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            shown(None, true),
            "PARENT  NAME              A  B\n\
             mtty    Dual port serial  1  22\n\
             m                            x\n  orphan: the domain has gone\n"
        );
        assert_eq!(shown(Some(31), true), shown(None, true));
    }

    #[test]
    fn a_narrow_terminal_loses_ends_of_names_and_what_is_spare() {
        assert!(
            shown(Some(30), true)
                .starts_with("PARENT  NAME             A  B\nmtty    Dual port seri…  1  22\n")
        );
        let shown_on = |width| shown(Some(width), true);
        assert!(shown_on(21).starts_with("PARENT  NAME    A  B\nmtty    Dual …  1  22\n"));
        assert!(shown(Some(21), false).starts_with("PARENT  NAME    A  B\nmtty    Dua...  1  22\n"));
        assert!(shown_on(20).starts_with("PARENT  NAME       A\nmtty    Dual por…  1\nm\n"));
        assert!(shown(Some(17), true).starts_with("PARENT  NAME    A\nmtty    Dual …  1\nm\n"));
        assert!(shown(Some(16), true).starts_with("PARENT  NAME\nmtty    Dual po…\nm\n"));
        assert!(shown(Some(3), true).starts_with("PARENT  NAME\nmtty    Dual …\nm\n"));
        assert!(shown(Some(20), true).ends_with("  orphan: the domain\n  has gone\n"));
    }
}
