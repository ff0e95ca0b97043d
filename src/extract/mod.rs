//! Extracts a tree, or a part of it, as files on the host.
//!
//! ```text
//! plan (pure)  ->  directories  ->  files, links, devices  ->  attributes of directories, deepest first
//! ```
//!
//! This module owns the phases, the number of threads, and the effect of a failure: an object that
//! cannot be created is reported and the others are still created, unless nothing more can be written
//! at all. [`target`] owns safety against existing files; [`attributes`] owns which attributes may be
//! left out. The caller chooses the destination and shows the reports; this module must not know
//! terminals.
//!
//! If the extraction is interrupted at any moment, every object under its final name is complete,
//! except directories: they wait for their attributes, and only their owner can enter them. Unfinished
//! files have names that begin with `.imgmount-`.

mod attributes;
mod make;
mod plan;
mod report;
mod target;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;

use self::make::Maker;
use self::plan::{Plan, is_large};
pub use self::report::{ExtractFailure, ExtractReport, NotKept};
pub use self::target::Existing;
use self::target::{Identity, Original, Target};
use crate::content::Schedule;
use crate::error::{Error, PathFault, Result, Subject};
use crate::host_path::HostDirectory;
use crate::load::{LoadedTree, Progress, reported};
use crate::path::escape;
use crate::rootfs::InodeId;
use crate::workers::{Queue, beside, cores};

/// Threads that write. Additional threads would only wait for each other in the file system's journal.
const MAX_WRITERS: usize = 8;
/// With fewer threads, decompression and writing would wait for each other.
const MIN_WRITERS: usize = 2;

/// How a tree is extracted. By default owners, extended attributes and devices are left out.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ExtractOptions<'a> {
    /// The treatment of files that exist. [`Existing::Refuse`] by default.
    pub existing: Existing,
    /// Set owners; otherwise everything belongs to the user who extracts.
    pub owners: bool,
    /// Set extended attributes.
    pub xattrs: bool,
    /// Create devices.
    pub devices: bool,
    /// The observer of the work. None by default.
    pub progress: Option<&'a dyn Progress>,
    /// A flag that stops the work soon after it becomes true. None by default.
    pub stop: Option<&'a AtomicBool>,
}

impl<'a> ExtractOptions<'a> {
    /// Sets the treatment of files that exist.
    #[must_use]
    pub fn existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Sets owners.
    #[must_use]
    pub fn owners(mut self, owners: bool) -> Self {
        self.owners = owners;
        self
    }

    /// Sets extended attributes.
    #[must_use]
    pub fn xattrs(mut self, xattrs: bool) -> Self {
        self.xattrs = xattrs;
        self
    }

    /// Creates devices.
    #[must_use]
    pub fn devices(mut self, devices: bool) -> Self {
        self.devices = devices;
        self
    }

    /// Sets the observer of the work.
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<&'a dyn Progress>>) -> Self {
        self.progress = progress.into();
        self
    }

    /// Sets a flag that stops the work soon after it becomes true.
    #[must_use]
    pub fn stop(mut self, stop: impl Into<Option<&'a AtomicBool>>) -> Self {
        self.stop = stop.into();
        self
    }
}

/// Creates the contents of the directory `root` of the tree in `dir`.
///
/// # Errors
/// [`Error::Path`] if `root` is not a directory, [`Error::Io`] if `dir` cannot be used,
/// [`Error::NotEmpty`] under [`Existing::Refuse`], [`Error::Incomplete`] if the file system is full,
/// and [`Error::Interrupted`]. Other objects that cannot be created are listed in the
/// [`ExtractReport`].
pub(crate) fn extract(
    tree: &LoadedTree,
    root: InodeId,
    dir: &HostDirectory,
    options: &ExtractOptions<'_>,
) -> Result<ExtractReport> {
    let rootfs = tree.rootfs();
    if !rootfs.is_directory(root) {
        return Err(Error::Path { path: format!("inode {}", root.0), reason: PathFault::NotADirectory });
    }
    let plan = match options.existing {
        Existing::Merge => Plan::of_contents_only(rootfs, root),
        Existing::Refuse | Existing::Replace => Plan::of_contents(rootfs, root),
    };
    run(tree, &plan, dir, options)
}

