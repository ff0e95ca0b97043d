//! Keeps the blocks of blobs that were requested: in the cache directory, or in memory without one.
//!
//! A block is written before its byte in the map, and nothing is synced. So a process that is killed leaves
//! blocks that are whole, and a power failure can leave wrong ones. They are found when a span or the whole
//! blob does not match its hash; [`Content::forget`] then drops them. Several processes share the files:
//! whichever has a block first writes it, and two that write the same block write the same bytes. This module
//! owns the files of a blob, the limits on their size, and who fills a blob as a whole. It does not know
//! requests or spans.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::{fmt, io};

use lru::LruCache;
use rustix::fs::{FlockOperation, flock};

use super::plan::{BLOCK_BYTES, blocks, bytes_of};
use crate::digest::Digest;
use crate::store::blobs::{BlobDirectory, BlobFile};

/// Maximum memory for blocks that are not kept on disk, in bytes: of the spans that readers are at, and of
/// what was requested ahead of them.
const MEMORY_BYTES: usize = 64 << 20;
/// Bytes that may be written before the size of the directory is measured again.
const GRANT_BYTES: u64 = 64 << 20;
/// Divisor of the size of the disk: the share that is left free.
const FREE_SHARE: u64 = 20;
/// The byte of a block in the map.
const MISSING: u8 = 0;
const KEPT: u8 = 1;
/// What is written to the map for many blocks at a time.
const MISSING_BLOCKS: [u8; 4096] = [MISSING; 4096];

/// The blocks of all blobs of a source. A clone is the same cache.
#[derive(Debug, Clone)]
pub(super) struct ContentCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The directory of the store, in which `directory` is opened when it is needed.
    cache_dir: Option<PathBuf>,
    directory: OnceLock<Option<BlobDirectory>>,
    budget_bytes: u64,
    /// Bytes that may be written before the directory is measured again.
    granted_bytes: Mutex<u64>,
    memory: Mutex<Memory>,
    next_blob: AtomicU64,
}

impl ContentCache {
    /// Creates the cache in `cache_dir`, the directory of the store, for at most `budget_bytes` of all blobs.
    /// Without a usable directory, blocks are kept in memory.
    pub(super) fn new(cache_dir: Option<PathBuf>, budget_bytes: u64) -> Self {
        ContentCache(Arc::new(Shared {
            cache_dir,
            directory: OnceLock::new(),
            budget_bytes,
            granted_bytes: Mutex::new(0),
            memory: Mutex::default(),
            next_blob: AtomicU64::new(0),
        }))
    }

    /// Opens the content of a blob of `blob_bytes` bytes, and marks it as used.
    pub(super) fn blob(&self, digest: &Digest, blob_bytes: u64) -> Content {
        let disk = self.directory().and_then(|directory| {
            Disk::open(directory.clone(), *digest, blob_bytes)
                .map_err(|cause| log::warn!("{digest}: downloaded bytes are not kept: {cause}"))
                .ok()
        });
        let number = self.0.next_blob.fetch_add(1, Ordering::Relaxed);
        Content { cache: self.clone(), number, blob_bytes, disk, filling: AtomicBool::new(false) }
    }

    /// Marks what is kept of a blob as in use, so that it is not removed as long as the returned file is open.
    /// `None` if nothing is kept.
    pub(super) fn hold(&self, digest: &Digest) -> Option<File> {
        let directory = self.directory()?;
        directory.has(digest).then(|| directory.hold(digest).ok()).flatten()
    }

    fn directory(&self) -> Option<&BlobDirectory> {
        let directory = self.0.directory.get_or_init(|| {
            BlobDirectory::open(self.0.cache_dir.as_ref()?)
                .map_err(|error| log::warn!("downloaded bytes are not kept: {error}"))
                .ok()
        });
        directory.as_ref()
    }

    /// Returns whether `bytes` more bytes may be written to disk. Blobs that are not in use make room, the
    /// least recently used first.
    fn allows(&self, directory: &BlobDirectory, bytes: u64) -> bool {
        let mut granted = self.0.granted_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if *granted < bytes {
            *granted = self.room(directory).unwrap_or(0).min(GRANT_BYTES);
        }
        let allowed = *granted >= bytes;
        if allowed {
            *granted -= bytes;
        }
        allowed
    }

