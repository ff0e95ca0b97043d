//! The table of formats: one row for each compression.
//!
//! Everything that distinguishes one compression from another is in a [`Format`], which its own file
//! defines. The rest of the program asks [`Compression`] and names no format. Adding a compression
//! takes a file with a `Format` and a row in the table below.

use std::fmt;
use std::io::{self, Read};

use super::input::{Input, Look, Magic, look};
use super::{Quota, Resume, Step, bzip2, gzip, plain, xz, zstd};
use crate::error::StreamResult as Result;
use crate::read_at::ReadAt;

/// Defines [`Compression`] and its table. A row: the variant, its number in stored indexes, which must
/// never change, and its [`Format`].
macro_rules! table {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $format:path;)*) => {
        /// How a stream is compressed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Compression {
            $($(#[$doc])* $name = $code,)*
        }

        impl Compression {
            /// Every compression, in the order of the table.
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
    /// RFC 1952.
    Gzip = 1, gzip::FORMAT;
    /// RFC 8878.
    Zstd = 2, zstd::FORMAT;
    /// The .xz file format, version 1.2.
    Xz = 3, xz::FORMAT;
    /// bzip2.
    Bzip2 = 4, bzip2::FORMAT;
}

/// One compression: how to recognise it, how others name it, how to decode it.
pub(super) struct Format {
    /// The name in lower case, as errors and listings show it.
    pub(super) name: &'static str,
    /// How its streams begin. Nothing begins with an empty magic.
    pub(super) magic: Magic,
    /// What the media types of OCI and Docker append for it to the media type of a plain layer.
    pub(super) media_type_suffixes: &'static [&'static str],
    /// Where its streams can be entered again.
    pub(super) boundaries: Boundaries,
    /// Returns a decoder that goes on as the checkpoint state says; the input is positioned at the
    /// checkpoint. Refuses a state that belongs to another format.
    pub(super) decoder: fn(&mut Input, &Resume) -> Result<Box<dyn FormatDecoder>>,
}

/// A decoder of one format.
pub(super) trait FormatDecoder: Send + fmt::Debug {
    /// Decodes on, within `quota`, from `input` to the end of `out`.
    fn step(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step>;

    /// The compressed offset and the state with which to come back to the boundary just reached.
    /// The default is for formats whose boundaries are starts of frames.
    fn checkpoint(&self, input: &Input) -> (u64, Resume) {
        (input.offset(), Resume::Start)
    }
}

/// Where streams of a format can be entered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundaries {
    /// At every byte.
    Everywhere,
    /// Soon after any place: deflate blocks are short.
    Frequent,
    /// Where a frame, block or stream happens to end, which may be never.
    Rare,
}

impl Compression {
    /// How many bytes at the beginning tell every compression.
    pub(crate) const HEAD_BYTES: usize = longest_magic();

    /// Detects the compression of `bytes` from their beginning. Reads at most
    /// [`Compression::HEAD_BYTES`] bytes. Unknown bytes are plain.
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

    /// Detects the compression of what `stream` reads. The stream that is returned begins at the same byte.
    ///
    /// # Errors
    /// What `stream` says.
    pub(crate) fn detect_stream(
        mut stream: Box<dyn Read + Send>,
    ) -> io::Result<(Self, Box<dyn Read + Send>)> {
        let mut head = Vec::with_capacity(Compression::HEAD_BYTES);
        stream.by_ref().take(Compression::HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok((Compression::detect_head(&head), Box::new(io::Cursor::new(head).chain(stream))))
    }

    /// Detects the compression of bytes that begin with `head`: [`Compression::HEAD_BYTES`] bytes, or
    /// all bytes if there are fewer. Unknown bytes are plain.
    #[must_use]
    pub(crate) fn detect_head(head: &[u8]) -> Self {
        let begins = |compression: &Compression| look(head, compression.format().magic) == Look::Begins;
        Compression::ALL.iter().copied().find(begins).unwrap_or(Compression::Plain)
    }

    /// The compression that a layer's media type claims with `suffix`, the part after the media type of
    /// a plain layer. `None` for a suffix of no known compression.
    #[must_use]
    pub(crate) fn from_media_type_suffix(suffix: &str) -> Option<Self> {
        let claims = |compression: &Compression| compression.format().media_type_suffixes.contains(&suffix);
        Compression::ALL.iter().copied().find(claims)
    }

    /// The number of this compression in stored indexes.
    #[must_use]
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The compression with this number in stored indexes.
    #[must_use]
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Compression::ALL.iter().copied().find(|compression| compression.code() == code)
    }

    /// The name in lower case, as errors and listings show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// Where streams of this compression can be entered again.
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
