//! Reads the facts of a directory and of the files in it.
//!
//! This module owns the system calls of a walk: no link is followed, no other mount is entered, and only
//! directories and regular files are opened. A directory whose entries change while it is read is read again,
//! and is an error if it does not come to rest. This module must not know what the files mean.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Statx, StatxFlags};
use rustix::io::Errno;

use super::super::assembled::FileStamp;
use crate::layer::entry::{DeviceNumber, Extent, Segment, Timestamp, Xattrs};
use crate::limits::{Bound, Limits};

/// How often a directory is read that changes while it is read. A running container changes most directories
/// rarely, and reading one takes milliseconds.
const MAX_ATTEMPTS: usize = 5;

/// Bytes of the longest list of names of attributes, and of the longest value of one: `XATTR_LIST_MAX` and
/// `XATTR_SIZE_MAX` of Linux.
const XATTR_BUFFER_BYTES: usize = 65_536;

/// The type of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Directory,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    Char(DeviceNumber),
    Block(DeviceNumber),
    Fifo,
    Socket,
}

/// The facts of one file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Name in its directory; empty for a directory that was entered.
    pub(super) name: Vec<u8>,
    pub(super) kind: Type,
    pub(super) stat: Stat,
    /// Extended attributes, sorted by name, in the form of [`Xattrs`].
    pub(super) xattrs: Vec<u8>,
}

impl Node {
    /// Returns the extended attributes.
    pub(super) fn xattrs(&self) -> Xattrs<'_> {
        Xattrs::from_packed(&self.xattrs)
    }
}

/// The facts of a file that one call of `statx` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Type and permission bits.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) device_number: DeviceNumber,
    /// Time of last modification; a time before the epoch is the epoch.
    pub(super) mtime: Timestamp,
    /// Space that the file takes, in bytes.
    pub(super) stored_bytes: u64,
    pub(super) stamp: FileStamp,
    /// Number of the mount that holds the file; the device number on kernels before 5.8.
    pub(super) mount: u64,
}

/// Why a directory or file cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// A system call failed.
    Io { action: &'static str, cause: Errno },
    /// The file or directory is not what it was before.
    Changed,
    /// A limit: its name, the value found and the largest value.
    Limit { limit: &'static str, value: u64, max: u64 },
}

impl Fault {
    /// Returns a fault if `value` is above its limit.
    pub(super) fn check(bound: Bound, value: u64) -> Result<(), Fault> {
        if value > bound.max {
            return Err(Fault::Limit { limit: bound.name, value, max: bound.max });
        }
        Ok(())
    }
}

/// A fault, and the name of the file in the directory; `None` for the directory itself.
#[derive(Debug)]
pub(super) struct NamedFault {
    pub(super) name: Option<Vec<u8>>,
    pub(super) fault: Fault,
}

impl From<Fault> for NamedFault {
    fn from(fault: Fault) -> Self {
        NamedFault { name: None, fault }
    }
}

fn io(action: &'static str) -> impl Fn(Errno) -> Fault {
    move |cause| Fault::Io { action, cause }
}

/// Opens a file or directory below `root` without following links or entering another mount.
pub(super) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            opened => return opened,
        }
    }
}

/// Reads the facts of an open directory and of all files in it, sorted by the bytes of their names. The
/// extended attributes of subdirectories are not read.
pub(super) fn read_directory(directory: &OwnedFd, limits: Limits) -> Result<(Node, Vec<Node>), NamedFault> {
    let mut result = read_once(directory, limits);
    for _ in 1..MAX_ATTEMPTS {
        match result {
            Err(NamedFault { fault: Fault::Changed, .. }) => result = read_once(directory, limits),
            result => return result,
        }
    }
    result
}

fn read_once(directory: &OwnedFd, limits: Limits) -> Result<(Node, Vec<Node>), NamedFault> {
    let before = Stat::of_open(directory.as_fd()).map_err(io("cannot examine"))?;
    let mut reader = XattrReader::new(limits);
    let xattrs = reader.read(format!("/proc/self/fd/{}", directory.as_raw_fd()), Follow::Yes)?;
    let mut names = names(directory, limits)?;
    names.sort_unstable();
    let mut nodes = Vec::with_capacity(names.len());
    for name in names {
        match read_file(directory, &name, &mut reader) {
            Ok(node) => nodes.push(node),
            Err(fault) => return Err(NamedFault { name: Some(name.into_bytes()), fault }),
        }
    }
    if Stat::of_open(directory.as_fd()).map_err(io("cannot examine"))? != before {
        return Err(Fault::Changed.into());
    }
    Ok((Node { name: Vec::new(), kind: Type::Directory, stat: before, xattrs }, nodes))
}

