//! The directory that a tree is extracted to, and every step below it.
//!
//! This module owns safety against existing files and other users: the target is held open, no step leaves it
//! or follows a symbolic link, and no object gets its final name before it is complete. Objects are built only
//! where no other user can exchange them ([`Folder`]). It knows names and descriptors, and must not know
//! images.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, chmod, fstat, linkat, mkdirat,
    openat, openat2, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, Result};

use crate::host_path::HostDirectory;

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

/// Identifies a directory, independently of its path. The owner is part of it, because the number of a removed
/// directory can be reused for one that another user creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    owner: u32,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Identity { device: stat.st_dev, inode: stat.st_ino, owner: stat.st_uid }
    }
}

/// The first name of an object that gets further names, as it was when it was complete.
///
/// Another user who replaces the name cannot create an object that compares equal: a reused number has
/// another owner, unless the user owned the object before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Original {
    identity: Identity,
    group: u32,
    mode: u32,
    size: i64,
}

impl Original {
    fn of(stat: &Stat) -> Self {
        Original { identity: Identity::of(stat), group: stat.st_gid, mode: stat.st_mode, size: stat.st_size }
    }
}

/// The target directory.
#[derive(Debug)]
pub(super) struct Target {
    base: OwnedFd,
    existing: Existing,
    /// Makes temporary names that no other user can predict, and so create first.
    names: RandomState,
    next_name: AtomicU64,
    /// Whether to use openat2, which is new in Linux 5.6; some sandboxes block it.
    pub(super) has_openat2: AtomicBool,
}

/// Flags to open a directory that is passed through and not read.
const PASS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Mode of unfinished directories: no other user can enter them, whatever their final mode.
const PRIVATE: Mode = Mode::RWXU;
/// Why nothing is created in a directory of other users on a file system without owners or modes.
const UNSAFE: &str = "its owner can exchange new files before they are complete, because the file system does not \
    keep the owner and mode of a new directory; run the command as the owner";
/// How often a directory is created again if another user takes its name.
const ATTEMPTS: usize = 8;

/// An open directory below the target, in which objects get their final names.
///
/// If other users can rename or remove the names in it, they could exchange an object between two system calls
/// that use its name, and so get owner, mode or capabilities set on a file of their own (X30). Then objects are
/// built in a *workshop*, a directory of mode 0700 inside, and moved.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    /// The workshop and its name; `None` if only this user can change the names in the directory.
    workshop: Option<(OwnedFd, String)>,
}

