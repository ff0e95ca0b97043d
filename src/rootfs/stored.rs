//! The merged tree as bytes, so that it need not be merged again.
//!
//! docs/index-format.md draws the layout. The bytes are the tables of [`Rootfs`], record by record, behind a
//! checksum; they belong to a list of layers in an order, which the caller must know them by. Reading them
//! checks everything that walking the tree relies on: no file, however forged, makes a walk endless or reads
//! outside a table.

use std::sync::Arc;

use super::{Dentry, Directory, EntryAt, Inode, InodeId, InodeKind, Rootfs, Tables};
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::layer::entry::{DeviceNumber, Meta, Timestamp};
use crate::layer::table::LayerIndex;
use crate::layer::{EntryId, LayerId};
use crate::warning::{Warning, WarningKind};

/// First bytes of every stored tree.
const MAGIC: &[u8; 8] = b"IMGTREE\0";
/// Raised whenever the layout changes, or what merging makes of the same layers.
pub const TREE_VERSION: u32 = 1;
/// Magic, version, 4 bytes of zero, five lengths, checksum.
const HEADER_BYTES: usize = 8 + 4 + 4 + 5 * 8 + CHECKSUM_BYTES;
const CHECKSUM_BYTES: usize = 32;
const INODE_BYTES: usize = 44;
const DIRECTORY_BYTES: usize = 12;
const DENTRY_BYTES: usize = 8;

impl Rootfs {
    /// The tree as bytes, without its layers.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Tables { inodes, directories, dentries, names } = &self.tables;
        let mut sections: [Vec<u8>; 4] = Default::default();
        let [inode_bytes, directory_bytes, dentry_bytes, warning_bytes] = &mut sections;
        inode_bytes.reserve(inodes.len() * INODE_BYTES);
        inodes.iter().for_each(|inode| push_inode(inode_bytes, inode));
        for directory in directories {
            push_u32s(directory_bytes, [directory.children, directory.parent.0, directory.dentry]);
        }
        dentries.iter().for_each(|dentry| push_u32s(dentry_bytes, [dentry.name, dentry.inode.0]));
        for (layer, warning) in &self.warnings {
            let len = u32::try_from(warning.path.len()).unwrap_or(0);
            warning_bytes.extend_from_slice(&layer.0.to_le_bytes());
            warning_bytes.extend_from_slice(&u16::from(warning.kind.code()).to_le_bytes());
            push_u32s(warning_bytes, [len]);
            warning_bytes.extend_from_slice(warning.path.get(..len as usize).unwrap_or_default());
        }
        let parts = [&*inode_bytes, directory_bytes, dentry_bytes, names, warning_bytes];
        let mut bytes = Vec::with_capacity(HEADER_BYTES + parts.iter().map(|part| part.len()).sum::<usize>());
        bytes.extend_from_slice(MAGIC);
        push_u32s(&mut bytes, [TREE_VERSION, 0]);
        parts.iter().for_each(|part| bytes.extend_from_slice(&(part.len() as u64).to_le_bytes()));
        bytes.extend_from_slice(&[0; CHECKSUM_BYTES]);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        seal(&mut bytes);
        bytes
    }

    /// The tree that [`Rootfs::to_bytes`] gave for the same layers. `what` names the file.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the bytes are cut short, damaged, of another version, or no tree.
    pub fn from_bytes(bytes: &[u8], layers: Vec<Arc<LayerIndex>>, what: &str) -> Result<Self> {
        let bad = |reason: &str| Error::Malformed { what: what.to_owned(), reason: reason.to_owned() };
        let (header, mut rest) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| bad("shorter than its header"))?;
        let mut fields = Fields(header);
        if fields.array() != *MAGIC || fields.u32() != TREE_VERSION {
            return Err(bad("not a tree of this version"));
        }
        fields.u32();
        if checksum(bytes) != header.last_chunk::<CHECKSUM_BYTES>().copied().unwrap_or_default() {
            return Err(bad("checksum does not match"));
        }
        let mut section = || {
            let len = usize::try_from(fields.u64()).ok()?;
            let (section, tail) = rest.split_at_checked(len)?;
            rest = tail;
            Some(section)
        };
        let mut next = || section().ok_or_else(|| bad("cut short"));
        let (inodes, directories, dentries, names, warnings) = (next()?, next()?, next()?, next()?, next()?);
        let tables = Tables {
            inodes: records(inodes, INODE_BYTES, read_inode).ok_or_else(|| bad("unknown inode"))?,
            directories: records(directories, DIRECTORY_BYTES, read_directory).unwrap_or_default(),
            dentries: records(dentries, DENTRY_BYTES, read_dentry).unwrap_or_default(),
            names: names.to_vec(),
        };
        if !tables.are_sound() {
            return Err(bad("its tables do not fit together"));
        }
        let warnings = read_warnings(warnings).ok_or_else(|| bad("unknown warning"))?;
        Ok(Rootfs { tables, layers, warnings })
    }
}

