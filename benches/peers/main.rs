//! `make bench`: compares imgmount with its peers, and with its own goals.
//!
//! ```text
//! cargo bench --bench peers -- [--quick] [--only TOPIC,TOPIC] [--runs N] [--inputs DIR] [--real DIR]
//!                              [--out DIR] [--soak SECONDS] [--docs] [--from FILE]
//! ```
//!
//! `inputs` provides the images, `cases` measures them with `measure`, and `report` compares the
//! figures with the goals and formats them. The report is stored as JSON; topics that are not run again
//! keep their figures, so a long bench can be run in parts. docs/performance.md explains the figures.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a bench tells what it does and finds")]

mod bench;
mod cases;
mod cleanup;
mod engines;
mod inputs;
mod link;
mod machine;
mod made;
mod measure;
mod mounts;
mod registry;
mod report;
mod tools;
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use bench::Bench;
use cases::{Findings, TOPICS, Topic};
use cleanup::Work;
use inputs::{Inputs, Sizes};
use measure::say;
use report::{Case, Report, document, goals, plot};
use trees::Trees;

/// The document that `--docs` writes to, and the directory of its plots, relative to the document.
const DOCUMENT: &str = "docs/performance.md";
const PLOTS: &str = "plots";
const REPORT: &str = "report.json";

/// Measures imgmount against its peers
#[derive(Debug, Parser)]
struct Options {
    /// Measure these topics only, and keep the figures of the others
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    only: Vec<String>,
    /// Number of runs of each contender; cheap ones run more often, expensive ones less
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Use small inputs and few runs, for a first look
    #[arg(long)]
    quick: bool,
    /// Directory of the inputs: 8 GB, or 4 GB with --quick
    #[arg(long, value_name = "DIR")]
    inputs: Option<PathBuf>,
    /// Directory of the real image from scripts/bench-images.sh; made below the inputs by default
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,
    /// Directory for report and plots; target/bench by default, or target/bench/quick
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Duration of the random reads while memory is measured
    #[arg(long, value_name = "SECONDS")]
    soak: Option<u64>,
    /// Write tables and plots to docs/performance.md as well
    #[arg(long, conflicts_with = "quick")]
    docs: bool,
    /// Measure nothing, and print the report in FILE
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Passed by cargo to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let out = options.out.clone().unwrap_or_else(|| {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        if options.quick { target.join("quick") } else { target }
    });
    let report = match &options.from {
        Some(file) => load(file)?.with_context(|| format!("there is no '{}'", file.display()))?,
        None => measure(options, &out)?,
    };
    write(&report, &out)?;
    if options.docs {
        write_document(&report)?;
    }
    print!("{}", document::text(&report));
    Ok(())
}

/// Measures the selected topics. The report is written after each topic, so that an interruption loses
/// nothing.
fn measure(options: &Options, out: &Path) -> Result<Report> {
    let topics = choose(&options.only)?;
    let sizes = if options.quick { Sizes::QUICK } else { Sizes::FULL };
    let dir = options.inputs.clone();
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/inputs"));
    let inputs = Inputs::new(&dir, options.real.as_deref(), sizes)?;
    let bench = Bench {
        program: PathBuf::from(env!("CARGO_BIN_EXE_imgmount")),
        work: Work::below(inputs.dir())?,
        inputs,
        runs: options.runs.unwrap_or(if options.quick { 2 } else { 5 }),
        quick: options.quick,
        soak: Duration::from_secs(options.soak.unwrap_or(if options.quick { 10 } else { 60 })),
    };
    let trees = Trees::new(&bench);
    let file = out.join(REPORT);
    let mut report =
        Report::after(load(&file)?, machine::describe(bench.inputs.dir()), tools::versions(&bench.program));
    let order: Vec<&str> = TOPICS.iter().map(|topic| topic.name).collect();
    let mut failed = Vec::new();
    // Read before measuring, since the checkout may change meanwhile.
    let commit = machine::commit();
    for topic in topics {
        say(&format!("{}: {}", topic.name, topic.title));
        match (topic.measure)(&bench, &trees) {
            Ok(found) => report.put(case(topic, found, &commit, bench.quick), &order),
            Err(error) => {
                say(&format!("{} FAILED: {error:#}", topic.name));
                failed.push(topic.name);
            }
        }
        write(&report, out)?;
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(report)
}

fn choose(names: &[String]) -> Result<Vec<&'static Topic>> {
    let known = |name: &String| {
        let topic = TOPICS.iter().find(|topic| topic.name == name);
        let all: Vec<&str> = TOPICS.iter().map(|topic| topic.name).collect();
        topic.with_context(|| format!("'{name}' is none of {}", all.join(", ")))
    };
    if names.is_empty() { Ok(TOPICS.iter().collect()) } else { names.iter().map(known).collect() }
}

fn case(topic: &Topic, found: Findings, commit: &str, quick: bool) -> Case {
    Case {
        name: topic.name.to_owned(),
        title: topic.title.to_owned(),
        date: machine::today(),
        commit: commit.to_owned(),
        quick,
        notes: found.notes,
        groups: found.groups,
        plots: found.plots,
    }
}

/// Reads the report in `file`, if it exists, and compares it with the current goals.
fn load(file: &Path) -> Result<Option<Report>> {
    let text = match fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read '{}'", file.display()))?,
    };
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("'{}' is no report of this bench", file.display()))?;
    Ok(Some(Report { goals: goals::judge(&report), ..report }))
}

/// Writes the report as JSON and text, and its plots.
fn write(report: &Report, out: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report)? + "\n";
    let files = [(REPORT.into(), json), ("report.txt".into(), document::text(report))];
    let plots = plots(report).map(|(file, svg)| (Path::new(PLOTS).join(file), svg));
    for (name, content) in files.into_iter().chain(plots) {
        write_file(&out.join(name), &content)?;
    }
    Ok(())
}

/// Writes the document's generated part, and its plots.
fn write_document(report: &Report) -> Result<()> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    if report.cases.iter().any(|case| case.quick) {
        bail!("figures of quick runs are not for {DOCUMENT}");
    }
    let text = fs::read_to_string(&document).with_context(|| format!("cannot read {DOCUMENT}"))?;
    let text = document::replace_generated(&text, &document::markdown(report, PLOTS))
        .with_context(|| format!("{DOCUMENT} does not have the lines between which to write"))?;
    write_file(&document, &text)?;
    for (file, svg) in plots(report) {
        write_file(&document.with_file_name(PLOTS).join(file), &svg)?;
    }
    Ok(())
}

fn plots(report: &Report) -> impl Iterator<Item = (&str, String)> {
    report.cases.iter().flat_map(|case| &case.plots).map(|plot| (plot.file.as_str(), plot::svg(plot)))
}

fn write_file(path: &Path, content: &str) -> Result<()> {
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, content));
    written.with_context(|| format!("cannot write '{}'", path.display()))
}
