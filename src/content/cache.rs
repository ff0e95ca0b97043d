//! A cache of decoded spans with a limit in bytes, shared by all layers of all open images.
//!
//! This module owns the memory budget, and that a span is decoded once however many readers request it at the
//! same time. It does not know how spans are decoded or which are requested in advance.
//!
//! Spans that were decoded ahead and not read yet may take only a part of the budget. Spans that a sequential
//! reader has passed may take only a small part: they are seldom read again, and reusing their memory is
//! faster than mapping and clearing new memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::buffers::{Buffers, SpanBytes};
use crate::compress::DecoderMemory;

/// Divisor of the budget: the share for spans that were decoded ahead and not read yet. A larger share would
/// evict spans that are being read.
const AHEAD_SHARE: usize = 2;
/// Divisor of the budget: the share that is left for spans if decoders hold the rest.
const LEAST_SHARE: usize = 4;
/// Divisor of the budget: the share for spans that were passed. Walking a tree by path sometimes goes back in
/// a layer; it decodes no more spans with a share of 16 MiB than with all 256 MiB.
const PASSED_SHARE: usize = 16;

/// The bytes of a span, shared by the cache and its readers.
pub(crate) type CachedSpan = Arc<SpanBytes>;

/// Identifies a span: the layer's number from [`SpanCache::register`], and the position of the span in the
/// layer.
pub(crate) type SpanKey = (u32, u32);

/// The cache. All methods can be called from several threads.
#[derive(Debug)]
pub(crate) struct SpanCache {
    state: Mutex<State>,
    budget_bytes: usize,
    /// The accounts of decoders, whose memory is part of the budget.
    decoders: Vec<Arc<DecoderMemory>>,
    buffers: Arc<Buffers>,
}

#[derive(Debug)]
struct State {
    ready: LruCache<SpanKey, Ready>,
    /// Spans that were passed. They stay in this list even if they are read again.
    passed: LruCache<SpanKey, CachedSpan>,
    /// Memory of the spans in both lists.
    ready_bytes: usize,
    passed_bytes: usize,
    /// Memory of spans that were decoded ahead, or are being decoded ahead, and that no reader has requested
    /// yet.
    ahead_bytes: usize,
    flights: HashMap<SpanKey, Arc<Flight>>,
    next_layer: u32,
}

#[derive(Debug)]
struct Ready {
    bytes: CachedSpan,
    /// No reader has requested the span yet.
    ahead: bool,
}

/// A span that is being decoded. `landed` is `Some(None)` if decoding failed.
#[derive(Debug, Default)]
struct Flight {
    landed: Mutex<Option<Option<CachedSpan>>>,
    landing: Condvar,
    /// No reader has requested the span yet.
    ahead: AtomicBool,
}

impl SpanCache {
    /// Creates a cache of at most `budget_bytes`. It always holds the span that was requested last.
    #[must_use]
    pub(crate) fn new(budget_bytes: usize) -> Self {
        SpanCache::sharing(budget_bytes, Vec::new())
    }

    /// Creates a cache that shares `budget_bytes` with the decoders of these accounts: the more memory they hold,
    /// the less is left for spans, down to [`LEAST_SHARE`].
    #[must_use]
    pub(crate) fn sharing(budget_bytes: usize, decoders: Vec<Arc<DecoderMemory>>) -> Self {
        let state = State {
            ready: LruCache::unbounded(),
            passed: LruCache::unbounded(),
            ready_bytes: 0,
            passed_bytes: 0,
            ahead_bytes: 0,
            flights: HashMap::new(),
            next_layer: 0,
        };
        SpanCache { state: Mutex::new(state), budget_bytes, decoders, buffers: Arc::default() }
    }

    /// Returns the maximum memory of spans that were decoded ahead and not read yet, in bytes.
    #[must_use]
    pub(crate) fn ahead_max_bytes(&self) -> usize {
        self.room_bytes() / AHEAD_SHARE
    }

    /// Returns the maximum memory of spans, in bytes.
    fn room_bytes(&self) -> usize {
        let held: usize = self.decoders.iter().map(|decoders| decoders.held_bytes()).sum();
        self.budget_bytes.saturating_sub(held).max(self.budget_bytes / LEAST_SHARE)
    }

