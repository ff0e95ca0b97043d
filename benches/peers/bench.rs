//! What every case works with: options, inputs, a directory to work in, and the program to be measured.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::cleanup::Work;
use crate::inputs::Inputs;
use crate::measure::{Spent, run};
use crate::mounts::Point;

/// The bench itself.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The program that is measured.
    pub(crate) program: PathBuf,
    pub(crate) inputs: Inputs,
    pub(crate) work: Work,
    /// How often a contender runs, when that is neither cheap nor expensive.
    pub(crate) runs: usize,
    pub(crate) quick: bool,
    pub(crate) soak: Duration,
}

/// A mounted image, and the process that serves it.
#[derive(Debug)]
pub(crate) struct Served {
    point: Point,
    server: u32,
    /// Where it keeps what it may yet read, when nobody else does.
    _cache: Option<TempDir>,
}

/// What a process holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// The most it ever held.
    pub(crate) peak: u64,
    pub(crate) now: u64,
    /// Its own pages, of what it holds now.
    pub(crate) own: u64,
    /// Pages of files, of what it holds now.
    pub(crate) files: u64,
}

impl Bench {
    /// For what takes milliseconds.
    pub(crate) fn many_runs(&self) -> usize {
        self.runs * 4
    }

    /// For what takes a minute, and is not what is measured.
    pub(crate) fn few_runs(&self) -> usize {
        self.runs.div_ceil(2)
    }

    /// A new directory, removed with its guard.
    pub(crate) fn directory(&self, name: &str) -> Result<TempDir> {
        let dir = tempfile::Builder::new().prefix(name).tempdir_in(self.work.path());
        dir.with_context(|| format!("cannot make a directory below '{}'", self.work.path().display()))
    }

    /// The program with a cache directory of its own.
    pub(crate) fn imgmount<S: AsRef<OsStr>>(&self, cache: &Path, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("IMGMOUNT_CACHE_DIR", cache).env_remove("IMGMOUNT_LOG");
        command
    }

    /// Mounts an image; what that took, with the CPU time of the process that goes on to serve it.
    pub(crate) fn mount(&self, cache: &Path, image: &Path, options: &[&str]) -> Result<(Spent, Served)> {
        let mut point = Point::below(self.work.path())?;
        let mut command = self.imgmount(cache, &["mount"]);
        command.arg(image).arg(point.path()).args(options);
        let spent = run(&mut command)?;
        let server = point.find_server()?;
        let cpu = spent.cpu + cpu_of(server)?;
        Ok((Spent { cpu, ..spent }, Served { point, server, _cache: None }))
    }

    /// What the first mount of an image takes: nothing is in the cache directory.
    pub(crate) fn first_mount(&self, image: &Path, options: &[&str]) -> Result<(Spent, Served)> {
        let cache = self.directory("cache-")?;
        let (spent, served) = self.mount(cache.path(), image, options)?;
        Ok((spent, Served { _cache: Some(cache), ..served }))
    }

    /// Makes the indexes of an image, unmeasured.
    pub(crate) fn index(&self, image: &Path) -> Result<TempDir> {
        let cache = self.directory("cache-")?;
        self.mount(cache.path(), image, &[])?;
        Ok(cache)
    }
}

impl Served {
    pub(crate) fn path(&self) -> &Path {
        self.point.path()
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.server)).context("the server has ended")?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            Ok(kib.with_context(|| format!("the kernel does not tell {name}"))? * 1024)
        };
        Ok(Memory {
            peak: field("VmHWM")?,
            now: field("VmRSS")?,
            own: field("RssAnon")?,
            files: field("RssFile")? + field("RssShmem")?,
        })
    }
}

/// User and system seconds of a process, in the kernel's ticks.
fn cpu_of(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the server has ended")?;
    // The name, which may hold anything, is in parentheses; user time is the twelfth field after it.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    // Every Linux says 100 here to programs.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// What the cell has, made if it has nothing.
pub(crate) fn get_or_try<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(made) = cell.get() {
        return Ok(made);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}
