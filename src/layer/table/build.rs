//! Builds a [`LayerIndex`]. This module owns the order in which sections are collected; each section is a
//! separate table until the index is stored.

use super::{
    CheckpointRecord, FORMAT_VERSION, HEADER_BYTES, KIND_BLOCK, KIND_CHAR, KIND_DIRECTORY, KIND_FIFO,
    KIND_FILE, KIND_HARDLINK, KIND_SPARSE, KIND_SYMLINK, LEFT_OUT, LayerFacts, LayerIndex, MAGIC, NO_COPY,
    SECTIONS, Section, kind_code, low, pack, record_bytes,
};
use crate::bytes::{CHECKSUM_BYTES, Sections};
use crate::digest::{Algorithm, Digest};
use crate::error::{StreamFault, StreamResult as Result};
use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Segments, Stored};
use crate::warning::{Tally, WarningKind};

/// Collects the results of one pass over a layer and builds a [`LayerIndex`].
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    entries: Vec<u8>,
    heap: Vec<u8>,
    segments: Vec<u8>,
    spans: Vec<u8>,
    checkpoints: Vec<u8>,
    warnings: Vec<u8>,
    tally: Tally,
}

impl IndexBuilder {
    /// Appends the next entry of the tar.
    ///
    /// # Errors
    /// [`StreamFault::Limit`] when names, link targets and attributes exceed the layout's 4 GiB.
    pub(crate) fn push_entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (code, first, second, target): (u16, u64, u64, &[u8]) = match &entry.kind {
            EntryKind::File(FileData { stored: Stored::Contiguous(extent), .. }) => {
                (KIND_FILE, extent.offset, extent.len_bytes, &[])
            }
            EntryKind::File(FileData { size, stored: Stored::Sparse(segments) }) => {
                (KIND_SPARSE, self.push_segments(*segments)?, *size, &[])
            }
            EntryKind::Directory => (KIND_DIRECTORY, 0, 0, &[]),
            EntryKind::Symlink(target) => (KIND_SYMLINK, 0, 0, target),
            EntryKind::Hardlink(target) => (KIND_HARDLINK, 0, 0, target),
            EntryKind::Char(device) => (KIND_CHAR, pack(device.major, device.minor), 0, &[]),
            EntryKind::Block(device) => (KIND_BLOCK, pack(device.major, device.minor), 0, &[]),
            EntryKind::Fifo => (KIND_FIFO, 0, 0, &[]),
        };
        let name = self.push_heap(entry.name)?;
        let target = self.push_heap(target)?;
        let xattrs = self.push_heap(entry.xattrs.as_packed())?;
        let out = &mut self.entries;
        for number in [entry.header_offset, first, second, entry.meta.mtime.seconds] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [entry.meta.mtime.nanos, entry.meta.uid, entry.meta.gid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&entry.meta.mode.to_le_bytes());
        out.extend_from_slice(&code.to_le_bytes());
        for (offset, len) in [name, target, xattrs] {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        }
        Ok(())
    }

    /// Appends a span that starts at the end of the previous span.
    pub(crate) fn push_span(&mut self, offset: u64, hash: Option<[u8; 32]>, copy: Option<Extent>) {
        let copy_len = copy.map_or(0, |copy| u32::try_from(copy.len_bytes).unwrap_or(u32::MAX));
        self.spans.extend_from_slice(&offset.to_le_bytes());
        self.spans.extend_from_slice(&copy.map_or(NO_COPY, |copy| copy.offset).to_le_bytes());
        self.spans.extend_from_slice(&copy_len.to_le_bytes());
        self.spans.extend_from_slice(&[0; 4]);
        self.spans.extend_from_slice(&hash.unwrap_or_default());
    }

    /// Appends a checkpoint after the previous checkpoint.
    pub(crate) fn push_checkpoint(&mut self, record: &CheckpointRecord) {
        let window_len = u32::try_from(record.window.len_bytes).unwrap_or(u32::MAX);
        for number in [record.output_offset, record.compressed_offset, record.window.offset] {
            self.checkpoints.extend_from_slice(&number.to_le_bytes());
        }
        self.checkpoints.extend_from_slice(&window_len.to_le_bytes());
        self.checkpoints.extend_from_slice(&kind_code(record.kind).to_le_bytes());
        self.checkpoints.extend_from_slice(&record.window_hash);
    }

    /// Appends a warning. Warnings after the first of a kind are only counted ([`Tally`]), and names that exceed
    /// the space for names are left out.
    pub(crate) fn push_warning(&mut self, kind: WarningKind, path: &[u8]) {
        let Some(len) = self.tally.admit(kind, path.len()) else { return };
        let (offset, len) = self.push_heap(path.get(..len).unwrap_or_default()).unwrap_or_default();
        for number in [u32::from(kind.code()), offset, len] {
            self.warnings.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Returns the index with all appended records.
    #[must_use]
    pub(crate) fn finish(self, facts: LayerFacts) -> LayerIndex {
        let IndexBuilder { entries, heap, segments, spans, checkpoints, mut warnings, tally } = self;
        for (kind, count) in tally.left_out() {
            warnings.extend_from_slice(&(LEFT_OUT | u32::from(kind.code())).to_le_bytes());
            warnings.extend_from_slice(&count.to_le_bytes());
        }
        let sections = [entries, heap, segments, spans, checkpoints, warnings];
        LayerIndex { facts, sections: Sections::Built(sections) }
    }

    fn push_heap(&mut self, bytes: &[u8]) -> Result<(u32, u32)> {
        let (offset, len) = (self.heap.len() as u64, bytes.len() as u64);
        let max = u64::from(u32::MAX);
        if offset + len > max {
            return Err(StreamFault::Limit {
                entry: None,
                limit: "index heap bytes",
                value: offset + len,
                max,
            });
        }
        self.heap.extend_from_slice(bytes);
        // Both numbers fit in 32 bits because their sum does.
        Ok((low(offset), low(len)))
    }

    fn push_segments(&mut self, segments: Segments<'_>) -> Result<u64> {
        let first = self.segments.len() / record_bytes(Section::Segments);
        let (Ok(first), Ok(count)) = (u32::try_from(first), u32::try_from(segments.len())) else {
            let max = u64::from(u32::MAX);
            return Err(StreamFault::Limit { entry: None, limit: "sparse segments", value: max + 1, max });
        };
        for segment in segments.iter_from(0) {
            self.segments.extend_from_slice(&segment.to_record());
        }
        Ok(pack(first, count))
    }
}

/// Returns the header of an index whose sections have these lengths, without the checksum.
pub(super) fn head(facts: &LayerFacts, lengths: [usize; SECTIONS]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::from(facts.compression.code()).to_le_bytes());
    push_digest(&mut bytes, facts.diff_id);
    push_digest(&mut bytes, facts.blob_digest);
    for number in [facts.blob_bytes, facts.tar_bytes, facts.copy_bytes] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for len in lengths {
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
    }
    bytes.resize(HEADER_BYTES - CHECKSUM_BYTES, 0);
    bytes
}

/// Appends an algorithm's number (0: no digest) and a field of the length of the longest hash.
fn push_digest(out: &mut Vec<u8>, digest: Option<Digest>) {
    let start = out.len();
    if let Some(digest) = digest {
        out.push(match digest.algorithm() {
            Algorithm::Sha256 => 1,
            Algorithm::Sha512 => 2,
            Algorithm::Blake3 => 3,
        });
        out.extend_from_slice(digest.hash());
    }
    out.resize(start + 65, 0);
}
