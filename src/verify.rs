//! Every promise of an image, compared with what is there.
//!
//! All bytes are read anew; no index is asked. One promise is one [`Item`], and nothing ends at the first
//! that is not kept. This module owns which promises there are and what a verdict is. What is inside of a
//! layer's tar is not looked at: bytes that have the digests they should have are the image's, sound or not.

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::compress::{Compression, Decoder, Stop};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::load::Progress;
use crate::read_at::ReadAt;
use crate::source::{DocumentRole, Survey, SurveyedDocument, SurveyedLayer};

/// Uncompressed bytes that are decoded at a time.
const DECODE_BYTES: usize = 1 << 20;
/// Stored bytes that are read and dropped at a time, behind damage.
const DRAIN_BYTES: usize = 256 << 10;
/// The longest magic number there is to recognise a compression by.
const SNIFF_BYTES: u64 = 16;

/// What a promise is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A document.
    Document(DocumentRole),
    /// A layer, by its position from 0.
    Layer(usize),
    /// The image's documents as a whole.
    Image,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Document(role) => f.pad(role.name()),
            Subject::Layer(number) => f.pad(&format!("layer {number}")),
            Subject::Image => f.pad("image"),
        }
    }
}

/// What was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The length of the stored bytes.
    Size,
    /// The digest of the stored bytes.
    Digest,
    /// The digest of the uncompressed tar.
    DiffId,
    /// That documents do not contradict each other and can be read.
    Documents,
}

impl Check {
    /// `size`, `digest`, `diff_id` or `documents`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Check::Size => "size",
            Check::Digest => "digest",
            Check::DiffId => "diff_id",
            Check::Documents => "documents",
        }
    }
}

/// Whether a promise is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Ok,
    /// Something else is there; this, as far as it could be found out.
    Mismatch(Found),
    /// There is nothing to compare with.
    Missing,
}

/// What is there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Another size in bytes, or another digest.
    Other(String),
    /// Bytes that cannot be read or decoded, and why.
    Unreadable(String),
}

/// One promise and its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is about.
    pub subject: Subject,
    /// What was promised of it.
    pub check: Check,
    /// The promise: a digest, or a number of bytes. Empty for [`Check::Documents`], which only come up when
    /// something is wrong.
    pub expected: String,
    /// Whether it is kept.
    pub verdict: Verdict,
}

impl Item {
    fn compare(subject: Subject, check: Check, expected: impl ToString, found: impl ToString) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        let verdict = if expected == found { Verdict::Ok } else { Verdict::Mismatch(Found::Other(found)) };
        Item { subject, check, expected, verdict }
    }

    fn missing(subject: Subject, check: Check, digest: Digest) -> Self {
        Item { subject, check, expected: digest.to_string(), verdict: Verdict::Missing }
    }

    fn unreadable(subject: Subject, check: Check, digest: Digest, why: &Error) -> Self {
        let verdict = Verdict::Mismatch(Found::Unreadable(why.to_string()));
        Item { subject, check, expected: digest.to_string(), verdict }
    }
}

/// Checks all that `survey` found, layers side by side, and tells of each item in the order of the image.
/// True when all is well.
///
/// # Errors
/// What `tell` gives; and the first fault of the survey when it is all there is to tell.
pub fn verify<E: From<Error>>(
    survey: Survey,
    progress: Option<&dyn Progress>,
    tell: &mut dyn FnMut(&Item) -> Result<(), E>,
) -> Result<bool, E> {
    let mut sound = true;
    let mut told = |items: Vec<Item>| -> Result<(), E> {
        for item in items {
            sound &= item.verdict == Verdict::Ok;
            tell(&item)?;
        }
        Ok(())
    };
    let Survey { documents, layers, mut faults } = survey;
    let items: Vec<Item> = documents.iter().flat_map(check_document).collect();
    let explained = items.iter().any(|item| item.verdict != Verdict::Ok);
    if !faults.is_empty() && !explained && layers.is_empty() {
        return Err(faults.swap_remove(0).into());
    }
    told(items)?;
    told(faults.iter().filter_map(|fault| check_fault(fault, explained)).collect())?;
    check_layers(&layers, progress, &mut told)?;
    Ok(sound)
}

fn check_document(document: &SurveyedDocument) -> Vec<Item> {
    let SurveyedDocument { role, digest, size, found } = document;
    let subject = Subject::Document(*role);
    let Some((found_size, found_digest)) = found else {
        return vec![Item::missing(subject, Check::Digest, *digest)];
    };
    let size = size.map(|size| Item::compare(subject, Check::Size, size, found_size));
    size.into_iter().chain([Item::compare(subject, Check::Digest, digest, found_digest)]).collect()
}

/// A fault of the documents. What follows from one that is told already is not told again.
fn check_fault(fault: &Error, explained: bool) -> Option<Item> {
    let (expected, found) = match fault {
        Error::Mismatch { expected, found, .. } => (expected.clone(), Found::Other(found.clone())),
        Error::MissingBlob { digest, .. } if !explained => {
            let subject = Subject::Document(DocumentRole::Manifest);
            return Some(Item::missing(subject, Check::Digest, *digest));
        }
        _ if explained => return None,
        fault => (String::new(), Found::Unreadable(fault.to_string())),
    };
    let verdict = Verdict::Mismatch(found);
    Some(Item { subject: Subject::Image, check: Check::Documents, expected, verdict })
}

