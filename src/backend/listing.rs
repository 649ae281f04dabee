//! Types as text: the table of the 2016 proposal and NVIDIA's list of creatable types. Pure.
//!
//! Both come from a vendor's driver, so anything may stand in them. What can be understood is used, each kind of
//! damage gives one warning, and no row is given an id that it does not have.

use std::collections::BTreeSet;

/// A type of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The vendor's number.
    pub id: u32,
    /// The vendor's name, where it could be read.
    pub name: Option<String>,
    /// Further columns: heading and value.
    pub properties: Vec<(String, String)>,
}

/// What a text holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Heading of the first column: the name under which the driver wants the id.
    pub id_column: Option<String>,
    /// The types.
    pub rows: Vec<Row>,
    /// What could not be understood: each kind of damage once.
    pub warnings: BTreeSet<&'static str>,
    ids: BTreeSet<u32>,
}

impl Listing {
    fn push(&mut self, id: &str, name: Option<&str>, properties: Vec<(String, String)>) {
        let Ok(id) = id.parse::<u32>() else {
            self.warnings.insert("an id beyond 32 bits is left out");
            return;
        };
        if !self.ids.insert(id) {
            self.warnings.insert("of rows with the same id the first one counts");
            return;
        }
        // A name with a replacement character cannot be asked for, and must not match by accident.
        let name = name.map(str::trim).filter(|name| !name.is_empty() && !name.contains('\u{fffd}'));
        self.rows.push(Row { id, name: name.map(str::to_owned), properties });
    }

    fn note_encoding(&mut self, text: &str) {
        if text.contains('\u{fffd}') {
            self.warnings.insert("it is not UTF-8 everywhere: names that are not are left out");
        }
        if text.contains('\r') {
            self.warnings.insert("its lines end in CRLF");
        }
    }
}

/// The proposal's table: a heading `# column, column, …` and rows `11 ,"GRID M60-0B", 16, 2, …`, each on a line of its
/// own or all on one, separated by blanks. A row begins with an integer, a comma and a quoted name.
pub fn table(text: &str) -> Listing {
    let mut listing = Listing::default();
    listing.note_encoding(text);
    let mut columns: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut rest = line.trim();
        if let Some(heading) = rest.strip_prefix('#') {
            let end = row_start(heading).unwrap_or(heading.len());
            let (heading, rows) = heading.split_at_checked(end).unwrap_or((heading, ""));
            if columns.is_empty() {
                columns = heading.split(',').map(|column| column.trim().to_owned()).collect();
                listing.id_column = columns.first().filter(|column| !column.is_empty()).cloned();
            }
            rest = rows;
        }
        if !rest.is_empty() && row_start(rest) != Some(0) {
            listing.warnings.insert("text that begins no row is passed over");
        }
        while let Some(start) = row_start(rest) {
            let Some(row) = rest.get(start..) else { break };
            let Some((id, name, after)) = head(row) else {
                listing.warnings.insert("a row whose name has no closing quote is left out");
                break;
            };
            let end = row_start(after).unwrap_or(after.len());
            let (values, next) = after.split_at_checked(end).unwrap_or((after, ""));
            let values: Vec<&str> = values.split(',').skip(1).map(str::trim).collect();
            let mut properties: Vec<(String, String)> = columns
                .iter()
                .skip(2)
                .zip(&values)
                .map(|(column, value)| (column.clone(), (*value).to_owned()))
                .collect();
            if values.len() + 2 < columns.len() {
                listing.warnings.insert("a row is shorter than the heading: its last value may be cut");
                properties.pop();
            }
            listing.push(id, Some(name), properties);
            rest = next;
        }
    }
    listing
}

/// Where the first row of a text begins.
fn row_start(text: &str) -> Option<usize> {
    let mut at_start = true;
    for (at, c) in text.char_indices() {
        if at_start && c.is_ascii_digit() && text.get(at..).is_some_and(begins_row) {
            return Some(at);
        }
        at_start = c.is_whitespace();
    }
    None
}

fn begins_row(text: &str) -> bool {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    rest.strip_prefix(',').is_some_and(|rest| rest.trim_start().starts_with('"'))
}

/// Id, name, and what follows the closing quote.
fn head(row: &str) -> Option<(&str, &str, &str)> {
    let (id, rest) = row.split_once(',')?;
    let (name, after) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    Some((id.trim(), name, after))
}

