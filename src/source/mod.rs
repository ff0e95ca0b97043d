//! Sources: the places where images are stored.
//!
//! This module owns where bytes are: the grammar of references, the format of a place, the names of its
//! images and the location of every blob. It must not know what documents mean, which [`crate::image`] does,
//! and reads no layers. A source that is not supported is an error that names the source.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compress::Compression;
use crate::error::Result;
use crate::image::{ImageInfo, LayerDescriptor, Platform};
use crate::layer::index::Verify;
use crate::limits::Limits;
use crate::read_at::ReadAt;

pub(crate) mod archive;
mod archive_blobs;
mod artifact;
mod assembled;
mod beneath;
mod blobs;
mod bolt;
mod containerd;
mod containers_storage;
mod dir;
mod directory;
mod docker_archive;
mod docker_daemon;
mod docker_graph;
mod docker_manifest;
mod environment;
mod formats;
mod host;
mod ids;
mod names;
mod oci_layout;
pub(crate) mod reference;
#[cfg(feature = "registry")]
mod registry;
mod registry_options;
mod registry_storage;
mod rootfs;
mod scan;
mod survey;
mod tar_split;
mod unpacked;
mod walk;

use self::formats::Site;
pub(crate) use blobs::BlobIdentity;
pub use environment::{Environment, Proxies, ProxyAddress};
pub use formats::Transport;
pub use reference::{Location, Reference, Selection, split_path};
#[cfg(all(test, feature = "registry"))]
pub(crate) use registry::{Cancel, NetError, fake};
pub use registry_options::RegistryOptions;
pub(crate) use scan::{Member, members};
pub(crate) use survey::{DocumentRole, Survey, SurveyedDocument, SurveyedLayer};

/// The largest `manifest.json` of a docker-archive, and the largest top-level `index.json`: 20 MiB (X6). One
/// image takes about 100 bytes a layer, so files up to 1 MiB are usual, and 20 MiB holds thousands of images.
/// [`crate::image::strict_json::MAX_VALUES`] limits the memory for a hostile file.
pub(crate) const MAX_ARCHIVE_MANIFEST_BYTES: u64 = 20 * 1024 * 1024;

/// A place that holds images.
pub(crate) trait ImageSource: Send + Sync + fmt::Debug {
    /// Returns the name of the transport that opens such a place.
    fn kind(&self) -> &'static str;

    /// Returns the images of the place, without attestations.
    ///
    /// # Errors
    /// When a document that lists the images cannot be read.
    fn images(&self) -> Result<Vec<ImageSummary>>;

    /// Returns whether [`ImageSource::images`] lists only names, because each image that is opened costs
    /// requests.
    fn lists_names_only(&self) -> bool {
        false
    }

    /// Finds one image, checks its manifest and config, and finds its layers. Without a `platform` the host's
    /// is preferred, but a single image is opened whatever its platform.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`], [`crate::Error::NoSuchImage`] and [`crate::Error::NoPlatform`] when
    /// `select` and `platform` do not select one image; [`crate::Error::MissingBlob`],
    /// [`crate::Error::Mismatch`], [`crate::Error::Malformed`], [`crate::Error::Unsupported`] for faults of
    /// the image.
    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage>;

    /// Returns the properties of an image that [`ImageSource::images`] returned. The default opens the image;
    /// no layer is read.
    ///
    /// # Errors
    /// As [`ImageSource::image`].
    fn details(&self, summary: &ImageSummary, platform: Option<&Platform>) -> Result<ImageDetails> {
        Ok(ImageDetails::of(summary, &self.image(&summary.selection(), platform)?))
    }

    /// Finds one image as [`ImageSource::image`] does, with all its documents and layers, whether or not they
    /// match their digests.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`] and [`crate::Error::NoSuchImage`] when `select` does not select one image.
    /// Faults of the image itself are part of the survey.
    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey>;
}

/// Properties of an image or container that a list shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ImageDetails {
    /// The ID that the place states and that selects the image or container, else the digest of the config,
    /// which Docker uses as the image's ID. `None` for an image without an ID, such as a flat tar.
    pub id: Option<String>,
    /// Platform of the image.
    pub platform: Option<Platform>,
    /// Time of creation, as the config or the engine writes it (RFC 3339).
    pub created: Option<String>,
    /// Number of layers, including the writable layer of a container.
    pub layers: usize,
    /// Size in bytes as the engine counts it, or else the sum of the sizes of the stored layers.
    pub size: u64,
}

impl ImageDetails {
    pub(crate) fn of(summary: &ImageSummary, opened: &OpenedImage) -> Self {
        let info = &opened.info;
        let of_container = info.container.as_ref().map(|container| container.id.clone());
        let of_image = || info.config_digest.map(|digest| digest.to_string());
        let created = info.container.as_ref().and_then(|container| container.created.clone());
        ImageDetails {
            id: of_container.or_else(|| summary.id.clone()).or_else(of_image),
            platform: info.platform.clone(),
            created: created.or_else(|| info.config.created.clone()),
            layers: info.layers.len(),
            size: opened.size_or_sum(),
        }
    }
}

/// One image in the list of a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ImageSummary {
    /// Position of the image in the list.
    pub index: usize,
    /// Names of the image; may be empty.
    pub names: Vec<String>,
    /// Platform of the image, if the list itself states it.
    pub platform: Option<Platform>,
    /// ID of the image or container as its engine writes it, if the place is the store of an engine.
    pub id: Option<String>,
    /// Whether this is an image or a container.
    pub kind: ImageKind,
}

