//! Measures one large gzip layer: the parallelism within a layer, without other layers to work on.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Findings, blobs, first_mount, read_once, scripted};
use crate::bench::Bench;
use crate::measure::{Contender, race, run, shell};
use crate::mounts::{Scratch, is_root};
use crate::report::Group;
use crate::tools::{Need, missing};
use crate::trees::Trees;

const NOTES: &[&str] = &[
    "`cores` is CPU time by wall time: how many cores were busy.",
    "`extract`, `verify` and `export` have the index cached and the image in memory; what is extracted goes to a \
     tmpfs (as root), what is exported nowhere.",
];

const GZIP: &str = "gzip -dc \"$1\" >/dev/null";
const PIGZ: &str = "pigz -dc \"$1\" >/dev/null";
const IGZIP: &str = "igzip -dc \"$1\" >/dev/null";
const IGZIP_OPENSSL: &str = "igzip -dc \"$1\" | openssl dgst -sha256 >/dev/null";

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let mut findings = Findings::new(Vec::new(), NOTES);
    let dense = format!("The dense file has {} MiB.", bench.inputs.sizes.dense_mib);
    findings.notes.push(dense);
    for (name, image) in
        [("dense file", bench.inputs.dense()?), ("largest real layer", bench.inputs.largest_layer()?)]
    {
        let layers = blobs(&image)?;
        read_once(&layers)?;
        let cache = bench.index(&image)?;
        findings.groups.extend([
            mount(bench, name, &image, &layers),
            extract(bench, name, &image, &layers, cache.path()),
            verify(bench, name, &image, &layers, cache.path()),
            export(bench, name, &image, &layers, cache.path()),
        ]);
    }
    Ok(findings)
}

fn mount(bench: &Bench, name: &str, image: &Path, layers: &[PathBuf]) -> Group {
    let contenders = vec![
        first_mount(bench, image, &[]),
        scripted("igzip -dc", bench.runs, "igzip", IGZIP, layers),
        scripted("gzip -dc", bench.few_runs(), "gzip", GZIP, layers),
        scripted("pigz -dc", bench.few_runs(), "pigz", PIGZ, layers),
    ];
    race(&format!("{name}: first mount"), contenders)
}

fn extract(bench: &Bench, name: &str, image: &Path, layers: &[PathBuf], cache: &Path) -> Group {
    let scratch = || {
        let work = bench.work.path();
        if is_root() { Scratch::in_memory(work) } else { Scratch::on_disk(work) }
    };
    let ours = move || {
        let target = scratch()?;
        let mut command = bench.imgmount(cache, &["extract", "-q"]);
        Ok(run(command.arg(image).arg(target.path().join("tree")))?.with_cpu())
    };
    let tar = move || {
        let target = scratch()?;
        let arguments = [layers[0].as_path(), target.path()];
        Ok(run(&mut shell("igzip -dc \"$1\" | tar x -C \"$2\"", &arguments))?.with_cpu())
    };
    let tar = Contender::new("igzip -dc | tar x", bench.runs, tar).unless(missing(&[Need::Program("igzip")]));
    race(&format!("{name}: extract"), vec![Contender::new("imgmount", bench.runs, ours), tar])
}

fn verify(bench: &Bench, name: &str, image: &Path, layers: &[PathBuf], cache: &Path) -> Group {
    let ours = move || Ok(run(bench.imgmount(cache, &["verify"]).arg(image))?.with_cpu());
    let peer = scripted("igzip -dc | openssl dgst", bench.runs, "igzip", IGZIP_OPENSSL, layers);
    race(&format!("{name}: verify"), vec![Contender::new("imgmount", bench.runs, ours), peer])
}

fn export(bench: &Bench, name: &str, image: &Path, layers: &[PathBuf], cache: &Path) -> Group {
    let ours = move || Ok(run(bench.imgmount(cache, &["export"]).arg(image))?.with_cpu());
    let peer = scripted("igzip -dc", bench.runs, "igzip", IGZIP, layers);
    race(&format!("{name}: export"), vec![Contender::new("imgmount", bench.runs, ours), peer])
}
