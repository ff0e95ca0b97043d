//! Bytes of a layer and of its files: extents to spans, spans through the cache, verified, copied out.
//!
//! This module owns the cache's use, concurrency and read-ahead. It knows nothing of names or trees; who
//! asks has already found the file.

pub mod cache;
mod read_ahead;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use self::cache::{Bytes, SpanCache};
pub use self::read_ahead::ReadAhead;
use crate::error::{Error, Result};
use crate::layer::entry::{Extent, FileData, Stored};
use crate::layer::reader::LayerReader;
use crate::layer::table::Span;
use crate::read_at::ReadAt;

/// A layer's uncompressed tar, read through the cache.
#[derive(Debug)]
pub struct LayerBytes {
    reader: LayerReader,
    cache: Arc<SpanCache>,
    number: u32,
    read_ahead: Option<Arc<ReadAhead>>,
    /// The span that was read last: the one after it is read ahead. Only a hint, so races are harmless.
    last_span: AtomicU32,
}

impl LayerBytes {
    /// Reads `reader` through `cache`, and ahead of sequential readers when there is somebody to do so.
    #[must_use]
    pub fn new(reader: LayerReader, cache: Arc<SpanCache>, read_ahead: Option<Arc<ReadAhead>>) -> Self {
        let number = cache.register();
        LayerBytes { reader, cache, number, read_ahead, last_span: AtomicU32::new(u32::MAX) }
    }

    /// The layer beneath.
    #[must_use]
    pub fn reader(&self) -> &LayerReader {
        &self.reader
    }

    /// Fills `buf` from `offset` of the uncompressed tar.
    ///
    /// # Errors
    /// As [`LayerReader::read_span`], and [`Error::Io`] past the end of what the layer holds.
    pub fn read_exact(self: &Arc<Self>, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        while !buf.is_empty() {
            let (span, bytes) = self.span_at(offset)?;
            // The span holds `offset`, so there is at least one byte.
            let from = usize::try_from(offset - span.extent.offset).unwrap_or(usize::MAX);
            let ready = bytes.get(from..).unwrap_or_default();
            let len = ready.len().min(buf.len());
            if len == 0 {
                return Err(self.past_end(offset));
            }
            let (now, later) = buf.split_at_mut(len);
            now.copy_from_slice(ready.get(..len).unwrap_or_default());
            buf = later;
            offset += len as u64;
        }
        Ok(())
    }

    /// Fills `buf` from `offset` of a file of this layer; holes are zeros. Gives the number of bytes, which
    /// is short only at the file's end.
    ///
    /// # Errors
    /// As [`LayerBytes::read_exact`].
    pub fn read_file(self: &Arc<Self>, file: &FileData<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = file.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..len).unwrap_or_default();
        match &file.stored {
            Stored::Contiguous(extent) => self.read_exact(buf, extent.offset + offset)?,
            Stored::Sparse(segments) => {
                buf.fill(0);
                let end = offset + len as u64;
                let first = segments.partition_point(|s| s.file_offset + s.extent.len_bytes <= offset);
                for segment in segments.iter().skip(first).take_while(|s| s.file_offset < end) {
                    let start = segment.file_offset.max(offset);
                    let stop = (segment.file_offset + segment.extent.len_bytes).min(end);
                    let place = to_range(start - offset, stop - offset);
                    let part = buf.get_mut(place).unwrap_or_default();
                    self.read_exact(part, segment.extent.offset + (start - segment.file_offset))?;
                }
            }
        }
        Ok(len)
    }

    /// Gives `sink` all stored bytes of a file of this layer in order, piece by piece, each with its offset
    /// in the file. Holes are left out, and nothing is copied.
    ///
    /// # Errors
    /// As [`LayerBytes::read_exact`], and what `sink` says, which ends the reading.
    pub fn read_stored(
        self: &Arc<Self>,
        file: &FileData<'_>,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        match &file.stored {
            Stored::Contiguous(extent) => self.read_extent(*extent, 0, sink),
            Stored::Sparse(segments) => {
                segments.iter().try_for_each(|s| self.read_extent(s.extent, s.file_offset, sink))
            }
        }
    }

    fn read_extent(
        self: &Arc<Self>,
        extent: Extent,
        file_offset: u64,
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < extent.len_bytes {
            let offset = extent.offset + done;
            let (span, bytes) = self.span_at(offset)?;
            let from = offset - span.extent.offset;
            let to = (from + extent.len_bytes - done).min(span.extent.len_bytes);
            let piece = bytes.get(to_range(from, to)).unwrap_or_default();
            if piece.is_empty() {
                return Err(self.past_end(offset));
            }
            sink(file_offset + done, piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    fn span_at(self: &Arc<Self>, offset: u64) -> Result<(Span, Bytes)> {
        let at = self.reader.index().span_at(offset).ok_or_else(|| self.past_end(offset))?;
        let span = self.reader.index().span(at).ok_or_else(|| self.past_end(offset))?;
        let before = self.last_span.swap(at, Ordering::Relaxed);
        if let Some(read_ahead) = &self.read_ahead
            && before.checked_add(1) == Some(at)
        {
            read_ahead.after(self, at);
        }
        Ok((span, self.span(at)?))
    }

    fn span(&self, at: u32) -> Result<Bytes> {
        self.cache.get_or_decode((self.number, at), || self.reader.read_span(at))
    }

    fn past_end(&self, offset: u64) -> Error {
        let what = format!("{}: cannot read at offset {offset}", self.reader.what());
        Error::io(what, io::ErrorKind::UnexpectedEof.into())
    }
}

fn to_range(start: u64, end: u64) -> std::ops::Range<usize> {
    // Both lie within a buffer.
    usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX)
}

/// The uncompressed tar as bytes that something else can be stacked on: a compressed archive whose
/// members are layers.
#[derive(Debug)]
pub struct TarBytes(pub Arc<LayerBytes>);

impl ReadAt for TarBytes {
    fn len(&self) -> u64 {
        self.0.reader().index().facts().tar_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact(buf, offset).map_err(|error| match error {
            Error::Io { cause, .. } if cause.kind() == io::ErrorKind::UnexpectedEof => cause,
            error => io::Error::other(error),
        })
    }
}

#[cfg(test)]
mod tests;