/// Longest first, so that no thread ends up alone with the largest; told in their own order.
fn check_layers<E: From<Error>>(
    layers: &[SurveyedLayer],
    progress: Option<&dyn Progress>,
    told: &mut dyn FnMut(Vec<Item>) -> Result<(), E>,
) -> Result<(), E> {
    let len = |layer: &SurveyedLayer| layer.bytes.as_ref().map_or(0, |bytes| bytes.len());
    let mut order: Vec<(usize, &SurveyedLayer)> = layers.iter().enumerate().collect();
    order.sort_by_key(|(_, layer)| std::cmp::Reverse(len(layer)));
    if let Some(progress) = progress {
        progress.begin("Verifying layers", layers.iter().map(len).sum());
    }
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(layers.len());
    let result = thread::scope(|scope| {
        let (done, results) = channel();
        for _ in 0..workers {
            let (done, next, order) = (done.clone(), &next, &order);
            scope.spawn(move || {
                while let Some((number, layer)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let items = check_layer(*number, layer, progress);
                    // Nobody listens any more: what is left need not be read.
                    if done.send((*number, items)).is_err() {
                        next.store(usize::MAX / 2, Ordering::Relaxed);
                    }
                }
            });
        }
        drop(done);
        let mut waiting: Vec<Option<Vec<Item>>> = layers.iter().map(|_| None).collect();
        let mut at = 0;
        for (number, items) in results {
            if let Some(place) = waiting.get_mut(number) {
                *place = Some(items);
            }
            while let Some(items) = waiting.get_mut(at).and_then(Option::take) {
                told(items)?;
                at += 1;
            }
        }
        Ok(())
    });
    if let Some(progress) = progress {
        progress.end();
    }
    result
}

fn check_layer(number: usize, layer: &SurveyedLayer, progress: Option<&dyn Progress>) -> Vec<Item> {
    let subject = Subject::Layer(number);
    let SurveyedLayer { digest, size, diff_id, bytes } = layer;
    let Some(bytes) = bytes else {
        let named = digest.map(|digest| (Check::Digest, digest)).or(diff_id.map(|id| (Check::DiffId, id)));
        return named.map(|(check, digest)| Item::missing(subject, check, digest)).into_iter().collect();
    };
    let mut items = Vec::new();
    items.extend(size.map(|size| Item::compare(subject, Check::Size, size, bytes.len())));
    let (stored, tar) = digests(bytes, *digest, *diff_id);
    if let Some(progress) = progress {
        progress.advance(bytes.len());
    }
    for (check, expected, found) in [(Check::Digest, digest, stored), (Check::DiffId, diff_id, tar)] {
        let Some(expected) = expected else { continue };
        items.push(match found {
            Ok(found) => Item::compare(subject, check, expected, found),
            Err(why) => Item::unreadable(subject, check, *expected, &why.about(&subject.to_string())),
        });
    }
    items
}

/// The digests of a blob and of what it holds, in one pass. Damage within does not keep the blob's own from
/// being found.
fn digests(
    bytes: &Arc<dyn ReadAt>,
    digest: Option<Digest>,
    diff_id: Option<Digest>,
) -> (Result<Digest>, Result<Digest>) {
    let nothing = || Err(Error::io("not asked for", io::ErrorKind::InvalidInput.into()));
    let tap = Tap::new(bytes.clone(), digest.map(|digest| digest.algorithm().hasher()));
    let tar = diff_id.map(|diff_id| tap.decode_into(diff_id.algorithm().hasher()));
    let stored = tap.finish();
    (stored.and_then(|digest| digest.map_or_else(nothing, Ok)), tar.unwrap_or_else(nothing))
}

/// Stored bytes, read front to back and hashed on the way. Clones share the position.
#[derive(Debug, Clone)]
struct Tap(Arc<Mutex<TapState>>);

#[derive(Debug)]
struct TapState {
    bytes: Arc<dyn ReadAt>,
    offset: u64,
    hasher: Option<Hasher>,
}

impl Tap {
    fn new(bytes: Arc<dyn ReadAt>, hasher: Option<Hasher>) -> Self {
        Tap(Arc::new(Mutex::new(TapState { bytes, offset: 0, hasher })))
    }

    fn state(&self) -> MutexGuard<'_, TapState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decode_into(&self, mut hasher: Hasher) -> Result<Digest> {
        let bytes = self.state().bytes.clone();
        let mut head = vec![0; usize::try_from(bytes.len().min(SNIFF_BYTES)).unwrap_or(0)];
        bytes.read_exact_at(&mut head, 0).map_err(|cause| Error::io("cannot read", cause))?;
        let mut decoder = Decoder::new(Compression::sniff(&head), Box::new(self.clone()))?;
        let mut out = Vec::new();
        loop {
            out.clear();
            let stop = decoder.decode(&mut out, DECODE_BYTES, DECODE_BYTES)?;
            hasher.update(&out);
            if stop == Stop::End {
                return Ok(hasher.finish());
            }
        }
    }

    /// Reads what nobody read, and gives the digest if one was asked for.
    fn finish(mut self) -> Result<Option<Digest>> {
        let mut rest = vec![0; DRAIN_BYTES];
        if self.state().hasher.is_some() {
            while self.read(&mut rest).map_err(|cause| Error::io("cannot read", cause))? > 0 {}
        }
        let hasher = self.state().hasher.take();
        Ok(hasher.map(Hasher::finish))
    }
}

impl Read for Tap {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let left = state.bytes.len().saturating_sub(state.offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..len).unwrap_or_default();
        state.bytes.read_exact_at(buf, state.offset)?;
        if let Some(hasher) = &mut state.hasher {
            hasher.update(buf);
        }
        state.offset += len as u64;
        Ok(len)
    }
}
