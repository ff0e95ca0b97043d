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
use crate::limits::Bound;
use crate::warning::WarningKind;

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

/// Returns an error if `value` is above its limit.
fn check_limit(bound: Bound, value: u64) -> Result<(), Fault> {
    if value > bound.max {
        return Err(Fault::Limit { limit: bound.name, value, max: bound.max });
    }
    Ok(())
}
