//! The stages of a pass over a layer, distributed over threads.
//!
//! ```text
//! read + blob digest  ->  decode  ->  diff_id + span hashes + entries  ->  seekable copy
//! ```
//!
//! Each stage is a thread, the queues between stages are short, and buffers are reused, so memory does not
//! grow with the layer. A stage that fails closes its queues, and the stages before it stop. The exception is
//! the blob digest, which is still computed: a digest mismatch is a better report than the damage that is
//! found first. This module owns the order in which the faults of the stages are reported, and where spans
//! end.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::copy::CopyWriter;
use super::entry::{Entry, EntryKind, Extent, FileData, Stored};
use super::growth::Growth;
use super::index::{Expected, Indexed, Request, TarObserver, Verify};
use super::table::{IndexBuilder, LayerFacts, MAX_SPAN_BYTES};
use super::tar::{Sink, TarParser};
use super::windows::WindowWriter;
use crate::compress::{Boundaries, Checkpoint, Chunks, Compression, Decoder, Stop};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Property, Result, StreamFault, StreamResult, Subject};
use crate::limits::Bound;
use crate::read_at::ReadAt;
use crate::warning::WarningKind;

/// A span ends at the first boundary after this many bytes of output: small enough that a random read takes
/// about 1.5 ms, large enough that windows stay a few percent of the layer.
pub(super) const SPAN_BYTES: usize = 1 << 20;
/// A span ends at the end of a frame or block after this many bytes, in formats where boundaries are rare.
const EARLY_SPAN_BYTES: usize = SPAN_BYTES / 4 * 3;
/// The distance in bytes from the last checkpoint beyond which a span gets a seekable copy.
const COPY_DISTANCE_BYTES: u64 = 4 << 20;
/// Number of stored bytes read at a time.
const READ_BYTES: usize = 512 << 10;
/// Maximum number of buffers that wait between two stages.
const QUEUE: usize = 4;

/// Runs the stages and combines their results.
pub(super) fn run(request: Request<'_>) -> Result<Indexed> {
    let Request { bytes, what, compression, expected, verify, limits, scratch, progress, observer, .. } =
        request;
    let Request { growth, decoders, patience, .. } = request;
    let hashed = verify == Verify::Full;
    let blob_bytes = bytes.len();
    let (compression, stream) =
        open(bytes, compression).map_err(|cause| StreamFault::io_at("cannot read", 0, cause).of(what))?;
    let (windows, copy) = scratch.map_or((None, None), |scratch| (Some(scratch.windows), Some(scratch.copy)));
    // A plain layer needs no copy, because it can be read at any offset.
    let copy = copy.filter(|_| compression != Compression::Plain);
    let shared = Shared { pool: Pool::default(), abandoned: AtomicBool::new(false), progress };
    let hasher_for = |known: Option<Digest>| {
        let algorithm =
            known.map(|digest| digest.algorithm()).or(expected.learn.then_some(Algorithm::Sha256));
        algorithm.filter(|_| hashed).map(Algorithm::hasher)
    };
    let mut stage = DigestStage {
        hashed,
        diff_id: hasher_for(expected.diff_id),
        parser: TarParser::new(limits),
        sink: BuilderSink { files: observer.is_some().then(Vec::new), ..BuilderSink::default() },
        observer,
        tar_fault: None,
        last_checkpoint: 0,
        tar_bytes: 0,
        windows: WindowWriter::new(windows).map_err(|fault| fault.of(what))?,
        spans: Vec::new(),
        copying: copy.is_some(),
        growth: (compression != Compression::Plain).then_some(growth),
        max_tar_bytes: limits.layer_bytes(),
    };

    let same = compression == Compression::Plain && expected.blob_digest == expected.diff_id;
    // The blob of a plain layer is its tar, so one hash serves for both digests.
    let blob = hasher_for(expected.blob_digest).filter(|_| !same);
    let stored = StoredBytes { stream, len_bytes: blob_bytes };
    let stages = thread::scope(|scope| {
        let shared = &shared;
        let (span_out, span_in) = sync_channel(QUEUE);
        let (copy_out, copy_in) = sync_channel(QUEUE);
        let copier = start(scope, move || write_copy(copy, &copy_in, shared, growth))?;
        let (reader, decoder) = if compression == Compression::Plain {
            let reader = start(scope, move || read_plain(stored, blob, shared, &span_out))?;
            (reader, None)
        } else {
            let (stored_out, stored_in) = sync_channel(QUEUE);
            let input = Received { from: stored_in, pool: shared.pool.clone() };
            let mut memory = decoders.begin();
            let has_room = move |bytes| memory.grow(bytes, patience);
            // Without the decoder there is no reader: it would read all bytes for their digest.
            let decoder = start(scope, move || decode(compression, input, shared, &span_out, has_room))?;
            let reader = start(scope, move || read_stored(stored, blob, shared, &stored_out))?;
            (reader, Some(decoder))
        };
        let digested = stage.run(&span_in, copy_out, shared);
        drop(span_in);
        if digested.is_err() {
            shared.abandoned.store(true, Ordering::Relaxed);
        }
        let decoded = decoder.map_or(Ok(Decoded::default()), |decoder| join(decoder.join()));
        Ok((join(reader.join()), decoded, digested, join(copier.join())))
    });
    let (read, decoded, digested, copied) = stages.map_err(|fault: StreamFault| fault.of(what))?;
    verdict(Outcome {
        what,
        compression,
        expected,
        verify,
        blob_bytes,
        stage,
        read,
        decoded,
        digested,
        copied,
    })
}

