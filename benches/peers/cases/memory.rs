//! Measures the memory of the serving process.

use anyhow::Result;

use super::{Findings, read, walk};
use crate::bench::{Bench, Memory, Served};
use crate::inputs::Real;
use crate::measure::{Contender, Quantity, Sample, race};
use crate::report::Group;
use crate::report::unit::{Unit, to_f64};
use crate::trees::Trees;

const PEAK: Quantity = ("VmHWM", Unit::Bytes);
const PEAK_AN_ENTRY: Quantity = ("VmHWM an entry", Unit::BytesPerEntry);
pub(super) const OWN: Quantity = ("RssAnon", Unit::Bytes);
pub(super) const MAPPED: Quantity = ("RssFile", Unit::Bytes);

const NOTES: &[&str] = &[
    "VmHWM is the most that the process ever held, with pages of files that it has mapped; RssAnon and RssFile are \
     its own pages and those, at that moment. The cache has its default size, 256 MiB.",
];

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let groups = vec![real_image(bench)?, many_files(bench)?];
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
    // Directories are few and not counted.
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

fn figures(memory: Memory) -> Sample {
    Sample(vec![(PEAK, to_f64(memory.peak)), (OWN, to_f64(memory.own)), (MAPPED, to_f64(memory.files))])
}
