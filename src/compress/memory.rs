//! The memory of decoders, shared by all streams that are open.
//!
//! A decoder of gzip holds 32 KiB of output, but one of zstd or xz can hold 128 MiB and more. An image can have
//! thousands of such streams, and a decoder is kept where its last read ended. This module owns how much memory
//! all decoders may hold together: which idle decoder makes room, and when work waits for room. It does not know
//! formats, or what is decoded.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Decoder;

/// Maximum number of idle decoders of one stream. That many readers can each read forward without starting a new
/// decoder.
const PARKED_MAX: usize = 4;

/// How long a read waits for memory that other decoders hold. After that it takes the memory anyway: a pass
/// over a large layer can hold it for minutes.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Memory of decoders that share none with others, in bytes: the largest window of xz.
const ALONE_BYTES: usize = 256 << 20;

/// How long work waits for memory that other decoders hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until there is room. Only for work on which no holder of memory waits.
    Long,
    /// A few seconds; then the memory is taken without room.
    Short,
    /// Not at all; without room the memory is refused.
    None,
}

/// The memory of all decoders.
#[derive(Debug)]
pub(crate) struct DecoderMemory {
    state: Mutex<State>,
    /// Notified when memory becomes free.
    freed: Condvar,
    /// Most memory of idle decoders, in bytes. The one that was used last is always kept.
    max_idle_bytes: usize,
    /// Memory in bytes, of idle decoders and of those in use, beyond which a decoder that needs more waits. One
    /// decoder may always work.
    max_bytes: usize,
    /// [`State::idle_bytes`] and [`State::used_bytes`], for readers without the lock.
    held_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Idle decoders, least recently used first.
    idle: VecDeque<Idle>,
    idle_bytes: usize,
    used_bytes: usize,
    streams: u64,
}

/// A decoder at the position where its last read ended.
#[derive(Debug)]
struct Idle {
    stream: u64,
    decoder: Decoder,
    bytes: usize,
}