/// Opens one stream of all stored bytes, and returns it with its compression.
fn open(
    bytes: Arc<dyn ReadAt>,
    known: Option<Compression>,
) -> io::Result<(Compression, Box<dyn Read + Send>)> {
    let stream = bytes.stream_all();
    match known {
        Some(compression) => Ok((compression, stream)),
        None => Compression::detect_stream(stream),
    }
}

/// The results of the stages.
struct Outcome<'a> {
    what: &'a Subject,
    compression: Compression,
    expected: Expected,
    verify: Verify,
    blob_bytes: u64,
    stage: DigestStage<'a>,
    read: StreamResult<Option<Digest>>,
    decoded: StreamResult<Decoded>,
    digested: StreamResult<()>,
    copied: StreamResult<Option<Copied>>,
}

fn verdict(outcome: Outcome<'_>) -> Result<Indexed> {
    let Outcome { what, compression, expected, verify, blob_bytes, mut stage, .. } = outcome;
    // A limit was exceeded, or the index cannot be written: this error takes precedence.
    outcome.digested.map_err(|fault| fault.of(what))?;
    let mut damage = None;
    let blob_digest = match outcome.read {
        Ok(digest) => digest,
        Err(fault) if verify == Verify::Off => {
            damage = Some(fault);
            None
        }
        Err(fault) => return Err(fault.of(what)),
    };
    if let (Some(expected), Some(found)) = (expected.blob_digest, blob_digest)
        && expected != found
    {
        return Err(Error::mismatch(what.clone(), Property::BlobDigest, expected, found));
    }
    let trailing = match outcome.decoded {
        Ok(decoded) => decoded.trailing,
        Err(error) => {
            damage.get_or_insert(error);
            false
        }
    };
    let mut diff_id = None;
    if damage.is_none() {
        diff_id = stage.diff_id.take().map(Hasher::finish);
        if let (Some(expected), Some(found)) = (expected.diff_id, diff_id)
            && expected != found
        {
            return Err(Error::mismatch(what.clone(), Property::DiffId, expected, found));
        }
        stage.finish_tar();
        damage = stage.tar_fault.take();
    }
    if let Some(damage) = damage {
        if verify == Verify::Full {
            return Err(damage.of(what));
        }
        log::warn!("{what}: damaged; showing only the entries before the damage: {damage}");
        stage.sink.builder.push_warning(WarningKind::Damaged, b"");
    }
    if trailing {
        stage.sink.builder.push_warning(WarningKind::TrailingBytes, b"");
    }
    let mut is_complete = true;
    let copied = outcome.copied.unwrap_or_else(|error| {
        // A copy over the limit is not written by a later pass either.
        is_complete = matches!(error, StreamFault::Limit { .. });
        log::warn!("{what}: no seekable copy, reads will be slower: {error}");
        None
    });
    let indexed = stage.into_indexed(
        copied,
        LayerFacts {
            diff_id,
            blob_digest: blob_digest.or(diff_id.filter(|_| compression == Compression::Plain)),
            blob_bytes,
            compression,
            tar_bytes: 0,
            copy_bytes: 0,
        },
    );
    Ok(Indexed { is_complete, ..indexed })
}

