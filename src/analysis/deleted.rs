//! Finds the files that an image still holds although no container sees them: deleted and overwritten
//! files.
//!
//! This module decides which objects are listed. Directories are not listed; their files are listed one
//! by one. It must not know output formats.

use std::sync::Arc;

use super::{Inode, PathBudget};
use crate::error::{Error, Result, Subject};
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::{Before, Cause, MergeOptions, Origin, replay};

/// A file, link, device or named pipe that a later layer removed from the tree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeletedFile<'a> {
    /// The path of the file before its removal, in bytes.
    pub path: Vec<u8>,
    /// The removed object.
    pub inode: Inode<'a>,
    /// The layer that had the file at this path.
    pub layer: LayerId,
    /// The layer that removed it.
    pub removed_by: LayerId,
    /// How the layer removed it.
    pub removal: Removal,
}

/// The ways in which a layer removes an object of a lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// A whiteout names this path: the object's own or that of a directory above it.
    Deleted(Arc<[u8]>),
    /// An opaque mark in this directory hides the object.
    HiddenByOpaque(Arc<[u8]>),
    /// An object of another type replaces this directory above the path.
    HiddenByReplaced(Arc<[u8]>),
    /// An object of the same path replaces it.
    Overwritten,
}

impl Removal {
    /// The name in output: `deleted`, `hidden-opaque`, `hidden-replaced` or `overwritten`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Removal::Deleted(_) => "deleted",
            Removal::HiddenByOpaque(_) => "hidden-opaque",
            Removal::HiddenByReplaced(_) => "hidden-replaced",
            Removal::Overwritten => "overwritten",
        }
    }

    /// The path that a whiteout names, or the directory that hides the object.
    #[must_use]
    pub fn by(&self) -> Option<&[u8]> {
        match self {
            Removal::Deleted(path) | Removal::HiddenByOpaque(path) | Removal::HiddenByReplaced(path) => {
                Some(path)
            }
            Removal::Overwritten => None,
        }
    }
}

/// Which removed files [`Image::deleted`](crate::Image::deleted) lists.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct DeletedOptions {
    /// List earlier versions of overwritten files, too. Off by default.
    pub overwritten: bool,
}

impl DeletedOptions {
    /// Lists earlier versions of overwritten files, too.
    #[must_use]
    pub fn overwritten(self, overwritten: bool) -> Self {
        DeletedOptions { overwritten }
    }
}

/// The removed files of an image, sorted by path and then by the layer that removed them.
///
/// An image can have millions: each takes about 40 bytes and its path.
#[derive(Debug)]
pub struct DeletedFiles<'a> {
    layers: &'a [Arc<LayerIndex>],
    /// The position in the image of the lowest of `layers`.
    first: u16,
    /// The paths of all files, one after the other.
    paths: Vec<u8>,
    records: Vec<Record>,
    /// The paths that hide files, without those that are the paths of the files themselves.
    hiding: Vec<Arc<[u8]>>,
}

/// A removed file.
#[derive(Debug, Clone, Copy)]
struct Record {
    path_offset: u32,
    path_bytes: u16,
    layer: LayerId,
    removed_by: LayerId,
    how: How,
    inode: Origin,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// A whiteout names the file.
    Deleted,
    /// A whiteout names this directory, a position in [`DeletedFiles::hiding`].
    DeletedAbove(u32),
    Opaque(u32),
    Replaced(u32),
    Overwritten,
}

impl<'a> DeletedFiles<'a> {
    fn new(layers: &'a [Arc<LayerIndex>]) -> Self {
        DeletedFiles { layers, first: 0, paths: Vec::new(), records: Vec::new(), hiding: Vec::new() }
    }

