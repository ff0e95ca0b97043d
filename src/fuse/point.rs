//! The directory that an image is mounted on: held open, checked, found in the mount table, and unmounted.
//!
//! Between the check of a mount point and the mount, an image is indexed, which can take minutes. Another user
//! who owns a directory on the path could meanwhile move the mount point or replace it by a link. So the mount
//! point is opened once, and mounted on and unmounted through its descriptor (X32). A mount is recognised by
//! its number, because its path changes with the names of its parents. This module does not know FUSE.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::{CapabilitySet, capabilities};

use super::mounts::MountEntry;
use super::{fusermount, holders, mounts};
use crate::error::{Error, MountFault, Result};
use crate::path::escape_path;

pub(super) const DEVICE: &str = "/dev/fuse";
/// The type of the file system in the mount table: FUSE with a subtype.
pub(super) const FILE_SYSTEM: &str = "fuse.imgmount";
/// How often the mount table is read again when the mount point is moved at the same time.
const ATTEMPTS: usize = 16;

/// A directory to mount an image on, held open. Open it before loading an image, which can take long: the image
/// is mounted on this directory, even if its path leads elsewhere by then.
#[derive(Debug)]
pub struct MountPoint {
    fd: OwnedFd,
    path: PathBuf,
}

impl MountPoint {
    /// Opens `dir`, and checks that an image can be mounted there.
    ///
    /// # Errors
    /// [`Error::Mount`] with the reason: the directory is missing or not a directory, an image is mounted there
    /// already, or FUSE is missing.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let fault = |reason| mount_error(dir, reason);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, dir, flags, Mode::empty());
        let fd = opened.map_err(|errno| fault(directory_fault(errno)))?;
        let path = path_of(fd.as_fd()).map_err(|errno| fault(directory_fault(errno)))?;
        let point = MountPoint { fd, path };
        point.refuse_own_mount()?;
        rustix::fs::fstat(&point.fd).map_err(|errno| fault(directory_fault(errno)))?;
        if !Path::new(DEVICE).exists() {
            return Err(fault(MountFault::NoDevice));
        }
        if !may_mount() && fusermount::find().is_none() {
            return Err(fault(MountFault::NoHelper));
        }
        Ok(point)
    }

    /// Returns the path of the directory when it was opened, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if an image is mounted on the directory.
    pub(super) fn refuse_own_mount(&self) -> Result<()> {
        let Some(mount) = self.visible()?.filter(|mount| mount.file_system == FILE_SYSTEM) else {
            return Ok(());
        };
        // For a dead mount the kernel may answer other calls from its cache, but never this one.
        let dead = matches!(rustix::fs::statvfs(&mount.point), Err(Errno::NOTCONN));
        let reason = if dead { MountFault::Dead } else { MountFault::AlreadyMounted };
        Err(mount_error(&self.path, reason))
    }

    /// Returns the mount that is visible in the directory, if the directory is a mount point.
    pub(super) fn visible(&self) -> Result<Option<MountEntry>> {
        for _ in 0..ATTEMPTS {
            let before = path_of(self.as_fd()).unwrap_or_default();
            let table = mounts::all()?;
            if path_of(self.as_fd()).unwrap_or_default() == before {
                return Ok(mounts::topmost(&table, &before).cloned());
            }
        }
        Ok(None)
    }

    /// Returns a path that leads to the directory in this process, wherever it was moved.
    pub(super) fn magic_path(&self) -> String {
        magic_path(self.as_fd())
    }
}

impl AsFd for MountPoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Unmounts the mount with the number `id` that was made on `point`; `lazily` also if it is in use. Does nothing
/// if the mount is gone or another mount covers it.
///
/// # Errors
/// [`MountFault::Busy`], which lists the processes that use the mount, or the error of the system.
pub(super) fn unmount_from(point: &MountPoint, id: Option<u64>, lazily: bool) -> Result<(), MountFault> {
    let table = mounts::all().unwrap_or_default();
    let found = match id {
        Some(id) => mounts::uncovered(&table, id).cloned(),
        None => point.visible().ok().flatten(),
    };
    let Some(mount) = found.filter(|mount| mount.file_system == FILE_SYSTEM) else { return Ok(()) };
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    // The kernel goes on from the directory to the mount that covers it.
    detach(Path::new(&point.magic_path()), &mount.point, flags)
}

/// Unmounts the directory `dir`, mounted by any imgmount process, running or not.
///
/// # Errors
/// [`Error::Mount`] when `dir` is not mounted, when it is a mount of another type, and when it is in use; the
/// processes that use it are listed.
pub fn unmount(dir: &Path) -> Result<()> {
    let fault = |reason| mount_error(dir, reason);
    let point = canonicalize_mounted(dir)?;
    let named = Named::open(&point).map_err(|errno| fault(directory_fault(errno)))?;
    let table = mounts::all()?;
    let mount = match named.mount_id() {
        Some(id) => table.iter().find(|mount| mount.id == id && mount.point == point),
        None => mounts::topmost(&table, &point),
    };
    match mount {
        None => Err(fault(MountFault::NotMounted)),
        Some(mount) if mount.file_system != FILE_SYSTEM => {
            Err(fault(MountFault::OtherMount(mount.file_system.clone())))
        }
        Some(_) => detach(&named.path(), &point, UnmountFlags::NOFOLLOW).map_err(fault),
    }
}

