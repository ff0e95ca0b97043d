//! The table of compressions: one row for each.
//!
//! This module owns the table. All properties of a compression are in a [`Format`], which its own file
//! defines. The rest of the program uses [`Compression`] and names no format. A new compression is a file
//! with a `Format` and a row in the table below.

use std::fmt;
use std::io::{self, Read};

use super::input::{Input, Look, Magic, look};
use super::{Quota, Resume, Step, bzip2, gzip, plain, xz, zstd};
use crate::error::StreamResult as Result;
use crate::read_at::ReadAt;

/// Defines [`Compression`] and its table. A row has the variant, its number in stored indexes, which must
/// never change, and its [`Format`].
macro_rules! table {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $format:path;)*) => {
        /// The compression of a stream.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Compression {
            $($(#[$doc])* $name = $code,)*
        }

        impl Compression {
            /// All compressions, in the order of the table.
            pub(crate) const ALL: &[Compression] = &[$(Compression::$name,)*];

            pub(super) const fn format(self) -> &'static Format {
                match self {
                    $(Compression::$name => &$format,)*
                }
            }
        }
    };
}

table! {
    /// Not compressed.
    Plain = 0, plain::FORMAT;
    /// Gzip, RFC 1952.
    Gzip = 1, gzip::FORMAT;
    /// Zstandard, RFC 8878.
    Zstd = 2, zstd::FORMAT;
    /// xz: the .xz file format, version 1.2.
    Xz = 3, xz::FORMAT;
    /// bzip2.
    Bzip2 = 4, bzip2::FORMAT;
}

/// The properties of one compression.
pub(super) struct Format {
    /// Name in lower case, as errors and listings show it.
    pub(super) name: &'static str,
    /// The first bytes of a stream. No bytes match an empty magic.
    pub(super) magic: Magic,
    /// Suffixes that OCI and Docker append to the media type of a plain layer for this compression.
    pub(super) media_type_suffixes: &'static [&'static str],
    /// How often decoding can resume within a stream.
    pub(super) boundaries: Boundaries,
    /// Returns a decoder that resumes with the state of a checkpoint; the input is positioned at the
    /// checkpoint. Fails for a state that belongs to another format.
    pub(super) decoder: fn(&mut Input, &Resume) -> Result<Box<dyn FormatDecoder>>,
}

/// A decoder of one format.
pub(super) trait FormatDecoder: Send + fmt::Debug {
    /// Decodes from `input`, within `quota`, and appends to `out`.
    fn step(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step>;

    /// Returns the compressed offset and the state of the boundary just reached. The default is for formats
    /// whose boundaries are starts of frames.
    fn checkpoint(&self, input: &Input) -> (u64, Resume) {
        (input.offset(), Resume::Start)
    }

    /// Returns about how much memory the decoder holds, in bytes. The default is for formats that need little.
    fn memory_bytes(&self) -> usize {
        SMALL_DECODER_BYTES
    }
}

/// The memory of a decoder for plain data or gzip, in bytes: a window of 32 KiB and tables.
const SMALL_DECODER_BYTES: usize = 128 << 10;

/// How often decoding can resume within a stream of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundaries {
    /// At every byte.
    Everywhere,
    /// Often: deflate blocks are short.
    Frequent,
    /// Only where a frame, block or stream ends, which may not happen before the end.
    Rare,
}

impl Compression {
    /// Number of bytes at the beginning of a stream that identify every compression.
    pub(crate) const HEAD_BYTES: usize = longest_magic();

    /// Detects the compression of `bytes` from their beginning. Reads at most [`Compression::HEAD_BYTES`]
    /// bytes. Unknown bytes are plain.
    ///
    /// # Errors
    /// As [`ReadAt::read_exact_at`].
    pub(crate) fn detect(bytes: &dyn ReadAt) -> io::Result<Self> {
        let mut head = [0; Compression::HEAD_BYTES];
        let len = usize::try_from(bytes.len()).map_or(head.len(), |len| len.min(head.len()));
        let head = head.get_mut(..len).unwrap_or_default();
        bytes.read_exact_at(head, 0)?;
        Ok(Compression::detect_head(head))
    }

    /// Detects the compression of the bytes in `stream`. The returned stream begins at the same byte.
    ///
    /// # Errors
    /// When `stream` cannot be read.
    pub(crate) fn detect_stream(
        mut stream: Box<dyn Read + Send>,
    ) -> io::Result<(Self, Box<dyn Read + Send>)> {
        let mut head = Vec::with_capacity(Compression::HEAD_BYTES);
        stream.by_ref().take(Compression::HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok((Compression::detect_head(&head), Box::new(io::Cursor::new(head).chain(stream))))
    }

    /// Detects the compression of bytes that begin with `head`: [`Compression::HEAD_BYTES`] bytes, or all
    /// bytes if there are fewer. Unknown bytes are plain.
    #[must_use]
    pub(crate) fn detect_head(head: &[u8]) -> Self {
        let begins = |compression: &Compression| look(head, compression.format().magic) == Look::Begins;
        Compression::ALL.iter().copied().find(begins).unwrap_or(Compression::Plain)
    }

    /// Returns the compression for `suffix`, the part of a layer's media type after the media type of a plain
    /// layer; `None` for other suffixes.
    #[must_use]
    pub(crate) fn from_media_type_suffix(suffix: &str) -> Option<Self> {
        let claims = |compression: &Compression| compression.format().media_type_suffixes.contains(&suffix);
        Compression::ALL.iter().copied().find(claims)
    }

    /// Returns the number of this compression in stored indexes.
    #[must_use]
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// Returns the compression with this number in stored indexes.
    #[must_use]
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Compression::ALL.iter().copied().find(|compression| compression.code() == code)
    }

    /// Returns the name in lower case, as errors and listings show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// Returns how often decoding can resume within a stream of this compression.
    #[must_use]
    pub(crate) fn boundaries(self) -> Boundaries {
        self.format().boundaries
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "iterators do not run at compile time; a mistake here does not compile"
)]
const fn longest_magic() -> usize {
    let mut longest = 0;
    let mut row = 0;
    while row < Compression::ALL.len() {
        let magic = Compression::ALL[row].format().magic;
        let mut pattern = 0;
        while pattern < magic.len() {
            if magic[pattern].len() > longest {
                longest = magic[pattern].len();
            }
            pattern += 1;
        }
        row += 1;
    }
    longest
}
