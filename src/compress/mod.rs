//! Compressed streams that can be entered again in the middle.
//!
//! A [`Decoder`] runs forward and stops where the stream can be entered again; a [`Checkpoint`] is
//! what to remember there. [`Seekable`] turns checkpoints back into random access. This module owns
//! the choice of decoder, what a decoder must remember to go on somewhere, and the memory that a
//! stream may claim. It knows nothing of tar, of digests, of how far apart checkpoints should be,
//! or of where its bytes come from.
//!
//! | format | boundaries, where a checkpoint can be |
//! |---|---|
//! | plain | everywhere |
//! | gzip | starts of members, ends of deflate blocks |
//! | zstd | starts of frames |
//! | xz | starts of streams and of blocks |
//! | bzip2 | starts of streams |
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod bzip2;
mod deflate;
mod frames;
mod gzip;
mod input;
mod plain;
mod seekable;
#[cfg(test)]
mod tests;
mod xz;
mod xz_block;
mod zstd;

use std::fmt;

use self::frames::Frames;
use self::gzip::Gzip;
pub use self::input::Chunks;
use self::input::{Input, Look, look};
pub use self::seekable::{CheckpointTable, Seekable};
use self::xz::Xz;
use crate::error::{StreamFault, StreamResult as Result};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The .xz file format, version 1.2.
    Xz,
    /// bzip2.
    Bzip2,
}

impl Compression {
    /// How many bytes [`Compression::sniff`] wants to see.
    pub const SNIFF_BYTES: usize = 10;

    /// Tells the compression by the first bytes; fewer than [`Compression::SNIFF_BYTES`] are enough
    /// only where nothing follows them. What is unknown is plain.
    #[must_use]
    pub fn sniff(head: &[u8]) -> Self {
        let begins = |magic| look(head, magic) == Look::Begins;
        match () {
            () if begins(gzip::MAGIC) => Compression::Gzip,
            () if begins(zstd::MAGIC) => Compression::Zstd,
            () if begins(xz::MAGIC) => Compression::Xz,
            () if begins(bzip2::MAGIC) => Compression::Bzip2,
            () => Compression::Plain,
        }
    }

    /// Its name in lower case, as errors and listings show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compression::Plain => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
            Compression::Bzip2 => "bzip2",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why [`Decoder::decode`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There is enough output, and a checkpoint can be taken right here.
    Boundary,
    /// All the output that was allowed, and no boundary there.
    Full,
    /// The whole input ended as it should.
    End,
}

/// A place where a stream can be entered, and what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Offset of the next byte in the uncompressed stream.
    pub output_offset: u64,
    /// Offset in the compressed stream from which the decoder must be fed.
    pub compressed_offset: u64,
    /// What the decoder must know.
    pub state: Resume,
}

impl Checkpoint {
    /// The beginning, where every stream can be entered.
    #[must_use]
    pub fn beginning() -> Self {
        Checkpoint { output_offset: 0, compressed_offset: 0, state: Resume::Start }
    }
}

/// What a decoder must know to go on at a [`Checkpoint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Nothing: a gzip member, zstd frame, xz stream or bzip2 stream starts there. Every offset of
    /// a plain stream.
    Start,
    /// A deflate block ended there.
    Deflate {
        /// How many low bits of the first byte belong to what came before (0 to 7).
        skip_bits: u8,
        /// Up to 32 KiB of the output that came before.
        window: Vec<u8>,
    },
    /// A block inside an xz stream starts there.
    XzBlock {
        /// The integrity check of the stream, as its header numbers it (0 to 15).
        check: u8,
    },
}

/// What one step of a format did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Something, and there is more.
    Ran,
    /// The stream can be entered here, and there is more.
    Boundary,
    /// The input was read to its end.
    End,
}

/// What one step may do.
#[derive(Debug, Clone, Copy)]
struct Quota {
    /// The most bytes to append; at least 1.
    limit: usize,
    /// There is enough output: stop at the next boundary.
    wants_boundary: bool,
}

#[derive(Debug)]
enum Format {
    Plain,
    Gzip(Gzip),
    Zstd(Frames<zstd::Zstd>),
    Xz(Xz),
    Bzip2(Frames<bzip2::Bzip2>),
}

/// A decoder that runs forward, in constant memory, and knows where it could be entered again.
///
/// It reads its input to the very end, also past the last frame, so that who hashes the compressed
/// bytes on their way in sees all of them.
#[derive(Debug)]
pub struct Decoder {
    format: Format,
    input: Input,
    output_offset: u64,
    at_boundary: bool,
    failed: bool,
}

impl Decoder {
    /// Decodes `input` from its very start.
    ///
    /// # Errors
    /// [`StreamFault::Decompress`] when the decoder cannot be set up.
    pub fn new(compression: Compression, input: Box<dyn Chunks>) -> Result<Self> {
        Decoder::resume(compression, input, &Checkpoint::beginning())
    }

