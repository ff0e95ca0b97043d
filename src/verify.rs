//! Compares every digest and size that an image declares with its bytes.
//!
//! This module owns which checks an image has and what a verdict is. All bytes are read, decoded and
//! hashed anew; [`mod@digests`] decides how. Each check is one [`VerifyItem`], and a failed check does
//! not end the verification. A layer with the right digests must also hold a readable tar; the effect
//! of its entries on the merged tree is not checked. The module must not know how documents are found.

mod digests;

use std::fmt;
use std::sync::mpsc::channel;

use self::digests::{Digests, Indexes, digests};
use crate::digest::Digest;
use crate::error::{self, Error, Result};
use crate::layer::growth::Growth;
use crate::limits::Limits;
use crate::load::{Progress, reported};
use crate::source::{DocumentRole, Survey, SurveyedDocument, SurveyedLayer};
use crate::store::Store;
use crate::workers::{Queue, beside, cores};

/// How an image is verified.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct VerifyOptions<'a> {
    /// A store with indexes of the layers; with an index, several threads decompress one layer. The store
    /// affects only speed, and nothing is written to it. None by default.
    pub indexes: Option<&'a Store>,
    /// The observer of the work. None by default.
    pub progress: Option<&'a dyn Progress>,
}

impl<'a> VerifyOptions<'a> {
    /// Sets a store with indexes of the layers.
    #[must_use]
    pub fn indexes(mut self, indexes: impl Into<Option<&'a Store>>) -> Self {
        self.indexes = indexes.into();
        self
    }

    /// Sets the observer of the work.
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<&'a dyn Progress>>) -> Self {
        self.progress = progress.into();
        self
    }
}

/// The part of an image that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifySubject {
    /// A document.
    Document(DocumentRole),
    /// A layer, by its position from 0.
    Layer(usize),
    /// The image's documents as a whole.
    Image,
}

impl VerifySubject {
    /// The name in JSON output: `image index`, `manifest`, `config`, `layer` or `image`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            VerifySubject::Document(role) => role.name(),
            VerifySubject::Layer(_) => "layer",
            VerifySubject::Image => "image",
        }
    }

    /// The position of a layer from 0; `None` for everything else.
    #[must_use]
    pub fn layer(self) -> Option<usize> {
        match self {
            VerifySubject::Layer(number) => Some(number),
            VerifySubject::Document(_) | VerifySubject::Image => None,
        }
    }
}

impl fmt::Display for VerifySubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifySubject::Document(role) => f.pad(role.name()),
            VerifySubject::Layer(number) => f.pad(&format!("layer {number}")),
            VerifySubject::Image => f.pad("image"),
        }
    }
}

/// The property that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// The length of the stored bytes.
    Size,
    /// The digest of the stored bytes.
    Digest,
    /// The digest of the uncompressed tar.
    DiffId,
    /// That the uncompressed tar can be read.
    Tar,
    /// That the documents can be read and do not contradict each other.
    Documents,
}

impl Check {
    /// The name in output: `size`, `digest`, `diff_id`, `tar` or `documents`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Check::Size => "size",
            Check::Digest => "digest",
            Check::DiffId => "diff_id",
            Check::Tar => "tar",
            Check::Documents => "documents",
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The bytes are as expected.
    Ok,
    /// The bytes differ.
    Mismatch(VerifyMismatch),
    /// The blob is missing.
    Missing,
    /// The bytes cannot be compared, or no digest is known; the text says why. The expected value is empty if
    /// there is no digest.
    Unchecked(String),
}

impl Verdict {
    /// The name in output: `ok`, `mismatch`, `missing` or `unchecked`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Mismatch(_) => "mismatch",
            Verdict::Missing => "missing",
            Verdict::Unchecked(_) => "unchecked",
        }
    }
}

/// What was found in place of the expected bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyMismatch {
    /// Another size in bytes, or another digest.
    Other(String),
    /// Bytes that cannot be read or decoded, and the cause.
    Unreadable(String),
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyItem {
    /// The part of the image.
    pub subject: VerifySubject,
    /// The property.
    pub check: Check,
    /// The expected digest or number of bytes. Empty for [`Check::Tar`] and [`Check::Documents`], which are
    /// reported only when they fail, and where nothing states a digest.
    pub expected: String,
    /// The result.
    pub verdict: Verdict,
}