/// Memory that a decoder in use holds. Dropping it frees the memory for other decoders.
pub(crate) struct Held {
    memory: Arc<DecoderMemory>,
    bytes: usize,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl DecoderMemory {
    /// Creates the account: idle decoders may hold `max_idle_bytes`, and all together `max_bytes`.
    #[must_use]
    pub(crate) fn new(max_idle_bytes: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(DecoderMemory {
            state: Mutex::default(),
            freed: Condvar::new(),
            max_idle_bytes: max_idle_bytes.min(max_bytes),
            max_bytes,
            held_bytes: AtomicUsize::new(0),
        })
    }

    /// Creates the account of streams that share no memory with others.
    #[must_use]
    pub(crate) fn alone() -> Arc<Self> {
        DecoderMemory::new(ALONE_BYTES, ALONE_BYTES)
    }

    /// Returns a new number for a stream, unique in this account.
    pub(super) fn register(&self) -> u64 {
        let mut state = self.lock();
        state.streams = state.streams.saturating_add(1);
        state.streams
    }

    /// Returns the memory that all decoders hold, in bytes.
    #[must_use]
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Returns an account for one decoder that holds nothing yet.
    #[must_use]
    pub(crate) fn begin(self: &Arc<Self>) -> Held {
        Held { memory: Arc::clone(self), bytes: 0 }
    }

    /// Takes out the idle decoder of `stream` that is closest before `offset`.
    pub(super) fn take(self: &Arc<Self>, stream: u64, offset: u64) -> Option<(Decoder, Held)> {
        let mut state = self.lock();
        let of_stream = |idle: &Idle| idle.stream == stream && idle.decoder.output_offset() <= offset;
        let found = state.idle.iter().enumerate().filter(|(_, idle)| of_stream(idle));
        let (at, _) = found.max_by_key(|(_, idle)| idle.decoder.output_offset())?;
        let Idle { decoder, bytes, .. } = state.idle.remove(at)?;
        state.idle_bytes = state.idle_bytes.saturating_sub(bytes);
        state.used_bytes = state.used_bytes.saturating_add(bytes);
        Some((decoder, Held { memory: Arc::clone(self), bytes }))
    }

    /// Keeps a decoder of `stream` for a read that continues where it is now.
    pub(super) fn park(&self, stream: u64, decoder: Decoder, held: Held) {
        let bytes = decoder.memory_bytes();
        let mut surplus = Vec::new();
        let mut state = self.lock();
        state.idle.push_back(Idle { stream, decoder, bytes });
        state.idle_bytes = state.idle_bytes.saturating_add(bytes);
        if state.idle.iter().filter(|idle| idle.stream == stream).count() > PARKED_MAX {
            let oldest = state.idle.iter().position(|idle| idle.stream == stream);
            surplus.extend(oldest.and_then(|oldest| state.remove(oldest)));
        }
        while state.idle_bytes > self.max_idle_bytes && state.idle.len() > 1 {
            surplus.extend(state.remove(0));
        }
        self.publish(&state);
        // Freeing a large window takes time, so the lock is released first.
        drop(state);
        drop(surplus);
        // The memory of the decoder is counted as idle now.
        drop(held);
    }

    /// Drops the idle decoders of `stream`.
    pub(super) fn forget(&self, stream: u64) {
        let mut state = self.lock();
        let all = std::mem::take(&mut state.idle);
        let (gone, kept): (VecDeque<Idle>, VecDeque<Idle>) =
            all.into_iter().partition(|idle| idle.stream == stream);
        state.idle = kept;
        let freed: usize = gone.iter().map(|idle| idle.bytes).sum();
        state.idle_bytes = state.idle_bytes.saturating_sub(freed);
        self.publish(&state);
        drop(state);
        self.freed.notify_all();
        drop(gone);
    }

    fn publish(&self, state: &State) {
        self.held_bytes.store(state.idle_bytes.saturating_add(state.used_bytes), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, at: usize) -> Option<Idle> {
        let idle = self.idle.remove(at)?;
        self.idle_bytes = self.idle_bytes.saturating_sub(idle.bytes);
        Some(idle)
    }
}

impl Held {
    /// Raises the memory of the decoder to `bytes`. Idle decoders make room; if that is not enough, this waits.
    /// Returns false if there is no room and none is waited for.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: usize, patience: Patience) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let memory = Arc::clone(&self.memory);
        let mut gone = Vec::new();
        let mut state = memory.lock();
        loop {
            let is_full = |state: &State| {
                let used = state.used_bytes.saturating_add(more);
                used.saturating_add(state.idle_bytes) > memory.max_bytes
            };
            while is_full(&state) && !state.idle.is_empty() {
                gone.extend(state.remove(0));
            }
            // A decoder that is alone may take any amount that its format allows.
            if !is_full(&state) || state.used_bytes == self.bytes {
                break;
            }
            state = match patience {
                Patience::None => {
                    memory.publish(&state);
                    return false;
                }
                Patience::Long => memory.freed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Patience::Short => {
                    let (state, waited) =
                        memory.freed.wait_timeout(state, MAX_WAIT).unwrap_or_else(PoisonError::into_inner);
                    if waited.timed_out() {
                        return self.take(state, more);
                    }
                    state
                }
            };
        }
        let grown = self.take(state, more);
        drop(gone);
        grown
    }

    fn take(&mut self, mut state: MutexGuard<'_, State>, more: usize) -> bool {
        state.used_bytes = state.used_bytes.saturating_add(more);
        self.bytes = self.bytes.saturating_add(more);
        self.memory.publish(&state);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut state = self.memory.lock();
        state.used_bytes = state.used_bytes.saturating_sub(self.bytes);
        self.memory.publish(&state);
        drop(state);
        self.memory.freed.notify_all();
    }
}
