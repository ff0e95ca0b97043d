//! Creates one object at a time: under a temporary name, with all its bytes and attributes, then under
//! its final name.
//!
//! This module owns the steps for each type of object. [`super::target`] owns safety, and
//! [`super::attributes`] owns which attributes may be left out.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, ftruncate, makedev, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::Work;
use super::attributes::{Made, Wanted, apply};
use super::plan::{Link, PlannedFile, is_large};
use super::report::NotKept;
use super::target::{Folder, discard};
use crate::error::{Error, Result};
use crate::layer::entry::{DeviceNumber, Stored};
use crate::rootfs::{InodeId, InodeKind, Stat};

/// Permission bits that a file is created with, before its owner is set.
const PERMISSIONS: u16 = 0o777;
/// Permission bits of a file that gets extended attributes, which only a writable file accepts, or set-id bits,
/// with which no other user may have opened it for writing.
const WRITABLE: u16 = 0o600;

/// Creates objects one after the other, and keeps the last parent directory open.
pub(super) struct Maker<'w, 'a> {
    work: &'w Work<'a>,
    /// The open directory and its index in the plan.
    open: Option<(usize, Folder)>,
}

impl<'w, 'a> Maker<'w, 'a> {
    pub(super) fn new(work: &'w Work<'a>) -> Self {
        Maker { work, open: None }
    }

    /// Creates a directory of the plan; until it is finished, only its owner can enter it.
    pub(super) fn make_directory(&mut self, at: usize) {
        let Some(directory) = self.work.plan.directories.get(at) else { return };
        let (target, path) = (&self.work.target, || self.work.plan.path(at));
        let made = self.within(directory.parent, path, |parent| {
            let made = target.make_directory(parent, directory.name);
            made.map_err(|cause| Error::io("cannot create the directory", cause.into()))
        });
        if let (Some(identity), Some(known)) = (made, self.work.known.get(at)) {
            known.get_or_init(|| identity);
        }
    }

    /// Creates a file, symbolic link, device or named pipe. `place` is the position of a file in the
    /// schedule.
    pub(super) fn make(&mut self, node: &PlannedFile<'_>, place: u64) {
        let work = self.work;
        let Some(inode) = work.tree.rootfs().inode(node.inode) else { return };
        let path = || work.plan.path_of(node);
        let made = self.within(node.parent, path, |parent| work.make_whole(node, &inode, parent, place));
        if made != Some(true) && inode.nlink > 1 {
            work.outcome().unmade.insert(node.inode);
        }
    }

    /// Creates a further name of an object.
    pub(super) fn link(&mut self, link: &Link<'_>) {
        let work = self.work;
        let path = || work.plan.path_of(&link.name);
        if work.outcome().unmade.contains(&link.first.inode) {
            // A device that was left out is counted and is not a failure.
            if work.tree.rootfs().inode(link.first.inode).is_some_and(|inode| !is_device(inode.kind)) {
                work.fail(path(), cannot_link(Errno::NOENT));
            }
            return;
        }
        let Some(known) = work.known.get(link.first.parent).and_then(|known| known.get()) else { return };
        let original = work.outcome().originals.get(&link.first.inode).copied();
        self.within(link.name.parent, path, |folder| {
            let other = match link.first.parent == link.name.parent {
                true => None,
                false => Some(work.target.pass(&work.plan.path(link.first.parent), *known)),
            };
            let other = other.transpose().map_err(cannot_link)?;
            let first = other.as_ref().map_or(folder.as_fd(), |other| other.as_fd());
            let linked = work.target.link((first, link.first.name), original, (folder, link.name.name));
            linked.map_err(cannot_link)
        });
    }

    /// Sets the attributes of a directory.
    pub(super) fn finish(&mut self, at: usize) {
        let work = self.work;
        let inode = work.plan.directories.get(at).and_then(|directory| directory.inode);
        let (Some(id), Some(known)) = (inode, work.known.get(at).and_then(|known| known.get())) else {
            return;
        };
        // The workshop must not remain in a directory that is finished.
        self.open = None;
        if work.is_over() {
            return;
        }
        let path = work.plan.path(at);
        let opened = work.target.read(&path, *known);
        let done = opened.and_then(|opened| work.apply(id, Made::Open(opened.as_fd())));
        if let Err(cause) = done {
            work.fail(path, Error::io("cannot set attributes of the directory", cause.into()));
        }
    }

    /// Calls `act` with a directory of the plan, and reports a failure under `path`. Does nothing if the
    /// directory was not created, which was reported then, or if the work is to end.
    fn within<T>(
        &mut self,
        directory: usize,
        path: impl Fn() -> Vec<u8>,
        act: impl FnOnce(&Folder) -> Result<T>,
    ) -> Option<T> {
        let work = self.work;
        if work.is_over() {
            return None;
        }
        let known = *work.known.get(directory)?.get()?;
        if self.open.as_ref().is_none_or(|(open, _)| *open != directory) {
            let opened = work.target.folder(&work.plan.path(directory), known);
            self.open = opened
                .map(|opened| (directory, opened))
                .map_err(|cause| work.fail(path(), Error::io("cannot use the parent directory", cause)))
                .ok();
        }
        let (_, open) = self.open.as_ref()?;
        act(open).map_err(|error| work.fail(path(), error)).ok()
    }
}

