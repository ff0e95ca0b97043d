//! Formats that consist of concatenated frames, each decoded by a library.
//!
//! This module owns the sequence of frames, which zstd and bzip2 share, and the buffer that the libraries
//! write to. It must not know the contents of a frame.

use std::fmt;

use super::formats::FormatDecoder;
use super::input::{Input, Magic, Next, Refusal};
use super::{Quota, Resume, Step};
use crate::error::StreamResult as Result;

/// Maximum output of one call to a library, in bytes: the largest zstd block.
pub(super) const STAGE_BYTES: usize = 128 << 10;

/// The result of one call to a library.
#[derive(Debug)]
pub(super) struct Ran {
    /// Input bytes used.
    pub(super) consumed: usize,
    /// Output bytes written.
    pub(super) written: usize,
    /// True if the frame ended and all its output is written.
    pub(super) done: bool,
}

/// A library that decodes one frame after another.
pub(super) trait Codec: Sized + Send + fmt::Debug {
    /// The first bytes of a frame.
    const MAGIC: Magic;

    /// Creates a decoder that is ready for a frame.
    fn new() -> Result<Self, Refusal>;

    /// Prepares for another frame after one that ended.
    fn next_frame(&mut self) -> Result<(), Refusal>;

    /// Decodes from `input` to `output`.
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Ran, Refusal>;

    /// Returns the memory that the library holds for the current frame, in bytes.
    fn memory_bytes(&self) -> usize;
}

/// The position of the input relative to frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the first frame.
    Beginning,
    /// After a frame: another frame, other bytes or the end follows.
    Between,
    /// In a frame.
    Inside,
}

/// Creates a decoder for frames that `C` decodes. Decoding can resume only at the start of a frame.
pub(super) fn decoder<C: Codec + 'static>(
    input: &mut Input,
    state: &Resume,
) -> Result<Box<dyn FormatDecoder>> {
    input.check_start(state)?;
    let codec = C::new().map_err(|refusal| input.refused(refusal))?;
    Ok(Box::new(Frames { codec, phase: Phase::Beginning, stage: Stage::new() }))
}

/// The state of a decoder for frames.
#[derive(Debug)]
struct Frames<C> {
    codec: C,
    phase: Phase,
    stage: Stage,
}

impl<C: Codec> FormatDecoder for Frames<C> {
    fn step(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
        if self.phase == Phase::Inside {
            return self.step_frame(input, out, quota);
        }
        if input.next_frame(C::MAGIC, self.phase == Phase::Beginning)? == Next::End {
            return Ok(Step::End);
        }
        if self.phase == Phase::Between {
            self.codec.next_frame().map_err(|refusal| input.refused(refusal))?;
        }
        self.phase = Phase::Inside;
        Ok(Step::Boundary)
    }

    fn memory_bytes(&self) -> usize {
        self.codec.memory_bytes().saturating_add(STAGE_BYTES)
    }
}

impl<C: Codec> Frames<C> {
    fn step_frame(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
        let codec = &mut self.codec;
        if self.stage.run(input, out, quota.limit, |input, output| codec.run(input, output))?.done {
            self.phase = Phase::Between;
        }
        Ok(Step::Ran)
    }
}

/// A buffer between a library that needs initialised memory and an output that grows. Copying from the buffer
/// costs less than clearing new output space before every call.
pub(super) struct Stage {
    buffer: Box<[u8]>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

impl Stage {
    pub(super) fn new() -> Self {
        Stage { buffer: vec![0; STAGE_BYTES].into_boxed_slice() }
    }

    /// Calls `decode` once with the buffered input and space for at most `limit` bytes, and appends the
    /// output to `out`.
    pub(super) fn run(
        &mut self,
        input: &mut Input,
        out: &mut Vec<u8>,
        limit: usize,
        decode: impl FnOnce(&[u8], &mut [u8]) -> Result<Ran, Refusal>,
    ) -> Result<Ran> {
        let room = limit.min(self.buffer.len());
        let output = self.buffer.get_mut(..room).unwrap_or_default();
        let chunk = input.fill()?;
        let at_end = chunk.is_empty();
        let ran = decode(chunk, output).map_err(|refusal| input.refused(refusal))?;
        input.consume(ran.consumed);
        out.extend_from_slice(output.get(..ran.written).unwrap_or_default());
        if ran.consumed == 0 && ran.written == 0 && !ran.done {
            return Err(input.stuck(at_end));
        }
        Ok(ran)
    }
}
