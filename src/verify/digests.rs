//! Computes the digests of a layer: of its blob, and of the tar that it holds. The same pass parses the
//! tar's headers, since a tar with the right digests may still be impossible to mount.
//!
//! ```text
//! an index is stored:  read + hash the blob   |  decode spans side by side  ->  hash them in order
//! plain:               read + hash, once
//! else, or in doubt:   read + hash  ->  decode  ->  hash, one after the other
//! ```
//!
//! This module owns which of these ways is used. The last one is decisive: the result of a faster way
//! is used only if both digests are as expected, so every report of damage comes from the last way. An
//! index is trusted only for the position of its checkpoints in the blob: its span hashes are not used,
//! nor is a seekable copy, and all bytes of the blob and of the tar are hashed.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::compress::{Compression, Decoder, DecoderMemory, Stop};
use crate::content::cache::SpanCache;
use crate::content::{LayerBytes, ReadAhead, Schedule, ScheduledExtent};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{StreamFault, StreamResult as Result, Subject};
use crate::layer::entry::{Entry, Extent};
use crate::layer::growth::Growth;
use crate::layer::index::Verify;
use crate::layer::reader::LayerReader;
use crate::layer::stored::StoredIndex;
use crate::layer::tar::{Sink, TarParser};
use crate::limits::Limits;
use crate::load::DEFAULT_CACHE_BYTES;
use crate::read_at::ReadAt;
use crate::store::{Key, Store};
use crate::warning::WarningKind;

/// Uncompressed bytes that are decoded at a time.
const DECODE_BYTES: usize = 1 << 20;
/// Stored bytes that are read at a time if no decoder reads them.
const READ_BYTES: usize = 256 << 10;

/// Stored indexes, and the cache and threads for decoding with them.
#[derive(Debug)]
pub(super) struct Indexes<'a> {
    store: &'a Store,
    cache: Arc<SpanCache>,
    read_ahead: Arc<ReadAhead>,
}

impl<'a> Indexes<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Indexes { store, cache: Arc::new(SpanCache::new(DEFAULT_CACHE_BYTES)), read_ahead: Arc::default() }
    }

    /// Reads blob and tar, and returns the tar's headers if both have these digests. Returns `None` if
    /// there is no usable index, or if a digest differs.
    fn confirm(
        &self,
        bytes: &Arc<dyn ReadAt>,
        digest: Digest,
        diff_id: Digest,
        growth: &Growth,
    ) -> Option<Headers> {
        let index = self.find(&**bytes, digest, diff_id)?;
        let whole = Extent { offset: 0, len_bytes: index.index.facts().tar_bytes };
        let reader =
            LayerReader::new(Subject::Image, index, bytes.clone(), Verify::Off, DecoderMemory::alone());
        let layer = Arc::new(LayerBytes::new(reader, self.cache.clone(), Some(self.read_ahead.clone())));
        let scheduled = ScheduledExtent { place: 0, layer: &layer, extent: whole };
        let schedule = Schedule::new(Some(self.read_ahead.clone()), [scheduled].into_iter());
        let mut headers = Headers::new(growth.limits());
        let (blob, tar) = thread::scope(|scope| {
            let blob = scope.spawn(|| hash_all(bytes.clone(), digest.algorithm(), |_| ()));
            let mut hasher = diff_id.algorithm().hasher();
            let tar = layer.read_extent(whole, (&schedule, 0), &mut |_, piece| {
                hasher.update(piece);
                headers.feed(piece);
                Ok(())
            });
            (blob.join(), tar.map(|()| hasher.finish()))
        });
        let confirmed =
            matches!(blob, Ok(Ok(found)) if found == digest) && tar.is_ok_and(|found| found == diff_id);
        if !confirmed {
            log::info!("{digest}: the stored index does not match; decoding from the start");
        }
        confirmed.then_some(headers)
    }

    /// Returns the layer's index, if it has checkpoints that make decoding faster.
    fn find(&self, bytes: &dyn ReadAt, digest: Digest, diff_id: Digest) -> Option<StoredIndex> {
        let found = self.store.load(&Key::layer(&diff_id, Some(&digest.to_string())))?;
        let facts = found.index.facts();
        let fits = facts.blob_digest == Some(digest)
            && facts.diff_id == Some(diff_id)
            && facts.blob_bytes == bytes.len()
            && facts.compression != Compression::Plain;
        // A seekable copy exists if checkpoints are too far apart to decode from; the copy is not part of
        // the image.
        (fits && facts.copy_bytes == 0 && found.index.checkpoint_count() > 1).then_some(found)
    }
}

/// The results of reading a layer to its end.
#[derive(Debug)]
pub(super) struct Digests {
    /// The digest of the blob as stored, if requested.
    pub(super) blob: Option<Result<Digest>>,
    /// The digest of the tar that the blob holds, if requested.
    pub(super) tar: Option<Result<Digest>>,
    /// Why the tar cannot be mounted. Meaningful only if the tar has the expected digest.
    pub(super) fault: Option<StreamFault>,
}

/// Parses a tar to find its faults; keeps nothing else.
#[derive(Debug)]
struct Headers {
    parser: TarParser,
    fault: Option<StreamFault>,
}

impl Headers {
    fn new(limits: Limits) -> Self {
        Headers { parser: TarParser::new(limits), fault: None }
    }

    fn feed(&mut self, piece: &[u8]) {
        if self.fault.is_none() {
            self.fault = self.parser.feed(piece, &mut Nothing).err();
        }
    }

    fn finish(mut self) -> Option<StreamFault> {
        self.fault.or_else(|| self.parser.finish(&mut Nothing).err())
    }
}

