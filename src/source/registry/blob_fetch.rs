//! Parts of one blob from a registry: which answers to a request for a range are accepted.
//!
//! Registries and caches answer ranges in many ways, so every answer is checked: a `206` must
//! state the requested range and the known length, and a `200` is the whole blob.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::check_encoding;
use super::exchange::{Method, Response};
use super::fetch::{Fetch, Fetched, NetError, Wait};
use super::repository::{Answer, Ask, Host, Order, Repository};
use super::url::Url;
use crate::digest::Digest;

/// How long an address to which the registry redirected is used. Registries sign addresses for 20 minutes.
const REDIRECT_TIME: Duration = Duration::from_secs(15 * 60);

/// A blob of a repository.
#[derive(Debug)]
pub(super) struct BlobFetch {
    repository: Arc<Repository>,
    digest: Digest,
    len_bytes: u64,
    /// True if no request may be made.
    is_offline: bool,
    /// The host that redirected last, the target of the redirect, and the time.
    elsewhere: Mutex<Option<(String, Url, Instant)>>,
    /// True after an answer to a range that cannot be used: only the whole blob is requested then.
    has_no_ranges: AtomicBool,
}

impl BlobFetch {
    pub(super) fn new(repository: Arc<Repository>, digest: Digest, len_bytes: u64, is_offline: bool) -> Self {
        BlobFetch {
            repository,
            digest,
            len_bytes,
            is_offline,
            elsewhere: Mutex::default(),
            has_no_ranges: AtomicBool::new(false),
        }
    }

    fn known_address(&self, host: &Host) -> Option<Url> {
        let known = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, url, since) = known.as_ref()?;
        (*of == host.endpoint.host && since.elapsed() < REDIRECT_TIME).then(|| url.clone())
    }

    fn keep_address(&self, kept: Option<(String, Url, Instant)>) {
        *self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// Requests the blob at one host: where the host redirected to before, or else from the host itself.
    fn ask(&self, host: &Host, headers: &[(String, String)], wait: &Wait) -> Result<Answer, NetError> {
        if let Some(url) = self.known_address(host) {
            let response = self.repository.request_elsewhere(host, &url, headers, wait)?;
            if !is_expired(response.status) {
                return Ok(Answer { response, url, is_elsewhere: true });
            }
            self.keep_address(None);
        }
        let path = format!("blobs/{}", self.digest);
        let ask = Ask { method: Method::Get, path, headers: headers.to_vec() };
        let mut answer = self.repository.request(host, &ask, wait)?;
        if answer.is_elsewhere && is_expired(answer.response.status) {
            answer = self.repository.request(host, &ask, wait)?;
        }
        if answer.is_elsewhere && matches!(answer.response.status, 200 | 206) {
            self.keep_address(Some((host.endpoint.host.clone(), answer.url.clone(), Instant::now())));
        }
        Ok(answer)
    }

    fn fetch_at(
        &self,
        host: &Host,
        range: &Range<u64>,
        fresh: bool,
        wait: &Wait,
    ) -> Result<Fetched, NetError> {
        let whole = 0..self.len_bytes;
        loop {
            let is_part = *range != whole && !self.has_no_ranges.load(Ordering::Relaxed);
            let mut headers = vec![("accept".to_owned(), "*/*".to_owned())];
            if is_part {
                headers.push((
                    "range".to_owned(),
                    format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
                ));
            }
            if fresh {
                headers.push(("cache-control".to_owned(), "no-cache".to_owned()));
            }
            let answer = self.ask(host, &headers, wait)?;
            let asked = if is_part { range } else { &whole };
            match self.accept(answer, asked, &wait.body()) {
                Err(NetError::Refused { host, reason }) if is_part => {
                    log::warn!(
                        "'{host}': wrong answer to a range request: {reason}; requesting the whole blob"
                    );
                    self.has_no_ranges.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
    }

    /// Checks an answer, and returns its body with the place of that body in the blob.
    fn accept(&self, answer: Answer, asked: &Range<u64>, wait: &Wait) -> Result<Fetched, NetError> {
        let host = answer.url.host.clone();
        let refused = |reason: String| Err(NetError::Refused { host: host.clone(), reason });
        let found = match answer.response.status {
            200 => 0..self.len_bytes,
            206 => match part(&answer.response, self.len_bytes) {
                Some(found) if found.start == asked.start && found.end <= asked.end => found,
                Some(found) => {
                    return refused(format!(
                        "sends bytes {}-{}, which were not requested",
                        found.start,
                        found.end - 1
                    ));
                }
                None => return refused("sends a part without a valid Content-Range".to_owned()),
            },
            416 => return refused("answers with status 416: range not in the blob".to_owned()),
            _ => {
                self.repository.refused(&answer, &format!("blob {}", self.digest))?;
                return refused("sends no blob".to_owned());
            }
        };
        check_encoding(&answer.response, &host)?;
        let len_bytes = found.end - found.start;
        if answer.response.len_bytes().is_some_and(|stated| stated != len_bytes) {
            let stated = answer.response.len_bytes().unwrap_or_default();
            return refused(format!("sends {stated} bytes instead of {len_bytes}"));
        }
        let body = Exactly { inner: answer.response.body, left: len_bytes, host, wait: wait.clone() };
        Ok(Fetched { offset: found.start, len_bytes, body: Box::new(body) })
    }
}

impl Fetch for BlobFetch {
    fn len(&self) -> u64 {
        self.len_bytes
    }

    fn host(&self) -> &str {
        &self.repository.name.host
    }

    fn fetch(&self, range: Range<u64>, fresh: bool, wait: &Wait) -> Result<Fetched, NetError> {
        if self.is_offline {
            return Err(NetError::Offline { what: format!("blob {}", self.digest) });
        }
        // Mirrors are caches too.
        let order = if fresh { Order::RegistryFirst } else { Order::MirrorsFirst };
        self.repository.try_hosts(
            order,
            wait,
            |endpoint| endpoint.serves_digests,
            |host, wait| self.fetch_at(host, &range, fresh, wait),
        )
    }
}

/// Returns whether a status can mean that a signed address has expired.
fn is_expired(status: u16) -> bool {
    matches!(status, 400 | 401 | 403 | 404 | 410)
}

/// Returns the bytes that a `206` has, as `Content-Range` states them; `None` if it states nothing, several
/// parts or another length of the blob.
fn part(answer: &Response, len_bytes: u64) -> Option<Range<u64>> {
    let stated = answer.header("content-range")?.trim();
    let (range, of) = stated.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.trim().split_once('-')?;
    let (start, last): (u64, u64) = (start.trim().parse().ok()?, last.trim().parse().ok()?);
    let is_whole = of.trim().parse::<u64>().is_ok_and(|stated| stated == len_bytes);
    (is_whole && start <= last && last < len_bytes).then(|| start..last + 1)
}

/// Reads a body of known length. A shorter one is an error; of a longer one the rest is not read.
struct Exactly {
    inner: Box<dyn Read + Send>,
    left: u64,
    host: String,
    wait: Wait,
}

impl Read for Exactly {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        if len == 0 {
            return Ok(0);
        }
        self.wait.left(&self.host)?;
        match self.inner.read(buf.get_mut(..len).unwrap_or_default())? {
            0 => {
                let text = format!("'{}': the connection ended before the end of the blob", self.host);
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
            read => {
                self.left = self.left.saturating_sub(read as u64);
                Ok(read)
            }
        }
    }
}
