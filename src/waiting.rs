//! How long the work of a thread may wait for a remote source.
//!
//! A read of a mount passes caches and decoders that do not know where bytes come from, and can wait several
//! times: for two spans, or twice for one whose bytes were wrong. All these waits together have one limit.
//! So the limit belongs to the thread that works on the read. This module does not know what is waited for.

use std::cell::Cell;
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
enum Limit {
    /// Each wait may take its full time.
    None,
    /// All waits together may take the time of one, from then on.
    Since(Instant),
    /// No wait is allowed.
    Never,
}

thread_local! {
    static LIMIT: Cell<Limit> = const { Cell::new(Limit::None) };
}

/// Runs `work`, whose waits on this thread end together as if they were one wait that began at `start`.
pub(crate) fn since<T>(start: Instant, work: impl FnOnce() -> T) -> T {
    limited(Limit::Since(start), work)
}

/// Runs `work`, whose waits on this thread fail at once.
pub(crate) fn never<T>(work: impl FnOnce() -> T) -> T {
    limited(Limit::Never, work)
}

fn limited<T>(limit: Limit, work: impl FnOnce() -> T) -> T {
    struct Restore(Limit);
    impl Drop for Restore {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    // Restored even if `work` panics.
    let _before = Restore(LIMIT.replace(limit));
    work()
}

/// Returns when a wait that begins now and may take `time` must end because of the work that this thread does.
/// `None`: the thread's work has no limit.
pub(crate) fn limit(time: Duration) -> Option<Instant> {
    match LIMIT.get() {
        Limit::None => None,
        Limit::Since(start) => start.checked_add(time),
        Limit::Never => Some(Instant::now()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(3600);

    #[test]
    fn all_waits_of_a_piece_of_work_end_together() {
        let start = Instant::now();
        assert_eq!(limit(TIME), None);
        since(start, || {
            assert_eq!(limit(TIME), Some(start + TIME));
            never(|| assert!(limit(TIME).is_some_and(|end| end < start + TIME)));
            assert_eq!(limit(TIME), Some(start + TIME), "the limit outside is valid again");
        });
        assert_eq!(limit(TIME), None);
    }

    #[test]
    fn a_panic_leaves_no_limit() {
        assert!(std::panic::catch_unwind(|| never(|| panic!("boom"))).is_err());
        assert_eq!(limit(TIME), None);
    }
}
