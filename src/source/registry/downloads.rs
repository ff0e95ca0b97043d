//! What the blobs of one registry share: limits on requests, threads that request ahead, the speed of the
//! link, and the end of all waits.
//!
//! This module owns how many requests run at once and which go first: a request that a reader waits for
//! precedes one that is made ahead. It does not know blocks or what a request is for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::content_cache::ContentCache;
use super::fetch::{Cancel, NetError, Wait};
use super::plan;
use crate::waiting;

/// Maximum number of requests to a registry at the same time, as browsers and container engines limit them.
const MAX_REQUESTS: usize = 4;
/// Of these, how many may be requests ahead of readers, so that a reader does not wait for all of them.
const MAX_REQUESTS_AHEAD: usize = 3;
/// Maximum number of requests ahead that are queued. Further ones are dropped; this affects only speed.
const MAX_QUEUED: usize = 64;
/// Interval in which a waiting thread looks whether its wait was cancelled.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// Bytes over which the speed of the link is measured: enough to outweigh the start of a connection.
const MEASURED_BYTES: u64 = 512 << 10;
/// The speed and latency that are assumed before the first measurement.
const ASSUMED_BYTES_A_SECOND: u64 = 12_500_000;
const ASSUMED_LATENCY: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce() + Send>;

/// The state that the blobs of one registry share.
#[derive(Debug)]
pub(super) struct Downloads {
    pub(super) cache: ContentCache,
    /// How long one read may take.
    pub(super) net_timeout: Duration,
    pub(super) cancel: Cancel,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a request ends or a job arrives.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    /// Readers that wait for their request to begin.
    urgent: usize,
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    ended: bool,
    speed: Speed,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("running", &self.running).field("jobs", &self.jobs.len()).finish()
    }
}

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A reader waits for it.
    Demand,
    /// It is made ahead of a reader.
    Ahead,
}

impl Downloads {
    /// Creates the state of a registry. A read ends after `net_timeout`, and all waits end with `cancel`.
    pub(super) fn new(cache: ContentCache, net_timeout: Duration, cancel: Cancel) -> Arc<Self> {
        Arc::new(Downloads { cache, net_timeout, cancel, shared: Arc::default() })
    }

    /// Returns the limits of a read that begins now.
    pub(super) fn wait(&self) -> Wait {
        let limit = self.wait_for_stream();
        let wait = Wait::new(Some(self.net_timeout), &self.cancel);
        Wait { deadline: limit.deadline.or(wait.deadline), ..wait }
    }

    /// Returns the limits of a stream that may take as long as bytes keep coming, except where the work of
    /// this thread has a limit.
    pub(super) fn wait_for_stream(&self) -> Wait {
        Wait { deadline: waiting::limit(self.net_timeout), ..Wait::new(None, &self.cancel) }
    }

    /// Waits until another request may begin. It runs until the returned value is dropped.
    ///
    /// # Errors
    /// [`NetError`] naming `host` when `wait` ends before.
    pub(super) fn begin(&self, urgency: Urgency, wait: &Wait, host: &str) -> Result<Running<'_>, NetError> {
        wait.left(host)?;
        let most = if urgency == Urgency::Demand { MAX_REQUESTS } else { MAX_REQUESTS_AHEAD };
        let mut state = self.shared.lock();
        state.urgent += usize::from(urgency == Urgency::Demand);
        let begun = loop {
            let is_next = urgency == Urgency::Demand || state.urgent == 0;
            if state.running < most && is_next {
                break Ok(());
            }
            if let Err(error) = wait.left(host) {
                break Err(error);
            }
            let waited = self.shared.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.urgent -= usize::from(urgency == Urgency::Demand);
        begun?;
        state.running += 1;
        Ok(Running(self))
    }

    /// Runs `job` on another thread. Drops it if too many jobs wait, and returns false.
    pub(super) fn run_ahead(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.shared.lock();
        if state.jobs.len() >= MAX_QUEUED {
            return false;
        }
        if state.idle <= state.jobs.len() && state.threads < MAX_REQUESTS_AHEAD {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name("fetch-ahead".into()).spawn(move || shared.serve()) {
                Ok(_) => state.threads += 1,
                Err(cause) => log::debug!("cannot start a thread that requests ahead: {cause}"),
            }
        }
        if state.threads == 0 {
            return false;
        }
        state.jobs.push_back(Box::new(job));
        self.shared.changed.notify_all();
        true
    }

    /// Records an answer: the time to its first byte, and the time that its body took.
    pub(super) fn record(&self, latency: Duration, body_bytes: u64, body_time: Duration) {
        self.shared.lock().speed.record(latency, body_bytes, body_time);
    }

    /// Returns how many bytes to request ahead of a sequential reader.
    pub(super) fn ahead_bytes(&self) -> u64 {
        let speed = self.shared.lock().speed.clone();
        // Requests that run at the same time share the link.
        let rate = speed.bytes_a_second.saturating_mul(MAX_REQUESTS_AHEAD as u64);
        plan::ahead_bytes(rate, speed.latency)
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let jobs = std::mem::take(&mut state.jobs);
        self.shared.changed.notify_all();
        drop(state);
        drop(jobs);
    }
}

/// A request that runs.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Downloads);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.shared.lock().running -= 1;
        self.0.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// The speed of the link: averages in which the last answers count most.
#[derive(Debug, Clone)]
struct Speed {
    bytes_a_second: u64,
    latency: Duration,
}

impl Default for Speed {
    fn default() -> Self {
        Speed { bytes_a_second: ASSUMED_BYTES_A_SECOND, latency: ASSUMED_LATENCY }
    }
}

impl Speed {
    fn record(&mut self, latency: Duration, body_bytes: u64, body_time: Duration) {
        self.latency = (self.latency * 3 + latency) / 4;
        if body_bytes < MEASURED_BYTES {
            return;
        }
        let micros = u64::try_from(body_time.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = body_bytes.saturating_mul(1_000_000) / micros;
        self.bytes_a_second = (self.bytes_a_second / 4 * 3).saturating_add(rate / 4);
    }
}
