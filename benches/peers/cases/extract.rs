//! Measures the extraction of the whole tree.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Findings;
use crate::bench::Bench;
use crate::inputs::{Real, UNPACKED, tagged};
use crate::measure::{Contender, Sample, race, run};
use crate::mounts::Scratch;
use crate::report::Group;
use crate::tools::{self, Need, missing};
use crate::trees::Trees;

const NOTES: &[&str] = &[
    "To disk is to a new ext4 in a file, through a loop device. Inputs are in memory; `tar x` reads the whole tree as one plain tar from a tmpfs. Nobody is made to wait for \
     the disk at the end; it is synced between the runs.",
    "`imgmount` has the index cached; `imgmount, no index` makes and keeps it, and checks every digest.",
];

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let image = bench.inputs.real(Real::GzipLayout)?;
    let cache = bench.index(&image)?;
    let needs_root = || missing(&[Need::Root]);
    let tar = match missing(&UNPACKED) {
        Some(why) => Err(why),
        None => {
            let memory = Scratch::in_memory(bench.work.path())?;
            let copy = memory.path().join("flat.tar");
            std::fs::copy(bench.inputs.flat_tar()?, &copy)?;
            Ok((memory, copy))
        }
    };
    let tar = tar.as_ref().map(|(_, copy)| copy.as_path()).map_err(Clone::clone);
    let groups = vec![
        extract(bench, "to disk", &image, cache.path(), tar.clone(), None, Scratch::on_disk),
        extract(bench, "to tmpfs", &image, cache.path(), tar, needs_root(), Scratch::in_memory),
    ];
    Ok(Findings::new(groups, NOTES))
}

fn extract(
    bench: &Bench,
    title: &str,
    image: &Path,
    cache: &Path,
    tar: Result<&Path, String>,
    lacks: Option<String>,
    scratch: fn(&Path) -> Result<Scratch>,
) -> Group {
    let to =
        |command: &mut Command, target: &Path| -> Result<Sample> { Ok(run(command.arg(target))?.with_cpu()) };
    let target = move || scratch(bench.work.path());
    let ours = |cache: &Path| {
        let target = target()?;
        to(bench.imgmount(cache, &["extract", "-q"]).arg(image), &target.path().join("tree"))
    };
    let umoci = || {
        let target = target()?;
        let mut command = tools::command("umoci");
        to(command.args(["unpack", "--image"]).arg(tagged(image)), &target.path().join("bundle"))
    };
    let untar = || {
        let target = target()?;
        let mut command = Command::new("tar");
        command.args(["--numeric-owner", "--xattrs", "-xpf"]).arg(tar.clone().unwrap_or(Path::new("")));
        to(command.arg("-C"), target.path())
    };
    let contenders = vec![
        Contender::new("imgmount", bench.runs, || ours(cache)).unless(lacks.clone()),
        Contender::new("imgmount, no index", bench.runs, || ours(bench.directory("cache-")?.path()))
            .unless(lacks.clone()),
        Contender::new("umoci unpack", bench.few_runs(), umoci).unless(missing(&UNPACKED).or(lacks.clone())),
        Contender::new("tar x", bench.runs, untar).unless(tar.clone().err().or(lacks)),
    ];
    race(title, contenders)
}