fn names(directory: &OwnedFd, limits: Limits) -> Result<Vec<CString>, Fault> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(io("cannot list"))? {
        let entry = entry.map_err(io("cannot list"))?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        names.push(entry.file_name().to_owned());
        Fault::check(limits.directory_names(), names.len() as u64)?;
    }
    Ok(names)
}

fn read_file(directory: &OwnedFd, name: &CStr, reader: &mut XattrReader) -> Result<Node, Fault> {
    let gone = |cause| match cause {
        Errno::NOENT => Fault::Changed,
        cause => Fault::Io { action: "cannot examine", cause },
    };
    let stat = Stat::of_name(directory, name).map_err(gone)?;
    let kind = match stat.file_type() {
        FileType::RegularFile => Type::File,
        FileType::Directory => Type::Directory,
        FileType::Symlink => {
            let target =
                rustix::fs::readlinkat(directory, name, Vec::new()).map_err(|cause| match cause {
                    Errno::NOENT | Errno::INVAL => Fault::Changed,
                    cause => Fault::Io { action: "cannot read", cause },
                })?;
            Type::Symlink(target.into_bytes())
        }
        FileType::CharacterDevice => Type::Char(stat.device_number),
        FileType::BlockDevice => Type::Block(stat.device_number),
        FileType::Fifo => Type::Fifo,
        _ => Type::Socket,
    };
    let mut xattrs = Vec::new();
    if !matches!(kind, Type::Directory | Type::Socket) {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        xattrs = reader.read(OsStr::from_bytes(&path), Follow::No)?;
        let after = Stat::of_name(directory, name).map_err(gone)?;
        // A file that something writes to has no moment to wait for. Reading it is an error later.
        if after != stat && !(kind == Type::File && after.differs_in_content_only(&stat)) {
            return Err(Fault::Changed);
        }
    }
    Ok(Node { name: name.to_bytes().to_vec(), kind, stat, xattrs })
}

impl Stat {
    /// Returns the facts of an open file.
    pub(super) fn of_open(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        statx(file, c"", AtFlags::EMPTY_PATH)
    }

    /// Returns whether `self` is the file of `before` with another length, other bytes or other times.
    fn differs_in_content_only(&self, before: &Stat) -> bool {
        let FileStamp { device, inode, .. } = before.stamp;
        let Stat { mtime, stored_bytes, stamp, .. } = *before;
        (self.stamp.device, self.stamp.inode) == (device, inode)
            && Stat { mtime, stored_bytes, stamp, ..*self } == *before
    }

    fn of_name(directory: &OwnedFd, name: &CStr) -> Result<Self, Errno> {
        statx(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    /// Returns the type of the file.
    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }

    /// Returns true if the file takes less space than it is long, so that it may have holes.
    pub(super) fn may_have_holes(&self) -> bool {
        self.stored_bytes < self.stamp.size
    }
}

fn statx(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Stat, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let found: Statx = rustix::fs::statx(directory, name, flags, mask)?;
    let ns = |seconds: i64, ns: u32| seconds.saturating_mul(1_000_000_000).saturating_add(ns.into());
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    let has_mount = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    let (mtime, ctime) = (found.stx_mtime, found.stx_ctime);
    Ok(Stat {
        mode: found.stx_mode,
        uid: found.stx_uid,
        gid: found.stx_gid,
        nlink: found.stx_nlink,
        device_number: DeviceNumber { major: found.stx_rdev_major, minor: found.stx_rdev_minor },
        mtime: u64::try_from(mtime.tv_sec)
            .map_or(Timestamp::default(), |seconds| Timestamp { seconds, nanos: mtime.tv_nsec }),
        stored_bytes: found.stx_blocks.saturating_mul(512),
        stamp: FileStamp {
            device,
            inode: found.stx_ino,
            size: found.stx_size,
            mtime_ns: ns(mtime.tv_sec, mtime.tv_nsec),
            ctime_ns: ns(ctime.tv_sec, ctime.tv_nsec),
        },
        mount: if has_mount { found.stx_mnt_id } else { device },
    })
}

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follow {
    Yes,
    No,
}

/// Reads extended attributes. They are read by path, because a device or a link cannot be opened for it; the
/// path leads through the open directory in `/proc/self/fd`.
struct XattrReader {
    list: Vec<u8>,
    value: Vec<u8>,
    /// Maximum length of the packed attributes.
    max: Bound,
}

impl XattrReader {
    fn new(limits: Limits) -> Self {
        let (list, value) = (vec![0; XATTR_BUFFER_BYTES], vec![0; XATTR_BUFFER_BYTES]);
        XattrReader { list, value, max: limits.extension_bytes() }
    }

