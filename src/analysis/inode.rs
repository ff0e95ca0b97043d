//! An object of an image with all recorded attributes, and the comparison of two objects field by
//! field.

use std::sync::Arc;

use super::content::{self, ContentMatch};
use crate::layer::LayerId;
use crate::layer::entry::{DeviceNumber, Entry, EntryKind, FileData, Timestamp, Xattrs};
use crate::layer::table::LayerIndex;
use crate::rootfs::{EntryAt, InodeId, InodeKind, Rootfs, Stat};

/// An object of an image: a file, directory, link, device or named pipe, with its attributes.
///
/// Objects that later layers deleted are inodes too: see [`Image::deleted`](crate::Image::deleted) and
/// [`Image::history`](crate::Image::history).
#[derive(Debug, Clone, Copy)]
pub struct Inode<'a> {
    pub(crate) stat: Stat,
    pub(crate) layers: &'a [Arc<LayerIndex>],
    /// The position in the image of the lowest of `layers`.
    first: u16,
    /// Whether the inode is part of a merged tree, so that its names are counted.
    is_in_tree: bool,
}

/// The type of an object, as in the `st_mode` of `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

impl FileType {
    /// The name in JSON output: `file`, `dir`, `symlink`, `char`, `block` or `fifo`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FileType::File => "file",
            FileType::Directory => "dir",
            FileType::Symlink => "symlink",
            FileType::Char => "char",
            FileType::Block => "block",
            FileType::Fifo => "fifo",
        }
    }

    /// Returns the first letter of the object's line in `ls -l`.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            FileType::File => '-',
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::Char => 'c',
            FileType::Block => 'b',
            FileType::Fifo => 'p',
        }
    }
}

impl FileType {
    fn of(kind: InodeKind) -> Self {
        match kind {
            InodeKind::File(_) => FileType::File,
            InodeKind::Directory => FileType::Directory,
            InodeKind::Symlink(_) => FileType::Symlink,
            InodeKind::Char(_) => FileType::Char,
            InodeKind::Block(_) => FileType::Block,
            InodeKind::Fifo => FileType::Fifo,
        }
    }
}

/// A field in which two inodes can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Field {
    /// The bytes of a regular file.
    Content,
    /// The set of names that share the inode.
    Links,
    /// Permission, set-id and sticky bits.
    Mode,
    /// User or group.
    Owner,
    /// The number of a device.
    Rdev,
    /// The target of a symbolic link.
    Target,
    /// The type: file, directory and so on.
    Type,
    /// Extended attributes.
    Xattr,
    /// Time of last modification.
    Mtime,
}

impl Field {
    /// The name in output: `content`, `links`, `mode`, `owner`, `rdev`, `target`, `type`, `xattr` or `mtime`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Field::Content => "content",
            Field::Links => "links",
            Field::Mode => "mode",
            Field::Owner => "owner",
            Field::Rdev => "rdev",
            Field::Target => "target",
            Field::Type => "type",
            Field::Xattr => "xattr",
            Field::Mtime => "mtime",
        }
    }
}

/// The result of comparing two inodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Compared {
    /// The fields that differ, ascending; includes the content if that is known.
    pub fields: Vec<Field>,
    /// The entries of two files whose bytes must be read to decide.
    pub undecided: Option<(EntryAt, EntryAt)>,
}

impl<'a> Inode<'a> {
    /// Makes an inode of any state of `layers`, which hold its entries.
    pub(crate) fn new(stat: Stat, layers: &'a [Arc<LayerIndex>]) -> Self {
        Inode { stat, layers, first: 0, is_in_tree: false }
    }

    /// Makes an inode of a merged tree.
    pub(crate) fn of(rootfs: &'a Rootfs, id: InodeId) -> Option<Self> {
        let stat = rootfs.inode(id)?;
        Some(Inode { is_in_tree: true, ..Inode::new(stat, rootfs.layers()) })
    }

    /// Returns the same inode, in an image where the lowest of its layers has the number `first`.
    pub(crate) fn above(self, first: u16) -> Self {
        Inode { first, ..self }
    }

