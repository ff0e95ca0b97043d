//! Attributes of inodes as `stat` shows them, and the errno of each error.
//!
//! This module owns the number of blocks, device numbers in the kernel's encoding, and errno. Faults of the
//! data are `EIO` and are logged; a source that does not answer in time is `ETIMEDOUT`, one that denies access
//! `EACCES`, and each cause is logged once a minute. Normal answers (no such name, read-only) are not logged. This module does
//! not know requests or replies.

use std::io::ErrorKind;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use super::limit::Limiter;
use crate::error::{Error, PathFault};
use crate::forest::ForestNode;
use crate::layer::entry::{DeviceNumber, FileData, Stored, Timestamp};
use crate::rootfs::{InodeKind, Rootfs, Stat};

/// `st_blksize` in bytes: one page, the unit of the kernel's cache.
const BLOCK_SIZE_BYTES: u32 = 4096;
/// Unit of `st_blocks` in bytes, independent of the block size; stat(2).
const STAT_BLOCK_BYTES: u64 = 512;

/// Returns the number by which the kernel identifies a node.
pub(super) fn number(node: ForestNode) -> INodeNo {
    INodeNo(node.number())
}

/// Returns the node with this number.
///
/// # Errors
/// `ESTALE` for a number that no node can have.
pub(super) fn node(number: INodeNo) -> Result<ForestNode, Errno> {
    ForestNode::from_number(number.0).ok_or(Errno::ESTALE)
}

/// Returns the attributes of a node; `None` if `rootfs`, the tree of its part, has no such inode.
pub(super) fn attributes(rootfs: &Rootfs, node: ForestNode) -> Option<FileAttr> {
    let id = node.inode();
    let inode = rootfs.inode(id)?;
    let stored_bytes = rootfs.file(id).map_or(0, |(_, file)| stored_bytes(&file));
    Some(stat(number(node), &inode, rootfs.size(id), stored_bytes))
}

/// Returns the attributes for a negative entry: inode number 0 tells the kernel that the name does not exist
/// and that it may cache this answer.
pub(super) fn nothing() -> FileAttr {
    let inode = Stat {
        kind: InodeKind::Directory,
        meta: Default::default(),
        nlink: 0,
        layer: crate::layer::LayerId(0),
        xattrs: None,
    };
    stat(INodeNo(0), &inode, 0, 0)
}

/// Returns a file's type as FUSE encodes it.
pub(super) fn file_type(kind: InodeKind) -> FileType {
    match kind {
        InodeKind::File(_) => FileType::RegularFile,
        InodeKind::Directory => FileType::Directory,
        InodeKind::Symlink(_) => FileType::Symlink,
        InodeKind::Char(_) => FileType::CharDevice,
        InodeKind::Block(_) => FileType::BlockDevice,
        InodeKind::Fifo => FileType::NamedPipe,
    }
}

/// Returns the errno for an error. Faults of the data are logged with the operation (`doing`) and the inode.
pub(super) fn errno(error: &Error, doing: &str, ino: INodeNo) -> Errno {
    match error {
        Error::Path { reason, .. } => match reason {
            PathFault::NotFound => Errno::ENOENT,
            PathFault::NotADirectory => Errno::ENOTDIR,
            PathFault::IsADirectory => Errno::EISDIR,
            PathFault::NotAFile => Errno::EINVAL,
            PathFault::SymlinkLoop => Errno::ELOOP,
        },
        fault => match fault.source_failure() {
            Some(cause) => {
                log_once_a_minute(&cause.to_string(), || {
                    format!("{doing} failed on inode {}: {fault}", ino.0)
                });
                match cause.kind() {
                    ErrorKind::TimedOut => Errno::ETIMEDOUT,
                    ErrorKind::PermissionDenied => Errno::EACCES,
                    _ => Errno::EIO,
                }
            }
            None => {
                log::error!("{doing} failed on inode {}: {fault}", ino.0);
                Errno::EIO
            }
        },
    }
}

/// Logs a message, unless one with the same cause was logged during the last minute.
fn log_once_a_minute(cause: &str, message: impl FnOnce() -> String) {
    static LOGGED: LazyLock<Mutex<Limiter>> = LazyLock::new(Mutex::default);
    let admitted = LOGGED.lock().unwrap_or_else(PoisonError::into_inner).admit(cause, Instant::now());
    match admitted {
        Some(0) => log::error!("{}", message()),
        Some(more) => log::error!("{} (and {more} more times)", message()),
        None => {}
    }
}

fn stat(ino: INodeNo, inode: &Stat, size: u64, stored_bytes: u64) -> FileAttr {
    // A tar has only one time: docs/semantics.md M7.
    let time = system_time(inode.meta.mtime);
    FileAttr {
        ino,
        size,
        blocks: stored_bytes.div_ceil(STAT_BLOCK_BYTES),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(inode.kind),
        perm: inode.meta.mode,
        nlink: inode.nlink,
        uid: inode.meta.uid,
        gid: inode.meta.gid,
        rdev: match inode.kind {
            InodeKind::Char(device) | InodeKind::Block(device) => encode_device(device),
            _ => 0,
        },
        blksize: BLOCK_SIZE_BYTES,
        flags: 0,
    }
}

/// Returns the bytes that `du` counts: holes take no space (docs/semantics.md M14).
fn stored_bytes(file: &FileData<'_>) -> u64 {
    match file.stored {
        Stored::Contiguous(_) => file.size,
        Stored::Sparse(_) => file.stored_bytes(),
    }
}

