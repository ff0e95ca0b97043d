//! The threads that decode spans before they are requested.
//!
//! There are as many threads as cores, shared by all layers; the first hint starts the first one. Hints wait
//! in a short queue. If it is full, a new hint is dropped, because read-ahead must not delay a reader. This
//! module owns the number of threads and how far a reader may be ahead. It does not know which spans come
//! next: [`super::schedule`] lists them if the order is known, and [`super::streams`] predicts them
//! otherwise.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use super::LayerBytes;
use crate::workers::cores;

/// Limits the memory and threads of read-ahead on large machines.
const MAX_THREADS: usize = 64;
/// Spans that are decoded ahead of one reader, for each thread: one that is being decoded and one that is
/// ready. The cache limits their bytes.
const SPANS_A_THREAD: usize = 2;
/// Length of the queue for each thread, in hints: enough for a few readers.
const HINTS_A_THREAD: usize = 8;

/// The threads that decode ahead. They end when this value is dropped.
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
    /// As many threads as cores.
    fn default() -> Self {
        ReadAhead::new(cores())
    }
}

impl ReadAhead {
    /// Creates the queue for at most `threads` threads. None is started yet.
    #[must_use]
    pub(crate) fn new(threads: usize) -> Self {
        let max_threads = threads.clamp(1, MAX_THREADS);
        ReadAhead {
            shared: Arc::new(Shared { queue: Mutex::default(), arrival: Condvar::new(), max_threads }),
        }
    }

    /// Returns the number of spans that are decoded ahead of one reader.
    pub(super) fn depth(&self) -> usize {
        self.shared.max_threads * SPANS_A_THREAD
    }

    /// Requests that a span is decoded in advance. Dropped if the queue is full.
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

    /// Removes the hint for a span that a reader has requested or does not need.
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
            // Without a thread everything works, only slower. Starting more threads would probably fail, too.
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
                // A panic is ignored here: the reader that requests the span gets the same panic, and it is
                // reported there.
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
    /// Returns the number of threads that were started.
    pub(super) fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}