/// A name in a directory that is held open. A descriptor of the mount itself would keep it in use.
struct Named<'a> {
    parent: OwnedFd,
    name: &'a OsStr,
}

impl<'a> Named<'a> {
    /// Opens the parent of `point`, a path without symbolic links, and follows none.
    fn open(point: &'a Path) -> rustix::io::Result<Self> {
        let (parent, name) = match (point.parent(), point.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (point, OsStr::new(".")),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = match openat2(CWD, parent, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            // openat2 is new in Linux 5.6, and some sandboxes block it.
            Err(Errno::NOSYS | Errno::PERM) => openat(CWD, parent, flags, Mode::empty()),
            other => other,
        };
        Ok(Named { parent: parent?, name })
    }

    /// Returns the number of the mount that the name leads to, without asking its file system: the server may
    /// be gone. `None` before Linux 5.8.
    fn mount_id(&self) -> Option<u64> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let found = statx(&self.parent, self.name, flags, StatxFlags::empty()).ok()?;
        (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
    }

    fn path(&self) -> PathBuf {
        Path::new(&magic_path(self.parent.as_fd())).join(self.name)
    }
}

/// Returns the path of a mount point without symbolic links. The mount itself may be dead or inaccessible to
/// this user; then only the path of its parent is resolved.
fn canonicalize_mounted(dir: &Path) -> Result<PathBuf> {
    let failed = |cause: &io::Error| {
        mount_error(dir, directory_fault(Errno::from_io_error(cause).unwrap_or(Errno::IO)))
    };
    let cause = match dir.canonicalize() {
        Ok(point) => return Ok(point),
        Err(cause) => cause,
    };
    let absolute = std::path::absolute(dir).map_err(|cause| failed(&cause))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if cause.kind() != io::ErrorKind::NotFound => {
            Ok(parent.canonicalize().map_err(|cause| failed(&cause))?.join(name))
        }
        _ => Err(failed(&cause)),
    }
}

/// Unmounts what is mounted on `target`, which is the mount point `point` in the mount table.
fn detach(target: &Path, point: &Path, flags: UnmountFlags) -> Result<(), MountFault> {
    let busy = || MountFault::Busy(holders::find(point));
    match rustix::mount::unmount(target, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(busy()),
        Err(Errno::PERM) => fusermount::unmount(point, flags.contains(UnmountFlags::DETACH))
            .map_err(|reason| reason.unwrap_or_else(busy)),
        // The directory was a mount point when the caller checked.
        Err(Errno::INVAL) => Err(MountFault::NotMounted),
        Err(errno) => Err(MountFault::Os { call: "umount", cause: errno.into() }),
    }
}

pub(super) fn mount_error(dir: &Path, reason: MountFault) -> Error {
    Error::Mount { dir: escape_path(dir), reason }
}

fn directory_fault(errno: Errno) -> MountFault {
    match errno {
        Errno::NOTCONN => MountFault::Dead,
        Errno::NOENT => MountFault::NotFound,
        Errno::NOTDIR => MountFault::NotADirectory,
        _ => MountFault::Os { call: "cannot examine the directory", cause: errno.into() },
    }
}

fn may_mount() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

fn magic_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Returns the present path of a directory that is held open.
fn path_of(fd: BorrowedFd<'_>) -> rustix::io::Result<PathBuf> {
    let path = rustix::fs::readlinkat(CWD, magic_path(fd), Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(path.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_mount_point_that_is_missing_or_a_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let reason = |path: &Path| match MountPoint::open(path).unwrap_err() {
            Error::Mount { reason, .. } => reason,
            other => panic!("{other}"),
        };
        assert!(matches!(reason(&directory.path().join("none")), MountFault::NotFound));
        assert!(matches!(reason(&file), MountFault::NotADirectory));
        assert!(matches!(reason(&file.join("below")), MountFault::NotADirectory));
    }

    #[test]
    fn a_dead_mount_is_told_from_a_missing_directory() {
        assert!(matches!(directory_fault(Errno::NOTCONN), MountFault::Dead));
    }

    #[test]
    fn only_our_own_mounts_are_unmounted() {
        let directory = tempfile::tempdir().unwrap();
        let error = unmount(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Mount { reason: MountFault::NotMounted, .. }), "{error}");
        let error = unmount(Path::new("/proc")).unwrap_err();
        assert!(
            matches!(&error, Error::Mount { reason: MountFault::OtherMount(kind), .. } if kind == "proc")
        );
    }
}
