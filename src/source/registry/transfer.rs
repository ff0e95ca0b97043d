//! One request for a range, continued until all blocks have arrived.
//!
//! This module owns when a broken answer is requested again, from the byte at which it broke, and what an
//! answer that ignores the range means. It does not know who waits for the blocks.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff;
use super::blob::Blob;
use super::fetch::{Fetched, NetError, Wait};
use super::plan::{BLOCK_BYTES, bytes_of};

/// Bytes that count as progress. Fewer could be sent for ever by a host that breaks every connection.
const PROGRESS_BYTES: u64 = 4096;
/// The blocks of a range on their way.
pub(super) struct Transfer {
    blob: Arc<Blob>,
    wait: Wait,
    /// Whether an answer with the whole blob is read from its start, not handed over.
    whole: bool,
    /// Offset of the next byte, and the end of the range.
    next: u64,
    end: u64,
    body: Option<Body>,
    /// The bytes of the current block that have arrived.
    block: Vec<u8>,
    attempts: u32,
    /// Bytes since the last failure.
    progress: u64,
    /// When the current block, or its answer, began.
    begun: Instant,
}

struct Body {
    bytes: Box<dyn Read + Send>,
    /// Bytes before the next one that are not needed.
    skip: u64,
    left: u64,
    latency: Duration,
    begun: Instant,
    read: u64,
}

/// A step of a transfer.
pub(super) enum Step {
    /// Another block has arrived and is kept.
    Block,
    /// All blocks have arrived.
    End,
    /// The host ignores ranges: the answer is the whole blob.
    Whole(Fetched),
}

impl Transfer {
    /// Creates the transfer of the range from `start`, the start of a block, to `end`.
    pub(super) fn part(blob: &Arc<Blob>, start: u64, end: u64, wait: Wait) -> Self {
        Transfer {
            blob: Arc::clone(blob),
            wait,
            whole: false,
            next: start,
            end,
            body: None,
            block: Vec::new(),
            attempts: 0,
            progress: 0,
            begun: Instant::now(),
        }
    }

    /// Creates the transfer of the range to the end of the blob, for a reader that reads all of it.
    pub(super) fn rest(blob: &Arc<Blob>, start: u64, end: u64, wait: Wait) -> Self {
        Transfer { whole: true, ..Transfer::part(blob, start, end, wait) }
    }

    /// Creates the transfer of the whole blob from an answer that has begun.
    pub(super) fn answered(blob: &Arc<Blob>, answer: Fetched, wait: Wait) -> Self {
        let mut transfer = Transfer::rest(blob, 0, answer.len_bytes, wait);
        transfer.body = Some(Body::new(answer, 0, Duration::ZERO));
        transfer
    }

    /// Returns whether the next block begins at `offset`.
    pub(super) fn is_at(&self, offset: u64) -> bool {
        self.next < self.end && self.next == offset
    }

