//! Leaves nothing behind: neither mounts nor processes nor files, however the bench ends.
//!
//! Everything that is mounted or written for a while is below one directory. What is mounted there is taken
//! away at the end, and on SIGINT, SIGTERM and SIGHUP as well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Process groups that run now.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// The directories for everything that does not outlive the bench.
#[derive(Debug)]
pub(crate) struct Work {
    /// On the disk of the inputs.
    dir: TempDir,
    /// For what must have a short path: sockets, and some files of podman.
    short: TempDir,
}

impl Work {
    /// Makes one below `parent`, and takes all away when a signal ends the program.
    pub(crate) fn below(parent: &Path) -> Result<Self> {
        let cannot = || format!("cannot make a directory below '{}'", parent.display());
        let dir = tempfile::Builder::new().prefix("work-").tempdir_in(parent).with_context(cannot)?;
        let short = tempfile::Builder::new().prefix("bench-").tempdir().context("no temporary directory")?;
        let paths = [dir.path().to_owned(), short.path().to_owned()];
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be waited for")?;
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                running().iter().for_each(|group| kill_group(*group));
                paths.iter().for_each(|path| clear(path));
                exit(INTERRUPTED);
            }
        });
        Ok(Work { dir, short })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new directory with a short path.
    pub(crate) fn short_directory(&self) -> Result<TempDir> {
        tempfile::tempdir_in(self.short.path()).context("no temporary directory")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        clear(self.dir.path());
        clear(self.short.path());
    }
}

/// A process group, for as long as it runs.
#[derive(Debug)]
pub(crate) struct Running(u32);

impl Running {
    /// The group of this number will be killed when the bench is interrupted.
    pub(crate) fn group(group: u32) -> Self {
        running().push(group);
        Running(group)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        running().retain(|group| *group != self.0);
    }
}

fn running() -> MutexGuard<'static, Vec<u32>> {
    // The list is whole between any two of its methods.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills all processes of a group.
pub(crate) fn kill_group(group: u32) {
    if let Some(pid) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Unmounts everything below `dir`, the last first.
pub(crate) fn unmount_below(dir: &Path) {
    for point in mounts_below(dir).into_iter().rev() {
        if !crate::mounts::unmount_lazily(&point) {
            eprintln!("bench: '{}' is still mounted", point.display());
        }
    }
}

/// Unmounts everything below `dir` and removes it. A file in a mount that could not be unmounted is not touched.
fn clear(dir: &Path) {
    unmount_below(dir);
    // Servers see the end of their mounts, and are done with their files.
    thread::sleep(Duration::from_millis(100));
    if mounts_below(dir).is_empty()
        && let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("bench: '{}' is left: {error}", dir.display());
    }
}

/// Mount points below `dir`, in the order they were mounted.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}
