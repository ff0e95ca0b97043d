//! The input of a decoder: compressed bytes, read in chunks.
//!
//! This module owns the only read buffer of a decoder and the compressed offset in checkpoints and errors. It
//! compares magic numbers as patterns, and must not know anything else about a format.

use std::fmt;
use std::io::{self, Read};

use crc32fast::Hasher;

use super::Resume;
use crate::error::{StreamFault, StreamResult as Result};

/// Bytes requested from a reader at once. The size is large enough that reading costs little compared with
/// decoding, and small enough that resuming a stream for one span does not read much past the span.
pub(super) const BUFFER_BYTES: usize = 128 << 10;

/// A source of a decoder's input, in chunks that are not copied. Every reader implements this trait.
pub(crate) trait Chunks: Send {
    /// Replaces `chunk` by the bytes that follow; an empty chunk means the end. The buffer of `chunk` may be
    /// reused.
    ///
    /// # Errors
    /// When the bytes cannot be read; the call may then be repeated.
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> io::Result<()>;

    /// Announces that the decoder will need the input up to `end`, an offset in the compressed stream, and
    /// probably nothing after `end`. Input that is requested in ranges then covers all of it with one
    /// request. The default ignores the announcement.
    fn expect_until(&mut self, end: u64) {
        let _ = end;
    }
}

impl<R: Read + Send> Chunks for R {
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        read_chunk(self, chunk, BUFFER_BYTES)
    }
}

/// Replaces `chunk` by the result of one read of at most `max_bytes` bytes.
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

/// Patterns for the first bytes of a stream or frame: alternatives, each with the lowest and highest value of
/// every byte.
pub(super) type Magic = &'static [&'static [(u8, u8)]];

/// The result of comparing bytes with a [`Magic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The bytes begin with the magic.
    Begins,
    /// The bytes match, but end before the magic does.
    Cut,
    /// The bytes do not match.
    Other,
}

/// Compares `head`, the first bytes of a stream or frame, with `magic`.
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

/// Why a library does not decode its input.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The data violates the format, as the message says.
    Damaged(String),
    /// The memory cannot be allocated.
    NoMemory,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal::Damaged(reason)
    }
}

/// What follows at a position where a frame may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another frame; none of its bytes are consumed yet.
    Frame,
    /// The end: the input was read to its end, including any bytes that are not a frame.
    End,
}

/// The buffered bytes and their position in the stream.
pub(super) struct Input {
    chunks: Box<dyn Chunks>,
    chunk: Vec<u8>,
    /// Position in `chunk` of the first unread byte.
    start: usize,
    /// Offset in the compressed bytes of the byte at `start`.
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
    /// Checks that a checkpoint has no state, for formats that can resume only at [`Resume::Start`].
    pub(super) fn check_start(&self, state: &Resume) -> Result<()> {
        match state {
            Resume::Start => Ok(()),
            Resume::Inside { .. } => Err(self.damaged("the checkpoint belongs to another format")),
        }
    }

    /// Creates an input that begins at `offset`, where `chunks` is positioned. `format` is named in errors.
    pub(super) fn new(chunks: Box<dyn Chunks>, offset: u64, format: &'static str) -> Self {
        Input { chunks, chunk: Vec::new(), start: 0, offset, format, trailing_bytes: 0 }
    }

    /// Announces the compressed offset up to which input will be needed.
    pub(super) fn expect_until(&mut self, end: u64) {
        self.chunks.expect_until(end);
    }

    /// Returns the offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns how many bytes after the last frame were skipped.
    pub(super) fn trailing_bytes(&self) -> u64 {
        self.trailing_bytes
    }

    /// Returns the buffered bytes; empty only at the end of the input.
    pub(super) fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.chunk.len() {
            self.next_chunk()?;
        }
        Ok(self.at_hand())
    }

    /// Returns the next bytes, at least `len_bytes` unless the input ends before.
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

    /// Consumes buffered bytes.
    pub(super) fn consume(&mut self, len_bytes: usize) {
        let len_bytes = len_bytes.min(self.at_hand().len());
        self.start = self.start.saturating_add(len_bytes);
        self.offset = self.offset.saturating_add(len_bytes as u64);
    }

    /// Consumes and returns the next byte.
    pub(super) fn byte(&mut self) -> Result<u8> {
        let Some(&byte) = self.fill()?.first() else {
            return Err(self.truncated());
        };
        self.consume(1);
        Ok(byte)
    }

    /// Consumes and returns the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    /// Decides what follows at a position where a frame may begin. If `first`, a frame must follow. After
    /// other frames, bytes that are not a frame are counted and skipped to the end; the truncated beginning
    /// of a frame is an error.
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

    /// Skips zeros and returns their number.
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

    /// Counts consumed bytes that are not part of the format.
    pub(super) fn count_trailing(&mut self, len_bytes: u64) {
        self.trailing_bytes = self.trailing_bytes.saturating_add(len_bytes);
    }

    /// Creates the error for damaged bytes at the current offset.
    pub(super) fn damaged(&self, reason: impl Into<String>) -> StreamFault {
        StreamFault::Decompress { format: self.format, offset: self.offset, reason: reason.into() }
    }

    /// Creates the error for bytes at the current offset that a library does not decode.
    pub(super) fn refused(&self, refusal: Refusal) -> StreamFault {
        match refusal {
            Refusal::Damaged(reason) => self.damaged(reason),
            Refusal::NoMemory => {
                StreamFault::io_at("cannot decompress", self.offset, io::ErrorKind::OutOfMemory.into())
            }
        }
    }

    /// Creates the error for input that ends inside a frame.
    pub(super) fn truncated(&self) -> StreamFault {
        self.damaged("truncated: the data ends here")
    }

    /// Creates the error for a decoder that made no progress; `at_end` says whether the input had ended.
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

    /// Reads the next chunk in place of the current one.
    fn next_chunk(&mut self) -> Result<()> {
        self.start = 0;
        self.chunks.next_chunk(&mut self.chunk).map_err(|cause| {
            self.chunk.clear();
            StreamFault::io_at("cannot read", self.offset, cause)
        })
    }
}

/// Reads the bytes of a header or index and computes their CRC-32.
#[derive(Debug)]
pub(super) struct Summed<'a> {
    pub(super) input: &'a mut Input,
    crc: Hasher,
}

impl<'a> Summed<'a> {
    pub(super) fn new(input: &'a mut Input) -> Self {
        Summed { input, crc: Hasher::new() }
    }

    /// Consumes and returns the next byte.
    pub(super) fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Consumes and returns the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.input.array()?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// Returns the CRC-32 of all bytes consumed through this value.
    pub(super) fn crc(&self) -> u32 {
        self.crc.clone().finalize()
    }
}
