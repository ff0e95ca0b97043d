//! Indexes the members of an archive that is compressed as a whole, while the archive is decompressed for the
//! first time.
//!
//! The documents that name the layers and their digests can be at the end of the archive. So every member
//! that could be a layer is indexed in advance, and its index is stored under the digests that the pass
//! computed. If the image asks for that layer later, its index is in the store, and the archive is
//! decompressed only once. If the image asks for other digests, the index is not used. An error in this
//! module is only logged: the layer is indexed again when the image asks for it, and the error is reported
//! then.
//!
//! This module owns which members are indexed in advance, and how they are passed to their threads. It does
//! not know documents.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::Engine;
use crate::compress::{Compression, DecoderMemory, Patience};
use crate::error::{Error, Result, Subject};
use crate::layer::entry::Extent;
use crate::layer::growth::Growth;
use crate::layer::index::{Expected, Request, TarObserver, Verify, index_layer};
use crate::limits::Limits;
use crate::read_at::ReadAt;
use crate::store::{Key, Store};

/// Shortest member that is indexed in advance, in bytes: a shorter one is read again faster than its pass is
/// set up.
const MIN_BYTES: u64 = 1 << 20;
/// Length of the queue between the archive and the pass over a member, in pieces.
const QUEUE: usize = 4;

impl Engine {
    /// Returns an observer that indexes the members of an archive; `None` without a store for the indexes, or
    /// without verification.
    pub(super) fn members(&self, archive: &Subject, archive_bytes: u64) -> Option<Members> {
        let options = &self.inner.options;
        let store = options.store.clone().filter(|_| options.verify == Verify::Full)?;
        let pass = Pass {
            archive: archive.clone(),
            store,
            limits: options.limits,
            growth: Growth::new(archive_bytes, options.limits),
            decoders: self.inner.decoders.clone(),
        };
        Some(Members { pass: Arc::new(pass), ahead: VecDeque::new(), current: None, last: None })
    }
}

/// Indexes members while the archive is decompressed. Dropping it waits for the passes that are running.
#[derive(Debug)]
pub(super) struct Members {
    pass: Arc<Pass>,
    /// Positions of the members that have not ended yet.
    ahead: VecDeque<Extent>,
    /// The pass over the first of these members; `None` if it is not indexed.
    current: Option<Flow>,
    /// The pass over the previous member, which may still be at its last bytes.
    last: Option<JoinHandle<()>>,
}

/// What the passes over all members need.
#[derive(Debug)]
struct Pass {
    archive: Subject,
    store: Store,
    limits: Limits,
    growth: Growth,
    decoders: Arc<DecoderMemory>,
}

/// Sends the bytes of a member to its pass.
#[derive(Debug)]
struct Flow {
    full: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
    pass: JoinHandle<()>,
}

impl TarObserver for Members {
    fn file(&mut self, extent: Extent) {
        self.ahead.push_back(extent);
    }

    fn bytes(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        while let Some(member) = self.ahead.front().copied().filter(|member| member.offset < end) {
            let member_end = member.offset.saturating_add(member.len_bytes);
            let from = member.offset.max(offset);
            let to = member_end.min(end);
            let part =
                bytes.get(to_index(from - offset)..to_index(to.saturating_sub(offset))).unwrap_or_default();
            if from == member.offset {
                self.current = self.begin(member, part);
            }
            if self.current.as_ref().is_some_and(|flow| !flow.send(part)) {
                // The pass ended early: the member is not a tar, or is damaged.
                self.finish();
            }
            if member_end > end {
                return;
            }
            self.finish();
            self.ahead.pop_front();
        }
    }
}

