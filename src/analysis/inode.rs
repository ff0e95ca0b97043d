//! An object of an image with everything that is recorded of it, and two of them compared field by field.

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
    /// Whether its names were counted.
    is_in_tree: bool,
}

/// The type of an object, as `stat` has it in `st_mode`.
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

    /// The first letter of a line of `ls -l`.
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
    /// A regular file's bytes.
    Content,
    /// Which names share the inode.
    Links,
    /// Permission, set-id and sticky bits.
    Mode,
    /// User or group.
    Owner,
    /// A device's number.
    Rdev,
    /// Where a symbolic link leads.
    Target,
    /// Whether it is a file, a directory and so on.
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
    /// What differs, content included where that is known; ascending.
    pub fields: Vec<Field>,
    /// Two files whose bytes have to be read to know.
    pub undecided: Option<(EntryAt, EntryAt)>,
}

impl<'a> Inode<'a> {
    /// An inode of some state of `layers`, which hold its entries.
    pub(crate) fn new(stat: Stat, layers: &'a [Arc<LayerIndex>]) -> Self {
        Inode { stat, layers, first: 0, is_in_tree: false }
    }

    /// An inode of a merged tree.
    pub(crate) fn of(rootfs: &'a Rootfs, id: InodeId) -> Option<Self> {
        let stat = rootfs.inode(id)?;
        Some(Inode { is_in_tree: true, ..Inode::new(stat, rootfs.layers()) })
    }

    /// The same inode, in an image whose layer `first` is the lowest of its layers.
    pub(crate) fn above(self, first: u16) -> Self {
        Inode { first, ..self }
    }

    /// The type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::of(self.stat.kind)
    }

    /// The permission, set-id and sticky bits: at most `0o7777`.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.stat.meta.mode
    }

    /// The number of the owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.stat.meta.uid
    }

    /// The number of the group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.stat.meta.gid
    }

    /// The time of the last modification.
    #[must_use]
    pub fn mtime(&self) -> Timestamp {
        self.stat.meta.mtime
    }

    /// The number of names; for a directory 2 and one for each subdirectory. `None` for an object of an
    /// earlier state, whose names are not counted.
    #[must_use]
    pub fn nlink(&self) -> Option<u32> {
        self.is_in_tree.then_some(self.stat.nlink)
    }

    /// The layer that this inode comes from. A directory that only the names of its contents imply comes
    /// from the layer of its attributes, or from the layer that implies it.
    #[must_use]
    pub fn layer(&self) -> LayerId {
        LayerId(self.first.saturating_add(self.stat.layer.0))
    }

    /// The target of a symbolic link; `None` for everything else.
    #[must_use]
    pub fn target(&self) -> Option<&'a [u8]> {
        let InodeKind::Symlink(at) = self.stat.kind else { return None };
        match self.entry(at)?.kind {
            EntryKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Where a regular file's bytes are; `None` for everything else.
    pub(crate) fn file(&self) -> Option<(EntryAt, FileData<'a>)> {
        let InodeKind::File(at) = self.stat.kind else { return None };
        match self.entry(at)?.kind {
            EntryKind::File(data) => Some((at, data)),
            _ => None,
        }
    }

    /// The extended attributes.
    #[must_use]
    pub fn xattrs(&self) -> Xattrs<'a> {
        self.stat.xattrs.and_then(|at| self.entry(at)).map(|entry| entry.xattrs).unwrap_or_default()
    }

    /// The number of a device; `None` for everything else.
    #[must_use]
    pub fn device(&self) -> Option<DeviceNumber> {
        match self.stat.kind {
            InodeKind::Char(device) | InodeKind::Block(device) => Some(device),
            _ => None,
        }
    }

    /// Size in bytes as `stat` gives it: a file's logical size, a link's target length, else 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.file() {
            Some((_, data)) => data.size,
            None => self.target().map_or(0, |target| target.len() as u64),
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.stat.kind == InodeKind::Directory
    }

    /// Compares everything but [`Field::Links`], reading nothing. Where types differ, so does what belongs
    /// to a type; only the type is reported then.
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

/// Order does not count.
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
