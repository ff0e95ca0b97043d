//! Measures reads of 4 KiB at random offsets of random files, by one thread.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::fs::{Advice, fadvise};

use super::Findings;
use crate::bench::Bench;
use crate::made::random::Random;
use crate::measure::{Quantity, Sample};
use crate::report::stats::{max, percentile};
use crate::report::unit::Unit;
use crate::trees::{Trees, WAYS, Way};

const READS: usize = 1000;
const READ_LEN: usize = 4096;
const READ_P50: Quantity = ("read p50", Unit::Seconds);
const READ_P99: Quantity = ("read p99", Unit::Seconds);
const READ_MAX: Quantity = ("read max", Unit::Seconds);
const OPEN_P50: Quantity = ("open p50", Unit::Seconds);
const OPEN_P99: Quantity = ("open p99", Unit::Seconds);

/// Regular files of a tree, as paths relative to its root, with their lengths.
#[derive(Debug)]
pub(crate) struct Files {
    /// Each file with the sum of all lengths up to its end.
    ends: Vec<(PathBuf, u64)>,
}

impl Files {
    /// Lists all files below `root` that are not empty, in the order of their paths.
    pub(crate) fn below(root: &Path) -> Result<Self> {
        let mut found = Vec::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("cannot list '{}'", dir.display()))? {
                let entry = entry?;
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    open.push(entry.path());
                } else if meta.is_file() && meta.len() > 0 {
                    found.push((entry.path().strip_prefix(root)?.to_owned(), meta.len()));
                }
            }
        }
        found.sort();
        let mut end = 0;
        for (_, len) in &mut found {
            end += *len;
            *len = end;
        }
        Ok(Files { ends: found })
    }

    pub(crate) fn total_len(&self) -> u64 {
        self.ends.last().map_or(0, |(_, end)| *end)
    }

    /// Returns the file that contains this byte of all bytes, and the offset in the file.
    fn at(&self, byte: u64) -> (&Path, u64) {
        let i = self.ends.partition_point(|(_, end)| *end <= byte);
        let start = if i == 0 { 0 } else { self.ends[i - 1].1 };
        (&self.ends[i].0, byte - start)
    }

    /// Returns `count` random files, each as likely as any other.
    pub(crate) fn choose(&self, count: usize, random: &mut Random) -> Vec<PathBuf> {
        let mut left: Vec<&PathBuf> = self.ends.iter().map(|(path, _)| path).collect();
        let mut chosen = Vec::new();
        while chosen.len() < count && !left.is_empty() {
            let at = usize::try_from(random.below(left.len() as u64)).unwrap_or(0);
            chosen.push(left.swap_remove(at).clone());
        }
        chosen
    }

    /// Opens a random file, the larger the likelier, and reads at a random offset. Returns the seconds of
    /// both steps.
    pub(crate) fn read_somewhere(&self, root: &Path, random: &mut Random) -> Result<(f64, f64)> {
        let (path, offset) = self.somewhere(root, random);
        let start = Instant::now();
        let file = open(&path)?;
        let opened = start.elapsed();
        read(&file, &path, offset)?;
        Ok((opened.as_secs_f64(), (start.elapsed() - opened).as_secs_f64()))
    }

    /// Reads at a random offset of a random file, and drops the file from the page cache.
    pub(crate) fn read_and_forget(&self, root: &Path, random: &mut Random) -> Result<()> {
        let (path, offset) = self.somewhere(root, random);
        let file = open(&path)?;
        read(&file, &path, offset)?;
        fadvise(&file, 0, None, Advice::DontNeed).context("cannot drop pages")
    }

    /// Returns a random file, the larger the likelier, and an offset in it.
    fn somewhere(&self, root: &Path, random: &mut Random) -> (PathBuf, u64) {
        let (path, offset) = self.at(random.below(self.total_len()));
        (root.join(path), offset)
    }

    /// Splits the files into `parts` runs of about the same length in bytes.
    pub(crate) fn split(&self, parts: usize) -> Vec<Vec<&Path>> {
        let mut split = vec![Vec::new(); parts];
        let mut start = 0;
        for (path, end) in &self.ends {
            let part = u128::from(start) * parts as u128 / u128::from(self.total_len());
            split[usize::try_from(part).unwrap_or(0)].push(path.as_path());
            start = *end;
        }
        split
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open '{}'", path.display()))
}

fn read(file: &File, path: &Path, offset: u64) -> Result<usize> {
    file.read_at(&mut [0; READ_LEN], offset).with_context(|| format!("cannot read '{}'", path.display()))
}

pub(crate) fn measure(_: &Bench, trees: &Trees<'_>) -> Result<Findings> {
    let files = Files::below(trees.mount(Way::Imgmount)?.path())?;
    let group = trees.cold("4 KiB at random, cold", &WAYS, &|path, run| read_all(&files, path, run));
    let notes = [
        "1000 reads a run, one after the other, of files chosen by their size at offsets chosen evenly, the same \
         for all; each run has its own. The file is opened before; that is told apart.",
        "The figures are medians of the runs' percentiles.",
    ];
    Ok(Findings::new(vec![group], &notes))
}

fn read_all(files: &Files, root: &Path, run: usize) -> Result<Sample> {
    let mut random = Random::new(run as u64);
    let times = (0..READS).map(|_| files.read_somewhere(root, &mut random)).collect::<Result<Vec<_>>>()?;
    let (opens, reads): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
    let figures = [
        (READ_P50, percentile(&reads, 50)),
        (READ_P99, percentile(&reads, 99)),
        (READ_MAX, max(&reads)),
        (OPEN_P50, percentile(&opens, 50)),
        (OPEN_P99, percentile(&opens, 99)),
    ];
    Ok(Sample(figures.into_iter().filter_map(|(quantity, value)| Some((quantity, value?))).collect()))
}
