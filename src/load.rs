//! The engine: from a reference to a source, from an image to indexed layers, a rootfs and the bytes of
//! files.
//!
//! This module owns the order of the steps and what runs in parallel: which layers need a pass and which
//! indexes come from the store, how many passes run at once, and what images of one [`Engine`] share (the
//! span cache, the store, open layers). It parses nothing, merges nothing, and does not know formats or
//! views.

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

use self::index::{Blob, Keys, expected_of, stored_as};
pub(crate) use self::loaded::LoadedTree;
pub use self::loaded::{FileReader, LayerInfo};
use crate::compress::{Compression, DecoderMemory};
use crate::content::cache::SpanCache;
use crate::content::{LayerBytes, ReadAhead};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::LayerDescriptor;
use crate::layer::check_layers;
use crate::layer::growth::Growth;
use crate::layer::index::Verify;
use crate::layer::reader::LayerReader;
use crate::layer::stored::StoredIndex;
use crate::layer::table::{LayerFacts, LayerIndex};
use crate::limits::Limits;
use crate::path::escape;
use crate::read_at::ReadAt;
use crate::rootfs::stored::TREE_VERSION;
use crate::rootfs::{MergeOptions, Rootfs, Semantics, Warnings, merge};
use crate::source::{BlobIdentity, Environment, LayerBlob, OpenedImage, RegistryOptions};
use crate::store::{Key, Store};
use crate::warning::{Warning, WarningKind};
use crate::workers::{Queue, try_map};

/// Default size of the cache of decoded spans, in bytes.
pub(crate) const DEFAULT_CACHE_BYTES: usize = 256 << 20;
/// Most memory that the decoders of all layers hold together, in bytes, unless one alone needs more. A decoder of
/// zstd or xz can hold 128 MiB and more, most hold less than 10 MiB. Work waits for its turn, so nothing fails.
const MAX_DECODER_BYTES: usize = 256 << 20;
/// Divisor of the size of the cache: the most memory of decoders that wait for a read to continue.
const IDLE_DECODERS_SHARE: usize = 2;
/// Fewest entries of an image whose tree is stored: a smaller image is merged faster than its tree is read.
const MIN_STORED_ENTRIES: u64 = 10_000;

/// An observer of long operations. Methods are called from several threads.
pub trait Progress: Send + Sync + fmt::Debug {
    /// Called when work on `total_bytes` bytes begins. `what` describes the work, for example
    /// `Indexing layers`.
    fn begin(&self, what: &str, total_bytes: u64);
    /// Called when another `bytes` bytes are done.
    fn advance(&self, bytes: u64);
    /// Called when the work has ended, also after an error.
    fn end(&self);
}

/// Runs `work` and reports its beginning and its end to `progress`, also when the work fails.
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
    /// The bytes to verify. [`Verify::Full`] by default.
    pub verify: Verify,
    /// Size of the cache of decompressed data, in bytes. 256 MiB by default.
    pub cache_bytes: usize,
    /// The store of layer indexes. None by default: nothing is stored on disk.
    pub store: Option<Store>,
    /// The directory for a copy of standard input while it is open, if there is no store, or if the directory
    /// of the store cannot be written. Without either, an image on standard input is refused.
    pub spool_dir: Option<PathBuf>,
    /// The environment of the user, which decides where engines keep their images. By default only the
    /// places of the system are known.
    pub environment: Environment,
    /// The namespace of containerd in which images are searched. All by default.
    pub namespace: Option<String>,
    /// Options for requests to registries.
    pub registry: RegistryOptions,
    /// Limits on the contents of an image.
    pub limits: Limits,
    /// The observer of long operations. None by default.
    pub progress: Option<Arc<dyn Progress>>,
}

impl EngineOptions {
    /// Sets the bytes to verify.
    #[must_use]
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Sets the size of the cache of decompressed data, in bytes.
    #[must_use]
    pub fn cache_bytes(mut self, cache_bytes: usize) -> Self {
        self.cache_bytes = cache_bytes;
        self
    }

    /// Sets the store of layer indexes.
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

    /// Sets the environment of the user.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Sets the namespace of containerd in which images are searched.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<Option<String>>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the options for requests to registries.
    #[must_use]
    pub fn registry(mut self, registry: RegistryOptions) -> Self {
        self.registry = registry;
        self
    }

