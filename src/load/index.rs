//! Finds the index of a layer or a compressed archive in the store, or builds it.
//!
//! This module owns the names under which an index is looked up and stored, and when the compression is
//! detected. A stored index is found without reading the layer. This module does not know how an index is
//! built or laid out.

use std::sync::Arc;

use super::Engine;
use crate::compress::{Compression, DecoderMemory, Patience};
use crate::error::{Error, Property, Result, Subject};
use crate::image::LayerDescriptor;
use crate::layer::growth::Growth;
use crate::layer::index::{Expected, Request, TarObserver, Verify, index_layer};
use crate::layer::stored::StoredIndex;
use crate::layer::table::LayerFacts;
use crate::limits::Limits;
use crate::read_at::ReadAt;
use crate::source::{BlobIdentity, LayerBlob};
use crate::store::{Key, Store};

/// The names under which the index of a blob may be stored, as far as they are known before a byte is read.
#[derive(Debug)]
pub(super) struct Keys {
    /// The name from the digest of the blob or, without a digest, from the file and the range that hold the
    /// blob. `None` when neither is known.
    pub(super) known: Option<Key>,
    /// The name from the diff_id alone, for a layer that turns out to be uncompressed: its bytes are those
    /// that the diff_id names, wherever they are stored. `None` for a blob with a digest, which identifies it
    /// already.
    pub(super) plain: Option<Key>,
}

impl Keys {
    pub(super) fn of_layer(blob: &LayerBlob) -> Self {
        let name = blob.identity.store_name();
        let Some(diff_id) = &blob.descriptor.diff_id else {
            return Keys { known: name.map(|name| Key::unnamed_layer(&name)), plain: None };
        };
        let known = || name.map(|name| Key::layer(diff_id, Some(&name)));
        match blob.identity {
            BlobIdentity::Tar => Keys { known: Some(Key::layer(diff_id, None)), plain: None },
            BlobIdentity::Digest(_) => Keys { known: known(), plain: None },
            BlobIdentity::File(_) | BlobIdentity::Walk(_) | BlobIdentity::Unknown => {
                Keys { known: known(), plain: Some(Key::layer(diff_id, None)) }
            }
        }
    }

    pub(super) fn of_archive(identity: BlobIdentity) -> Self {
        Keys { known: identity.store_name().map(|name| Key::archive(&name)), plain: None }
    }
}

/// Returns the digests and the size that an image states for a layer.
pub(super) fn expected_of(descriptor: &LayerDescriptor) -> Expected {
    Expected {
        diff_id: descriptor.diff_id,
        blob_digest: descriptor.digest,
        blob_bytes: descriptor.size,
        learn: descriptor.diff_id.is_none(),
    }
}

/// Returns whether a stored index matches a blob of `len` bytes, if that is known, and its expected digests
/// and size.
fn fits(found: &StoredIndex, len: Option<u64>, expected: &Expected) -> bool {
    let facts = found.index.facts();
    let same_blob = match (facts.blob_digest, expected.blob_digest) {
        (Some(found), Some(expected)) => found == expected,
        _ => true,
    };
    let same_tar = match expected.diff_id {
        None => facts.diff_id.is_some() == expected.learn,
        expected => facts.diff_id == expected,
    };
    len.is_none_or(|len| len == facts.blob_bytes)
        && expected.blob_bytes.is_none_or(|expected| expected == facts.blob_bytes)
        && same_tar
        && same_blob
}

/// Returns the compression of the blob of a layer that is shared with another image. `facts` describe the
/// blob of the other image.
pub(super) fn stored_as(what: &Subject, blob: &LayerBlob, facts: &LayerFacts) -> Result<Compression> {
    match blob.descriptor.digest {
        Some(digest) if facts.blob_digest == Some(digest) => Ok(facts.compression),
        _ => detect(what, &*blob.bytes),
    }
}

