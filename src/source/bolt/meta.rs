//! The two meta pages of a database, of which the newer valid one is in force.
//!
//! This module reads bytes. It must not know files or buckets.

use super::page::{HEADER_BYTES, u16_at, u32_at, u64_at};
use crate::error::{Error, Result, Subject};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The flag of a meta page.
const FLAG: u16 = 0x04;
/// The smallest and the largest size of a page in bytes. bbolt takes the size of the machine's pages.
const MIN_PAGE_BYTES: u32 = 1 << 10;
/// The largest page in bytes: bbolt uses the page size of the host, which Linux limits to 64 KiB.
const MAX_PAGE_BYTES: u32 = 64 << 10;
/// Length of the fields of a meta page in bytes, without the checksum.
const FIELDS_BYTES: usize = 56;
/// Length in bytes of the beginning of a database that contains both meta pages.
pub(super) const BOTH_BYTES: usize = MAX_PAGE_BYTES as usize + HEADER_BYTES + FIELDS_BYTES + 8;

/// A valid meta page: the root of a database as of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Size of a page in bytes.
    pub(super) page_size: u32,
    /// The page of the root bucket.
    pub(super) root: u64,
    /// The first page that is not part of the database.
    pub(super) end: u64,
    /// Number of the transaction that wrote the page.
    pub(super) transaction: u64,
}

/// Returns the meta pages that are valid. `head` is the beginning of a database, at most [`BOTH_BYTES`] of it
/// are read.
pub(super) fn both(head: &[u8]) -> [Option<Meta>; 2] {
    let first = parse(head);
    let second_at = |size: u32| {
        let page = usize::try_from(size).ok().and_then(|size| head.get(size..));
        page.and_then(parse).filter(|meta| meta.page_size == size)
    };
    let second = match first {
        Some(first) => second_at(first.page_size),
        // The size of the pages is not known, so the second meta page is searched.
        None => (0..7).map(|shift| MIN_PAGE_BYTES << shift).find_map(second_at),
    };
    [first, second]
}

/// Returns the meta page in force.
///
/// # Errors
/// [`Error::Malformed`] when no meta page is valid, [`Error::Unsupported`] when `head`, the beginning of the
/// database, names another version or byte order.
pub(super) fn current(what: &Subject, both: &[Option<Meta>; 2], head: &[u8]) -> Result<Meta> {
    let newest = both.iter().flatten().max_by_key(|meta| meta.transaction);
    newest.copied().ok_or_else(|| {
        let field = |at: usize| u32_at(head, HEADER_BYTES.saturating_add(at));
        match (field(0), field(4)) {
            (Some(magic), _) if magic == MAGIC.swap_bytes() => {
                Error::unsupported(what.clone(), "a bbolt database of a big-endian machine")
            }
            (Some(MAGIC), Some(version)) if version != VERSION => {
                let reason = format!("bbolt database version {version}; only version {VERSION} is supported");
                Error::unsupported(what.clone(), reason)
            }
            (Some(MAGIC), _) => {
                Error::malformed(what.clone(), "damaged database: both meta pages have a wrong checksum")
            }
            _ => Error::malformed(what.clone(), "not a bbolt database"),
        }
    })
}

fn parse(page: &[u8]) -> Option<Meta> {
    let meta = page.get(HEADER_BYTES..)?;
    let is_meta = u16_at(page, 8)? & FLAG != 0 && u32_at(meta, 0)? == MAGIC && u32_at(meta, 4)? == VERSION;
    let fields = meta.get(..FIELDS_BYTES)?;
    if !is_meta || u64_at(meta, FIELDS_BYTES)? != fnv_1a(fields) {
        return None;
    }
    let page_size = u32_at(meta, 8)?;
    let is_size = page_size.is_power_of_two() && (MIN_PAGE_BYTES..=MAX_PAGE_BYTES).contains(&page_size);
    is_size.then_some(Meta {
        page_size,
        root: u64_at(meta, 16)?,
        end: u64_at(meta, 40)?,
        transaction: u64_at(meta, 48)?,
    })
}

/// Returns the 64-bit FNV-1a hash of `bytes`, which Go calls `fnv.New64a`.
pub(in crate::source) fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_reference() {
        // Source: the test vectors of draft-eastlake-fnv.
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
