//! The merged tree as tables of bytes, read in place: in the memory where they were built, or in a
//! stored file.
//!
//! docs/index-format.md describes the tables. They hold what the layer indexes do not: the names, and
//! the entry that each name leads to. Mode, owner, time, contents and extended attributes are read from
//! that entry when they are needed. Reading never fails and never panics: an invalid reference reads as
//! empty.

use std::ops::Range;

use super::InodeId;
use crate::bytes::Sections;
use crate::fields::Fields;
use crate::layer::{EntryId, LayerId};
use crate::path::MAX_COMPONENT_BYTES;

pub(super) const SECTIONS: usize = 6;
/// Record sizes of the sections, in bytes, in their order in the file.
pub(crate) const RECORD_BYTES: [usize; SECTIONS] =
    [INODE_BYTES, FOREIGN_BYTES, DIRECTORY_BYTES, DENTRY_BYTES, 1, 1];
const INODE_BYTES: usize = 12;
const FOREIGN_BYTES: usize = 12;
const DIRECTORY_BYTES: usize = 12;
const DENTRY_BYTES: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Section {
    Inodes,
    ForeignEntries,
    Directories,
    Dentries,
    Names,
    Warnings,
}

/// The tree as flat tables: for each name of an ordinary image about 20 bytes, plus the name.
#[derive(Debug)]
pub(super) struct Tables(pub(super) Sections<SECTIONS>);

/// The record of an inode. Directories come first, in the order of their own table.
#[derive(Debug, Clone, Copy)]
pub(super) struct InodeRecord {
    pub(super) kind: RecordKind,
    /// The layer of `entry` and of all other entries of this inode.
    pub(super) layer: LayerId,
    /// The entry that describes the inode; none for [`RecordKind::ImpliedDirectory`].
    pub(super) entry: EntryId,
    pub(super) nlink: u32,
    /// Whether the inode has extended attributes.
    pub(super) has_xattrs: bool,
    /// Whether other entries than `entry` describe the inode, too: a [`ForeignEntries`] exists for it.
    pub(super) has_foreign: bool,
}

/// The type of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    File,
    Directory,
    Symlink,
    Char,
    Block,
    Fifo,
    /// A directory without an entry.
    ImpliedDirectory,
    /// The root; only the time of its entry is used.
    Root,
}

impl RecordKind {
    const ALL: [RecordKind; 8] = [
        RecordKind::File,
        RecordKind::Directory,
        RecordKind::Symlink,
        RecordKind::Char,
        RecordKind::Block,
        RecordKind::Fifo,
        RecordKind::ImpliedDirectory,
        RecordKind::Root,
    ];

    pub(super) fn is_directory(self) -> bool {
        matches!(self, RecordKind::Directory | RecordKind::ImpliedDirectory | RecordKind::Root)
    }
}

/// The entries other than its own that describe an inode: headers of its hard links, of which the last
/// counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct ForeignEntries {
    pub(super) inode: InodeId,
    /// The entry with mode, owner and time.
    pub(super) meta: EntryId,
    /// The entry with the extended attributes, if any.
    pub(super) xattrs: EntryId,
}

/// The place of a directory in the tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    /// The index of its first dentry; its last dentry precedes the next directory's first.
    pub(super) children: u32,
    /// The directory that holds this directory; the root's parent is the root.
    pub(super) parent: InodeId,
    /// The dentry that names the directory; the root has none.
    pub(super) dentry: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dentry {
    /// The offset of the name; the name ends where the next one begins.
    pub(super) name: u32,
    pub(super) inode: InodeId,
}

/// The contents of all tables, in order.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) inodes: Vec<InodeRecord>,
    /// Sorted by inode.
    pub(super) foreign_entries: Vec<ForeignEntries>,
    pub(super) directories: Vec<Directory>,
    /// The names of the first directory, sorted by bytes, then those of the second, and so on.
    pub(super) dentries: Vec<Dentry>,
    /// The names of `dentries`, without separators.
    pub(super) names: Vec<u8>,
    /// As [`super::stored`] encodes them.
    pub(super) warnings: Vec<u8>,
}

