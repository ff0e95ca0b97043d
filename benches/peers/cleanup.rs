//! Leaves nothing behind: neither mounts nor processes nor files, however the bench ends.
//!
//! Everything that is mounted or written for a while is below one directory. What is mounted there is taken
//! away at the end, and on SIGINT, SIGTERM and SIGHUP as well.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// How the names of these directories begin.
const PREFIX: &str = "run-";

/// Process groups that run now.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// Set when the bench is interrupted: nothing new may begin.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// How long processes may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directories for everything that does not outlive the bench.
#[derive(Debug)]
pub(crate) struct Work {
    /// On the disk of the inputs.
    dir: TempDir,
    /// For what must have a short path: sockets, and some files of podman.
    short: TempDir,
    /// Held as long as this is.
    _lock: File,
}

impl Work {
    /// Makes one below `parent`, and takes all away when a signal ends the program. Waits for another bench that
    /// works there: two would measure each other. What one that was killed has left is removed.
    pub(crate) fn below(parent: &Path) -> Result<Self> {
        let cannot = || format!("cannot work in '{}'", parent.display());
        let lock = File::open(parent).with_context(cannot)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("bench: waiting for another bench in '{}'", parent.display());
            flock(&lock, FlockOperation::LockExclusive).with_context(cannot)?;
        }
        for entry in fs::read_dir(parent).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                clear(&entry.path());
            }
        }
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).with_context(cannot)?;
        let short = tempfile::Builder::new().prefix("bench-").tempdir().context("no temporary directory")?;
        let paths = [dir.path().to_owned(), short.path().to_owned()];
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be waited for")?;
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                end_all();
                paths.iter().for_each(|path| clear(path));
                exit(INTERRUPTED);
            }
        });
        Ok(Work { dir, short, _lock: lock })
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
    /// The group of this number will be ended when the bench is interrupted. Once it is, this does not return.
    pub(crate) fn group(group: u32) -> Self {
        running().push(group);
        while STOPPING.load(Ordering::SeqCst) {
            thread::sleep(PATIENCE);
        }
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

/// Asks all that runs to end, which daemons need to end what they have started, and kills what does not.
fn end_all() {
    STOPPING.store(true, Ordering::SeqCst);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let groups = running().clone();
        if !groups.iter().any(|group| is_alive(*group)) {
            return;
        }
        groups.iter().for_each(|group| signal_group(*group, Signal::TERM));
        thread::sleep(Duration::from_millis(100));
    }
    running().iter().for_each(|group| kill_group(*group));
}

/// Kills all processes of a group.
pub(crate) fn kill_group(group: u32) {
    signal_group(group, Signal::KILL);
}

fn signal_group(group: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process_group(pid, signal);
    }
}

/// Whether a process is there, and more than a zombie.
pub(crate) fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
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
