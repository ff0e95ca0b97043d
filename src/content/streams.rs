//! Predicts the spans that will be read next, from readers that go forward through a layer.
//!
//! Pure. This module owns what counts as sequential reading and how fast the number of predicted spans grows.
//! Random reads cause no read-ahead; a new sequential reader gets a little at first. This module does not
//! know what the spans hold or how they are decoded.

use std::collections::VecDeque;
use std::ops::Range;

/// Number of readers of a layer that are tracked. The least recent is dropped.
const MAX_STREAMS: usize = 16;
/// Number of spans that a sequential reader may skip, for example those of files that a higher layer
/// replaces.
const STEP_OVER: u32 = 1;
/// Number of spans that a request may lag behind its reader: kernels send several requests at a time, in any
/// order.
const LAG: u32 = 2;

/// The readers of one layer.
#[derive(Debug, Default)]
pub(super) struct Streams(VecDeque<Stream>);

/// The prediction for a reader.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prediction {
    /// Spans that the reader may read next.
    pub(super) ahead: Range<u32>,
    /// Spans that the reader has passed.
    pub(super) passed: Range<u32>,
}

#[derive(Debug)]
struct Stream {
    /// The furthest span that was read.
    at: u32,
    /// The first span that was not predicted yet.
    next: u32,
    /// Number of spans to predict; it doubles with each step forward.
    trust: u32,
    /// Number of spans that the reader has gone forward.
    run: u32,
}

/// How far to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    /// The largest number of spans to predict.
    pub(super) spans: u32,
    /// The number of spans to predict at a time. Fewer are predicted only for a reader that has just begun.
    pub(super) batch: u32,
}

impl Streams {
    /// Gives all spans other numbers, in the same order.
    pub(super) fn renumber(&mut self, number: impl Fn(u32) -> u32) {
        for stream in &mut self.0 {
            (stream.at, stream.next) = (number(stream.at), number(stream.next));
        }
    }

    /// Records a read of span `at`. Returns the spans that may follow and were not predicted before. `depth`
    /// says how many, for a reader that has gone forward by so many spans.
    pub(super) fn reached(&mut self, at: u32, depth: impl FnOnce(u32) -> Depth) -> Prediction {
        let found = self.0.iter().position(|stream| {
            let step = if stream.trust > 0 { 1 + STEP_OVER } else { 1 };
            (stream.at.saturating_sub(LAG)..=stream.at.saturating_add(step)).contains(&at)
        });
        let Some(mut stream) = found.and_then(|found| self.0.remove(found)) else {
            self.0.truncate(MAX_STREAMS - 1);
            self.0.push_front(Stream { at, next: at, trust: 0, run: 0 });
            return Prediction::default();
        };
        let mut predicted = Prediction::default();
        if at > stream.at {
            predicted.passed = stream.at.saturating_sub(LAG)..at.saturating_sub(LAG);
            stream.run = stream.run.saturating_add(at.saturating_sub(stream.at));
            stream.at = at;
            let depth = depth(stream.run);
            stream.trust = stream.trust.saturating_mul(2).clamp(1, depth.spans.max(1));
            let end = at.saturating_add(1).saturating_add(stream.trust.min(depth.spans));
            let start = stream.next.max(at.saturating_add(1));
            if end.saturating_sub(start) >= depth.batch.min(stream.trust) {
                predicted.ahead = start..end;
                stream.next = stream.next.max(end);
            }
        }
        self.0.push_front(stream);
        predicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A depth that does not depend on the reader.
    fn depth(spans: u32, batch: u32) -> impl FnOnce(u32) -> Depth {
        move |_| Depth { spans, batch }
    }

    fn predicted(streams: &mut Streams, reads: &[u32]) -> Vec<Vec<u32>> {
        reads.iter().map(|at| streams.reached(*at, depth(8, 1)).ahead.collect()).collect()
    }

    #[test]
    fn a_reader_that_goes_forward_is_trusted_more_and_more_up_to_the_depth() {
        let found = predicted(&mut Streams::default(), &[10, 11, 12, 13, 14, 15]);
        let expected: [&[u32]; 6] = [&[], &[12], &[13, 14], &[15, 16, 17], &[18, 19, 20, 21, 22], &[23]];
        assert_eq!(found, expected);
    }

    #[test]
    fn random_reads_predict_nothing() {
        let reads: Vec<u32> = (0..100).map(|at| at * 37 % 1000).collect();
        assert!(predicted(&mut Streams::default(), &reads).concat().is_empty());
        assert!(predicted(&mut Streams::default(), &[90, 80, 70, 60]).concat().is_empty());
    }

    #[test]
    fn readers_are_told_apart_and_requests_may_come_out_of_order() {
        let mut streams = Streams::default();
        let found = predicted(&mut streams, &[10, 500, 11, 501, 10, 500, 12, 502]);
        let expected: [&[u32]; 8] = [&[], &[], &[12], &[502], &[], &[], &[13, 14], &[503, 504]];
        assert_eq!(found, expected);
        assert_eq!(predicted(&mut streams, &[14, 13]), [vec![15, 16, 17, 18], vec![]], "12 to 14, and late");
    }

    #[test]
    fn passed_spans_are_reported_once_and_late() {
        let mut streams = Streams::default();
        let passed: Vec<u32> =
            [0, 1, 2, 3, 5, 6, 5, 6].iter().flat_map(|at| streams.reached(*at, depth(8, 1)).passed).collect();
        assert_eq!(passed, [0, 1, 2, 3]);
        assert_eq!(streams.reached(500, depth(8, 1)), Prediction::default());
    }

    #[test]
    fn a_batch_is_predicted_as_a_whole() {
        let mut streams = Streams::default();
        let found: Vec<Vec<u32>> =
            (10..20).map(|at| streams.reached(at, depth(8, 4)).ahead.collect()).collect();
        let lens: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(lens, [0, 1, 2, 0, 8, 0, 0, 0, 4, 0]);
        assert_eq!(found.concat(), (12..27).collect::<Vec<_>>());
    }

    #[test]
    fn the_depth_can_grow_with_the_way_of_the_reader() {
        let mut streams = Streams::default();
        let mut ends = |reads: std::ops::Range<u32>| -> Vec<u32> {
            let depth = |run: u32| Depth { spans: run.clamp(4, 100), batch: 1 };
            reads.map(|at| streams.reached(at, depth).ahead.end.saturating_sub(at + 1)).collect()
        };
        assert_eq!(ends(0..10), [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]);
        assert_eq!(ends(10..201)[188..], [100, 100, 100]);
        assert_eq!(ends(500..502), [0, 1], "another reader");
    }

    #[test]
    fn no_depth_is_nothing_ahead() {
        let mut streams = Streams::default();
        assert!((0..10).all(|at| streams.reached(at, depth(0, 1)).ahead.is_empty()));
    }
}
