//! Reads spans of an indexed layer, each decoded in the cheapest way and checked.
//!
//! This module owns the choice between the bytes as stored and the seekable copy, and the check of every
//! span against its hash, which only [`Verify::Off`] skips. It keeps no decoded spans; [`crate::content`]
//! caches them.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::copy::read_frame;
use super::entry::Extent;
use super::index::Verify;
use super::stored::StoredIndex;
use super::table::{LayerIndex, Span};
use super::windows::StoredCheckpoints;
use crate::compress::{Compression, DecoderMemory, Seekable};
use crate::error::{Error, Result, StreamFault, Subject};
use crate::memory::reserve;
use crate::read_at::{ReadAt, Remote};

/// Buffers for spans are allocated in multiples of this size, so nearly all have equal sizes. Memory freed
/// for one span can then be reused for another one on any thread.
const BUFFER_STEP_BYTES: usize = 256 << 10;

/// An indexed layer and its bytes.
#[derive(Debug)]
pub(crate) struct LayerReader {
    what: Subject,
    index: Arc<LayerIndex>,
    tar: Tar,
    copy: Option<Arc<dyn ReadAt>>,
    /// True if the copy was found to be damaged, so that the damage is reported once.
    copy_is_damaged: AtomicBool,
    verify: Verify,
    /// The stored bytes, if reading them may take long.
    slow: Option<Arc<dyn ReadAt>>,
}

/// The source of the uncompressed tar.
#[derive(Debug)]
enum Tar {
    /// The bytes as stored, which are not compressed.
    Plain(Arc<dyn ReadAt>),
    /// The stored bytes, decoded.
    Compressed(Seekable),
}

impl LayerReader {
    /// Creates a reader of `stored`, the bytes that `index` was built from. `what` names the layer in errors;
    /// `decoders` is the account of the memory of decoders.
    #[must_use]
    pub(crate) fn new(
        what: Subject,
        index: StoredIndex,
        stored: Arc<dyn ReadAt>,
        verify: Verify,
        decoders: Arc<DecoderMemory>,
    ) -> Self {
        let StoredIndex { index, windows, copy } = index;
        let facts = index.facts();
        let slow = stored.may_wait().then(|| Arc::clone(&stored));
        if let Some(remote) = slow.as_ref().and_then(|stored| stored.remote()) {
            remote.hold();
        }
        let tar = match facts.compression {
            Compression::Plain => Tar::Plain(stored),
            compression => {
                let checkpoints = StoredCheckpoints::new(index.clone(), windows);
                let (len_bytes, checkpoints) = (facts.tar_bytes, Arc::new(checkpoints));
                Tar::Compressed(Seekable::new(stored, compression, len_bytes, checkpoints, decoders))
            }
        };
        LayerReader { what, index, tar, copy, copy_is_damaged: AtomicBool::new(false), verify, slow }
    }

    /// Returns true when reading may take long, as [`ReadAt::may_wait`] reports for the bytes as stored.
    #[must_use]
    pub(crate) fn may_wait(&self) -> bool {
        self.slow.is_some()
    }

    /// Returns true when reading the span at `at` may take long. Spans in the seekable copy, and spans whose
    /// stored bytes are cached, are fast to read; cached bytes can still prove wrong.
    #[must_use]
    #[cfg(feature = "fuse")]
    pub(crate) fn span_may_wait(&self, at: u32) -> bool {
        let is_here = || self.remote().is_some_and(|remote| remote.has(self.stored_range(at)));
        self.may_wait() && !self.is_copied(at) && !is_here()
    }

    fn is_copied(&self, at: u32) -> bool {
        self.copy.is_some() && self.index.span(at).is_some_and(|span| span.copy.is_some())
    }

    /// Returns the remote source of the stored bytes, if there is one.
    #[must_use]
    pub(crate) fn remote(&self) -> Option<&dyn Remote> {
        self.slow.as_deref()?.remote()
    }

    /// Returns the range of the stored bytes from which the span at `at` is read; empty if the span is read
    /// from the seekable copy.
    #[must_use]
    pub(crate) fn stored_range(&self, at: u32) -> Range<u64> {
        match self.index.span(at).filter(|_| !self.is_copied(at)) {
            Some(Span { extent: Extent { offset, len_bytes }, .. }) => match &self.tar {
                Tar::Plain(_) => offset..offset.saturating_add(len_bytes),
                Tar::Compressed(stream) => stream.input_range(offset, len_bytes),
            },
            None => 0..0,
        }
    }

    /// Returns the layer's index.
    #[must_use]
    pub(crate) fn index(&self) -> &Arc<LayerIndex> {
        &self.index
    }

    /// Returns the layer's name in errors.
    #[must_use]
    pub(crate) fn what(&self) -> &Subject {
        &self.what
    }

