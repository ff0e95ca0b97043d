//! A byte-bounded cache of spans, shared by all layers of all images that are open.
//!
//! This module owns the budget and single-flight: however many readers want a span at once, it is
//! decoded once. It does not know what a span is made from.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// A span's bytes, shared between the cache and its readers.
pub type Bytes = Arc<Vec<u8>>;

/// Which span: the number that a layer got from [`SpanCache::register`], and its position in the layer.
pub type SpanKey = (u32, u32);

/// The cache. All methods may be called by many threads.
#[derive(Debug)]
pub struct SpanCache {
    state: Mutex<State>,
    budget_bytes: usize,
}

#[derive(Debug)]
struct State {
    ready: LruCache<SpanKey, Bytes>,
    ready_bytes: usize,
    flights: HashMap<SpanKey, Arc<Flight>>,
    next_layer: u32,
}

/// A span that somebody is decoding. `None` inside once it landed and failed.
#[derive(Debug, Default)]
struct Flight {
    landed: Mutex<Option<Option<Bytes>>>,
    landing: Condvar,
}

impl SpanCache {
    /// A cache that holds at most `budget_bytes` (and always the span that was asked for last).
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        let state =
            State { ready: LruCache::unbounded(), ready_bytes: 0, flights: HashMap::new(), next_layer: 0 };
        SpanCache { state: Mutex::new(state), budget_bytes }
    }

    /// A number for a layer that no other layer in this cache has.
    pub fn register(&self) -> u32 {
        let mut state = self.lock();
        state.next_layer += 1;
        state.next_layer
    }

    /// The span, from the cache or by `decode`, which runs without any lock held. Readers that come
    /// meanwhile wait; if it fails for the first, each tries for itself and gets its own error.
    ///
    /// # Errors
    /// What `decode` says.
    pub fn get_or_decode<E>(
        &self,
        key: SpanKey,
        decode: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        loop {
            let waiting = {
                let mut state = self.lock();
                if let Some(bytes) = state.ready.get(&key) {
                    return Ok(bytes.clone());
                }
                match state.flights.get(&key) {
                    Some(flight) => flight.clone(),
                    None => {
                        let flight = Arc::new(Flight::default());
                        state.flights.insert(key, flight.clone());
                        drop(state);
                        return self.fly(key, &flight, decode);
                    }
                }
            };
            if let Some(bytes) = waiting.wait() {
                return Ok(bytes);
            }
        }
    }

    /// True when the span is cached or on its way.
    #[must_use]
    pub fn has(&self, key: SpanKey) -> bool {
        let state = self.lock();
        state.ready.contains(&key) || state.flights.contains_key(&key)
    }

    fn fly<E>(
        &self,
        key: SpanKey,
        flight: &Flight,
        decode: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        // Lands even when `decode` panics, or the readers that wait would wait for ever.
        let mut landing = Landing { cache: self, key, flight, bytes: None };
        let bytes = Arc::new(decode()?);
        landing.bytes = Some(bytes.clone());
        Ok(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, key: SpanKey, bytes: Bytes, budget_bytes: usize) {
        self.ready_bytes += bytes.len();
        if let Some(replaced) = self.ready.put(key, bytes) {
            self.ready_bytes -= replaced.len();
        }
        while self.ready_bytes > budget_bytes && self.ready.len() > 1 {
            let Some((_, evicted)) = self.ready.pop_lru() else { break };
            self.ready_bytes -= evicted.len();
        }
    }
}

impl Flight {
    fn wait(&self) -> Option<Bytes> {
        let mut landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(bytes) = &*landed {
                return bytes.clone();
            }
            landed = self.landing.wait(landed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Landing<'a> {
    cache: &'a SpanCache,
    key: SpanKey,
    flight: &'a Flight,
    bytes: Option<Bytes>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let bytes = self.bytes.take();
        {
            let mut state = self.cache.lock();
            state.flights.remove(&self.key);
            if let Some(bytes) = &bytes {
                state.insert(self.key, bytes.clone(), self.cache.budget_bytes);
            }
        }
        *self.flight.landed.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        self.flight.landing.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn concurrent_readers_of_a_span_decode_it_once() {
        let cache = SpanCache::new(1 << 20);
        let decodes = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let bytes = cache.get_or_decode((1, 1), || {
                        decodes.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(50));
                        Ok::<_, Infallible>(vec![7; 10])
                    });
                    assert_eq!(*bytes.unwrap(), [7; 10]);
                });
            }
        });
        assert_eq!(decodes.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn the_budget_evicts_what_was_used_longest_ago() {
        let cache = SpanCache::new(25);
        for span in 0..3 {
            cache.get_or_decode((1, span), || Ok::<_, Infallible>(vec![0; 10])).unwrap();
            cache.get_or_decode((1, 0), || Ok::<_, Infallible>(vec![0; 10])).unwrap();
        }
        assert_eq!([0, 1, 2].map(|span| cache.has((1, span))), [true, false, true]);
    }

    #[test]
    fn a_failure_is_not_cached_and_a_panic_leaves_nobody_waiting() {
        let cache = SpanCache::new(100);
        assert_eq!(cache.get_or_decode((1, 1), || Err("no")), Err("no"));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cache.get_or_decode((1, 1), || -> Result<Vec<u8>, Infallible> { panic!("boom") })
        }));
        assert!(panicked.is_err());
        assert_eq!(*cache.get_or_decode((1, 1), || Ok::<_, Infallible>(vec![1])).unwrap(), [1]);
    }
}
