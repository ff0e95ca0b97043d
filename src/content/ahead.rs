//! Decoding ahead: the threads that decode spans before they are asked for.
//!
//! As many threads as there are processors serve all layers; the first hint starts the first one. Hints wait
//! in a short queue, and one that finds it full is dropped: reading ahead must never hold up a reader. This
//! module owns how many threads there are and how far anybody may be ahead; which spans come next is for
//! [`super::schedule`], where that is known, and for [`super::streams`], where it is guessed.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use super::LayerBytes;
use crate::workers::cores;

/// Bounds what decoding ahead takes up on the largest machines.
const MAX_THREADS: usize = 64;
/// How far one reader may be ahead of itself, in spans for each thread: one that is being decoded and one that
/// is ready. How many bytes that may be at most is for the cache to say.
const SPANS_A_THREAD: usize = 2;
/// Hints that may wait, for each thread: those of a few readers.
const HINTS_A_THREAD: usize = 8;

/// The threads that decode ahead. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    arrival: Condvar,
    max_threads: usize,
}

#[derive(Debug, Default)]
struct Queue {
    hints: VecDeque<(Weak<LayerBytes>, u32)>,
    threads: usize,
    idle: usize,
    ended: bool,
}

impl Default for ReadAhead {
    /// As many threads as there are processors.
    fn default() -> Self {
        ReadAhead::new(cores())
    }
}

impl ReadAhead {
    /// At most so many threads, of which none is started yet.
    #[must_use]
    pub(crate) fn new(threads: usize) -> Self {
        let max_threads = threads.clamp(1, MAX_THREADS);
        ReadAhead {
            shared: Arc::new(Shared { queue: Mutex::default(), arrival: Condvar::new(), max_threads }),
        }
    }

    /// How many spans one reader may be ahead.
    pub(super) fn depth(&self) -> usize {
        self.shared.max_threads * SPANS_A_THREAD
    }

    /// A span may be asked for soon.
    pub(super) fn hint(&self, layer: &Arc<LayerBytes>, span: u32) {
        let mut queue = self.shared.lock();
        if queue.hints.len() >= self.shared.max_threads * HINTS_A_THREAD {
            return;
        }
        queue.hints.push_back((Arc::downgrade(layer), span));
        if queue.idle >= queue.hints.len() {
            self.shared.arrival.notify_one();
        } else if queue.threads < self.shared.max_threads {
            self.start(&mut queue);
        }
    }

    /// A span is asked for by now, or not needed: nobody need begin with it any more.
    pub(super) fn withdraw(&self, layer: &Arc<LayerBytes>, span: u32) {
        let mut queue = self.shared.lock();
        let hint =
            |(hinted, at): &(Weak<LayerBytes>, u32)| *at == span && hinted.as_ptr() == Arc::as_ptr(layer);
        if let Some(found) = queue.hints.iter().position(hint) {
            queue.hints.remove(found);
        }
    }

    fn start(&self, queue: &mut Queue) {
        let shared = self.shared.clone();
        match thread::Builder::new().name("read-ahead".to_owned()).spawn(move || shared.serve()) {
            Ok(_) => queue.threads += 1,
            // Everything works without, only slower; and there will be no more threads a moment later.
            Err(cause) => {
                log::debug!("cannot start a read-ahead thread: {cause}");
                queue.hints.clear();
            }
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.ended = true;
        queue.hints.clear();
        self.shared.arrival.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        while let Some((layer, span)) = self.next() {
            if let Some(layer) = layer.upgrade() {
                // Whoever asks for the span panics, too, where somebody is told.
                let _ = catch_unwind(AssertUnwindSafe(|| layer.decode_ahead(span)));
            }
        }
    }

    fn next(&self) -> Option<(Weak<LayerBytes>, u32)> {
        let mut queue = self.lock();
        loop {
            if queue.ended {
                return None;
            }
            if let Some(hint) = queue.hints.pop_front() {
                return Some(hint);
            }
            queue.idle += 1;
            queue = self.arrival.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

#[cfg(test)]
impl ReadAhead {
    /// How many threads were started.
    pub(super) fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}