impl Folder {
    /// Returns the directory to build objects in.
    pub(super) fn build(&self) -> BorrowedFd<'_> {
        self.workshop.as_ref().map_or(self.fd.as_fd(), |(workshop, _)| workshop.as_fd())
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some((_, name)) = &self.workshop {
            // If another user has renamed it, an empty directory remains.
            let _ = unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Creates a directory that only this user can enter, and opens it.
fn make_workshop(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    mkdirat(parent, name, PRIVATE)?;
    // If another user has exchanged the directory already, its owner or mode shows it.
    let workshop = openat(parent, name, PASS, Mode::empty())?;
    let stat = fstat(&workshop)?;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if is_ours && stat.st_mode & 0o077 == 0 {
        return Ok(workshop);
    }
    let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
    Err(io::Error::other(UNSAFE))
}

/// Whether only this user and root can rename or remove the names that this user creates in a directory. An
/// access control list that lets others write shows in the bits of the group.
fn is_guarded(directory: &Stat) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let is_sticky = directory.st_mode & 0o1000 != 0;
    let others_write = directory.st_mode & 0o022 != 0;
    (directory.st_uid == user || directory.st_uid == 0) && (is_sticky || !others_write)
}

impl Target {
    pub(super) fn open(base: &HostDirectory, existing: Existing) -> Result<Self> {
        Ok(Target {
            base: openat(base, ".", PASS, Mode::empty())?,
            existing,
            names: RandomState::new(),
            next_name: AtomicU64::new(0),
            has_openat2: AtomicBool::new(true),
        })
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        for entry in Dir::read_from(openat(&self.base, ".", READ, Mode::empty())?)? {
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
    ///
    /// # Errors
    /// Also when other users could exchange objects while they are created.
    pub(super) fn folder(&self, path: &[u8], known: Identity) -> io::Result<Folder> {
        let (fd, stat) = self.directory(path, PASS, known)?;
        let mut folder = Folder { fd, workshop: None };
        if !is_guarded(&stat) {
            let name = self.temporary_name();
            folder.workshop = Some((make_workshop(folder.as_fd(), &name)?, name));
        }
        Ok(folder)
    }

    /// Opens a directory below the target to pass through it.
    pub(super) fn pass(&self, path: &[u8], known: Identity) -> Result<OwnedFd> {
        self.directory(path, PASS, known).map(|(opened, _)| opened)
    }

    /// Opens a directory below the target to set its attributes.
    pub(super) fn read(&self, path: &[u8], known: Identity) -> Result<OwnedFd> {
        self.directory(path, READ, known).map(|(opened, _)| opened)
    }

    /// Opens a directory below the target. Fails with `EXDEV` if it is no longer the directory `known`.
    fn directory(&self, path: &[u8], flags: OFlags, known: Identity) -> Result<(OwnedFd, Stat)> {
        let opened = self.beneath(path, flags)?;
        let stat = fstat(&opened)?;
        if Identity::of(&stat) == known { Ok((opened, stat)) } else { Err(Errno::XDEV) }
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
    pub(super) fn make_directory(&self, parent: &Folder, name: &[u8]) -> Result<Identity> {
        for _ in 0..ATTEMPTS {
            match self.new_directory(parent, name) {
                Err(Errno::EXIST) if self.existing != Existing::Refuse => {}
                other => return other,
            }
            match openat(parent, name, PASS, Mode::empty()) {
                Ok(there) => {
                    let stat = fstat(&there)?;
                    make_usable(there.as_fd(), &stat);
                    return Ok(Identity::of(&stat));
                }
                Err(Errno::NOTDIR | Errno::LOOP) if self.existing == Existing::Replace => {
                    unlinkat(parent, name, AtFlags::empty())?;
                }
                Err(Errno::NOENT) => {}
                Err(other) => return Err(other),
            }
        }
        Err(Errno::EXIST)
    }

    /// Creates a directory that only this user can enter.
    fn new_directory(&self, parent: &Folder, name: &[u8]) -> Result<Identity> {
        if parent.workshop.is_none() {
            mkdirat(parent, name, PRIVATE)?;
            return Ok(Identity::of(&lstat(parent.as_fd(), name)?));
        }
        let (build, temporary) = (parent.build(), self.temporary_name());
        mkdirat(build, &temporary, PRIVATE)?;
        let made = lstat(build, temporary.as_bytes())
            .and_then(|made| rename_new(build, &temporary, parent.as_fd(), name).map(|()| made));
        if made.is_err() {
            let _ = unlinkat(build, &temporary, AtFlags::REMOVEDIR);
        }
        Ok(Identity::of(&made?))
    }

    /// Returns a temporary name that no file has.
    pub(super) fn temporary_name(&self) -> String {
        format!(".imgmount-{:016x}", self.names.hash_one(self.next_name.fetch_add(1, Ordering::Relaxed)))
    }

    /// Gives a complete object, built in `folder`, its final name.
    pub(super) fn place(&self, folder: &Folder, temporary: &str, name: &[u8]) -> Result<()> {
        let (build, parent) = (folder.build(), folder.as_fd());
        if self.existing == Existing::Refuse {
            return rename_new(build, temporary, parent, name);
        }
        match renameat(build, temporary, parent, name) {
            Err(Errno::ISDIR) if self.existing == Existing::Replace => {
                remove(parent, name)?;
                renameat(build, temporary, parent, name)
            }
            other => other,
        }
    }

    /// Describes an object that was built in `folder` and will get further names; `None` if no other user can
    /// replace its first name.
    pub(super) fn original(&self, folder: &Folder, temporary: &str) -> Result<Option<Original>> {
        let stat = || lstat(folder.build(), temporary.as_bytes());
        folder.workshop.as_ref().map(|_| stat().map(|stat| Original::of(&stat))).transpose()
    }

    /// Gives the object with the name `first` in `from` a further name. Fails with `EXDEV` if it is no longer
    /// `original`.
    pub(super) fn link(
        &self,
        (from, first): (BorrowedFd<'_>, &[u8]),
        original: Option<Original>,
        (folder, name): (&Folder, &[u8]),
    ) -> Result<()> {
        if self.existing == Existing::Refuse && original.is_none() {
            return linkat(from, first, folder, name, AtFlags::empty());
        }
        let (build, temporary) = (folder.build(), self.temporary_name());
        linkat(from, first, build, &temporary, AtFlags::empty())?;
        let linked = lstat(build, temporary.as_bytes()).map(|stat| Original::of(&stat));
        let placed = match (original, linked) {
            (Some(original), Ok(linked)) if original != linked => Err(Errno::XDEV),
            (Some(_), Err(errno)) => Err(errno),
            _ => self.place(folder, &temporary, name),
        };
        // Renaming does nothing if both names belong to the same file, so the temporary name may remain.
        discard(build, &temporary);
        placed
    }
}

/// Renames an object, and fails with `EEXIST` instead of replacing another one.
fn rename_new(from: BorrowedFd<'_>, old: &str, parent: BorrowedFd<'_>, new: &[u8]) -> Result<()> {
    match renameat_with(from, old, parent, new, RenameFlags::NOREPLACE) {
        // The file system cannot refuse to replace a file, so existence is checked first.
        Err(Errno::INVAL | Errno::NOSYS) => match lstat(parent, new) {
            Err(Errno::NOENT) => renameat(from, old, parent, new),
            Err(other) => Err(other),
            Ok(_) => Err(Errno::EXIST),
        },
        other => other,
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
fn make_usable(directory: BorrowedFd<'_>, stat: &Stat) {
    let user = rustix::process::geteuid();
    let mode = Mode::from_raw_mode(stat.st_mode);
    if user.is_root() || user.as_raw() != stat.st_uid || mode.contains(PRIVATE) {
        return;
    }
    // If this fails, creating an object in the directory fails and is reported.
    let _ = chmod(proc_path(directory), mode | PRIVATE);
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
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}
