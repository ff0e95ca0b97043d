//! Reading in an order that is known beforehand: what comes next is decoded while this is read.
//!
//! A course is the list of spans that somebody is going to read, with where each of them is read first. The
//! reader says how far it is; the course keeps a window of spans ahead of it on their way, and no more. Nothing
//! depends on it but time: a reader that leaves the course, or whose spans were dropped, decodes them itself.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::LayerBytes;
use super::ahead::ReadAhead;
use crate::layer::entry::Extent;

/// Bytes of a layer that will be read.
#[derive(Debug)]
pub(crate) struct Stretch<'a> {
    /// Where on the course: the number of a file, say. Never falls from one stretch to the next.
    pub place: u64,
    /// Whose bytes.
    pub layer: &'a Arc<LayerBytes>,
    /// Which; within one place they rise.
    pub extent: Extent,
}

/// A known order of spans, read by one reader or by several that keep together.
pub(crate) struct Course<'a>(Option<Mutex<State<'a>>>);

struct State<'a> {
    coming: Box<dyn Iterator<Item = Step> + Send + 'a>,
    read_ahead: Arc<ReadAhead>,
    /// How far the first reader is.
    reached: (u64, u32),
    /// What is decoded or being decoded, and not reached.
    under_way: VecDeque<Step>,
    /// The step that was reached last.
    current: Option<Step>,
}

/// A span where it is read first.
struct Step {
    place: (u64, u32),
    layer: Arc<LayerBytes>,
}

impl fmt::Debug for Course<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Course").finish_non_exhaustive()
    }
}

impl<'a> Course<'a> {
    /// A course along `stretches`, which are asked for a window at a time.
    pub(crate) fn new(
        read_ahead: Option<Arc<ReadAhead>>,
        stretches: impl Iterator<Item = Stretch<'a>> + Send + 'a,
    ) -> Self {
        Course(read_ahead.map(|read_ahead| {
            // Of each layer, the span that the last step led to: small files share spans.
            let mut last = HashMap::new();
            let coming = stretches
                .flat_map(|stretch| steps(&stretch))
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
    fn pass(&mut self, step: Step) {
        if let Some(done) = self.current.replace(step) {
            done.layer.pass(done.place.1);
        }
    }
}

fn steps(stretch: &Stretch<'_>) -> impl Iterator<Item = Step> + use<> {
    let Stretch { place, layer, extent } = stretch;
    let index = layer.reader().index();
    let last = extent.len_bytes.checked_sub(1).and_then(|len| index.span_at(extent.offset.checked_add(len)?));
    let first = index.span_at(extent.offset).filter(|_| last.is_some());
    // Where there is none, reading tells so.
    let spans = first.unwrap_or(1)..=last.unwrap_or(0);
    let (place, layer) = (*place, (*layer).clone());
    spans.map(move |span| Step { place: (place, span), layer: layer.clone() })
}