    /// Returns the number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns true if there are no files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the files in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DeletedFile<'a>> {
        self.records.iter().map(|record| self.file(record))
    }

    /// Sorts the files by the layer that removed them, then by the layer that has them, then by path.
    #[must_use]
    pub fn by_layer(mut self) -> Self {
        let paths = &self.paths;
        self.records.sort_unstable_by_key(|record| (record.removed_by, record.layer, record.path(paths)));
        self
    }

    /// Returns the same files, in an image where the lowest of the layers has the number `first`.
    pub(crate) fn above(self, first: u16) -> Self {
        DeletedFiles { first, ..self }
    }

    fn file(&self, record: &Record) -> DeletedFile<'a> {
        let path = record.path(&self.paths).to_vec();
        let hiding = |at: u32| self.hiding.get(at as usize).cloned().unwrap_or_default();
        let above = |layer: LayerId| LayerId(self.first.saturating_add(layer.0));
        DeletedFile {
            removal: match record.how {
                How::Deleted => Removal::Deleted(Arc::from(path.as_slice())),
                How::DeletedAbove(at) => Removal::Deleted(hiding(at)),
                How::Opaque(at) => Removal::HiddenByOpaque(hiding(at)),
                How::Replaced(at) => Removal::HiddenByReplaced(hiding(at)),
                How::Overwritten => Removal::Overwritten,
            },
            path,
            inode: Inode::new(record.inode.stat(self.layers), self.layers).above(self.first),
            layer: above(record.layer),
            removed_by: above(record.removed_by),
        }
    }

    fn push(&mut self, path: &[u8], before: Before, removed_by: LayerId, how: How) -> Result<()> {
        let (Ok(path_offset), Ok(path_bytes)) = (u32::try_from(self.paths.len()), u16::try_from(path.len()))
        else {
            let (value, max) = (self.paths.len() as u64, u64::from(u32::MAX));
            return Err(Error::limit(Subject::Answer, "bytes of paths", value, max));
        };
        self.paths.extend_from_slice(path);
        let Before { inode, since: layer } = before;
        self.records.push(Record { path_offset, path_bytes, layer, removed_by, how, inode });
        Ok(())
    }

    /// Returns the position of a path in [`DeletedFiles::hiding`]. Changes with the same cause follow each other.
    fn hiding(&mut self, path: &Arc<[u8]>) -> u32 {
        if self.hiding.last().is_none_or(|last| !Arc::ptr_eq(last, path)) {
            self.hiding.push(Arc::clone(path));
        }
        // There are fewer than records, which have numbers of 32 bits.
        u32::try_from(self.hiding.len() - 1).unwrap_or(u32::MAX)
    }

    fn sort(&mut self) {
        let paths = &self.paths;
        self.records.sort_unstable_by_key(|record| (record.path(paths), record.removed_by));
    }
}

impl Record {
    fn path<'p>(&self, paths: &'p [u8]) -> &'p [u8] {
        let start = self.path_offset as usize;
        paths.get(start..start.saturating_add(self.path_bytes.into())).unwrap_or_default()
    }
}

// There can be as many records as an image has files.
const _: () = assert!(size_of::<Record>() <= 40);

/// Lists the files that later layers removed.
///
/// # Errors
/// As [`replay`]; [`crate::Error::Limit`] if the paths are too long in total.
pub(crate) fn find<'a>(
    layers: &'a [Arc<LayerIndex>],
    merge: &MergeOptions,
    options: DeletedOptions,
) -> Result<DeletedFiles<'a>> {
    let mut found = DeletedFiles::new(layers);
    let mut budget = PathBudget::new(merge.limits);
    replay(layers, merge, &mut |change| {
        let Some(before) = change.before.filter(|before| !before.inode.is_directory()) else { return Ok(()) };
        let how = match (change.after, &change.cause) {
            (Some(_), _) | (None, Cause::Entry) if options.overwritten => How::Overwritten,
            (Some(_), _) | (None, Cause::Entry) => return Ok(()),
            (None, Cause::Whiteout(of)) if **of == *change.path => How::Deleted,
            (None, Cause::Whiteout(of)) => How::DeletedAbove(found.hiding(of)),
            (None, Cause::Opaque(directory)) => How::Opaque(found.hiding(directory)),
            (None, Cause::Replaced(directory)) => How::Replaced(found.hiding(directory)),
        };
        budget.take(change.path)?;
        found.push(change.path, before, change.layer, how)
    })?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compression;
    use crate::layer::entry::{Entry, EntryKind, Meta, Xattrs};
    use crate::layer::table::{IndexBuilder, LayerFacts};

    fn layer(names: impl Iterator<Item = String>) -> Arc<LayerIndex> {
        let mut builder = IndexBuilder::default();
        for name in names {
            let (kind, meta, xattrs) = (EntryKind::Fifo, Meta::default(), Xattrs::default());
            let name = name.as_bytes();
            builder.push_entry(&Entry { header_offset: 0, name, kind, meta, xattrs }).unwrap();
        }
        let (diff_id, blob_digest, compression) = (None, None, Compression::Plain);
        let facts =
            LayerFacts { diff_id, blob_digest, blob_bytes: 0, compression, tar_bytes: 0, copy_bytes: 0 };
        Arc::new(builder.finish(facts))
    }

    #[test]
    fn x9_a_deleted_file_takes_a_record_and_its_path() {
        // Each had two copies of its path and of its attributes, and one of the directory that was deleted:
        // 5 million files took 2.2 GB.
        let names = (0..1000).map(|at| format!("d/{at:03}"));
        let alone = (0..10).map(|at| format!("alone{at}"));
        let layers = [
            layer(names.chain(alone.clone())),
            layer([".wh.d".to_owned()].into_iter().chain(alone.map(|name| format!(".wh.{name}")))),
        ];
        let found = find(&layers, &MergeOptions::default(), DeletedOptions::default()).unwrap();
        assert_eq!((found.len(), found.hiding.len()), (1010, 1));
        assert_eq!(found.paths.len(), 1000 * "/d/000".len() + 10 * "/alone0".len());
        let first: Vec<_> = found.iter().map(|file| (file.path, file.removal)).take(11).collect();
        let alone = b"/alone0".to_vec();
        assert_eq!(first[0], (alone.clone(), Removal::Deleted(alone.into())));
        assert_eq!(first[10], (b"/d/000".to_vec(), Removal::Deleted(Arc::from(&b"/d"[..]))));
    }
}
