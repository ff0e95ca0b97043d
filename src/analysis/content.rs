//! Decides whether two files hold the same bytes: without reading where that is certain, otherwise by
//! reading.
//!
//! This module owns what is certain. Layers of one diff_id are the same layer, so the same extent of
//! both holds the same bytes. Spans with the same hash hold the same bytes, so the same extent of such
//! spans is equal, too; that covers the common data of layers that were built twice. Equal sizes or
//! times never make files equal, and different hashes never make them different.

use std::ops::Range;
use std::sync::Arc;

use super::Inode;
use super::ReadFile;
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::entry::{Extent, FileData, Stored};
use crate::layer::table::LayerIndex;
use crate::rootfs::EntryAt;
use crate::workers::{Queue, cores, try_map};

/// Bytes that are read of each file at a time, at most.
const BLOCK_BYTES: usize = 1 << 20;
/// Bytes that are read of each file at first: most files that differ do so early, and later bytes may
/// have to be decoded for the comparison alone.
const FIRST_BLOCK_BYTES: usize = 64 << 10;

/// What is known about two files' bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentMatch {
    Same,
    Different,
    /// The files must be read to decide.
    Unread(EntryAt, EntryAt),
}

/// Compares the bytes of two regular files as far as possible without reading them. Returns `None`
/// unless both are regular files.
pub(super) fn compare(a: &Inode<'_>, b: &Inode<'_>) -> Option<ContentMatch> {
    let ((a_at, a_data), (b_at, b_data)) = (a.file()?, b.file()?);
    if a_data.size != b_data.size {
        return Some(ContentMatch::Different);
    }
    let index = |inode: &Inode<'_>, at: EntryAt| inode.layers.get(usize::from(at.layer.0)).cloned();
    let (a_index, b_index) = (index(a, a_at)?, index(b, b_at)?);
    let same = a_data.size == 0
        || (is_same_layer(&a_index, &b_index) && a_data.stored == b_data.stored)
        || match (&a_data.stored, &b_data.stored) {
            (Stored::Contiguous(a), Stored::Contiguous(b)) => {
                lie_in_equal_spans((&a_index, *a), (&b_index, *b))
            }
            _ => false,
        };
    Some(if same { ContentMatch::Same } else { ContentMatch::Unread(a_at, b_at) })
}

/// Whether two layers have the same tar. A diff_id in an index was computed from the bytes; an index
/// without a diff_id proves nothing.
pub(super) fn is_same_layer(a: &Arc<LayerIndex>, b: &Arc<LayerIndex>) -> bool {
    Arc::ptr_eq(a, b) || (a.facts().diff_id.is_some() && a.facts().diff_id == b.facts().diff_id)
}

/// Whether both extents lie, from end to end, at the same place of spans that have equal hashes.
fn lie_in_equal_spans((a, a_extent): (&LayerIndex, Extent), (b, b_extent): (&LayerIndex, Extent)) -> bool {
    let mut done = 0;
    while done < a_extent.len_bytes {
        let place = |index: &LayerIndex, extent: Extent| {
            let offset = extent.offset.checked_add(done)?;
            let span = index.span(index.span_at(offset)?)?;
            let within = offset.checked_sub(span.extent.offset)?;
            Some((span.hash?, span.extent.len_bytes, within))
        };
        match (place(a, a_extent), place(b, b_extent)) {
            (Some(a), Some(b)) if a == b => {
                let (_, len, within) = a;
                match len.checked_sub(within) {
                    Some(step) if step > 0 => done = done.saturating_add(step),
                    _ => return false,
                }
            }
            _ => return false,
        }
    }
    true
}

/// A file and the reader of its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Readable<'a> {
    /// The file.
    pub inode: Inode<'a>,
    /// The reader of the file's bytes.
    pub from: &'a dyn ReadFile,
}

impl std::fmt::Debug for Readable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readable").field("inode", &self.inode).finish_non_exhaustive()
    }
}

/// Compares the bytes of two regular files by reading both until they differ. Ranges that are holes in
/// both are not read, however large: they are zeros on both sides. Returns false if one is not a
/// regular file.
///
/// # Errors
/// The errors of [`ReadFile::read_file`].
pub(crate) fn same_bytes(a: Readable<'_>, b: Readable<'_>) -> Result<bool> {
    let (Some((a_at, a_data)), Some((b_at, b_data))) = (a.inode.file(), b.inode.file()) else {
        return Ok(false);
    };
    if a_data.size != b_data.size {
        return Ok(false);
    }
    let block_bytes = usize::try_from(a_data.size).map_or(BLOCK_BYTES, |size| size.min(BLOCK_BYTES));
    let (mut a_block, mut b_block) = (vec![0; block_bytes], vec![0; block_bytes]);
    let mut step = FIRST_BLOCK_BYTES;
    for range in stored_ranges(&a_data, &b_data) {
        let mut offset = range.start;
        while offset < range.end {
            let len = usize::try_from(range.end - offset).map_or(step, |len| len.min(step)).min(block_bytes);
            step = step.saturating_mul(2).min(BLOCK_BYTES);
            let a_part = read(a.from, a_at, &mut a_block, len, offset)?;
            let b_part = read(b.from, b_at, &mut b_block, len, offset)?;
            if a_part != b_part {
                return Ok(false);
            }
            offset += len as u64;
        }
    }
    Ok(true)
}

/// Compares each pair as [`same_bytes`] does, in order. Pairs should be sorted by the position of their
/// first file in its layer: pairs that share a span are compared by one thread, one after the other,
/// and other pairs in parallel.
///
/// # Errors
/// As [`same_bytes`], for the first pair that fails.
pub(super) fn same_bytes_of_all(pairs: &[(Readable<'_>, Readable<'_>)]) -> Result<Vec<bool>> {
    let groups: Vec<_> = pairs.chunk_by(|(one, _), (next, _)| place(one) == place(next)).collect();
    let found = try_map(&Queue::new(&groups), cores(), |group| {
        group.iter().map(|(a, b)| same_bytes(*a, *b)).collect::<Result<Vec<bool>>>()
    });
    Ok(found?.concat())
}

/// Returns the layer and the span in which a file begins.
fn place(file: &Readable<'_>) -> Option<(LayerId, Option<u32>)> {
    let (at, data) = file.inode.file()?;
    let index = file.inode.layers.get(usize::from(at.layer.0))?;
    Some((at.layer, index.span_at(data.extent().offset)))
}

fn read<'b>(
    from: &dyn ReadFile,
    at: EntryAt,
    block: &'b mut [u8],
    len: usize,
    offset: u64,
) -> Result<&'b [u8]> {
    let block = block.get_mut(..len).unwrap_or_default();
    let len = from.read_file(at, block, offset)?;
    Ok(block.get(..len).unwrap_or_default())
}

/// Returns the ranges that at least one of two files stores, ascending and without overlap.
fn stored_ranges(a: &FileData<'_>, b: &FileData<'_>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = [a, b].into_iter().flat_map(stored).collect();
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

fn stored(file: &FileData<'_>) -> Vec<Range<u64>> {
    match &file.stored {
        Stored::Contiguous(extent) => std::iter::once(0..extent.len_bytes).collect(),
        Stored::Sparse(segments) => {
            segments.iter_from(0).map(|s| s.file_offset..s.file_end().min(file.size)).collect()
        }
    }
}
