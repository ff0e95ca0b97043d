//! The engine: from a reference to a source, from an image to indexed layers, a rootfs and its bytes.
//!
//! This module owns the order of things and what runs side by side: which layers need a pass and which
//! are in the store, how many passes at once, and what belongs to one [`Engine`] (the span cache, the
//! store). It parses nothing, merges nothing and knows no view.

mod archive;
mod index;
mod loaded;
mod members;
#[cfg(feature = "fuse")]
mod parts;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use self::index::{Keys, stored_as};
pub(crate) use self::loaded::LoadedTree;
pub use self::loaded::{FileReader, LayerInfo};
use crate::compress::Compression;
use crate::content::cache::SpanCache;
use crate::content::{LayerBytes, ReadAhead};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::{LayerDescriptor, claimed_compression};
use crate::layer::check_layers;
use crate::layer::index::{Expected, Verify};
use crate::layer::reader::LayerReader;
use crate::layer::stored::StoredIndex;
use crate::layer::table::{LayerFacts, LayerIndex};
use crate::layer::tar::Limits;
use crate::path::escape;
use crate::read_at::ReadAt;
use crate::rootfs::stored::TREE_VERSION;
use crate::rootfs::{MergeOptions, Rootfs, Semantics, merge};
use crate::source::{BlobIdentity, LayerBlob, OpenedImage};
use crate::store::{Key, Store};
use crate::warning::{Warning, WarningKind};
use crate::workers::{Queue, try_map};

/// Memory for decoded spans unless told otherwise.
pub(crate) const DEFAULT_CACHE_BYTES: usize = 256 << 20;
/// Smaller images are merged faster than their tree is read.
const MIN_STORED_ENTRIES: u64 = 10_000;

/// An observer of work that takes long. Methods are called from several threads.
pub trait Progress: Send + Sync + fmt::Debug {
    /// Work of `total_bytes` begins; `what` names it, as `Indexing layers`.
    fn begin(&self, what: &str, total_bytes: u64);
    /// Another `bytes` bytes are done.
    fn advance(&self, bytes: u64);
    /// The work has ended.
    fn end(&self);
}

/// Does `work`, and reports its beginning and its end, whatever it returns.
pub(crate) fn reported<R>(
    progress: Option<&dyn Progress>,
    what: &str,
    total_bytes: u64,
    work: impl FnOnce() -> R,
) -> R {
    if let Some(progress) = progress {
        progress.begin(what, total_bytes);
    }
    let result = work();
    if let Some(progress) = progress {
        progress.end();
    }
    result
}

/// How an [`Engine`] opens and reads images.
#[derive(Debug)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Which bytes are verified. [`Verify::Full`] by default.
    pub verify: Verify,
    /// Memory for decompressed data in bytes. 256 MiB by default.
    pub cache_bytes: usize,
    /// The store of layer indexes. None by default: nothing is kept on disk.
    pub store: Option<Store>,
    /// A directory for a copy of standard input while it is open. By default the directory of the store;
    /// without either, standard input is refused.
    pub spool_dir: Option<PathBuf>,
    /// Limits on what a tar may hold.
    pub(crate) limits: Limits,
    /// The observer of long work. None by default.
    pub progress: Option<Arc<dyn Progress>>,
}

impl EngineOptions {
    /// Sets which bytes are verified.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Sets the memory for decompressed data, in bytes.
    #[must_use]
    pub fn cache_bytes(mut self, cache_bytes: usize) -> Self {
        self.cache_bytes = cache_bytes;
        self
    }

    /// Keeps layer indexes in a store.
    #[must_use]
    pub fn store(mut self, store: impl Into<Option<Store>>) -> Self {
        self.store = store.into();
        self
    }

    /// Sets the directory for a copy of standard input.
    #[must_use]
    pub fn spool_dir(mut self, spool_dir: impl Into<Option<PathBuf>>) -> Self {
        self.spool_dir = spool_dir.into();
        self
    }

    /// Sets the observer of long work.
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Arc<dyn Progress>>>) -> Self {
        self.progress = progress.into();
        self
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            verify: Verify::Full,
            cache_bytes: DEFAULT_CACHE_BYTES,
            store: None,
            spool_dir: None,
            limits: Limits::default(),
            progress: None,
        }
    }
}

/// The layers of an image that are loaded; they are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LayerRange {
    /// All layers.
    #[default]
    All,
    /// The layers from 0 to this one: the state after it.
    Upto(u16),
    /// This layer alone.
    Only(u16),
}

/// How the layers of an image become a tree.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The layers to load. All by default.
    pub layers: LayerRange,
    /// The reading of whiteouts. [`Semantics::Runtime`] by default.
    pub semantics: Semantics,
    /// Follow symbolic links of lower layers below which a layer has entries, as umoci does. Off by default:
    /// a directory replaces the link.
    pub follow_dirlinks: bool,
    /// Refuse an image that merges only with warnings. Off by default.
    pub strict: bool,
}

impl LoadOptions {
    /// Sets the layers to load.
    #[must_use]
    pub fn layers(mut self, layers: LayerRange) -> Self {
        self.layers = layers;
        self
    }