/// The bytes of a layer or of a compressed archive, and what is known about them before they are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blob<'a> {
    pub(super) what: &'a Subject,
    pub(super) bytes: &'a Arc<dyn ReadAt>,
    /// The compression, if known.
    pub(super) compression: Option<Compression>,
    pub(super) expected: Expected,
    /// The limits for the tar.
    pub(super) limits: Limits,
    /// The growth of all layers of the image.
    pub(super) growth: &'a Growth,
    /// The account of the memory of decoders.
    pub(super) decoders: &'a Arc<DecoderMemory>,
}

impl Engine {
    /// Returns the index from the store, or builds it in a pass and stores it. If the store has the index,
    /// the bytes are not read, except to detect the compression before a lookup by the diff_id alone.
    pub(super) fn index(
        &self,
        mut blob: Blob<'_>,
        keys: &Keys,
        observer: Option<Box<dyn TarObserver>>,
    ) -> Result<StoredIndex> {
        let Blob { what, bytes, expected, .. } = blob;
        let len = bytes.known_len();
        if let Some(found) = keys.known.as_ref().and_then(|key| self.stored(key, len, &expected)) {
            return Ok(found);
        }
        let Some(plain) = &keys.plain else {
            return self.index_anew(blob, keys.known.as_ref(), observer);
        };
        let compression = blob.compression.map_or_else(|| detect(what, &**bytes), Ok)?;
        blob.compression = Some(compression);
        if compression != Compression::Plain {
            return self.index_anew(blob, keys.known.as_ref(), observer);
        }
        let found = match self.stored(plain, len, &expected) {
            Some(found) => found,
            None => self.index_anew(blob, Some(plain), observer)?,
        };
        if let Some((store, known)) = self.writable_store().zip(keys.known.as_ref())
            && let Err(error) = store.add_name(plain, known)
        {
            log::debug!(
                "{what}: cannot store a second name of the index, the next mount reads the first bytes of the layer: {error}"
            );
        }
        Ok(found)
    }

    /// Returns whether loading the layers needs no download: each layer of a registry has a stored index.
    pub(crate) fn has_indexes(&self, layers: &[LayerBlob]) -> bool {
        layers.iter().filter(|blob| blob.bytes.remote().is_some()).all(|blob| {
            let known = Keys::of_layer(blob).known;
            let found =
                known.zip(self.inner.options.store.as_ref()).and_then(|(key, store)| store.load(&key));
            found.is_some_and(|found| fits(&found, blob.bytes.known_len(), &expected_of(&blob.descriptor)))
        })
    }

    /// Returns the store if new indexes may be saved in it: only if all bytes are verified.
    fn writable_store(&self) -> Option<&Store> {
        self.inner.options.store.as_ref().filter(|_| self.verify() == Verify::Full)
    }

    /// Returns the index from the store, if it matches a blob of `len` bytes and its expected digests and
    /// size.
    fn stored(&self, key: &Key, len: Option<u64>, expected: &Expected) -> Option<StoredIndex> {
        let options = &self.inner.options;
        let found = options.store.as_ref()?.load(key).filter(|found| fits(found, len, expected))?;
        // With `Verify::Off`, a plain layer is indexed by a scan of its headers. The scan is as fast as
        // loading the index, and shows the current content.
        if options.verify == Verify::Off && found.index.facts().compression == Compression::Plain {
            return None;
        }
        if let Some(progress) = &options.progress {
            progress.advance(len.unwrap_or(0));
        }
        Some(found)
    }

