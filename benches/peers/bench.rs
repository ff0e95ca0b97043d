//! The state that every case uses: options, inputs, a working directory, and the program to be
//! measured.

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
    /// Number of runs of a contender that is neither cheap nor expensive.
    pub(crate) runs: usize,
    pub(crate) quick: bool,
    pub(crate) soak: Duration,
}

/// A mounted image, and the process that serves it.
#[derive(Debug)]
pub(crate) struct Served {
    point: Point,
    server: u32,
    /// The cache directory that the process still reads, unless another owner keeps it.
    _cache: Option<TempDir>,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Peak of the resident memory.
    pub(crate) peak: u64,
    pub(crate) now: u64,
    /// Anonymous pages in the current resident memory.
    pub(crate) own: u64,
    /// File pages in the current resident memory.
    pub(crate) files: u64,
}

impl Bench {
    /// Returns the number of runs for work that takes milliseconds.
    pub(crate) fn many_runs(&self) -> usize {
        self.runs * 4
    }

    /// Returns the number of runs for work that takes a minute and is not the subject of the measurement.
    pub(crate) fn few_runs(&self) -> usize {
        self.runs.div_ceil(2)
    }

    /// Makes a new directory, removed with its guard.
    pub(crate) fn directory(&self, name: &str) -> Result<TempDir> {
        let dir = tempfile::Builder::new().prefix(name).tempdir_in(self.work.path());
        dir.with_context(|| format!("cannot make a directory below '{}'", self.work.path().display()))
    }

    /// Returns the program with this cache directory.
    pub(crate) fn imgmount<S: AsRef<OsStr>>(&self, cache: &Path, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("IMGMOUNT_CACHE_DIR", cache).env_remove("IMGMOUNT_LOG");
        command
    }

    /// Mounts an image. Returns the time that this took, with the CPU time of the process that serves the
    /// mount.
    pub(crate) fn mount(&self, cache: &Path, image: &Path, options: &[&str]) -> Result<(Spent, Served)> {
        self.mount_in(|command| command, cache, image.as_os_str(), options)
    }

    /// Mounts an image with the command that `enter` makes of the usual one.
    pub(crate) fn mount_in(
        &self,
        enter: impl FnOnce(Command) -> Command,
        cache: &Path,
        image: &OsStr,
        options: &[&str],
    ) -> Result<(Spent, Served)> {
        let mut point = Point::below(self.work.path())?;
        let mut command = self.imgmount(cache, &["mount"]);
        command.arg(image).arg(point.path()).args(options);
        let spent = run(&mut enter(command))?;
        let server = point.find_server()?;
        let cpu = spent.cpu + cpu_of(server)?;
        Ok((Spent { cpu, ..spent }, Served { point, server, _cache: None }))
    }

    /// Measures the first mount of an image, with an empty cache directory.
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

/// Returns the user and system time of a process in seconds, from the kernel's ticks.
fn cpu_of(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("the server has ended")?;
    // The name, which may contain any byte, is in parentheses; user time is the twelfth field after it.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    // Linux reports ticks to programs in units of 1/100 second everywhere.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Returns the cell's value, and makes it if the cell is empty.
pub(crate) fn get_or_try<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(made) = cell.get() {
        return Ok(made);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}