impl Tables {
    /// Builds the tables in their stored form.
    pub(super) fn build(parts: Parts) -> Self {
        let Parts { inodes, foreign_entries, directories, dentries, names, warnings } = parts;
        let inodes = packed(inodes, InodeRecord::pack);
        let foreign_entries = packed::<_, FOREIGN_BYTES>(foreign_entries, |foreign| {
            numbers([foreign.inode.0, foreign.meta.0, foreign.xattrs.0])
        });
        let directories = packed::<_, DIRECTORY_BYTES>(directories, |directory| {
            numbers([directory.children, directory.parent.0, directory.dentry])
        });
        let dentries = packed::<_, DENTRY_BYTES>(dentries, |dentry| numbers([dentry.name, dentry.inode.0]));
        Tables(Sections::Built([inodes, foreign_entries, directories, dentries, names, warnings]))
    }

    pub(super) fn inode_count(&self) -> usize {
        self.section(Section::Inodes).len() / INODE_BYTES
    }

    pub(super) fn inode(&self, id: InodeId) -> Option<InodeRecord> {
        InodeRecord::read(self.record::<INODE_BYTES>(Section::Inodes, id.0 as usize)?)
    }

    /// Returns the foreign entries of an inode whose record says that they exist.
    pub(super) fn foreign(&self, id: InodeId) -> Option<ForeignEntries> {
        let (mut low, mut high) = (0, self.section(Section::ForeignEntries).len() / FOREIGN_BYTES);
        while low < high {
            let middle = low.midpoint(high);
            let mut fields = Fields(self.record::<FOREIGN_BYTES>(Section::ForeignEntries, middle)?);
            let found = InodeId(fields.u32());
            match found.cmp(&id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return Some(ForeignEntries {
                        inode: id,
                        meta: EntryId(fields.u32()),
                        xattrs: EntryId(fields.u32()),
                    });
                }
            }
        }
        None
    }

    pub(super) fn directory_count(&self) -> usize {
        self.section(Section::Directories).len() / DIRECTORY_BYTES
    }

    pub(super) fn directory(&self, id: InodeId) -> Option<Directory> {
        let mut fields = Fields(self.record::<DIRECTORY_BYTES>(Section::Directories, id.0 as usize)?);
        Some(Directory { children: fields.u32(), parent: InodeId(fields.u32()), dentry: fields.u32() })
    }

    /// Returns the range of a directory's dentries; empty for all other inodes.
    pub(super) fn range(&self, directory: InodeId) -> Range<usize> {
        let Some(record) = self.directory(directory) else { return 0..0 };
        let next = directory.0.checked_add(1).and_then(|next| self.directory(InodeId(next)));
        record.children as usize..next.map_or_else(|| self.dentry_count(), |next| next.children as usize)
    }

    fn dentry_count(&self) -> usize {
        self.section(Section::Dentries).len() / DENTRY_BYTES
    }

    pub(super) fn dentry(&self, at: usize) -> Option<Dentry> {
        let mut fields = Fields(self.record::<DENTRY_BYTES>(Section::Dentries, at)?);
        Some(Dentry { name: fields.u32(), inode: InodeId(fields.u32()) })
    }

    pub(super) fn name(&self, dentry: usize) -> &[u8] {
        let names = self.section(Section::Names);
        let Some(Dentry { name, .. }) = self.dentry(dentry) else { return &[] };
        let end = self.dentry(dentry.saturating_add(1)).map_or(names.len(), |next| next.name as usize);
        names.get(name as usize..end).unwrap_or_default()
    }

    /// Returns the warnings in their stored form.
    pub(super) fn warnings(&self) -> &[u8] {
        self.section(Section::Warnings)
    }

    /// Checks that the tables form a tree: every reference leads into its table, the offsets of names and
    /// children ascend, every directory is listed by its parent, once and after its parent, so that no walk
    /// returns to a directory, and every name is that of a file in a directory.
    pub(super) fn are_sound(&self) -> bool {
        let (inodes, directories) = (self.inode_count(), self.directory_count());
        let dentries = self.section(Section::Dentries);
        let first = |record: &[u8]| Fields(record).u32();
        0 < directories
            && directories <= inodes
            && ascend(self.records(Section::Directories, DIRECTORY_BYTES).map(first), self.dentry_count())
            && ascend(dentries.chunks_exact(DENTRY_BYTES).map(first), self.section(Section::Names).len())
            && self.are_names()
            && (0..directories).all(|at| self.holds_its_children(at, directories, inodes))
            && (self.records(Section::Inodes, INODE_BYTES).enumerate()).all(|(at, record)| {
                InodeRecord::read(record).is_some_and(|inode| inode.kind.is_directory() == (at < directories))
            })
    }

    /// Whether each name is a single component, as `extract` passes it to the system.
    fn are_names(&self) -> bool {
        let names = self.section(Section::Names);
        !names.iter().any(|byte| matches!(byte, b'/' | 0))
            && (0..self.dentry_count()).all(|at| {
                let name = self.name(at);
                !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_COMPONENT_BYTES
            })
    }

    fn holds_its_children(&self, directory: usize, directories: usize, inodes: usize) -> bool {
        let id = |at: usize| InodeId(u32::try_from(at).unwrap_or(u32::MAX));
        let Some(own) = self.directory(id(directory)) else { return false };
        // The way up ends: it leads to smaller numbers, and the root's parent is the root.
        let goes_up = (own.parent.0 as usize) < directory.max(1);
        goes_up
            && self.range(id(directory)).all(|at| {
                let Some(child) = self.dentry(at).map(|dentry| dentry.inode) else { return false };
                let number = child.0 as usize;
                if number >= directories {
                    return number < inodes;
                }
                number > directory
                    && self.directory(child).is_some_and(|record| {
                        record.parent.0 as usize == directory && record.dentry as usize == at
                    })
            })
    }

    fn section(&self, section: Section) -> &[u8] {
        self.0.get(section as usize)
    }

    fn records(&self, section: Section, size: usize) -> impl Iterator<Item = &[u8]> {
        self.section(section).chunks_exact(size)
    }

    fn record<const SIZE: usize>(&self, section: Section, at: usize) -> Option<&[u8]> {
        let start = at.checked_mul(SIZE)?;
        self.section(section).get(start..start.checked_add(SIZE)?)
    }
}

