//! Sums up differences by kind of change and by directory. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::diff::Pair;
use super::output::json_name;
use imgmount::{Difference, DifferenceKind, escape};

/// Directories are listed separately down to this depth: `/usr/lib`.
const DEPTH: usize = 2;

/// A number of paths, and the bytes of the regular files among them.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Amount {
    pub(crate) paths: u64,
    /// Bytes in the first image.
    pub(crate) a_size: u64,
    /// Bytes in the second image.
    pub(crate) b_size: u64,
}

/// The differences below a directory.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Counts {
    pub(crate) added: Amount,
    pub(crate) deleted: Amount,
    pub(crate) modified: Amount,
}

/// The total of all differences, and the sum for each directory.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Stat {
    #[serde(flatten)]
    pub(crate) all: Counts,
    pub(crate) directories: Vec<DirectoryStat>,
}

/// One directory of a [`Stat`].
#[derive(Debug, Serialize)]
pub(crate) struct DirectoryStat {
    #[serde(skip)]
    pub(crate) bytes: Vec<u8>,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

impl Amount {
    fn add(&mut self, a_size: u64, b_size: u64) {
        self.paths += 1;
        self.a_size = self.a_size.saturating_add(a_size);
        self.b_size = self.b_size.saturating_add(b_size);
    }
}

impl Counts {
    /// Counts one difference.
    pub(crate) fn add(&mut self, pair: &Pair<'_>, difference: &Difference) {
        let (a_size, b_size) = pair.sizes(difference);
        match difference.kind {
            DifferenceKind::Added(_) => self.added.add(a_size, b_size),
            DifferenceKind::Deleted(_) => self.deleted.add(a_size, b_size),
            DifferenceKind::Modified { .. } => self.modified.add(a_size, b_size),
        }
    }

    /// Returns the sum of the three kinds.
    pub(crate) fn total(&self) -> Amount {
        let mut total = Amount::default();
        for kind in [self.added, self.deleted, self.modified] {
            total.paths += kind.paths;
            total.a_size = total.a_size.saturating_add(kind.a_size);
            total.b_size = total.b_size.saturating_add(kind.b_size);
        }
        total
    }
}

impl Stat {
    pub(crate) fn of(pair: &Pair<'_>, differences: &[Difference]) -> Self {
        let mut all = Counts::default();
        let mut directories: BTreeMap<Vec<u8>, Counts> = BTreeMap::new();
        for difference in differences {
            all.add(pair, difference);
            directories.entry(directory(&difference.path)).or_default().add(pair, difference);
        }
        let directories = directories
            .into_iter()
            .map(|(bytes, counts)| {
                let (path, path_b64) = json_name(&bytes);
                DirectoryStat { path, path_b64, bytes, counts }
            })
            .collect();
        Stat { all, directories }
    }
}

/// Returns the directory that a path is counted under.
fn directory(path: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(1).collect();
    components.pop();
    components.truncate(DEPTH);
    [b"/", components.join(&b'/').as_slice()].concat()
}

/// Formats the summary as text: two tables.
pub(crate) fn table(stat: &Stat) -> Vec<String> {
    let Counts { added, deleted, modified } = stat.all;
    let kinds = [("added", added), ("deleted", deleted), ("modified", modified), ("total", stat.all.total())];
    let mut rows = vec![["", "PATHS", "A BYTES", "B BYTES"].map(str::to_owned).to_vec()];
    rows.extend(kinds.map(|(name, amount)| {
        let Amount { paths, a_size, b_size } = amount;
        vec![name.to_owned(), paths.to_string(), a_size.to_string(), b_size.to_string()]
    }));
    let mut lines = columns(&rows);
    let head = ["DIRECTORY", "ADDED", "DELETED", "MODIFIED", "A BYTES", "B BYTES"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(stat.directories.iter().map(|DirectoryStat { bytes, counts, .. }| {
        let Amount { a_size, b_size, .. } = counts.total();
        let numbers = [counts.added.paths, counts.deleted.paths, counts.modified.paths, a_size, b_size];
        std::iter::once(escape(bytes)).chain(numbers.map(|number| number.to_string())).collect()
    }));
    lines.push(String::new());
    lines.extend(columns(&rows));
    lines
}

/// Aligns the first column to the left, all others to the right.
fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().filter_map(|row: &Vec<String>| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_count_under_their_directory_to_a_depth_of_two() {
        let table = [("/", "/"), ("/a", "/"), ("/a/b", "/a"), ("/a/b/c", "/a/b"), ("/a/b/c/d", "/a/b")];
        for (path, expected) in table {
            assert_eq!(directory(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