/// Starts the thread of a stage.
fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    stage: impl FnOnce() -> T + Send + 'scope,
) -> StreamResult<ScopedJoinHandle<'scope, T>> {
    let started = thread::Builder::new().spawn_scoped(scope, stage);
    started.map_err(|cause| StreamFault::io("cannot start a thread to read", cause))
}

fn join<T>(joined: thread::Result<StreamResult<T>>) -> StreamResult<T> {
    joined.unwrap_or_else(|_| Err(StreamFault::io("cannot index", io::Error::other("a thread panicked"))))
}

/// The state shared by all stages.
struct Shared<'a> {
    pool: Pool,
    /// True if the results of the remaining bytes are not needed.
    abandoned: AtomicBool,
    progress: &'a (dyn Fn(u64) + Sync),
}

/// Buffers that are reused, so that a pass does not allocate for each span.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A buffer that grew for an endless block would waste memory.
        if idle.len() < 4 * QUEUE && buffer.capacity() <= 2 * SPAN_BYTES {
            idle.push(buffer);
        }
    }
}

/// A range of the uncompressed tar, passed between the stages.
struct RawSpan {
    offset: u64,
    bytes: Vec<u8>,
    /// The checkpoint at the start of the range, if there is one.
    checkpoint: Option<Checkpoint>,
}

/// The stored bytes, read from the start.
struct StoredBytes {
    stream: Box<dyn Read + Send>,
    len_bytes: u64,
}

/// Reads the stored bytes from the start in runs of `run_bytes`, hashes them and passes them to `hand_on`,
/// until `hand_on` returns false.
fn read_all(
    mut stored: StoredBytes,
    mut blob: Option<Hasher>,
    shared: &Shared<'_>,
    run_bytes: usize,
    mut hand_on: impl FnMut(u64, Vec<u8>) -> bool,
) -> StreamResult<Option<Digest>> {
    let mut listening = true;
    let mut offset = 0;
    let end = stored.len_bytes;
    while offset < end && (listening || blob.is_some()) && !shared.abandoned.load(Ordering::Relaxed) {
        let len = usize::try_from(end - offset).map_or(run_bytes, |left| left.min(run_bytes));
        let mut buffer = shared.pool.take();
        buffer.resize(len, 0);
        stored
            .stream
            .read_exact(&mut buffer)
            .map_err(|cause| StreamFault::io_at("cannot read", offset, cause))?;
        if let Some(hasher) = &mut blob {
            hasher.update(&buffer);
        }
        if listening {
            listening = hand_on(offset, buffer);
        } else {
            shared.pool.give(buffer);
        }
        offset += len as u64;
        (shared.progress)(len as u64);
    }
    Ok(blob.map(Hasher::finish))
}

fn read_stored(
    stored: StoredBytes,
    blob: Option<Hasher>,
    shared: &Shared<'_>,
    out: &SyncSender<Vec<u8>>,
) -> StreamResult<Option<Digest>> {
    read_all(stored, blob, shared, READ_BYTES, |_, buffer| out.send(buffer).is_ok())
}

/// Reads a layer that is not compressed. It needs no decoder: each read is a span.
fn read_plain(
    stored: StoredBytes,
    blob: Option<Hasher>,
    shared: &Shared<'_>,
    out: &SyncSender<RawSpan>,
) -> StreamResult<Option<Digest>> {
    read_all(stored, blob, shared, SPAN_BYTES, |offset, bytes| {
        out.send(RawSpan { offset, bytes, checkpoint: None }).is_ok()
    })
}

/// The input of the decoder: the chunks that the reader sends.
struct Received {
    from: Receiver<Vec<u8>>,
    pool: Pool,
}