impl InodeRecord {
    const HAS_XATTRS: u8 = 1;
    const HAS_FOREIGN: u8 = 2;

    fn pack(self) -> [u8; INODE_BYTES] {
        let mut bytes = [0; INODE_BYTES];
        let flags =
            u8::from(self.has_xattrs) * Self::HAS_XATTRS + u8::from(self.has_foreign) * Self::HAS_FOREIGN;
        let kind = RecordKind::ALL.iter().position(|kind| *kind == self.kind);
        bytes[..4].copy_from_slice(&self.entry.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.nlink.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.layer.0.to_le_bytes());
        bytes[10] = kind.and_then(|kind| u8::try_from(kind).ok()).unwrap_or(u8::MAX);
        bytes[11] = flags;
        bytes
    }

    /// Returns `None` for an unknown kind.
    fn read(record: &[u8]) -> Option<Self> {
        let mut fields = Fields(record);
        let (entry, nlink, layer) = (EntryId(fields.u32()), fields.u32(), LayerId(fields.u16()));
        let [kind, flags] = fields.array();
        Some(InodeRecord {
            kind: *RecordKind::ALL.get(usize::from(kind))?,
            layer,
            entry,
            nlink,
            has_xattrs: flags & Self::HAS_XATTRS != 0,
            has_foreign: flags & Self::HAS_FOREIGN != 0,
        })
    }
}

/// Whether the numbers never decrease and do not exceed `end`.
fn ascend(mut numbers: impl Iterator<Item = u32>, end: usize) -> bool {
    let last = numbers.try_fold(0, |last, number| (last <= number).then_some(number));
    last.is_some_and(|last| last as usize <= end)
}

fn numbers<const N: usize, const SIZE: usize>(numbers: [u32; N]) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn packed<T, const SIZE: usize>(
    records: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    pack: impl Fn(T) -> [u8; SIZE],
) -> Vec<u8> {
    let records = records.into_iter();
    let mut bytes = Vec::with_capacity(records.len() * SIZE);
    records.for_each(|record| bytes.extend_from_slice(&pack(record)));
    bytes
}
