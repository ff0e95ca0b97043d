//! Measures the comparison of two versions of an image.

use std::process::Command;

use anyhow::Result;

use super::Findings;
use crate::bench::Bench;
use crate::inputs::{Real, UNPACKED};
use crate::measure::{Contender, race, run_to};
use crate::tools::missing;
use crate::trees::Trees;

/// Exit status if the versions differ, which is the expected result.
const DIFFERENT: i32 = 1;

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let images = [bench.inputs.real(Real::GzipLayout)?, bench.inputs.real(Real::NextLayout)?];
    let cache = bench.directory("cache-")?;
    for image in &images {
        bench.mount(cache.path(), image, &[])?;
    }
    let ours = || {
        let mut command = bench.imgmount(cache.path(), &["diff"]);
        Ok(run_to(command.args(&images), DIFFERENT)?.with_cpu())
    };
    let absent = missing(&UNPACKED);
    let trees = match &absent {
        None => vec![bench.inputs.real(Real::Rootfs)?, bench.inputs.next_rootfs()?],
        Some(_) => Vec::new(),
    };
    let theirs = || {
        let mut command = Command::new("diff");
        command.args(["-rq", "--no-dereference"]).args(&trees);
        Ok(run_to(&mut command, DIFFERENT)?.with_cpu())
    };
    if absent.is_none() {
        theirs()?;
    }
    let contenders = vec![
        Contender::new("imgmount", bench.runs, ours),
        Contender::new("diff -rq", bench.runs, theirs).unless(absent),
    ];
    let notes = [
        "The images share their lower layers; indexes are cached. `diff -rq` compares the two unpacked trees, \
                  in memory.",
    ];
    Ok(Findings::new(vec![race("two versions of the real image", contenders)], &notes))
}
