//! Limits how often the same cause is logged: a host that does not answer would otherwise fill the log with
//! one message for each read.
//!
//! This module owns the interval and what is remembered. It does not know what the causes are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often a cause is logged.
const INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of causes that are remembered. With more, all are forgotten, and logged again.
const MAX_CAUSES: usize = 64;

/// The causes that were logged.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    logged: HashMap<String, Logged>,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    suppressed: u64,
}

impl Limiter {
    /// Returns whether `cause` is to be logged at the time `now`, with the number of times that it was not
    /// logged since it was logged last.
    pub(super) fn admit(&mut self, cause: &str, now: Instant) -> Option<u64> {
        if let Some(logged) = self.logged.get_mut(cause) {
            if now.saturating_duration_since(logged.at) < INTERVAL {
                logged.suppressed = logged.suppressed.saturating_add(1);
                return None;
            }
            logged.at = now;
            return Some(std::mem::take(&mut logged.suppressed));
        }
        if self.logged.len() >= MAX_CAUSES {
            self.logged.clear();
        }
        self.logged.insert(cause.to_owned(), Logged { at: now, suppressed: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_logged_once_a_minute_and_counted_meanwhile() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let admitted = [0, 1, 59, 60, 61, 200].map(|seconds| limiter.admit("a", at(seconds)));
        assert_eq!(admitted, [Some(0), None, None, Some(2), None, Some(1)]);
        assert_eq!(limiter.admit("b", at(200)), Some(0), "another cause is logged at once");
    }

    #[test]
    fn only_so_many_causes_are_remembered() {
        let mut limiter = Limiter::default();
        let now = Instant::now();
        for cause in 0..10 * MAX_CAUSES {
            assert_eq!(limiter.admit(&cause.to_string(), now), Some(0));
            assert!(limiter.logged.len() <= MAX_CAUSES);
        }
    }
}
