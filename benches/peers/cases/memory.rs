//! What the serving process holds in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::random_read::Files;
use super::{Findings, read, walk};
use crate::bench::{Bench, Memory, Served};
use crate::inputs::Real;
use crate::made::random::Random;
use crate::measure::{Contender, Quantity, Sample, race, row, say};
use crate::report::Group;
use crate::report::unit::{Unit, to_f64};
use crate::trees::Trees;

const PEAK: Quantity = ("VmHWM", Unit::Bytes);
const PEAK_AN_ENTRY: Quantity = ("VmHWM an entry", Unit::BytesPerEntry);
const NOW: Quantity = ("VmRSS", Unit::Bytes);
const OWN: Quantity = ("RssAnon", Unit::Bytes);
const MAPPED: Quantity = ("RssFile", Unit::Bytes);
const GROWTH: Quantity = ("VmRSS since the start", Unit::Bytes);
const READS: Quantity = ("reads", Unit::Number);

/// So many reads fill the cache before the soak test starts.
const READS_BEFORE: u32 = 2000;

const NOTES: &[&str] = &[
    "VmHWM is the most that the process ever held, with pages of files that it has mapped; RssAnon and RssFile are \
     its own pages and those, at that moment. The cache has its default size, 256 MiB.",
    "The soak test reads 4 KiB at random, as under \"Reading at random\", for so long, once 2000 reads have \
     filled the cache.",
];

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let groups = vec![real_image(bench)?, many_files(bench)?, soak(bench)?];
    Ok(Findings::new(groups, NOTES))
}

fn real_image(bench: &Bench) -> Result<Group> {
    let image = bench.inputs.real(Real::GzipLayout)?;
    let cache = bench.index(&image)?;
    let mounted = || {
        let (_, served) = bench.first_mount(&image, &[])?;
        Ok(figures(served.memory()?))
    };
    let mounted_and_read = || {
        let (_, served) = bench.first_mount(&image, &[])?;
        read::tar(served.path())?;
        Ok(figures(served.memory()?))
    };
    let remounted_and_read = || {
        let (_, served) = bench.mount(cache.path(), &image, &[])?;
        read::tar(served.path())?;
        Ok(figures(served.memory()?))
    };
    let contenders = vec![
        Contender::new("after first mount", bench.runs, mounted),
        Contender::new("after first mount and reading all", bench.runs, mounted_and_read),
        Contender::new("after remount and reading all", bench.runs, remounted_and_read),
    ];
    Ok(race("real image", contenders))
}

fn many_files(bench: &Bench) -> Result<Group> {
    let image = bench.inputs.many_files(bench.inputs.sizes.many_files)?;
    let cache = bench.index(&image)?;
    // Directories are few.
    let entries = to_f64(bench.inputs.sizes.many_files as u64);
    let an_entry = |served: &Served| {
        let memory = served.memory()?;
        let mut sample = vec![(PEAK_AN_ENTRY, to_f64(memory.peak) / entries)];
        sample.extend(figures(memory).0);
        Ok(Sample(sample))
    };
    let first = || an_entry(&bench.first_mount(&image, &[])?.1);
    let again = || an_entry(&bench.mount(cache.path(), &image, &[])?.1);
    let walked = || {
        let (_, served) = bench.mount(cache.path(), &image, &[])?;
        walk::find(served.path())?;
        an_entry(&served)
    };
    let contenders = vec![
        Contender::new("first mount", bench.few_runs(), first),
        Contender::new("remount", bench.few_runs(), again),
        Contender::new("remount and walk", bench.few_runs(), walked),
    ];
    Ok(race("many small files", contenders))
}

/// Reads at random for as long as was asked for, and looks at memory at the start, in the middle and at the
/// end.
fn soak(bench: &Bench) -> Result<Group> {
    let image = bench.inputs.real(Real::GzipLayout)?;
    let (_, served) = bench.first_mount(&image, &[])?;
    let files = Files::below(served.path())?;
    let mut random = Random::new(0);
    let mut reads = 0_u32;
    while reads < READS_BEFORE {
        files.read_somewhere(served.path(), &mut random)?;
        reads += 1;
    }
    let mut samples = Vec::new();
    for moment in ["start", "middle", "end"] {
        if moment != "start" {
            read_until(&files, served.path(), bench.soak / 2, &mut random, &mut reads)?;
        }
        let memory = served.memory()?;
        let first = samples.first().map_or(memory, |(_, _, memory): &(_, _, Memory)| *memory);
        say(&format!("soak: {moment}: {} after {reads} reads", Unit::Bytes.show(to_f64(memory.now))));
        let figures = Sample(vec![
            (NOW, to_f64(memory.now)),
            (GROWTH, to_f64(memory.now) - to_f64(first.now)),
            (OWN, to_f64(memory.own)),
            (MAPPED, to_f64(memory.files)),
            (READS, f64::from(reads)),
        ]);
        samples.push((moment, figures, memory));
    }
    let rows = samples.into_iter().map(|(moment, figures, _)| row(moment, &[figures])).collect();
    Ok(Group { title: format!("random reads for {} s", bench.soak.as_secs()), rows })
}

fn read_until(
    files: &Files,
    root: &Path,
    time: Duration,
    random: &mut Random,
    reads: &mut u32,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        files.read_somewhere(root, random)?;
        *reads = reads.checked_add(1).context("too many reads")?;
    }
    Ok(())
}

fn figures(memory: Memory) -> Sample {
    Sample(vec![(PEAK, to_f64(memory.peak)), (OWN, to_f64(memory.own)), (MAPPED, to_f64(memory.files))])
}
