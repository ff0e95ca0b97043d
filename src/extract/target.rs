//! The directory that a tree is extracted to, and every step below it.
//!
//! This module owns safety against existing files: the target is opened once, no step leaves it or
//! follows a symbolic link, and no object gets its final name before it is complete. It knows names and
//! descriptors, and must not know images.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, chmod, fstat, linkat, mkdirat,
    open, openat, openat2, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, Result};

/// The treatment of files that exist where a tree is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Existing {
    /// Refuse a target directory that is not empty. A file that exists is kept, and reported as a failure.
    #[default]
    Refuse,
    /// Merge directories, which get the image's attributes, and replace everything else: a file also
    /// replaces a whole directory.
    Replace,
    /// As `Replace`, but a directory and a file never replace each other, and the target directory keeps its
    /// attributes.
    Merge,
}

/// Identifies a directory, independently of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Identity { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// The target directory.
#[derive(Debug)]
pub(super) struct Target {
    base: OwnedFd,
    existing: Existing,
    /// Part of the temporary names of this run; random, so that no other user can create such a name first.
    token: u64,
    next_name: AtomicU64,
    /// Whether to use openat2, which is new in Linux 5.6; some sandboxes block it.
    pub(super) has_openat2: AtomicBool,
}

/// Flags to open a directory that is passed through and not read.
const PASS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Mode of unfinished directories: no other user can enter them, whatever their final mode.
const PRIVATE: Mode = Mode::RWXU;

