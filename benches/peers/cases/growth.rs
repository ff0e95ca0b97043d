//! Measures how costs grow with the number of files and of layers. Growth above linear is a defect.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{Findings, walk};
use crate::bench::Bench;
use crate::measure::{Contender, Quantity, Sample, race};
use crate::report::plot::{Line, Panel, Plot};
use crate::report::stats::{exponents, steepest};
use crate::report::unit::{Unit, to_f64};
use crate::report::{Figure, Group, Row};
use crate::trees::Trees;

/// Files in each layer where layers are added, and in all layers together where files are spread.
const EACH: usize = 1000;
const SPREAD: usize = 100_000;
const FILES: [usize; 4] = [1000, 10_000, 100_000, 1_000_000];
const LAYERS: [usize; 8] = [1, 2, 5, 10, 20, 50, 100, 200];
/// As `SPREAD`, for a quick run.
const QUICK_SPREAD: usize = 10_000;

const FIRST_MOUNT: Quantity = ("first mount", Unit::Seconds);
const REMOUNT: Quantity = ("remount", Unit::Seconds);
const PEAK: Quantity = ("VmHWM", Unit::Bytes);
const WALK: Quantity = ("walk", Unit::Seconds);
const COSTS: [Quantity; 4] = [FIRST_MOUNT, REMOUNT, WALK, PEAK];
/// Factor between the sizes of two images that are compared for growth.
const APART: f64 = 10.0;
/// Names of the exponents in the report.
const EXPONENTS: [&str; 4] = ["e (first mount)", "e (remount)", "e (walk)", "e (VmHWM)"];

const NOTES: &[&str] = &[
    "VmHWM is that of a process that made the first mount. The walk is `find -ls` right after the remount, with the \
     image and its indexes in memory.",
    "e tells that a cost grew as count^e since the line above; 1 is linear. The last line has the steepest \
     growth between any two images of which one has ten times as many. Dashed in the plots: linear growth \
     to the last point.",
];

/// Images that differ in one number.
struct Series {
    title: &'static str,
    images: Vec<Image>,
}

struct Image {
    /// The number in which the images differ.
    count: usize,
    files: usize,
    path: PathBuf,
}

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let spread = if bench.quick { QUICK_SPREAD } else { SPREAD };
    let all = series(bench, spread)?;
    let mut findings = Findings::new(Vec::new(), NOTES);
    findings.notes.push(format!("The same files: {spread} in all."));
    let mut lines = Vec::new();
    for series in &all {
        let mut group = race(series.title, series.images.iter().map(|image| costs(bench, image)).collect());
        lines.push(growth(series, &mut group));
        findings.groups.push(group);
    }
    let [files, layers, split] = <[Vec<Line>; 3]>::try_from(lines).ok().context("three series")?;
    let layers = layers.into_iter().zip(split).map(|(more, split)| vec![more, split]).collect();
    let files = files.into_iter().map(|line| vec![line]).collect();
    findings.plots = vec![
        plot("growth-files.svg", "Growth with files in one layer", "files", files),
        plot("growth-layers.svg", "Growth with layers", "layers", layers),
    ];
    Ok(findings)
}

/// Returns the series: more files in one layer, more layers, and the files of `spread` in more layers.
fn series(bench: &Bench, spread: usize) -> Result<[Series; 3]> {
    let (inputs, sizes) = (&bench.inputs, bench.inputs.sizes);
    let files = FILES.into_iter().filter(|count| *count <= sizes.many_files);
    let layers = LAYERS.into_iter().filter(|count| *count <= sizes.layers);
    let files = files.map(|count| Ok(Image { count, files: count, path: inputs.many_files(count)? }));
    let more = layers.clone().map(|count| {
        let path = inputs.lowest_layers(count, sizes.layers, EACH)?;
        Ok(Image { count, files: count * EACH, path })
    });
    let split =
        layers.map(|count| Ok(Image { count, files: spread, path: inputs.layers(count, spread / count)? }));
    Ok([
        Series { title: "files in one layer", images: files.collect::<Result<_>>()? },
        Series { title: "layers of 1000 files", images: more.collect::<Result<_>>()? },
        Series { title: "the same files in more layers", images: split.collect::<Result<_>>()? },
    ])
}

/// Measures all costs of one image; the smaller the image, the more runs.
fn costs<'a>(bench: &'a Bench, image: &'a Image) -> Contender<'a> {
    let runs = match image.files {
        0..=20_000 => bench.many_runs(),
        20_001..=200_000 => bench.runs,
        _ => bench.few_runs(),
    };
    Contender::new(image.count.to_string(), runs, move || {
        let cache = bench.directory("cache-")?;
        let (first, served) = bench.mount(cache.path(), &image.path, &[])?;
        let peak = served.memory()?.peak;
        drop(served);
        let (again, served) = bench.mount(cache.path(), &image.path, &[])?;
        let walk = walk::find(served.path())?.wall;
        let times = [(FIRST_MOUNT, first.wall), (REMOUNT, again.wall), (WALK, walk)];
        Ok(Sample(times.into_iter().chain([(PEAK, to_f64(peak))]).collect()))
    })
}

/// Adds to each row the growth of every cost since the row above, and a last row with the steepest
/// growth of each cost over a factor of ten. Returns a line for each cost.
fn growth(series: &Series, measured: &mut Group) -> Vec<Line> {
    let mut last =
        Row { contender: "steepest over a tenfold".to_owned(), figures: Vec::new(), skipped: None };
    let mut lines = Vec::new();
    for (cost, exponent) in COSTS.iter().map(|(cost, _)| cost).zip(EXPONENTS) {
        let figures = measured.rows.iter().map(|row| row.figure(cost));
        let points = series
            .images
            .iter()
            .zip(figures)
            .filter_map(|(image, figure)| Some((to_f64(image.count as u64), figure?.median)));
        let points: Vec<(f64, f64)> = points.collect();
        // If a cost is missing, the neighbouring rows are unknown.
        let exponents = if points.len() == measured.rows.len() { exponents(&points) } else { Vec::new() };
        for (row, value) in measured.rows.iter_mut().skip(1).zip(&exponents) {
            row.figures.extend(Figure::of(exponent, Unit::Number, vec![*value]));
        }
        last.figures.extend(Figure::of(
            exponent,
            Unit::Number,
            steepest(&points, APART).into_iter().collect(),
        ));
        lines.push(Line { name: series.title.to_owned(), points });
    }
    measured.rows.push(last);
    lines
}

/// Returns a plot with a panel for each cost.
fn plot(file: &str, title: &str, x: &str, lines: Vec<Vec<Line>>) -> Plot {
    let panels = COSTS.into_iter().zip(lines).map(|((cost, unit), lines)| Panel {
        title: cost.to_owned(),
        x: x.to_owned(),
        unit,
        lines,
    });
    Plot { file: file.to_owned(), title: title.to_owned(), panels: panels.collect() }
}
