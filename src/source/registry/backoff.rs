//! Pauses between attempts.
//!
//! They are random, so that many clients of a registry that failed do not come back at the same moment.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// How often something is tried before its fault is final.
pub(super) const MAX_ATTEMPTS: u32 = 5;
/// The longest pause after the first attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Returns a random pause after attempt `attempt`, counted from 1.
pub(super) fn pause(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(10);
    let longest = FIRST_PAUSE.saturating_mul(1 << doublings).min(MAX_PAUSE);
    // Each state has random keys, so the hash of anything is a random number.
    let thousandths = RandomState::new().hash_one(attempt) % 1000;
    longest.saturating_mul(u32::try_from(thousandths).unwrap_or(0)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_random_and_limited() {
        let pauses: Vec<Duration> = (0..100).map(|_| pause(1)).collect();
        assert!(pauses.iter().all(|pause| *pause < FIRST_PAUSE));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        assert!((0..100).any(|_| pause(4) > FIRST_PAUSE));
        assert!((1..40).all(|attempt| pause(attempt) < MAX_PAUSE));
        assert!(pause(u32::MAX) < MAX_PAUSE);
    }
}
