//! Random access to a compressed stream with checkpoints.
//!
//! This module owns the choice between an existing decoder and a new one that starts at a checkpoint. It
//! keeps no output, because its callers know what to cache.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::ranges::Ranges;
use super::{Checkpoint, Compression, Decoder, DecoderMemory, Held, Patience, Stop};
use crate::error::StreamResult as Result;
use crate::read_at::ReadAt;

/// Size of the pieces in which output is decoded, also where it is skipped, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// A table of checkpoints. A table on disk may load windows only when they are needed.
pub(crate) trait CheckpointTable: Send + Sync + fmt::Debug {
    /// Returns the last checkpoint at or before `output_offset`; [`Checkpoint::beginning`] if there is none.
    ///
    /// # Errors
    /// When the checkpoint cannot be loaded.
    fn at_or_before(&self, output_offset: u64) -> Result<Checkpoint>;

    /// Returns the compressed offset of the last checkpoint at or before `output_offset`; 0 if there is none.
    fn compressed_offset_before(&self, output_offset: u64) -> u64;

    /// Returns the compressed offset of the first checkpoint at or after `output_offset`; `None` when there
    /// is none.
    fn compressed_offset_after(&self, output_offset: u64) -> Option<u64>;
}

/// Checkpoints in memory, in ascending order of output offset.
impl CheckpointTable for Vec<Checkpoint> {
    fn at_or_before(&self, output_offset: u64) -> Result<Checkpoint> {
        let after = self.partition_point(|checkpoint| checkpoint.output_offset <= output_offset);
        let last = after.checked_sub(1).and_then(|index| self.get(index));
        Ok(last.cloned().unwrap_or_else(Checkpoint::beginning))
    }

    fn compressed_offset_before(&self, output_offset: u64) -> u64 {
        let after = self.partition_point(|checkpoint| checkpoint.output_offset <= output_offset);
        let last = after.checked_sub(1).and_then(|index| self.get(index));
        last.map_or(0, |checkpoint| checkpoint.compressed_offset)
    }

    fn compressed_offset_after(&self, output_offset: u64) -> Option<u64> {
        let next = self.partition_point(|checkpoint| checkpoint.output_offset < output_offset);
        self.get(next).map(|checkpoint| checkpoint.compressed_offset)
    }
}

/// The uncompressed bytes of a compressed stream, readable at any offset by several threads.
///
/// A read that continues where an earlier one ended decodes only its own bytes, so a stream without
/// checkpoints can still be read efficiently from front to back. Any other read decodes from the checkpoint
/// before its offset. Only the checksums of the format are verified here.
#[derive(Debug)]
pub(crate) struct Seekable {
    input: Arc<dyn ReadAt>,
    compression: Compression,
    len_bytes: u64,
    table: Arc<dyn CheckpointTable>,
    /// Keeps the decoders where their last read ended.
    memory: Arc<DecoderMemory>,
    /// Number of this stream in `memory`.
    number: u64,
}

impl Seekable {
    /// Creates a seekable stream. `len_bytes` is the length of the uncompressed stream, which the pass that
    /// built `table` determined. `memory` is the account of its decoders.
    pub(crate) fn new(
        input: Arc<dyn ReadAt>,
        compression: Compression,
        len_bytes: u64,
        table: Arc<dyn CheckpointTable>,
        memory: Arc<DecoderMemory>,
    ) -> Self {
        let number = memory.register();
        Seekable { input, compression, len_bytes, table, memory, number }
    }

    /// Appends exactly `len_bytes` bytes from `offset` to `out`. Unlike [`ReadAt::read_exact_at`], the
    /// decoder writes directly to `out`.
    ///
    /// # Errors
    /// As [`ReadAt::read_exact_at`].
    pub(crate) fn append_exact(&self, out: &mut Vec<u8>, offset: u64, len_bytes: usize) -> io::Result<()> {
        self.check_end(offset, len_bytes)?;
        self.append(out, offset, len_bytes).map_err(io::Error::other)
    }

    /// Returns the range of the compressed bytes from which the `len_bytes` bytes at `offset` are decoded, if
    /// no idle decoder is closer than the last checkpoint.
    pub(crate) fn input_range(&self, offset: u64, len_bytes: u64) -> Range<u64> {
        self.table.compressed_offset_before(offset)..self.input_end(offset.saturating_add(len_bytes))
    }

    /// Drops the idle decoders, because their input was wrong.
    pub(crate) fn drop_decoders(&self) {
        self.memory.forget(self.number);
    }

