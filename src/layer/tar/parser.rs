//! The order of blocks: headers, bodies of extension headers, payloads, the end mark.
//!
//! A block is read where it lies in the caller's chunk; only one that is cut by a chunk's end is
//! copied. Payloads are counted, never looked at.

use super::emit::{SparseFile, SparseText};
use super::header::{self, BLOCK_BYTES, Block, Header};
use super::member::Extensions;
use super::sparse::Runs;
use super::{Fault, Limits, Sink, check_limit};
use crate::error::{EntryName, StreamFault, StreamResult as Result};
use crate::path;
use crate::warning::WarningKind;

/// [`BLOCK_BYTES`], to count with.
const BLOCK: u64 = BLOCK_BYTES as u64;

/// What a parser says that goes on after an error.
const FAILED: &str = "the stream failed before";

/// Reads one uncompressed tar stream, in chunks of any size.
///
/// Errors are [`StreamFault::Tar`] and [`StreamFault::Limit`], and those of the sink; the first one is final.
#[derive(Debug)]
pub(crate) struct TarParser {
    pub(super) limits: Limits,
    /// Bytes taken so far.
    pub(super) offset: u64,
    pub(super) state: State,
    /// The front of a block of which the rest has not come yet.
    partial: Vec<u8>,
    /// The front of an extension header's body.
    body: Vec<u8>,
    pub(super) extensions: Extensions,
    /// Name of the member, or of the extension header, that is being read.
    pub(super) name: Vec<u8>,
    /// Offset of its header.
    pub(super) header_offset: u64,
    pub(super) members: u64,
    pub(super) metadata_bytes: u64,
    pub(super) windows_told: bool,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum State {
    /// A header, or the end.
    Header,
    /// A second zero block, or the end.
    HalfEnd,
    /// The rest of an extension header's body, which has `len_bytes` in all.
    Body { kind: Extension, len_bytes: u64 },
    /// Another block of an old GNU sparse map.
    SparseBlocks(Box<SparseFile>, Runs),
    /// More of a PAX 1.0 sparse map.
    SparseText(Box<SparseText>),
    /// Bytes that are not looked at.
    Skip { payload: u64, padding: u64 },
    /// Nothing: the end mark was seen.
    End,
    /// Nothing: an error was returned.
    Failed,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Extension {
    Pax,
    LongName,
    LongLink,
}

impl TarParser {
    /// A parser at the start of a stream.
    #[must_use]
    pub(crate) fn new(limits: Limits) -> Self {
        TarParser {
            limits,
            offset: 0,
            state: State::Header,
            partial: Vec::with_capacity(BLOCK_BYTES),
            body: Vec::new(),
            extensions: Extensions::default(),
            name: Vec::new(),
            header_offset: 0,
            members: 0,
            metadata_bytes: 0,
            windows_told: false,
        }
    }

    /// Takes the next bytes of the stream. How the stream is cut into chunks changes nothing.
    ///
    /// # Errors
    /// When the stream is malformed or exceeds a limit, and what the sink returns.
    pub(crate) fn feed(&mut self, chunk: &[u8], sink: &mut impl Sink) -> Result<()> {
        let mut rest = chunk;
        while !rest.is_empty() {
            rest = self.step(rest, sink).map_err(|fault| self.error(fault))?;
        }
        Ok(())
    }

    /// Tells that the stream is over. No end blocks, or one, will do; so will a last payload without
    /// its padding (docs/semantics.md Z1). Extension headers that no entry follows are ignored with a warning, as
    /// Go's reader ignores them (M21).
    ///
    /// # Errors
    /// When the stream ends within a header or a payload.
    pub(crate) fn finish(&mut self, sink: &mut impl Sink) -> Result<()> {
        let reason = match self.state {
            State::Failed => FAILED,
            State::Header | State::HalfEnd if !self.partial.is_empty() => {
                self.header_offset = self.offset.saturating_sub(self.partial.len() as u64);
                self.name.clear();
                "the stream ends within a header"
            }
            State::Body { .. } | State::SparseBlocks(..) => "the stream ends within the header",
            State::SparseText(_) | State::Skip { payload: 1.., .. } => "the stream ends within the payload",
            State::Header | State::HalfEnd | State::Skip { .. } | State::End => {
                if self.extensions.first_offset.is_some() {
                    sink.warning(WarningKind::ExtensionWithoutEntry, &self.name);
                    self.extensions.clear();
                }
                return Ok(());
            }
        };
        Err(self.error(reason.into()))
    }

    /// Bytes from here that nobody has to read to find the next header: what is left of a payload
    /// and its padding. A caller that can seek may [`skip`](Self::skip) them.
    #[must_use]
    pub(crate) fn skippable(&self) -> u64 {
        match self.state {
            State::Skip { payload, padding } => payload.saturating_add(padding),
            _ => 0,
        }
    }

    /// Takes `len_bytes` as read. The caller has seen to it that the stream holds them.
    ///
    /// # Errors
    /// When they are more than [`skippable`](Self::skippable).
    pub(crate) fn skip(&mut self, len_bytes: u64) -> Result<()> {
        match self.state {
            _ if len_bytes > self.skippable() => Err(self.error("more is skipped than can be".into())),
            State::Skip { payload, padding } => {
                self.pass(payload, padding, len_bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Bytes taken so far, skipped ones included.
    #[must_use]
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// True once the end mark, two zero blocks, was seen. What follows belongs to the layer but is
    /// no part of the archive (docs/semantics.md Z2): it need not be fed, and is not looked at if it is.
    #[must_use]
    pub(crate) fn at_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Takes some of `chunk`, at least a byte, and returns the rest. Each arm sets the next state;
    /// one that fails leaves [`State::Failed`].
    fn step<'c>(&mut self, chunk: &'c [u8], sink: &mut impl Sink) -> Result<&'c [u8], Fault> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Body { kind, len_bytes } => self.step_body(chunk, kind, len_bytes),
            State::SparseText(text) => self.step_sparse_text(chunk, *text, sink),
            State::Skip { payload, padding } => {
                let (taken, rest) = split(chunk, payload.saturating_add(padding));
                self.pass(payload, padding, taken.len() as u64);
                Ok(rest)
            }
            State::End => {
                self.state = State::End;
                self.advance(chunk.len() as u64);
                Ok(&[])
            }
            State::Failed => Err(FAILED.into()),
            state => self.step_block(chunk, state, sink),
        }
    }

    /// Collects one block, and reads it in place if it lies in `chunk` as a whole.
    fn step_block<'c>(
        &mut self,
        chunk: &'c [u8],
        state: State,
        sink: &mut impl Sink,
    ) -> Result<&'c [u8], Fault> {
        if self.partial.is_empty()
            && let Some((block, rest)) = chunk.split_first_chunk::<BLOCK_BYTES>()
        {
            self.advance(BLOCK);
            self.block(block, state, sink)?;
            return Ok(rest);
        }
        let (taken, rest) = split(chunk, BLOCK.saturating_sub(self.partial.len() as u64));
        self.advance(taken.len() as u64);
        self.partial.extend_from_slice(taken);
        if let Ok(block) = Block::try_from(self.partial.as_slice()) {
            self.partial.clear();
            self.block(&block, state, sink)?;
        } else {
            self.state = state;
        }
        Ok(rest)
    }

    /// Decides what a block is. It ends at `self.offset`.
    fn block(&mut self, block: &Block, state: State, sink: &mut impl Sink) -> Result<(), Fault> {
        if let State::SparseBlocks(file, mut runs) = state {
            let more = runs.push_gnu_block(block)?;
            return self.gnu_sparse_blocks(file, runs, more, sink);
        }
        let after_zeros = matches!(state, State::HalfEnd);
        if header::is_zero(block) {
            self.state = if after_zeros { State::End } else { State::HalfEnd };
            return Ok(());
        }
        self.header_offset = self.offset.saturating_sub(BLOCK);
        self.name.clear();
        if after_zeros {
            return Err("data follows a zero block".into());
        }
        let header = Header::parse(block)?;
        match header.typeflag() {
            b'x' => self.extension(&header, Extension::Pax),
            b'L' => self.extension(&header, Extension::LongName),
            b'K' => self.extension(&header, Extension::LongLink),
            b'g' => self.global(&header),
            _ => self.member(&header, sink),
        }
    }

    /// Prepares for the body of an extension header, whose own size counts, never PAX's (M13).
    fn extension(&mut self, header: &Header<'_>, kind: Extension) -> Result<(), Fault> {
        let len_bytes = self.extension_bytes(header)?;
        self.extensions.first_offset.get_or_insert(self.header_offset);
        self.body.clear();
        if len_bytes == 0 {
            return self.end_of_body(kind);
        }
        self.state = State::Body { kind, len_bytes };
        Ok(())
    }

    /// A global header says nothing about any member (M11). To engines it is a member of its own,
    /// so extension headers before it are spent on it.
    fn global(&mut self, header: &Header<'_>) -> Result<(), Fault> {
        let len_bytes = self.extension_bytes(header)?;
        self.extensions.clear();
        self.skip_next(len_bytes, padding(len_bytes));
        Ok(())
    }

    fn extension_bytes(&mut self, header: &Header<'_>) -> Result<u64, Fault> {
        self.name.extend_from_slice(&header.name());
        let len_bytes = header.size()?;
        check_limit("max_extension_bytes", len_bytes, self.limits.max_extension_bytes)?;
        Ok(len_bytes)
    }

    fn step_body<'c>(&mut self, chunk: &'c [u8], kind: Extension, len_bytes: u64) -> Result<&'c [u8], Fault> {
        let (taken, rest) = split(chunk, len_bytes.saturating_sub(self.body.len() as u64));
        self.advance(taken.len() as u64);
        self.body.extend_from_slice(taken);
        if self.body.len() as u64 == len_bytes {
            self.end_of_body(kind)?;
        } else {
            self.state = State::Body { kind, len_bytes };
        }
        Ok(rest)
    }

    /// Reads a body that has come as a whole.
    fn end_of_body(&mut self, kind: Extension) -> Result<(), Fault> {
        let name = header::c_string(&self.body);
        match kind {
            Extension::Pax => self.extensions.pax.read(&self.body)?,
            Extension::LongName => name.clone_into(&mut self.extensions.long_name),
            Extension::LongLink => name.clone_into(&mut self.extensions.long_link),
        }
        self.skip_next(0, padding(self.body.len() as u64));
        Ok(())
    }

    /// Counts `len_bytes` as taken from what can be skipped.
    fn pass(&mut self, payload: u64, padding: u64, len_bytes: u64) {
        self.advance(len_bytes);
        let past_payload = len_bytes.saturating_sub(payload);
        self.skip_next(payload.saturating_sub(len_bytes), padding.saturating_sub(past_payload));
    }

    /// Goes on with a header after that many bytes.
    pub(super) fn skip_next(&mut self, payload: u64, padding: u64) {
        self.state = match (payload, padding) {
            (0, 0) => State::Header,
            _ => State::Skip { payload, padding },
        };
    }

    pub(super) fn advance(&mut self, len_bytes: u64) {
        self.offset = self.offset.saturating_add(len_bytes);
    }

    /// Says what `fault` is about.
    fn error(&self, fault: Fault) -> StreamFault {
        let name = (!self.name.is_empty()).then(|| path::escape(&self.name));
        let entry = EntryName { name, offset: self.header_offset };
        match fault {
            Fault::Sink(error) => error,
            Fault::Malformed(reason) => StreamFault::Tar { entry, reason },
            Fault::Limit { limit, value, max } => {
                StreamFault::Limit { entry: Some(entry), limit, value, max }
            }
        }
    }
}

/// Bytes from `len_bytes` to the end of their last block.
pub(super) fn padding(len_bytes: u64) -> u64 {
    len_bytes.wrapping_neg() % BLOCK
}

/// The first `len_bytes` of `chunk`, or all of it, and the rest.
pub(super) fn split(chunk: &[u8], len_bytes: u64) -> (&[u8], &[u8]) {
    usize::try_from(len_bytes).ok().and_then(|len| chunk.split_at_checked(len)).unwrap_or((chunk, &[]))
}
