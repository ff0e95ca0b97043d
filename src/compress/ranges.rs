//! Stored bytes on their way to a decoder, requested range by range.
//!
//! Owns how much is requested at once: a reader that announces what it needs gets it from one stream,
//! which a remote source serves with one request.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use super::input::{BUFFER_BYTES, Chunks, read_chunk};
use crate::read_at::ReadAt;

/// The bytes of `bytes` from an offset on.
pub(super) struct Ranges {
    bytes: Arc<dyn ReadAt>,
    /// The range that is being read; `None` before the first and between ranges.
    stream: Option<Box<dyn Read + Send>>,
    /// Offset of the next byte.
    offset: u64,
    /// Where the range that is being read ends.
    stream_end: u64,
    expected_end: u64,
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranges").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Ranges {
    /// Begins at `offset`; input up to `expected_end` will be needed.
    pub(super) fn new(bytes: Arc<dyn ReadAt>, offset: u64, expected_end: u64) -> Self {
        Ranges { bytes, stream: None, offset, stream_end: offset, expected_end }
    }

    /// Opens the next range; false at the end of the bytes. A decoder that needs more than it
    /// announced gets a buffer's worth.
    fn open(&mut self) -> bool {
        let unexpected_end = self.offset.saturating_add(BUFFER_BYTES as u64);
        let end = if self.expected_end > self.offset { self.expected_end } else { unexpected_end };
        self.stream_end = end.min(self.bytes.len());
        if self.stream_end <= self.offset {
            return false;
        }
        self.stream = Some(Arc::clone(&self.bytes).stream(self.offset..self.stream_end));
        true
    }
}

impl Chunks for Ranges {
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        chunk.clear();
        if self.stream.is_none() && !self.open() {
            return Ok(());
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let left = self.stream_end.saturating_sub(self.offset);
        let len = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        let read = read_chunk(stream, chunk, len);
        if read.is_err() || chunk.is_empty() {
            // The call may be repeated: with a stream of its own.
            self.stream = None;
            return read.and(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.offset = self.offset.saturating_add(chunk.len() as u64);
        if self.offset >= self.stream_end {
            self.stream = None;
        }
        Ok(())
    }

    fn expect_until(&mut self, end: u64) {
        self.expected_end = end;
    }
}