    /// Decodes on from `checkpoint`; `input` is positioned at its `compressed_offset`.
    ///
    /// # Errors
    /// [`StreamFault::Decompress`] when the checkpoint does not fit the format,
    /// [`StreamFault::Io`] when `input` cannot be read.
    pub fn resume(compression: Compression, input: Box<dyn Chunks>, checkpoint: &Checkpoint) -> Result<Self> {
        let mut input = Input::new(input, checkpoint.compressed_offset, compression.name());
        let format = match (compression, &checkpoint.state) {
            (Compression::Plain, Resume::Start) => Format::Plain,
            (Compression::Gzip, Resume::Start) => Format::Gzip(Gzip::new(&input)?),
            (Compression::Gzip, Resume::Deflate { skip_bits, window }) => {
                Format::Gzip(Gzip::resume(&mut input, *skip_bits, window)?)
            }
            (Compression::Zstd, Resume::Start) => Format::Zstd(Frames::new(&input)?),
            (Compression::Xz, Resume::Start) => Format::Xz(Xz::new()),
            (Compression::Xz, Resume::XzBlock { check }) => Format::Xz(Xz::resume(&input, *check)?),
            (Compression::Bzip2, Resume::Start) => Format::Bzip2(Frames::new(&input)?),
            _ => return Err(input.damaged("the checkpoint belongs to another format")),
        };
        Ok(Decoder {
            format,
            input,
            output_offset: checkpoint.output_offset,
            at_boundary: true,
            failed: false,
        })
    }

    /// Appends to `out` until at least `soft` bytes were appended and a boundary is reached, or
    /// exactly `hard` bytes were appended, or the input ends. With a `soft` of 0 a boundary right
    /// here counts, too; where `soft` is not less than `hard`, boundaries are not looked for and
    /// decoding is fastest.
    ///
    /// After an error every further call fails.
    ///
    /// # Errors
    /// [`StreamFault::Decompress`] for damaged or truncated data, [`StreamFault::Limit`] for a
    /// stream that claims too much memory, [`StreamFault::Io`] when the input cannot be read.
    pub fn decode(&mut self, out: &mut Vec<u8>, soft: usize, hard: usize) -> Result<Stop> {
        if self.failed {
            return Err(self.input.damaged("decoding failed before"));
        }
        let mut appended = 0;
        while appended < hard {
            let wants_boundary = appended >= soft;
            let target = if wants_boundary { hard } else { soft.min(hard) };
            let quota = Quota { limit: target.saturating_sub(appended), wants_boundary };
            let before = out.len();
            self.at_boundary = false;
            let step = self.step(out, quota).inspect_err(|_| self.failed = true)?;
            let fresh = out.len().saturating_sub(before);
            appended = appended.saturating_add(fresh);
            self.output_offset = self.output_offset.saturating_add(fresh as u64);
            match step {
                Step::End => return Ok(Stop::End),
                Step::Boundary => {
                    self.at_boundary = true;
                    if appended >= soft {
                        return Ok(Stop::Boundary);
                    }
                }
                Step::Ran => {}
            }
        }
        Ok(Stop::Full)
    }

    /// How to come back here: at the beginning, and directly after [`Stop::Boundary`].
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        if !self.at_boundary {
            return None;
        }
        let (compressed_offset, state) = match &self.format {
            Format::Gzip(gzip) => gzip.checkpoint(&self.input),
            Format::Xz(xz) => xz.checkpoint(&self.input),
            Format::Plain | Format::Zstd(_) | Format::Bzip2(_) => (self.input.offset(), Resume::Start),
        };
        Some(Checkpoint { output_offset: self.output_offset, compressed_offset, state })
    }

    /// Offset of the next output byte in the uncompressed stream.
    #[must_use]
    pub fn output_offset(&self) -> u64 {
        self.output_offset
    }

    /// Offset of the next input byte in the compressed stream.
    #[must_use]
    pub fn compressed_offset(&self) -> u64 {
        self.input.offset()
    }

    /// After [`Stop::End`]: how many bytes followed the last frame and were passed over.
    #[must_use]
    pub fn trailing_bytes(&self) -> u64 {
        self.input.trailing_bytes()
    }

    /// The error for a stream that ends before all that was expected of it.
    fn ended_early(&self) -> StreamFault {
        self.input.damaged(format!("the data ends after {} uncompressed bytes", self.output_offset))
    }

    fn step(&mut self, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
        let input = &mut self.input;
        match &mut self.format {
            Format::Plain => plain::step(input, out, quota),
            Format::Gzip(gzip) => gzip.step(input, out, quota),
            Format::Zstd(frames) => frames.step(input, out, quota),
            Format::Xz(xz) => xz.step(input, out, quota),
            Format::Bzip2(frames) => frames.step(input, out, quota),
        }
    }
}
