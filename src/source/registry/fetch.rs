//! Reading parts of one blob over the network: the interface between the protocol and the content cache.
//!
//! This module owns the trait [`Fetch`], the waits ([`Wait`], [`Cancel`]) and the causes of failure
//! ([`NetError`]). It does not know requests, hosts or caches.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Reads parts of one blob over the network. An implementation caches nothing.
pub(super) trait Fetch: Send + Sync + fmt::Debug {
    /// Returns the length of the blob in bytes, as its descriptor states it.
    fn len(&self) -> u64;

    /// Returns the registry that the blob comes from, for messages.
    fn host(&self) -> &str;

    /// Requests `range` (bytes, not empty, within the blob). With `fresh`, the request passes caches on its
    /// way (`Cache-Control: no-cache`). Waits no longer than `wait` allows for the start of the body; reads
    /// of the body end by `wait` too.
    ///
    /// # Errors
    /// [`NetError`] after all retries.
    fn fetch(&self, range: Range<u64>, fresh: bool, wait: &Wait) -> Result<Fetched, NetError>;
}

/// The answer to a request for a range.
pub(super) struct Fetched {
    /// Offset in the blob of the first byte of `body`: the start of the range for a `206` whose
    /// `Content-Range` was checked, and 0 for a `200`, whose body is the whole blob.
    pub(super) offset: u64,
    /// Length of `body` in bytes. It can be less than requested.
    pub(super) len_bytes: u64,
    /// The bytes. A connection that breaks is an error of kind [`io::ErrorKind::UnexpectedEof`], or the
    /// [`NetError`]; the reader requests the rest itself.
    pub(super) body: Box<dyn Read + Send>,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("offset", &self.offset).field("len_bytes", &self.len_bytes).finish()
    }
}

/// Why the network returned no bytes. Views choose their error codes by the variant, through
/// [`io::Error::kind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetError {
    /// No connection could be made, or every connection broke.
    #[error("cannot reach '{host}': {reason}")]
    Unreachable {
        /// The host, with its port if one was given.
        host: String,
        /// The last failure.
        reason: String,
    },
    /// The deadline passed.
    #[error("'{host}' did not answer in time")]
    TimedOut {
        /// The host.
        host: String,
    },
    /// The registry requires credentials, or refused those that it got.
    #[error("'{host}' denies access{}", as_user(.user.as_deref()))]
    Denied {
        /// The host.
        host: String,
        /// The user whose credentials were sent; `None` if there were none.
        user: Option<String>,
    },
    /// The registry allows no more requests for now.
    #[error("'{host}' allows no more requests{}", for_now(*.after))]
    Limited {
        /// The host.
        host: String,
        /// The pause that the host asked for, if it named one.
        after: Option<Duration>,
    },
    /// The host does not have what was requested.
    #[error("'{host}' has no {what}")]
    Missing {
        /// The host.
        host: String,
        /// What was requested: `manifest 1.27 of library/nginx`.
        what: String,
    },
    /// The certificate of the host is not accepted, or the host does not accept ours.
    #[error("'{host}': {reason}")]
    Certificate {
        /// The host.
        host: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// The credentials cannot be read.
    #[error("cannot read the credentials for '{host}': {reason}")]
    Credentials {
        /// The host.
        host: String,
        /// The file or helper, and what is wrong with it.
        reason: String,
    },
    /// The answer breaks the protocol.
    #[error("'{host}': {reason}")]
    Refused {
        /// The host.
        host: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The work was cancelled: unmounted, or a signal.
    #[error("cancelled")]
    Cancelled,
    /// Only stored bytes may be used, and these are not stored.
    #[error("{what} is not in the cache, and --offline allows no request")]
    Offline {
        /// What is missing.
        what: String,
    },
}

fn as_user(user: Option<&str>) -> String {
    user.map_or_else(|| " without credentials".to_owned(), |user| format!(" to user '{user}'"))
}

fn for_now(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |after| format!(" for {} s", after.as_secs().max(1)))
}