impl VerifyItem {
    fn compare(subject: VerifySubject, check: Check, expected: impl ToString, found: impl ToString) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        let verdict =
            if expected == found { Verdict::Ok } else { Verdict::Mismatch(VerifyMismatch::Other(found)) };
        VerifyItem { subject, check, expected, verdict }
    }

    fn missing(subject: VerifySubject, check: Check, digest: Digest) -> Self {
        VerifyItem { subject, check, expected: digest.to_string(), verdict: Verdict::Missing }
    }

    fn unchecked(subject: VerifySubject, digest: Option<Digest>, why: &str) -> Self {
        let expected = digest.map(|digest| digest.to_string()).unwrap_or_default();
        VerifyItem { subject, check: Check::DiffId, expected, verdict: Verdict::Unchecked(why.to_owned()) }
    }

    /// Whether everything that the image states is right, as far as this check is concerned.
    fn is_sound(&self) -> bool {
        match self.verdict {
            Verdict::Ok => true,
            Verdict::Unchecked(_) => self.expected.is_empty(),
            Verdict::Mismatch(_) | Verdict::Missing => false,
        }
    }

    fn unreadable(subject: VerifySubject, check: Check, digest: Digest, why: &Error) -> Self {
        let verdict = Verdict::Mismatch(VerifyMismatch::Unreadable(why.to_string()));
        VerifyItem { subject, check, expected: digest.to_string(), verdict }
    }
}

/// Checks all documents and layers in `survey`, several layers in parallel, and reports each item in
/// the order of the image. Returns true if everything that has a digest was checked and is right.
///
/// # Errors
/// The errors of `report`; the first fault of the survey if there is nothing else to report.
pub(crate) fn verify<E: From<Error>>(
    survey: Survey,
    options: &VerifyOptions<'_>,
    limits: Limits,
    report: &mut dyn FnMut(&VerifyItem) -> Result<(), E>,
) -> Result<bool, E> {
    let mut sound = true;
    let mut report_all = |items: Vec<VerifyItem>| -> Result<(), E> {
        for item in items {
            sound &= item.is_sound();
            report(&item)?;
        }
        Ok(())
    };
    let Survey { documents, layers, mut faults } = survey;
    let items: Vec<VerifyItem> = documents.iter().flat_map(check_document).collect();
    let explained = items.iter().any(|item| item.verdict != Verdict::Ok);
    if !faults.is_empty() && !explained && layers.is_empty() {
        return Err(faults.swap_remove(0).into());
    }
    report_all(items)?;
    report_all(faults.iter().filter_map(|fault| check_fault(fault, explained)).collect())?;
    check_layers(&layers, options, limits, &mut report_all)?;
    Ok(sound)
}

fn check_document(document: &SurveyedDocument) -> Vec<VerifyItem> {
    let SurveyedDocument { role, digest, size, found } = document;
    let subject = VerifySubject::Document(*role);
    let Some((found_size, found_digest)) = found else {
        return vec![VerifyItem::missing(subject, Check::Digest, *digest)];
    };
    let size = size.map(|size| VerifyItem::compare(subject, Check::Size, size, found_size));
    size.into_iter().chain([VerifyItem::compare(subject, Check::Digest, digest, found_digest)]).collect()
}

/// Returns the item for a fault of the documents. With `explained`, a failed check was reported
/// already, and faults that follow from it are not reported again.
fn check_fault(fault: &Error, explained: bool) -> Option<VerifyItem> {
    let (expected, found) = match fault {
        Error::Mismatch { expected, found, .. } => (expected.clone(), VerifyMismatch::Other(found.clone())),
        Error::MissingBlob { digest, .. } if !explained => {
            let subject = VerifySubject::Document(DocumentRole::Manifest);
            return Some(VerifyItem::missing(subject, Check::Digest, *digest));
        }
        _ if explained => return None,
        fault => (String::new(), VerifyMismatch::Unreadable(fault.to_string())),
    };
    let verdict = Verdict::Mismatch(found);
    Some(VerifyItem { subject: VerifySubject::Image, check: Check::Documents, expected, verdict })
}