    /// Builds the index in a pass and stores it under `key`; without a key it is not stored. If the bytes of
    /// a remote source do not have their digest, they are requested once more, past all caches.
    fn index_anew(
        &self,
        blob: Blob<'_>,
        key: Option<&Key>,
        observer: Option<Box<dyn TarObserver>>,
    ) -> Result<StoredIndex> {
        let Blob { bytes, expected, .. } = blob;
        let again = bytes.remote().filter(|_| observer.is_none());
        let is_wrong = |error: &Error| self.may_be_wrong(error, expected);
        let result = match (self.pass(blob, key, observer), again) {
            (Err(error), Some(remote)) if is_wrong(&error) => {
                log::warn!("{error}; requesting the blob again");
                remote.refresh(0..bytes.len());
                self.pass(blob, key, None)
            }
            (result, _) => result,
        };
        match (&result, bytes.remote()) {
            (Ok(_), Some(remote)) if self.verify() == Verify::Full && expected.blob_digest.is_some() => {
                remote.proved();
            }
            (Err(error), Some(remote)) if is_wrong(error) => remote.refresh(0..bytes.len()),
            _ => {}
        }
        result
    }

    /// Returns whether a pass failed because of bytes that may not be those that the image names. After a full
    /// check of the digest, that is certain; an exceeded limit ends the pass before the check.
    fn may_be_wrong(&self, error: &Error, expected: Expected) -> bool {
        match error {
            Error::Mismatch { property: Property::BlobDigest, .. } | Error::Limit { .. } => true,
            // One hash serves for both digests of an uncompressed layer.
            Error::Mismatch { property: Property::DiffId, .. } => {
                self.verify() != Verify::Full || expected.blob_digest == expected.diff_id
            }
            Error::Mismatch { .. } | Error::Decompress { .. } | Error::Tar { .. } => {
                self.verify() != Verify::Full || expected.blob_digest.is_none()
            }
            _ => false,
        }
    }

    fn pass(
        &self,
        blob: Blob<'_>,
        key: Option<&Key>,
        observer: Option<Box<dyn TarObserver>>,
    ) -> Result<StoredIndex> {
        let Blob { what, bytes, compression, expected, limits, growth, decoders } = blob;
        let options = &self.inner.options;
        let store = self.writable_store().zip(key);
        let draft = store.and_then(|(store, _)| store.draft().map_err(|error| log::warn!("{error}")).ok());
        let scratch = draft.as_ref().map(|draft| draft.scratch()).transpose()?;
        let progress = |bytes| {
            if let Some(progress) = &options.progress {
                progress.advance(bytes);
            }
        };
        let request = |verify, scratch, observer| Request {
            bytes: bytes.clone(),
            what,
            compression,
            expected,
            verify,
            limits,
            scratch,
            progress: &progress,
            observer,
            growth,
            decoders,
            patience: Patience::Long,
        };
        let indexed = match index_layer(request(options.verify, scratch, observer)) {
            // The directory of a running container: nothing states its digest, and every file is compared with
            // the walk when it is read. So one file that changes does not keep the others from being read.
            Err(change) if expected.learn && bytes.checks_files() && is_change(&change) => {
                log::warn!("{change}; reading this file is an error, the others can be read");
                return StoredIndex::from_pass(index_layer(request(Verify::Off, None, None))?);
            }
            indexed => indexed?,
        };
        // Without its copy, a stored index would keep the copy from ever being written.
        let store = store.filter(|_| indexed.is_complete);
        match store.zip(draft).map(|((store, key), draft)| store.save(key, draft, &indexed)) {
            Some(Ok(())) => {
                let saved = store.map(|(store, key)| store.saved(key));
                return match saved {
                    Some(saved) => StoredIndex::from_saved(indexed, what, &saved),
                    None => StoredIndex::from_pass(indexed),
                };
            }
            Some(Err(error)) => {
                log::warn!("cannot store the index, the next mount reads the layer again: {error}")
            }
            None => {}
        }
        StoredIndex::from_pass(indexed)
    }
}

/// Returns whether a file is not the one that was seen in a walk.
fn is_change(error: &Error) -> bool {
    let kinds = [std::io::ErrorKind::InvalidData, std::io::ErrorKind::NotFound];
    matches!(error, Error::Io { cause, .. } if kinds.contains(&cause.kind()))
}

fn detect(what: &Subject, bytes: &dyn ReadAt) -> Result<Compression> {
    Compression::detect(bytes).map_err(|cause| Error::io_on("cannot read", what.clone(), cause))
}