impl Chunks for Received {
    fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> io::Result<()> {
        // The reader is done when the channel is closed. If it failed, its own error is reported.
        let next = self.from.recv().unwrap_or_default();
        self.pool.give(std::mem::replace(chunk, next));
        Ok(())
    }
}

/// The findings of the decoder.
#[derive(Default)]
struct Decoded {
    /// Z4: bytes follow the end of the compressed stream.
    trailing: bool,
}

fn decode(
    compression: Compression,
    input: Received,
    shared: &Shared<'_>,
    out: &SyncSender<RawSpan>,
    mut has_room: impl FnMut(usize) -> bool,
) -> StreamResult<Decoded> {
    let mut decoder = Decoder::new(compression, Box::new(input))?;
    let boundaries = compression.boundaries();
    let mut last_checkpoint = 0;
    loop {
        let checkpoint = decoder.checkpoint();
        let offset = decoder.output_offset();
        if checkpoint.is_some() {
            last_checkpoint = offset;
        }
        let mut bytes = shared.pool.take();
        bytes.clear();
        let soft = soft_limit(boundaries, offset - last_checkpoint);
        let stop = decoder.decode(&mut bytes, soft, hard_limit(boundaries));
        let ended = !matches!(stop, Ok(Stop::Boundary | Stop::Full));
        if !ended && !has_room(decoder.memory_bytes()) {
            let busy = io::Error::other("other layers hold the memory for decoding");
            return Err(StreamFault::io("cannot decode", busy));
        }
        if !bytes.is_empty() && out.send(RawSpan { offset, bytes, checkpoint }).is_err() {
            return Ok(Decoded::default());
        }
        if ended {
            stop?;
            return Ok(Decoded { trailing: decoder.trailing_bytes() > 0 });
        }
    }
}

/// Returns how many bytes of a span are decoded before a boundary may end it, `since_checkpoint` bytes after
/// the last checkpoint. Frequent boundaries follow soon at any offset. A rare boundary is used even if it
/// comes early, and ends a span at once if the last checkpoint is far behind.
fn soft_limit(boundaries: Boundaries, since_checkpoint: u64) -> usize {
    match boundaries {
        Boundaries::Frequent => SPAN_BYTES,
        Boundaries::Everywhere | Boundaries::Rare => {
            EARLY_SPAN_BYTES.saturating_sub(usize::try_from(since_checkpoint).unwrap_or(usize::MAX))
        }
    }
}

/// Returns the maximum length of a span. Waiting for a boundary is worthwhile only if boundaries are
/// frequent.
fn hard_limit(boundaries: Boundaries) -> usize {
    match boundaries {
        Boundaries::Frequent => MAX_SPAN_BYTES,
        Boundaries::Everywhere | Boundaries::Rare => SPAN_BYTES,
    }
}

/// A span for the seekable copy, with its position among the spans.
type ToCopy = (usize, Vec<u8>);

/// A seekable copy and the positions of its spans.
struct Copied {
    file: File,
    len_bytes: u64,
    frames: Vec<(usize, Extent)>,
}

fn write_copy(
    file: Option<File>,
    spans: &Receiver<ToCopy>,
    shared: &Shared<'_>,
    growth: &Growth,
) -> StreamResult<Option<Copied>> {
    let Some(file) = file else { return Ok(None) };
    let mut writer = CopyWriter::new(file)?;
    let mut frames = Vec::new();
    for (at, bytes) in spans {
        let frame = writer.push(&bytes)?;
        growth.copy(frame.len_bytes)?;
        frames.push((at, frame));
        shared.pool.give(bytes);
    }
    if frames.is_empty() {
        return Ok(None);
    }
    let (file, len_bytes) = writer.finish();
    Ok(Some(Copied { file, len_bytes, frames }))
}

