//! How much the compressed layers of one image may grow while they are read for the first time.
//!
//! Eight kilobytes of bzip2 can expand to gigabytes, and a window of 128 MiB lets a layer repeat megabytes that
//! no separate frame of its seekable copy can compress. A limit for each layer would not help against an image of
//! thousands of layers, so all passes over the layers of an image count together. This module owns the two
//! counts. It does not know layers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{StreamFault, StreamResult};
use crate::limits::Limits;

/// Compressed layers may always grow to this multiple of their stored size. gzip cannot exceed 1,032 (RFC 1951:
/// 258 bytes in two bits), so no layer of gzip is refused. bzip2, the slowest format, takes 25 seconds for 10 MB.
const MAX_GROWTH_RATIO: u64 = 1100;
/// Length in bytes to which the seekable copies of an image may always grow.
const MAX_COPY_BYTES: u64 = 1 << 30;
/// Seekable copies may always grow to this multiple of the stored size of the layers. Copies of real layers are up to
/// three times as large. A layer past both limits gets no copy, so that reading it at random takes longer.
const MAX_COPY_RATIO: u64 = 16;

/// The growth of the compressed layers of an image.
#[derive(Debug)]
pub(crate) struct Growth {
    stored_bytes: u64,
    limits: Limits,
    unpacked_bytes: AtomicU64,
    copied_bytes: AtomicU64,
}

impl Growth {
    /// Begins the counts for layers that take `stored_bytes` bytes in all. For layers in an archive that is
    /// compressed as a whole, that is the length of the archive's file.
    #[must_use]
    pub(crate) fn new(stored_bytes: u64, limits: Limits) -> Self {
        Growth { stored_bytes, limits, unpacked_bytes: AtomicU64::new(0), copied_bytes: AtomicU64::new(0) }
    }

    /// Returns the limits of the image.
    #[must_use]
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts bytes that a compressed layer was decoded to.
    ///
    /// # Errors
    /// [`StreamFault::Limit`] when all layers together grew too much.
    pub(crate) fn unpack(&self, len_bytes: u64) -> StreamResult<()> {
        let total = add(&self.unpacked_bytes, len_bytes);
        let bound = self.limits.unpacked_bytes();
        if total > bound.max.max(self.stored_bytes.saturating_mul(MAX_GROWTH_RATIO)) {
            return Err(StreamFault::over(bound, total));
        }
        Ok(())
    }

    /// Counts bytes that are to be written to seekable copies.
    ///
    /// # Errors
    /// [`StreamFault::Limit`] when all copies together become too large.
    pub(crate) fn copy(&self, len_bytes: u64) -> StreamResult<()> {
        let value = add(&self.copied_bytes, len_bytes);
        let max = MAX_COPY_BYTES.max(self.stored_bytes.saturating_mul(MAX_COPY_RATIO));
        if value > max {
            return Err(StreamFault::Limit { entry: None, limit: "MAX_COPY_BYTES", value, max });
        }
        Ok(())
    }
}

fn add(count: &AtomicU64, len_bytes: u64) -> u64 {
    count.fetch_add(len_bytes, Ordering::Relaxed).saturating_add(len_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x9_the_growth_of_all_layers_together_is_limited_past_a_length_that_is_free() {
        let growth = |stored_bytes| Growth::new(stored_bytes, Limits::default());
        let step = 1 << 20;
        let first_refused = |growth: &Growth, count: &dyn Fn(&Growth) -> StreamResult<()>| {
            (1_u64..).find_map(|steps| Some((steps * step, count(growth).err()?.to_string())))
        };
        let unpack: &dyn Fn(&Growth) -> _ = &|growth| growth.unpack(step);
        let copy: &dyn Fn(&Growth) -> _ = &|growth| growth.copy(step);
        // 8 KiB of bzip2 grew to 8 GiB.
        let (len, error) = first_refused(&growth(8 << 10), unpack).unwrap();
        let expected = "4296015872 exceeds the limit unpacked-bytes (4294967296)";
        assert_eq!((len, error.as_str()), ((4 << 30) + step, expected));
        // Layers of gzip cannot exceed the limit, however large they are.
        let gzip = growth(100 << 20);
        assert!((0..100 << 10).all(|_| gzip.unpack(1032 << 10).is_ok()));
        // 8.7 MB of zstd wrote 3 GB of copies.
        let (len, error) = first_refused(&growth(8_700_000), copy).unwrap();
        let expected = "1074790400 exceeds the limit MAX_COPY_BYTES (1073741824)";
        assert_eq!((len, error.as_str()), ((1 << 30) + step, expected));
        let (len, _) = first_refused(&growth(1 << 30), copy).unwrap();
        assert_eq!(len, (16 << 30) + step);
    }
}
