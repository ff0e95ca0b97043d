//! A loaded image, as views use it: the merged tree, the bytes of its files, the facts about its layers.
//!
//! This module owns the link from an inode to the bytes of its layer, and the numbers of layers. It does not
//! know how layers were opened or merged.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use super::OpenLayer;
use crate::analysis::ReadFile;
use crate::compress::Compression;
use crate::content::{LayerBytes, Schedule, ScheduledExtent};
use crate::digest::Digest;
use crate::error::{Error, PathFault, Result};
use crate::image::LayerOrigin;
use crate::layer::LayerId;
use crate::layer::entry::{EntryKind, FileData};
use crate::rootfs::{EntryAt, InodeId, Rootfs, Warnings};
use crate::source::LayerBlob;
use crate::sublist::Sublist;
use crate::warning::Warning;

/// A layer of a loaded image.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LayerInfo {
    /// The digest of the uncompressed tar: the one that the image states or, if it states none, the computed
    /// one. `None` if nothing states it and nothing is verified.
    pub diff_id: Option<Digest>,
    /// The digest of the stored blob, if the image names it.
    pub digest: Option<Digest>,
    /// The media type in the manifest.
    pub media_type: Option<String>,
    /// The command that made the layer, if the image's history names it.
    pub created_by: Option<String>,
    /// Where the layer comes from.
    pub origin: LayerOrigin,
    /// The compression of the stored blob, detected from its content.
    pub compression: Compression,
    /// The length of the stored blob in bytes.
    pub blob_bytes: u64,
    /// The length of the uncompressed tar in bytes.
    pub tar_bytes: u64,
    /// The number of tar entries.
    pub entries: u32,
}

impl LayerInfo {
    pub(super) fn new(blob: LayerBlob, open: &OpenLayer) -> Self {
        let index = open.bytes.reader().index();
        let facts = index.facts();
        LayerInfo {
            diff_id: blob.descriptor.diff_id.or(facts.diff_id),
            digest: blob.descriptor.digest,
            media_type: blob.descriptor.media_type,
            created_by: blob.descriptor.created_by,
            origin: blob.descriptor.origin,
            compression: open.compression,
            blob_bytes: blob.bytes.known_len().unwrap_or(facts.blob_bytes),
            tar_bytes: facts.tar_bytes,
            entries: index.entry_count(),
        }
    }
}

/// A loaded image: its merged tree and the bytes of its files.
#[derive(Debug)]
pub(crate) struct LoadedTree {
    /// The position, in the image, of the lowest layer of this tree.
    pub(super) first: u16,
    pub(super) rootfs: Rootfs,
    pub(super) layers: Sublist<LayerInfo>,
    pub(super) bytes: Sublist<Arc<LayerBytes>>,
    pub(super) warnings: Warnings,
}

impl LoadedTree {
    /// Returns the merged tree.
    #[must_use]
    pub(crate) fn rootfs(&self) -> &Rootfs {
        &self.rootfs
    }

    /// Returns the layers of the tree, lowest first.
    #[must_use]
    pub(crate) fn layers(&self) -> &[LayerInfo] {
        &self.layers
    }

    /// Returns the position, in the image, of a layer that the rootfs names. The two numbers differ when the
    /// lowest layers of the image were not loaded.
    #[must_use]
    pub(crate) fn layer_number(&self, id: LayerId) -> u16 {
        self.first.saturating_add(id.0)
    }

    /// Returns the warnings from reading and merging, each with its layer's position in the image.
    #[must_use]
    pub(crate) fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// Reads from `offset` (bytes) of a regular file into `buf`. Returns the number of bytes read, which is
    /// smaller than `buf` only at the end of the file. Holes read as zeros. Can be called from several
    /// threads at once.
    ///
    /// # Errors
    /// [`Error::Path`] when `file` is not a regular file, [`Error::Changed`] when the image has changed since
    /// it was verified, [`Error::Io`] when it cannot be read.
    pub(crate) fn read_at(&self, file: InodeId, buf: &mut [u8], offset: u64) -> Result<usize> {
        let (bytes, data) = self.stored(file)?;
        self.answer(bytes);
        bytes.read_file(&data, buf, offset)
    }