impl NetError {
    /// Returns the cause that an [`io::Error`] carries, if it came from here.
    pub(crate) fn of(error: &io::Error) -> Option<&NetError> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        let kind = match &error {
            NetError::TimedOut { .. } | NetError::Unreachable { .. } | NetError::Limited { .. } => {
                io::ErrorKind::TimedOut
            }
            NetError::Denied { .. } | NetError::Credentials { .. } => io::ErrorKind::PermissionDenied,
            NetError::Missing { .. }
            | NetError::Refused { .. }
            | NetError::Certificate { .. }
            | NetError::Cancelled
            | NetError::Offline { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// A switch that ends all waits of a source. Clones share the switch.
#[derive(Clone, Default)]
pub(crate) struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cancelled: Mutex<bool>,
    changed: Condvar,
    /// What ends waits that do not look at the switch, such as reads from a socket.
    hooks: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

impl Cancel {
    /// Ends all waits, now and later.
    pub(crate) fn cancel(&self) {
        *self.lock() = true;
        self.shared.changed.notify_all();
        for hook in &*self.shared.hooks.lock().unwrap_or_else(PoisonError::into_inner) {
            hook();
        }
    }

    /// Calls `hook` when waits are ended.
    pub(super) fn on_cancel(&self, hook: impl Fn() + Send + 'static) {
        self.shared.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Returns whether waits were ended.
    pub(crate) fn is_cancelled(&self) -> bool {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.shared.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limits of one wait: a deadline, and a switch that ends it early.
#[derive(Debug, Clone, Default)]
pub(super) struct Wait {
    /// `None`: as long as bytes keep coming.
    pub(super) deadline: Option<Instant>,
    /// When an answer must have begun, if that is before the deadline.
    pub(super) answer_by: Option<Instant>,
    pub(super) cancel: Cancel,
}

impl Wait {
    /// Returns a wait of at most `time`; without one, it ends only when bytes stop coming or on `cancel`.
    pub(super) fn new(time: Option<Duration>, cancel: &Cancel) -> Self {
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        Wait { deadline, answer_by: None, cancel: cancel.clone() }
    }

    /// Returns a wait for a host after which others can be asked: its answer must begin within half of the
    /// time left. Without a deadline, this is half of `longest`. The body may take all the time that is left.
    pub(super) fn half(&self, longest: Duration) -> Self {
        let left = self.left("").unwrap_or(Some(Duration::ZERO)).unwrap_or(longest);
        Wait { answer_by: Instant::now().checked_add(left / 2), ..self.clone() }
    }

    /// Returns a wait for an answer that must have ended when this wait requires it to begin.
    pub(super) fn whole(&self) -> Self {
        Wait { deadline: self.answer_by.or(self.deadline), ..self.body() }
    }

    /// Returns the wait for the body of an answer that has begun.
    pub(super) fn body(&self) -> Self {
        Wait { answer_by: None, ..self.clone() }
    }

    /// Returns the time left until an answer must begin; `None` without a deadline.
    ///
    /// # Errors
    /// [`NetError::TimedOut`] naming `host` after the deadline, [`NetError::Cancelled`].
    pub(super) fn left(&self, host: &str) -> Result<Option<Duration>, NetError> {
        if self.cancel.is_cancelled() {
            return Err(NetError::Cancelled);
        }
        let end = self.answer_by.into_iter().chain(self.deadline).min();
        match end.map(|end| end.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => Err(NetError::TimedOut { host: host.to_owned() }),
            left => Ok(left),
        }
    }

    /// Sleeps for `time`. Fails at once if the deadline comes before its end.
    ///
    /// # Errors
    /// As [`Wait::left`].
    pub(super) fn sleep(&self, time: Duration, host: &str) -> Result<(), NetError> {
        if self.left(host)?.is_some_and(|left| left < time) {
            return Err(NetError::TimedOut { host: host.to_owned() });
        }
        let (cancelled, _) = self
            .cancel
            .shared
            .changed
            .wait_timeout_while(self.cancel.lock(), time, |cancelled| !*cancelled)
            .unwrap_or_else(PoisonError::into_inner);
        if *cancelled { Err(NetError::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_wait_ends_at_once_and_a_short_deadline_does_not_sleep() {
        let cancel = Cancel::default();
        let wait = Wait::new(Some(Duration::from_secs(3600)), &cancel);
        let timed_out = Err(NetError::TimedOut { host: "h".into() });
        assert_eq!(wait.sleep(Duration::from_secs(7200), "h"), timed_out);
        std::thread::scope(|threads| {
            let sleeper = threads.spawn(|| wait.sleep(Duration::from_secs(1800), "h"));
            cancel.cancel();
            assert_eq!(sleeper.join().unwrap(), Err(NetError::Cancelled));
        });
        assert_eq!(wait.left("h"), Err(NetError::Cancelled));
        assert_eq!(Wait::new(Some(Duration::ZERO), &Cancel::default()).left("h"), timed_out.map(|()| None));
    }

    #[test]
    fn half_of_a_wait_is_for_the_start_of_an_answer() {
        let seconds = |wait: &Wait| wait.left("h").unwrap().map(|left| left.as_secs_f64().ceil());
        let wait = Wait::new(Some(Duration::from_secs(60)), &Cancel::default());
        let half = wait.half(Duration::from_secs(8));
        assert_eq!(
            (seconds(&half), seconds(&half.whole()), seconds(&half.body())),
            (Some(30.), Some(30.), Some(60.))
        );
        assert_eq!(seconds(&half.whole().body()), Some(30.));
        let endless = Wait::default();
        let half = endless.half(Duration::from_secs(8));
        assert_eq!((seconds(&half), seconds(&half.body())), (Some(4.), None));
    }

    #[test]
    fn an_io_error_keeps_the_cause_and_has_the_kind_of_its_error_code() {
        let host = || "registry.test".to_owned();
        for (error, kind, text) in [
            (
                NetError::TimedOut { host: host() },
                io::ErrorKind::TimedOut,
                "'registry.test' did not answer in time",
            ),
            (
                NetError::Denied { host: host(), user: Some("eve".into()) },
                io::ErrorKind::PermissionDenied,
                "'registry.test' denies access to user 'eve'",
            ),
            (
                NetError::Limited { host: host(), after: Some(Duration::from_millis(1)) },
                io::ErrorKind::TimedOut,
                "'registry.test' allows no more requests for 1 s",
            ),
            (
                NetError::Refused { host: host(), reason: "no".into() },
                io::ErrorKind::Other,
                "'registry.test': no",
            ),
        ] {
            let wrapped = io::Error::from(error.clone());
            assert_eq!((wrapped.kind(), wrapped.to_string()), (kind, text.to_owned()));
            assert_eq!(NetError::of(&wrapped), Some(&error));
        }
    }
}
