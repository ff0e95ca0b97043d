//! The merged tree: what a container would see, as inodes and names.
//!
//! Pure: no I/O, no clock, no errno, no log. It refers to layer indexes for mode, owner, time, link targets,
//! extended attributes and extents, and owns names and numbers. This module is the tree as it is read;
//! [`merge`](mod@merge) makes it.

mod by_path;
mod glob;
pub(crate) mod merge;
mod resolve;
pub(crate) mod stored;
mod tables;
#[cfg(test)]
mod tests;
mod walk;

use std::ops::Range;
use std::sync::Arc;

use crate::layer::entry::{DeviceNumber, Entry, EntryKind, FileData, Meta, Xattrs};
use crate::layer::table::LayerIndex;
use crate::layer::{EntryId, LayerId};
use crate::warning::Warning;

pub use merge::Semantics;
pub(crate) use merge::{Before, Cause, Change, MergeOptions, merge, replay};

use tables::{ForeignEntries, InodeRecord, RecordKind, Tables};

/// Mode of the root and of directories that no layer describes (docs/semantics.md M4, M5).
const DEFAULT_DIRECTORY_MODE: u16 = 0o755;
/// Mode of every symbolic link (docs/semantics.md M6).
const SYMLINK_MODE: u16 = 0o777;

/// An object of the rootfs; hard links share one. The root is 0, and numbers are the same every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u32);

/// The root directory.
pub const ROOT: InodeId = InodeId(0);

/// An entry of one of the image's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EntryAt {
    /// Which layer.
    pub layer: LayerId,
    /// Which of its entries.
    pub entry: EntryId,
}

/// What an inode is, and where the rest of it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InodeKind {
    /// A regular file, whose bytes this entry holds.
    File(EntryAt),
    /// A directory.
    Directory,
    /// A symbolic link, whose target this entry holds.
    Symlink(EntryAt),
    /// A character device.
    Char(DeviceNumber),
    /// A block device.
    Block(DeviceNumber),
    /// A named pipe.
    Fifo,
}

/// One inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// What it is.
    pub kind: InodeKind,
    /// Mode, owner, time.
    pub meta: Meta,
    /// Number of names; for a directory 2 and one for each subdirectory.
    pub nlink: u32,
    /// The layer that this inode's own entry is in: where it came from. An implied directory (one that
    /// only its children's names tell of) has that of its attributes, or of what implied it.
    pub layer: LayerId,
    /// The entry whose extended attributes it has, if it has any.
    pub xattrs: Option<EntryAt>,
}

/// All that an inode is made from, its names apart: inodes of one origin in the same layer are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    kind: RecordKind,
    layer: LayerId,
    entry: EntryId,
    meta: EntryId,
    xattrs: Option<EntryId>,
}

impl Origin {
    /// The layer that the entries are in.
    pub(crate) fn layer(self) -> LayerId {
        self.layer
    }

    /// The same entries of another layer.
    pub(crate) fn moved_to(self, layer: LayerId) -> Self {
        Origin { layer, ..self }
    }
}

/// Whether a path's last component is followed when it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// As `stat` does.
    Last,
    /// As `lstat` does.
    NotLast,
}

/// The merged tree.
#[derive(Debug)]
pub(crate) struct Rootfs {
    tables: Tables,
    layers: Vec<Arc<LayerIndex>>,
    warnings: Vec<(LayerId, Warning)>,
}

impl Rootfs {
    /// How many inodes there are; they are numbered from 0.
    #[must_use]
    #[cfg(any(test, feature = "fuse"))]
    pub(crate) fn inode_count(&self) -> u32 {
        u32::try_from(self.tables.inode_count()).unwrap_or(u32::MAX)
    }

    /// One inode.
    #[must_use]
    pub(crate) fn inode(&self, id: InodeId) -> Option<Stat> {
        let record = self.tables.inode(id)?;
        let foreign = if record.has_foreign { self.tables.foreign(id) } else { None };
        Some(described(record, foreign, &self.layers))
    }

    /// Number of names of an inode, as [`Stat::nlink`]; 0 for what is not there.
    #[must_use]
    pub(crate) fn nlink(&self, id: InodeId) -> u32 {
        self.tables.inode(id).map_or(0, |record| record.nlink)
    }

    /// Which entries tell of an inode.
    pub(crate) fn origin(&self, id: InodeId) -> Option<Origin> {
        let InodeRecord { kind, layer, entry, has_xattrs, has_foreign, .. } = self.tables.inode(id)?;
        let foreign = if has_foreign { self.tables.foreign(id) } else { None };
        let (meta, xattrs) = foreign.map_or((entry, entry), |foreign| (foreign.meta, foreign.xattrs));
        Some(Origin { kind, layer, entry, meta, xattrs: has_xattrs.then_some(xattrs) })
    }

    /// Whether there is a directory of this number.
    #[must_use]
    pub(crate) fn is_directory(&self, id: InodeId) -> bool {
        self.tables.directory(id).is_some()
    }

