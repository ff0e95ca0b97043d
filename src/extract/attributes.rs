//! Sets owner, extended attributes, mode and time of one created object.
//!
//! This module owns the order of these steps, and which attributes may be left out: an attribute that
//! only root may set is counted and is not a failure. A change of owner clears set-id bits and
//! capabilities, and an access control list changes the mode; so the owner is set first, the mode after
//! the extended attributes, and the time last.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod, fchown,
    fsetxattr, fstat, futimens, lsetxattr, openat, statat, utimensat,
};
use rustix::io::{Errno, Result};

use super::report::NotKept;
use super::target::proc_path;
use crate::layer::entry::{Meta, Timestamp, Xattrs};

/// Set-user-ID and set-group-ID bits.
const SET_IDS: u32 = 0o6000;
/// All bits of a mode.
const ALL_BITS: u32 = 0o7777;

/// A created object, and how to reach it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Made<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A device or named pipe, which must not be opened: the parent directory and the name.
    Node(BorrowedFd<'a>, &'a str),
    /// A symbolic link, which has no mode: the parent directory and the name.
    Symlink(BorrowedFd<'a>, &'a str),
}

/// The attributes to set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) meta: Meta,
    pub(super) xattrs: Xattrs<'a>,
    pub(super) keep_owner: bool,
    pub(super) keep_xattrs: bool,
}

/// Sets the attributes of `made`. Counts the attributes that could not be set in `not_kept`.
pub(super) fn apply(made: Made<'_>, wanted: &Wanted<'_>, not_kept: &mut NotKept) -> Result<()> {
    let Meta { mode, uid, gid, mtime } = wanted.meta;
    let found = made.stat()?;
    let belongs = found.st_uid == uid && found.st_gid == gid;
    let changed_owner = !belongs && wanted.keep_owner && made.set_owner(uid, gid).is_ok();
    let owned = belongs || changed_owner;
    if !owned {
        not_kept.owners += 1;
    }
    let changed_xattrs = apply_xattrs(made, wanted, not_kept);

    let mut mode = u32::from(mode);
    if !owned && mode & SET_IDS != 0 {
        not_kept.set_ids += 1;
        mode &= !SET_IDS;
    }
    let mode_differs = found.st_mode & ALL_BITS != mode;
    let mode_set = if changed_owner || changed_xattrs || mode_differs { made.set_mode(mode) } else { Ok(()) };
    match mode_set.and_then(|()| made.set_time(mtime)) {
        Err(Errno::PERM | Errno::NOTSUP) => {
            not_kept.modes_or_times += 1;
            Ok(())
        }
        other => other,
    }
}

/// Sets the extended attributes. Returns true if at least one was set.
fn apply_xattrs(made: Made<'_>, wanted: &Wanted<'_>, not_kept: &mut NotKept) -> bool {
    let (mut some, mut all) = (false, true);
    for (name, value) in wanted.xattrs.iter() {
        let set = wanted.keep_xattrs && made.set_xattr(name, value).is_ok();
        some |= set;
        all &= set;
    }
    if !all {
        not_kept.xattrs += 1;
    }
    some
}

impl Made<'_> {
    fn stat(self) -> Result<Stat> {
        match self {
            Made::Open(fd) => fstat(fd),
            Made::Node(parent, name) | Made::Symlink(parent, name) => {
                statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn set_owner(self, uid: u32, gid: u32) -> Result<()> {
        // An ID with all bits set means "do not change" here, and belongs to no user (docs/semantics.md M8).
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Made::Open(fd) => fchown(fd, uid, gid),
            Made::Node(parent, name) | Made::Symlink(parent, name) => {
                chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn set_mode(self, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Made::Open(fd) => fchmod(fd, mode),
            // Before Linux 6.6, no fchmodat refuses to follow links.
            Made::Node(parent, name) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                chmod(proc_path(openat(parent, name, flags, Mode::empty())?.as_fd()), mode)
            }
            Made::Symlink(..) => Ok(()),
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Made::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Made::Node(parent, file) | Made::Symlink(parent, file) => {
                let path = format!("{}/{file}", proc_path(parent));
                lsetxattr(path, name, value, XattrFlags::empty())
            }
        }
    }

    /// Sets the times of modification and of access to `mtime`: an image has no other time
    /// (docs/semantics.md M7).
    fn set_time(self, mtime: Timestamp) -> Result<()> {
        let time = Timespec {
            tv_sec: i64::try_from(mtime.seconds).unwrap_or(i64::MAX),
            tv_nsec: mtime.nanos.into(),
        };
        let times = Timestamps { last_access: time, last_modification: time };
        match self {
            Made::Open(fd) => futimens(fd, &times),
            Made::Node(parent, name) | Made::Symlink(parent, name) => {
                utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }
}