    /// Sets the reading of whiteouts.
    #[must_use]
    pub fn semantics(mut self, semantics: Semantics) -> Self {
        self.semantics = semantics;
        self
    }

    /// Follows symbolic links of lower layers below which a layer has entries, as umoci does.
    #[must_use]
    pub fn follow_dirlinks(mut self, follow_dirlinks: bool) -> Self {
        self.follow_dirlinks = follow_dirlinks;
        self
    }

    /// Refuses an image that merges only with warnings.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// How layers are merged.
    pub(crate) fn merge(&self) -> MergeOptions {
        MergeOptions { semantics: self.semantics, follow_dirlinks: self.follow_dirlinks }
    }
}

/// Opens images. Images of one engine share the cache of decompressed data, the store, and their common
/// layers. A clone is the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: EngineOptions,
    cache: Arc<SpanCache>,
    read_ahead: Arc<ReadAhead>,
    /// The verified layers that are open, by diff_id: images that share a layer share its bytes.
    open: Mutex<HashMap<Digest, Weak<LayerBytes>>>,
}

/// A layer as it was opened for one image.
#[derive(Debug, Clone)]
struct OpenLayer {
    bytes: Arc<LayerBytes>,
    /// How this image stores it.
    compression: Compression,
    /// What is wrong with how the image describes it.
    mismatch: Option<Warning>,
}

impl Engine {
    /// Creates an engine with a cache of its own.
    #[must_use]
    pub fn new(options: EngineOptions) -> Self {
        let cache = Arc::new(SpanCache::new(options.cache_bytes));
        let inner = Inner { options, cache, read_ahead: Arc::default(), open: Mutex::default() };
        Engine { inner: Arc::new(inner) }
    }

    /// Whether bytes are checked.
    pub(crate) fn verify(&self) -> Verify {
        self.inner.options.verify
    }

    /// Indexes the layers of an image that are not in the store, merges them and makes them readable.
    ///
    /// # Errors
    /// As [`crate::layer::index::index_layer`] for the first layer that fails, [`Error::Strict`], [`Error::Reference`] for a
    /// layer that is not there, [`Error::Limit`].
    pub(crate) fn load(&self, image: OpenedImage, options: &LoadOptions) -> Result<LoadedTree> {
        let (first, blobs) = select(image.layers, options.layers)?;
        let progress = self.inner.options.progress.as_deref();
        let total_bytes = blobs.iter().map(|blob| blob.bytes.len()).sum();
        let open = reported(progress, "Indexing layers", total_bytes, || {
            self.index_all(first, &blobs, image.reads_at_once)
        })?;
        let indexes = open.iter().map(|layer| layer.bytes.reader().index().clone()).collect();
        let rootfs = self.merge(indexes, &options.merge())?;
        let mut tree = LoadedTree {
            first,
            layers: blobs.into_iter().zip(&open).map(|(blob, open)| LayerInfo::new(blob, open)).collect(),
            warnings: Vec::new(),
            rootfs,
            bytes: open.iter().map(|layer| layer.bytes.clone()).collect(),
        };
        tree.collect_warnings(open.into_iter().map(|layer| layer.mismatch));
        let refused: Vec<_> =
            tree.warnings.iter().filter(|(_, warning)| warning.kind.is_about_the_tree()).collect();
        match refused.first() {
            Some((layer, warning)) if options.strict => Err(Error::Strict {
                count: refused.len(),
                first: format!("layer {}: {}: {}", layer.0, escape(&warning.path), warning.kind),
            }),
            _ => Ok(tree),
        }
    }

    /// The merged tree from the store, or merged and then in the store.
    fn merge(&self, layers: Vec<Arc<LayerIndex>>, options: &MergeOptions) -> Result<Rootfs> {
        // Indexes of unchecked layers tell what could be had of them, not what their diff_id stands for.
        let store = self.inner.options.store.as_ref().filter(|_| self.verify() == Verify::Full);
        let entries: u64 = layers.iter().map(|index| u64::from(index.entry_count())).sum();
        let Some(store) = store.filter(|_| entries >= MIN_STORED_ENTRIES) else {
            return merge(layers, options);
        };
        let names: Vec<String> =
            layers.iter().filter_map(|index| Some(index.facts().diff_id?.to_string())).collect();
        let key = Key::tree(&format!("version {TREE_VERSION} {options:?} {}", names.join(" ")));
        if let Some(bytes) = store.load_tree(&key) {
            match Rootfs::from_bytes(bytes, layers.clone()) {
                Ok(rootfs) => return Ok(rootfs),
                Err(doubt) => log::info!("cannot use the stored tree, merging again: {doubt}"),
            }
        }
        let rootfs = merge(layers, options)?;
        store.save_tree(&key, |file| rootfs.write_to(file)).unwrap_or_else(|error| {
            log::warn!("cannot store the merged tree, the next mount merges again: {error}");
        });
        Ok(rootfs)
    }