    fn room(&self, directory: &BlobDirectory) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(directory.path())?;
        let reserve = disk.f_blocks.saturating_mul(disk.f_frsize) / FREE_SHARE;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let kept = directory.kept_bytes()?;
        // What may be kept in all, so that both the budget and the free part of the disk are observed.
        let most = self.0.budget_bytes.min(kept.saturating_add(free).saturating_sub(reserve));
        let kept = match kept.saturating_add(GRANT_BYTES) > most {
            true => directory.shrink(most.saturating_sub(GRANT_BYTES.min(most / 2)))?,
            false => kept,
        };
        Ok(most.saturating_sub(kept))
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks in memory, by blob and block.
struct Memory {
    blocks: LruCache<(u64, u64), Arc<[u8]>>,
    bytes: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { blocks: LruCache::unbounded(), bytes: 0 }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Memory {
    fn put(&mut self, key: (u64, u64), bytes: &[u8]) {
        self.remove(key);
        self.bytes += bytes.len();
        self.blocks.put(key, bytes.into());
        while self.bytes > MEMORY_BYTES {
            let Some((_, evicted)) = self.blocks.pop_lru() else { break };
            self.bytes -= evicted.len();
        }
    }

    fn remove(&mut self, key: (u64, u64)) {
        if let Some(bytes) = self.blocks.pop(&key) {
            self.bytes -= bytes.len();
        }
    }
}

/// What is kept of one blob. All methods can be called from several threads.
#[derive(Debug)]
pub(super) struct Content {
    cache: ContentCache,
    /// Identifies the blob in [`Memory`].
    number: u64,
    blob_bytes: u64,
    disk: Option<Disk>,
    /// Whether a thread of this process fills the blob.
    filling: AtomicBool,
}

impl Content {
    /// Returns whether the block is kept, by this process or another one.
    pub(super) fn has(&self, block: u64) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.has(block))
            || self.cache.memory().blocks.contains(&(self.number, block))
    }

    /// Replaces `out` with the bytes of a block. Returns false if the block is not kept.
    pub(super) fn read(&self, block: u64, out: &mut Vec<u8>) -> bool {
        let bytes = bytes_of(block, self.blob_bytes);
        let len = usize::try_from(bytes.end - bytes.start).unwrap_or(0);
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.has(block)) {
            out.resize(len, 0);
            match disk.files().read(out, bytes.start) {
                Ok(()) => return true,
                // The file was truncated, or its disk fails.
                Err(cause) => {
                    if cause.kind() != io::ErrorKind::UnexpectedEof {
                        disk.keeping.store(false, Ordering::Relaxed);
                    }
                    log::info!("a cached block cannot be read and is requested again: {cause}");
                    disk.forget(block..block.saturating_add(1));
                }
            }
        }
        let kept = self.cache.memory().blocks.get(&(self.number, block)).cloned();
        out.clear();
        out.extend_from_slice(kept.as_deref().unwrap_or_default());
        kept.is_some()
    }

    /// Keeps a block that is not kept yet.
    pub(super) fn keep(&self, block: u64, bytes: &[u8]) {
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.keeping.load(Ordering::Relaxed)) {
            if disk.has(block) {
                return;
            }
            let kept = match self.cache.allows(&disk.directory, bytes.len() as u64) {
                true => disk.write(block, bytes),
                false => Err(io::Error::other("the limit on their size is reached")),
            };
            match kept {
                Ok(()) => return,
                Err(cause) => {
                    disk.keeping.store(false, Ordering::Relaxed);
                    log::warn!("{}: further downloaded bytes are not kept: {cause}", disk.digest);
                }
            }
        }
        self.cache.memory().put((self.number, block), bytes);
    }

    /// Returns whether blocks are kept on disk. In memory there is space for a few only.
    pub(super) fn is_on_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.keeping.load(Ordering::Relaxed))
    }

    /// Drops blocks whose bytes are wrong.
    pub(super) fn forget(&self, wrong: Range<u64>) {
        let mut memory = self.cache.memory();
        wrong.clone().for_each(|block| memory.remove((self.number, block)));
        drop(memory);
        if let Some(disk) = &self.disk {
            disk.forget(wrong);
        }
    }

    /// Begins to fill the blob from front to back. Returns false if another thread or process does.
    /// [`Content::end_fill`] must follow.
    pub(super) fn begin_fill(&self) -> bool {
        if self.filling.swap(true, Ordering::Acquire) {
            return false;
        }
        let locked = self.disk.as_ref().is_none_or(|disk| disk.files().lock());
        if !locked {
            self.filling.store(false, Ordering::Release);
        }
        locked
    }

    /// Ends the filling that [`Content::begin_fill`] began.
    pub(super) fn end_fill(&self) {
        if let Some(disk) = &self.disk {
            disk.files().unlock();
        }
        self.filling.store(false, Ordering::Release);
    }

    /// Records that the bytes of the blob match its digest. A blob that is kept as a whole is stored as such.
    pub(super) fn proved(&self) {
        let all = blocks(&(0..self.blob_bytes));
        if let Some(disk) = self.disk.as_ref().filter(|disk| all.clone().all(|block| disk.has(block))) {
            disk.complete().unwrap_or_else(|cause| log::debug!("{}: not completed: {cause}", disk.digest));
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(disk) = &self.disk {
            let _ = disk.hold.set_modified(std::time::SystemTime::now());
        }
    }
}