    /// Returns the attributes of the file at `path`, packed, sorted by name.
    fn read(&mut self, path: impl AsRef<OsStr>, follow: Follow) -> Result<Vec<u8>, Fault> {
        let path = path.as_ref();
        let list = match follow {
            Follow::Yes => rustix::fs::listxattr(path, &mut self.list[..]),
            Follow::No => rustix::fs::llistxattr(path, &mut self.list[..]),
        };
        let len = match list {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => 0,
            // The path of the directory itself is missing only where /proc is not mounted.
            Err(Errno::NOENT) if follow == Follow::No => return Err(Fault::Changed),
            Err(cause) => {
                return Err(Fault::Io { action: "cannot list the attributes (in /proc) of", cause });
            }
        };
        let mut names: Vec<&[u8]> =
            self.list.get(..len).unwrap_or_default().split(|byte| *byte == 0).collect();
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        let mut packed = Vec::new();
        for name in names {
            let value = match follow {
                Follow::Yes => rustix::fs::getxattr(path, name, &mut self.value[..]),
                Follow::No => rustix::fs::lgetxattr(path, name, &mut self.value[..]),
            };
            let len = match value {
                Ok(len) => len,
                // Listed, but not for this process: it belongs to another user namespace, or to nobody. If the
                // attribute was removed meanwhile, the time of the last change of the file tells.
                Err(Errno::OPNOTSUPP | Errno::NODATA | Errno::OVERFLOW) => continue,
                Err(Errno::NOENT) => return Err(Fault::Changed),
                Err(cause) => return Err(Fault::Io { action: "cannot read the attributes of", cause }),
            };
            Xattrs::pack(&mut packed, name, self.value.get(..len).unwrap_or_default());
            let value = packed.len() as u64;
            Fault::check(self.max, value)?;
        }
        Ok(packed)
    }
}

/// Returns the parts of a file that are not holes. `stat` is what the walk has seen of the file.
pub(super) fn segments(
    root: BorrowedFd<'_>,
    path: &[u8],
    stat: &Stat,
    limits: Limits,
) -> Result<Vec<Segment>, Fault> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match open(root, path, flags) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
            return Err(Fault::Changed);
        }
        // Reading the file will fail too, and tell the cause.
        Err(Errno::ACCESS | Errno::PERM) => return Ok(vec![whole(stat.stamp.size)]),
        Err(cause) => return Err(Fault::Io { action: "cannot open", cause }),
    };
    let unchanged = || match Stat::of_open(file.as_fd()) {
        Ok(now) if now == *stat => Ok(()),
        Ok(_) => Err(Fault::Changed),
        Err(cause) => Err(Fault::Io { action: "cannot examine", cause }),
    };
    // Before the first seek: a device that took the file's place is left alone.
    unchanged()?;
    let found = find_data(&file, stat.stamp.size, limits.sparse_segments())?;
    unchanged()?;
    Ok(found)
}

fn find_data(file: &File, size: u64, max: Bound) -> Result<Vec<Segment>, Fault> {
    let seek = |to| match rustix::fs::seek(file, to) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(cause) => Err(Fault::Io { action: "cannot find the holes of", cause }),
    };
    let (mut found, mut end) = (Vec::new(), 0);
    while end < size
        && let Some(start) = seek(SeekFrom::Data(end))?.filter(|start| *start < size)
    {
        // Every file ends with a hole.
        end = seek(SeekFrom::Hole(start))?.unwrap_or(size).min(size);
        if end <= start {
            return Err(Fault::Changed);
        }
        found.push(Segment { file_offset: start, extent: Extent { offset: 0, len_bytes: end - start } });
        let value = found.len() as u64;
        Fault::check(max, value)?;
    }
    Ok(found)
}

fn whole(size: u64) -> Segment {
    Segment { file_offset: 0, extent: Extent { offset: 0, len_bytes: size } }
}

impl Fault {
    /// Returns the fault as an error of the operating system; `None` for an exceeded limit.
    pub(super) fn cause(&self) -> Option<(&'static str, io::Error)> {
        match self {
            Fault::Io { action, cause } => Some((action, (*cause).into())),
            Fault::Changed => Some(("cannot read", io::Error::other("changed while the directory was read"))),
            Fault::Limit { .. } => None,
        }
    }
}