    /// Sets the limits on the contents of an image.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the observer of long operations.
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
            environment: Environment::default(),
            namespace: None,
            registry: RegistryOptions::default(),
            limits: Limits::default(),
            progress: None,
        }
    }
}

/// The layers of an image to load. Layers are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LayerRange {
    /// All layers.
    #[default]
    All,
    /// The layers from 0 up to and including this one: the state after it.
    Upto(u16),
    /// Only this layer.
    Only(u16),
}

/// How the layers of an image are merged.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The layers to load. All by default.
    pub layers: LayerRange,
    /// How whiteouts are interpreted. [`Semantics::Runtime`] by default.
    pub semantics: Semantics,
    /// Follow a symbolic link of a lower layer when a higher layer has entries below its path, as umoci does.
    /// Off by default: a directory replaces the link.
    pub follow_dirlinks: bool,
    /// Fail if merging the image gives warnings. Off by default.
    pub strict: bool,
}

impl LoadOptions {
    /// Sets the layers to load.
    #[must_use]
    pub fn layers(mut self, layers: LayerRange) -> Self {
        self.layers = layers;
        self
    }

    /// Sets how whiteouts are interpreted.
    #[must_use]
    pub fn semantics(mut self, semantics: Semantics) -> Self {
        self.semantics = semantics;
        self
    }

    /// Sets whether a symbolic link of a lower layer is followed when a higher layer has entries below its
    /// path, as umoci does.
    #[must_use]
    pub fn follow_dirlinks(mut self, follow_dirlinks: bool) -> Self {
        self.follow_dirlinks = follow_dirlinks;
        self
    }

    /// Sets whether loading fails if merging the image gives warnings.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }
}

/// Opens images. Images of one engine share the cache of decompressed data, the store and their common
/// layers. A clone is the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: EngineOptions,
    cache: Arc<SpanCache>,
    /// The account of the memory of layers' decoders.
    decoders: Arc<DecoderMemory>,
    /// The same for archives that are compressed as a whole. A decoder of a layer can wait for one of the archive
    /// that holds the layer, so they must not wait for each other.
    archive_decoders: Arc<DecoderMemory>,
    read_ahead: Arc<ReadAhead>,
    /// The open verified layers, by diff_id: images with a common layer share its bytes.
    open: Mutex<HashMap<Digest, Weak<LayerBytes>>>,
}

/// A layer, opened for one image.
#[derive(Debug, Clone)]
struct OpenLayer {
    bytes: Arc<LayerBytes>,
    /// The compression of the blob in this image.
    compression: Compression,
    /// The warning if the media type names another compression.
    mismatch: Option<Warning>,
}

impl Engine {
    /// Creates an engine with its own cache.
    #[must_use]
    pub fn new(mut options: EngineOptions) -> Self {
        options.store = options.store.map(|store| store.under(&options.limits));
        let [decoders, archive_decoders] = [(); 2]
            .map(|()| DecoderMemory::new(options.cache_bytes / IDLE_DECODERS_SHARE, MAX_DECODER_BYTES));
        let budgets = vec![decoders.clone(), archive_decoders.clone()];
        let cache = Arc::new(SpanCache::sharing(options.cache_bytes, budgets));
        let (read_ahead, open) = (Arc::default(), Mutex::default());
        let inner = Inner { options, cache, decoders, archive_decoders, read_ahead, open };
        Engine { inner: Arc::new(inner) }
    }

    /// Ends all waits for registries, now and later. Reads that wait for a registry fail; reads of cached data
    /// still succeed. Call it before a mount is removed or the program ends.
    pub fn cancel(&self) {
        #[cfg(feature = "registry")]
        self.inner.options.registry.cancel.cancel();
    }

    /// Returns the limits on the contents of an image.
    pub(crate) fn limits(&self) -> Limits {
        self.inner.options.limits
    }

    /// Returns which bytes are verified.
    pub(crate) fn verify(&self) -> Verify {
        self.inner.options.verify
    }

