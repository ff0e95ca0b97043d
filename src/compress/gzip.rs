//! Gzip (RFC 1952): concatenated members, each with a header, a deflate stream and a trailer.
//!
//! This module owns member headers and trailers. A checkpoint is the start of a member, or the end of a
//! deflate block within a member. Checksums are compared only for members decoded from their start, because
//! the checksum covers a whole member.

use crc32fast::Hasher;

use super::deflate::{BlockEnds, Inflate};
use super::formats::{Boundaries, Format, FormatDecoder};
use super::input::{Input, Magic, Next, Summed};
use super::{Quota, Resume, Step};
use crate::error::StreamResult as Result;

pub(super) const FORMAT: Format = Format {
    name: "gzip",
    magic: MAGIC,
    media_type_suffixes: &["+gzip", ".gzip"],
    boundaries: Boundaries::Frequent,
    decoder: |input, state| {
        Ok(Box::new(match state {
            Resume::Start => Gzip::new(input)?,
            Resume::Inside { note, window } => Gzip::resume(input, *note, window)?,
        }))
    },
};

/// The magic number and the only defined compression method (RFC 1952, 2.3.1).
const MAGIC: Magic = &[&[(0x1f, 0x1f), (0x8b, 0x8b), (8, 8)]];

// Flags of a member header (RFC 1952, 2.3.1). The first flag, FTEXT, does not affect decoding.
const HEADER_CRC: u8 = 0x02;
const EXTRA: u8 = 0x04;
const NAME: u8 = 0x08;
const COMMENT: u8 = 0x10;
const RESERVED: u8 = 0xe0;

/// The position of the input relative to members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the first member.
    Beginning,
    /// After a member: another member, other bytes or the end follows.
    Between,
    /// At a member's header.
    Header,
    /// In the deflate stream of a member.
    Body,
    /// At a member's trailer.
    Trailer,
}

/// The state of a gzip decoder.
#[derive(Debug)]
struct Gzip {
    phase: Phase,
    inflate: Inflate,
    /// The running checksum and length; `None` after a checkpoint within the member.
    sum: Option<Sum>,
}

/// The checksum and length of a member's output, which the trailer states.
#[derive(Debug, Default)]
struct Sum {
    crc: Hasher,
    len_bytes: u64,
}

impl Sum {
    fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.len_bytes = self.len_bytes.wrapping_add(bytes.len() as u64);
    }
}

impl FormatDecoder for Gzip {
    fn step(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
        match self.phase {
            Phase::Beginning | Phase::Between => {
                match input.next_frame(MAGIC, self.phase == Phase::Beginning)? {
                    Next::End => Ok(Step::End),
                    Next::Frame => {
                        self.phase = Phase::Header;
                        Ok(Step::Boundary)
                    }
                }
            }
            Phase::Header => {
                read_header(input)?;
                self.inflate.reset().map_err(|reason| input.damaged(reason))?;
                self.sum = Some(Sum::default());
                self.phase = Phase::Body;
                Ok(Step::Ran)
            }
            Phase::Body => self.step_body(input, out, quota),
            Phase::Trailer => {
                self.check_trailer(input)?;
                self.phase = Phase::Between;
                Ok(Step::Ran)
            }
        }
    }

    fn checkpoint(&self, input: &Input) -> (u64, Resume) {
        if self.phase != Phase::Body {
            return (input.offset(), Resume::Start);
        }
        let window = self.inflate.window();
        match self.inflate.unused_bits() {
            0 => (input.offset(), Resume::Inside { note: 0, window }),
            unused => {
                let skip_bits = 8_u8.saturating_sub(unused);
                (input.offset().saturating_sub(1), Resume::Inside { note: skip_bits, window })
            }
        }
    }
}

impl Gzip {
    fn new(input: &Input) -> Result<Self> {
        let inflate = Inflate::new().map_err(|reason| input.damaged(reason))?;
        Ok(Gzip { phase: Phase::Beginning, inflate, sum: None })
    }

    /// Resumes in a deflate stream, `skip_bits` bits into its first byte; `window` is the output before.
    fn resume(input: &mut Input, skip_bits: u8, window: &[u8]) -> Result<Self> {
        let mut gzip = Gzip::new(input)?;
        let (bits, value) = match skip_bits {
            0 => (0, 0),
            1..=7 => (8_u8.saturating_sub(skip_bits), input.byte()? >> skip_bits),
            _ => return Err(input.damaged("a checkpoint skips more than 7 bits")),
        };
        gzip.inflate.prime(bits, value, window).map_err(|reason| input.damaged(reason))?;
        gzip.phase = Phase::Body;
        Ok(gzip)
    }

    fn step_body(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
        let block_ends = if quota.wants_boundary { BlockEnds::Stop } else { BlockEnds::Pass };
        let before = out.len();
        let chunk = input.fill()?;
        let at_end = chunk.is_empty();
        let ran = self.inflate.run(chunk, out, quota.limit, block_ends);
        let ran = ran.map_err(|reason| input.damaged(reason))?;
        input.consume(ran.consumed);
        if let (Some(sum), Some(fresh)) = (&mut self.sum, out.get(before..)) {
            sum.update(fresh);
        }
        if ran.done {
            self.phase = Phase::Trailer;
        }
        match ran {
            _ if ran.stuck => Err(input.stuck(at_end)),
            _ if ran.at_block_end => Ok(Step::Boundary),
            _ => Ok(Step::Ran),
        }
    }

    fn check_trailer(&mut self, input: &mut Input) -> Result<()> {
        let expected_crc = u32::from_le_bytes(input.array()?);
        let expected_len = u64::from(u32::from_le_bytes(input.array()?));
        let Some(Sum { crc, len_bytes }) = self.sum.take() else {
            return Ok(());
        };
        let found = crc.finalize();
        if found != expected_crc {
            let reason = format!("wrong CRC-32: expected {expected_crc:08x}, found {found:08x}");
            return Err(input.damaged(reason));
        }
        // The trailer contains the length modulo 2^32.
        let found = len_bytes & u64::from(u32::MAX);
        if found != expected_len {
            let reason = format!("wrong length: expected {expected_len}, found {found} (mod 2^32)");
            return Err(input.damaged(reason));
        }
        Ok(())
    }
}

/// Reads a member's header. Its fields are not needed.
fn read_header(input: &mut Input) -> Result<()> {
    let mut header = Summed::new(input);
    let [_, _, _, flags, ..] = header.array::<10>()?;
    if flags & RESERVED != 0 {
        return Err(input.damaged(format!("unknown header flags {flags:#04x}")));
    }
    if flags & EXTRA != 0 {
        for _ in 0..u16::from_le_bytes(header.array()?) {
            header.byte()?;
        }
    }
    if flags & NAME != 0 {
        while header.byte()? != 0 {}
    }
    if flags & COMMENT != 0 {
        while header.byte()? != 0 {}
    }
    if flags & HEADER_CRC != 0 {
        let found = header.crc() & 0xffff;
        let expected = u32::from(u16::from_le_bytes(header.array()?));
        if found != expected {
            return Err(input.damaged("the header checksum does not match"));
        }
    }
    Ok(())
}
