//! Open files, of which only some have a file descriptor at a time.
//!
//! An image can have thousands of layers, each with a blob, an index and a seekable copy, but a process may have
//! as few as 256 descriptors. Such a file is opened again when it is read and has no descriptor. This module owns
//! how many descriptors these files may have, and the check that a path still leads to the same file. It does not
//! know what the files hold.
//!
//! The number of descriptors is a property of the process, so all files share one pool.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rustix::process::{Resource, getrlimit};

/// Divisor of the limit on descriptors: the share for these files. The rest is for everything else.
const SHARE: u64 = 2;
/// Fewest descriptors of these files.
const LEAST: usize = 16;

/// Opens the file again.
pub(crate) type Reopen = Arc<dyn Fn() -> io::Result<File> + Send + Sync>;

/// The files with a descriptor.
struct Pool {
    state: Mutex<State>,
    /// Returns the most descriptors that the pool may have now.
    most: fn() -> usize,
}

struct State {
    open: LruCache<u64, Arc<File>>,
    files: u64,
}

static POOL: LazyLock<Arc<Pool>> = LazyLock::new(|| Pool::new(share_of_limit));

/// A file that has a descriptor only part of the time.
pub(crate) struct SharedFile {
    pool: Arc<Pool>,
    number: u64,
    device: u64,
    inode: u64,
    reopen: Reopen,
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFile").field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl SharedFile {
    /// Takes ownership of `file`, which `reopen` opens again.
    ///
    /// # Errors
    /// When the properties of the file cannot be read.
    pub(crate) fn new(file: File, reopen: Reopen) -> io::Result<Self> {
        SharedFile::of_pool(&POOL, file, reopen)
    }

    fn of_pool(pool: &Arc<Pool>, file: File, reopen: Reopen) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let number = {
            let mut state = pool.lock();
            state.files += 1;
            state.files
        };
        pool.insert(number, Arc::new(file));
        Ok(SharedFile {
            pool: Arc::clone(pool),
            number,
            device: metadata.dev(),
            inode: metadata.ino(),
            reopen,
        })
    }

    /// Returns the file with a descriptor, which is kept at least as long as the result.
    ///
    /// # Errors
    /// When the file cannot be opened again, or is another one now.
    pub(crate) fn get(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.pool.lock().open.get(&self.number) {
            return Ok(Arc::clone(file));
        }
        let file = (self.reopen)()?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (self.device, self.inode) {
            return Err(io::Error::other("the file was replaced by another one"));
        }
        let file = Arc::new(file);
        self.pool.insert(self.number, Arc::clone(&file));
        Ok(file)
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        let file = self.pool.lock().open.pop(&self.number);
        drop(file);
    }
}

impl Pool {
    fn new(most: fn() -> usize) -> Arc<Self> {
        Arc::new(Pool { state: Mutex::new(State { open: LruCache::unbounded(), files: 0 }), most })
    }

    fn insert(&self, number: u64, file: Arc<File>) {
        let most = (self.most)();
        let mut closed = Vec::new();
        let mut state = self.lock();
        closed.extend(state.open.put(number, file));
        while state.open.len() > most {
            closed.extend(state.open.pop_lru().map(|(_, file)| file));
        }
        // Files are closed without the lock.
        drop(state);
        drop(closed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the share of the limit on descriptors that is in force now.
fn share_of_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / SHARE).unwrap_or(usize::MAX).max(LEAST)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Makes files that hold their number, in a pool of two descriptors. Counts how often one is opened again.
    fn files(count: usize) -> (tempfile::TempDir, Vec<PathBuf>, Vec<SharedFile>, Arc<AtomicUsize>) {
        let home = tempfile::tempdir().unwrap();
        let pool = Pool::new(|| 2);
        let reopened = Arc::new(AtomicUsize::new(0));
        let paths: Vec<PathBuf> = (0..count).map(|at| home.path().join(at.to_string())).collect();
        let open = |path: &PathBuf| {
            std::fs::write(path, path.file_name().unwrap().as_encoded_bytes()).unwrap();
            let (path, reopened) = (path.clone(), reopened.clone());
            let file = File::open(&path).unwrap();
            let reopen: Reopen = Arc::new(move || {
                reopened.fetch_add(1, Ordering::Relaxed);
                File::open(&path)
            });
            SharedFile::of_pool(&pool, file, reopen).unwrap()
        };
        let files = paths.iter().map(open).collect();
        (home, paths, files, reopened)
    }

    fn read(file: &SharedFile) -> io::Result<String> {
        let mut text = String::new();
        let opened = file.get()?;
        std::io::Seek::rewind(&mut &*opened)?;
        (&*opened).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn more_files_than_descriptors_are_all_readable() {
        let (_home, _, files, reopened) = files(5);
        assert_eq!(files[0].pool.lock().open.len(), 2);
        for (at, file) in files.iter().enumerate() {
            assert_eq!(read(file).unwrap(), at.to_string());
        }
        assert_eq!(reopened.load(Ordering::Relaxed), 5);
        assert_eq!(read(&files[4]).unwrap(), "4");
        assert_eq!(reopened.load(Ordering::Relaxed), 5, "it still has a descriptor");
        let pool = files[0].pool.clone();
        drop(files);
        assert_eq!(pool.lock().open.len(), 0);
    }

    #[test]
    fn a_file_that_was_replaced_is_an_error_and_an_open_one_is_still_read() {
        let (_home, paths, files, _) = files(3);
        for path in &paths {
            std::fs::write(path.with_extension("new"), "other").unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }
        assert_eq!(read(&files[1]).unwrap(), "1");
        assert!(read(&files[0]).unwrap_err().to_string().contains("was replaced"));
        std::fs::remove_file(&paths[0]).unwrap();
        assert_eq!(read(&files[0]).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
