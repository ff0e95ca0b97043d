//! Which spans of a remote layer to request ahead of its readers.
//!
//! This module owns how far ahead they are requested, and that spans without visible files are left out: a
//! reader of a tree skips them. It does not know the tree: its owner names the visible spans when it is asked.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::streams::{Depth, Streams};

/// The readers of one layer, and the spans that they will read.
#[derive(Debug, Default)]
pub(super) struct Requests {
    state: Mutex<State>,
    /// Whether the visible spans should be named: a reader goes forward, and nobody has named them yet.
    asks: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    streams: Streams,
    /// The visible spans, ascending. Readers are tracked by positions in this list.
    visible: Option<Vec<u32>>,
    is_named: bool,
}

impl Requests {
    /// Records a read of span `at`, and returns the spans to request.
    pub(super) fn reached(&self, at: u32, depth: impl Fn(u32) -> Depth) -> Vec<u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.visible.as_ref().is_some_and(|visible| visible.binary_search(&at).is_err()) {
            // Another tree reads the layer, too, such as that of the layer alone.
            state.forget_visible();
        }
        let position = state.visible.as_ref().map_or(at, |visible| position(visible, at));
        let ahead = state.streams.reached(position, depth).ahead;
        if !ahead.is_empty() && !state.is_named {
            self.asks.store(true, Ordering::Relaxed);
        }
        match &state.visible {
            None => ahead.collect(),
            Some(visible) => visible.get(indices(ahead, visible.len())).unwrap_or_default().to_vec(),
        }
    }

    /// Returns whether [`Requests::name_visible`] should be called.
    pub(super) fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// Returns whether a span is worth decoding ahead of a reader.
    pub(super) fn is_visible(&self, span: u32) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.visible.as_ref().is_none_or(|visible| visible.binary_search(&span).is_ok())
    }

    /// Names the spans that contain parts of visible files, ascending. Only the first call counts.
    pub(super) fn name_visible(&self, visible: Vec<u32>) {
        self.asks.store(false, Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_named {
            state.is_named = true;
            state.streams.renumber(|span| position(&visible, span));
            state.visible = Some(visible);
        }
    }
}

impl State {
    fn forget_visible(&mut self) {
        let Some(visible) = self.visible.take() else { return };
        let span = |position| usize::try_from(position).ok().and_then(|position| visible.get(position));
        let end = visible.last().map_or(0, |last| last.saturating_add(1));
        self.streams.renumber(|position| span(position).copied().unwrap_or(end));
    }
}

/// Returns the number of visible spans before `span`.
fn position(visible: &[u32], span: u32) -> u32 {
    u32::try_from(visible.partition_point(|visible| *visible < span)).unwrap_or(u32::MAX)
}

fn indices(positions: Range<u32>, len: usize) -> Range<usize> {
    let index = |position| usize::try_from(position).map_or(len, |index| index.min(len));
    index(positions.start)..index(positions.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(requests: &Requests, reads: &[u32]) -> Vec<Vec<u32>> {
        reads.iter().map(|at| requests.reached(*at, |_| Depth { spans: 4, batch: 1 })).collect()
    }

    #[test]
    fn spans_without_visible_files_are_not_requested_ahead() {
        let requests = Requests::default();
        assert!(requested(&requests, &[0]).concat().is_empty());
        assert!(!requests.asks(), "nothing goes forward yet");
        assert_eq!(requested(&requests, &[1]), [vec![2]]);
        assert!(requests.asks());
        requests.name_visible(vec![0, 1, 2, 50, 51, 60]);
        assert!(!requests.asks());
        let found = requested(&requests, &[1, 2, 50, 51, 60]);
        assert_eq!(found, [vec![], vec![50, 51], vec![60], vec![], vec![]]);
        assert!(requests.is_visible(50) && !requests.is_visible(3));
        assert!(!requests.asks());
    }

    #[test]
    fn a_reader_of_another_tree_ends_the_selection() {
        let requests = Requests::default();
        requests.name_visible(vec![0, 1, 10]);
        assert_eq!(requested(&requests, &[0, 1]), [vec![], vec![10]]);
        assert_eq!(requested(&requests, &[30, 31, 32]), [vec![], vec![32], vec![33, 34]]);
        assert!(requests.is_visible(3));
        requests.name_visible(vec![0, 10]);
        assert_eq!(requested(&requests, &[33]), [vec![35, 36, 37]], "only the first call counts");
        assert!(!requests.asks());
    }

    #[test]
    fn positions_beyond_the_last_span_are_left_out() {
        let requests = Requests::default();
        requests.name_visible(vec![3, 4]);
        assert!(requested(&requests, &[3, 4]).concat().is_empty());
        requests.name_visible(Vec::new());
        assert_eq!(indices(1..9, 2), 1..2);
    }
}