impl Target {
    /// Opens the target directory. A symbolic link to a directory is followed, because the user named it.
    pub(super) fn open(dir: &Path, existing: Existing) -> Result<Self> {
        let base = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Target {
            base,
            existing,
            token: RandomState::new().build_hasher().finish(),
            next_name: AtomicU64::new(0),
            has_openat2: AtomicBool::new(true),
        })
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        for entry in Dir::read_from(&self.base)? {
            if !is_dot(entry?.file_name().to_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn identity(&self) -> Result<Identity> {
        Ok(Identity::of(&fstat(&self.base)?))
    }

    /// Opens a directory below the target (the target itself for an empty path) to create objects in it.
    pub(super) fn pass(&self, path: &[u8], known: Identity) -> Result<OwnedFd> {
        self.directory(path, PASS, known)
    }

    /// Opens a directory below the target to set its attributes.
    pub(super) fn read(&self, path: &[u8], known: Identity) -> Result<OwnedFd> {
        self.directory(path, READ, known)
    }

    /// Opens a directory below the target. Fails with `EXDEV` if it is no longer the directory `known`.
    fn directory(&self, path: &[u8], flags: OFlags, known: Identity) -> Result<OwnedFd> {
        let opened = self.beneath(path, flags)?;
        if Identity::of(&fstat(&opened)?) == known { Ok(opened) } else { Err(Errno::XDEV) }
    }

    fn beneath(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        if path.is_empty() {
            return openat(&self.base, ".", flags, Mode::empty());
        }
        if self.has_openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match openat2(&self.base, path, flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS | Errno::PERM) => self.has_openat2.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        step_by_step(self.base.as_fd(), path, flags)
    }

    /// Creates a directory, or uses the existing one.
    pub(super) fn make_directory(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Identity> {
        match mkdirat(parent, name, PRIVATE) {
            Err(Errno::EXIST) if self.existing != Existing::Refuse => {
                let there = lstat(parent, name)?;
                if is_directory(&there) {
                    make_usable(parent, name, &there);
                } else if self.existing == Existing::Replace {
                    unlinkat(parent, name, AtFlags::empty())?;
                    mkdirat(parent, name, PRIVATE)?;
                } else {
                    return Err(Errno::NOTDIR);
                }
            }
            other => other?,
        }
        let made = lstat(parent, name)?;
        if is_directory(&made) { Ok(Identity::of(&made)) } else { Err(Errno::NOTDIR) }
    }

    /// Returns a temporary name that no file has.
    pub(super) fn temporary_name(&self) -> String {
        format!(".imgmount-{:016x}-{}", self.token, self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives a complete object its final name, in the same directory.
    pub(super) fn place(&self, parent: BorrowedFd<'_>, temporary: &str, name: &[u8]) -> Result<()> {
        if self.existing == Existing::Refuse {
            return match renameat_with(parent, temporary, parent, name, RenameFlags::NOREPLACE) {
                // The file system cannot refuse to replace a file, so existence is checked first.
                Err(Errno::INVAL | Errno::NOSYS) => match lstat(parent, name) {
                    Err(Errno::NOENT) => renameat(parent, temporary, parent, name),
                    Err(other) => Err(other),
                    Ok(_) => Err(Errno::EXIST),
                },
                other => other,
            };
        }
        match renameat(parent, temporary, parent, name) {
            Err(Errno::ISDIR) if self.existing == Existing::Replace => {
                remove(parent, name)?;
                renameat(parent, temporary, parent, name)
            }
            other => other,
        }
    }

    /// Gives an object a further name.
    pub(super) fn link(
        &self,
        (from, first): (BorrowedFd<'_>, &[u8]),
        (parent, name): (BorrowedFd<'_>, &[u8]),
    ) -> Result<()> {
        if self.existing == Existing::Refuse {
            return linkat(from, first, parent, name, AtFlags::empty());
        }
        let temporary = self.temporary_name();
        linkat(from, first, parent, &temporary, AtFlags::empty())?;
        let placed = self.place(parent, &temporary, name);
        // Renaming does nothing if both names belong to the same file, so the temporary name may remain.
        discard(parent, &temporary);
        placed
    }
}

/// Removes a temporary name, if it still exists.
pub(super) fn discard(parent: BorrowedFd<'_>, temporary: &str) {
    // The failure that led here was reported already.
    let _ = unlinkat(parent, temporary, AtFlags::empty());
}

/// Opens a path without `..`, with the effect of `openat2` with `RESOLVE_BENEATH` and
/// `RESOLVE_NO_SYMLINKS`.
fn step_by_step(base: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let (parents, last) = match path.iter().rposition(|byte| *byte == b'/').map(|at| path.split_at(at)) {
        Some((parents, last)) => (parents, last.strip_prefix(b"/").unwrap_or(last)),
        None => (&b""[..], path),
    };
    let mut within: Option<OwnedFd> = None;
    for name in parents.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let from = within.as_ref().map_or(base, |within| within.as_fd());
        within = Some(openat(from, name, PASS, Mode::empty())?);
    }
    openat(within.as_ref().map_or(base, |within| within.as_fd()), last, flags, Mode::empty())
}

/// Gives the owner access to an existing directory that denies it. Does nothing as root or for
/// directories of other users.
fn make_usable(parent: BorrowedFd<'_>, name: &[u8], there: &Stat) {
    let user = rustix::process::geteuid();
    let mode = Mode::from_raw_mode(there.st_mode);
    if user.is_root() || user.as_raw() != there.st_uid || mode.contains(PRIVATE) {
        return;
    }
    if let Ok(directory) = openat(parent, name, PASS, Mode::empty()) {
        // If this fails, creating an object in the directory fails and is reported.
        let _ = chmod(proc_path(directory.as_fd()), mode | PRIVATE);
    }
}

/// Returns a path that leads to an open descriptor, also to one that was opened without access.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Removes a name and, for a directory, everything below it, on the same file system. The depth is
/// limited by the number of descriptors; a deeper directory is an error.
fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    if !is_directory(&lstat(parent, name)?) {
        return unlinkat(parent, name, AtFlags::empty());
    }
    let directory = openat(parent, name, READ, Mode::empty())?;
    if fstat(&directory)?.st_dev != fstat(parent)?.st_dev {
        return Err(Errno::XDEV);
    }
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if !is_dot(entry.file_name().to_bytes()) {
            remove(directory.as_fd(), entry.file_name().to_bytes())?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn lstat(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}
