//! Reads without waiting for a slow source, for threads that serve other requests, too.
//!
//! This module owns when a span is available at once. It does not know the requests. A span whose stored bytes
//! are here can still need the source: its bytes are wrong, or another thread that decodes it waits. So the
//! work is done without waiting, and a failure means that it must be done again with time for it.

use std::sync::Arc;

use super::LayerBytes;
use super::cache::CachedSpan;
use crate::error::{Error, Result};
use crate::layer::entry::FileData;
use crate::waiting;

impl LayerBytes {
    /// Reads as [`LayerBytes::read_file`], but returns `None` instead of waiting for a slow source.
    ///
    /// # Errors
    /// As [`LayerBytes::read_exact`].
    pub(crate) fn read_file_if_ready(
        self: &Arc<Self>,
        file: &FileData<'_>,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>> {
        if !self.reader.may_wait() {
            return self.read_file(file, buf, offset).map(Some);
        }
        let read = |buf: &mut [u8], offset| self.read_exact_by(|at| self.span_if_ready(at), buf, offset);
        match waiting::never(|| self.read_file_by(read, file, buf, offset)) {
            Ok(len) => Ok(Some(len)),
            Err(Unready) => Ok(None),
        }
    }

    /// Returns the span, or [`Unready`] if getting it may take long.
    fn span_if_ready(&self, at: u32) -> Result<CachedSpan, Unready> {
        match self.cache.ready((self.number, at)) {
            Some(bytes) => Ok(bytes),
            // Another thread decodes the span, so decoding it here as well would only take time.
            None if self.has(at) || self.reader.span_may_wait(at) => Err(Unready),
            None => Ok(self.span(at)?),
        }
    }
}

/// A span cannot be returned at once.
struct Unready;

impl From<Error> for Unready {
    fn from(_: Error) -> Self {
        Unready
    }
}
