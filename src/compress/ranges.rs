//! Stored bytes as the input of a decoder, requested in ranges.
//!
//! This module owns the size of a request: a reader that announces how much it needs gets it from one stream,
//! which a remote source serves with one request.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use super::input::{BUFFER_BYTES, Chunks, read_chunk};
use crate::read_at::ReadAt;

/// Reads stored bytes from an offset onwards.
pub(super) struct Ranges {
    bytes: Arc<dyn ReadAt>,
    /// The range that is being read; `None` before the first range and between ranges.
    stream: Option<Box<dyn Read + Send>>,
    /// Offset of the next byte.
    offset: u64,
    /// End of the range that is being read.
    stream_end: u64,
    expected_end: u64,
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranges").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Ranges {
    /// Creates an input that begins at `offset`; bytes up to `expected_end` will be needed.
    pub(super) fn new(bytes: Arc<dyn ReadAt>, offset: u64, expected_end: u64) -> Self {
        Ranges { bytes, stream: None, offset, stream_end: offset, expected_end }
    }

    /// Opens the next range and returns true; returns false at the end of the bytes. If the decoder needs
    /// more than it announced, the range has the size of a buffer.
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
            // The caller may repeat a failed call, which then needs a new stream.
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