    /// Reads as [`LoadedTree::read_at`], but returns `None` instead of waiting for a slow source. It is meant
    /// for threads that serve other requests, too. Never returns `None` for an image in local files.
    ///
    /// # Errors
    /// As [`LoadedTree::read_at`].
    #[cfg(feature = "fuse")]
    pub(crate) fn read_if_ready(&self, file: InodeId, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let (bytes, data) = self.stored(file)?;
        self.answer(bytes);
        bytes.read_file_if_ready(&data, buf, offset)
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// [`Error::Path`] when `file` is not a regular file.
    pub(crate) fn open(tree: &Arc<Self>, file: InodeId) -> Result<FileReader> {
        tree.stored(file)?;
        Ok(FileReader { tree: Arc::clone(tree), file, offset: 0 })
    }

    /// Returns a schedule for reading these regular files whole and in this order: while one file is read,
    /// other threads decode the spans of the next ones. Each file comes with its place, a number that never
    /// decreases.
    pub(crate) fn schedule<'a>(
        &'a self,
        files: impl Iterator<Item = (u64, InodeId)> + Send + 'a,
    ) -> Schedule<'a> {
        let scheduled = files.filter_map(|(place, file)| {
            let (layer, data) = self.stored(file).ok()?;
            Some(ScheduledExtent { place, layer, extent: data.extent() })
        });
        Schedule::new(self.bytes.first().and_then(|layer| layer.read_ahead().cloned()), scheduled)
    }

    /// Passes all stored bytes of a regular file to `sink`, in order and in pieces, each with its offset in
    /// the file. Holes are left out. `place` is the position of the file in a schedule. This is the fastest
    /// way to read a whole file.
    ///
    /// # Errors
    /// As [`LoadedTree::read_at`], and the error of `sink`, which ends the reading.
    pub(crate) fn read_stored(
        &self,
        place: (&Schedule<'_>, u64),
        file: InodeId,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (bytes, data) = self.stored(file)?;
        bytes.read_stored(data, place, sink)
    }

    /// Names the visible spans of all layers if `asking`, one of them, asks for them.
    fn answer(&self, asking: &LayerBytes) {
        if !asking.asks_for_visible() {
            return;
        }
        let files = (0..self.rootfs.inode_count()).filter_map(|inode| self.rootfs.file(InodeId(inode)));
        let mut visible: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); self.bytes.len()];
        for (layer, data) in files {
            let at = usize::from(layer.0);
            let (Some(bytes), Some(visible)) = (self.bytes.get(at), visible.get_mut(at)) else { continue };
            visible.extend(bytes.spans_of(data.extent()));
        }
        self.bytes.iter().zip(visible).for_each(|(bytes, spans)| bytes.name_visible(spans));
    }

    fn stored(&self, file: InodeId) -> Result<(&Arc<LayerBytes>, FileData<'_>)> {
        let found = self.rootfs.file(file);
        let found = found.and_then(|(layer, data)| Some((self.bytes.get(usize::from(layer.0))?, data)));
        found.ok_or_else(|| Error::Path { path: format!("inode {}", file.0), reason: PathFault::NotAFile })
    }

    pub(super) fn collect_warnings(&mut self, mismatches: impl Iterator<Item = Option<Warning>>) {
        let mut all = Warnings::default();
        for (layer, Warning { kind, path }) in
            (0..).map(LayerId).zip(mismatches).filter_map(|(layer, mismatch)| Some((layer, mismatch?)))
        {
            all.add(layer, kind, path.len(), || path);
        }
        all.append(self.rootfs.warnings());
        all.sort_above(self.first);
        self.warnings = all;
    }
}

/// An open regular file of an image. Every byte is verified before it is returned. A clone has its own
/// position.
///
/// An [`Error`] is the inner error of the [`io::Error`] that is returned. Each read can decompress a whole
/// span of about 1 MiB, which then stays in the cache: wrap the reader in a [`BufReader`](io::BufReader) for
/// small reads.
#[derive(Debug, Clone)]
pub struct FileReader {
    tree: Arc<LoadedTree>,
    file: InodeId,
    offset: u64,
}

impl FileReader {
    /// Returns the length of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.rootfs().size(self.file)
    }

    /// Reads as [`Image::read_at`](crate::Image::read_at). The position of the reader is neither used nor
    /// changed.
    ///
    /// # Errors
    /// As [`Image::read_at`](crate::Image::read_at).
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.tree.read_at(self.file, buf, offset)
    }
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.read_at(buf, self.offset).map_err(io::Error::other)?;
        self.offset += len as u64;
        Ok(len)
    }
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => self.size().checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

impl ReadFile for LoadedTree {
    /// Reads as [`LoadedTree::read_at`], also from files that are not in the merged tree.
    fn read_file(&self, file: EntryAt, buf: &mut [u8], offset: u64) -> Result<usize> {
        let layer = usize::from(file.layer.0);
        let entry = self.rootfs.layers().get(layer).and_then(|index| index.entry(file.entry));
        match (self.bytes.get(layer), entry.map(|entry| entry.kind)) {
            (Some(bytes), Some(EntryKind::File(data))) => bytes.read_file(&data, buf, offset),
            _ => Err(Error::Path {
                path: format!("entry {} of layer {layer}", file.entry.0),
                reason: PathFault::NotAFile,
            }),
        }
    }
}
