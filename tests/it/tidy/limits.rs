//! Compares docs/limits.md with the table of limits.

use std::fs;
use std::path::Path;

use imgmount::{Limit, Limits};

/// Returns the cells of the rows of a page whose first cell is the name of a limit.
fn rows(page: &str) -> Vec<Vec<String>> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    cells
        .filter(|cells| cells[0].strip_suffix('`').is_some_and(|name| Limit::named(name).is_some()))
        .collect()
}

/// Writes a number with commas between groups of three digits.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[test]
fn docs_limits_has_the_table_of_the_source() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limits.md")).unwrap();
    let expected: Vec<_> = Limits::all()
        .map(|limit| {
            let cells = [
                format!("{}`", limit.name),
                with_commas(limit.default),
                limit.bounds.to_owned(),
                limit.reason.to_owned(),
            ];
            cells.to_vec()
        })
        .collect();
    assert_eq!(rows(&page), expected, "write the rows of docs/limits.md as in src/limits.rs");
}