/// Creates an inode of the tree, with everything below it, under the name `name` in the directory
/// `dir`.
///
/// # Errors
/// [`Error::Path`] if `name` cannot be a file name, otherwise as [`extract`]; `dir` need not be empty.
pub(crate) fn extract_as(
    tree: &LoadedTree,
    inode: InodeId,
    dir: &HostDirectory,
    name: &[u8],
    options: &ExtractOptions<'_>,
) -> Result<ExtractReport> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(Error::Path { path: escape(name), reason: PathFault::NotFound });
    }
    run(tree, &Plan::of_one(tree.rootfs(), inode, name), dir, options)
}

fn run(
    tree: &LoadedTree,
    plan: &Plan<'_>,
    dir: &HostDirectory,
    options: &ExtractOptions<'_>,
) -> Result<ExtractReport> {
    let subject = || Subject::File(dir.path().to_owned());
    let failed = |cause: Errno| Error::io_on("cannot open", subject(), cause.into());
    let target = Target::open(dir, options.existing).map_err(failed)?;
    let takes_whole = plan.directories.first().is_some_and(|base| base.inode.is_some());
    if takes_whole && options.existing == Existing::Refuse && !target.is_empty().map_err(failed)? {
        return Err(Error::not_empty(dir.path()));
    }
    let base = target.identity().map_err(failed)?;
    let known: Vec<_> = plan.directories.iter().map(|_| OnceLock::new()).collect();
    if let Some(known) = known.first() {
        known.get_or_init(|| base);
    }
    let files = (0..).zip(&plan.files).map(|(place, file)| (place, file.inode));
    let files = files.filter(|(_, file)| !is_large(tree.rootfs(), *file));
    let work = Work {
        tree,
        plan,
        target,
        options,
        known,
        schedule: tree.schedule(files),
        outcome: Mutex::default(),
        over: AtomicBool::new(false),
    };
    reported(options.progress, "Extracting", plan.total_bytes, || work.all());
    let outcome = work.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.fatal.map_or(Ok(outcome.report), Err)
}

/// The state that the threads share.
struct Work<'a> {
    tree: &'a LoadedTree,
    plan: &'a Plan<'a>,
    target: Target,
    options: &'a ExtractOptions<'a>,
    /// The directories of the plan that were created.
    known: Vec<OnceLock<Identity>>,
    /// The schedule of all files except large ones, in the order of the plan.
    schedule: Schedule<'a>,
    outcome: Mutex<Outcome>,
    /// Whether the work is to end.
    over: AtomicBool,
}

#[derive(Default)]
struct Outcome {
    report: ExtractReport,
    fatal: Option<Error>,
    /// Inodes with several names that were not created: another object may exist under the first name.
    unmade: HashSet<InodeId>,
    /// Inodes with several names whose first name another user can replace.
    originals: HashMap<InodeId, Original>,
}

impl Work<'_> {
    fn all(&self) {
        let mut maker = Maker::new(self);
        (1..self.plan.directories.len()).for_each(|directory| maker.make_directory(directory));

        let batches = self.plan.batches(self.tree.rootfs());
        let queue = Queue::new(&batches);
        let write_files = || {
            let mut maker = Maker::new(self);
            while let Some((_, batch)) = queue.take() {
                let files = self.plan.files.get(batch.clone()).unwrap_or_default();
                (batch.start as u64..).zip(files).for_each(|(place, file)| maker.make(file, place));
            }
        };
        let writers = cores().clamp(MIN_WRITERS, MAX_WRITERS).min(batches.len());
        beside(writers, write_files, || self.plan.others.iter().for_each(|other| maker.make(other, 0)));
        self.plan.links.iter().for_each(|link| maker.link(link));
        // Attributes may deny the owner access to a directory, so the directories below it are finished
        // first.
        (0..self.plan.directories.len()).rev().for_each(|directory| maker.finish(directory));
    }

    /// Returns true when the work is to end.
    fn is_over(&self) -> bool {
        if self.options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
            && !self.over.load(Ordering::Relaxed)
        {
            self.give_up(Error::Interrupted);
        }
        self.over.load(Ordering::Relaxed)
    }

    fn give_up(&self, error: Error) {
        self.over.store(true, Ordering::Relaxed);
        self.outcome().fatal.get_or_insert(error);
    }

    /// Records a failure, or ends the work if everything that follows would fail for the same cause.
    fn fail(&self, path: Vec<u8>, error: Error) {
        let full = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS].map(Errno::raw_os_error);
        match error {
            Error::Io { ref cause, .. } if cause.raw_os_error().is_some_and(|code| full.contains(&code)) => {
                self.give_up(Error::incomplete(escape(&path), error));
            }
            Error::Interrupted => {}
            error => self.outcome().report.fail(path, error),
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
