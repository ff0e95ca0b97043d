//! Zstandard (RFC 8878): frames and skippable frames, in any order.
//!
//! This module owns the limit on the window of a frame. The library compares frame checksums.

use std::fmt;

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::formats::{Boundaries, Format};
use super::frames::{self, Codec, Ran};
use super::input::{Magic, Refusal};

pub(super) const FORMAT: Format = Format {
    name: "zstd",
    magic: MAGIC,
    media_type_suffixes: &["+zstd", ".zstd"],
    boundaries: Boundaries::Rare,
    decoder: frames::decoder::<Zstd>,
};

/// The magic numbers of a frame and of the sixteen kinds of skippable frame (RFC 8878, 3.1.1 and 3.1.2), as
/// bytes in memory order.
const MAGIC: Magic = &[
    &[(0x28, 0x28), (0xb5, 0xb5), (0x2f, 0x2f), (0xfd, 0xfd)],
    &[(0x50, 0x5f), (0x2a, 0x2a), (0x4d, 0x4d), (0x18, 0x18)],
];

/// The largest window of a frame, as a power of two: 128 MiB, the default limit of `zstd -d`. A frame header
/// of 14 bytes could request terabytes.
const WINDOW_LOG_MAX: u32 = 27;

/// A zstd context.
struct Zstd {
    context: DCtx<'static>,
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").finish_non_exhaustive()
    }
}

impl Codec for Zstd {
    const MAGIC: Magic = MAGIC;

    fn new() -> Result<Self, Refusal> {
        let mut context = DCtx::try_create().ok_or(Refusal::NoMemory)?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(reason)?;
        Ok(Zstd { context })
    }

    fn next_frame(&mut self) -> Result<(), Refusal> {
        // The context is ready for another frame as soon as one has ended.
        Ok(())
    }

    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Ran, Refusal> {
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(output);
        let hint = self.context.decompress_stream(&mut to, &mut from).map_err(reason)?;
        Ok(Ran { consumed: from.pos(), written: to.pos(), done: hint == 0 })
    }

    fn memory_bytes(&self) -> usize {
        self.context.sizeof()
    }
}

fn reason(code: usize) -> Refusal {
    match get_error_name(code) {
        name if name.contains("too much memory") => {
            format!("the window is larger than 128 MiB (2^{WINDOW_LOG_MAX} bytes)").into()
        }
        name if name.contains("not enough memory") => Refusal::NoMemory,
        name => name.to_owned().into(),
    }
}
