//! Which ranges of a blob to request.
//!
//! Pure. This module owns the size of a block, which ranges one request covers, and how far a sequential
//! reader is read ahead. It does not know where blocks are kept or how they are requested.

use std::ops::Range;
use std::time::Duration;

/// Size of a block, the unit in which a blob is cached, in bytes. Only the last block of a blob is shorter.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// Longest run of blocks that are not needed within a request, in bytes. On a link of 100 Mbit/s it takes 10
/// ms, less than the round trip of a second request.
const MAX_GAP_BYTES: u64 = 128 << 10;
/// Maximum length of a request in bytes: long enough that the round trip costs little, short enough that
/// several requests share a link.
pub(super) const MAX_REQUEST_BYTES: u64 = 4 << 20;
/// Limits on the bytes that are requested ahead of one sequential reader. Less would leave a fast link idle;
/// more would take memory and time for bytes that nobody may read.
const AHEAD_BYTES: Range<u64> = (2 << 20)..(16 << 20);
/// Limit on the bytes that are requested ahead of a reader that has read as many, if they are kept on disk.
const FAR_AHEAD_BYTES: u64 = 64 << 20;

/// Returns the blocks that hold `bytes`.
pub(super) fn blocks(bytes: &Range<u64>) -> Range<u64> {
    if bytes.is_empty() {
        return 0..0;
    }
    bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES)
}

/// Returns the bytes of block `block` in a blob of `blob_bytes` bytes.
pub(super) fn bytes_of(block: u64, blob_bytes: u64) -> Range<u64> {
    let start = block.saturating_mul(BLOCK_BYTES).min(blob_bytes);
    start..start.saturating_add(BLOCK_BYTES).min(blob_bytes)
}

/// Returns the requests, as ranges of bytes in ascending order, that bring those blocks of `wanted` for
/// which `needed` is true. Each begins and ends at a block that is needed. Blocks in short gaps between two
/// of them are requested again.
pub(super) fn requests(
    wanted: &Range<u64>,
    blob_bytes: u64,
    needed: impl Fn(u64) -> bool,
) -> Vec<Range<u64>> {
    let wanted = wanted.start..wanted.end.min(blob_bytes);
    let mut planned: Vec<Range<u64>> = Vec::new();
    for block in blocks(&wanted).filter(|block| needed(*block)) {
        let bytes = bytes_of(block, blob_bytes);
        match planned.last_mut() {
            Some(last)
                if bytes.start.saturating_sub(last.end) <= MAX_GAP_BYTES
                    && bytes.end.saturating_sub(last.start) <= MAX_REQUEST_BYTES =>
            {
                last.end = bytes.end;
            }
            _ => planned.push(bytes),
        }
    }
    planned
}

/// Returns the end of the run of needed blocks that begins with the block at `start`, an offset in bytes.
/// Short gaps are part of the run.
pub(super) fn run_end(start: u64, wanted_end: u64, blob_bytes: u64, needed: impl Fn(u64) -> bool) -> u64 {
    let mut end = start;
    for block in blocks(&(start..wanted_end.min(blob_bytes))) {
        let bytes = bytes_of(block, blob_bytes);
        if needed(block) {
            end = bytes.end;
        } else if bytes.end.saturating_sub(end) > MAX_GAP_BYTES {
            break;
        }
    }
    end
}

/// Returns how many bytes to request ahead of a sequential reader: twice what is under way on a link of
/// `bytes_a_second` whose answers begin after `latency`.
pub(super) fn ahead_bytes(bytes_a_second: u64, latency: Duration) -> u64 {
    let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    let under_way = bytes_a_second.saturating_mul(latency_ms) / 1000;
    under_way.saturating_mul(2).clamp(AHEAD_BYTES.start, AHEAD_BYTES.end)
}

/// Returns how many bytes to request ahead of a sequential reader that has read `read_bytes`: at least
/// `link_bytes`, which keep the link busy, and as many as it has read. A reader of a tree goes forward in several
/// layers in turn. While it is in one of them, or needs the processor, the link brings those of the others; and
/// no more is requested for nothing than was read.
pub(super) fn far_ahead_bytes(link_bytes: u64, read_bytes: u64) -> u64 {
    link_bytes.max(read_bytes.min(FAR_AHEAD_BYTES))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of requests, some with one request")]
mod tests {
    use super::*;

    const B: u64 = BLOCK_BYTES;
    const BLOB: u64 = 1000 * B + 10;

    fn planned(wanted: Range<u64>, here: &[u64]) -> Vec<Range<u64>> {
        requests(&wanted, BLOB, |block| !here.contains(&block))
    }

    #[test]
    fn a_range_is_one_request_of_whole_blocks() {
        assert_eq!(planned(B + 1..3 * B + 1, &[]), [B..4 * B]);
        assert_eq!(planned(B..2 * B, &[]), [B..2 * B]);
        assert_eq!(planned(5..5, &[]), []);
    }

    #[test]
    fn the_last_block_ends_with_the_blob_and_nothing_follows() {
        assert_eq!(planned(1000 * B..2000 * B, &[]), [1000 * B..BLOB]);
        assert_eq!(planned(BLOB..BLOB + 1, &[]), []);
        assert_eq!(requests(&(0..100), 0, |_| true), []);
    }

    #[test]
    fn what_is_here_is_not_requested_at_the_edges() {
        assert_eq!(planned(0..5 * B, &[0, 1, 4]), [2 * B..4 * B]);
        assert_eq!(planned(0..3 * B, &[0, 1, 2]), []);
    }

    #[test]
    fn short_gaps_are_joined_and_long_ones_are_not() {
        assert_eq!(planned(0..5 * B, &[1, 2]), [0..5 * B]);
        assert_eq!(planned(0..5 * B, &[1, 2, 3]), [0..B, 4 * B..5 * B]);
    }

    #[test]
    fn a_long_range_is_cut() {
        let (end, cut) = (150 * B, MAX_REQUEST_BYTES);
        assert_eq!(planned(0..end, &[]), [0..cut, cut..2 * cut, 2 * cut..end]);
        // No cut makes a request of blocks in a gap alone.
        assert_eq!(planned(0..66 * B, &[63, 64]), [0..63 * B, 65 * B..66 * B]);
    }

    #[test]
    fn a_run_ends_where_enough_is_here() {
        let end = |start, here: &[u64]| run_end(start, BLOB, BLOB, |block| !here.contains(&block));
        assert_eq!(end(0, &[]), BLOB);
        assert_eq!(end(2 * B, &[5, 6]), BLOB);
        assert_eq!(end(2 * B, &[5, 6, 7]), 5 * B);
        assert_eq!(run_end(0, 3 * B, BLOB, |_| true), 3 * B);
    }

    #[test]
    fn read_ahead_follows_the_link_within_limits() {
        let ms = Duration::from_millis;
        assert_eq!(ahead_bytes(0, ms(100)), 2 << 20);
        assert_eq!(ahead_bytes(12_500_000, ms(1000)), 16 << 20);
        assert_eq!(ahead_bytes(12_500_000, ms(200)), 5_000_000);
        assert_eq!(ahead_bytes(u64::MAX, ms(u64::MAX)), 16 << 20);
    }

    #[test]
    fn read_ahead_grows_with_what_was_read() {
        assert_eq!(far_ahead_bytes(2 << 20, 1 << 20), 2 << 20);
        assert_eq!(far_ahead_bytes(2 << 20, 5 << 20), 5 << 20);
        assert_eq!(far_ahead_bytes(2 << 20, u64::MAX), 64 << 20);
    }
}
