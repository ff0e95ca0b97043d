//! Opens and checks the files of an assembled tar.
//!
//! This module owns the system calls: nothing outside the root directory is opened, the last component of a
//! path is never followed, and opening a named pipe does not wait. Links in directories are followed as in a
//! container, with the directory as the root, because a layer's tar may contain a file below a link
//! (docs/semantics.md N2).

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{FileCheck, FilePart, FileStamp, invalid};
use crate::path::{escape, escape_path};
use crate::source::beneath::Beneath;

/// Number of files that stay open. A large file is read in many pieces, by a few readers at once.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// How often a path is opened again when a directory on its way is renamed at the same time; then the kernel
/// cannot tell whether `..` leads out.
const MAX_RENAME_RETRIES: usize = 64;

/// The files of an assembled tar.
pub(super) struct Files {
    root: Beneath,
    /// Whether checksums are compared.
    pub(super) checksums: bool,
    /// The files opened last, by the position of the part's details.
    open: Mutex<LruCache<u64, Arc<File>>>,
}

impl Files {
    pub(super) fn new(root: Beneath, checksums: bool) -> Self {
        Files { root, checksums, open: Mutex::new(LruCache::new(OPEN_FILES)) }
    }

    pub(super) fn root(&self) -> &Beneath {
        &self.root
    }

    /// Returns the open file of `part`, which has the number `key`. `keep` says whether it stays open for
    /// further readers.
    pub(super) fn get(&self, key: u64, part: &FilePart, keep: bool) -> io::Result<Arc<File>> {
        if !keep {
            return open(&self.root, part).map(Arc::new);
        }
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = lock().get(&key) {
            let file = file.clone();
            check(&self.root, part, &file)?;
            return Ok(file);
        }
        let file = Arc::new(open(&self.root, part)?);
        lock().put(key, file.clone());
        Ok(file)
    }
}

/// Opens the file of `part` and checks its properties.
///
/// # Errors
/// An error that names the file and says why it is not the expected one; [`is_misfit`] recognises it.
pub(super) fn open(root: &Beneath, part: &FilePart) -> io::Result<File> {
    // Opening a device can have effects, so the type is checked before.
    examine(root, part)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open_in_root(root, part, flags)?);
    check(root, part, &file)?;
    Ok(file)
}

/// Checks the properties of the file of `part` without opening it for reading.
///
/// # Errors
/// As [`open`].
pub(super) fn examine(root: &Beneath, part: &FilePart) -> io::Result<()> {
    check(root, part, &File::from(open_in_root(root, part, OFlags::PATH)?))
}

/// Returns whether `fault` says that a file is not the one that the plan names.
pub(super) fn is_misfit(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
}

/// Checks the properties of an open file.
///
/// # Errors
/// As [`open`].
pub(super) fn check(root: &Beneath, part: &FilePart, file: &File) -> io::Result<()> {
    let metadata = file.metadata().map_err(|cause| cannot("cannot examine", root, part, &cause))?;
    if !metadata.is_file() {
        return Err(misfit(root, part, "is not a regular file"));
    }
    let (found, end) = (metadata.len(), part.start.saturating_add(part.len_bytes));
    match part.expected {
        FileCheck::Crc64(_) if found != end => {
            let reason = format!("has changed since the image was stored: it has {found} bytes, not {end}");
            Err(misfit(root, part, &reason))
        }
        FileCheck::Size if found < end => {
            Err(misfit(root, part, &format!("has {found} bytes, fewer than {end}")))
        }
        FileCheck::Stamp(seen) if FileStamp::of(&metadata) != seen => {
            Err(misfit(root, part, "has changed since the directory was read"))
        }
        _ => Ok(()),
    }
}

/// Creates the error for a file that is not the expected one.
pub(super) fn misfit(root: &Beneath, part: &FilePart, reason: &str) -> io::Error {
    invalid(format!("{} {reason}", name(root, part)))
}

/// Creates the error for a failed system call.
pub(super) fn cannot(action: &str, root: &Beneath, part: &FilePart, cause: &io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("{action} {}: {cause}", name(root, part)))
}

fn name(root: &Beneath, part: &FilePart) -> String {
    format!("'{}' in '{}'", escape(&part.path), escape_path(root.path()))
}

fn open_in_root(root: &Beneath, part: &FilePart, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = part.path.as_slice();
    let open = || rustix::fs::openat2(root.fd(), path, flags, Mode::empty(), resolve);
    let mut opened = open();
    for _ in 0..MAX_RENAME_RETRIES {
        match opened {
            Err(Errno::AGAIN | Errno::INTR) => opened = open(),
            _ => break,
        }
    }
    opened.map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => {
            io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", name(root, part)))
        }
        Errno::LOOP | Errno::NXIO | Errno::NODEV => misfit(root, part, "is not a regular file"),
        errno => cannot("cannot open", root, part, &errno.into()),
    })
}
