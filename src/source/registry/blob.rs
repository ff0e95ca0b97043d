//! A blob of a registry as bytes that can be read at any offset.
//!
//! Bytes come from the content cache; what is missing is requested. A block is requested once, however many
//! readers wait for it. This module owns who requests which blocks, and who waits. It does not know what the
//! bytes mean: a reader that finds wrong bytes calls [`Remote::refresh`].
//!
//! A pass over the whole blob ([`ReadAt::stream_all`]) requests what is missing with one request, and keeps it
//! on the way. If another process makes such a pass, this one reads what the other one has kept, and takes
//! over if the other one ends.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use super::content_cache::Content;
use super::downloads::{Downloads, LOOK, Urgency};
use super::fetch::{Fetch, Fetched, Wait};
use super::plan::{self, BLOCK_BYTES, blocks, bytes_of};
use super::transfer::{Step, Transfer};
use crate::digest::Digest;
use crate::read_at::{ReadAt, Remote};

/// The longest range that is brought as a whole before its first byte is returned, in bytes. A span takes
/// less; a longer range is read while it arrives.
const MAX_SPAN_BYTES: u64 = 8 << 20;

/// A blob of a registry. No request is made before the first read.
#[derive(Debug, Clone)]
pub(super) struct RemoteBlob(Arc<Blob>);

/// The state of a blob, shared by its readers.
pub(super) struct Blob {
    pub(super) fetch: Arc<dyn Fetch>,
    pub(super) digest: Digest,
    pub(super) len_bytes: u64,
    pub(super) downloads: Arc<Downloads>,
    /// Opened when the first byte is read: documents of an image can be read without touching its layers.
    opened: OnceLock<Content>,
    /// Keeps what is cached of the blob from being removed before that.
    held: OnceLock<Option<File>>,
    state: Mutex<State>,
    /// Notified when a block has arrived or will not arrive.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Blocks that a running transfer brings.
    under_way: BTreeSet<u64>,
    /// Blocks of requests ahead that have not begun.
    announced: BTreeSet<u64>,
    /// Blocks that were wrong and must be requested past caches.
    wrong: BTreeSet<u64>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("digest", &self.digest)
            .field("fetch", &self.fetch)
            .finish_non_exhaustive()
    }
}

