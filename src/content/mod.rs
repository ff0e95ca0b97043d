//! Reads the bytes of a layer and of its files: finds the spans of an extent, gets each span through the
//! cache, verified, and copies the bytes out.
//!
//! This module owns the use of the cache, concurrency and read-ahead. It does not know names or trees: the
//! caller has already found the file.
//!
//! ```text
//! a known order (schedule), or a predicted one (streams)  ->  threads (ahead)  ->  the cache  <-  readers
//! ```

mod ahead;
mod buffers;
pub(crate) mod cache;
#[cfg(feature = "fuse")]
mod ready;
mod requests;
mod schedule;
mod streams;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use self::ahead::ReadAhead;
use self::cache::{CachedSpan, SpanCache};
use self::requests::Requests;
pub(crate) use self::schedule::{Schedule, ScheduledExtent};
use self::streams::{Depth, Prediction, Streams};
use crate::error::{Error, Result, StreamFault};
use crate::layer::entry::{Extent, FileData, Stored};
use crate::layer::reader::LayerReader;
use crate::layer::table::Span;
use crate::memory::zeros;
use crate::read_at::{ReadAt, Remote};

/// Number of requests into which the read-ahead of a sequential reader is divided: while one is answered, the
/// next one is on its way.
const REQUESTS_AHEAD: u32 = 4;
/// Maximum length of the stored bytes of a span that are requested ahead. A span ends at the first checkpoint
/// after 1 MiB, so longer ranges belong to layers with few checkpoints.
const MAX_ANNOUNCED_BYTES: u64 = 8 << 20;

/// A layer's uncompressed tar, read through the cache.
#[derive(Debug)]
pub(crate) struct LayerBytes {
    reader: LayerReader,
    cache: Arc<SpanCache>,
    number: u32,
    read_ahead: Option<Arc<ReadAhead>>,
    /// The recent readers of the layer, to predict the spans that follow.
    streams: Mutex<Streams>,
    /// The same readers, to predict what will be requested of a remote source: much further ahead.
    requests: Requests,
    /// The span that was read last: reading it again changes no prediction. It only saves work, so races are
    /// harmless.
    last_span: AtomicU32,
}

impl LayerBytes {
    /// Creates a view of `reader` through `cache`, with read-ahead for sequential readers if `read_ahead` is
    /// given.
    #[must_use]
    pub(crate) fn new(
        reader: LayerReader,
        cache: Arc<SpanCache>,
        read_ahead: Option<Arc<ReadAhead>>,
    ) -> Self {
        let number = cache.register();
        let last_span = AtomicU32::new(u32::MAX);
        LayerBytes {
            reader,
            cache,
            number,
            read_ahead,
            streams: Mutex::default(),
            requests: Requests::default(),
            last_span,
        }
    }

    /// Returns the threads that read ahead.
    #[must_use]
    pub(crate) fn read_ahead(&self) -> Option<&Arc<ReadAhead>> {
        self.read_ahead.as_ref()
    }

    /// Returns the reader of the layer.
    #[must_use]
    pub(crate) fn reader(&self) -> &LayerReader {
        &self.reader
    }

    /// Fills `buf` from `offset` of the uncompressed tar.
    ///
    /// # Errors
    /// As [`LayerReader::read_span`], and [`Error::Io`] when the range ends beyond the layer.
    pub(crate) fn read_exact(self: &Arc<Self>, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.read_exact_by(|at| self.span(at), buf, offset) {
            // Another file in the span has changed.
            Err(Error::Io { .. }) if self.reader.read_alone(buf, offset) => Ok(()),
            read => read,
        }
    }

    /// Reads from `offset` (bytes) of a file of this layer into `buf`; holes read as zeros. Returns the
    /// number of bytes read, which is smaller than `buf` only at the end of the file.
    ///
    /// # Errors
    /// As [`LayerBytes::read_exact`].
    pub(crate) fn read_file(
        self: &Arc<Self>,
        file: &FileData<'_>,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        self.read_file_by(|buf, offset| self.read_exact(buf, offset), file, buf, offset)
    }

    /// Fills `buf` from `offset` of the uncompressed tar, with spans that `span` returns.
    fn read_exact_by<E: From<Error>>(
        self: &Arc<Self>,
        span: impl Fn(u32) -> Result<CachedSpan, E>,
        mut buf: &mut [u8],
        mut offset: u64,
    ) -> Result<(), E> {
        while !buf.is_empty() {
            let (at, found) = self.span_at(offset)?;
            self.guess(at);
            let bytes = span(at)?;
            // The span contains `offset`, so at least one byte is left.
            let from = usize::try_from(offset - found.extent.offset).unwrap_or(usize::MAX);
            let ready = bytes.get(from..).unwrap_or_default();
            let len = ready.len().min(buf.len());
            if len == 0 {
                return Err(self.past_end(offset).into());
            }
            let (now, later) = buf.split_at_mut(len);
            now.copy_from_slice(ready.get(..len).unwrap_or_default());
            buf = later;
            offset += len as u64;
        }
        Ok(())
    }

