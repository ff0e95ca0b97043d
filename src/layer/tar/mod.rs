//! A parser for tar streams: a state machine from bytes to entries, without I/O; and an encoder of headers.
//!
//! This module owns which headers are legal, the precedence of PAX, GNU and ustar, where a payload ends, and
//! how much memory an archive may use. It must not know where the bytes come from, what a name means
//! (whiteouts, `..`), or other layers.
//!
//! Two programs that disagree on where a payload ends see two different images (docs/security.md X4). So a
//! stream is read as Go's `archive/tar` reads it, which every container engine uses, and a stream that could
//! be read in two ways is refused.
//!
//! | part | decides |
//! |---|---|
//! | `header` | one block: checksum, format, fields |
//! | `pax` | the records of an extended header |
//! | `sparse` | maps of sparse files |
//! | `member` | a header combined with its extension headers |
//! | `parser` | the order of blocks, and the end |
//! | `emit` | where a member's payload is, and when its entry is emitted |
//!
//! `encode` does the reverse: it writes the header of a member. All tars that this program makes come from it.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod emit;
#[allow(
    clippy::arithmetic_side_effects,
    reason = "it adds lengths of names and positions in files, which are far below 2^64"
)]
pub(crate) mod encode;
mod header;
mod member;
mod parser;
mod pax;
mod sparse;

#[cfg(test)]
mod tests;

pub(crate) use parser::TarParser;

use crate::error::{StreamFault, StreamResult as Result};
use crate::layer::entry::Entry;
use crate::warning::WarningKind;

/// The default of [`Limits::max_extension_bytes`]: 1 MiB, as in Go's `archive/tar`. The kernel accepts no
/// path above 4 KiB and no extended attribute above 64 KiB.
pub(crate) const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// The default of [`Limits::max_sparse_segments`]. A map of 1 Mi runs takes 24 MiB of memory; sparse files in
/// images have a handful.
pub(crate) const MAX_SPARSE_SEGMENTS: u64 = 1 << 20;

/// The default of [`Limits::max_entries`]. Large images have a million entries; the number of an entry has 32
/// bits.
pub(crate) const MAX_ENTRIES: u64 = 16 << 20;

/// The default of [`Limits::max_metadata_bytes`]. Metadata is all that is kept of a stream, and a small
/// compressed layer can contain any amount of it. Large images have some ten megabytes.
pub(crate) const MAX_METADATA_BYTES: u64 = 1 << 30;

/// The limits on the memory that one tar stream may use. Exceeding one is [`StreamFault::Limit`], which
/// carries the name of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Length of the body of one extension header, PAX or GNU, in bytes.
    pub max_extension_bytes: u64,
    /// Number of runs in the map of one sparse file.
    pub max_sparse_segments: u64,
    /// Number of members in the stream, including those that are left out.
    pub max_entries: u64,
    /// Total length of names, link targets, extended attributes and sparse maps in the whole stream, in
    /// bytes.
    pub max_metadata_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_extension_bytes: MAX_EXTENSION_BYTES,
            max_sparse_segments: MAX_SPARSE_SEGMENTS,
            max_entries: MAX_ENTRIES,
            max_metadata_bytes: MAX_METADATA_BYTES,
        }
    }
}

/// Receives the entries and warnings of a [`TarParser`].
pub(crate) trait Sink {
    /// Receives a member as soon as its headers were read. Its payload may still turn out to be missing.
    ///
    /// # Errors
    /// Any error of the sink; it ends the parsing.
    fn entry(&mut self, entry: Entry<'_>) -> Result<()>;

    /// Receives a warning about the member `name` (bytes, as the tar writes it).
    fn warning(&mut self, kind: WarningKind, name: &[u8]);
}

/// Why parsing cannot continue; `TarParser::error` adds the member.
#[derive(Debug)]
enum Fault {
    Malformed(String),
    Limit {
        limit: &'static str,
        value: u64,
        max: u64,
    },
    /// The sink returned an error.
    Sink(StreamFault),
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Fault::Malformed(reason.to_owned())
    }
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Fault::Malformed(reason)
    }
}

/// Returns an error if `value` is above `max`.
fn check_limit(limit: &'static str, value: u64, max: u64) -> Result<(), Fault> {
    if value > max {
        return Err(Fault::Limit { limit, value, max });
    }
    Ok(())
}
