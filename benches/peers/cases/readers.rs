//! Measures several threads that each read whole files of their own: how throughput grows with their
//! number.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::Findings;
use super::random_read::Files;
use crate::bench::Bench;
use crate::measure::{Quantity, Sample, WALL};
use crate::report::unit::{Unit, to_f64};
use crate::report::{Figure, Group};
use crate::trees::{Trees, Way};

const READERS: [usize; 4] = [1, 2, 4, 8];
const WAYS: [Way; 4] = [Way::Imgmount, Way::Erofs, Way::Squashfs, Way::Unpacked];
const THROUGHPUT: Quantity = ("throughput", Unit::BytesPerSecond);

pub(crate) fn measure(_: &Bench, trees: &Trees<'_>) -> Result<Findings> {
    let files = Files::below(trees.mount(Way::Imgmount)?.path())?;
    let read = |count: usize| {
        let work = |path: &Path, _| read_all(&files, path, count);
        trees.cold(&format!("{count} at once, cold"), &WAYS, &work)
    };
    let mut groups: Vec<Group> = READERS.into_iter().map(read).collect();
    let alone = groups[0].clone();
    for group in &mut groups {
        add_scale(group, &alone);
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut findings = Findings::new(
        groups,
        &[
            "Whole files of the tree, split among the readers in runs of the same length; `scale` is throughput by \
           that of one reader.",
        ],
    );
    findings.notes.push(format!("This machine has {cores} cores, for readers and servers alike."));
    Ok(findings)
}

/// Adds to each row its throughput relative to that of one reader.
fn add_scale(group: &mut Group, alone: &Group) {
    for row in &mut group.rows {
        let one = alone.row(&row.contender).and_then(|row| row.figure(THROUGHPUT.0));
        let scale = row.figure(THROUGHPUT.0).zip(one).map(|(now, one)| now.median / one.median);
        row.figures.extend(scale.and_then(|scale| Figure::of("scale", Unit::Number, vec![scale])));
    }
}

fn read_all(files: &Files, root: &Path, readers: usize) -> Result<Sample> {
    let shares = files.split(readers);
    let start = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> =
            shares.iter().map(|share| scope.spawn(move || read_files(root, share))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a reader panicked")).and_then(|done| done)
        })
    })?;
    let wall = start.elapsed().as_secs_f64();
    Ok(Sample(vec![(WALL, wall), (THROUGHPUT, to_f64(files.total_len()) / wall)]))
}

fn read_files(root: &Path, files: &[&Path]) -> Result<()> {
    for file in files {
        let path = root.join(file);
        let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
        read.with_context(|| format!("cannot read '{}'", path.display()))?;
    }
    Ok(())
}