/// NVIDIA's `creatable_vgpu_types`: lines `1145  : NVIDIA L40S-1B`, sometimes below a heading `ID    : vGPU Name`.
pub fn creatable(text: &str) -> Listing {
    let mut listing = Listing::default();
    listing.note_encoding(text);
    for (number, line) in text.lines().enumerate() {
        match line.split_once(':').map(|(id, name)| (id.trim(), name.trim())) {
            Some((id, name)) if !id.is_empty() && id.chars().all(|c| c.is_ascii_digit()) => {
                if name.is_empty() {
                    listing.warnings.insert("a row has no name: it may be cut");
                }
                listing.push(id, Some(name), Vec::new());
            }
            Some(_) if number == 0 => {}
            None if line.trim().is_empty() => {}
            _ => {
                listing.warnings.insert("a line that is no row is passed over");
            }
        }
    }
    listing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const M60: &str =
        "# vgpu_type_id, vgpu_type, max_instance, num_heads, frl_config, framebuffer, max_resolution
11 ,\"GRID M60-0B\", 16, 2, 45, 512M, 2560x1600
12 ,\"GRID M60-0Q\", 16, 2, 60, 512M, 2560x1600
18 ,\"GRID M60-8Q\", 1, 4, 60, 8192M, 3840x2160
";

    fn ids(listing: &Listing) -> Vec<u32> {
        listing.rows.iter().map(|row| row.id).collect()
    }

    #[test]
    fn both_layouts_of_the_table_say_the_same() {
        let lines = table(M60);
        assert_eq!(ids(&lines), [11, 12, 18]);
        assert_eq!(lines.id_column.as_deref(), Some("vgpu_type_id"));
        assert_eq!(lines.rows[2].name.as_deref(), Some("GRID M60-8Q"));
        assert_eq!(lines.rows[2].properties[3], ("framebuffer".to_owned(), "8192M".to_owned()));
        assert_eq!(lines.warnings, BTreeSet::new());
        let (heading, rows) = M60.split_once('\n').unwrap();
        for layout in [
            format!("{heading}\n{}", rows.replace('\n', " ")),
            format!("{heading} {}", rows.replace('\n', " ")),
        ] {
            assert_eq!(table(&layout), lines, "{layout}");
        }
    }

    #[test]
    fn another_vendor_has_other_columns_or_none() {
        let other = table("# id, name, lanes\n3, \"Crypto small\", 4\n");
        assert_eq!(other.id_column.as_deref(), Some("id"));
        assert_eq!(other.rows[0].properties, [("lanes".to_owned(), "4".to_owned())]);
        assert_eq!(table("7 ,\"no heading\", 1").rows[0].id, 7);
        assert_eq!(table(""), Listing::default());
    }

    #[test]
    fn damage_leaves_usable_rows_and_one_warning_each() {
        let warn = |text: &str| {
            let listing = table(text);
            (ids(&listing), listing.warnings.into_iter().collect::<Vec<_>>())
        };
        let cut = M60.strip_suffix(", 3840x2160\n").unwrap();
        assert_eq!(
            warn(cut),
            (vec![11, 12, 18], vec!["a row is shorter than the heading: its last value may be cut"])
        );
        assert_eq!(
            warn(&M60.replace("M60-8Q\"", "M60-8Q")),
            (vec![11, 12], vec!["a row whose name has no closing quote is left out"])
        );
        assert_eq!(
            warn(&M60.replace("12 ,", "4294967296 ,")),
            (vec![11, 18], vec!["an id beyond 32 bits is left out"])
        );
        assert_eq!(
            warn(&M60.replace("12 ,", "11 ,")),
            (vec![11, 18], vec!["of rows with the same id the first one counts"])
        );
        assert_eq!(warn(&M60.replace('\n', "\r\n")), (vec![11, 12, 18], vec!["its lines end in CRLF"]));
        let bytes = table(&M60.replace("M60-0Q", "\u{fffd}"));
        assert_eq!((bytes.rows[1].id, bytes.rows[1].name.as_deref()), (12, None));
        assert_eq!(bytes.warnings.len(), 1);
        assert_eq!(
            warn(&M60.replace("12 ,\"", "12")),
            (vec![11, 18], vec!["text that begins no row is passed over"])
        );
    }

    #[test]
    fn the_list_has_a_heading_or_none() {
        let rows = "1145  : NVIDIA L40S-1B\n1146  : NVIDIA L40S-2B\n";
        let plain = creatable(rows);
        assert_eq!(ids(&plain), [1145, 1146]);
        assert_eq!(plain.rows[0].name.as_deref(), Some("NVIDIA L40S-1B"));
        assert_eq!(creatable(&format!("ID    : vGPU Name\n{rows}")), plain);
        assert_eq!(creatable(""), Listing::default());
        let bad = creatable("1145 : A\n11\n99999999999 : B\n1145 : C\n: D\n1146 :");
        assert_eq!(ids(&bad), [1145, 1146]);
        assert_eq!(bad.rows[1].name, None);
        assert_eq!(bad.warnings.len(), 4);
    }

    #[test]
    fn a_mebibyte_of_rows_is_no_trouble() {
        let rows: String = (0..1 << 16).map(|id| format!("{id} ,\"GRID {id}\" ")).collect();
        assert!(rows.len() > 1 << 20);
        assert_eq!(table(&rows).rows.len(), 1 << 16);
        assert_eq!(creatable(&rows.replace(" ,\"", " : ").replace("\" ", "\n")).rows.len(), 1 << 16);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic_or_invent_ids(text in "[0-9]{0,12}[ ,:\"#\\n\\r]{0,3}\\PC{0,60}([0-9]{1,3} ,\"[a-z]{0,4}\"?,? ?[0-9]?\\n?){0,6}") {
            for row in table(&text).rows.iter().chain(&creatable(&text).rows) {
                prop_assert!(text.contains(&row.id.to_string()) || text.contains(&format!("0{}", row.id)), "{}", row.id);
            }
        }
    }
}
