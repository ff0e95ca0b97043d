//! The table of topics; each topic has its own file.

mod archives;
mod chroot;
mod diff;
mod extract;
mod first_mount;
mod growth;
mod memory;
mod one_layer;
mod random_read;
mod read;
mod readers;
mod registry;
mod remount;
mod soak;
mod walk;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::bench::Bench;
use crate::made::layout;
use crate::measure::{Contender, run, shell};
use crate::report::Group;
use crate::report::plot::Plot;
use crate::tools::{Need, missing};
use crate::trees::Trees;

/// A topic: its name for `--only`, its title, and the function that measures it.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) measure: fn(&Bench, &Trees<'_>) -> Result<Findings>,
}

/// The figures of a topic.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) groups: Vec<Group>,
    pub(crate) notes: Vec<String>,
    pub(crate) plots: Vec<Plot>,
}

impl Findings {
    fn new(groups: Vec<Group>, notes: &[&str]) -> Self {
        Findings { groups, notes: notes.iter().map(|note| (*note).to_owned()).collect(), plots: Vec::new() }
    }
}

/// All topics, in the order of measuring and reporting.
pub(crate) const TOPICS: &[Topic] = &[
    Topic { name: "first-mount", title: "First mount", measure: first_mount::measure },
    Topic { name: "one-layer", title: "One large layer", measure: one_layer::measure },
    Topic { name: "remount", title: "Remount", measure: remount::measure },
    Topic { name: "walk", title: "Walking the tree", measure: walk::measure },
    Topic { name: "read", title: "Reading everything", measure: read::measure },
    Topic { name: "random-read", title: "Reading at random", measure: random_read::measure },
    Topic { name: "readers", title: "Several readers", measure: readers::measure },
    Topic { name: "chroot", title: "Running programs of the image", measure: chroot::measure },
    Topic { name: "extract", title: "Unpacking", measure: extract::measure },
    Topic { name: "diff", title: "Comparing two versions", measure: diff::measure },
    Topic { name: "registry", title: "From a registry", measure: registry::measure },
    Topic { name: "archives", title: "Other mounts of one layer", measure: archives::measure },
    Topic { name: "memory", title: "Memory", measure: memory::measure },
    Topic { name: "soak", title: "Memory over time", measure: soak::measure },
    Topic { name: "growth", title: "Growth", measure: growth::measure },
];

/// Returns a contender that runs `script` with the files as $1, $2, ...
fn scripted<'a>(
    name: &str,
    runs: usize,
    program: &'static str,
    script: &'a str,
    files: &'a [PathBuf],
) -> Contender<'a> {
    let measured = move || Ok(run(&mut shell(script, files))?.with_cpu());
    Contender::new(name, runs, measured).unless(missing(&[Need::Program(program)]))
}

/// Returns the first mount of `image` with imgmount as a contender.
fn first_mount<'a>(bench: &'a Bench, image: &'a Path, options: &'a [&'a str]) -> Contender<'a> {
    Contender::new("imgmount", bench.runs, move || Ok(bench.first_mount(image, options)?.0.with_cpu()))
}

/// Returns the blobs of an OCI layout's layers.
fn blobs(image: &Path) -> Result<Vec<PathBuf>> {
    Ok(layout::layers(image)?.into_iter().map(|layer| layer.path).collect())
}

/// Reads files once, so that they are in the page cache for the next measurement.
fn read_once<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    for file in files {
        std::io::copy(&mut std::fs::File::open(file)?, &mut std::io::sink())?;
    }
    Ok(())
}