impl Tables {
    /// Whether this is a tree: every reference leads into its table, names and children ascend, and every
    /// directory is where its parent has it, once and behind its parent, so that no walk comes back.
    fn are_sound(&self) -> bool {
        let held = |directory: usize| {
            self.range(InodeId(u32::try_from(directory).unwrap_or(u32::MAX))).all(|at| {
                let Some(child) = self.dentries.get(at).map(|dentry| dentry.inode.0 as usize) else {
                    return false;
                };
                match self.directories.get(child) {
                    Some(record) => {
                        child > directory
                            && record.parent.0 as usize == directory
                            && record.dentry as usize == at
                    }
                    None => child < self.inodes.len(),
                }
            })
        };
        !self.directories.is_empty()
            && self.directories.len() <= self.inodes.len()
            && ascend(self.directories.iter().map(|directory| directory.children), self.dentries.len())
            && ascend(self.dentries.iter().map(|dentry| dentry.name), self.names.len())
            && self.directories.iter().all(|directory| (directory.parent.0 as usize) < self.directories.len())
            && (0..self.directories.len()).all(held)
            && (self.inodes.iter().enumerate())
                .all(|(at, inode)| (inode.kind == InodeKind::Directory) == (at < self.directories.len()))
    }
}

/// Whether the numbers never fall and end at `end` at most.
fn ascend(mut numbers: impl Iterator<Item = u32>, end: usize) -> bool {
    let last = numbers.try_fold(0, |last, number| (last <= number).then_some(number));
    last.is_some_and(|last| last as usize <= end)
}

fn push_u32s<const N: usize>(out: &mut Vec<u8>, numbers: [u32; N]) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

fn push_inode(out: &mut Vec<u8>, inode: &Inode) {
    let (code, first, second) = match inode.kind {
        InodeKind::File(at) => (0, at.entry.0, at.layer.0.into()),
        InodeKind::Directory => (1, 0, 0),
        InodeKind::Symlink(at) => (2, at.entry.0, at.layer.0.into()),
        InodeKind::Char(device) => (3, device.major, device.minor),
        InodeKind::Block(device) => (4, device.major, device.minor),
        InodeKind::Fifo => (5, 0, 0),
    };
    let Meta { mode, uid, gid, mtime } = inode.meta;
    let xattrs = inode.xattrs.unwrap_or(EntryAt { layer: LayerId(0), entry: EntryId(0) });
    out.extend_from_slice(&mtime.seconds.to_le_bytes());
    push_u32s(out, [first, second, mtime.nanos, uid, gid, inode.nlink, xattrs.entry.0]);
    for short in [xattrs.layer.0, inode.layer.0, mode] {
        out.extend_from_slice(&short.to_le_bytes());
    }
    out.extend_from_slice(&[code, u8::from(inode.xattrs.is_some())]);
}

fn read_inode(fields: &mut Fields<'_>) -> Option<Inode> {
    let seconds = fields.u64();
    let (first, second, nanos) = (fields.u32(), fields.u32(), fields.u32());
    let (uid, gid, nlink, xattr_entry) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
    let (xattr_layer, layer, mode) = (fields.u16(), fields.u16(), fields.u16());
    let [code, has_xattrs] = fields.array();
    let entry = || Some(EntryAt { layer: LayerId(u16::try_from(second).ok()?), entry: EntryId(first) });
    let device = DeviceNumber { major: first, minor: second };
    let kind = match code {
        0 => InodeKind::File(entry()?),
        1 => InodeKind::Directory,
        2 => InodeKind::Symlink(entry()?),
        3 => InodeKind::Char(device),
        4 => InodeKind::Block(device),
        5 => InodeKind::Fifo,
        _ => return None,
    };
    let xattrs = EntryAt { layer: LayerId(xattr_layer), entry: EntryId(xattr_entry) };
    Some(Inode {
        kind,
        meta: Meta { mode, uid, gid, mtime: Timestamp { seconds, nanos } },
        nlink,
        layer: LayerId(layer),
        xattrs: (has_xattrs != 0).then_some(xattrs),
    })
}

#[expect(clippy::unnecessary_wraps, reason = "as every reader of a record")]
fn read_directory(fields: &mut Fields<'_>) -> Option<Directory> {
    let (children, parent, dentry) = (fields.u32(), InodeId(fields.u32()), fields.u32());
    Some(Directory { children, parent, dentry })
}

#[expect(clippy::unnecessary_wraps, reason = "as every reader of a record")]
fn read_dentry(fields: &mut Fields<'_>) -> Option<Dentry> {
    Some(Dentry { name: fields.u32(), inode: InodeId(fields.u32()) })
}

fn records<T>(section: &[u8], size: usize, read: fn(&mut Fields<'_>) -> Option<T>) -> Option<Vec<T>> {
    section.chunks_exact(size).map(|record| read(&mut Fields(record))).collect()
}

fn read_warnings(mut section: &[u8]) -> Option<Vec<(LayerId, Warning)>> {
    let mut warnings = Vec::new();
    while !section.is_empty() {
        let (head, rest) = section.split_at_checked(8)?;
        let mut fields = Fields(head);
        let (layer, code, len) = (fields.u16(), fields.u16(), fields.u32());
        let (path, rest) = rest.split_at_checked(len as usize)?;
        let kind = WarningKind::from_code(u8::try_from(code).ok()?)?;
        warnings.push((LayerId(layer), Warning { kind, path: path.to_vec() }));
        section = rest;
    }
    Some(warnings)
}

/// Writes the checksum into its place.
pub(super) fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    if let Some(place) = bytes.get_mut(HEADER_BYTES - CHECKSUM_BYTES..HEADER_BYTES) {
        place.copy_from_slice(&sum);
    }
}

/// BLAKE3 of everything but the checksum itself.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes.get(..HEADER_BYTES - CHECKSUM_BYTES).unwrap_or_default());
    hasher.update(bytes.get(HEADER_BYTES..).unwrap_or_default());
    *hasher.finalize().as_bytes()
}