impl Members {
    /// Starts a pass over the member that begins with `head`. Returns `None` if the member is too short or no
    /// thread can be started.
    fn begin(&mut self, member: Extent, head: &[u8]) -> Option<Flow> {
        if member.len_bytes < MIN_BYTES || head.len() < Compression::HEAD_BYTES {
            return None;
        }
        let compression = Compression::detect_head(head);
        let work = self.pass.clone();
        let (full, pieces) = sync_channel(QUEUE);
        let (empty, used) = sync_channel(QUEUE);
        let bytes = Arc::new(Passing::new(member.len_bytes, pieces, empty));
        let pass = thread::Builder::new().name("member".to_owned()).spawn(move || {
            if let Err(error) = index_member(&work, compression, bytes) {
                log::debug!(
                    "cannot index the archive member at offset {} in advance: {error}",
                    member.offset
                );
            }
        });
        Some(Flow { full, used, pass: pass.ok()? })
    }

    /// Ends the input of the pass over the current member, and waits for the previous pass.
    fn finish(&mut self) {
        if let Some(Flow { full, pass, .. }) = self.current.take() {
            drop(full);
            if let Some(last) = self.last.replace(pass) {
                // A panic in the pass is ignored: the layer is indexed again later.
                let _ = last.join();
            }
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.finish();
        if let Some(last) = self.last.take() {
            let _ = last.join();
        }
    }
}

impl Flow {
    /// Sends the bytes of `part`. Returns false when the pass has ended.
    fn send(&self, part: &[u8]) -> bool {
        let mut piece = self.used.try_recv().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(part);
        self.full.send(piece).is_ok()
    }
}

/// Indexes `bytes` as a layer, and stores the index under the digests that were computed.
fn index_member(pass: &Pass, compression: Compression, bytes: Arc<Passing>) -> Result<()> {
    let Pass { archive, store, limits, growth, decoders } = pass;
    let draft = store.draft()?;
    let indexed = index_layer(Request {
        bytes,
        what: archive,
        compression: Some(compression),
        expected: Expected { learn: true, ..Expected::default() },
        verify: Verify::Full,
        limits: *limits,
        scratch: Some(draft.scratch()?),
        progress: &|_| {},
        observer: None,
        growth,
        decoders,
        // The archive's own decoder holds memory until this pass has taken its bytes.
        patience: Patience::None,
    })?;
    if !indexed.is_complete {
        return Ok(());
    }
    let facts = indexed.index.facts();
    let Some(diff_id) = facts.diff_id else {
        return Err(Error::malformed(archive.clone(), "the index of an archive member has no diff_id"));
    };
    let blob = facts.blob_digest.filter(|_| compression != Compression::Plain).map(|blob| blob.to_string());
    store.save(&Key::layer(&diff_id, blob.as_deref()), draft, &indexed)
}

/// The bytes of a member, which can be read only once and from front to back.
struct Passing {
    len_bytes: u64,
    state: Mutex<State>,
}

struct State {
    pieces: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    /// Number of bytes of the piece that were read.
    used: usize,
    /// Offset of the next byte in the member.
    offset: u64,
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}

impl Passing {
    fn new(len_bytes: u64, pieces: Receiver<Vec<u8>>, empty: SyncSender<Vec<u8>>) -> Self {
        let state = State { pieces, empty, piece: Vec::new(), used: 0, offset: 0 };
        Passing { len_bytes, state: Mutex::new(state) }
    }
}

impl ReadAt for Passing {
    fn len(&self) -> u64 {
        self.len_bytes
    }

    /// Waits for the bytes. Fails if `offset` is not where the last read ended.
    fn read_exact_at(&self, mut buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != state.offset {
            return Err(io::Error::other("these bytes went by"));
        }
        while !buf.is_empty() {
            if state.used == state.piece.len() {
                let next = state.pieces.recv().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                let spent = std::mem::replace(&mut state.piece, next);
                state.used = 0;
                // The buffer is only returned to save an allocation, so a full queue does not matter.
                let _ = state.empty.try_send(spent);
            }
            let ready = state.piece.get(state.used..).unwrap_or_default();
            let len = ready.len().min(buf.len());
            let (now, later) = buf.split_at_mut(len);
            now.copy_from_slice(ready.get(..len).unwrap_or_default());
            buf = later;
            state.used += len;
            state.offset += len as u64;
        }
        Ok(())
    }
}

fn to_index(offset: u64) -> usize {
    // The offset is within a span, so it fits.
    usize::try_from(offset).unwrap_or(usize::MAX)
}
