//! Measures mounts of an image that was mounted before: its indexes are read, and none of its layers.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Findings;
use crate::bench::Bench;
use crate::inputs::Real;
use crate::measure::{Contender, race};
use crate::mounts::drop_caches;
use crate::report::Group;
use crate::tools::{Need, missing};
use crate::trees::Trees;

const NOTES: &[&str] =
    &["From the start of the command to its end, when the mount can be used. Cold: after `drop_caches`."];

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let sizes = bench.inputs.sizes;
    let images: [(&str, PathBuf); 4] = [
        ("real image", bench.inputs.real(Real::GzipLayout)?),
        ("real image, docker-archive", bench.inputs.real(Real::DockerArchive)?),
        ("many small files", bench.inputs.many_files(sizes.many_files)?),
        ("many layers", bench.inputs.layers(sizes.layers, 1000)?),
    ];
    let groups = images.iter().map(|(title, image)| remount(bench, title, image));
    Ok(Findings::new(groups.collect::<Result<_>>()?, NOTES))
}

fn remount(bench: &Bench, title: &str, image: &Path) -> Result<Group> {
    let cache = bench.index(image)?;
    let warm = || Ok(bench.mount(cache.path(), image, &[])?.0.with_cpu());
    let cold = || {
        drop_caches()?;
        warm()
    };
    // The two do not take turns: each cold run would leave the next warm run with less in the page cache.
    let mut group = race(title, vec![Contender::new("imgmount", bench.many_runs(), warm)]);
    let cold = Contender::new("imgmount, cold", bench.runs, cold).unless(missing(&[Need::Root]));
    group.rows.extend(race(title, vec![cold]).rows);
    Ok(group)
}
