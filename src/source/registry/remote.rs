//! A blob that is read over the network, without a cache.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::{Cancel, Fetch, Fetched, NetError, Wait};
use crate::read_at::ReadAt;

/// How often in a row a stream is requested again without having got a byte.
const MAX_EMPTY_TRIES: u32 = 5;

/// A blob behind a [`Fetch`].
#[derive(Debug)]
pub(super) struct RemoteBlob {
    fetch: Arc<dyn Fetch>,
    /// The longest time of one read.
    time: Duration,
    cancel: Cancel,
}

impl RemoteBlob {
    pub(super) fn new(fetch: Arc<dyn Fetch>, time: Duration, cancel: Cancel) -> Self {
        RemoteBlob { fetch, time, cancel }
    }

    fn reader(&self, range: Range<u64>, wait: Wait) -> Resuming {
        let end = range.end.min(self.fetch.len());
        Resuming {
            fetch: self.fetch.clone(),
            at: range.start.min(end),
            end,
            wait,
            body: None,
            empty_tries: 0,
        }
    }
}

impl ReadAt for RemoteBlob {
    fn len(&self) -> u64 {
        self.fetch.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let wait = Wait::new(Some(self.time), &self.cancel);
        self.reader(offset..end, wait).read_exact(buf)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        // A stream may take as long as it makes progress.
        Box::new(self.reader(range, Wait::new(None, &self.cancel)))
    }

    fn may_wait(&self) -> bool {
        true
    }
}

/// Reads a range; where a connection breaks, requests the rest.
struct Resuming {
    fetch: Arc<dyn Fetch>,
    at: u64,
    end: u64,
    wait: Wait,
    body: Option<Box<dyn Read + Send>>,
    empty_tries: u32,
}

impl Resuming {
    /// Requests the bytes from here on, and skips those before.
    fn connect(&mut self) -> io::Result<Box<dyn Read + Send>> {
        let Fetched { offset, mut body, .. } = self.fetch.fetch(self.at..self.end, false, &self.wait)?;
        let before = self.at.saturating_sub(offset);
        let skipped = io::copy(&mut (&mut body).take(before), &mut io::sink())?;
        if skipped < before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    }

    /// Returns whether a broken connection may be followed by another.
    fn may_resume(&mut self, error: &io::Error) -> bool {
        self.empty_tries += 1;
        let is_passing = match NetError::of(error) {
            None => error.kind() == io::ErrorKind::UnexpectedEof,
            // The host was silent for a while; the deadline of the whole wait is another matter.
            Some(NetError::TimedOut { .. } | NetError::Unreachable { .. }) => {
                self.wait.left(self.fetch.host()).is_ok()
            }
            Some(_) => false,
        };
        is_passing && self.empty_tries <= MAX_EMPTY_TRIES
    }
}

impl Read for Resuming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        if len == 0 {
            return Ok(0);
        }
        loop {
            let connected = match self.body.take() {
                Some(body) => Ok(body),
                None => self.connect(),
            };
            let read = connected.and_then(|mut body| {
                let read = body.read(buf.get_mut(..len).unwrap_or_default())?;
                self.body = Some(body);
                if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
            });
            match read {
                Ok(read) => {
                    self.at = self.at.saturating_add(read as u64);
                    self.empty_tries = 0;
                    return Ok(read);
                }
                Err(error) => {
                    self.body = None;
                    if !self.may_resume(&error) {
                        return Err(error);
                    }
                    log::info!("{error}; requesting the rest from byte {}", self.at);
                }
            }
        }
    }
}