/// Whether an entry of a list is an image or a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ImageKind {
    /// An image.
    #[default]
    Image,
    /// A container: the layers of an image and a writable layer.
    Container,
}

impl ImageKind {
    /// Returns the name in JSON output: `image` or `container`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ImageKind::Image => "image",
            ImageKind::Container => "container",
        }
    }
}

/// The number of digits to which an ID is shortened for people, as engines do.
const SHORT_ID_DIGITS: usize = 12;

impl ImageSummary {
    /// Returns what selects this entry. A container is selected by its ID, because its position changes
    /// whenever the engine creates or removes another one.
    pub(crate) fn selection(&self) -> Selection {
        match &self.id {
            Some(id) if self.kind == ImageKind::Container => Selection::Container(id.clone()),
            _ => Selection::Index(self.index),
        }
    }
}

impl fmt::Display for ImageSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names.iter().map(|name| name.escape_debug().to_string()).collect();
        let kind = if self.kind == ImageKind::Container { "container " } else { "" };
        f.write_str(kind)?;
        match (names.is_empty(), &self.platform) {
            (true, None) => {}
            (true, Some(platform)) => write!(f, "{platform} ")?,
            (false, _) => write!(f, "{} ", names.join(", "))?,
        }
        match &self.id {
            Some(id) => {
                let id = id.rsplit(':').next().unwrap_or(id).escape_debug().to_string();
                write!(f, "({id:.SHORT_ID_DIGITS$})")
            }
            None => write!(f, "(@{})", self.index),
        }
    }
}

/// An image whose documents were found and checked, and whose layers were found but not read.
#[derive(Debug, Clone)]
pub(crate) struct OpenedImage {
    /// Description of the image in its documents.
    pub info: ImageInfo,
    /// The layers, lowest first; as many as `info.layers`.
    pub layers: Vec<LayerBlob>,
    /// How many layers should be read at the same time, at least 1: more than the number of cores where
    /// answers take long to arrive, fewer where parallel reads slow each other down.
    pub reads_at_once: usize,
    /// The size of the image in bytes as its engine counts it; `None` if the sum of the layers' sizes is as
    /// good.
    pub size: Option<u64>,
}

impl OpenedImage {
    /// Returns the size of the image in bytes as its engine counts it, or else the sum of the sizes of its
    /// stored layers.
    pub(crate) fn size_or_sum(&self) -> u64 {
        self.size
            .unwrap_or_else(|| self.layers.iter().map(LayerBlob::about_bytes).fold(0, u64::saturating_add))
    }
}

/// The stored bytes of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerBlob {
    /// Description of the layer in the documents.
    pub descriptor: LayerDescriptor,
    /// Bytes as stored, compressed or not; not read and not checked yet.
    pub bytes: Arc<dyn ReadAt>,
    /// Identity of the bytes.
    pub identity: BlobIdentity,
    /// The approximate length in bytes, for the order and the progress of work, where the exact length is not
    /// known before the bytes are read.
    pub size_hint: Option<u64>,
}

impl LayerBlob {
    /// Returns the length of the stored bytes, exact if it is known without work. The order and the progress
    /// of work depend on it, nothing else.
    pub(crate) fn about_bytes(&self) -> u64 {
        self.bytes.known_len().or(self.size_hint).unwrap_or(0)
    }
}

/// Makes an archive that is compressed as a whole readable at any offset (F10).
pub(crate) trait Unpack: Send + Sync {
    /// Returns the uncompressed bytes of the archive `bytes` at `path`, which has the given compression, and
    /// its members.
    ///
    /// # Errors
    /// [`crate::Error::Decompress`] and [`crate::Error::Tar`] for damaged archives.
    fn open_compressed(
        &self,
        bytes: Arc<dyn ReadAt>,
        compression: Compression,
        path: &Path,
        identity: BlobIdentity,
    ) -> Result<(Arc<dyn ReadAt>, Vec<Member>)>;
}

/// Options for opening a source.
#[derive(Clone, Default)]
pub(crate) struct OpenOptions {
    /// Directories in which standard input can be spooled: the first that can be written is used. Without one,
    /// standard input is refused.
    pub spool_dirs: Vec<PathBuf>,
    /// Reader for compressed archives; without one, they are refused.
    pub unpack: Option<Arc<dyn Unpack>>,
    /// Whether a document that does not match its descriptor is an error or a warning.
    pub verify: Verify,
    /// The environment of the user, which decides where engines keep their images.
    pub environment: Environment,
    /// The namespace of containerd in which images are searched; all if `None`.
    pub namespace: Option<String>,
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// The cache directory; without one, nothing of a registry is stored.
    pub cache_dir: Option<PathBuf>,
    /// Limits on the contents of an image.
    pub limits: Limits,
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("spool_dirs", &self.spool_dirs)
            .field("unpack", &self.unpack.is_some())
            .field("verify", &self.verify)
            .field("namespace", &self.namespace)
            .field("registry", &self.registry)
            .field("cache_dir", &self.cache_dir)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Opens the place that `reference` names.
///
/// # Errors
/// [`crate::Error::NotAnImage`] when no format is detected, [`crate::Error::Unsupported`] for transports that
/// are not supported, and the errors of opening the place.
pub(crate) fn open(reference: &Reference, options: &OpenOptions) -> Result<Box<dyn ImageSource>> {
    open_with_input(reference, options, &mut io::stdin().lock())
}

/// Opens a place as [`open`] does, with `input` as standard input.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_with_input(
    reference: &Reference,
    options: &OpenOptions,
    input: &mut dyn Read,
) -> Result<Box<dyn ImageSource>> {
    formats::open(reference.transport, Site::new(reference, options, input))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
