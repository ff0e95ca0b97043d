//! Requests that survive faults: retries, pauses that hosts ask for, and bodies of limited length.
//!
//! This module owns which faults are tried again, and when. It knows no redirects and no authentication.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::backoff::{self, MAX_ATTEMPTS, MAX_PAUSE};
use super::exchange::{Exchange, Fault, Request, Response};
use super::fetch::{NetError, Wait};
use super::hosts::Tls;

/// The longest pause of a host that is obeyed while an image is opened. A host that asks for a longer one is
/// asked again after this time, because many are back before the time they name.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(60);
/// The pause after a 429 that names none.
const DEFAULT_ASKED_PAUSE: Duration = Duration::from_secs(1);

/// Waits for a time, as [`Wait::sleep`] does; tests replace it.
pub(super) type Sleep = dyn Fn(&Wait, Duration, &str) -> Result<(), NetError> + Send + Sync;

/// Sends requests, again if a fault may pass.
pub(super) struct Client {
    exchange: Arc<dyn Exchange>,
    sleep: Box<Sleep>,
    /// The hosts that asked to be left alone.
    pauses: Mutex<HashMap<String, Pause>>,
}

/// A pause that a host asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pause {
    /// When the host is asked again.
    until: Instant,
    /// How long the host asked to be left alone.
    asked: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(exchange: Arc<dyn Exchange>) -> Self {
        Client::sleeping(exchange, Box::new(|wait, time, host| wait.sleep(time, host)))
    }

    /// Creates a client that waits through `sleep`.
    pub(super) fn sleeping(exchange: Arc<dyn Exchange>, sleep: Box<Sleep>) -> Self {
        Client { exchange, sleep, pauses: Mutex::default() }
    }

    /// Sends a request once.
    ///
    /// # Errors
    /// The fault, which is not final.
    pub(super) fn once(&self, request: &Request, tls: &Arc<Tls>, wait: &Wait) -> Result<Response, Fault> {
        let answer = self.exchange.send(request, tls, wait);
        match &answer {
            Ok(answer) => log::debug!("{} {}: {}", request.method.name(), request.url, answer.status),
            Err(fault) => log::debug!("{} {}: {fault:?}", request.method.name(), request.url),
        }
        answer
    }

    /// Sends a request until it is answered with something other than 408, 429 or 5xx.
    ///
    /// # Errors
    /// [`NetError`] when all tries fail, or `wait` ends.
    pub(super) fn steady(
        &self,
        request: &Request,
        tls: &Arc<Tls>,
        wait: &Wait,
    ) -> Result<Response, NetError> {
        let host = &request.url.host;
        let mut last = NetError::Unreachable { host: host.clone(), reason: String::new() };
        for tried in 1..=MAX_ATTEMPTS {
            wait.left(host)?;
            self.obey(host, wait)?;
            let answer = self.once(request, tls, wait);
            last = match answer {
                Ok(answer) if !may_pass(answer.status) => return Ok(answer),
                Ok(answer) if answer.status == 429 => {
                    last = self.limited(host, &answer, wait)?;
                    continue;
                }
                Ok(answer) => {
                    let reason = format!("answers with status {}", answer.status);
                    if let Some(after) = answer.header("retry-after").map(pause) {
                        self.pause(host, after.min(MAX_PAUSE));
                    }
                    NetError::Refused { host: host.clone(), reason }
                }
                Err(fault) => self.fault(fault, host, wait)?,
            };
            // A connection that waited in the pool can be dead: a new one is tried at once.
            let is_stale = tried == 1 && matches!(last, NetError::Unreachable { .. });
            if tried < MAX_ATTEMPTS && !is_stale {
                self.pause_after(tried, host, wait)?;
            }
        }
        Err(last)
    }

    /// Reads a body of at most `max` bytes.
    ///
    /// # Errors
    /// [`NetError::Refused`] for a longer body and an encoded one; [`NetError::Unreachable`] when it breaks.
    pub(super) fn body(
        &self,
        answer: &mut Response,
        max: u64,
        host: &str,
        wait: &Wait,
    ) -> Result<Vec<u8>, NetError> {
        check_encoding(answer, host)?;
        let mut bytes = Vec::new();
        let mut body = (&mut answer.body).take(max.saturating_add(1));
        if let Err(error) = body.read_to_end(&mut bytes) {
            wait.left(host)?;
            let broken =
                || NetError::Unreachable { host: host.to_owned(), reason: "the connection broke".to_owned() };
            return Err(NetError::of(&error).cloned().unwrap_or_else(broken));
        }
        if bytes.len() as u64 > max {
            let reason = format!("the answer is longer than {max} bytes");
            return Err(NetError::Refused { host: host.to_owned(), reason });
        }
        Ok(bytes)
    }

    /// Waits as after try number `tried`, counted from 1.
    ///
    /// # Errors
    /// As [`Wait::sleep`].
    pub(super) fn pause_after(&self, tried: u32, host: &str, wait: &Wait) -> Result<(), NetError> {
        (self.sleep)(wait, backoff::pause(tried), host)
    }

    /// Waits until the host may be asked again.
    fn obey(&self, host: &str, wait: &Wait) -> Result<(), NetError> {
        let Some(pause) = self.pauses().get(host).copied() else { return Ok(()) };
        let left = pause.until.saturating_duration_since(Instant::now());
        let slept = match left {
            Duration::ZERO => Ok(()),
            _ if pause.asked > MAX_ASKED_PAUSE => return Err(limited(host, Some(pause.asked))),
            // A deadline that is too short for the pause is the host's doing.
            left => (self.sleep)(wait, left, host).map_err(|error| match error {
                NetError::TimedOut { .. } => limited(host, Some(left)),
                error => error,
            }),
        };
        let mut pauses = self.pauses();
        if slept.is_ok() && pauses.get(host) == Some(&pause) {
            pauses.remove(host);
        }
        slept
    }

    /// Notes the pause that a 429 asks for.
    fn limited(&self, host: &str, answer: &Response, wait: &Wait) -> Result<NetError, NetError> {
        let after = answer.header("retry-after").map_or(DEFAULT_ASKED_PAUSE, pause);
        log::info!("'{host}' asks for a pause of {after:?}");
        self.pause(host, after);
        let left = wait.left(host)?;
        if after > MAX_ASKED_PAUSE || left.is_some_and(|left| left < after) {
            return Err(limited(host, Some(after)));
        }
        Ok(limited(host, Some(after)))
    }

    fn pause(&self, host: &str, asked: Duration) {
        if let Some(until) = Instant::now().checked_add(asked.min(MAX_ASKED_PAUSE)) {
            self.pauses().insert(host.to_owned(), Pause { until, asked });
        }
    }

    fn pauses(&self) -> std::sync::MutexGuard<'_, HashMap<String, Pause>> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the error of a fault that may pass.
    ///
    /// # Errors
    /// The error of a fault that will not.
    fn fault(&self, fault: Fault, host: &str, wait: &Wait) -> Result<NetError, NetError> {
        wait.left(host)?;
        let host = host.to_owned();
        match fault {
            Fault::Unreachable(reason) | Fault::Broken(reason) => Ok(NetError::Unreachable { host, reason }),
            Fault::TimedOut => Ok(NetError::TimedOut { host }),
            Fault::NotTls => Err(NetError::Refused { host, reason: "does not speak TLS".to_owned() }),
            Fault::Certificate(reason) => Err(NetError::Certificate { host, reason }),
            Fault::Malformed(reason) => Err(NetError::Refused { host, reason }),
            Fault::Cancelled => Err(NetError::Cancelled),
        }
    }
}