    /// Opens the layers, the largest first. A layer that an image repeats is opened once.
    fn index_all(&self, first: u16, blobs: &[LayerBlob], reads_at_once: usize) -> Result<Vec<OpenLayer>> {
        let mut jobs: Vec<(usize, &LayerBlob)> = Vec::new();
        let mut job_of: HashMap<(Digest, BlobIdentity), usize> = HashMap::new();
        let places: Vec<usize> = blobs
            .iter()
            .enumerate()
            .map(|(at, blob)| {
                jobs.push((at, blob));
                let job = jobs.len() - 1;
                if blob.identity == BlobIdentity::Unknown {
                    return job;
                }
                let same = *job_of.entry((blob.descriptor.diff_id, blob.identity)).or_insert(job);
                jobs.truncate(if same == job { job + 1 } else { job });
                same
            })
            .collect();
        let queue = Queue::largest_first(&jobs, |(_, blob)| blob.bytes.len());
        let open =
            try_map(&queue, reads_at_once, |(at, blob)| self.open_layer(usize::from(first) + at, blob))?;
        Ok(places.iter().filter_map(|job| open.get(*job)).cloned().collect())
    }

    fn open_layer(&self, at: usize, blob: &LayerBlob) -> Result<OpenLayer> {
        let descriptor = &blob.descriptor;
        let what = Subject::Layer { number: at, diff_id: Some(descriptor.diff_id) };
        let shared = self.shared(blob);
        if let Some(bytes) = shared.clone().filter(|bytes| is_known(bytes.reader().index().facts(), blob)) {
            if let Some(progress) = &self.inner.options.progress {
                progress.advance(blob.bytes.len());
            }
            let compression = stored_as(&what, blob, bytes.reader().index().facts())?;
            return Ok(OpenLayer {
                bytes,
                compression,
                mismatch: compression_mismatch(descriptor, compression),
            });
        }
        let keys = Keys::of_layer(blob);
        let expected = Expected {
            diff_id: Some(descriptor.diff_id),
            blob_digest: descriptor.digest,
            blob_bytes: descriptor.size,
        };
        let index = self.index(&what, &blob.bytes, None, &keys, expected, None)?;
        let compression = index.index.facts().compression;
        let bytes = shared.unwrap_or_else(|| {
            let bytes = self.layer_bytes(&what, index, blob.bytes.clone());
            if blob.identity != BlobIdentity::Unknown {
                self.lock_open().insert(descriptor.diff_id, Arc::downgrade(&bytes));
            }
            bytes
        });
        Ok(OpenLayer { bytes, compression, mismatch: compression_mismatch(descriptor, compression) })
    }

    /// The layer of this diff_id that another image has open, for an image whose promises are kept. What
    /// was not checked is not shared: it may be anything.
    fn shared(&self, blob: &LayerBlob) -> Option<Arc<LayerBytes>> {
        if self.verify() == Verify::Off || blob.identity == BlobIdentity::Unknown {
            return None;
        }
        self.lock_open().get(&blob.descriptor.diff_id)?.upgrade()
    }

    fn lock_open(&self) -> MutexGuard<'_, HashMap<Digest, Weak<LayerBytes>>> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer_bytes(&self, what: &Subject, index: StoredIndex, stored: Arc<dyn ReadAt>) -> Arc<LayerBytes> {
        let reader = LayerReader::new(what.clone(), index, stored, self.verify());
        Arc::new(LayerBytes::new(reader, self.inner.cache.clone(), Some(self.inner.read_ahead.clone())))
    }
}

/// Returns whether everything that an image promises of a layer was verified for another image. Only the
/// diff_id leads to the other's layer: a digest or size of the blob that nobody compared may be wrong.
fn is_known(verified: &LayerFacts, blob: &LayerBlob) -> bool {
    let LayerDescriptor { digest, size, .. } = blob.descriptor;
    let stored_bytes = blob.bytes.len();
    let known_blob = |digest| verified.blob_digest == Some(digest) && verified.blob_bytes == stored_bytes;
    digest.is_none_or(known_blob) && size.is_none_or(|size| size == stored_bytes)
}

/// Z7: the media type claims another compression than the layer has.
fn compression_mismatch(descriptor: &LayerDescriptor, compression: Compression) -> Option<Warning> {
    let media_type = descriptor.media_type.as_deref()?;
    claimed_compression(media_type).filter(|claimed| *claimed != compression)?;
    Some(Warning { kind: WarningKind::CompressionMismatch, path: media_type.as_bytes().to_vec() })
}

fn select(mut blobs: Vec<LayerBlob>, range: LayerRange) -> Result<(u16, Vec<LayerBlob>)> {
    check_layers(Subject::Image, blobs.len())?;
    let count = blobs.len();
    let missing = |layer: u16| Error::Reference {
        text: layer.to_string(),
        reason: format!("no such layer; the image has {count} layer(s), numbered from 0"),
    };
    match range {
        LayerRange::All => Ok((0, blobs)),
        LayerRange::Upto(last) | LayerRange::Only(last) if usize::from(last) >= count => Err(missing(last)),
        LayerRange::Upto(last) => {
            blobs.truncate(usize::from(last) + 1);
            Ok((0, blobs))
        }
        LayerRange::Only(only) => Ok((only, vec![blobs.swap_remove(usize::from(only))])),
    }
}

#[cfg(test)]
mod tests;
