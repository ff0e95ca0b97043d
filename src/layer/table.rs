//! The layer index as tables of bytes, which are read in place, in memory or in a mapped file.
//!
//! This module owns the layout that docs/index-format.md describes. A newly built index and a loaded one have
//! the same tables and the same accessors. Reading never fails and never panics: checksum and contents are
//! checked once ([`sound`]), and a reference that is invalid nevertheless, because the file changed after the
//! check, reads as empty.

mod build;
mod sound;

use std::io::{self, Write};

pub(crate) use self::build::IndexBuilder;

use super::EntryId;
use super::entry::{
    DeviceNumber, Entry, EntryKind, Extent, FileData, Meta, Segment, Segments, Stored, Timestamp, Xattrs,
};
use crate::bytes::{Bytes, Sections};
use crate::compress::Compression;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result, Subject};
use crate::fields::Fields;
use crate::warning::{Warning, WarningKind};

/// The first bytes of every layer index.
const MAGIC: &[u8; 8] = b"IMGMIDX\0";
/// The version of the format. It is raised when the layout or the meaning of a field changes; files of other
/// versions are built again.
pub(crate) const FORMAT_VERSION: u32 = 3;
/// Length of the header before the sections, in bytes.
pub(crate) const HEADER_BYTES: usize = 384;
/// Offset of the lengths of the sections in the header.
#[cfg(any(test, fuzzing))]
pub(crate) const LENGTHS_AT: usize = 8 + 4 + 4 + 2 * 65 + 3 * 8;
const SECTIONS: usize = 6;
/// The maximum length of a span in bytes, even without a boundary, which limits the memory for endless deflate
/// blocks. zlib's own blocks end within 4.2 MB (16,383 symbols of 258 bytes).
pub(crate) const MAX_SPAN_BYTES: usize = 8 << 20;
/// Record sizes of the sections in bytes, in the order of the file.
pub(crate) const RECORD_BYTES: [usize; SECTIONS] = [72, 1, Segment::RECORD_BYTES, 56, 40, 12];
/// Marks the record of a kind of warning that has the number of further warnings instead of a path.
const LEFT_OUT: u32 = 1 << 31;
/// The value for a span without a copy.
const NO_COPY: u64 = u64::MAX;

#[derive(Clone, Copy)]
enum Section {
    Entries,
    Heap,
    Segments,
    Spans,
    Checkpoints,
    Warnings,
}

/// Properties of a whole layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerFacts {
    /// Digest of the uncompressed tar; `None` when it was not computed (`--verify off`, and the outer tar of
    /// a compressed archive).
    pub diff_id: Option<Digest>,
    /// Digest of the bytes as stored; `None` when it was not computed.
    pub blob_digest: Option<Digest>,
    /// Length of the layer as stored, in bytes.
    pub blob_bytes: u64,
    /// Compression of the bytes as stored.
    pub compression: Compression,
    /// Length of the uncompressed tar, in bytes.
    pub tar_bytes: u64,
    /// Length of the seekable copy of this index, in bytes; 0 if there is none.
    pub copy_bytes: u64,
}

/// A span: a range of the uncompressed tar, the unit of caching and verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Location of the span in the uncompressed tar.
    pub extent: Extent,
    /// BLAKE3 of the span's bytes. An index stores zeros for `None` (`--verify off`).
    pub hash: Option<[u8; 32]>,
    /// Location of the span's frame in the seekable copy, if it has one.
    pub copy: Option<Extent>,
}

/// A checkpoint as an index stores it; the window is stored elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointRecord {
    /// Offset in the uncompressed tar.
    pub output_offset: u64,
    /// Offset in the bytes as stored.
    pub compressed_offset: u64,
    /// The kind of checkpoint.
    pub kind: CheckpointKind,
    /// Location of the compressed window, relative to the start of the windows.
    pub window: Extent,
    /// The first 8 bytes of the BLAKE3 of the compressed window.
    pub window_hash: [u8; 8],
}

