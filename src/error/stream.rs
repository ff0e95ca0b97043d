//! Faults of a byte stream, reported by code that does not know the stream's name.

use std::io;

use super::{EntryName, Error, Subject};
use crate::limits::Bound;

/// The result of decoding, parsing or indexing a byte stream.
pub(crate) type StreamResult<T, E = StreamFault> = std::result::Result<T, E>;

/// Why a byte stream cannot be decoded, parsed or indexed. [`StreamFault::of`] adds the stream's name and
/// returns an [`Error`].
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamFault {
    /// An operation of the operating system failed.
    #[error("{action} the stream{}: {cause}", super::at(*.offset))]
    Io {
        /// The failed action, for example `cannot read`; the stream's name follows it in the message.
        action: &'static str,
        /// Offset of the failed action in the stream, in bytes.
        offset: Option<u64>,
        /// The error that the operating system returned.
        cause: io::Error,
    },
    /// A tar that violates its format.
    #[error("{entry}: {reason}")]
    Tar {
        /// The tar entry.
        entry: EntryName,
        /// How the format is violated.
        reason: String,
    },
    /// Compressed data that violates its format.
    #[error("damaged {format} data at compressed offset {offset}: {reason}")]
    Decompress {
        /// `gzip`, `zstd`, `xz` or `bzip2`.
        format: &'static str,
        /// Offset in the compressed bytes.
        offset: u64,
        /// The message of the decoder.
        reason: String,
    },
    /// The stream exceeds a limit.
    #[error("{}{value} exceeds the limit {limit} ({max})", prefix(.entry))]
    Limit {
        /// The tar entry that exceeds the limit; `None` if the limit applies to the whole stream.
        entry: Option<EntryName>,
        /// Name of the limit.
        limit: &'static str,
        /// The value found.
        value: u64,
        /// The largest value allowed.
        max: u64,
    },
}

impl StreamFault {
    /// Creates [`StreamFault::Io`]. In the message, the stream's name follows `action`.
    pub(crate) fn io(action: &'static str, cause: io::Error) -> Self {
        StreamFault::Io { action, offset: None, cause }
    }

    /// Creates [`StreamFault::Io`] as [`StreamFault::io`] does, with an offset in bytes.
    pub(crate) fn io_at(action: &'static str, offset: u64, cause: io::Error) -> Self {
        StreamFault::Io { action, offset: Some(offset), cause }
    }

    /// Creates [`StreamFault::Limit`] for a limit on the whole stream.
    pub(crate) fn over(bound: Bound, value: u64) -> Self {
        StreamFault::Limit { entry: None, limit: bound.name, value, max: bound.max }
    }

    /// Converts this fault into the [`Error`] of the stream named `subject`.
    #[must_use]
    pub(crate) fn of(self, subject: &Subject) -> Error {
        let subject = Box::new(subject.clone());
        match self {
            StreamFault::Io { action, offset, cause } => {
                Error::Io { action, subject: Some(subject), offset, cause }
            }
            StreamFault::Tar { entry, reason } => Error::Tar { subject, entry, reason },
            StreamFault::Decompress { format, offset, reason } => {
                Error::Decompress { subject, format, offset, reason }
            }
            StreamFault::Limit { entry, limit, value, max } => {
                let subject = match entry {
                    Some(entry) => Box::new(Subject::Entry { tar: subject, entry }),
                    None => subject,
                };
                Error::Limit { subject, limit, value, max }
            }
        }
    }
}

fn prefix(entry: &Option<EntryName>) -> String {
    entry.as_ref().map(|entry| format!("{entry}: ")).unwrap_or_default()
}
