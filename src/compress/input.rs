//! Compressed bytes on their way into a decoder.
//!
//! Owns the one read buffer of a decoder and the compressed offset that checkpoints and errors
//! name. Knows magic numbers as patterns, and nothing else of any format.

use std::fmt;
use std::io::{self, Read};

use crc32fast::Hasher;

use super::Resume;
use crate::error::{StreamFault, StreamResult as Result};

/// Bytes asked of a reader at once: large enough that reading costs nothing next to decoding, and
/// small enough that re-entering a stream for one span does not read much past it.
pub(super) const BUFFER_BYTES: usize = 128 << 10;

/// Where a decoder gets its input from, piece by piece and without a copy. Everything that reads is one.
pub(crate) trait Chunks: Send {
    /// Replaces `chunk` by the bytes that follow; leaves it empty at the end. What it held before may be
    /// reused.
    ///
    /// # Errors
    /// When the bytes cannot be had; the call may then be repeated.
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> io::Result<()>;

    /// Announces that the decoder will need the input up to `end`, an offset in the compressed stream,
    /// and probably nothing after that. Input that is requested range by range then asks for all of it
    /// in one request. The default ignores it.
    fn expect_until(&mut self, end: u64) {
        let _ = end;
    }
}

impl<R: Read + Send> Chunks for R {
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        read_chunk(self, chunk, BUFFER_BYTES)
    }
}

/// Replaces `chunk` by what one read of at most `max_bytes` bytes gives.
pub(super) fn read_chunk(from: &mut dyn Read, chunk: &mut Vec<u8>, max_bytes: usize) -> io::Result<()> {
    chunk.resize(max_bytes, 0);
    let read = loop {
        match from.read(chunk) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    chunk.truncate(*read.as_ref().unwrap_or(&0));
    read.map(|_| ())
}

/// How a stream or frame may begin: alternatives, each the lowest and highest value of every byte.
pub(super) type Magic = &'static [&'static [(u8, u8)]];

/// What a few bytes have in common with a [`Magic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// They begin with it.
    Begins,
    /// They end before it is told: all of them fit.
    Cut,
    /// They are something else.
    Other,
}

/// Compares the first bytes of something with `magic`.
pub(super) fn look(head: &[u8], magic: Magic) -> Look {
    let fits = |pattern: &[(u8, u8)]| {
        pattern.iter().zip(head).all(|(&(lowest, highest), &byte)| (lowest..=highest).contains(&byte))
    };
    let mut answer = Look::Other;
    for pattern in magic.iter().filter(|pattern| fits(pattern)) {
        if head.len() >= pattern.len() {
            return Look::Begins;
        }
        if !head.is_empty() {
            answer = Look::Cut;
        }
    }
    answer
}

/// What follows where a frame may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another frame; none of it is consumed yet.
    Frame,
    /// Nothing more to decode. The input was read to its end, whatever it holds.
    End,
}

/// The bytes at hand, and where they lie in the stream.
pub(super) struct Input {
    chunks: Box<dyn Chunks>,
    chunk: Vec<u8>,
    /// Where the unread part of `chunk` starts.
    start: usize,
    /// Offset of `start` in the compressed bytes.
    offset: u64,
    format: &'static str,
    trailing_bytes: u64,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Input {
    /// Checks that a checkpoint needs nothing, for formats that are entered nowhere else.
    pub(super) fn check_start(&self, state: &Resume) -> Result<()> {
        match state {
            Resume::Start => Ok(()),
            Resume::Inside { .. } => Err(self.damaged("the checkpoint belongs to another format")),
        }
    }

    /// Goes on at `offset`, where `chunks` is positioned. `format` is for errors.
    pub(super) fn new(chunks: Box<dyn Chunks>, offset: u64, format: &'static str) -> Self {
        Input { chunks, chunk: Vec::new(), start: 0, offset, format, trailing_bytes: 0 }
    }

    /// Announces the compressed offset up to which input will be needed.
    pub(super) fn expect_until(&mut self, end: u64) {
        self.chunks.expect_until(end);
    }

    /// Offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes were passed over because they follow the last frame.
    pub(super) fn trailing_bytes(&self) -> u64 {
        self.trailing_bytes
    }

    /// The bytes at hand, at least one unless the input is at its end.
    pub(super) fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.chunk.len() {
            self.next_chunk()?;
        }
        Ok(self.at_hand())
    }