    fn append(&self, out: &mut Vec<u8>, offset: u64, len_bytes: usize) -> Result<()> {
        let (mut decoder, mut held) = self.decoder_for(offset, len_bytes)?;
        pass_over(&mut decoder, &mut held, offset)?;
        take(&mut decoder, out, len_bytes)?;
        self.park(decoder, held);
        Ok(())
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (mut decoder, mut held) = self.decoder_for(offset, buf.len())?;
        pass_over(&mut decoder, &mut held, offset)?;
        let mut piece = Vec::new();
        for part in buf.chunks_mut(PIECE_BYTES) {
            piece.clear();
            take(&mut decoder, &mut piece, part.len())?;
            part.copy_from_slice(&piece);
        }
        self.park(decoder, held);
        Ok(())
    }

    fn check_end(&self, offset: u64, len_bytes: usize) -> io::Result<()> {
        match offset.checked_add(len_bytes as u64) {
            Some(end) if end <= self.len_bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Returns a decoder at or before `offset`, and not before the last checkpoint at or before `offset`. The
    /// input is requested up to the end of the `len_bytes` bytes at `offset`.
    fn decoder_for(&self, offset: u64, len_bytes: usize) -> Result<(Decoder, Held)> {
        let input_end = self.input_end(offset.saturating_add(len_bytes as u64));
        if let Some((mut decoder, held)) = self.memory.take(self.number, offset) {
            // A decoder at exactly this offset makes loading a checkpoint unnecessary.
            if decoder.output_offset() == offset {
                decoder.expect_until(input_end);
                return Ok((decoder, held));
            }
            let checkpoint = self.table.at_or_before(offset)?;
            if checkpoint.output_offset <= decoder.output_offset() {
                decoder.expect_until(input_end);
                return Ok((decoder, held));
            }
            self.park(decoder, held);
            return self.enter(&checkpoint, input_end);
        }
        self.enter(&self.table.at_or_before(offset)?, input_end)
    }

    /// Returns the compressed offset up to which input is needed to decode the output before `output_end`. A
    /// checkpoint may lie inside a byte, which is then needed on both sides.
    fn input_end(&self, output_end: u64) -> u64 {
        let next = self.table.compressed_offset_after(output_end);
        next.map_or(self.input.len(), |next| next.saturating_add(1).min(self.input.len()))
    }

    fn enter(&self, checkpoint: &Checkpoint, input_end: u64) -> Result<(Decoder, Held)> {
        let input = Ranges::new(Arc::clone(&self.input), checkpoint.compressed_offset, input_end);
        let decoder = Decoder::resume(self.compression, Box::new(input), checkpoint)?;
        Ok((decoder, self.memory.begin()))
    }

    fn park(&self, decoder: Decoder, held: Held) {
        if decoder.output_offset() < self.len_bytes {
            self.memory.park(self.number, decoder, held);
        }
    }
}

impl Drop for Seekable {
    fn drop(&mut self) {
        self.memory.forget(self.number);
    }
}

impl ReadAt for Seekable {
    fn len(&self) -> u64 {
        self.len_bytes
    }

    fn may_wait(&self) -> bool {
        self.input.may_wait()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_end(offset, buf.len())?;
        if buf.is_empty() {
            return Ok(());
        }
        self.read(buf, offset).map_err(io::Error::other)
    }
}

/// Decodes up to `offset` and discards the output. The more is decoded, the more of its window a decoder fills,
/// so this waits until there is memory for the whole window.
fn pass_over(decoder: &mut Decoder, held: &mut Held, offset: u64) -> Result<()> {
    let mut piece = Vec::new();
    loop {
        let left = offset.saturating_sub(decoder.output_offset());
        if left == 0 {
            return Ok(());
        }
        let len_bytes = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        piece.clear();
        take(decoder, &mut piece, len_bytes)?;
        // After a while there always is memory.
        let _ = held.grow(decoder.memory_bytes(), Patience::Short);
    }
}

/// Appends exactly `len_bytes` bytes to `out`.
fn take(decoder: &mut Decoder, out: &mut Vec<u8>, len_bytes: usize) -> Result<()> {
    let end = out.len().saturating_add(len_bytes);
    while out.len() < end {
        let left = end.saturating_sub(out.len());
        if decoder.decode(out, left, left)? == Stop::End && out.len() < end {
            return Err(decoder.ended_early());
        }
    }
    Ok(())
}
