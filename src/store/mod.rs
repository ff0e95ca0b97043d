//! The cache directory: indexes of layers and compressed archives, and merged trees.
//!
//! This module owns file names, atomic writes and trust. It does not know the contents of the files:
//! [`crate::layer::stored`] owns the layout of an index file, [`crate::rootfs`] that of a tree file. The
//! caller compares the facts of an index with the layer. [`usage`] measures and prunes the directory.
//!
//! A file is written without a name and then linked, so a process that is killed at any moment leaves either
//! no file or a complete one. Files are not synced: a checksum detects damage after a power failure, and ext4
//! would write the whole seekable copy before it reports the index as written, which slows down the first
//! mount. A file that is truncated, damaged, of another format or not owned by the user is treated as missing
//! and built again.

pub(crate) mod blobs;
pub(crate) mod notes;
mod usage;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat};
use tempfile::TempPath;

pub use self::blobs::StoredBlob;
pub use self::usage::{Allowance, StoredLayer};
use crate::bytes::Bytes;
use crate::descriptors::Reopen;
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::layer::index::{Indexed, Scratch};
use crate::layer::stored::{MAX_INDEX_BYTES, SavedFiles, StoredIndex, read_index, write_index};
use crate::layer::table::FORMAT_VERSION;
use crate::limits::Limits;
use crate::path::escape_path;
use crate::read_at::{FileBytes, ReadAt};

/// Age at which a leftover draft is removed. Drafts normally have no name, so a killed process leaves none;
/// file systems without nameless files need this.
const STALE_DRAFT: Duration = Duration::from_secs(24 * 60 * 60);
const DRAFT_PREFIX: &str = ".draft-";
/// The part of a file name before the digits that stand for limits.
const LIMITS: &str = ".limits-";

/// A cache directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    /// Part of the file names, if the limits are not the defaults.
    variant: Option<String>,
}

/// The name of a stored file under the default limits, without the ending.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Returns the key for the index of a layer. Entries and span hashes depend on the diff_id, checkpoints
    /// on the stored bytes. `stored` identifies these bytes: their digest or, if the image has none, another
    /// identity. The index of a plain layer depends on the diff_id alone: then `stored` is `None` or the
    /// diff_id. An outdated identity is harmless, because spans are verified.
    #[must_use]
    pub fn layer(diff_id: &Digest, stored: Option<&str>) -> Self {
        let stored = stored.filter(|stored| *stored != diff_id.to_string());
        let stored = stored.map(|stored| format!("-{}", short_name(stored))).unwrap_or_default();
        Key(format!("{}-{}{stored}.v{FORMAT_VERSION}", diff_id.algorithm().name(), diff_id.hex()))
    }

    /// Returns the key for the index of a layer without a diff_id. `stored` identifies its stored bytes.
    #[must_use]
    pub fn unnamed_layer(stored: &str) -> Self {
        Key(format!("layer-{}.v{FORMAT_VERSION}", short_name(stored)))
    }

    /// Returns the key for the index of a compressed archive, which is identified by its file.
    #[must_use]
    pub fn archive(identity: &str) -> Self {
        Key(format!("archive-{}.v{FORMAT_VERSION}", short_name(identity)))
    }

    /// Returns the key for a merged tree. `layers` names the layers, in order, and the options of the merge.
    #[must_use]
    pub fn tree(layers: &str) -> Self {
        Key(format!("tree-{}.v{FORMAT_VERSION}", short_name(layers)))
    }
}

fn short_name(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().as_str().chars().take(usage::SHORT_DIGITS).collect()
}

/// The files of an index that is being built, without names.
#[derive(Debug)]
pub(crate) struct Draft {
    index: DraftFile,
    copy: DraftFile,
}

impl Draft {
    /// Returns handles of the files for the pass to write to.
    ///
    /// # Errors
    /// [`Error::Io`] when there are no more file descriptors.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        let clone = |file: &File| file.try_clone().map_err(|cause| Error::io("cannot reopen a draft", cause));
        Ok(Scratch { windows: clone(&self.index.file)?, copy: clone(&self.copy.file)? })
    }
}

impl Store {
    /// Opens the store in `directory`. A missing directory is created with mode 0700; missing parents are
    /// created, too.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be created, or when it is not a directory that the user owns
    /// and only the user can write to.
    pub fn open(directory: &Path) -> Result<Self> {
        let cannot_make =
            |cause| Error::io_on("cannot create cache directory", Subject::File(directory.to_owned()), cause);
        if let Some(parent) = directory.parent() {
            std::fs::create_dir_all(parent).map_err(cannot_make)?;
        }
        match mkdirat(CWD, directory, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(cannot_make(errno.into())),
        }
        check_trust(directory)?;
        let store = Store { directory: directory.to_owned(), variant: None };
        store.remove_stale_drafts();
        Ok(store)
    }