/// Checks the layers, the largest first, and reports the verdicts in the order of the image.
fn check_layers<E: From<Error>>(
    layers: &[SurveyedLayer],
    options: &VerifyOptions<'_>,
    limits: Limits,
    report_all: &mut dyn FnMut(Vec<VerifyItem>) -> Result<(), E>,
) -> Result<(), E> {
    let progress = options.progress;
    let indexes = options.indexes.map(Indexes::new);
    let len = |layer: &SurveyedLayer| layer.bytes.as_ref().map_or(0, |bytes| bytes.len());
    let total_bytes = layers.iter().map(len).fold(0, u64::saturating_add);
    // All layers of an archive that is compressed as a whole come from its file.
    let whole = layers.iter().filter_map(|layer| layer.bytes.as_ref()?.unpacked_from()).max();
    let growth = Growth::new(whole.unwrap_or(total_bytes), limits);
    // A layer that is no larger than one core's share delays no other thread, and decoding it from many
    // checkpoints costs more than decoding it from the start.
    let share_bytes = total_bytes / cores() as u64;
    let queue = Queue::largest_first(layers, len);
    let (done, results) = channel();
    let check = || {
        // The sender is dropped with the last thread, which ends the results.
        let done = done;
        while let Some((number, layer)) = queue.take() {
            let indexes = indexes.as_ref().filter(|_| len(layer) >= share_bytes);
            let items = check_layer(number, layer, indexes, &growth);
            if let (Some(progress), Some(bytes)) = (progress, &layer.bytes) {
                progress.advance(bytes.len());
            }
            // The receiver is gone: the remaining layers need not be read.
            if done.send((number, items)).is_err() {
                queue.close();
            }
        }
    };
    let report = || {
        let mut waiting: Vec<Option<Vec<VerifyItem>>> = layers.iter().map(|_| None).collect();
        let mut at = 0;
        for (number, items) in results {
            if let Some(place) = waiting.get_mut(number) {
                *place = Some(items);
            }
            while let Some(items) = waiting.get_mut(at).and_then(Option::take) {
                report_all(items)?;
                at += 1;
            }
        }
        Ok(())
    };
    reported(progress, "Verifying layers", total_bytes, || beside(cores().min(layers.len()), check, report).0)
}

fn check_layer(
    number: usize,
    layer: &SurveyedLayer,
    indexes: Option<&Indexes<'_>>,
    growth: &Growth,
) -> Vec<VerifyItem> {
    let subject = VerifySubject::Layer(number);
    let SurveyedLayer { digest, size, diff_id, bytes, unchecked } = layer;
    if let Some(why) = unchecked {
        return vec![VerifyItem::unchecked(subject, *diff_id, why)];
    }
    let Some(bytes) = bytes else {
        let named = digest.map(|digest| (Check::Digest, digest)).or(diff_id.map(|id| (Check::DiffId, id)));
        return named
            .map(|(check, digest)| VerifyItem::missing(subject, check, digest))
            .into_iter()
            .collect();
    };
    let mut items = Vec::new();
    items.extend(size.map(|size| VerifyItem::compare(subject, Check::Size, size, bytes.len())));
    let layer = error::Subject::Layer { number, diff_id: None };
    let Digests { blob, tar, fault } = digests(bytes, *digest, *diff_id, indexes, growth);
    for (check, expected, found) in [(Check::Digest, digest, blob), (Check::DiffId, diff_id, tar)] {
        let (Some(expected), Some(found)) = (expected, found) else { continue };
        items.push(match found {
            Ok(found) => VerifyItem::compare(subject, check, expected, found),
            Err(why) => VerifyItem::unreadable(subject, check, *expected, &why.of(&layer)),
        });
    }
    // The faults of a damaged tar follow from the damage, which is reported already.
    if let Some(fault) = fault.filter(|_| items.iter().all(|item| item.verdict == Verdict::Ok)) {
        let why = fault.of(&layer).to_string();
        let verdict = Verdict::Mismatch(VerifyMismatch::Unreadable(why));
        items.push(VerifyItem { subject, check: Check::Tar, expected: String::new(), verdict });
    }
    items
}
