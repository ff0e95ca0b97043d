//! The directory `blobs` of a store: what is kept of blobs from registries.
//!
//! This module owns the names of these files, the lock that tells which of them are in use, and what can be
//! removed. It does not know blocks or requests. docs/index-format.md describes the files.

use std::fs::File;
use std::io;
#[cfg(feature = "registry")]
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};

use super::{check_own, check_trust};
use crate::digest::Digest;
use crate::error::Result;

/// The directory below the cache directory.
const DIRECTORY: &str = "blobs";
/// Attempts to open a lock file that another process removes at the same time.
#[cfg(feature = "registry")]
const MAX_HOLD_ATTEMPTS: u32 = 20;

/// A file that belongs to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobFile {
    /// The bytes that are kept so far, at their offsets.
    Part,
    /// One byte for each block of the part: 1 if the block is kept.
    Map,
    /// All bytes of the blob, whose digest was verified.
    Whole,
    /// The file that is locked while the blob is in use. Its modification time is the time of last use.
    Use,
}

impl BlobFile {
    const ALL: [BlobFile; 4] = [BlobFile::Part, BlobFile::Map, BlobFile::Whole, BlobFile::Use];

    fn ending(self) -> &'static str {
        match self {
            BlobFile::Part => "part",
            BlobFile::Map => "map",
            BlobFile::Whole => "blob",
            BlobFile::Use => "use",
        }
    }
}

/// What is kept of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredBlob {
    /// The digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub blob_bytes: u64,
    /// Bytes on disk.
    pub kept_bytes: u64,
    /// Whether the whole blob is kept and its digest was verified.
    pub is_whole: bool,
}

/// The blobs of a store.
#[derive(Debug, Clone)]
pub(crate) struct BlobDirectory {
    path: PathBuf,
}

impl BlobDirectory {
    /// Opens the directory in `cache`, the directory of a store, and creates it if it is missing.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when it cannot be created, or when other users can write to it.
    #[cfg(feature = "registry")]
    pub(crate) fn open(cache: &Path) -> Result<Self> {
        let directory = BlobDirectory::of(cache);
        // A directory that exists is examined next.
        let _ = std::fs::DirBuilder::new().mode(0o700).create(&directory.path);
        check_trust(&directory.path)?;
        Ok(directory)
    }

    /// Returns the directory in `cache`, the directory of a store, whether or not it exists.
    pub(crate) fn of(cache: &Path) -> Self {
        BlobDirectory { path: cache.join(DIRECTORY) }
    }

