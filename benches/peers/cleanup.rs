//! Removes mounts, processes and files of the bench, however it ends.
//!
//! All temporary mounts and files are below one directory. The mounts there are removed at the end, and
//! on SIGINT, SIGTERM and SIGHUP.

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

/// The exit status that a shell reports for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Prefix of the names of temporary directories.
const PREFIX: &str = "run-";

/// The process groups that are running.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// Set when the bench is interrupted: no new process may start.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// Time limit for processes to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The directories for everything that is removed at the end of the bench.
#[derive(Debug)]
pub(crate) struct Work {
    /// A directory on the disk of the inputs.
    dir: TempDir,
    /// A directory with a short path, for sockets and some files of podman.
    short: TempDir,
    /// The lock on the directory, held for the lifetime of this value.
    _lock: File,
}

impl Work {
    /// Makes a directory below `parent`, and removes it when a signal ends the program. Waits for another
    /// bench that works there, since two would disturb each other's measurements. Removes the remains of a
    /// bench that was killed.
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

    /// Makes a new directory with a short path.
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

/// A process group while it runs.
#[derive(Debug)]
pub(crate) struct Running(u32);

impl Running {
    /// Registers a group, which is ended when the bench is interrupted. After an interruption this does not
    /// return.
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
    // A panic never leaves the list inconsistent, so poisoning is ignored.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends all running groups SIGTERM, which daemons need to end the processes that they have started,
/// and kills those that do not end.
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
        // The process may have ended already.
        let _ = kill_process_group(pid, signal);
    }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

/// Unmounts everything below `dir`, the last mount first.
pub(crate) fn unmount_below(dir: &Path) {
    for point in mounts_below(dir).into_iter().rev() {
        if !crate::mounts::unmount_lazily(&point) {
            eprintln!("bench: '{}' is still mounted", point.display());
        }
    }
}

/// Unmounts everything below `dir` and removes it. Files in a mount that could not be unmounted are not
/// touched.
fn clear(dir: &Path) {
    unmount_below(dir);
    // Servers need a moment to notice the unmount and to close their files.
    thread::sleep(Duration::from_millis(100));
    if mounts_below(dir).is_empty()
        && let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("bench: '{}' is left: {error}", dir.display());
    }
}

/// Returns the mount points below `dir`, in the order in which they were mounted.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}
