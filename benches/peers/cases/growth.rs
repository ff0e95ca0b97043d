//! How costs grow with the number of files and of layers. Worse than linear is a defect.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Findings, walk};
use crate::bench::Bench;
use crate::measure::{Contender, Quantity, Sample, race};
use crate::report::plot::{Line, Panel, Plot};
use crate::report::stats::{exponents, max};
use crate::report::unit::Unit;
use crate::report::{Figure, Group, Row};
use crate::trees::Trees;

/// Files in each layer where layers are added, and in all of them where files are spread.
const EACH: usize = 1000;
const SPREAD: usize = 100_000;
const FILES: [usize; 4] = [1000, 10_000, 100_000, 1_000_000];
const LAYERS: [usize; 8] = [1, 2, 5, 10, 20, 50, 100, 200];
/// In a quick run.
const QUICK_SPREAD: usize = 10_000;

const FIRST_MOUNT: Quantity = ("first mount", Unit::Seconds);
const REMOUNT: Quantity = ("remount", Unit::Seconds);
const PEAK: Quantity = ("VmHWM", Unit::Bytes);
const WALK: Quantity = ("walk", Unit::Seconds);
const COSTS: [Quantity; 4] = [FIRST_MOUNT, REMOUNT, PEAK, WALK];

const NOTES: &[&str] = &[
    "VmHWM is that of a process that made the first mount. The walk is `find -ls` right after the remount, with the \
     image and its indexes in memory.",
    "`exponent` is e where cost grows as count^e from the line above; 1 is linear. Dashed in the plots: linear growth \
     to the last point.",
];

/// Images that differ in one number.
struct Series {
    title: &'static str,
    /// What is counted.
    unit: &'static str,
    images: Vec<(usize, PathBuf)>,
}

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let sizes = bench.inputs.sizes;
    let spread = if bench.quick { QUICK_SPREAD } else { SPREAD };
    let layers = LAYERS.into_iter().filter(|count| *count <= sizes.layers);
    let series =
        |title, unit, images: Result<Vec<_>>| Ok::<_, anyhow::Error>(Series { title, unit, images: images? });
    let files = FILES.into_iter().filter(|count| *count <= sizes.many_files);
    let files = files.map(|count| Ok((count, bench.inputs.many_files(count)?)));
    let more = layers.clone().map(|n| Ok((n, bench.inputs.lowest_layers(n, sizes.layers, EACH)?)));
    let split = layers.map(|n| Ok((n, bench.inputs.layers(n, spread / n)?)));
    let all = [
        series("files in one layer", "files", files.collect())?,
        series("layers of 1000 files", "layers", more.collect())?,
        series("the same number of files in layers", "layers", split.collect())?,
    ];
    let mut findings = Findings::new(Vec::new(), NOTES);
    findings.notes.push(format!("The same number of files is {spread}."));
    let mut panels = Vec::new();
    for series in &all {
        let measured = race(
            series.title,
            series.images.iter().map(|(count, image)| point(bench, *count, image)).collect(),
        );
        let (groups, lines) = growth(series, &measured);
        findings.groups.extend(groups);
        panels.push(lines);
    }
    let [files, layers, split] = <[Vec<Line>; 3]>::try_from(panels).ok().context("three series")?;
    let layers = layers.into_iter().zip(split).map(|(more, split)| vec![more, split]).collect();
    let files = files.into_iter().map(|line| vec![line]).collect();
    findings.plots = vec![
        plot("growth-files.svg", "Growth with files in one layer", "files", files),
        plot("growth-layers.svg", "Growth with layers", "layers", layers),
    ];
    Ok(findings)
}

/// All costs of one image.
fn point<'a>(bench: &'a Bench, count: usize, image: &'a Path) -> Contender<'a> {
    Contender::new(count.to_string(), bench.few_runs(), move || {
        let cache = bench.directory("cache-")?;
        let (first, served) = bench.mount(cache.path(), image, &[])?;
        let peak = served.memory()?.peak;
        drop(served);
        let (again, served) = bench.mount(cache.path(), image, &[])?;
        let walk = walk::find(served.path())?.0[0].1;
        #[expect(clippy::cast_precision_loss, reason = "no machine has 2^53 bytes of memory")]
        let peak = peak as f64;
        Ok(Sample(vec![(FIRST_MOUNT, first.wall), (REMOUNT, again.wall), (PEAK, peak), (WALK, walk)]))
    })
}

/// A table and a line for each cost.
fn growth(series: &Series, measured: &Group) -> (Vec<Group>, Vec<Line>) {
    let (mut groups, mut lines) = (Vec::new(), Vec::new());
    for (cost, _) in COSTS {
        let counts = series.images.iter().map(|(count, _)| *count);
        let figures = counts.zip(measured.rows.iter().map(|row| row.figure(cost)));
        let points: Vec<(f64, f64)> =
            figures.filter_map(|(count, figure)| Some((to_f64(count), figure?.median))).collect();
        let mut group = Group { title: format!("{}: {cost}", series.title), rows: Vec::new() };
        let exponents = exponents(&points);
        let before = std::iter::once(None).chain(exponents.iter().copied().map(Some));
        for (row, exponent) in measured.rows.iter().zip(before.chain(std::iter::repeat(None))) {
            let figures = row.figure(cost).cloned().into_iter().chain(figure(exponent.into_iter().collect()));
            let contender = format!("{} {}", row.contender, series.unit);
            group.rows.push(Row { contender, figures: figures.collect(), skipped: row.skipped.clone() });
        }
        group.rows.push(Row {
            contender: "steepest".to_owned(),
            figures: figure(max(&exponents).into_iter().collect()).into_iter().collect(),
            skipped: None,
        });
        groups.push(group);
        lines.push(Line { name: series.title.to_owned(), points });
    }
    (groups, lines)
}

fn figure(exponent: Vec<f64>) -> Option<Figure> {
    Figure::of("exponent", Unit::Number, exponent)
}

/// A panel for each cost.
fn plot(file: &str, title: &str, x: &str, lines: Vec<Vec<Line>>) -> Plot {
    let panels = COSTS.into_iter().zip(lines).map(|((cost, unit), lines)| Panel {
        title: cost.to_owned(),
        x: x.to_owned(),
        unit,
        lines,
    });
    Plot { file: file.to_owned(), title: title.to_owned(), panels: panels.collect() }
}

#[expect(clippy::cast_precision_loss, reason = "a number of files or layers")]
fn to_f64(count: usize) -> f64 {
    count as f64
}
