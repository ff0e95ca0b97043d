//! The merged tree: what a container would see, as inodes and names.
//!
//! This module is the tree in its readable form; [`merge`](mod@merge) makes it. It owns names and inode
//! numbers, and refers to layer indexes for mode, owner, time, link targets, extended attributes and
//! extents. It is pure: no I/O, no clock, no errno, no log.

mod by_path;
mod glob;
pub(crate) mod merge;
mod resolve;
#[cfg(any(test, fuzzing))]
pub(crate) mod samples;
pub(crate) mod stored;
mod tables;
#[cfg(test)]
mod tests;
mod walk;
mod warnings;

use std::ops::Range;
use std::sync::Arc;

use crate::layer::entry::{DeviceNumber, Entry, EntryKind, FileData, Meta, Xattrs};
use crate::layer::table::LayerIndex;
use crate::layer::{EntryId, LayerId};
use crate::sublist::Sublist;

pub use merge::Semantics;
#[cfg(feature = "fuse")]
pub(crate) use merge::merge_quietly;
pub(crate) use merge::{Before, Cause, MergeOptions, merge, replay};
pub(crate) use warnings::Warnings;

use tables::{ForeignEntries, InodeRecord, RecordKind, Tables};

/// Mode of the root and of directories without an entry (docs/semantics.md M4, M5).
const DEFAULT_DIRECTORY_MODE: u16 = 0o755;
/// Mode of every symbolic link (docs/semantics.md M6).
const SYMLINK_MODE: u16 = 0o777;

/// The number of an object of the rootfs; hard links share one. The root is 0. The same image always
/// gets the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u32);

/// The root directory.
pub const ROOT: InodeId = InodeId(0);

/// The position of an entry among all entries of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EntryAt {
    /// The layer.
    pub layer: LayerId,
    /// The entry within the layer.
    pub entry: EntryId,
}

/// The type of an inode, and where its data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InodeKind {
    /// A regular file; the entry holds its bytes.
    File(EntryAt),
    /// A directory.
    Directory,
    /// A symbolic link; the entry holds its target.
    Symlink(EntryAt),
    /// A character device.
    Char(DeviceNumber),
    /// A block device.
    Block(DeviceNumber),
    /// A named pipe.
    Fifo,
}

/// The attributes of one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The type, and where the data is.
    pub kind: InodeKind,
    /// Mode, owner and time.
    pub meta: Meta,
    /// The number of names; for a directory 2 plus the number of subdirectories.
    pub nlink: u32,
    /// The layer of this inode's own entry. For an implied directory (without an entry of its own) it is
    /// the layer of its attributes, or the layer that implies it.
    pub layer: LayerId,
    /// The entry that holds the extended attributes, if there are any.
    pub xattrs: Option<EntryAt>,
}

/// The entries that an inode is made from, without its names. Inodes of one origin in the same layer
/// have equal attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    kind: RecordKind,
    layer: LayerId,
    entry: EntryId,
    meta: EntryId,
    xattrs: Option<EntryId>,
}

impl Origin {
    /// Returns the layer of the entries.
    pub(crate) fn layer(self) -> LayerId {
        self.layer
    }

    /// Whether the inode is a directory.
    pub(crate) fn is_directory(self) -> bool {
        self.kind.is_directory()
    }

    /// Returns the attributes of the inode. Names are not counted: ignore `nlink`.
    pub(crate) fn stat(self, layers: &[Arc<LayerIndex>]) -> Stat {
        let Origin { kind, layer, entry, meta, xattrs } = self;
        let has_xattrs = xattrs.is_some();
        let record = InodeRecord { kind, layer, entry, nlink: 0, has_xattrs, has_foreign: true };
        let foreign = ForeignEntries { inode: InodeId(u32::MAX), meta, xattrs: xattrs.unwrap_or(entry) };
        described(record, Some(foreign), layers)
    }

    /// Returns the same entries of another layer.
    pub(crate) fn moved_to(self, layer: LayerId) -> Self {
        Origin { layer, ..self }
    }
}

/// Whether the last component of a path is followed if it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Follow it, as `stat` does.
    Last,
    /// Do not follow it, as `lstat` does.
    NotLast,
}

/// The merged tree.
#[derive(Debug)]
pub(crate) struct Rootfs {
    tables: Tables,
    layers: Sublist<Arc<LayerIndex>>,
    warnings: Warnings,
}

impl Rootfs {
    /// Returns the number of inodes, which are numbered from 0.
    #[must_use]
    pub(crate) fn inode_count(&self) -> u32 {
        u32::try_from(self.tables.inode_count()).unwrap_or(u32::MAX)
    }

    /// Returns the attributes of an inode; `None` if the number is not in use.
    #[must_use]
    pub(crate) fn inode(&self, id: InodeId) -> Option<Stat> {
        let record = self.tables.inode(id)?;
        let foreign = if record.has_foreign { self.tables.foreign(id) } else { None };
        Some(described(record, foreign, &self.layers))
    }

