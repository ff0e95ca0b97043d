//! Read-ahead in a known order: while one span is read, the next ones are decoded.
//!
//! A schedule lists the spans that will be read, in the order of their first read. The reader reports its
//! position, and the schedule requests a limited number of spans ahead of it. A schedule affects only speed:
//! a reader that leaves it, or whose spans were evicted, decodes them itself. This module owns the order and
//! when spans are passed. It does not know threads or files.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::LayerBytes;
use super::ahead::ReadAhead;
use crate::layer::entry::Extent;

/// An extent of a layer that will be read.
#[derive(Debug)]
pub(crate) struct ScheduledExtent<'a> {
    /// The position in the schedule, for example the number of a file. It never decreases from one extent to
    /// the next.
    pub place: u64,
    /// The layer.
    pub layer: &'a Arc<LayerBytes>,
    /// The extent in the layer's tar. Offsets increase within one place.
    pub extent: Extent,
}

/// What a span counts that is not announced, so that only so many are taken from the order at a time.
const UNANNOUNCED_BYTES: u64 = 1 << 20;

/// A known order of spans, for one reader or several that stay close together.
pub(crate) struct Schedule<'a>(Option<Mutex<State<'a>>>);

struct State<'a> {
    coming: Box<dyn Iterator<Item = ScheduledSpan> + Send + 'a>,
    read_ahead: Arc<ReadAhead>,
    /// The position of the reader that is furthest ahead: place and span.
    reached: (u64, u32),
    /// Spans that were taken from `coming` and announced to their remote source, and the bytes stored for
    /// them.
    announced: VecDeque<(ScheduledSpan, u64)>,
    announced_bytes: u64,
    /// The spans that were requested and not reached yet.
    under_way: VecDeque<ScheduledSpan>,
    /// The span that was reached last.
    current: Option<ScheduledSpan>,
}

/// A span at the place of its first read.
struct ScheduledSpan {
    place: (u64, u32),
    layer: Arc<LayerBytes>,
}

impl fmt::Debug for Schedule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").finish_non_exhaustive()
    }
}

impl<'a> Schedule<'a> {
    /// Creates a schedule of these extents, which are taken from the iterator a few at a time.
    pub(crate) fn new(
        read_ahead: Option<Arc<ReadAhead>>,
        scheduled: impl Iterator<Item = ScheduledExtent<'a>> + Send + 'a,
    ) -> Self {
        Schedule(read_ahead.map(|read_ahead| {
            // The last span of each layer: small files share spans.
            let mut last = HashMap::new();
            let coming = scheduled
                .flat_map(|scheduled| steps(&scheduled))
                .filter(move |step| last.insert(step.layer.number, step.place.1) != Some(step.place.1));
            Mutex::new(State {
                coming: Box::new(coming),
                read_ahead,
                reached: (0, 0),
                announced: VecDeque::new(),
                announced_bytes: 0,
                under_way: VecDeque::new(),
                current: None,
            })
        }))
    }

    /// Reports that a reader is at span `span` of the extent at `place`.
    pub(super) fn reached(&self, place: u64, span: u32) {
        if let Some(state) = &self.0 {
            state.lock().unwrap_or_else(PoisonError::into_inner).reached((place, span));
        }
    }
}

impl State<'_> {
    fn reached(&mut self, place: (u64, u32)) {
        if place < self.reached {
            return;
        }
        self.reached = place;
        while self.under_way.front().is_some_and(|step| step.place <= place) {
            let Some(step) = self.under_way.pop_front() else { break };
            // If it were decoded after it was read, it would only take memory.
            self.read_ahead.withdraw(&step.layer, step.place.1);
            self.pass(step);
        }
        while self.under_way.len() < self.read_ahead.depth() {
            let Some(step) = self.next() else { break };
            if step.place <= place {
                self.pass(step);
                continue;
            }
            self.read_ahead.hint(&step.layer, step.place.1);
            self.under_way.push_back(step);
        }
        self.announce();
    }

    fn next(&mut self) -> Option<ScheduledSpan> {
        let Some((step, stored_bytes)) = self.announced.pop_front() else { return self.coming.next() };
        self.announced_bytes = self.announced_bytes.saturating_sub(stored_bytes);
        Some(step)
    }

    /// Announces the next spans to their remote source, as far ahead as the source needs. Does nothing for
    /// local bytes.
    fn announce(&mut self) {
        let remote = self.under_way.back().and_then(|step| step.layer.reader().remote());
        let Some(ahead_bytes) = remote.map(|remote| remote.ahead_bytes(u64::MAX)) else { return };
        if self.announced_bytes > ahead_bytes / 2 {
            return;
        }
        let mut run: Option<(Arc<LayerBytes>, Range<u64>)> = None;
        while self.announced_bytes < ahead_bytes {
            let Some(step) = self.coming.next() else { break };
            let is_remote = step.layer.reader().remote().is_some();
            let range = step.layer.announced(step.place.1);
            let stored_bytes = range.as_ref().map_or(UNANNOUNCED_BYTES, |range| range.end - range.start);
            match (range, &mut run) {
                (None, _) => {}
                // Spans that follow each other share the byte in which one ends and the next begins.
                (Some(range), Some((layer, run)))
                    if layer.number == step.layer.number && (run.start..=run.end).contains(&range.start) =>
                {
                    run.end = run.end.max(range.end);
                }
                (Some(range), _) => prepare(run.replace((step.layer.clone(), range))),
            }
            self.announced_bytes = self.announced_bytes.saturating_add(stored_bytes);
            self.announced.push_back((step, stored_bytes));
            if !is_remote {
                break;
            }
        }
        prepare(run);
    }

    /// Makes `step` the current span, and marks the previous one as passed.
    fn pass(&mut self, step: ScheduledSpan) {
        if let Some(done) = self.current.replace(step) {
            done.layer.pass(done.place.1);
        }
    }
}

fn prepare(run: Option<(Arc<LayerBytes>, Range<u64>)>) {
    if let Some((layer, range)) = run
        && let Some(remote) = layer.reader().remote()
    {
        remote.prepare(range);
    }
}

fn steps(scheduled: &ScheduledExtent<'_>) -> impl Iterator<Item = ScheduledSpan> + use<> {
    let ScheduledExtent { place, layer, extent } = scheduled;
    // An extent outside the layer has no spans; reading it gives the error.
    let spans = layer.spans_of(*extent);
    let (place, layer) = (*place, (*layer).clone());
    spans.map(move |span| ScheduledSpan { place: (place, span), layer: layer.clone() })
}
