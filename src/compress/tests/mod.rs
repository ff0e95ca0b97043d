//! Streams of every format, decoded as a whole, from every checkpoint, and at random offsets.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic, and its numbers are its own"
)]

mod decoder;
mod hostile;
mod memory;
mod requests;
mod seekable;
mod streams;

use std::io::{Cursor, Read};

use super::{Checkpoint, Compression, Decoder, Stop};
use crate::error::StreamResult as Result;

/// Creates a decoder at the start of bytes in memory.
fn decoder(compression: Compression, bytes: &[u8]) -> Decoder {
    Decoder::new(compression, Box::new(Cursor::new(bytes.to_vec()))).unwrap()
}

/// Decodes to the end, without checkpoints.
fn decode_all(mut decoder: Decoder) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while decoder.decode(&mut out, 64 << 10, 64 << 10)? != Stop::End {}
    Ok(out)
}

/// Decodes to the end with a checkpoint about every `soft` bytes.
fn decode_with_checkpoints(mut decoder: Decoder, soft: usize) -> (Vec<u8>, Vec<Checkpoint>) {
    let mut out = Vec::new();
    let mut checkpoints = Vec::from_iter(decoder.checkpoint());
    while decoder.decode(&mut out, soft, usize::MAX).unwrap() != Stop::End {
        checkpoints.push(decoder.checkpoint().unwrap());
    }
    (out, checkpoints)
}

/// A reader that returns one byte at a time.
struct Drip<R>(R);

impl<R: Read> Read for Drip<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = buf.len().min(1);
        self.0.read(&mut buf[..len])
    }
}