    /// Returns the number of names of an inode, as in [`Stat::nlink`]; 0 if the number is not in use.
    #[must_use]
    pub(crate) fn nlink(&self, id: InodeId) -> u32 {
        self.tables.inode(id).map_or(0, |record| record.nlink)
    }

    /// Returns the entries that describe an inode.
    pub(crate) fn origin(&self, id: InodeId) -> Option<Origin> {
        let InodeRecord { kind, layer, entry, has_xattrs, has_foreign, .. } = self.tables.inode(id)?;
        let foreign = if has_foreign { self.tables.foreign(id) } else { None };
        let (meta, xattrs) = foreign.map_or((entry, entry), |foreign| (foreign.meta, foreign.xattrs));
        Some(Origin { kind, layer, entry, meta, xattrs: has_xattrs.then_some(xattrs) })
    }

    /// Whether `id` is the number of a directory.
    #[must_use]
    pub(crate) fn is_directory(&self, id: InodeId) -> bool {
        self.tables.directory(id).is_some()
    }

    /// Returns the child of a directory with this name.
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

    /// Yields the children of a directory, sorted by bytes. Empty for all other inodes.
    #[must_use]
    pub(crate) fn children(&self, directory: InodeId) -> Children<'_> {
        self.children_from(directory, 0)
    }

    /// As [`Rootfs::children`], starting at the child at `position` (from 0), in constant time.
    #[must_use]
    pub(crate) fn children_from(&self, directory: InodeId, position: usize) -> Children<'_> {
        let Range { start, end } = self.tables.range(directory);
        Children { tables: &self.tables, range: start.saturating_add(position).min(end)..end }
    }

    /// Returns the directory that holds a directory; the root's parent is the root.
    #[must_use]
    pub(crate) fn parent(&self, directory: InodeId) -> InodeId {
        self.tables.directory(directory).map_or(ROOT, |record| record.parent)
    }

    /// Returns the path of a directory: `/` for the root (and for inodes that are not directories),
    /// otherwise without a trailing slash.
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

    /// Returns the target of a symbolic link; `None` for all other inodes.
    #[must_use]
    pub(crate) fn target(&self, id: InodeId) -> Option<&[u8]> {
        match self.own_entry(id, RecordKind::Symlink)?.1.kind {
            EntryKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Returns where a regular file's bytes are; `None` for all other inodes.
    #[must_use]
    pub(crate) fn file(&self, id: InodeId) -> Option<(LayerId, FileData<'_>)> {
        match self.own_entry(id, RecordKind::File)? {
            (layer, Entry { kind: EntryKind::File(data), .. }) => Some((layer, data)),
            _ => None,
        }
    }

    /// Returns the extended attributes.
    #[must_use]
    pub(crate) fn xattrs(&self, id: InodeId) -> Xattrs<'_> {
        let Some(record) = self.tables.inode(id).filter(|record| record.has_xattrs) else {
            return Xattrs::default();
        };
        let foreign = if record.has_foreign { self.tables.foreign(id) } else { None };
        let entry = foreign.map_or(record.entry, |foreign| foreign.xattrs);
        self.entry(EntryAt { layer: record.layer, entry }).map(|entry| entry.xattrs).unwrap_or_default()
    }

    /// Returns the size in bytes as in `stat`: a file's logical size, the length of a link's target,
    /// otherwise 0.
    #[must_use]
    pub(crate) fn size(&self, id: InodeId) -> u64 {
        match self.file(id) {
            Some((_, data)) => data.size,
            None => self.target(id).map_or(0, |target| target.len() as u64),
        }
    }

    /// Returns the layers that the tree was merged from, the lowest first.
    #[must_use]
    pub(crate) fn layers(&self) -> &Sublist<Arc<LayerIndex>> {
        &self.layers
    }

    /// Returns the warnings of merging and of reading the layers, layer by layer.
    #[must_use]
    pub(crate) fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// Returns the memory that the tree occupies, in bytes, without the layer indexes.
    #[must_use]
    #[cfg(any(test, feature = "fuse"))]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tables.0.lengths().iter().sum()
    }

    /// Returns the entry of an inode and its layer, if the inode is of this kind.
    fn own_entry(&self, id: InodeId, kind: RecordKind) -> Option<(LayerId, Entry<'_>)> {
        let record = self.tables.inode(id).filter(|record| record.kind == kind)?;
        Some((record.layer, self.entry(EntryAt { layer: record.layer, entry: record.entry })?))
    }

    fn entry(&self, at: EntryAt) -> Option<Entry<'_>> {
        self.layers.get(usize::from(at.layer.0))?.entry(at.entry)
    }
}

/// Combines a record with the values of the entries that it refers to. Missing entries contribute
/// nothing.
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

/// The iterator of [`Rootfs::children`].
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

    /// Skips in constant time, so that a directory can be listed in pieces without counting from its start.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        self.range.start = self.range.start.saturating_add(n).min(self.range.end);
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.range.size_hint()
    }
}

impl ExactSizeIterator for Children<'_> {}