fn limited(host: &str, after: Option<Duration>) -> NetError {
    NetError::Limited { host: host.to_owned(), after }
}

/// Checks that a body is not encoded, because digests are those of the plain bytes.
///
/// # Errors
/// [`NetError::Refused`].
pub(super) fn check_encoding(answer: &Response, host: &str) -> Result<(), NetError> {
    match answer.header("content-encoding") {
        None | Some("" | "identity") => Ok(()),
        Some(_) => Err(NetError::Refused {
            host: host.to_owned(),
            reason: "the answer has a Content-Encoding, which was not asked for".to_owned(),
        }),
    }
}

/// Returns whether a repetition may be answered otherwise.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// Parses `Retry-After`: seconds or a date (RFC 9110, section 10.2.3). Anything else, as the text with
/// microseconds that ghcr.io sends, is a second.
pub(super) fn pause(value: &str) -> Duration {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Duration::from_secs(seconds);
    }
    let Some(date) = http_date(value) else { return DEFAULT_ASKED_PAUSE };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(date).saturating_sub(now).max(DEFAULT_ASKED_PAUSE)
}

/// Parses a date as HTTP writes it, `Sun, 06 Nov 1994 08:49:37 GMT`, into seconds since the epoch.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let parts: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = parts.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    let clock: Vec<u64> = time.split(':').map_while(|part| part.parse().ok()).collect();
    let [hours @ 0..=23, minutes @ 0..=59, seconds @ 0..=60] = clock.as_slice() else { return None };
    // Days of the civil calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_counted_from_the_epoch() {
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Tue, 29 Feb 2028 23:59:59 GMT", Some(1_835_481_599)),
            ("Sat, 21 Nov 2026 20:00:00 GMT", Some(1_795_291_200)),
            ("Sun, 06 Nov 1994 24:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("880.092µs", None),
        ] {
            assert_eq!(http_date(text), expected, "{text}");
        }
    }

    #[test]
    fn r5_a_host_is_asked_again_after_a_minute_at_most() {
        let nothing = |_: &Wait, _: Duration, _: &str| Ok(());
        let client = Client::sleeping(
            super::super::http::Http::new(
                crate::source::environment::Proxies::default(),
                Duration::ZERO,
                &super::super::fetch::Cancel::default(),
            ),
            Box::new(nothing),
        );
        let hour = Duration::from_secs(3600);
        client.pause("reg.test", hour);
        assert_eq!(client.obey("reg.test", &Wait::default()), Err(limited("reg.test", Some(hour))));
        let mut pauses = client.pauses();
        let pause = pauses.get_mut("reg.test").unwrap();
        assert!(pause.until <= Instant::now() + MAX_ASKED_PAUSE);
        pause.until = Instant::now();
        drop(pauses);
        assert_eq!(client.obey("reg.test", &Wait::default()), Ok(()));
    }

    #[test]
    fn r5_retry_after_has_many_shapes() {
        let year = |seconds: u64| Duration::from_secs(seconds * 365 * 86_400);
        assert_eq!(pause("7"), Duration::from_secs(7));
        assert_eq!(pause(" 0 "), Duration::ZERO);
        for text in ["880.092µs", "", "-1", "Sun, 06 Nov 1994 08:49:37 GMT", "soon"] {
            assert_eq!(pause(text), Duration::from_secs(1), "{text}");
        }
        let far = pause("Fri, 31 Dec 2999 23:59:59 GMT");
        assert!(far > year(900) && far < year(975), "{far:?}");
    }
}