    /// Decodes and checks one span, and replaces the contents of `buffer` with it.
    ///
    /// # Errors
    /// [`Error::Changed`] when the bytes differ from those that were indexed, [`Error::Io`] when they cannot
    /// be read or decoded.
    pub(crate) fn read_span(&self, at: u32, buffer: &mut Vec<u8>) -> Result<()> {
        let span = self.index.span(at).ok_or_else(|| self.no_span(at))?;
        let len = usize::try_from(span.extent.len_bytes).map_err(|_| self.no_span(at))?;
        let room = len.next_multiple_of(BUFFER_STEP_BYTES).saturating_sub(buffer.len());
        reserve(buffer, room)
            .map_err(|cause| StreamFault::io_at("cannot read", span.extent.offset, cause).of(&self.what))?;
        if self.read_copied(&span, buffer) {
            return Ok(());
        }
        match self.read_stored(&span, len, buffer) {
            Err(fault) if self.is_wrong(&fault) => {
                let Some(remote) = self.remote() else { return Err(fault) };
                log::info!("{fault}; requesting these bytes again");
                remote.refresh(self.stored_range(at));
                if let Tar::Compressed(stream) = &self.tar {
                    stream.drop_decoders();
                }
                self.read_stored(&span, len, buffer)
            }
            read => read,
        }
    }

    /// Reads the span from the stored bytes and checks it.
    fn read_stored(&self, span: &Span, len: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let offset = span.extent.offset;
        let read = match &self.tar {
            Tar::Plain(stored) => {
                // The old bytes are overwritten, so they are not cleared, which would cost as much as
                // reading.
                buffer.resize(len, 0);
                stored.read_exact_at(buffer, offset)
            }
            Tar::Compressed(stream) => {
                buffer.clear();
                stream.append_exact(buffer, offset, len)
            }
        };
        read.map_err(|cause| StreamFault::io_at("cannot read", offset, cause).of(&self.what))?;
        if !self.holds(span, buffer) {
            return Err(Error::changed(self.what.clone(), offset));
        }
        Ok(())
    }

    /// Fills `buf` from `offset` of the uncompressed tar without the rest of its span, which cannot be read.
    /// Returns false if that is not possible. Only bytes that their source itself compares with the files as
    /// they were indexed are read in this way: they are not checked against the hash of the span.
    pub(crate) fn read_alone(&self, buf: &mut [u8], offset: u64) -> bool {
        match &self.tar {
            Tar::Plain(stored) if stored.checks_files() => stored.read_exact_at(buf, offset).is_ok(),
            Tar::Plain(_) | Tar::Compressed(_) => false,
        }
    }

    /// Returns whether a span cannot be read because of its bytes, and not because they cannot be had.
    fn is_wrong(&self, fault: &Error) -> bool {
        match fault {
            Error::Changed { .. } => true,
            Error::Io { cause, .. } if self.verify == Verify::Full => {
                let fault = cause.get_ref().and_then(|cause| cause.downcast_ref::<StreamFault>());
                matches!(fault, Some(StreamFault::Decompress { .. }))
            }
            _ => false,
        }
    }

    /// Reads the span from the seekable copy; returns false when it is not there. A damaged copy makes reads
    /// slower, but the span is then decoded from the blob.
    fn read_copied(&self, span: &Span, buffer: &mut Vec<u8>) -> bool {
        let (Some(copy), Some(frame)) = (self.copy.as_ref(), span.copy) else { return false };
        let read = read_frame(copy, frame, span.extent.len_bytes, buffer);
        // The copy is written by imgmount, so it is checked even if verification of the image is off.
        let holds = || span.hash.is_none_or(|hash| *blake3::hash(buffer).as_bytes() == hash);
        let fault = match read {
            Ok(()) if holds() => return true,
            Ok(()) => "hash does not match".to_owned(),
            // The copy is not damaged, and decoding the blob may need less memory.
            Err(StreamFault::Io { cause, .. }) if cause.kind() == io::ErrorKind::OutOfMemory => return false,
            Err(error) => error.to_string(),
        };
        let known = self.copy_is_damaged.swap(true, Ordering::Relaxed);
        let level = if known { log::Level::Debug } else { log::Level::Warn };
        let at = span.extent.offset;
        log::log!(
            level,
            "{}: the seekable copy in the cache is damaged at offset {at} ({fault}): reads are slower; \
             `imgmount cache clear` removes the copy",
            self.what
        );
        false
    }

    fn holds(&self, span: &Span, bytes: &[u8]) -> bool {
        match (self.verify, span.hash) {
            (Verify::Off, _) => true,
            (Verify::Full, Some(hash)) => *blake3::hash(bytes).as_bytes() == hash,
            (Verify::Full, None) => false,
        }
    }

    fn no_span(&self, at: u32) -> Error {
        Error::malformed(self.what.clone(), format!("the index has no span {at}"))
    }
}