/// The last stage but one, which computes everything that depends on the uncompressed bytes.
struct DigestStage<'a> {
    hashed: bool,
    diff_id: Option<Hasher>,
    parser: TarParser,
    sink: BuilderSink,
    observer: Option<Box<dyn TarObserver>>,
    /// The first fault of the tar; reported only if the digests match.
    tar_fault: Option<StreamFault>,
    last_checkpoint: u64,
    windows: WindowWriter,
    tar_bytes: u64,
    spans: Vec<(u64, Option<[u8; 32]>)>,
    copying: bool,
    /// The growth of all layers of the image; `None` for a layer that is not compressed.
    growth: Option<&'a Growth>,
    max_tar_bytes: Bound,
}

impl DigestStage<'_> {
    fn run(
        &mut self,
        spans: &Receiver<RawSpan>,
        copies: SyncSender<ToCopy>,
        shared: &Shared<'_>,
    ) -> StreamResult<()> {
        for span in spans {
            let at = self.spans.len();
            if let Some(growth) = self.growth {
                growth.unpack(span.bytes.len() as u64)?;
            }
            self.digest(&span)?;
            if let Some(checkpoint) = span.checkpoint {
                self.last_checkpoint = span.offset;
                self.sink.builder.push_checkpoint(&self.windows.push(&checkpoint)?);
            }
            let far = span.offset - self.last_checkpoint > COPY_DISTANCE_BYTES;
            if far && self.copying {
                // An error while writing the copy is reported by the thread that writes it.
                self.copying = copies.send((at, span.bytes)).is_ok();
            } else {
                shared.pool.give(span.bytes);
            }
        }
        Ok(())
    }

    fn digest(&mut self, span: &RawSpan) -> StreamResult<()> {
        if let Some(hasher) = &mut self.diff_id {
            hasher.update(&span.bytes);
        }
        self.tar_bytes = span.offset + span.bytes.len() as u64;
        if self.tar_bytes > self.max_tar_bytes.max {
            return Err(StreamFault::over(self.max_tar_bytes, self.tar_bytes));
        }
        let hash = self.hashed.then(|| *blake3::hash(&span.bytes).as_bytes());
        self.spans.push((span.offset, hash));
        if self.tar_fault.is_some() {
            return Ok(());
        }
        match self.parser.feed(&span.bytes, &mut self.sink) {
            Err(fault @ StreamFault::Limit { .. }) => return Err(fault),
            fed => self.tar_fault = fed.err(),
        }
        if let Some(observer) = &mut self.observer {
            self.sink.files.iter_mut().flat_map(|files| files.drain(..)).for_each(|file| observer.file(file));
            observer.bytes(span.offset, &span.bytes);
        }
        Ok(())
    }

    fn finish_tar(&mut self) {
        if self.tar_fault.is_none() {
            self.tar_fault = self.parser.finish(&mut self.sink).err();
        }
    }

    fn into_indexed(self, copied: Option<Copied>, facts: LayerFacts) -> Indexed {
        let mut builder = self.sink.builder;
        let (copy, copy_bytes, frames) = match copied {
            Some(copied) => (Some(copied.file), copied.len_bytes, copied.frames),
            None => (None, 0, Vec::new()),
        };
        let mut frames = frames.into_iter().peekable();
        for (at, (offset, hash)) in self.spans.into_iter().enumerate() {
            let frame = frames.next_if(|(copied, _)| *copied == at).map(|(_, frame)| frame);
            builder.push_span(offset, hash, frame);
        }
        let index = builder.finish(LayerFacts { tar_bytes: self.tar_bytes, copy_bytes, ..facts });
        Indexed { index, windows: self.windows.finish(), copy, is_complete: true }
    }
}

/// Adds the parser's entries and warnings to the index.
#[derive(Default)]
pub(super) struct BuilderSink {
    pub(super) builder: IndexBuilder,
    /// Extents of regular files that the observer does not know yet; `None` without an observer.
    files: Option<Vec<Extent>>,
}

impl Sink for BuilderSink {
    fn entry(&mut self, entry: Entry<'_>) -> StreamResult<()> {
        if let (Some(files), EntryKind::File(FileData { stored: Stored::Contiguous(extent), .. })) =
            (&mut self.files, &entry.kind)
        {
            files.push(*extent);
        }
        self.builder.push_entry(&entry)
    }

    fn warning(&mut self, kind: WarningKind, name: &[u8]) {
        self.builder.push_warning(kind, name);
    }
}
