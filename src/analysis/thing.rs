//! Two things that go by one name, compared field by field.

use std::sync::Arc;

use super::content::{self, Verdict};
use crate::layer::entry::{DeviceNumber, Entry, EntryKind, FileData, Xattrs};
use crate::layer::table::LayerIndex;
use crate::rootfs::{EntryAt, Inode, InodeId, InodeKind, Rootfs};

/// An inode of some state of an image, together with the layers that hold the rest of it.
#[derive(Debug, Clone, Copy)]
pub struct Thing<'a> {
    /// The inode.
    pub inode: Inode,
    pub(super) layers: &'a [Arc<LayerIndex>],
}

/// What two things can differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The word for it.
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

/// What comparing two things gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compared {
    /// What differs, content included where that is known; ascending.
    pub fields: Vec<Field>,
    /// Two files whose bytes have to be read to know.
    pub undecided: Option<(EntryAt, EntryAt)>,
}

impl<'a> Thing<'a> {
    /// An inode whose entries are in `layers`.
    #[must_use]
    pub fn new(inode: Inode, layers: &'a [Arc<LayerIndex>]) -> Self {
        Thing { inode, layers }
    }

    /// An inode of a merged tree.
    #[must_use]
    pub fn of(rootfs: &'a Rootfs, id: InodeId) -> Option<Self> {
        rootfs.inode(id).map(|inode| Thing::new(inode, rootfs.layers()))
    }

    /// Where a symbolic link leads; `None` for everything else.
    #[must_use]
    pub fn target(&self) -> Option<&'a [u8]> {
        let InodeKind::Symlink(at) = self.inode.kind else { return None };
        match self.entry(at)?.kind {
            EntryKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Where a regular file's bytes are; `None` for everything else.
    #[must_use]
    pub fn file(&self) -> Option<(EntryAt, FileData<'a>)> {
        let InodeKind::File(at) = self.inode.kind else { return None };
        match self.entry(at)?.kind {
            EntryKind::File(data) => Some((at, data)),
            _ => None,
        }
    }

    /// The extended attributes.
    #[must_use]
    pub fn xattrs(&self) -> Xattrs<'a> {
        self.inode.xattrs.and_then(|at| self.entry(at)).map(|entry| entry.xattrs).unwrap_or_default()
    }

    /// The number of a device; `None` for everything else.
    #[must_use]
    pub fn device(&self) -> Option<DeviceNumber> {
        match self.inode.kind {
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
        self.inode.kind == InodeKind::Directory
    }

    /// Compares everything but [`Field::Links`], reading nothing. Where types differ, so does what belongs
    /// to a type; only the type is told then.
    #[must_use]
    pub fn compare(&self, other: &Thing<'_>) -> Compared {
        let (a, b) = (&self.inode.meta, &other.inode.meta);
        let same_type = std::mem::discriminant(&self.inode.kind) == std::mem::discriminant(&other.inode.kind);
        let content = content::compare(self, other);
        let differs = [
            (Field::Content, content == Some(Verdict::Different)),
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
            Some(Verdict::Unread(a, b)) => Some((a, b)),
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
