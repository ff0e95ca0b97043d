//! Measures `tar` of the whole tree: all names, attributes and contents.

use std::path::Path;

use anyhow::Result;

use super::Findings;
use crate::bench::Bench;
use crate::measure::{Spent, run, shell};
use crate::trees::{Trees, WAYS};

/// The pipe is needed because tar detects /dev/null and would read nothing.
const TAR: &str = "tar cf - -C \"$1\" . | cat >/dev/null";

pub(crate) fn measure(bench: &Bench, trees: &Trees<'_>) -> Result<Findings> {
    let work = |path: &Path, _| Ok(tar(path)?.wall_only());
    let groups =
        vec![trees.warm("tar, warm", &WAYS, bench.runs, &work), trees.cold("tar, cold", &WAYS, &work)];
    Ok(Findings::new(groups, &["`tar cf - . | cat >/dev/null` in the root of the tree."]))
}

/// Reads a whole tree.
pub(crate) fn tar(path: &Path) -> Result<Spent> {
    run(&mut shell(TAR, &[path]))
}