    /// Returns the path of the directory.
    #[cfg(feature = "registry")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, digest: &Digest, file: BlobFile) -> PathBuf {
        self.path.join(format!("{}-{}.{}", digest.algorithm().name(), digest.hex(), file.ending()))
    }

    /// Opens a file for reading and writing; `None` if it does not exist and `create` is false.
    ///
    /// # Errors
    /// When the file cannot be opened or created, or is not a regular file that the user owns.
    pub(crate) fn open_file(
        &self,
        digest: &Digest,
        file: BlobFile,
        create: bool,
    ) -> io::Result<Option<File>> {
        let create = if create { OFlags::CREATE } else { OFlags::empty() };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | create;
        match openat(CWD, self.file(digest, file), flags, Mode::RUSR | Mode::WUSR) {
            Ok(opened) => {
                let opened = File::from(opened);
                check_own(&opened)?;
                Ok(Some(opened))
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Renames a file of a blob.
    #[cfg(feature = "registry")]
    pub(crate) fn rename(&self, digest: &Digest, from: BlobFile, to: BlobFile) -> io::Result<()> {
        std::fs::rename(self.file(digest, from), self.file(digest, to))
    }

    /// Removes a file of a blob, if it exists.
    pub(crate) fn unlink(&self, digest: &Digest, file: BlobFile) -> io::Result<()> {
        match std::fs::remove_file(self.file(digest, file)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => Ok(()),
        }
    }

    /// Marks a blob as in use as long as the returned file is open. Blobs in use are not removed.
    ///
    /// # Errors
    /// When the file cannot be created or locked.
    #[cfg(feature = "registry")]
    pub(crate) fn hold(&self, digest: &Digest) -> io::Result<File> {
        for _ in 0..MAX_HOLD_ATTEMPTS {
            let Some(file) = self.open_file(digest, BlobFile::Use, true)? else { continue };
            let locked = flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
            // A process that removes the blob also removes the file that is locked.
            if locked && self.names(digest, BlobFile::Use, &file)? {
                let _ = file.set_modified(SystemTime::now());
                return Ok(file);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Err(io::Error::other("it is being removed"))
    }

    /// Returns whether nobody else has marked the blob as in use. `hold` is the mark of the caller, and remains.
    ///
    /// # Errors
    /// When the mark is lost, because the blob was removed meanwhile.
    #[cfg(feature = "registry")]
    pub(crate) fn is_alone(&self, digest: &Digest, hold: &File) -> io::Result<bool> {
        let alone = flock(hold, FlockOperation::NonBlockingLockExclusive).is_ok();
        flock(hold, FlockOperation::NonBlockingLockShared)?;
        match self.names(digest, BlobFile::Use, hold)? {
            true => Ok(alone),
            false => Err(io::Error::other("it is being removed")),
        }
    }

    /// Returns whether anything is kept of the blob.
    #[cfg(feature = "registry")]
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        [BlobFile::Whole, BlobFile::Part].iter().any(|file| self.file(digest, *file).exists())
    }

    /// Returns whether the name of `file` still belongs to `open`.
    ///
    /// # Errors
    /// When `open` cannot be examined.
    pub(crate) fn names(&self, digest: &Digest, file: BlobFile, open: &File) -> io::Result<bool> {
        let found = std::fs::symlink_metadata(self.file(digest, file));
        let open = open.metadata()?;
        Ok(found.is_ok_and(|found| (found.dev(), found.ino()) == (open.dev(), open.ino())))
    }

    /// Lists the blobs with the time of last use. Files with other names are left out; a directory that does
    /// not exist is empty.
    ///
    /// # Errors
    /// When the directory cannot be read, or other users can write to it.
    pub(super) fn measure(&self) -> Result<Vec<(StoredBlob, SystemTime)>> {
        match check_trust(&self.path) {
            Err(crate::Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            checked => checked?,
        }
        let mut digests = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            digests.extend(entry.file_name().to_str().and_then(digest_of));
        }
        Ok(digests.into_iter().filter_map(|digest| self.found(digest)).collect())
    }

    fn found(&self, digest: Digest) -> Option<(StoredBlob, SystemTime)> {
        let metadata = |file| std::fs::symlink_metadata(self.file(&digest, file)).ok();
        let all = BlobFile::ALL.map(metadata);
        let kept_bytes =
            all.iter().flatten().map(|found| found.blocks().saturating_mul(512)).fold(0, u64::saturating_add);
        let [part, _, whole, used] = &all;
        let blob_bytes = whole.as_ref().or(part.as_ref()).map_or(0, |found| found.len());
        let newest = || all.iter().flatten().filter_map(|found| found.modified().ok()).max();
        let last_used = used.as_ref().and_then(|used| used.modified().ok()).or_else(newest)?;
        Some((StoredBlob { digest, blob_bytes, kept_bytes, is_whole: whole.is_some() }, last_used))
    }

    /// Returns the bytes on disk of all blobs.
    ///
    /// # Errors
    /// When the directory cannot be read.
    #[cfg(feature = "registry")]
    pub(crate) fn kept_bytes(&self) -> io::Result<u64> {
        let all = self.measure().map_err(io::Error::other)?;
        Ok(all.iter().map(|(blob, _)| blob.kept_bytes).fold(0, u64::saturating_add))
    }

    /// Removes blobs that are not in use, the least recently used first, until at most `max_bytes` are kept.
    /// Returns the bytes that are kept.
    ///
    /// # Errors
    /// When the directory cannot be read.
    #[cfg(feature = "registry")]
    pub(crate) fn shrink(&self, max_bytes: u64) -> io::Result<u64> {
        let mut all = self.measure().map_err(io::Error::other)?;
        all.sort_by_key(|(_, last_used)| *last_used);
        let mut kept = all.iter().map(|(blob, _)| blob.kept_bytes).fold(0, u64::saturating_add);
        for (blob, last_used) in all {
            if kept <= max_bytes {
                break;
            }
            if matches!(self.remove(&blob.digest, last_used), Ok(true)) {
                log::debug!("{}: removed from the cache to make room", blob.digest);
                kept = kept.saturating_sub(blob.kept_bytes);
            }
        }
        Ok(kept)
    }

    /// Removes a blob, unless it is in use or was used since `last_used`; returns whether it was removed.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(super) fn remove(&self, digest: &Digest, last_used: SystemTime) -> io::Result<bool> {
        let known = self.open_file(digest, BlobFile::Use, false)?;
        let was_used = |lock: &File| Ok::<_, io::Error>(lock.metadata()?.modified()? > last_used);
        if known.as_ref().map_or(Ok(false), was_used)? {
            return Ok(false);
        }
        // Without the file the blob was never in use; with it, no process can begin to use the blob now.
        let lock =
            known.map_or_else(|| self.open_file(digest, BlobFile::Use, true), |lock| Ok(Some(lock)))?;
        let Some(lock) = lock else { return Ok(false) };
        let idle = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if !idle || !self.names(digest, BlobFile::Use, &lock)? {
            return Ok(false);
        }
        for file in BlobFile::ALL {
            self.unlink(digest, file)?;
        }
        Ok(true)
    }
}

/// Returns the digest in the name of a file of a blob; `None` for other names.
fn digest_of(name: &str) -> Option<Digest> {
    let (stem, ending) = name.rsplit_once('.')?;
    let (algorithm, hex) = stem.split_once('-')?;
    let known = BlobFile::ALL.iter().any(|file| file.ending() == ending);
    format!("{algorithm}:{hex}").parse().ok().filter(|_| known)
}

#[cfg(test)]
#[cfg(feature = "registry")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::digest::Algorithm;

    fn directory() -> (tempfile::TempDir, BlobDirectory) {
        let home = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(&home.path().join("cache")).unwrap();
        let blobs = BlobDirectory::open(store.directory()).unwrap();
        (home, blobs)
    }

    fn put(blobs: &BlobDirectory, content: &[u8], file: BlobFile) -> Digest {
        let digest = Algorithm::Sha256.digest(content);
        std::fs::write(blobs.file(&digest, file), content).unwrap();
        digest
    }

    #[test]
    fn what_is_kept_is_listed_with_its_digest_and_its_size_on_disk() {
        let (_home, blobs) = directory();
        let whole = put(&blobs, &[7; 100_000], BlobFile::Whole);
        let part = put(&blobs, b"part", BlobFile::Part);
        std::fs::write(blobs.path.join("sha256-short.part"), b"no digest").unwrap();
        std::fs::write(blobs.path.join("notes.txt"), b"not ours").unwrap();
        let mut found: Vec<StoredBlob> = blobs.measure().unwrap().into_iter().map(|(blob, _)| blob).collect();
        found.sort_by_key(|blob| blob.blob_bytes);
        let digests: Vec<_> =
            found.iter().map(|blob| (blob.digest, blob.blob_bytes, blob.is_whole)).collect();
        assert_eq!(digests, [(part, 4, false), (whole, 100_000, true)]);
        assert!((100_000..120_000).contains(&found[1].kept_bytes), "{found:?}");
    }

    #[test]
    fn a_blob_in_use_is_not_removed_and_one_that_is_idle_is_removed_with_all_files() {
        let (_home, blobs) = directory();
        let digest = put(&blobs, b"part", BlobFile::Part);
        let held = [blobs.hold(&digest).unwrap(), blobs.hold(&digest).unwrap()];
        let later = SystemTime::now() + Duration::from_secs(60);
        assert!(!blobs.remove(&digest, later).unwrap());
        drop(held);
        assert!(!blobs.remove(&digest, SystemTime::UNIX_EPOCH).unwrap(), "used since it was listed");
        assert!(blobs.remove(&digest, later).unwrap());
        assert_eq!(std::fs::read_dir(&blobs.path).unwrap().count(), 0);
    }

    #[test]
    fn what_was_never_in_use_can_be_removed_too() {
        let (_home, blobs) = directory();
        let digest = put(&blobs, b"part", BlobFile::Part);
        assert!(blobs.remove(&digest, SystemTime::UNIX_EPOCH).unwrap());
        assert!(blobs.measure().unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_and_a_missing_one_is_empty() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_home, blobs) = directory();
        std::fs::set_permissions(&blobs.path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(blobs.measure().is_err());
        std::fs::remove_dir(&blobs.path).unwrap();
        assert!(blobs.measure().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_a_link_is_not_opened() {
        let (home, blobs) = directory();
        let digest = Algorithm::Sha256.digest(b"x");
        let target = home.path().join("target");
        std::fs::write(&target, b"secret").unwrap();
        std::os::unix::fs::symlink(&target, blobs.file(&digest, BlobFile::Part)).unwrap();
        assert!(blobs.open_file(&digest, BlobFile::Part, true).is_err());
    }
}
