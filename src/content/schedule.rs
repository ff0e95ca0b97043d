//! Reading in an order that is known beforehand: while one span is read, the next ones are decoded.
//!
//! A schedule lists the spans that will be read, in the order of their first read. The reader reports its
//! position, and the schedule keeps a bounded number of spans ahead of it being decoded. Only speed depends on
//! it: a reader that leaves the schedule, or whose spans were dropped, decodes them itself.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::LayerBytes;
use super::ahead::ReadAhead;
use crate::layer::entry::Extent;

/// Bytes of a layer that will be read.
#[derive(Debug)]
pub(crate) struct ScheduledExtent<'a> {
    /// Its position in the schedule, for example the number of a file. Never falls from one extent to the next.
    pub place: u64,
    /// Whose bytes.
    pub layer: &'a Arc<LayerBytes>,
    /// Which; within one place they rise.
    pub extent: Extent,
}

/// A known order of spans, read by one reader or by several that keep together.
pub(crate) struct Schedule<'a>(Option<Mutex<State<'a>>>);

struct State<'a> {
    coming: Box<dyn Iterator<Item = ScheduledSpan> + Send + 'a>,
    read_ahead: Arc<ReadAhead>,
    /// How far the first reader is.
    reached: (u64, u32),
    /// What is decoded or being decoded, and not reached.
    under_way: VecDeque<ScheduledSpan>,
    /// The step that was reached last.
    current: Option<ScheduledSpan>,
}

/// A span where it is read first.
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
    /// A schedule of these extents, which are taken from the iterator a few at a time.
    pub(crate) fn new(
        read_ahead: Option<Arc<ReadAhead>>,
        scheduled: impl Iterator<Item = ScheduledExtent<'a>> + Send + 'a,
    ) -> Self {
        Schedule(read_ahead.map(|read_ahead| {
            // Of each layer, the span that the last step led to: small files share spans.
            let mut last = HashMap::new();
            let coming = scheduled
                .flat_map(|scheduled| steps(&scheduled))
                .filter(move |step| last.insert(step.layer.number, step.place.1) != Some(step.place.1));
            Mutex::new(State {
                coming: Box::new(coming),
                read_ahead,
                reached: (0, 0),
                under_way: VecDeque::new(),
                current: None,
            })
        }))
    }

    /// A reader is at span `span` of what lies at `place`.
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
            // Decoded after it was forgotten, it would only be in the way.
            self.read_ahead.withdraw(&step.layer, step.place.1);
            self.pass(step);
        }
        while self.under_way.len() < self.read_ahead.depth() {
            let Some(step) = self.coming.next() else { break };
            if step.place <= place {
                self.pass(step);
                continue;
            }
            self.read_ahead.hint(&step.layer, step.place.1);
            self.under_way.push_back(step);
        }
    }

    /// Goes on to `step`, and is done with the one before.
    fn pass(&mut self, step: ScheduledSpan) {
        if let Some(done) = self.current.replace(step) {
            done.layer.pass(done.place.1);
        }
    }
}

fn steps(scheduled: &ScheduledExtent<'_>) -> impl Iterator<Item = ScheduledSpan> + use<> {
    let ScheduledExtent { place, layer, extent } = scheduled;
    let index = layer.reader().index();
    let last = extent.len_bytes.checked_sub(1).and_then(|len| index.span_at(extent.offset.checked_add(len)?));
    let first = index.span_at(extent.offset).filter(|_| last.is_some());
    // Where there is none, reading tells so.
    let spans = first.unwrap_or(1)..=last.unwrap_or(0);
    let (place, layer) = (*place, (*layer).clone());
    spans.map(move |span| ScheduledSpan { place: (place, span), layer: layer.clone() })
}
