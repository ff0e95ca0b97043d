//! The sequence of blocks: headers, bodies of extension headers, payloads, the end mark.
//!
//! This module owns the state of the parser and where a stream ends. A block is read in place from the
//! caller's chunk; only a block that is split between chunks is copied. Payloads are counted and not read.

use super::emit::{SparseFile, SparseText};
use super::header::{self, BLOCK_BYTES, Block, Header};
use super::member::Extensions;
use super::sparse::Runs;
use super::{Fault, Sink, check_limit};
use crate::error::{EntryName, StreamFault, StreamResult as Result};
use crate::limits::Limits;
use crate::path;
use crate::warning::WarningKind;

/// [`BLOCK_BYTES`] as `u64`.
const BLOCK: u64 = BLOCK_BYTES as u64;

/// The reason in errors of calls after the first error.
const FAILED: &str = "the stream failed before";

/// Parses one uncompressed tar stream, in chunks of any size.
///
/// Errors are [`StreamFault::Tar`], [`StreamFault::Limit`] and those of the sink. After the first error,
/// every call fails.
#[derive(Debug)]
pub(crate) struct TarParser {
    pub(super) limits: Limits,
    /// Number of bytes consumed so far.
    pub(super) offset: u64,
    pub(super) state: State,
    /// The first part of a block that is not complete yet.
    partial: Vec<u8>,
    /// The first part of an extension header's body.
    body: Vec<u8>,
    pub(super) extensions: Extensions,
    /// Name of the current member or extension header.
    pub(super) name: Vec<u8>,
    /// Offset of the current header.
    pub(super) header_offset: u64,
    pub(super) members: u64,
    pub(super) metadata_bytes: u64,
    pub(super) windows_told: bool,
}

/// What the parser expects next.
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
    /// Bytes that are skipped.
    Skip { payload: u64, padding: u64 },
    /// Nothing: the end mark was found.
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
    /// Creates a parser at the start of a stream.
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

    /// Parses the next bytes of the stream. The result does not depend on how the stream is divided into
    /// chunks.
    ///
    /// # Errors
    /// When the stream is malformed or exceeds a limit, and the errors of the sink.
    pub(crate) fn feed(&mut self, chunk: &[u8], sink: &mut impl Sink) -> Result<()> {
        let mut rest = chunk;
        while !rest.is_empty() {
            rest = self.step(rest, sink).map_err(|fault| self.error(fault))?;
        }
        Ok(())
    }

    /// Ends the stream. The stream may have no end block or a single one, and its last payload may lack
    /// padding (docs/semantics.md Z1). Extension headers that no entry follows are ignored with a warning, as
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

    /// Returns the number of bytes from here that need not be read to find the next header: the rest of a
    /// payload and its padding. A caller that can seek may [`skip`](Self::skip) them.
    #[must_use]
    pub(crate) fn skippable(&self) -> u64 {
        match self.state {
            State::Skip { payload, padding } => payload.saturating_add(padding),
            _ => 0,
        }
    }

    /// Skips `len_bytes`. The caller has checked that the stream contains them.
    ///
    /// # Errors
    /// When `len_bytes` is more than [`skippable`](Self::skippable).
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

    /// Returns the number of bytes consumed so far, including skipped ones.
    #[must_use]
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns true after the end mark, two zero blocks. Bytes after the mark belong to the layer but not to
    /// the archive (docs/semantics.md Z2): they need not be passed to the parser, and are ignored if they
    /// are.
    #[must_use]
    pub(crate) fn at_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Consumes at least one byte of `chunk` and returns the rest. Each arm sets the next state; an arm that
    /// fails leaves [`State::Failed`].
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

    /// Collects one block; a block that is complete in `chunk` is read in place.
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

    /// Processes a block, which ends at `self.offset`, by its kind.
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

    /// Prepares to read the body of an extension header. The header's own size counts, never the size in PAX
    /// (M13).
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

    /// Skips a global header, which does not affect any member (M11). Engines treat it as a member, so the
    /// extension headers before it apply to it and are dropped.
    fn global(&mut self, header: &Header<'_>) -> Result<(), Fault> {
        let len_bytes = self.extension_bytes(header)?;
        self.extensions.clear();
        self.skip_next(len_bytes, padding(len_bytes));
        Ok(())
    }

    fn extension_bytes(&mut self, header: &Header<'_>) -> Result<u64, Fault> {
        self.name.extend_from_slice(&header.name());
        let len_bytes = header.size()?;
        check_limit(self.limits.extension_bytes(), len_bytes)?;
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

    /// Processes an extension header's body that was read completely.
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

    /// Skips `len_bytes` of the payload and padding.
    fn pass(&mut self, payload: u64, padding: u64, len_bytes: u64) {
        self.advance(len_bytes);
        let past_payload = len_bytes.saturating_sub(payload);
        self.skip_next(payload.saturating_sub(len_bytes), padding.saturating_sub(past_payload));
    }

    /// Sets the state so that a header is expected after the payload and padding.
    pub(super) fn skip_next(&mut self, payload: u64, padding: u64) {
        self.state = match (payload, padding) {
            (0, 0) => State::Header,
            _ => State::Skip { payload, padding },
        };
    }

    pub(super) fn advance(&mut self, len_bytes: u64) {
        self.offset = self.offset.saturating_add(len_bytes);
    }

    /// Adds the current member to `fault`.
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

/// Returns the number of padding bytes after `len_bytes`, up to the end of their last block.
pub(super) fn padding(len_bytes: u64) -> u64 {
    len_bytes.wrapping_neg() % BLOCK
}

/// Splits `chunk` after `len_bytes`, or at its end if it is shorter.
pub(super) fn split(chunk: &[u8], len_bytes: u64) -> (&[u8], &[u8]) {
    usize::try_from(len_bytes).ok().and_then(|len| chunk.split_at_checked(len)).unwrap_or((chunk, &[]))
}