impl Work<'_> {
    /// Creates an object with all its bytes and attributes. Returns false for a device that is left out.
    fn make_whole(&self, node: &PlannedFile<'_>, inode: &Stat, folder: &Folder, place: u64) -> Result<bool> {
        let temporary = self.target.temporary_name();
        let build = folder.build();
        let made = match inode.kind {
            InodeKind::File(_) => self.make_file(node.inode, inode, (build, &temporary), place),
            InodeKind::Symlink(_) => self.make_symlink(node.inode, build, &temporary),
            InodeKind::Char(number) => {
                self.make_node(node.inode, FileType::CharacterDevice, number, build, &temporary)
            }
            InodeKind::Block(number) => {
                self.make_node(node.inode, FileType::BlockDevice, number, build, &temporary)
            }
            InodeKind::Fifo => {
                self.make_node(node.inode, FileType::Fifo, DeviceNumber::default(), build, &temporary)
            }
            InodeKind::Directory => Ok(false),
        };
        let placed = match made {
            Ok(true) => self.place(node, inode, folder, &temporary),
            Ok(false) => return Ok(false),
            Err(error) => Err(error),
        };
        if placed.is_err() {
            discard(build, &temporary);
        }
        placed.map(|()| true)
    }

    fn place(&self, node: &PlannedFile<'_>, inode: &Stat, folder: &Folder, temporary: &str) -> Result<()> {
        if inode.nlink > 1 {
            let original = self.target.original(folder, temporary).map_err(cannot_link)?;
            self.outcome().originals.extend(original.map(|original| (node.inode, original)));
        }
        self.target.place(folder, temporary, node.name).map_err(in_the_way)
    }

    fn make_file(
        &self,
        id: InodeId,
        inode: &Stat,
        (parent, name): (BorrowedFd<'_>, &str),
        place: u64,
    ) -> Result<bool> {
        let waits = inode.xattrs.is_some() || inode.meta.mode & !PERMISSIONS != 0;
        let mode = if waits { WRITABLE } else { inode.meta.mode & PERMISSIONS };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_raw_mode(mode.into()))
            .map_err(|cause| Error::io("cannot create the file", cause.into()))?;
        let file = File::from(file);
        self.fill(id, place, &file)?;
        self.apply(id, Made::Open(file.as_fd()))
            .map_err(|cause| Error::io("cannot set attributes", cause.into()))?;
        Ok(true)
    }

    /// Writes the stored bytes of a file; the rest stays a hole.
    fn fill(&self, id: InodeId, place: u64, file: &File) -> Result<()> {
        let failed = |cause: std::io::Error| Error::io("cannot write", cause);
        if let Some((_, data)) = self.tree.rootfs().file(id)
            && matches!(data.stored, Stored::Sparse(_))
        {
            ftruncate(file, data.size).map_err(|cause| failed(cause.into()))?;
        }
        let own = is_large(self.tree.rootfs(), id).then(|| self.tree.schedule(std::iter::once((place, id))));
        let schedule = own.as_ref().unwrap_or(&self.schedule);
        self.tree.read_stored((schedule, place), id, &mut |offset, bytes| {
            if self.is_over() {
                return Err(Error::Interrupted);
            }
            file.write_all_at(bytes, offset).map_err(failed)?;
            if let Some(progress) = self.options.progress {
                progress.advance(bytes.len() as u64);
            }
            Ok(())
        })
    }

    fn make_symlink(&self, id: InodeId, parent: BorrowedFd<'_>, name: &str) -> Result<bool> {
        let Some(target) = self.tree.rootfs().target(id) else { return Ok(false) };
        symlinkat(target, parent, name)
            .and_then(|()| self.apply(id, Made::Symlink(parent, name)))
            .map_err(|cause| Error::io("cannot create the symbolic link", cause.into()))?;
        Ok(true)
    }

    /// Creates a device or named pipe. Returns false for a device that is not wanted, or that this user or
    /// file system does not allow.
    fn make_node(
        &self,
        id: InodeId,
        kind: FileType,
        number: DeviceNumber,
        parent: BorrowedFd<'_>,
        name: &str,
    ) -> Result<bool> {
        let failed = |cause: Errno| Error::io("cannot create the device or pipe", cause.into());
        let is_device = kind != FileType::Fifo;
        let made = if is_device && !self.options.devices {
            Err(Errno::PERM)
        } else {
            let device = makedev(number.major, number.minor);
            mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
        };
        match made {
            Err(Errno::PERM | Errno::NOTSUP) if is_device => {
                self.outcome().report.not_kept.devices += 1;
                return Ok(false);
            }
            other => other.map_err(failed)?,
        }
        self.apply(id, Made::Node(parent, name)).map_err(failed)?;
        Ok(true)
    }

    fn apply(&self, id: InodeId, made: Made<'_>) -> rustix::io::Result<()> {
        let rootfs = self.tree.rootfs();
        let Some(inode) = rootfs.inode(id) else { return Ok(()) };
        let wanted = Wanted {
            meta: inode.meta,
            xattrs: rootfs.xattrs(id),
            keep_owner: self.options.owners,
            keep_xattrs: self.options.xattrs,
        };
        let mut not_kept = NotKept::default();
        let applied = apply(made, &wanted, &mut not_kept);
        if !not_kept.is_empty() {
            self.outcome().report.not_kept.add(&not_kept);
        }
        applied
    }
}

fn is_device(kind: InodeKind) -> bool {
    matches!(kind, InodeKind::Char(_) | InodeKind::Block(_))
}

fn cannot_link(cause: Errno) -> Error {
    Error::io("cannot link", cause.into())
}

fn in_the_way(cause: Errno) -> Error {
    Error::io("cannot replace the existing file", cause.into())
}