    /// Returns the options of the merge.
    pub(crate) fn merge_options(&self, options: &LoadOptions) -> MergeOptions {
        let LoadOptions { semantics, follow_dirlinks, .. } = *options;
        MergeOptions { semantics, follow_dirlinks, limits: self.inner.options.limits }
    }

    /// Indexes the layers of an image that have no stored index, merges the layers and makes their files
    /// readable.
    ///
    /// # Errors
    /// As [`crate::layer::index::index_layer`] for the first layer that fails, [`Error::Strict`],
    /// [`Error::Reference`] for a layer that the image does not have, [`Error::Limit`].
    pub(crate) fn load(&self, image: OpenedImage, options: &LoadOptions) -> Result<LoadedTree> {
        let (first, blobs) = select(image.layers, options.layers)?;
        let progress = self.inner.options.progress.as_deref();
        let total_bytes = blobs.iter().map(LayerBlob::about_bytes).fold(0, u64::saturating_add);
        let open = reported(progress, "Indexing layers", total_bytes, || {
            self.index_all(first, &blobs, image.reads_at_once)
        })?;
        let indexes: Vec<_> = open.iter().map(|layer| layer.bytes.reader().index().clone()).collect();
        let rootfs = self.merge(indexes, &self.merge_options(options))?;
        let infos: Vec<_> =
            blobs.into_iter().zip(&open).map(|(blob, open)| LayerInfo::new(blob, open)).collect();
        let bytes: Vec<_> = open.iter().map(|layer| layer.bytes.clone()).collect();
        let mut tree = LoadedTree {
            first,
            layers: infos.into(),
            warnings: Warnings::default(),
            rootfs,
            bytes: bytes.into(),
        };
        tree.collect_warnings(open.into_iter().map(|layer| layer.mismatch));
        let count =
            tree.warnings.counts().filter(|(kind, _)| kind.is_about_the_tree()).map(|(_, count)| count);
        let count = count.fold(0, u64::saturating_add);
        match tree.warnings.kept().iter().find(|(_, warning)| warning.kind.is_about_the_tree()) {
            Some((layer, warning)) if options.strict => Err(Error::Strict {
                count: usize::try_from(count).unwrap_or(usize::MAX),
                first: format!("layer {}: {}: {}", layer.0, escape(&warning.path), warning.kind),
            }),
            _ => Ok(tree),
        }
    }

