//! Faults of a byte stream, found by code that does not know whose stream it is.

use std::io;

use super::{EntryName, Error, Subject};

/// The result of decoding, parsing or indexing a byte stream.
pub(crate) type StreamResult<T, E = StreamFault> = std::result::Result<T, E>;

/// Why a byte stream cannot be decoded, parsed or indexed. [`StreamFault::of`] names the stream and makes
/// an [`Error`] of the fault.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamFault {
    /// The operating system refused.
    #[error("{action} the stream{}: {cause}", super::at(*.offset))]
    Io {
        /// The failed action, ready for the stream's name to follow: `cannot read`.
        action: &'static str,
        /// Offset of the failed action in the stream, in bytes.
        offset: Option<u64>,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// A tar that breaks its format.
    #[error("{entry}: {reason}")]
    Tar {
        /// The entry.
        entry: EntryName,
        /// What is wrong.
        reason: String,
    },
    /// Compressed data that breaks its format.
    #[error("damaged {format} data at compressed offset {offset}: {reason}")]
    Decompress {
        /// `gzip`, `zstd`, `xz` or `bzip2`.
        format: &'static str,
        /// Offset in the compressed bytes.
        offset: u64,
        /// What the decoder reports.
        reason: String,
    },
    /// The stream exceeds a limit.
    #[error("{}{value} exceeds the limit {limit} ({max})", prefix(.entry))]
    Limit {
        /// The tar entry that exceeds it; `None` where the limit is on the whole stream.
        entry: Option<EntryName>,
        /// The limit's name.
        limit: &'static str,
        /// The value found.
        value: u64,
        /// The largest value allowed.
        max: u64,
    },
}

impl StreamFault {
    /// A refusal of the operating system. The stream's name follows `action` in the message.
    pub(crate) fn io(action: &'static str, cause: io::Error) -> Self {
        StreamFault::Io { action, offset: None, cause }
    }

    /// As [`StreamFault::io`], at an offset in bytes.
    pub(crate) fn io_at(action: &'static str, offset: u64, cause: io::Error) -> Self {
        StreamFault::Io { action, offset: Some(offset), cause }
    }

    /// The error that this fault is when the stream is `subject`'s.
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