/// The files of a blob.
#[derive(Debug)]
struct Disk {
    directory: BlobDirectory,
    digest: Digest,
    blob_bytes: u64,
    /// Open while the blob is in use, so that it is not removed.
    hold: File,
    files: RwLock<Arc<Files>>,
    /// Whether blocks are written. False once the disk or the budget is full, or the files cannot be used.
    keeping: AtomicBool,
}

#[derive(Debug)]
enum Files {
    Part {
        part: File,
        map: File,
        /// Blocks that this process found in the map; the others are looked up again.
        known: Known,
    },
    Whole(File),
    /// The files cannot be used.
    Lost,
}

/// A set of blocks, one bit for each.
#[derive(Debug)]
struct Known(Vec<AtomicU64>);

impl Known {
    fn new(blocks: u64) -> Self {
        Known((0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn word(&self, block: u64) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(block / 64).ok()?)
    }

    fn has(&self, block: u64) -> bool {
        self.word(block).is_some_and(|word| word.load(Ordering::Acquire) >> (block % 64) & 1 == 1)
    }

    fn set(&self, block: u64, here: bool) {
        let bit = 1 << (block % 64);
        match (self.word(block), here) {
            (Some(word), true) => drop(word.fetch_or(bit, Ordering::AcqRel)),
            (Some(word), false) => drop(word.fetch_and(!bit, Ordering::AcqRel)),
            (None, _) => {}
        }
    }
}

impl Disk {
    fn open(directory: BlobDirectory, digest: Digest, blob_bytes: u64) -> io::Result<Self> {
        let hold = directory.hold(&digest)?;
        let whole = directory.open_file(&digest, BlobFile::Whole, false)?;
        let whole = whole.map(|file| Ok::<_, io::Error>((file.metadata()?.len(), file))).transpose()?;
        let files = match whole {
            Some((len_bytes, file)) if len_bytes == blob_bytes => {
                directory.unlink(&digest, BlobFile::Part)?;
                directory.unlink(&digest, BlobFile::Map)?;
                Files::Whole(file)
            }
            // A manifest that states another size for this digest must not remove what other images need.
            Some((_, file)) if holds(&file, &digest)? => {
                return Err(io::Error::other("it is stored as a whole, and has another size"));
            }
            found => {
                if found.is_some() {
                    directory.unlink(&digest, BlobFile::Whole)?;
                }
                if !has_length(&directory, &digest, blob_bytes)? && !directory.is_alone(&digest, &hold)? {
                    return Err(io::Error::other("another process keeps it with another size"));
                }
                Files::open_part(&directory, &digest, blob_bytes)?
            }
        };
        let (files, keeping) = (RwLock::new(Arc::new(files)), AtomicBool::new(true));
        Ok(Disk { directory, digest, blob_bytes, hold, files, keeping })
    }

    fn files(&self) -> Arc<Files> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has(&self, block: u64) -> bool {
        match &*self.files() {
            Files::Whole(_) => block < self.blob_bytes.div_ceil(BLOCK_BYTES),
            Files::Part { map, known, .. } => {
                if block >= self.blob_bytes.div_ceil(BLOCK_BYTES) || known.has(block) {
                    return known.has(block);
                }
                let mut found = [MISSING];
                let here = map.read_exact_at(&mut found, block).is_ok() && found == [KEPT];
                if here {
                    known.set(block, true);
                }
                here
            }
            Files::Lost => false,
        }
    }

    fn write(&self, block: u64, bytes: &[u8]) -> io::Result<()> {
        let files = self.files();
        let Files::Part { part, map, known } = &*files else { return Ok(()) };
        part.write_all_at(bytes, bytes_of(block, self.blob_bytes).start)?;
        map.write_all_at(&[KEPT], block)?;
        known.set(block, true);
        Ok(())
    }

