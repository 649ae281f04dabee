//! Plain tables: aligned columns, no lines, nothing that a terminal could obey.

use crate::words::printable;

/// Rows under a heading; trailing empty columns are left out everywhere.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let shown: Vec<Vec<String>> = std::iter::once(heading.iter().map(|&cell| cell.to_owned()).collect())
        .chain(rows.iter().map(|row| row.iter().map(|cell| printable(cell).to_string()).collect()))
        .collect();
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &shown {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["mtty".to_owned(), "Größe\n".to_owned()], vec!["m".to_owned(), String::new()]];
        assert_eq!(table(&["PARENT", "NAME"], &rows), "PARENT  NAME\nmtty    Größe\\n\nm\n");
    }
}
