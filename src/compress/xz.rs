//! The .xz container (the .xz file format 1.2): streams of blocks, each stream with its index.
//!
//! This module owns stream headers, footers, padding and indexes. `liblzma` decodes whole streams and does
//! not report where a block ends, so the container is parsed here, and only the contents of blocks are passed
//! to the library, see [`super::xz_block`]. An index is compared with the blocks that were decoded. It is not
//! used to find blocks, because the input is read forward.
//!
//! Section numbers below are those of the format's specification.

use crc32fast::hash as crc32;

use super::formats::{Boundaries, Format, FormatDecoder};
use super::frames::{STAGE_BYTES, Stage};
use super::input::{Input, Magic, Next, Summed};
use super::xz_block::{Block, CheckKind, Sizes, vli};
use super::{Quota, Resume, Step};
use crate::error::StreamResult as Result;

pub(super) const FORMAT: Format = Format {
    name: "xz",
    magic: MAGIC,
    media_type_suffixes: &[],
    boundaries: Boundaries::Rare,
    decoder: |input, state| {
        Ok(Box::new(match state {
            Resume::Start => Xz::new(),
            Resume::Inside { note, window } if window.is_empty() => Xz::resume(input, *note)?,
            Resume::Inside { .. } => return Err(input.damaged("the checkpoint belongs to another format")),
        }))
    },
};

/// Header magic (2.1.1.1).
const MAGIC: Magic = &[&[(0xfd, 0xfd), (b'7', b'7'), (b'z', b'z'), (b'X', b'X'), (b'Z', b'Z'), (0, 0)]];

/// Footer magic (2.1.2.4).
const FOOTER_MAGIC: [u8; 2] = *b"YZ";

/// The position of the input in a stream.
#[derive(Debug)]
enum Phase {
    /// Before the first stream.
    Beginning,
    /// After a stream: padding, another stream, other bytes or the end follows.
    Between,
    /// At a stream header.
    StreamHeader,
    /// After the stream header or a block: a block or the index follows.
    AfterBlock,
    /// At a block header.
    BlockHeader,
    /// In a block's contents.
    Block(Box<Block>),
}

/// The totals that the index must state. Only sums are kept, so memory stays constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Totals {
    blocks: u64,
    unpadded_bytes: u64,
    output_bytes: u64,
}

impl Totals {
    fn add(&mut self, sizes: Sizes) {
        // An index may state any sizes. Both sums wrap in the same way, so equal lists always compare equal.
        self.blocks = self.blocks.wrapping_add(1);
        self.unpadded_bytes = self.unpadded_bytes.wrapping_add(sizes.unpadded_bytes);
        self.output_bytes = self.output_bytes.wrapping_add(sizes.output_bytes);
    }
}

/// The state of an xz decoder.
#[derive(Debug)]
struct Xz {
    phase: Phase,
    stage: Stage,
    /// The integrity check of the current stream.
    check: CheckKind,
    /// The totals of the blocks in the current stream; `None` after a checkpoint within the stream.
    totals: Option<Totals>,
}

impl FormatDecoder for Xz {
    fn step(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
        match &mut self.phase {
            Phase::Beginning => {
                input.next_frame(MAGIC, true)?;
                self.phase = Phase::StreamHeader;
                Ok(Step::Boundary)
            }
            Phase::Between => self.step_between(input),
            Phase::StreamHeader => {
                self.check = read_stream_header(input)?;
                self.totals = Some(Totals::default());
                self.phase = Phase::AfterBlock;
                Ok(Step::Ran)
            }
            Phase::AfterBlock => self.step_after_block(input),
            Phase::BlockHeader => {
                self.phase = Phase::Block(Box::new(Block::read(input, self.check)?));
                Ok(Step::Ran)
            }
            Phase::Block(block) => {
                let run = |input: &[u8], output: &mut [u8]| block.run(input, output);
                if self.stage.run(input, out, quota.limit, run)?.done {
                    let sizes = block.finish(input)?;
                    if let Some(totals) = &mut self.totals {
                        totals.add(sizes);
                    }
                    self.phase = Phase::AfterBlock;
                }
                Ok(Step::Ran)
            }
        }
    }

    fn checkpoint(&self, input: &Input) -> (u64, Resume) {
        let state = match self.phase {
            Phase::BlockHeader | Phase::AfterBlock => {
                Resume::Inside { note: self.check.id(), window: Vec::new() }
            }
            _ => Resume::Start,
        };
        (input.offset(), state)
    }

