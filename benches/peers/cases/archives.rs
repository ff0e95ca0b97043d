//! Measures other programs that mount a tar with FUSE, on one layer: they do not support images.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Findings, blobs, read_once};
use crate::bench::Bench;
use crate::measure::{Contender, Quantity, Sample, race, run_within, shell};
use crate::mounts::Point;
use crate::report::Group;
use crate::report::unit::Unit;
use crate::tools::{self, Need, missing};
use crate::trees::Trees;

const FIRST: Quantity = ("first mount", Unit::Seconds);
const AGAIN: Quantity = ("second mount", Unit::Seconds);
const READ: Quantity = ("reading all", Unit::Seconds);
/// Time limit of a mount.
const LIMIT: Duration = Duration::from_secs(60);
const TAR: &str = "tar cf - -C \"$1\" . | cat >/dev/null";

/// A peer. Its options come before archive and mount point; some peers store an index in a directory.
#[derive(Debug, Clone, Copy)]
struct Peer {
    program: &'static str,
    options: &'static [&'static str],
    keeps_index: Option<&'static str>,
}

const PEERS: [Peer; 3] = [
    Peer { program: "ratarmount", options: &[], keeps_index: Some("--index-folders") },
    Peer { program: "fuse-archive", options: &[], keeps_index: None },
    Peer { program: "archivemount", options: &["-o", "readonly"], keeps_index: None },
];

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let groups = [
        ("largest layer of the real image", bench.inputs.largest_layer()?),
        ("a small layer of the real image", bench.inputs.small_layer()?),
    ];
    let groups = groups.iter().map(|(title, image)| compare(bench, title, image));
    let notes = [
        "Reading all is `tar` of the whole mount, right after the second mount; the archive is in memory.",
        "Who has no figure there took more than 60 s. `imgmount` mounts an image of that layer alone, and checks its digests.",
    ];
    Ok(Findings::new(groups.collect::<Result<_>>()?, &notes))
}

fn compare(bench: &Bench, title: &str, image: &Path) -> Result<Group> {
    let layers = blobs(image)?;
    read_once(&layers)?;
    // Some peers detect the format from the file name.
    let dir = bench.directory("archive-")?;
    let archive = dir.path().join("layer.tar.gz");
    std::os::unix::fs::symlink(&layers[0], &archive)?;
    let mut contenders = vec![Contender::new("imgmount", bench.runs, || ours(bench, image))];
    for peer in &PEERS {
        let archive = &archive;
        let measured = move || theirs(bench, peer, archive);
        let needs = [Need::Program(peer.program)];
        contenders.push(Contender::new(peer.program, bench.few_runs(), measured).unless(missing(&needs)));
    }
    Ok(race(title, contenders))
}

fn ours(bench: &Bench, image: &Path) -> Result<Sample> {
    let cache = bench.directory("cache-")?;
    let (first, served) = bench.mount(cache.path(), image, &[])?;
    drop(served);
    let (again, served) = bench.mount(cache.path(), image, &[])?;
    figures(first.wall, again.wall, served.path())
}

fn theirs(bench: &Bench, peer: &Peer, archive: &Path) -> Result<Sample> {
    let index = bench.directory("index-")?;
    let (first, point) = mount(bench, peer, archive, index.path())?;
    drop(point);
    let (again, point) = mount(bench, peer, archive, index.path())?;
    figures(first, again, point.path())
}

/// Mounts with a peer. Returns the seconds until the mount can be used.
fn mount(bench: &Bench, peer: &Peer, archive: &Path, index: &Path) -> Result<(f64, Point)> {
    let mut point = Point::below(bench.work.path())?;
    let mut command: Command = tools::command(peer.program);
    if let Some(option) = peer.keeps_index {
        command.arg(option).arg(index);
    }
    let start = Instant::now();
    let command = command.args(peer.options).arg(archive).arg(point.path());
    run_within(command, 0, Some(LIMIT))?.context("does not mount in time")?;
    point.wait_until_mounted()?;
    let wall = start.elapsed().as_secs_f64();
    point.find_server()?;
    Ok((wall, point))
}

fn figures(first: f64, again: f64, mounted: &Path) -> Result<Sample> {
    let mut sample = vec![(FIRST, first), (AGAIN, again)];
    if let Some(read) = run_within(&mut shell(TAR, &[mounted]), 0, Some(LIMIT))? {
        sample.push((READ, read.wall));
    }
    Ok(Sample(sample))
}