    fn forget(&self, wrong: Range<u64>) {
        if let Files::Whole(_) = &*self.files()
            && let Err(cause) = self.reopen()
        {
            log::info!("{}: the cached blob cannot be repaired: {cause}", self.digest);
            *self.files.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Files::Lost);
            self.keeping.store(false, Ordering::Relaxed);
        }
        let files = self.files();
        let Files::Part { map, known, .. } = &*files else { return };
        for block in wrong.clone() {
            known.set(block, false);
        }
        let mut at = wrong.start;
        while at < wrong.end {
            let len = wrong.end.saturating_sub(at).min(MISSING_BLOCKS.len() as u64);
            let missing =
                usize::try_from(len).ok().and_then(|len| MISSING_BLOCKS.get(..len)).unwrap_or_default();
            if map.write_all_at(missing, at).is_err() {
                self.keeping.store(false, Ordering::Relaxed);
            }
            at = at.saturating_add(len);
        }
    }

    /// Turns a whole blob into a part again, of which all blocks are kept.
    fn reopen(&self) -> io::Result<()> {
        let map = self.directory.open_file(&self.digest, BlobFile::Map, true)?;
        let all = usize::try_from(self.blob_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(0);
        map.ok_or(io::ErrorKind::NotFound)?.write_all_at(&vec![KEPT; all], 0)?;
        self.directory.rename(&self.digest, BlobFile::Whole, BlobFile::Part)?;
        let part = Files::open_part(&self.directory, &self.digest, self.blob_bytes)?;
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(part);
        Ok(())
    }

    fn complete(&self) -> io::Result<()> {
        let files = self.files();
        let Files::Part { part, .. } = &*files else { return Ok(()) };
        let whole = part.try_clone()?;
        if !self.directory.names(&self.digest, BlobFile::Part, part)? {
            return Err(io::Error::other("another process has completed or removed it"));
        }
        self.directory.rename(&self.digest, BlobFile::Part, BlobFile::Whole)?;
        self.directory.unlink(&self.digest, BlobFile::Map)?;
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Files::Whole(whole));
        Ok(())
    }
}

/// Returns whether a file has the content that `digest` names.
fn holds(file: &File, digest: &Digest) -> io::Result<bool> {
    let mut hasher = digest.algorithm().hasher();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        offset += read as u64;
    }
    Ok(hasher.finish() == *digest)
}

/// Returns whether the part of a blob is new, or has this length.
fn has_length(directory: &BlobDirectory, digest: &Digest, blob_bytes: u64) -> io::Result<bool> {
    let part = directory.open_file(digest, BlobFile::Part, false)?;
    let len_bytes = part.map(|part| part.metadata()).transpose()?.map_or(0, |found| found.len());
    Ok(len_bytes == 0 || len_bytes == blob_bytes)
}

impl Files {
    fn open_part(directory: &BlobDirectory, digest: &Digest, blob_bytes: u64) -> io::Result<Self> {
        let open = |file, len_bytes| {
            let opened = directory.open_file(digest, file, true)?.ok_or(io::ErrorKind::NotFound)?;
            // A file of another length is new, or was changed: what it lacks becomes zeros.
            if opened.metadata()?.len() != len_bytes {
                opened.set_len(len_bytes)?;
            }
            Ok::<_, io::Error>(opened)
        };
        let blocks = blob_bytes.div_ceil(BLOCK_BYTES);
        let (part, map) = (open(BlobFile::Part, blob_bytes)?, open(BlobFile::Map, blocks)?);
        Ok(Files::Part { part, map, known: Known::new(blocks) })
    }

    fn read(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Files::Part { part: file, .. } | Files::Whole(file) => file.read_exact_at(out, offset),
            Files::Lost => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Returns false if another process has the lock.
    fn lock(&self) -> bool {
        match self {
            Files::Part { part, .. } => {
                // Where files cannot be locked, processes may request the same bytes.
                flock(part, FlockOperation::NonBlockingLockExclusive) != Err(rustix::io::Errno::WOULDBLOCK)
            }
            Files::Whole(_) | Files::Lost => true,
        }
    }

    fn unlock(&self) {
        if let Files::Part { part: file, .. } | Files::Whole(file) = self {
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}

#[cfg(test)]
mod tests;
