//! Reuses the memory of spans that are no longer read.
//!
//! New memory has to be mapped and cleared by the kernel, page by page; memory that was just read is still in
//! the processor's cache. This module owns how much memory is kept. It does not know what the buffers hold.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// Maximum memory of idle buffers, in bytes: as much as a few threads decode at a time.
const IDLE_MAX_BYTES: usize = 16 << 20;
/// Maximum length of a buffer that is kept, in bytes. A buffer that grew for one long span is freed.
const BUFFER_MAX_BYTES: usize = 2 << 20;

/// Idle buffers.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    /// Returns a buffer with arbitrary old content; empty if none is idle.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one used is the most likely to be in the processor's cache.
        let buffer = idle.buffers.pop().unwrap_or_default();
        idle.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps a buffer for reuse, within the limits.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if capacity > 0 && capacity <= BUFFER_MAX_BYTES && idle.bytes + capacity <= IDLE_MAX_BYTES {
            idle.bytes += capacity;
            idle.buffers.push(buffer);
        }
    }
}

/// The bytes of a span. Their memory is reused when the last reader has dropped them.
#[derive(Debug)]
pub(crate) struct SpanBytes {
    bytes: Vec<u8>,
    buffers: Arc<Buffers>,
}

impl SpanBytes {
    pub(super) fn new(bytes: Vec<u8>, buffers: Arc<Buffers>) -> Self {
        SpanBytes { bytes, buffers }
    }

    /// Returns the memory of the buffer in bytes, which can be more than its length.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Deref for SpanBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for SpanBytes {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_read_no_more_is_used_again_and_what_is_kept_is_bounded() {
        let buffers = Arc::new(Buffers::default());
        let span = SpanBytes::new(vec![7; 1000], buffers.clone());
        let memory = span.as_ptr();
        drop(span);
        let again = buffers.take();
        assert_eq!(again.as_ptr(), memory);
        let many: Vec<_> = (0..40).map(|_| SpanBytes::new(vec![0; 1 << 20], buffers.clone())).collect();
        drop(many);
        drop(SpanBytes::new(vec![0; BUFFER_MAX_BYTES + 1], buffers.clone()));
        let idle = buffers.0.lock().unwrap();
        assert_eq!((idle.buffers.len(), idle.bytes), (16, IDLE_MAX_BYTES));
    }
}