    /// Reads as [`LayerBytes::read_file`]; `read` fills a buffer from an offset of the uncompressed tar.
    fn read_file_by<E: From<Error>>(
        self: &Arc<Self>,
        read: impl Fn(&mut [u8], u64) -> Result<(), E>,
        file: &FileData<'_>,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize, E> {
        let left = file.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..len).unwrap_or_default();
        match &file.stored {
            Stored::Contiguous(extent) => read(buf, extent.offset + offset)?,
            Stored::Sparse(segments) => {
                buf.fill(0);
                let end = offset + len as u64;
                let first = segments.partition_point(|segment| segment.file_end() <= offset);
                for segment in segments.iter_from(first).take_while(|s| s.file_offset < end) {
                    let start = segment.file_offset.max(offset);
                    let stop = segment.file_end().min(end);
                    let place = to_range(start - offset, stop - offset);
                    let part = buf.get_mut(place).unwrap_or_default();
                    let from = segment.extent.offset + (start - segment.file_offset);
                    read(part, from)?;
                }
            }
        }
        Ok(len)
    }

    /// Passes all stored bytes of a file of this layer to `sink`, in order and in pieces, each with its
    /// offset in the file. Holes are left out, and nothing is copied. `place` is the position of the file in
    /// `schedule`.
    ///
    /// # Errors
    /// As [`LayerBytes::read_exact`], and the error of `sink`, which ends the reading.
    pub(crate) fn read_stored(
        &self,
        file: FileData<'_>,
        (schedule, place): (&Schedule<'_>, u64),
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        stored_extents(file).try_for_each(|(file_offset, extent)| {
            self.read_extent(extent, (schedule, place), &mut |offset, bytes| {
                sink(file_offset + offset, bytes)
            })
        })
    }

    /// Passes the bytes of an extent to `sink`, in order and in pieces, each with its offset in the extent.
    /// `place` is the position of the extent in `schedule`.
    ///
    /// # Errors
    /// As [`LayerBytes::read_stored`].
    pub(crate) fn read_extent(
        &self,
        extent: Extent,
        (schedule, place): (&Schedule<'_>, u64),
        sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < extent.len_bytes {
            let offset = extent.offset + done;
            let (at, span) = self.span_at(offset)?;
            schedule.reached(place, at);
            let from = offset - span.extent.offset;
            let to = (from + extent.len_bytes - done).min(span.extent.len_bytes);
            let (bytes, alone);
            let piece = match self.span(at) {
                Ok(span) => {
                    bytes = span;
                    bytes.get(to_range(from, to)).unwrap_or_default()
                }
                Err(error) => {
                    alone = self.read_alone(error, offset, to - from)?;
                    &alone
                }
            };
            if piece.is_empty() {
                return Err(self.past_end(offset));
            }
            sink(done, piece)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads bytes of a span that cannot be read as a whole; `error` says why.
    fn read_alone(&self, error: Error, offset: u64, len_bytes: u64) -> Result<Vec<u8>> {
        let buffer = zeros(usize::try_from(len_bytes).unwrap_or(usize::MAX));
        if let Ok(mut bytes) = buffer
            && matches!(error, Error::Io { .. })
            && self.reader.read_alone(&mut bytes, offset)
        {
            return Ok(bytes);
        }
        Err(error)
    }

    fn span_at(&self, offset: u64) -> Result<(u32, Span)> {
        let index = self.reader.index();
        let found = index.span_at(offset).and_then(|at| Some((at, index.span(at)?)));
        found.ok_or_else(|| self.past_end(offset))
    }

    fn span(&self, at: u32) -> Result<CachedSpan> {
        let end = self.reader.remote().and_then(Remote::deadline);
        self.cache.get_or_decode((self.number, at), end, |buffer| self.reader.read_span(at, buffer))
    }

    /// Requests read-ahead of the spans that may follow span `at`, if its reader goes forward.
    fn guess(self: &Arc<Self>, at: u32) {
        let Some(read_ahead) = &self.read_ahead else { return };
        if self.last_span.swap(at, Ordering::Relaxed) == at {
            return;
        }
        let depth = Depth { spans: u32::try_from(read_ahead.depth()).unwrap_or(u32::MAX), batch: 1 };
        let Prediction { ahead, passed } =
            self.streams.lock().unwrap_or_else(PoisonError::into_inner).reached(at, |_| depth);
        passed.for_each(|span| self.pass(span));
        let end = ahead.end.min(self.reader.index().span_count());
        self.request_ahead(at);
        let wanted = (ahead.start..end).filter(|span| !self.has(*span) && self.requests.is_visible(*span));
        wanted.for_each(|span| read_ahead.hint(self, span));
    }

    /// Returns whether [`LayerBytes::name_visible`] should be called.
    pub(crate) fn asks_for_visible(&self) -> bool {
        self.requests.asks()
    }

    /// Names the spans with parts of visible files, so that no others are requested ahead of a reader of the
    /// tree.
    pub(crate) fn name_visible(&self, spans: BTreeSet<u32>) {
        self.requests.name_visible(spans.into_iter().collect());
    }

    /// Returns the spans of an extent; none if the extent is empty or ends outside the layer.
    pub(crate) fn spans_of(&self, extent: Extent) -> Range<u32> {
        let index = self.reader.index();
        let last =
            extent.len_bytes.checked_sub(1).and_then(|len| index.span_at(extent.offset.checked_add(len)?));
        match (index.span_at(extent.offset), last) {
            (Some(first), Some(last)) => first..last.saturating_add(1),
            _ => 0..0,
        }
    }

    /// Announces to a remote source the spans that may follow span `at`.
    fn request_ahead(&self, at: u32) {
        let Some(remote) = self.reader.remote() else { return };
        let index = self.reader.index();
        let spans = u64::from(index.span_count());
        let stored_bytes = index.facts().blob_bytes;
        let depth = |run: u32| {
            let read_bytes = u64::from(run).saturating_mul(stored_bytes) / spans.max(1);
            let ahead = remote.ahead_bytes(read_bytes).saturating_mul(spans) / stored_bytes.max(1);
            let ahead = u32::try_from(ahead).unwrap_or(u32::MAX).max(1);
            Depth { spans: ahead, batch: ahead / REQUESTS_AHEAD }
        };
        let ahead = self.requests.reached(at, depth).into_iter().filter(|span| *span < index.span_count());
        let mut run: Option<Range<u64>> = None;
        for range in ahead.filter(|span| !self.has(*span)).filter_map(|at| self.announced(at)) {
            match &mut run {
                // Spans that follow each other share the byte in which one ends and the next begins.
                Some(run) if range.start <= run.end => run.end = run.end.max(range.end),
                _ => run.replace(range).into_iter().for_each(|done| remote.prepare(done)),
            }
        }
        run.into_iter().for_each(|done| remote.prepare(done));
    }

    /// Returns the stored bytes of a span that are worth requesting ahead. `None` if the span is read from
    /// the seekable copy, or if decoding begins so far before it that most of the bytes are not needed.
    fn announced(&self, at: u32) -> Option<Range<u64>> {
        let range = self.reader.stored_range(at);
        let len_bytes = range.end.saturating_sub(range.start);
        (1..=MAX_ANNOUNCED_BYTES).contains(&len_bytes).then_some(range)
    }

    /// Decodes a span into the cache in advance.
    fn decode_ahead(&self, at: u32) {
        let len_bytes = self.reader.index().span(at).map(|span| usize::try_from(span.extent.len_bytes));
        if let Some(Ok(len_bytes)) = len_bytes {
            self.cache.decode_ahead((self.number, at), len_bytes, |buffer| self.reader.read_span(at, buffer));
        }
    }

    fn has(&self, at: u32) -> bool {
        self.cache.has((self.number, at))
    }

    fn pass(&self, at: u32) {
        self.cache.pass((self.number, at));
    }

    fn past_end(&self, offset: u64) -> Error {
        let cause = io::ErrorKind::UnexpectedEof.into();
        StreamFault::io_at("cannot read", offset, cause).of(self.reader.what())
    }
}

/// Returns the stored parts of a file: the offset in the file, and the extent in the tar.
fn stored_extents(file: FileData<'_>) -> impl Iterator<Item = (u64, Extent)> {
    let (whole, parts) = match file.stored {
        Stored::Contiguous(extent) => (Some((0, extent)), None),
        Stored::Sparse(segments) => (None, Some(segments.iter_from(0))),
    };
    let parts = parts.into_iter().flatten().map(|segment| (segment.file_offset, segment.extent));
    whole.into_iter().chain(parts)
}

fn to_range(start: u64, end: u64) -> Range<usize> {
    // Both are offsets within a buffer, so they fit.
    usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX)
}

/// The uncompressed tar as a [`ReadAt`], on which other readers can be stacked: a compressed archive whose
/// members are layers.
#[derive(Debug)]
pub(crate) struct TarBytes(pub Arc<LayerBytes>);

impl ReadAt for TarBytes {
    fn len(&self) -> u64 {
        self.0.reader().index().facts().tar_bytes
    }

    fn may_wait(&self) -> bool {
        self.0.reader().may_wait()
    }

    fn unpacked_from(&self) -> Option<u64> {
        Some(self.0.reader().index().facts().blob_bytes)
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