    fn memory_bytes(&self) -> usize {
        let block = if let Phase::Block(block) = &self.phase { block.memory_bytes() } else { 0 };
        block.saturating_add(STAGE_BYTES)
    }
}

impl Xz {
    fn new() -> Self {
        Xz { phase: Phase::Beginning, stage: Stage::new(), check: CheckKind::None, totals: None }
    }

    /// Resumes at a block, in a stream with this integrity check.
    fn resume(input: &Input, check: u8) -> Result<Self> {
        let check = CheckKind::from_id(check).map_err(|reason| input.damaged(reason))?;
        Ok(Xz { phase: Phase::AfterBlock, check, ..Xz::new() })
    }

    /// Skips stream padding: zeros in multiples of four bytes (2.2).
    fn step_between(&mut self, input: &mut Input) -> Result<Step> {
        let zeros = input.skip_zeros()?;
        let padding = zeros.is_multiple_of(4);
        if input.next_frame(MAGIC, false)? == Next::End {
            if !padding || input.trailing_bytes() > 0 {
                input.count_trailing(zeros);
            }
            return Ok(Step::End);
        }
        if !padding {
            return Err(input.damaged("the padding before this stream is not a multiple of four bytes"));
        }
        self.phase = Phase::StreamHeader;
        Ok(Step::Boundary)
    }

    fn step_after_block(&mut self, input: &mut Input) -> Result<Step> {
        match input.fill()?.first() {
            None => Err(input.truncated()),
            // The index indicator, where a block has its header size (3.1.1).
            Some(0) => {
                let (found, index_bytes) = read_index(input)?;
                if self.totals.is_some_and(|expected| expected != found) {
                    return Err(input.damaged("the index does not match the blocks"));
                }
                read_footer(input, self.check, index_bytes)?;
                self.phase = Phase::Between;
                Ok(Step::Ran)
            }
            Some(_) => {
                self.phase = Phase::BlockHeader;
                Ok(Step::Boundary)
            }
        }
    }
}

/// Reads a stream header (2.1.1): magic, flags, checksum.
fn read_stream_header(input: &mut Input) -> Result<CheckKind> {
    let [_, _, _, _, _, _, reserved, check, crc @ ..] = input.array::<12>()?;
    if crc32(&[reserved, check]) != u32::from_le_bytes(crc) {
        return Err(input.damaged("the stream header checksum does not match"));
    }
    if reserved != 0 {
        return Err(input.damaged("the stream header has unknown flags"));
    }
    CheckKind::from_id(check).map_err(|reason| input.damaged(reason))
}

/// Reads a stream footer (2.1.2): checksum, size of the index, flags as in the header, magic.
fn read_footer(input: &mut Input, check: CheckKind, index_bytes: u64) -> Result<()> {
    let crc = u32::from_le_bytes(input.array()?);
    let [s0, s1, s2, s3, reserved, id] = input.array::<6>()?;
    let magic: [u8; 2] = input.array()?;
    if magic != FOOTER_MAGIC || crc32(&[s0, s1, s2, s3, reserved, id]) != crc {
        return Err(input.damaged("the stream footer checksum does not match"));
    }
    let stored = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
    if stored.saturating_add(1).saturating_mul(4) != index_bytes {
        return Err(input.damaged("the index size in the stream footer does not match"));
    }
    if (reserved, id) != (0, check.id()) {
        return Err(input.damaged("the stream footer flags do not match the header"));
    }
    Ok(())
}

/// Reads an index (4): an indicator, the sizes of every block, padding, checksum. Returns the totals of the
/// index and its size in bytes.
fn read_index(input: &mut Input) -> Result<(Totals, u64)> {
    let start = input.offset();
    let mut index = Summed::new(input);
    // Skips the indicator, which the caller has seen.
    index.byte()?;
    let mut totals = Totals::default();
    for _ in 0..index_number(&mut index)? {
        let unpadded_bytes = index_number(&mut index)?;
        let output_bytes = index_number(&mut index)?;
        totals.add(Sizes { unpadded_bytes, output_bytes });
    }
    while !index.input.offset().wrapping_sub(start).is_multiple_of(4) {
        if index.byte()? != 0 {
            return Err(input.damaged("the index has padding that is not zero"));
        }
    }
    let crc = index.crc();
    if u32::from_le_bytes(input.array()?) != crc {
        return Err(input.damaged("the index checksum does not match"));
    }
    Ok((totals, input.offset().wrapping_sub(start)))
}

fn index_number(index: &mut Summed<'_>) -> Result<u64> {
    let number = vli(|| index.byte())?;
    number.ok_or_else(|| index.input.damaged("the index has an invalid number"))
}
