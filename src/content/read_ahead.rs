//! Reading ahead: decoding the next spans while somebody reads this one.
//!
//! One thread with a short queue serves all layers. When it is busy, hints are dropped: reading ahead
//! must never hold up a reader. This module owns how far ahead and when.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

use super::LayerBytes;
use crate::error::{Error, Result};

/// Spans that are decoded ahead of a sequential reader.
const DEPTH: u32 = 2;
/// Hints that may wait.
const QUEUE: usize = 8;

/// The thread that reads ahead. It ends when this is dropped.
#[derive(Debug)]
pub struct ReadAhead {
    hints: SyncSender<(Weak<LayerBytes>, u32)>,
}

impl ReadAhead {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start() -> Result<Self> {
        let (hints, queue) = sync_channel::<(Weak<LayerBytes>, u32)>(QUEUE);
        thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn(move || {
                for (layer, span) in queue {
                    if let Some(layer) = layer.upgrade() {
                        // Whoever needs the span will meet the same error and tell of it.
                        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| layer.span(span)));
                    }
                }
            })
            .map_err(|cause| Error::io("cannot start the read-ahead thread", cause))?;
        Ok(ReadAhead { hints })
    }

    /// A sequential reader arrived at span `at`.
    pub(super) fn after(&self, layer: &Arc<LayerBytes>, at: u32) {
        for next in at.saturating_add(1)..=at.saturating_add(DEPTH) {
            let wanted = next < layer.reader.index().span_count() && !layer.cache.has((layer.number, next));
            if wanted && self.hints.try_send((Arc::downgrade(layer), next)).is_err() {
                return;
            }
        }
    }
}