    /// Returns the type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::of(self.stat.kind)
    }

    /// Returns the permission, set-id and sticky bits: at most `0o7777`.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.stat.meta.mode
    }

    /// Returns the user ID of the owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.stat.meta.uid
    }

    /// Returns the group ID.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.stat.meta.gid
    }

    /// Returns the time of the last modification.
    #[must_use]
    pub fn mtime(&self) -> Timestamp {
        self.stat.meta.mtime
    }

    /// Returns the number of names; for a directory 2 plus the number of subdirectories. `None` for an
    /// object of an earlier state, whose names are not counted.
    #[must_use]
    pub fn nlink(&self) -> Option<u32> {
        self.is_in_tree.then_some(self.stat.nlink)
    }

    /// Returns the layer that this inode comes from. A directory that only the names of its contents imply
    /// comes from the layer of its attributes, or from the layer that implies it.
    #[must_use]
    pub fn layer(&self) -> LayerId {
        LayerId(self.first.saturating_add(self.stat.layer.0))
    }

    /// Returns the target of a symbolic link; `None` for all other objects.
    #[must_use]
    pub fn target(&self) -> Option<&'a [u8]> {
        let InodeKind::Symlink(at) = self.stat.kind else { return None };
        match self.entry(at)?.kind {
            EntryKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Returns where a regular file's bytes are; `None` for all other objects.
    pub(crate) fn file(&self) -> Option<(EntryAt, FileData<'a>)> {
        let InodeKind::File(at) = self.stat.kind else { return None };
        match self.entry(at)?.kind {
            EntryKind::File(data) => Some((at, data)),
            _ => None,
        }
    }

    /// Returns the extended attributes.
    #[must_use]
    pub fn xattrs(&self) -> Xattrs<'a> {
        self.stat.xattrs.and_then(|at| self.entry(at)).map(|entry| entry.xattrs).unwrap_or_default()
    }

    /// Returns the number of a device; `None` for all other objects.
    #[must_use]
    pub fn device(&self) -> Option<DeviceNumber> {
        match self.stat.kind {
            InodeKind::Char(device) | InodeKind::Block(device) => Some(device),
            _ => None,
        }
    }

    /// Returns the size in bytes as in `stat`: a file's logical size, the length of a link's target,
    /// otherwise 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.file() {
            Some((_, data)) => data.size,
            None => self.target().map_or(0, |target| target.len() as u64),
        }
    }

    /// Whether the object is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.stat.kind == InodeKind::Directory
    }

    /// Compares all fields except [`Field::Links`], without reading contents. If the types differ, the
    /// fields that belong to one type (content, device number, target) are not reported.
    pub(crate) fn compare(&self, other: &Inode<'_>) -> Compared {
        let (a, b) = (&self.stat.meta, &other.stat.meta);
        let same_type = std::mem::discriminant(&self.stat.kind) == std::mem::discriminant(&other.stat.kind);
        let content = content::compare(self, other);
        let differs = [
            (Field::Content, content == Some(ContentMatch::Different)),
            (Field::Mode, a.mode != b.mode),
            (Field::Owner, (a.uid, a.gid) != (b.uid, b.gid)),
            (Field::Rdev, same_type && self.device() != other.device()),
            (Field::Target, same_type && self.target() != other.target()),
            (Field::Type, !same_type),
            (Field::Xattr, !same_xattrs(self.xattrs(), other.xattrs())),
            (Field::Mtime, a.mtime != b.mtime),
        ];
        let fields = differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect();
        let undecided = match content {
            Some(ContentMatch::Unread(a, b)) => Some((a, b)),
            _ => None,
        };
        Compared { fields, undecided }
    }

    fn entry(&self, at: EntryAt) -> Option<Entry<'a>> {
        self.layers.get(usize::from(at.layer.0))?.entry(at.entry)
    }
}

/// Compares two sets of extended attributes; their order does not matter.
fn same_xattrs(a: Xattrs<'_>, b: Xattrs<'_>) -> bool {
    if a == b {
        return true;
    }
    let sorted = |xattrs: Xattrs<'_>| {
        let mut list: Vec<(Vec<u8>, Vec<u8>)> =
            xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        list.sort();
        list
    };
    sorted(a) == sorted(b)
}
