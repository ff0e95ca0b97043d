//! Bzip2: concatenated streams.
//!
//! This module owns the magic numbers and the decoder of bzip2. A checkpoint is always the start of a stream,
//! because blocks begin in the middle of bytes and are not searched for. The format limits the memory: blocks
//! of 900 KB, less than 4 MiB in all.

use std::fmt;

use bzip2::{Decompress, Status};

use super::formats::{Boundaries, Format};
use super::frames::{self, Codec, Ran};
use super::input::{Magic, Refusal};

pub(super) const FORMAT: Format = Format {
    name: "bzip2",
    magic: MAGIC,
    media_type_suffixes: &[],
    boundaries: Boundaries::Rare,
    decoder: frames::decoder::<Bzip2>,
};

/// The memory of a decoder for blocks of 900 KB, in bytes (bzip2 manual, "Memory management").
const MEMORY_BYTES: usize = 3_700 << 10;

const ANY_LEVEL: (u8, u8) = (b'1', b'9');

/// The beginning of a stream with a block (its magic is pi, 0x314159265359) and of a stream without blocks
/// (the root of pi, 0x177245385090).
const MAGIC: Magic = &[
    &[
        (b'B', b'B'),
        (b'Z', b'Z'),
        (b'h', b'h'),
        ANY_LEVEL,
        (0x31, 0x31),
        (0x41, 0x41),
        (0x59, 0x59),
        (0x26, 0x26),
        (0x53, 0x53),
        (0x59, 0x59),
    ],
    &[
        (b'B', b'B'),
        (b'Z', b'Z'),
        (b'h', b'h'),
        ANY_LEVEL,
        (0x17, 0x17),
        (0x72, 0x72),
        (0x45, 0x45),
        (0x38, 0x38),
        (0x50, 0x50),
        (0x90, 0x90),
    ],
];

/// A bzip2 decoder.
struct Bzip2 {
    decoder: Decompress,
}

impl fmt::Debug for Bzip2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bzip2").finish_non_exhaustive()
    }
}

impl Codec for Bzip2 {
    const MAGIC: Magic = MAGIC;

    fn new() -> Result<Self, Refusal> {
        Ok(Bzip2 { decoder: Decompress::new(false) })
    }

    fn next_frame(&mut self) -> Result<(), Refusal> {
        self.decoder = Decompress::new(false);
        Ok(())
    }

    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Ran, Refusal> {
        let (total_in, total_out) = (self.decoder.total_in(), self.decoder.total_out());
        let status = self.decoder.decompress(input, output).map_err(|error| error.to_string())?;
        if status == Status::MemNeeded {
            return Err(Refusal::NoMemory);
        }
        Ok(Ran {
            consumed: since(total_in, self.decoder.total_in()),
            written: since(total_out, self.decoder.total_out()),
            done: status == Status::StreamEnd,
        })
    }

    fn memory_bytes(&self) -> usize {
        MEMORY_BYTES
    }
}

/// Returns how far a counter of the library advanced in one call; at most the length of that call's buffer.
fn since(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}