    /// The child of a directory by its name.
    #[must_use]
    pub(crate) fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        let range = self.tables.range(directory);
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low.midpoint(high);
            match self.tables.name(middle).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(self.tables.dentry(middle)?.inode),
            }
        }
        None
    }

    /// The children of a directory, sorted by bytes. Empty for everything else.
    #[must_use]
    pub(crate) fn children(&self, directory: InodeId) -> Children<'_> {
        self.children_from(directory, 0)
    }

    /// As [`Rootfs::children`], from the child at `position` (from 0) on: in constant time.
    #[must_use]
    pub(crate) fn children_from(&self, directory: InodeId, position: usize) -> Children<'_> {
        let Range { start, end } = self.tables.range(directory);
        Children { tables: &self.tables, range: start.saturating_add(position).min(end)..end }
    }

    /// The directory that holds a directory; the root's is the root.
    #[must_use]
    pub(crate) fn parent(&self, directory: InodeId) -> InodeId {
        self.tables.directory(directory).map_or(ROOT, |record| record.parent)
    }

    /// The path of a directory: `/` for the root (and for what is no directory), else without a
    /// trailing slash.
    #[must_use]
    pub(crate) fn path(&self, directory: InodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = directory;
        while let (Some(record), true) = (self.tables.directory(at), at != ROOT) {
            names.push(self.tables.name(record.dentry as usize));
            at = record.parent;
        }
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.push(b"");
        names.reverse();
        names.join(&b'/')
    }

    /// Where a symbolic link leads; `None` for everything else.
    #[must_use]
    pub(crate) fn target(&self, id: InodeId) -> Option<&[u8]> {
        match self.own_entry(id, RecordKind::Symlink)?.1.kind {
            EntryKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Where a regular file's bytes are; `None` for everything else.
    #[must_use]
    pub(crate) fn file(&self, id: InodeId) -> Option<(LayerId, FileData<'_>)> {
        match self.own_entry(id, RecordKind::File)? {
            (layer, Entry { kind: EntryKind::File(data), .. }) => Some((layer, data)),
            _ => None,
        }
    }

    /// The extended attributes.
    #[must_use]
    pub(crate) fn xattrs(&self, id: InodeId) -> Xattrs<'_> {
        let Some(record) = self.tables.inode(id).filter(|record| record.has_xattrs) else {
            return Xattrs::default();
        };
        let foreign = if record.has_foreign { self.tables.foreign(id) } else { None };
        let entry = foreign.map_or(record.entry, |foreign| foreign.xattrs);
        self.entry(EntryAt { layer: record.layer, entry }).map(|entry| entry.xattrs).unwrap_or_default()
    }

    /// Size in bytes as `stat` gives it: a file's logical size, a link's target length, else 0.
    #[must_use]
    pub(crate) fn size(&self, id: InodeId) -> u64 {
        match self.file(id) {
            Some((_, data)) => data.size,
            None => self.target(id).map_or(0, |target| target.len() as u64),
        }
    }

    /// The layers that it was merged from.
    #[must_use]
    pub(crate) fn layers(&self) -> &[Arc<LayerIndex>] {
        &self.layers
    }

    /// What merging (and reading the layers) noticed, layer by layer.
    #[must_use]
    pub(crate) fn warnings(&self) -> &[(LayerId, Warning)] {
        &self.warnings
    }

    /// Memory that the tree itself takes up, in bytes; the layer indexes are not in it.
    #[must_use]
    #[cfg(any(test, feature = "fuse"))]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tables.0.lengths().iter().sum()
    }

    /// The entry that tells of an inode, if the inode is of this kind, and its layer.
    fn own_entry(&self, id: InodeId, kind: RecordKind) -> Option<(LayerId, Entry<'_>)> {
        let record = self.tables.inode(id).filter(|record| record.kind == kind)?;
        Some((record.layer, self.entry(EntryAt { layer: record.layer, entry: record.entry })?))
    }

    fn entry(&self, at: EntryAt) -> Option<Entry<'_>> {
        self.layers.get(usize::from(at.layer.0))?.entry(at.entry)
    }
}

/// What a record and the entries that it refers to say. Entries that are not there say nothing.
fn described(record: InodeRecord, foreign: Option<ForeignEntries>, layers: &[Arc<LayerIndex>]) -> Stat {
    let InodeRecord { layer, entry, nlink, .. } = record;
    let index = layers.get(usize::from(layer.0));
    let meta = || {
        let entry = foreign.map_or(entry, |foreign| foreign.meta);
        index.and_then(|index| index.meta(entry)).unwrap_or_default()
    };
    let device = || match index.and_then(|index| index.entry(entry)).map(|entry| entry.kind) {
        Some(EntryKind::Char(device) | EntryKind::Block(device)) => device,
        _ => DeviceNumber::default(),
    };
    let at = EntryAt { layer, entry };
    let implied = Meta { mode: DEFAULT_DIRECTORY_MODE, ..Meta::default() };
    let (kind, meta) = match record.kind {
        RecordKind::File => (InodeKind::File(at), meta()),
        RecordKind::Directory => (InodeKind::Directory, meta()),
        RecordKind::Symlink => (InodeKind::Symlink(at), Meta { mode: SYMLINK_MODE, ..meta() }),
        RecordKind::Char => (InodeKind::Char(device()), meta()),
        RecordKind::Block => (InodeKind::Block(device()), meta()),
        RecordKind::Fifo => (InodeKind::Fifo, meta()),
        RecordKind::ImpliedDirectory => (InodeKind::Directory, implied),
        RecordKind::Root => (InodeKind::Directory, Meta { mtime: meta().mtime, ..implied }),
    };
    let xattrs = EntryAt { layer, entry: foreign.map_or(entry, |foreign| foreign.xattrs) };
    Stat { kind, meta, nlink, layer, xattrs: record.has_xattrs.then_some(xattrs) }
}

/// The children of a directory: see [`Rootfs::children`].
#[derive(Debug, Clone)]
pub(crate) struct Children<'a> {
    tables: &'a Tables,
    range: Range<usize>,
}

impl<'a> Iterator for Children<'a> {
    type Item = (&'a [u8], InodeId);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.range.next()?;
        Some((self.tables.name(at), self.tables.dentry(at)?.inode))
    }

    /// In constant time, so that a directory can be listed in pieces without counting through it each time.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        self.range.start = self.range.start.saturating_add(n).min(self.range.end);
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.range.size_hint()
    }
}

impl ExactSizeIterator for Children<'_> {}
