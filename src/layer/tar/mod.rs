//! A tar stream as a state machine: bytes in, entries out, no I/O.
//!
//! This module owns which headers are legal, which of PAX, GNU and ustar wins, how far a payload
//! reaches, and how much an archive may make us keep. It does not know where the bytes come from,
//! what a name means (whiteouts, `..`), or other layers.
//!
//! Two programs that disagree on where a payload ends see two different images (docs/security.md X4). So a
//! stream is read as Go's `archive/tar` reads it, which is what every container engine uses, and
//! where a stream could be read in two ways, it is refused.
//!
//! | part | decides |
//! |---|---|
//! | `header` | one block: checksum, format, fields |
//! | `pax` | the records of an extended header |
//! | `sparse` | maps of sparse files |
//! | `member` | a header with its extensions laid over it |
//! | `parser` | the order of blocks, and the end |
//! | `emit` | where a member's payload is, and handing it out |

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod emit;
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

/// Go's `archive/tar` stops at 1 MiB as well; the kernel takes no path above 4 KiB and no extended
/// attribute above 64 KiB.
pub(crate) const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// A map of 1 Mi runs takes 24 MiB of memory; sparse files in images have a handful.
pub(crate) const MAX_SPARSE_SEGMENTS: u64 = 1 << 20;

/// Large images hold a million; the number of an entry has 32 bits.
pub(crate) const MAX_ENTRIES: u64 = 16 << 20;

/// Metadata is all that is kept of a stream, and a small compressed layer can hold any amount of it.
/// Large images have some ten megabytes.
pub(crate) const MAX_METADATA_BYTES: u64 = 1 << 30;

/// The most that one tar stream may make a reader keep. Exceeding one is [`StreamFault::Limit`], which
/// carries the field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes in the body of one extension header, PAX or GNU.
    pub max_extension_bytes: u64,
    /// Runs in the map of one sparse file.
    pub max_sparse_segments: u64,
    /// Members in the stream, those that are left out included.
    pub max_entries: u64,
    /// Bytes of names, link targets, extended attributes and sparse maps in the whole stream.
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

/// Where a [`TarParser`] puts what it finds.
pub(crate) trait Sink {
    /// A member, as soon as its headers were read: its payload may still turn out to be missing.
    ///
    /// # Errors
    /// Whatever the sink likes; it ends the parsing.
    fn entry(&mut self, entry: Entry<'_>) -> Result<()>;

    /// Something odd about the member of this name (bytes, as they stand in the tar).
    fn warning(&mut self, kind: WarningKind, name: &[u8]);
}

/// Why a step cannot be taken; `TarParser::error` adds the member it is about.
#[derive(Debug)]
enum Fault {
    Malformed(String),
    Limit {
        limit: &'static str,
        value: u64,
        max: u64,
    },
    /// The sink wants no more.
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

/// Refuses `value` above `max`.
fn check_limit(limit: &'static str, value: u64, max: u64) -> Result<(), Fault> {
    if value > max {
        return Err(Fault::Limit { limit, value, max });
    }
    Ok(())
}