    /// Returns the cache directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns this store for results that are made under `limits`. Under other limits than the defaults, files
    /// have other names, so a stored index or tree never exceeds the limits that are in force.
    #[must_use]
    pub(crate) fn under(mut self, limits: &Limits) -> Self {
        self.variant = limits.variant().map(|variant| format!("{LIMITS}{}", short_name(&variant)));
        self
    }

    /// Returns the index for `key`; `None` if it is missing, damaged or not trusted.
    #[must_use]
    pub(crate) fn load(&self, key: &Key) -> Option<StoredIndex> {
        let path = self.path(key, "idx");
        match self.read(key, &path) {
            Ok(found) => found,
            Err(doubt) => {
                log::info!("cannot use index '{}', building it again: {doubt}", escape_path(&path));
                None
            }
        }
    }

    fn read(&self, key: &Key, path: &Path) -> Result<Option<StoredIndex>> {
        let Some(file) = open_own(path)? else { return Ok(None) };
        let what = Subject::File(path.to_owned());
        // Pruning uses this time as the time of last use. Without write permission the store can still be
        // read.
        let _ = file.set_modified(SystemTime::now());
        let wrap = |file| FileBytes::reopened_by(file, reopen(path));
        let (index, windows) = read_index(file, &what, wrap)?;
        let copy = self.read_copy(key, index.facts().copy_bytes)?;
        Ok(Some(StoredIndex { index: Arc::new(index), windows: Arc::new(windows), copy }))
    }

    /// Opens the seekable copy, whose length must be `len`, as recorded in the index.
    fn read_copy(&self, key: &Key, len: u64) -> Result<Option<Arc<dyn ReadAt>>> {
        if len == 0 {
            return Ok(None);
        }
        let path = self.path(key, "copy");
        let what = Subject::File(path.clone());
        let bad = |reason: &str| Error::malformed(what.clone(), reason);
        let file = open_own(&path)?.ok_or_else(|| bad("the seekable copy is missing"))?;
        let _ = file.set_modified(SystemTime::now());
        let copy = FileBytes::reopened_by(file, reopen(&path))
            .map_err(|cause| Error::io_on("cannot read", what.clone(), cause))?;
        if copy.len() != len {
            return Err(bad("the seekable copy has the wrong length"));
        }
        Ok(Some(Arc::new(copy)))
    }

    /// Creates the files for a new index.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be written.
    pub(crate) fn draft(&self) -> Result<Draft> {
        Ok(Draft { index: self.draft_file()?, copy: self.draft_file()? })
    }

    /// Saves the files of `draft`, which a pass has written, under `key`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, for example because the disk is full. Nothing is left
    /// behind then.
    pub(crate) fn save(&self, key: &Key, draft: Draft, indexed: &Indexed) -> Result<()> {
        let path = self.path(key, "idx");
        let failed = |cause| cannot_write(&path, cause);
        write_index(indexed, &draft.index.file).map_err(failed)?;
        if indexed.copy.is_some() {
            self.publish(&self.path(key, "copy"), draft.copy)?;
        }
        self.publish(&path, draft.index)
    }

    /// Returns how the files that were saved under `key` are opened again.
    pub(crate) fn saved(&self, key: &Key) -> SavedFiles {
        SavedFiles { index: reopen(&self.path(key, "idx")), copy: reopen(&self.path(key, "copy")) }
    }