/// Discards entries and warnings.
struct Nothing;

impl Sink for Nothing {
    fn entry(&mut self, _: Entry<'_>) -> Result<()> {
        Ok(())
    }

    fn warning(&mut self, _: WarningKind, _: &[u8]) {}
}

/// Returns the digests of a blob and of the tar in it. Damage inside the blob does not prevent the
/// blob's own digest. Cached bytes of a remote source that do not match are requested once more.
pub(super) fn digests(
    bytes: &Arc<dyn ReadAt>,
    digest: Option<Digest>,
    diff_id: Option<Digest>,
    indexes: Option<&Indexes<'_>>,
    growth: &Growth,
) -> Digests {
    // Reading a remote source in two orders at once could download it twice.
    let found = read_digests(bytes, digest, diff_id, indexes.filter(|_| bytes.remote().is_none()), growth);
    let differs = matches!((&found.blob, digest), (Some(Ok(found)), Some(digest)) if *found != digest);
    match bytes.remote().filter(|_| differs) {
        Some(remote) => {
            remote.refresh(0..bytes.len());
            in_one_pass(bytes, digest, diff_id, growth)
        }
        None => found,
    }
}

fn read_digests(
    bytes: &Arc<dyn ReadAt>,
    digest: Option<Digest>,
    diff_id: Option<Digest>,
    indexes: Option<&Indexes<'_>>,
    growth: &Growth,
) -> Digests {
    if let (Some(digest), Some(diff_id)) = (digest, diff_id) {
        if let Some(headers) = indexes.and_then(|indexes| indexes.confirm(bytes, digest, diff_id, growth)) {
            return Digests { blob: Some(Ok(digest)), tar: Some(Ok(diff_id)), fault: headers.finish() };
        }
        let mut headers = Headers::new(growth.limits());
        // The blob of an uncompressed layer is its tar.
        if digest.algorithm() == diff_id.algorithm()
            && matches!(Compression::detect(&**bytes), Ok(Compression::Plain))
            && let Ok(found) = hash_all(bytes.clone(), digest.algorithm(), |piece| headers.feed(piece))
        {
            return Digests { blob: Some(Ok(found)), tar: Some(Ok(found)), fault: headers.finish() };
        }
    }
    in_one_pass(bytes, digest, diff_id, growth)
}

fn in_one_pass(
    bytes: &Arc<dyn ReadAt>,
    digest: Option<Digest>,
    diff_id: Option<Digest>,
    growth: &Growth,
) -> Digests {
    let hashing = HashingBytes::new(bytes.clone(), digest.map(|digest| digest.algorithm().hasher()));
    let mut headers = Headers::new(growth.limits());
    let tar = diff_id.map(|diff_id| {
        let compression =
            Compression::detect(&**bytes).map_err(|cause| StreamFault::io("cannot read", cause))?;
        hashing.decode_into(compression, diff_id.algorithm().hasher(), &mut headers, growth)
    });
    let fault = headers.finish().filter(|_| matches!(tar, Some(Ok(_))));
    Digests { blob: hashing.finish().transpose(), tar, fault }
}

fn hash_all(bytes: Arc<dyn ReadAt>, algorithm: Algorithm, mut seen: impl FnMut(&[u8])) -> io::Result<Digest> {
    let mut hasher = algorithm.hasher();
    let mut stream = bytes.stream_all();
    let mut piece = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            len => {
                let piece = piece.get(..len).unwrap_or_default();
                hasher.update(piece);
                seen(piece);
            }
        }
    }
}

/// Stored bytes that are hashed while they are read from start to end. Clones share the position.
#[derive(Debug, Clone)]
struct HashingBytes(Arc<Mutex<HashingState>>);

struct HashingState {
    stream: Box<dyn Read + Send>,
    hasher: Option<Hasher>,
}

impl fmt::Debug for HashingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashingState").field("hasher", &self.hasher).finish_non_exhaustive()
    }
}

impl HashingBytes {
    fn new(bytes: Arc<dyn ReadAt>, hasher: Option<Hasher>) -> Self {
        HashingBytes(Arc::new(Mutex::new(HashingState { stream: bytes.stream_all(), hasher })))
    }

    fn state(&self) -> MutexGuard<'_, HashingState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decode_into(
        &self,
        compression: Compression,
        mut hasher: Hasher,
        headers: &mut Headers,
        growth: &Growth,
    ) -> Result<Digest> {
        let mut decoder = Decoder::new(compression, Box::new(self.clone()))?;
        let mut out = Vec::new();
        loop {
            out.clear();
            let stop = decoder.decode(&mut out, DECODE_BYTES, DECODE_BYTES)?;
            if compression != Compression::Plain {
                growth.unpack(out.len() as u64)?;
            }
            hasher.update(&out);
            headers.feed(&out);
            if stop == Stop::End {
                return Ok(hasher.finish());
            }
        }
    }

    /// Reads the remaining bytes, and returns the digest if one was requested.
    fn finish(mut self) -> Result<Option<Digest>> {
        let mut rest = vec![0; READ_BYTES];
        if self.state().hasher.is_some() {
            while self.read(&mut rest).map_err(|cause| StreamFault::io("cannot read", cause))? > 0 {}
        }
        let hasher = self.state().hasher.take();
        Ok(hasher.map(Hasher::finish))
    }
}

impl Read for HashingBytes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let len = state.stream.read(buf)?;
        if let Some(hasher) = &mut state.hasher {
            hasher.update(buf.get(..len).unwrap_or_default());
        }
        Ok(len)
    }
}