impl RemoteBlob {
    /// Creates the blob that `fetch` requests and `digest` names.
    pub(super) fn new(fetch: Arc<dyn Fetch>, digest: Digest, downloads: &Arc<Downloads>) -> Self {
        let len_bytes = fetch.len();
        RemoteBlob(Arc::new(Blob {
            fetch,
            digest,
            len_bytes,
            downloads: Arc::clone(downloads),
            opened: OnceLock::new(),
            held: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }
}

impl ReadAt for RemoteBlob {
    fn len(&self) -> u64 {
        self.0.len_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.0.len_bytes);
        let range = offset..end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut span = SpanStream { blob: Arc::clone(&self.0), range, wait: None, block: Vec::new(), at: 0 };
        span.read_exact(buf)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        let range = range.start..range.end.min(self.0.len_bytes);
        if range.end.saturating_sub(range.start) > MAX_SPAN_BYTES {
            return Box::new(FillStream::new(Arc::clone(&self.0), range, false));
        }
        Box::new(SpanStream { blob: Arc::clone(&self.0), range, wait: None, block: Vec::new(), at: 0 })
    }

    fn stream_all(self: Arc<Self>) -> Box<dyn Read + Send> {
        Box::new(FillStream::new(Arc::clone(&self.0), 0..self.0.len_bytes, true))
    }

    fn remote(&self) -> Option<&dyn Remote> {
        Some(self)
    }

    fn may_wait(&self) -> bool {
        true
    }
}

impl Remote for RemoteBlob {
    fn prepare(&self, range: Range<u64>) {
        Blob::prepare(&self.0, &range);
    }

    #[cfg(feature = "fuse")]
    fn has(&self, range: Range<u64>) -> bool {
        blocks(&(range.start..range.end.min(self.0.len_bytes))).all(|block| self.0.content().has(block))
    }

    fn ahead_bytes(&self, read_bytes: u64) -> u64 {
        let link = self.0.downloads.ahead_bytes();
        if self.0.content().is_on_disk() { plan::far_ahead_bytes(link, read_bytes) } else { link }
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.downloads.wait_for_stream().deadline
    }

    fn refresh(&self, range: Range<u64>) {
        let wrong = blocks(&(range.start..range.end.min(self.0.len_bytes)));
        self.0.lock().wrong.extend(wrong.clone());
        self.0.content().forget(wrong);
    }

    fn hold(&self) {
        self.0.held.get_or_init(|| self.0.downloads.cache.hold(&self.0.digest));
    }

    fn proved(&self) {
        self.0.content().proved();
    }
}

impl Blob {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn content(&self) -> &Content {
        self.opened.get_or_init(|| self.downloads.cache.blob(&self.digest, self.len_bytes))
    }

    /// Returns whether a request for `range` must pass caches on the way.
    pub(super) fn must_be_fresh(&self, range: &Range<u64>) -> bool {
        self.lock().wrong.range(blocks(range)).next().is_some()
    }

    /// Keeps a block that has arrived, and wakes its readers.
    pub(super) fn arrived(&self, block: u64, bytes: &[u8]) {
        self.content().keep(block, bytes);
        let mut state = self.lock();
        state.under_way.remove(&block);
        state.wrong.remove(&block);
        self.changed.notify_all();
    }

    /// Brings all blocks of `range` that are missing, and waits for those that are under way.
    fn bring(blob: &Arc<Self>, range: &Range<u64>, wait: &Wait) -> io::Result<()> {
        loop {
            let (missing, mine) = {
                let state = blob.lock();
                let missing = blocks(range).any(|block| !blob.content().has(block));
                (missing, !blob.plan(&state, range).is_empty())
            };
            if !missing {
                return Ok(());
            }
            if mine {
                let _running = blob.downloads.begin(Urgency::Demand, wait, blob.fetch.host())?;
                Blob::request_first(blob, range, wait)?;
            } else {
                blob.wait_for_change(wait)?;
            }
        }
    }

    /// Makes the first of the requests that bring the blocks of `range`. Returns false if there is none.
    fn request_first(blob: &Arc<Self>, range: &Range<u64>, wait: &Wait) -> io::Result<bool> {
        let mut state = blob.lock();
        let Some(first) = blob.plan(&state, range).into_iter().next() else { return Ok(false) };
        let mut claim = Claim { blob: Arc::clone(blob), blocks: BTreeSet::new() };
        claim.add(&mut state, blocks(&first));
        drop(state);
        let mut transfer = Transfer::part(blob, first.start, first.end, wait.clone());
        loop {
            match transfer.step()? {
                Step::Block => {}
                Step::End => return Ok(true),
                Step::Whole(answer) => {
                    Blob::take_whole(blob, answer, claim);
                    return Ok(true);
                }
            }
        }
    }

    fn plan(&self, state: &State, range: &Range<u64>) -> Vec<Range<u64>> {
        plan::requests(range, self.len_bytes, |block| {
            !state.under_way.contains(&block) && !self.content().has(block)
        })
    }

    /// Reads the whole blob from `answer` on another thread: the host ignores ranges, so another request
    /// would bring the same bytes again. `claim` has the blocks that were requested.
    fn take_whole(blob: &Arc<Self>, answer: Fetched, mut claim: Claim) {
        log::info!("{}: '{}' ignores ranges; downloading the whole blob", blob.digest, blob.fetch.host());
        let mut state = blob.lock();
        let all = blocks(&(0..blob.len_bytes));
        claim.add(&mut state, all.filter(|block| !blob.content().has(*block)));
        drop(state);
        let wait = Wait::new(None, &blob.downloads.cancel);
        let mut transfer = Transfer::answered(blob, answer, wait);
        let work = move || {
            let ended = loop {
                match transfer.step() {
                    Ok(Step::Block) => {}
                    Ok(Step::End | Step::Whole(_)) => break Ok(()),
                    Err(cause) => break Err(cause),
                }
            };
            if let Err(cause) = ended {
                log::info!("{}: the download ended early: {cause}", claim.blob.digest);
            }
            drop(claim);
        };
        // Without a thread, the work is dropped, and the readers request what they need themselves.
        if let Err(cause) = thread::Builder::new().name("fetch-whole".into()).spawn(work) {
            log::warn!("cannot start a thread for a download: {cause}");
        }
    }

    fn prepare(blob: &Arc<Self>, range: &Range<u64>) {
        let mut state = blob.lock();
        let planned = plan::requests(range, blob.len_bytes, |block| {
            let coming = state.under_way.contains(&block) || state.announced.contains(&block);
            !coming && !blob.content().has(block)
        });
        for request in planned {
            state.announced.extend(blocks(&request));
            let (weak, range) = (Arc::downgrade(blob), request.clone());
            let queued = blob.downloads.run_ahead(move || {
                if let Some(blob) = weak.upgrade() {
                    Blob::request_ahead(&blob, &range);
                }
            });
            if !queued {
                state.announced.retain(|block| !blocks(&request).contains(block));
                break;
            }
        }
    }

    fn request_ahead(blob: &Arc<Self>, range: &Range<u64>) {
        let wait = blob.downloads.wait();
        let running = blob.downloads.begin(Urgency::Ahead, &wait, blob.fetch.host());
        blob.lock().announced.retain(|block| !blocks(range).contains(block));
        let done = running.map_err(io::Error::from).and_then(|_running| {
            while Blob::request_first(blob, range, &wait)? {}
            Ok(())
        });
        // A reader that needs the bytes gets an error of its own.
        done.unwrap_or_else(|cause| log::debug!("{}: not requested ahead: {cause}", blob.digest));
    }

    /// Waits until a block arrives, at most for [`LOOK`].
    fn wait_for_change(&self, wait: &Wait) -> io::Result<()> {
        wait.left(self.fetch.host())?;
        drop(self.changed.wait_timeout(self.lock(), LOOK).unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// The blocks that a transfer brings. If the transfer ends early, others may request them.
struct Claim {
    blob: Arc<Blob>,
    blocks: BTreeSet<u64>,
}

impl Claim {
    /// Adds the blocks that no other transfer brings.
    fn add(&mut self, state: &mut State, blocks: impl Iterator<Item = u64>) {
        self.blocks.extend(blocks.filter(|block| state.under_way.insert(*block)));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.blob.lock();
        state.under_way.retain(|block| !self.blocks.contains(block));
        self.blob.changed.notify_all();
    }
}

/// Reads a range that is brought before its first byte is returned.
struct SpanStream {
    blob: Arc<Blob>,
    range: Range<u64>,
    /// The limits of the whole read, from its first call on.
    wait: Option<Wait>,
    /// The current block, and the position in it.
    block: Vec<u8>,
    at: usize,
}

impl Read for SpanStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.range.is_empty() || buf.is_empty() {
            return Ok(0);
        }
        if self.at >= self.block.len() {
            self.next_block()?;
        }
        Ok(hand_out(&self.block, &mut self.at, &mut self.range, buf))
    }
}

impl SpanStream {
    fn next_block(&mut self) -> io::Result<()> {
        let wait = self.wait.get_or_insert_with(|| self.blob.downloads.wait());
        let block = self.range.start / BLOCK_BYTES;
        // A block that has arrived can be gone again: it was evicted from memory, or its file was truncated.
        while !self.blob.content().read(block, &mut self.block) {
            Blob::bring(&self.blob, &self.range, wait)?;
            wait.left(self.blob.fetch.host())?;
        }
        self.at = position(self.range.start, block);
        Ok(())
    }
}

/// Reads a long range, usually the whole blob, while it arrives.
struct FillStream {
    blob: Arc<Blob>,
    range: Range<u64>,
    transfer: Option<Transfer>,
    /// Whether this is a pass, which shares its work with passes of other processes. A reader of a part can
    /// pause for long, and must not hold them up.
    is_pass: bool,
    /// Whether this pass has the task of filling the blob.
    filling: bool,
    block: Vec<u8>,
    at: usize,
}

impl FillStream {
    fn new(blob: Arc<Blob>, range: Range<u64>, is_pass: bool) -> Self {
        FillStream { blob, range, transfer: None, is_pass, filling: false, block: Vec::new(), at: 0 }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let block = self.range.start / BLOCK_BYTES;
        let start = bytes_of(block, self.blob.len_bytes).start;
        let mut patience = Instant::now().checked_add(self.blob.downloads.net_timeout);
        self.transfer = self.transfer.take().filter(|transfer| transfer.is_at(start));
        while self.transfer.is_none() {
            if self.blob.content().read(block, &mut self.block) {
                self.at = position(self.range.start, block);
                return Ok(());
            }
            let under_way = self.blob.lock().under_way.contains(&block);
            self.filling = self.filling || (self.is_pass && !under_way && self.blob.content().begin_fill());
            let is_late = patience.is_some_and(|patience| Instant::now() >= patience);
            let wait = self.blob.downloads.wait_for_stream();
            if !under_way && (self.filling || !self.is_pass) || is_late {
                // A block may have arrived before the task was taken over.
                if !self.blob.content().has(block) {
                    let end = plan::run_end(start, self.range.end, self.blob.len_bytes, |block| {
                        !self.blob.content().has(block)
                    });
                    self.transfer = Some(Transfer::rest(&self.blob, start, end, wait));
                }
                patience = None;
            } else {
                self.blob.wait_for_change(&wait)?;
            }
        }
        self.step()
    }

    /// Brings a block with the transfer.
    fn step(&mut self) -> io::Result<()> {
        let Some(transfer) = &mut self.transfer else { return Ok(()) };
        let stepped = transfer.step();
        if !matches!(stepped, Ok(Step::Block)) {
            self.transfer = None;
            stepped?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.block.clear();
        self.block.extend_from_slice(transfer.bytes());
        self.at = position(self.range.start, self.range.start / BLOCK_BYTES);
        Ok(())
    }
}

impl Read for FillStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.range.is_empty() || buf.is_empty() {
            return Ok(0);
        }
        if self.at >= self.block.len() {
            self.next_block()?;
        }
        Ok(hand_out(&self.block, &mut self.at, &mut self.range, buf))
    }
}

impl Drop for FillStream {
    fn drop(&mut self) {
        if self.filling {
            self.blob.content().end_fill();
        }
    }
}

fn position(offset: u64, block: u64) -> usize {
    usize::try_from(offset.saturating_sub(block.saturating_mul(BLOCK_BYTES))).unwrap_or(usize::MAX)
}

/// Copies bytes of `block` from `at` on to `buf`, and moves `at` and the start of `range` forward.
fn hand_out(block: &[u8], at: &mut usize, range: &mut Range<u64>, buf: &mut [u8]) -> usize {
    let left = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let ready = block.get(*at..).unwrap_or_default();
    let len = ready.len().min(buf.len()).min(left);
    buf.get_mut(..len).unwrap_or_default().copy_from_slice(ready.get(..len).unwrap_or_default());
    *at = at.saturating_add(len);
    range.start = range.start.saturating_add(len as u64);
    len
}

#[cfg(test)]
mod tests;