    /// Returns a new number for a layer, unique in this cache.
    pub(crate) fn register(&self) -> u32 {
        let mut state = self.lock();
        state.next_layer += 1;
        state.next_layer
    }

    /// Returns the span from the cache, or decodes it with `decode`, which runs without a lock. `decode` gets
    /// a buffer with arbitrary content and must leave only the span in it. Readers that request the span
    /// meanwhile wait. If decoding fails, each of them tries it again and gets its own error. A reader waits
    /// until `end` at most, and then decodes the span itself.
    ///
    /// # Errors
    /// The error of `decode`.
    pub(crate) fn get_or_decode<E>(
        &self,
        key: SpanKey,
        end: Option<Instant>,
        decode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<CachedSpan, E> {
        loop {
            let waiting = {
                let mut state = self.lock();
                if let Some(bytes) = state.get(key) {
                    return Ok(bytes);
                }
                match state.flights.get(&key) {
                    Some(flight) => {
                        let flight = flight.clone();
                        flight.ahead.store(false, Ordering::Relaxed);
                        flight
                    }
                    None => {
                        let flight = Arc::new(Flight::default());
                        state.flights.insert(key, flight.clone());
                        drop(state);
                        return self
                            .fly(Landing { cache: self, key, flight, reserved: 0, bytes: None }, decode);
                    }
                }
            };
            match waiting.wait(end) {
                Some(Some(bytes)) => return Ok(bytes),
                Some(None) => {}
                None => return self.decode(decode),
            }
        }
    }

    /// Returns the span if it is in the cache. Does not wait for a span that is being decoded.
    #[must_use]
    #[cfg(feature = "fuse")]
    pub(crate) fn ready(&self, key: SpanKey) -> Option<CachedSpan> {
        self.lock().get(key)
    }

    /// Decodes a span of `len_bytes` bytes that may be requested later. Does nothing if it is in the cache or
    /// being decoded, or if the spans decoded ahead take their share of the budget already.
    pub(crate) fn decode_ahead<E>(
        &self,
        key: SpanKey,
        len_bytes: usize,
        decode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) {
        let flight = Arc::new(Flight { ahead: AtomicBool::new(true), ..Flight::default() });
        let mut state = self.lock();
        let room = self.ahead_max_bytes().saturating_sub(state.ahead_bytes);
        if state.has(key) || len_bytes > room {
            return;
        }
        state.ahead_bytes += len_bytes;
        state.flights.insert(key, flight.clone());
        drop(state);
        // A reader that requests the span gets the same error and reports it.
        let _ = self.fly(Landing { cache: self, key, flight, reserved: len_bytes, bytes: None }, decode);
    }

    /// Marks a span as passed by a sequential reader: it is evicted before spans that were not passed.
    pub(crate) fn pass(&self, key: SpanKey) {
        let evicted = self.lock().pass(key, self.room_bytes() / PASSED_SHARE);
        // Memory is freed without holding the lock.
        drop(evicted);
    }

    /// Returns whether the span is in the cache or being decoded.
    #[must_use]
    pub(crate) fn has(&self, key: SpanKey) -> bool {
        self.lock().has(key)
    }

    fn fly<E>(
        &self,
        mut landing: Landing<'_>,
        decode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<CachedSpan, E> {
        // `landing` is dropped even if `decode` panics; otherwise the waiting readers would wait forever.
        let bytes = self.decode(decode)?;
        landing.bytes = Some(bytes.clone());
        Ok(bytes)
    }

    fn decode<E>(&self, decode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<CachedSpan, E> {
        let mut buffer = self.buffers.take();
        let decoded = decode(&mut buffer);
        let bytes = Arc::new(SpanBytes::new(buffer, self.buffers.clone()));
        decoded?;
        Ok(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn get(&mut self, key: SpanKey) -> Option<CachedSpan> {
        let Some(ready) = self.ready.get_mut(&key) else { return self.passed.get(&key).cloned() };
        if std::mem::take(&mut ready.ahead) {
            self.ahead_bytes -= ready.bytes.memory_bytes();
        }
        Some(ready.bytes.clone())
    }

    fn has(&self, key: SpanKey) -> bool {
        self.ready.contains(&key) || self.passed.contains(&key) || self.flights.contains_key(&key)
    }

    /// Returns the spans that were evicted.
    fn insert(
        &mut self,
        key: SpanKey,
        bytes: CachedSpan,
        ahead: bool,
        budget_bytes: usize,
    ) -> Vec<CachedSpan> {
        let mut evicted = Vec::new();
        evicted.extend(self.remove(key));
        self.ready_bytes += bytes.memory_bytes();
        if ahead {
            self.ahead_bytes += bytes.memory_bytes();
        }
        self.ready.put(key, Ready { bytes, ahead });
        while self.ready_bytes > budget_bytes && self.ready.len() + self.passed.len() > 1 {
            let oldest = self.passed.peek_lru().map(|(key, _)| *key);
            let oldest = oldest.or_else(|| self.ready.peek_lru().map(|(key, _)| *key));
            evicted.extend(oldest.and_then(|oldest| self.remove(oldest)));
        }
        evicted
    }

    /// Returns the spans that were evicted.
    fn pass(&mut self, key: SpanKey, max_bytes: usize) -> Vec<CachedSpan> {
        let mut evicted = Vec::new();
        if self.ready.contains(&key)
            && let Some(bytes) = self.remove(key)
        {
            self.ready_bytes += bytes.memory_bytes();
            self.passed_bytes += bytes.memory_bytes();
            self.passed.put(key, bytes);
        }
        while self.passed_bytes > max_bytes {
            let Some((oldest, _)) = self.passed.peek_lru() else { break };
            let oldest = *oldest;
            evicted.extend(self.remove(oldest));
        }
        evicted
    }

    fn remove(&mut self, key: SpanKey) -> Option<CachedSpan> {
        if let Some(Ready { bytes, ahead }) = self.ready.pop(&key) {
            self.ready_bytes -= bytes.memory_bytes();
            if ahead {
                self.ahead_bytes -= bytes.memory_bytes();
            }
            return Some(bytes);
        }
        let bytes = self.passed.pop(&key)?;
        self.ready_bytes -= bytes.memory_bytes();
        self.passed_bytes -= bytes.memory_bytes();
        Some(bytes)
    }
}

impl Flight {
    /// Returns what was decoded, which is `None` after a failure; or `None` at `end`.
    fn wait(&self, end: Option<Instant>) -> Option<Option<CachedSpan>> {
        let mut landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(bytes) = &*landed {
                return Some(bytes.clone());
            }
            landed = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => self.landing.wait(landed).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    self.landing.wait_timeout(landed, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

struct Landing<'a> {
    cache: &'a SpanCache,
    key: SpanKey,
    flight: Arc<Flight>,
    /// Bytes of [`State::ahead_bytes`] that this span takes.
    reserved: usize,
    bytes: Option<CachedSpan>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let bytes = self.bytes.take();
        let evicted = {
            let mut state = self.cache.lock();
            state.flights.remove(&self.key);
            state.ahead_bytes -= self.reserved;
            let ahead = self.flight.ahead.load(Ordering::Relaxed);
            bytes.clone().map(|bytes| state.insert(self.key, bytes, ahead, self.cache.room_bytes()))
        };
        *self.flight.landed.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        self.flight.landing.notify_all();
        // Memory is freed after the waiting readers were woken.
        drop(evicted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Returns a decoder that gives ten bytes of `value`.
    fn fill(value: u8) -> impl Fn(&mut Vec<u8>) -> Result<(), Infallible> {
        move |buffer| {
            *buffer = vec![value; 10];
            Ok(())
        }
    }

    #[test]
    fn concurrent_readers_of_a_span_decode_it_once() {
        let cache = SpanCache::new(1 << 20);
        let decodes = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let bytes = cache.get_or_decode((1, 1), None, |buffer| {
                        decodes.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(50));
                        fill(7)(buffer)
                    });
                    assert_eq!(bytes.unwrap()[..], [7; 10]);
                });
            }
        });
        assert_eq!(decodes.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_budget_evicts_what_was_used_longest_ago() {
        let cache = SpanCache::new(25);
        for span in 0..3 {
            cache.get_or_decode((1, span), None, fill(0)).unwrap();
            cache.get_or_decode((1, 0), None, fill(0)).unwrap();
        }
        assert_eq!([0, 1, 2].map(|span| cache.has((1, span))), [true, false, true]);
    }

    #[test]
    fn a_failure_is_not_cached_and_a_panic_leaves_nobody_waiting() {
        let cache = SpanCache::new(100);
        assert_eq!(cache.get_or_decode((1, 1), None, |_| Err("no")).map(|bytes| bytes.len()), Err("no"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get_or_decode((1, 1), None, |_| -> Result<(), Infallible> { panic!("boom") })
        }));
        assert!(panicked.is_err());
        assert_eq!(cache.get_or_decode((1, 1), None, fill(1)).unwrap()[..], [1; 10]);
    }

    #[test]
    fn what_nobody_reads_takes_half_of_the_budget_at_most() {
        let cache = SpanCache::new(60);
        for span in 0..6 {
            cache.decode_ahead((1, span), 10, fill(1));
        }
        let here = |cache: &SpanCache| [0, 1, 2, 3, 4, 5].map(|span| cache.has((1, span)));
        assert_eq!(here(&cache), [true, true, true, false, false, false]);
        // A span that is read makes room for another one; a span that fails takes no room.
        cache.get_or_decode((1, 0), None, |_| Err(())).unwrap();
        cache.decode_ahead((1, 9), 10, |_| Err(()));
        cache.decode_ahead((1, 4), 10, fill(1));
        cache.decode_ahead((1, 5), 10, fill(1));
        assert_eq!(here(&cache), [true, true, true, false, true, false]);
        let state = cache.lock();
        assert_eq!((state.ready_bytes, state.ahead_bytes), (40, 30));
    }

    #[test]
    fn what_was_passed_takes_a_small_part_and_goes_first() {
        let cache = SpanCache::new(320);
        for span in 0..10 {
            cache.get_or_decode((1, span), None, fill(0)).unwrap();
            cache.pass((1, span));
        }
        let here =
            |spans: std::ops::Range<u32>| spans.filter(|span| cache.has((1, *span))).collect::<Vec<_>>();
        assert_eq!(here(0..10), [8, 9], "20 bytes of 320");
        // After it is read and passed again, the span is still in the list of passed spans.
        cache.get_or_decode((1, 8), None, fill(0)).unwrap();
        cache.pass((1, 8));
        cache.pass((1, 7));
        for span in 20..51 {
            cache.get_or_decode((1, span), None, fill(0)).unwrap();
        }
        assert_eq!(here(0..10), [8], "the one that was read less recently made room");
        assert_eq!(here(20..51).len(), 31);
        for span in 0..51 {
            cache.pass((1, span));
        }
        let state = cache.lock();
        assert_eq!((state.ready_bytes, state.passed_bytes, state.ahead_bytes), (20, 20, 0));
    }

    #[test]
    fn a_reader_that_waited_long_enough_decodes_the_span_itself() {
        let cache = SpanCache::new(100);
        thread::scope(|scope| {
            let (release, gate) = std::sync::mpsc::channel();
            let (begun, wait) = std::sync::mpsc::channel();
            let cache = &cache;
            scope.spawn(move || {
                cache.get_or_decode((1, 1), None, |buffer| {
                    begun.send(()).unwrap();
                    gate.recv().unwrap();
                    fill(3)(buffer)
                })
            });
            wait.recv().unwrap();
            let late = cache.get_or_decode((1, 1), Some(Instant::now()), |_| Err("late"));
            assert_eq!(late.map(|bytes| bytes.len()), Err("late"));
            assert_eq!(cache.get_or_decode((1, 1), Some(Instant::now()), fill(4)).unwrap()[..], [4; 10]);
            release.send(()).unwrap();
        });
        assert_eq!(cache.get_or_decode((1, 1), None, fill(5)).unwrap()[..], [3; 10]);
    }

    #[test]
    fn a_span_that_is_asked_for_on_its_way_is_not_ahead_any_more() {
        let cache = SpanCache::new(100);
        thread::scope(|scope| {
            let (begun, wait) = std::sync::mpsc::channel();
            let cache = &cache;
            scope.spawn(move || {
                cache.decode_ahead((1, 1), 10, |buffer| {
                    begun.send(()).unwrap();
                    thread::sleep(Duration::from_millis(50));
                    fill(3)(buffer)
                });
            });
            wait.recv().unwrap();
            assert_eq!(cache.lock().ahead_bytes, 10);
            assert_eq!(cache.get_or_decode((1, 1), None, fill(4)).unwrap()[..], [3; 10]);
        });
        assert_eq!(cache.lock().ahead_bytes, 0);
    }
}
