//! A blob of a registry that counts requests and bytes, and fails as it is told.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::blob::RemoteBlob;
use super::content_cache::ContentCache;
use super::downloads::Downloads;
use super::fetch::{Cancel, Fetch, Fetched, NetError, Wait};
use crate::digest::Algorithm;
use crate::read_at::ReadAt;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The connection breaks after this many bytes.
    Cut(u64),
    /// No byte comes after this many bytes.
    Stall(u64),
    /// The byte at this offset of the blob is wrong.
    Wrong(u64),
    /// The range is ignored: the answer is the whole blob.
    Whole,
    /// The answer is only this many bytes long.
    Short(u64),
    /// The answer is another range of the same length.
    Elsewhere,
    /// The request fails.
    Fail(NetError),
}

/// A request: the range, and whether it passes caches.
pub(crate) type Request = (Range<u64>, bool);

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) bytes: Vec<u8>,
    requests: Mutex<Vec<Request>>,
    served: AtomicU64,
    faults: Mutex<VecDeque<Fault>>,
    /// Time that every piece of a body takes.
    pace: Duration,
    running: AtomicU64,
    most_running: AtomicU64,
}

impl Fake {
    pub(crate) fn new(bytes: Vec<u8>, faults: impl Into<VecDeque<Fault>>) -> Arc<Self> {
        Fake::paced(bytes, faults, Duration::ZERO)
    }

    pub(crate) fn paced(bytes: Vec<u8>, faults: impl Into<VecDeque<Fault>>, pace: Duration) -> Arc<Self> {
        Arc::new(Fake {
            bytes,
            requests: Mutex::default(),
            served: AtomicU64::new(0),
            faults: Mutex::new(faults.into()),
            pace,
            running: AtomicU64::new(0),
            most_running: AtomicU64::new(0),
        })
    }

    /// Returns the requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns the number of bytes that were sent.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    /// Returns the highest number of bodies that were open at the same time.
    pub(crate) fn most_running(&self) -> u64 {
        self.most_running.load(Ordering::SeqCst)
    }

    /// Returns the bytes as a blob of an image, with its cache in `cache_dir`.
    pub(crate) fn blob(
        self: &Arc<Self>,
        cache_dir: PathBuf,
        net_timeout: Duration,
        cancel: &Cancel,
    ) -> Arc<dyn ReadAt> {
        let digest = Algorithm::Sha256.digest(&self.bytes);
        let downloads =
            Downloads::new(ContentCache::new(Some(cache_dir), 1 << 40), net_timeout, cancel.clone());
        Arc::new(RemoteBlob::new(Arc::new(FakeFetch(Arc::clone(self))), digest, &downloads))
    }

    /// Drops the faults that are left.
    #[cfg(feature = "fuse")]
    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// Adds faults of the next requests, one each.
    pub(crate) fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }
}

/// The double as a [`Fetch`]; bodies keep it alive.
#[derive(Debug, Clone)]
pub(crate) struct FakeFetch(pub(crate) Arc<Fake>);

impl Fetch for FakeFetch {
    fn len(&self) -> u64 {
        self.0.bytes.len() as u64
    }

    fn host(&self) -> &str {
        "registry.test"
    }

    fn fetch(&self, range: Range<u64>, fresh: bool, wait: &Wait) -> Result<Fetched, NetError> {
        assert!(range.start < range.end && range.end <= self.len(), "{range:?}");
        self.0.requests.lock().unwrap().push((range.clone(), fresh));
        wait.left("registry.test")?;
        let fault = self.0.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let mut len_bytes = range.end - range.start;
        let mut offset = range.start;
        match &fault {
            Fault::Fail(error) => return Err(error.clone()),
            Fault::Whole => (offset, len_bytes) = (0, self.len()),
            Fault::Short(len) => len_bytes = *len,
            Fault::Elsewhere => offset += 1,
            _ => {}
        }
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_running.fetch_max(running, Ordering::SeqCst);
        let body = Body {
            fake: Arc::clone(&self.0),
            fault,
            at: offset,
            end: offset + len_bytes,
            sent: 0,
            wait: wait.clone(),
        };
        Ok(Fetched { offset, len_bytes, body: Box::new(body) })
    }
}

struct Body {
    fake: Arc<Fake>,
    fault: Fault,
    at: u64,
    end: u64,
    sent: u64,
    wait: Wait,
}

/// The time after which a stalled connection counts as broken.
const STALL: Duration = Duration::from_secs(3);

/// Bytes that come with one read, an odd number, so that no piece ends with a block.
const PIECE_BYTES: u64 = 9973;

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        thread::sleep(self.fake.pace);
        let most = match self.fault {
            Fault::Cut(after) | Fault::Stall(after) => after - self.sent,
            _ => u64::MAX,
        };
        if most == 0 && matches!(self.fault, Fault::Stall(_)) {
            for _ in 0..STALL.as_millis() / 10 {
                thread::sleep(Duration::from_millis(10));
                self.wait.left("registry.test")?;
            }
            return Err(NetError::TimedOut { host: "registry.test".to_owned() }.into());
        }
        let len = (self.end - self.at).min(most).min(PIECE_BYTES).min(buf.len() as u64);
        let from = usize::try_from(self.at).unwrap();
        let len_here = usize::try_from(len).unwrap();
        let sent = &mut buf[..len_here];
        sent.copy_from_slice(&self.fake.bytes[from..from + len_here]);
        if let Fault::Wrong(at) = self.fault
            && (self.at..self.at + len).contains(&at)
        {
            sent[usize::try_from(at - self.at).unwrap()] ^= 0xff;
        }
        self.at += len;
        self.sent += len;
        self.fake.served.fetch_add(len, Ordering::SeqCst);
        Ok(len_here)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.fake.running.fetch_sub(1, Ordering::SeqCst);
    }
}