    /// Adds a second name, `to`, for the index stored under `from`. Both names share one file. Only for an
    /// index without a seekable copy.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be written, or its file system has no hard links.
    pub fn add_name(&self, from: &Key, to: &Key) -> Result<()> {
        let [from, to] = [from, to].map(|key| self.path(key, "idx"));
        // The caller found no usable file under this name.
        let _ = std::fs::remove_file(&to);
        match linkat(CWD, &from, CWD, &to, AtFlags::empty()) {
            // Another process was faster.
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::io_on("cannot link", Subject::File(to), errno.into())),
        }
    }

    /// Returns the bytes of the merged tree for `key`, if they can be read. The caller checks them.
    #[must_use]
    pub(crate) fn load_tree(&self, key: &Key) -> Option<Bytes> {
        let path = self.path(key, "tree");
        let file = open_own(&path).map_err(|error| log::info!("{error}")).ok()??;
        let _ = file.set_modified(SystemTime::now());
        let len = file.metadata().ok().map(|found| found.len()).filter(|len| *len <= MAX_INDEX_BYTES)?;
        let bytes = Bytes::of_file(&file, 0, usize::try_from(len).ok()?);
        bytes.map_err(|cause| log::info!("cannot read '{}': {cause}", escape_path(&path))).ok()
    }

    /// Saves a merged tree under `key`, as `write` writes it.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, for example because the disk is full. Nothing is left
    /// behind then.
    pub(crate) fn save_tree(
        &self,
        key: &Key,
        write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let path = self.path(key, "tree");
        let draft = self.draft_file()?;
        let failed = |cause| cannot_write(&path, cause);
        write(&mut &draft.file).map_err(failed)?;
        self.publish(&path, draft)
    }

    fn path(&self, key: &Key, ending: &str) -> PathBuf {
        self.file(&format!("{}{}", key.0, self.variant.as_deref().unwrap_or_default()), ending)
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.directory.join(format!("{name}.{ending}"))
    }

    fn draft_file(&self) -> Result<DraftFile> {
        let failed = |cause| {
            Error::io_on("cannot write to cache directory", Subject::File(self.directory.clone()), cause)
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(file) = openat(CWD, &self.directory, flags, Mode::RUSR | Mode::WUSR) {
            return Ok(DraftFile { file: file.into(), name: None });
        }
        let named = tempfile::Builder::new().prefix(DRAFT_PREFIX).tempfile_in(&self.directory);
        let (file, name) = named.map_err(failed)?.into_parts();
        Ok(DraftFile { file, name: Some(name) })
    }

    /// Gives a draft its name, and replaces an existing file.
    fn publish(&self, path: &Path, draft: DraftFile) -> Result<()> {
        let failed = |cause| cannot_write(path, cause);
        let name = match draft.name {
            Some(name) => name,
            None => self.link(&draft.file).map_err(failed)?,
        };
        name.persist(path).map_err(|error| failed(error.error))
    }

    /// Gives a nameless file a temporary name, because `linkat` cannot replace a file, but `rename` can.
    fn link(&self, file: &File) -> std::io::Result<TempPath> {
        let unlinked = tempfile::Builder::new().prefix(DRAFT_PREFIX).make_in(&self.directory, |path| {
            let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(std::io::Error::from)
        })?;
        Ok(unlinked.into_temp_path())
    }

    fn remove_stale_drafts(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let stale =
                || entry.metadata().ok()?.modified().ok()?.elapsed().ok().map(|age| age > STALE_DRAFT);
            if entry.file_name().to_string_lossy().starts_with(DRAFT_PREFIX) && stale() == Some(true) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[derive(Debug)]
struct DraftFile {
    file: File,
    /// `None` for a file without a name, which vanishes when it is closed.
    name: Option<TempPath>,
}

fn cannot_write(path: &Path, cause: std::io::Error) -> Error {
    Error::io_on("cannot write", Subject::File(path.to_owned()), cause)
}

/// Refuses a directory that other users can write to or own.
fn check_trust(directory: &Path) -> Result<()> {
    let what = || Subject::File(directory.to_owned());
    let found = std::fs::symlink_metadata(directory)
        .map_err(|cause| Error::io_on("cannot open cache directory", what(), cause))?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        let reason = "it must be a directory that you own and that only you can write to";
        let cause = std::io::Error::other(reason);
        return Err(Error::io_on("cannot use cache directory", what(), cause));
    }
    Ok(())
}

/// Opens a regular file that the user owns and only the user can write to, never through a symbolic link.
/// Returns `None` if there is no such file.
fn open_own(path: &Path) -> Result<Option<File>> {
    let failed = |cause| Error::io_on("cannot open", Subject::File(path.to_owned()), cause);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file: File = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    check_own(&file).map_err(failed)?;
    Ok(Some(file))
}

/// Returns how the file at `path` is opened again.
fn reopen(path: &Path) -> Reopen {
    let path = path.to_owned();
    Arc::new(move || match open_own(&path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(std::io::ErrorKind::NotFound.into()),
        Err(error) => Err(std::io::Error::other(error)),
    })
}

/// Refuses anything but a regular file that the user owns and only the user can write to.
fn check_own(file: &File) -> std::io::Result<()> {
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(std::io::Error::other("not a regular file that you own and that only you can write to"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