    /// Brings the next block. A transfer that failed cannot be continued.
    ///
    /// # Errors
    /// The error of the network after all attempts.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.next >= self.end {
            return Ok(Step::End);
        }
        self.block.clear();
        self.begun = Instant::now();
        let block = self.next / BLOCK_BYTES;
        let end = bytes_of(block, self.blob.len_bytes).end;
        while self.next < end {
            if self.body.is_none()
                && let Some(answer) = self.open()?
            {
                return Ok(Step::Whole(answer));
            }
            self.receive(end)?;
        }
        self.blob.arrived(block, &self.block);
        Ok(Step::Block)
    }

    /// Returns the bytes of the block that the last step brought.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.block
    }

    /// Reads the next bytes of the block, which ends at `end`. A broken answer is dropped.
    fn receive(&mut self, end: u64) -> io::Result<()> {
        let Some(body) = &mut self.body else { return Ok(()) };
        match body.receive(end.saturating_sub(self.next), &mut self.block) {
            Ok(received) => {
                self.next = self.next.saturating_add(received);
                self.progress = self.progress.saturating_add(received);
                // A host that sends a byte now and then would otherwise never be given up.
                if self.begun.elapsed() > self.blob.downloads.net_timeout {
                    return Err(NetError::TimedOut { host: self.blob.fetch.host().to_owned() }.into());
                }
                if body.left == 0 {
                    self.blob.downloads.record(body.latency, body.read, body.begun.elapsed());
                    self.body = None;
                }
                Ok(())
            }
            Err(cause) => {
                self.body = None;
                self.failed(cause)
            }
        }
    }

    /// Requests the rest of the range. Returns the answer if it is the whole blob and the range is not.
    fn open(&mut self) -> io::Result<Option<Fetched>> {
        let requested = Instant::now();
        let range = self.next..self.end;
        let answer = self.blob.fetch.fetch(range.clone(), self.blob.must_be_fresh(&range), &self.wait)?;
        let latency = requested.elapsed();
        self.begun = Instant::now();
        let fits = answer.offset == self.next && answer.len_bytes <= self.end.saturating_sub(self.next);
        let is_whole = answer.offset == 0 && answer.len_bytes == self.blob.len_bytes;
        match (fits, is_whole) {
            (true, _) if answer.len_bytes > 0 => self.body = Some(Body::new(answer, 0, latency)),
            (true, _) => self.failed(io::ErrorKind::UnexpectedEof.into())?,
            (false, true) if self.whole => self.body = Some(Body::new(answer, self.next, latency)),
            (false, true) => return Ok(Some(answer)),
            (false, false) => {
                let reason = format!(
                    "sends, for bytes {} to {}, {} bytes at offset {}",
                    range.start, range.end, answer.len_bytes, answer.offset
                );
                return Err(NetError::Refused { host: self.blob.fetch.host().to_owned(), reason }.into());
            }
        }
        Ok(None)
    }

    /// Pauses before the next attempt, or fails with `cause`.
    fn failed(&mut self, cause: io::Error) -> io::Result<()> {
        let host = self.blob.fetch.host().to_owned();
        let cause = match NetError::of(&cause) {
            Some(NetError::TimedOut { .. } | NetError::Unreachable { .. } | NetError::Limited { .. }) => {
                cause
            }
            Some(_) => return Err(cause),
            None => NetError::Unreachable { host: host.clone(), reason: cause.to_string() }.into(),
        };
        if self.progress >= PROGRESS_BYTES {
            self.attempts = 0;
        }
        self.progress = 0;
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts >= backoff::MAX_ATTEMPTS {
            return Err(cause);
        }
        log::debug!("{}: the answer broke at {}, continuing: {cause}", self.blob.digest, self.next);
        Ok(self.wait.sleep(backoff::pause(self.attempts), &host)?)
    }
}

impl Body {
    fn new(answer: Fetched, skip: u64, latency: Duration) -> Self {
        let Fetched { len_bytes, body, .. } = answer;
        Body { bytes: body, skip, left: len_bytes, latency, begun: Instant::now(), read: 0 }
    }

    /// Appends at most `max` of the next bytes to `out`, and returns their number. Bytes before the next one
    /// are read first.
    fn receive(&mut self, max: u64, out: &mut Vec<u8>) -> io::Result<u64> {
        let mut skipped = [0; 16 << 10];
        while self.skip > 0 {
            let len = usize::try_from(self.skip).map_or(skipped.len(), |skip| skip.min(skipped.len()));
            let read = self.read(skipped.get_mut(..len).unwrap_or_default())?;
            self.skip = self.skip.saturating_sub(read);
        }
        let from = out.len();
        let len = usize::try_from(max.min(self.left)).unwrap_or(0);
        out.resize(from.saturating_add(len), 0);
        let read = self.read(out.get_mut(from..).unwrap_or_default());
        let received = usize::try_from(*read.as_ref().unwrap_or(&0)).unwrap_or(0);
        out.truncate(from.saturating_add(received));
        read
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<u64> {
        let read = loop {
            match self.bytes.read(buf) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                read => break read? as u64,
            }
        };
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection broke"));
        }
        self.left = self.left.saturating_sub(read);
        self.read = self.read.saturating_add(read);
        Ok(read)
    }
}
