//! Compressed streams in which decoding can resume in the middle.
//!
//! A [`Decoder`] decodes forward and stops where decoding can resume; a [`Checkpoint`] is the state to resume
//! there. [`Seekable`] uses checkpoints for random access. This module owns the choice of decoder, the state
//! that a decoder needs to resume, and the memory that a stream may use. It must not know tar, digests, the
//! distance between checkpoints, or where its bytes come from.
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
mod memory;
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
pub(crate) use self::memory::{DecoderMemory, Held, Patience};
pub(crate) use self::seekable::{CheckpointTable, Seekable};
use crate::error::{StreamFault, StreamResult as Result};

/// The largest window in a checkpoint of any format, in bytes: the window of deflate.
pub(crate) const MAX_WINDOW_BYTES: usize = deflate::WINDOW_BYTES;

/// Why [`Decoder::decode`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is enough output, and a checkpoint can be taken at the current position.
    Boundary,
    /// The maximum output was reached, and the current position is not a boundary.
    Full,
    /// The input was decoded to its end without error.
    End,
}

/// A position in a stream at which decoding can resume, with the required state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Offset of the next byte in the uncompressed stream.
    pub output_offset: u64,
    /// Offset in the compressed stream at which the decoder's input must begin.
    pub compressed_offset: u64,
    /// The state that the decoder needs.
    pub state: Resume,
}

impl Checkpoint {
    /// Returns the checkpoint at the beginning, which exists in every stream.
    #[must_use]
    pub(crate) fn beginning() -> Self {
        Checkpoint { output_offset: 0, compressed_offset: 0, state: Resume::Start }
    }
}

/// The state that a decoder needs to resume at a [`Checkpoint`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resume {
    /// No state: a gzip member, zstd frame, xz stream or bzip2 stream starts at the checkpoint, or the stream
    /// is plain.
    Start,
    /// The state at a position inside a member, frame or stream.
    Inside {
        /// A number with a meaning for each format. For gzip: how many low bits of the first byte belong to
        /// the data before the checkpoint (0 to 7). For xz: the integrity check of the stream, as the stream
        /// header numbers it (0 to 15).
        note: u8,
        /// The output before the checkpoint that the format can refer to: at most [`MAX_WINDOW_BYTES`]. Only
        /// gzip needs a window.
        window: Vec<u8>,
    },
}

/// The result of one step of a format's decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The step made progress, and more data follows.
    Ran,
    /// The stream can be resumed at the current position, and more data follows.
    Boundary,
    /// The input was decoded to its end.
    End,
}

/// The limits of one step.
#[derive(Debug, Clone, Copy)]
struct Quota {
    /// Maximum number of bytes to append; at least 1.
    limit: usize,
    /// True if there is enough output, so that the step must stop at the next boundary.
    wants_boundary: bool,
}

/// Decodes forward in constant memory and reports the positions at which decoding can resume.
///
/// The input is read to its very end, also past the last frame, so that a reader that hashes the compressed
/// bytes receives all of them.
#[derive(Debug)]
pub(crate) struct Decoder {
    format: Box<dyn FormatDecoder>,
    input: Input,
    output_offset: u64,
    at_boundary: bool,
    failed: bool,
}

impl Decoder {
    /// Creates a decoder for `input` from its start.
    ///
    /// # Errors
    /// [`StreamFault::Decompress`] when the decoder cannot be set up.
    pub(crate) fn new(compression: Compression, input: Box<dyn Chunks>) -> Result<Self> {
        Decoder::resume(compression, input, &Checkpoint::beginning())
    }

    /// Creates a decoder that resumes at `checkpoint`; `input` is positioned at its `compressed_offset`.
    ///
    /// # Errors
    /// [`StreamFault::Decompress`] when the checkpoint does not fit the format, [`StreamFault::Io`] when
    /// `input` cannot be read.
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

    /// Appends to `out` until at least `soft` bytes were appended and a boundary is reached, or exactly
    /// `hard` bytes were appended, or the input ends. With a `soft` of 0, a boundary at the current position
    /// counts too. If `soft` is not less than `hard`, boundaries are not searched for, and decoding is
    /// fastest.
    ///
    /// After an error every further call fails.
    ///
    /// # Errors
    /// [`StreamFault::Decompress`] for damaged or truncated data, [`StreamFault::Limit`] for a stream that
    /// needs too much memory, [`StreamFault::Io`] when the input cannot be read.
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

    /// Returns the checkpoint of the current position; available at the beginning and directly after
    /// [`Stop::Boundary`].
    #[must_use]
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        if !self.at_boundary {
            return None;
        }
        let (compressed_offset, state) = self.format.checkpoint(&self.input);
        Some(Checkpoint { output_offset: self.output_offset, compressed_offset, state })
    }

    /// Returns the offset of the next output byte in the uncompressed stream.
    #[must_use]
    pub(crate) fn output_offset(&self) -> u64 {
        self.output_offset
    }

    /// Returns the offset of the next input byte in the compressed stream.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn compressed_offset(&self) -> u64 {
        self.input.offset()
    }

    /// Returns how many bytes after the last frame were skipped; valid after [`Stop::End`].
    #[must_use]
    pub(crate) fn trailing_bytes(&self) -> u64 {
        self.input.trailing_bytes()
    }

    /// Returns about how much memory the decoder holds, in bytes. It can grow with every frame or block.
    #[must_use]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.format.memory_bytes().saturating_add(input::BUFFER_BYTES)
    }

    /// Announces that output up to `compressed_end`, an offset in the compressed stream, will be requested;
    /// see [`Chunks::expect_until`].
    pub(crate) fn expect_until(&mut self, compressed_end: u64) {
        self.input.expect_until(compressed_end);
    }

    /// Creates the error for a stream that ends before its expected length.
    fn ended_early(&self) -> StreamFault {
        self.input.damaged(format!("the data ends after {} uncompressed bytes", self.output_offset))
    }
}
