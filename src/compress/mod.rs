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
mod formats;
mod frames;
mod gzip;
mod input;
mod plain;
mod ranges;
mod seekable;
#[cfg(test)]
mod tests;
mod xz;
mod xz_block;
mod zstd;

pub(crate) use self::formats::Boundaries;
pub use self::formats::Compression;
use self::formats::FormatDecoder;
pub(crate) use self::input::Chunks;
use self::input::Input;
pub(crate) use self::seekable::{CheckpointTable, Seekable};
use crate::error::{StreamFault, StreamResult as Result};

/// The most output that a checkpoint of any format keeps to go on from, in bytes: deflate's window.
pub(crate) const MAX_WINDOW_BYTES: usize = deflate::WINDOW_BYTES;

/// Why [`Decoder::decode`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is enough output, and a checkpoint can be taken right here.
    Boundary,
    /// All the output that was allowed, and no boundary there.
    Full,
    /// The whole input ended as it should.
    End,
}

/// A place where a stream can be entered, and what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
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
    pub(crate) fn beginning() -> Self {
        Checkpoint { output_offset: 0, compressed_offset: 0, state: Resume::Start }
    }
}

/// What a decoder must know to go on at a [`Checkpoint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Nothing: a gzip member, zstd frame, xz stream or bzip2 stream starts there. Every offset of
    /// a plain stream.
    Start,
    /// A place inside a member, frame or stream.
    Inside {
        /// What the format notes of the place. For gzip: how many low bits of the first byte belong
        /// to what came before (0 to 7). For xz: the integrity check of the stream, as its header
        /// numbers it (0 to 15).
        note: u8,
        /// The output that came before, as much as the format refers back to: at most
        /// [`MAX_WINDOW_BYTES`]. Only gzip needs any.
        window: Vec<u8>,
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

/// A decoder that runs forward, in constant memory, and knows where it could be entered again.
///
/// It reads its input to the very end, also past the last frame, so that who hashes the compressed
/// bytes on their way in sees all of them.
#[derive(Debug)]
pub(crate) struct Decoder {
    format: Box<dyn FormatDecoder>,
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
    pub(crate) fn new(compression: Compression, input: Box<dyn Chunks>) -> Result<Self> {
        Decoder::resume(compression, input, &Checkpoint::beginning())
    }

    /// Decodes on from `checkpoint`; `input` is positioned at its `compressed_offset`.
    ///
    /// # Errors
    /// [`StreamFault::Decompress`] when the checkpoint does not fit the format,
    /// [`StreamFault::Io`] when `input` cannot be read.
    pub(crate) fn resume(
        compression: Compression,
        input: Box<dyn Chunks>,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let mut input = Input::new(input, checkpoint.compressed_offset, compression.name());
        let format = (compression.format().decoder)(&mut input, &checkpoint.state)?;
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
    pub(crate) fn decode(&mut self, out: &mut Vec<u8>, soft: usize, hard: usize) -> Result<Stop> {
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
            let step = self.format.step(&mut self.input, out, quota).inspect_err(|_| self.failed = true)?;
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
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        if !self.at_boundary {
            return None;
        }
        let (compressed_offset, state) = self.format.checkpoint(&self.input);
        Some(Checkpoint { output_offset: self.output_offset, compressed_offset, state })
    }

    /// Offset of the next output byte in the uncompressed stream.
    #[must_use]
    pub(crate) fn output_offset(&self) -> u64 {
        self.output_offset
    }

    /// Offset of the next input byte in the compressed stream.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn compressed_offset(&self) -> u64 {
        self.input.offset()
    }

    /// After [`Stop::End`]: how many bytes followed the last frame and were passed over.
    #[must_use]
    pub(crate) fn trailing_bytes(&self) -> u64 {
        self.input.trailing_bytes()
    }

    /// Announces that output up to `compressed_end`, an offset in the compressed stream, will be asked
    /// for, see [`Chunks::expect_until`].
    pub(crate) fn expect_until(&mut self, compressed_end: u64) {
        self.input.expect_until(compressed_end);
    }

    /// The error for a stream that ends before all that was expected of it.
    fn ended_early(&self) -> StreamFault {
        self.input.damaged(format!("the data ends after {} uncompressed bytes", self.output_offset))
    }
}