    /// The next bytes, at least `len_bytes` of them unless the input ends before.
    fn peek(&mut self, len_bytes: usize) -> Result<&[u8]> {
        if self.at_hand().len() < len_bytes {
            let mut joined = self.at_hand().to_vec();
            while joined.len() < len_bytes {
                self.next_chunk()?;
                if self.chunk.is_empty() {
                    break;
                }
                joined.extend_from_slice(&self.chunk);
            }
            (self.chunk, self.start) = (joined, 0);
        }
        Ok(self.at_hand())
    }

    /// Passes over bytes that were seen.
    pub(super) fn consume(&mut self, len_bytes: usize) {
        let len_bytes = len_bytes.min(self.at_hand().len());
        self.start = self.start.saturating_add(len_bytes);
        self.offset = self.offset.saturating_add(len_bytes as u64);
    }

    /// The next byte, consumed.
    pub(super) fn byte(&mut self) -> Result<u8> {
        let Some(&byte) = self.fill()?.first() else {
            return Err(self.truncated());
        };
        self.consume(1);
        Ok(byte)
    }

    /// The next `N` bytes, consumed.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    /// Decides what follows where a frame may begin. Before the `first` frame there must be one;
    /// after others anything else is passed over to the end and counted, except the cut off
    /// beginning of a frame, which is an error.
    pub(super) fn next_frame(&mut self, magic: Magic, first: bool) -> Result<Next> {
        let longest = magic.iter().map(|pattern| pattern.len()).max().unwrap_or(0);
        let head = self.peek(longest)?;
        let len_bytes = head.len();
        match look(head, magic) {
            Look::Begins => Ok(Next::Frame),
            Look::Cut => {
                self.consume(len_bytes);
                Err(self.truncated())
            }
            Look::Other if len_bytes == 0 && first => Err(self.truncated()),
            Look::Other if first => Err(self.damaged("wrong signature")),
            Look::Other => {
                self.pass_over_rest()?;
                Ok(Next::End)
            }
        }
    }

    /// Passes over zeros; how many there were.
    pub(super) fn skip_zeros(&mut self) -> Result<u64> {
        let from = self.offset;
        loop {
            let chunk = self.fill()?;
            let zeros = chunk.iter().take_while(|&&byte| byte == 0).count();
            let more = zeros > 0 && zeros == chunk.len();
            self.consume(zeros);
            if !more {
                return Ok(self.offset.saturating_sub(from));
            }
        }
    }

    /// Counts bytes that were consumed, and were none of the format's.
    pub(super) fn count_trailing(&mut self, len_bytes: u64) {
        self.trailing_bytes = self.trailing_bytes.saturating_add(len_bytes);
    }

    /// An error about the bytes here.
    pub(super) fn damaged(&self, reason: impl Into<String>) -> StreamFault {
        StreamFault::Decompress { format: self.format, offset: self.offset, reason: reason.into() }
    }

    /// The error for input that ends inside a frame.
    pub(super) fn truncated(&self) -> StreamFault {
        self.damaged("truncated: the data ends here")
    }

    /// The error for a decoder that got `at_end` and did nothing.
    pub(super) fn stuck(&self, at_end: bool) -> StreamFault {
        if at_end { self.truncated() } else { self.damaged("the decoder makes no progress") }
    }

    fn pass_over_rest(&mut self) -> Result<()> {
        loop {
            let len_bytes = self.fill()?.len();
            if len_bytes == 0 {
                return Ok(());
            }
            self.consume(len_bytes);
            self.count_trailing(len_bytes as u64);
        }
    }

    fn at_hand(&self) -> &[u8] {
        self.chunk.get(self.start..).unwrap_or_default()
    }

    /// Goes on to the next chunk; the one at hand is gone.
    fn next_chunk(&mut self) -> Result<()> {
        self.start = 0;
        self.chunks.next_chunk(&mut self.chunk).map_err(|cause| {
            self.chunk.clear();
            StreamFault::io_at("cannot read", self.offset, cause)
        })
    }
}

/// Bytes of a header or index, with their running CRC-32.
#[derive(Debug)]
pub(super) struct Summed<'a> {
    pub(super) input: &'a mut Input,
    crc: Hasher,
}

impl<'a> Summed<'a> {
    pub(super) fn new(input: &'a mut Input) -> Self {
        Summed { input, crc: Hasher::new() }
    }

    /// The next byte, consumed.
    pub(super) fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// The next `N` bytes, consumed.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.input.array()?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// The CRC-32 of all that was consumed this way.
    pub(super) fn crc(&self) -> u32 {
        self.crc.clone().finalize()
    }
}