/// Encodes a device number as FUSE does: 12 bits of major and 20 bits of minor, Linux `new_encode_dev`
/// (include/linux/kdev_t.h). Higher bits are dropped, as mknod(2) does.
fn encode_device(device: DeviceNumber) -> u32 {
    let (major, minor) = (device.major & 0xfff, device.minor & 0xf_ffff);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Converts a time; a time that the system cannot represent becomes the epoch.
fn system_time(time: Timestamp) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::new(time.seconds, time.nanos.min(999_999_999))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{StreamFault, Subject};
    use crate::layer::entry::{Extent, Meta, Segment};
    use crate::layer::{EntryId, LayerId};
    use crate::rootfs::EntryAt;

    fn inode(kind: InodeKind) -> Stat {
        let meta = Meta { mode: 0o4755, uid: 1000, gid: 100, mtime: Timestamp { seconds: 5, nanos: 6 } };
        Stat { kind, meta, nlink: 3, layer: LayerId(0), xattrs: None }
    }

    fn a_file() -> InodeKind {
        InodeKind::File(EntryAt { layer: LayerId(0), entry: EntryId(0) })
    }

    #[test]
    fn stat_shows_what_the_image_says() {
        let shown = stat(INodeNo(8), &inode(a_file()), 1025, 1025);
        assert_eq!((shown.ino.0, shown.kind, shown.perm), (8, FileType::RegularFile, 0o4755));
        assert_eq!((shown.uid, shown.gid, shown.nlink), (1000, 100, 3));
        assert_eq!((shown.size, shown.blocks, shown.blksize), (1025, 3, 4096));
    }

    #[test]
    fn m7_all_times_are_the_one_of_the_tar() {
        let shown = stat(INodeNo(1), &inode(InodeKind::Directory), 0, 0);
        let time = UNIX_EPOCH + Duration::new(5, 6);
        assert_eq!([shown.mtime, shown.ctime, shown.atime], [time; 3]);
    }

    #[test]
    fn m7_a_time_past_all_clocks_is_the_epoch() {
        assert_eq!(system_time(Timestamp { seconds: u64::MAX, nanos: u32::MAX }), UNIX_EPOCH);
    }

    #[test]
    fn m14_holes_take_no_blocks() {
        let segment = Segment { file_offset: 0, extent: Extent { offset: 0, len_bytes: 600 } };
        let sparse = FileData { size: 1 << 40, stored: Stored::Sparse(vec![segment].into()) };
        assert_eq!(stored_bytes(&sparse), 600);
    }

    #[test]
    fn m16_device_numbers_have_the_kernels_encoding() {
        let shown = |major, minor| encode_device(DeviceNumber { major, minor });
        assert_eq!(shown(1, 3), 0x103);
        assert_eq!(shown(8, 257), 0x0010_0801);
        assert_eq!(shown(0xfff, 0xf_ffff), u32::MAX);
    }

    #[test]
    fn a_number_that_was_never_given_out_is_stale() {
        assert_eq!(node(INodeNo(1)).map_err(Errno::code), Ok(ForestNode::ROOT));
        assert_eq!(node(INodeNo(0)).map_err(Errno::code), Err(libc::ESTALE));
    }

    #[test]
    fn a_missing_name_has_inode_number_0() {
        assert_eq!(nothing().ino.0, 0);
    }

    #[test]
    fn faults_of_paths_have_their_own_errno() {
        let table = [
            (PathFault::NotFound, libc::ENOENT),
            (PathFault::NotADirectory, libc::ENOTDIR),
            (PathFault::IsADirectory, libc::EISDIR),
            (PathFault::NotAFile, libc::EINVAL),
            (PathFault::SymlinkLoop, libc::ELOOP),
        ];
        for (reason, expected) in table {
            let error = Error::Path { path: "/x".into(), reason };
            assert_eq!(errno(&error, "read", INodeNo(1)).code(), expected, "{reason}");
        }
    }

    #[test]
    fn what_a_source_does_not_give_has_the_errno_of_the_cause() {
        let of = |kind| std::io::Error::new(kind, "'registry.test': no");
        let layer = Subject::Layer { number: 0, diff_id: None };
        for (kind, expected) in [
            (ErrorKind::TimedOut, libc::ETIMEDOUT),
            (ErrorKind::PermissionDenied, libc::EACCES),
            (ErrorKind::Other, libc::EIO),
        ] {
            let plain = StreamFault::io_at("cannot read", 7, of(kind)).of(&layer);
            // The layers of readers below wrap the cause.
            let fault = StreamFault::io_at("cannot read", 9, of(kind));
            let compressed = StreamFault::io("cannot read", std::io::Error::other(fault)).of(&layer);
            let archive = Error::io(
                "cannot read",
                std::io::Error::other(StreamFault::io("cannot read", of(kind)).of(&layer)),
            );
            for error in [plain, compressed, archive] {
                assert_eq!(errno(&error, "read", INodeNo(2)).code(), expected, "{error}");
            }
        }
    }

    #[test]
    fn x17_faults_of_the_data_are_eio() {
        let changed = Error::changed(Subject::Layer { number: 0, diff_id: None }, 512);
        let refused = Error::io("cannot read", std::io::Error::from_raw_os_error(libc::EACCES));
        let timed_out = Error::io("cannot read", std::io::Error::from_raw_os_error(libc::ETIMEDOUT));
        for fault in [changed, refused, timed_out] {
            assert_eq!(errno(&fault, "read", INodeNo(2)).code(), libc::EIO, "{fault}");
        }
    }
}