    /// Returns the merged tree from the store. If the store does not have it, merges the layers and stores
    /// the tree.
    fn merge(&self, layers: Vec<Arc<LayerIndex>>, options: &MergeOptions) -> Result<Rootfs> {
        // Without verification, an index may not match its diff_id, so its tree must not be stored under the
        // diff_id.
        let store = self.inner.options.store.as_ref().filter(|_| self.verify() == Verify::Full);
        let entries: u64 = layers.iter().map(|index| u64::from(index.entry_count())).sum();
        // A layer that was not read has no digest that could name the tree.
        let named = layers.iter().all(|index| index.facts().diff_id.is_some());
        let Some(store) = store.filter(|_| named && entries >= MIN_STORED_ENTRIES) else {
            return merge(layers, options);
        };
        let names: Vec<String> =
            layers.iter().filter_map(|index| Some(index.facts().diff_id?.to_string())).collect();
        let MergeOptions { semantics, follow_dirlinks, limits: _ } = options;
        let rules = format!("{semantics:?} {follow_dirlinks}");
        let key = Key::tree(&format!("version {TREE_VERSION} {rules} {}", names.join(" ")));
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

    /// Opens the layers, the largest first. A layer that occurs repeatedly in an image is opened once.
    fn index_all(&self, first: u16, blobs: &[LayerBlob], reads_at_once: usize) -> Result<Vec<OpenLayer>> {
        let mut jobs: Vec<(usize, &LayerBlob)> = Vec::new();
        let mut job_of: HashMap<(Option<Digest>, BlobIdentity), usize> = HashMap::new();
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
        let growth = Growth::new(stored_bytes(&jobs), self.inner.options.limits);
        let queue = Queue::largest_first(&jobs, |(_, blob)| blob.about_bytes());
        let open = try_map(&queue, reads_at_once, |(at, blob)| {
            self.open_layer(usize::from(first) + at, blob, &growth)
        })?;
        Ok(places.iter().filter_map(|job| open.get(*job)).cloned().collect())
    }

    fn open_layer(&self, at: usize, blob: &LayerBlob, growth: &Growth) -> Result<OpenLayer> {
        let descriptor = &blob.descriptor;
        let what = Subject::Layer { number: at, diff_id: descriptor.diff_id };
        let shared = self.shared(blob);
        if let Some(bytes) = shared.clone().filter(|bytes| is_known(bytes.reader().index().facts(), blob)) {
            if let Some(progress) = &self.inner.options.progress {
                progress.advance(blob.about_bytes());
            }
            let compression = stored_as(&what, blob, bytes.reader().index().facts())?;
            return Ok(OpenLayer {
                bytes,
                compression,
                mismatch: compression_mismatch(descriptor, compression),
            });
        }
        let keys = Keys::of_layer(blob);
        let expected = expected_of(descriptor);
        let limits = self.inner.options.limits;
        let decoders = &self.inner.decoders;
        let stored =
            Blob { what: &what, bytes: &blob.bytes, compression: None, expected, limits, growth, decoders };
        let index = self.index(stored, &keys, None)?;
        let compression = index.index.facts().compression;
        let bytes = shared.unwrap_or_else(|| {
            let bytes = self.layer_bytes(&what, index, blob.bytes.clone(), decoders);
            if let Some(diff_id) = descriptor.diff_id.filter(|_| blob.identity != BlobIdentity::Unknown) {
                self.lock_open().insert(diff_id, Arc::downgrade(&bytes));
            }
            bytes
        });
        Ok(OpenLayer { bytes, compression, mismatch: compression_mismatch(descriptor, compression) })
    }

    /// Returns the open layer with the same diff_id, if there is one. Layers are not shared without
    /// verification, because their content may differ from the diff_id.
    fn shared(&self, blob: &LayerBlob) -> Option<Arc<LayerBytes>> {
        if self.verify() == Verify::Off || blob.identity == BlobIdentity::Unknown {
            return None;
        }
        self.lock_open().get(&blob.descriptor.diff_id?)?.upgrade()
    }

    fn lock_open(&self) -> MutexGuard<'_, HashMap<Digest, Weak<LayerBytes>>> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer_bytes(
        &self,
        what: &Subject,
        index: StoredIndex,
        stored: Arc<dyn ReadAt>,
        decoders: &Arc<DecoderMemory>,
    ) -> Arc<LayerBytes> {
        // The spans of a layer that was only scanned have no hashes; its source checks its files.
        let scanned = index.index.facts().diff_id.is_none() && stored.checks_files();
        let verify = if scanned { Verify::Off } else { self.verify() };
        let reader = LayerReader::new(what.clone(), index, stored, verify, decoders.clone());
        Arc::new(LayerBytes::new(reader, self.inner.cache.clone(), Some(self.inner.read_ahead.clone())))
    }
}

/// Returns the length in bytes of the files that hold these layers.
fn stored_bytes(layers: &[(usize, &LayerBlob)]) -> u64 {
    // All layers of an archive that is compressed as a whole come from its file.
    let whole = layers.iter().filter_map(|(_, blob)| blob.bytes.unpacked_from()).max();
    whole.unwrap_or_else(|| layers.iter().map(|(_, blob)| blob.about_bytes()).fold(0, u64::saturating_add))
}

/// Returns whether the digest and size in an image's descriptor were verified when another image opened the
/// layer. Layers are shared by diff_id, which says nothing about the blob: its digest and size can be wrong
/// in this image.
fn is_known(verified: &LayerFacts, blob: &LayerBlob) -> bool {
    let LayerDescriptor { digest, size, .. } = blob.descriptor;
    let known_blob = |digest| verified.blob_digest == Some(digest) && verified.blob_bytes == blob.bytes.len();
    digest.is_none_or(known_blob) && size.is_none_or(|size| size == blob.bytes.len())
}

/// Returns a warning if the media type names another compression than the layer has (rule Z7).
fn compression_mismatch(descriptor: &LayerDescriptor, compression: Compression) -> Option<Warning> {
    let media_type = descriptor.media_type.as_deref()?;
    descriptor.claimed_compression().filter(|claimed| *claimed != compression)?;
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
