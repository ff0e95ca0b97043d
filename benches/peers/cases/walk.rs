//! Measures `find -ls`: names and attributes of everything.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::Findings;
use crate::bench::Bench;
use crate::measure::{Spent, output, run};
use crate::trees::{Trees, WAYS, Way};

pub(crate) fn measure(bench: &Bench, trees: &Trees<'_>) -> Result<Findings> {
    let entries = count(trees.mount(Way::Imgmount)?.path())?;
    let walk = |path: &Path, run: usize| {
        // An incomplete tree would be walked faster, so the first run checks the number of names.
        if run == 0 {
            let found = count(path)?;
            ensure!(found == entries, "{found} entries, {entries} in imgmount's tree");
        }
        Ok(find(path)?.wall_only())
    };
    let groups = vec![
        trees.warm("find -ls, warm", &WAYS, bench.many_runs(), &walk),
        trees.cold("find -ls, cold", &WAYS, &walk),
    ];
    let mut findings = Findings::new(groups, &[]);
    findings.notes.push(format!("The tree has {entries} entries. Every way shows as many."));
    Ok(findings)
}

/// Walks a tree.
pub(crate) fn find(path: &Path) -> Result<Spent> {
    run(Command::new("find").arg(path).args(["-xdev", "-ls"]))
}

fn count(path: &Path) -> Result<usize> {
    let dots = output(Command::new("find").arg(path).args(["-xdev", "-printf", "."]))?;
    Ok(dots.len())
}