/// The kinds of checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckpointKind {
    /// The start of a gzip member, zstd frame, xz stream or bzip2 stream.
    Start,
    /// A position inside a member, frame or stream, with the format's number for it.
    Inside(u8),
}

/// The index of one layer: entries in tar order, spans, checkpoints and warnings.
#[derive(Debug)]
pub(crate) struct LayerIndex {
    facts: LayerFacts,
    sections: Sections<SECTIONS>,
}

impl LayerIndex {
    /// Returns the number of entries.
    #[must_use]
    pub(crate) fn entry_count(&self) -> u32 {
        self.count(Section::Entries)
    }

    /// Returns the entry `id`.
    #[must_use]
    pub(crate) fn entry(&self, id: EntryId) -> Option<Entry<'_>> {
        let mut fields = self.record(Section::Entries, id.0)?;
        let header_offset = fields.u64();
        let (first, second) = (fields.u64(), fields.u64());
        let meta = read_meta(&mut fields);
        let code = fields.u16();
        let name = self.heap(fields.u32(), fields.u32());
        let target = self.heap(fields.u32(), fields.u32());
        let xattrs = Xattrs::from_packed(self.heap(fields.u32(), fields.u32()));
        let kind = match code {
            KIND_FILE => {
                let extent = Extent { offset: first, len_bytes: second };
                EntryKind::File(FileData { size: second, stored: Stored::Contiguous(extent) })
            }
            KIND_SPARSE => {
                let segments = self.segments(high(first), low(first));
                EntryKind::File(FileData { size: second, stored: Stored::Sparse(segments) })
            }
            KIND_DIRECTORY => EntryKind::Directory,
            KIND_SYMLINK => EntryKind::Symlink(target),
            KIND_HARDLINK => EntryKind::Hardlink(target),
            KIND_CHAR => EntryKind::Char(DeviceNumber { major: high(first), minor: low(first) }),
            KIND_BLOCK => EntryKind::Block(DeviceNumber { major: high(first), minor: low(first) }),
            KIND_FIFO => EntryKind::Fifo,
            _ => return None,
        };
        Some(Entry { header_offset, name, kind, meta, xattrs })
    }

    /// Returns mode, owner and modification time of the entry `id`.
    #[must_use]
    pub(crate) fn meta(&self, id: EntryId) -> Option<Meta> {
        let mut fields = self.record(Section::Entries, id.0)?;
        fields.array::<24>();
        Some(read_meta(&mut fields))
    }

    /// Returns all entries, in tar order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (EntryId, Entry<'_>)> {
        (0..self.entry_count()).filter_map(|at| Some((EntryId(at), self.entry(EntryId(at))?)))
    }

    /// Returns all entries, in tar order, for a single iteration: of an index in a mapped file, memory that
    /// was read is released during the iteration.
    pub(crate) fn sweep(&self) -> impl Iterator<Item = (EntryId, Entry<'_>)> {
        self.sections.sweep(self.entries())
    }

    /// Returns the properties of the whole layer.
    #[must_use]
    pub(crate) fn facts(&self) -> &LayerFacts {
        &self.facts
    }

    /// Returns the number of spans.
    #[must_use]
    pub(crate) fn span_count(&self) -> u32 {
        self.count(Section::Spans)
    }

    /// Returns the span at position `at`. Spans cover the tar without gaps, from offset 0 to its end.
    #[must_use]
    pub(crate) fn span(&self, at: u32) -> Option<Span> {
        let mut fields = self.record(Section::Spans, at)?;
        let (offset, copy_offset) = (fields.u64(), fields.u64());
        let copy_len = u64::from(fields.u32());
        fields.u32();
        let hash: [u8; 32] = fields.array();
        let next = at.checked_add(1).and_then(|next| self.record(Section::Spans, next));
        let end = next.map_or(self.facts.tar_bytes, |mut next| next.u64());
        Some(Span {
            extent: Extent { offset, len_bytes: end.saturating_sub(offset) },
            hash: (hash != [0; 32]).then_some(hash),
            copy: (copy_offset != NO_COPY).then_some(Extent { offset: copy_offset, len_bytes: copy_len }),
        })
    }

    /// Returns the position of the span that holds the byte at `offset` of the uncompressed tar.
    #[must_use]
    pub(crate) fn span_at(&self, offset: u64) -> Option<u32> {
        if offset >= self.facts.tar_bytes {
            return None;
        }
        self.last_at_or_before(Section::Spans, offset)
    }

    /// Returns the number of checkpoints.
    #[must_use]
    pub(crate) fn checkpoint_count(&self) -> u32 {
        self.count(Section::Checkpoints)
    }

    /// Returns the checkpoint at position `at`, in ascending order of offset.
    #[must_use]
    pub(crate) fn checkpoint(&self, at: u32) -> Option<CheckpointRecord> {
        let mut fields = self.record(Section::Checkpoints, at)?;
        let (output_offset, compressed_offset) = (fields.u64(), fields.u64());
        let window_offset = fields.u64();
        let window_len = u64::from(fields.u32());
        let kind = kind_from_code(fields.u32())?;
        Some(CheckpointRecord {
            output_offset,
            compressed_offset,
            kind,
            window: Extent { offset: window_offset, len_bytes: window_len },
            window_hash: fields.array(),
        })
    }

    /// Returns the position of the last checkpoint at or before `offset` of the uncompressed tar.
    #[must_use]
    pub(crate) fn checkpoint_at(&self, offset: u64) -> Option<u32> {
        self.last_at_or_before(Section::Checkpoints, offset)
    }

    /// Returns the warnings that were recorded while the layer was read: the first of each kind.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = Warning> {
        (0..self.count(Section::Warnings)).filter_map(|at| {
            let mut fields = self.record(Section::Warnings, at)?;
            let kind = u8::try_from(fields.u32()).ok().and_then(WarningKind::from_code)?;
            let path = self.heap(fields.u32(), fields.u32()).to_vec();
            Some(Warning { kind, path })
        })
    }

    /// Returns the number of warnings of each kind that were not recorded, if there are any.
    pub(crate) fn warnings_left_out(&self) -> impl Iterator<Item = (WarningKind, u64)> {
        (0..self.count(Section::Warnings)).filter_map(|at| {
            let mut fields = self.record(Section::Warnings, at)?;
            let code = fields.u32().checked_sub(LEFT_OUT)?;
            Some((WarningKind::from_code(u8::try_from(code).ok()?)?, fields.u64()))
        })
    }

    /// Returns the length in bytes of the stored index, without the windows before it.
    #[must_use]
    pub(crate) fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.sections.lengths().iter().sum::<usize>()
    }

    /// Writes the index in its stored form, without the windows before it.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.sections.write_to(&build::head(&self.facts, self.sections.lengths()), out)
    }

    /// Takes over the bytes of a stored index, without the windows before it.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the bytes are not an index of this version, are truncated, or do not match
    /// their checksum. `what` names the file.
    pub(crate) fn from_bytes(bytes: impl Into<Bytes>, what: &Subject) -> Result<Self> {
        let bytes = bytes.into();
        let bad = |reason: &str| Error::malformed(what.clone(), reason);
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or_else(|| bad("shorter than the header"))?;
        let mut fields = Fields(header);
        if fields.array() != *MAGIC {
            return Err(bad("not a layer index"));
        }
        if fields.u32() != FORMAT_VERSION {
            return Err(bad("another format version"));
        }
        let compression = u8::try_from(fields.u32())
            .ok()
            .and_then(Compression::from_code)
            .ok_or_else(|| bad("unknown compression"))?;
        let (diff_id, blob_digest) = (read_digest(&mut fields), read_digest(&mut fields));
        let (blob_bytes, tar_bytes, copy_bytes) = (fields.u64(), fields.u64(), fields.u64());
        let lengths = [(); SECTIONS].map(|()| fields.u64());
        let facts = LayerFacts { diff_id, blob_digest, blob_bytes, compression, tar_bytes, copy_bytes };
        let sections = Sections::stored(bytes, HEADER_BYTES, lengths, RECORD_BYTES).map_err(bad)?;
        let index = LayerIndex { facts, sections };
        index.check().map_err(bad)?;
        // Checksum and checks have read all pages, and most of them may not be needed again.
        index.sections.release();
        Ok(index)
    }

    fn section(&self, section: Section) -> &[u8] {
        self.sections.get(section as usize)
    }

    fn count(&self, section: Section) -> u32 {
        let records = self.section(section).len() / record_bytes(section);
        u32::try_from(records).unwrap_or(u32::MAX)
    }

    fn record(&self, section: Section, at: u32) -> Option<Fields<'_>> {
        let size = record_bytes(section);
        let start = (at as usize).checked_mul(size)?;
        let record = self.section(section).get(start..start.checked_add(size)?)?;
        Some(Fields(record))
    }

    fn heap(&self, offset: u32, len: u32) -> &[u8] {
        let start = offset as usize;
        let range = start..start.saturating_add(len as usize);
        self.section(Section::Heap).get(range).unwrap_or_default()
    }

    fn segments(&self, first: u32, count: u32) -> Segments<'_> {
        let size = record_bytes(Section::Segments);
        let start = (first as usize).saturating_mul(size);
        let range = start..start.saturating_add((count as usize).saturating_mul(size));
        Segments::from_records(self.section(Section::Segments).get(range).unwrap_or_default())
    }

    /// Returns the last record at or before `offset` of a section whose records begin with an ascending
    /// offset, by binary search.
    fn last_at_or_before(&self, section: Section, offset: u64) -> Option<u32> {
        let starts_by = |at: u32| self.record(section, at).is_some_and(|mut record| record.u64() <= offset);
        let (mut low, mut high) = (0, self.count(section));
        while low < high {
            let middle = low + (high - low) / 2;
            if starts_by(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

const KIND_FILE: u16 = 0;
const KIND_SPARSE: u16 = 1;
const KIND_DIRECTORY: u16 = 2;
const KIND_SYMLINK: u16 = 3;
const KIND_HARDLINK: u16 = 4;
const KIND_CHAR: u16 = 5;
const KIND_BLOCK: u16 = 6;
const KIND_FIFO: u16 = 7;

fn record_bytes(section: Section) -> usize {
    RECORD_BYTES.get(section as usize).copied().unwrap_or(1)
}

fn pack(high: u32, low: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

fn high(number: u64) -> u32 {
    low(number >> 32)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low(number: u64) -> u32 {
    number as u32
}

/// Returns the code of a kind: the kind in the second byte, the format's number in the first.
fn kind_code(kind: CheckpointKind) -> u32 {
    match kind {
        CheckpointKind::Start => 0,
        CheckpointKind::Inside(note) => 0x100 | u32::from(note),
    }
}

fn kind_from_code(code: u32) -> Option<CheckpointKind> {
    let [note, kind, 0, 0] = code.to_le_bytes() else { return None };
    match kind {
        0 => Some(CheckpointKind::Start),
        1 => Some(CheckpointKind::Inside(note)),
        _ => None,
    }
}

fn read_meta(fields: &mut Fields<'_>) -> Meta {
    let mtime = Timestamp { seconds: fields.u64(), nanos: fields.u32() };
    let (uid, gid) = (fields.u32(), fields.u32());
    Meta { mode: fields.u16(), uid, gid, mtime }
}

fn read_digest(fields: &mut Fields<'_>) -> Option<Digest> {
    let [code] = fields.array();
    let hash: [u8; 64] = fields.array();
    let algorithm = match code {
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha512,
        3 => Algorithm::Blake3,
        _ => return None,
    };
    Digest::new(algorithm, hash.get(..algorithm.len_bytes())?)
}
