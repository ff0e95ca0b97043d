//! Where an image is kept.
//!
//! This module owns where bytes are: the reference grammar, what kind of place a path is, the names
//! of the images there and the place of every blob. What images mean is for [`crate::image`]; no
//! layer is read here. A source that is not served yet is named and refused.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compress::Compression;
use crate::error::Result;
use crate::image::{ImageInfo, LayerDescriptor, Platform};
use crate::layer::index::Verify;
use crate::read_at::ReadAt;

pub(crate) mod archive;
mod archive_blobs;
mod artifact;
mod blobs;
mod dir;
mod docker_archive;
mod docker_manifest;
mod formats;
mod names;
mod oci_layout;
pub(crate) mod reference;
mod scan;
mod survey;
mod walk;

use self::formats::Site;
pub(crate) use blobs::BlobIdentity;
pub use formats::Transport;
pub use reference::{Location, Reference, Selection, split_path};
pub(crate) use scan::{Member, members};
pub(crate) use survey::{DocumentRole, Survey, SurveyedDocument, SurveyedLayer};

/// Largest `manifest.json` of a docker-archive, and largest top `index.json`: 20 MiB (X6). One image
/// takes about 100 bytes a layer, so 1 MiB is usual and this is thousands of images. What a hostile
/// one can cost is bounded by [`crate::image::strict_json::MAX_VALUES`].
pub(crate) const MAX_ARCHIVE_MANIFEST_BYTES: u64 = 20 * 1024 * 1024;

/// A place that holds images.
pub(crate) trait ImageSource: Send + Sync + fmt::Debug {
    /// The name of the transport that it can be opened through.
    fn kind(&self) -> &'static str;

    /// The images there, attestations left out.
    ///
    /// # Errors
    /// When a document that lists them cannot be read.
    fn images(&self) -> Result<Vec<ImageSummary>>;

    /// Finds one image, checks its manifest and config, and finds its layers. Without a `platform`
    /// the host's is preferred; a sole image is taken whatever its platform.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`], [`crate::Error::NoSuchImage`] and [`crate::Error::NoPlatform`] when `select` and
    /// `platform` do not name one image; [`crate::Error::MissingBlob`], [`crate::Error::Mismatch`],
    /// [`crate::Error::Malformed`], [`crate::Error::Unsupported`] for what is wrong with it.
    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage>;

    /// Finds one image as [`ImageSource::image`] does, and all that it names, whether or not it is as promised.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`] and [`crate::Error::NoSuchImage`] when `select` does not name one image. What is wrong
    /// with the image itself is in the survey.
    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey>;
}

/// One line of a list of images.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSummary {
    /// Its position, as `@INDEX` selects it.
    pub index: usize,
    /// Its names; may be none.
    pub names: Vec<String>,
    /// What it is made for, where that is said in the list itself.
    pub platform: Option<Platform>,
}

impl fmt::Display for ImageSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names.iter().map(|name| name.escape_debug().to_string()).collect();
        match (names.is_empty(), &self.platform) {
            (true, None) => write!(f, "(@{})", self.index),
            (true, Some(platform)) => write!(f, "{platform} (@{})", self.index),
            (false, _) => write!(f, "{} (@{})", names.join(", "), self.index),
        }
    }
}

/// An image that was found and checked, with layers that were only found.
#[derive(Debug, Clone)]
pub(crate) struct OpenedImage {
    /// What it says of itself.
    pub info: ImageInfo,
    /// Lowest first; as many as `info.layers`.
    pub layers: Vec<LayerBlob>,
    /// How many layers are worth reading at the same time, at least 1: more than there are cores where
    /// answers take long to arrive, fewer where reads get in each other's way.
    pub reads_at_once: usize,
}

/// The stored bytes of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerBlob {
    /// What the image says of it.
    pub descriptor: LayerDescriptor,
    /// The bytes as they are stored, compressed or not; neither read nor checked yet.
    pub bytes: Arc<dyn ReadAt>,
    /// Which bytes these are.
    pub identity: BlobIdentity,
}

/// Makes an archive that is compressed as a whole readable at any offset (F10).
pub(crate) trait Unpack: Send + Sync {
    /// The uncompressed bytes of the archive `bytes` at `path`, which is compressed in this way, and its
    /// members.
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

/// What opening a source may need.
#[derive(Clone, Default)]
pub(crate) struct OpenOptions {
    /// Where standard input is spooled; without it standard input is refused.
    pub spool_dir: Option<PathBuf>,
    /// Who reads compressed archives; without one they are refused.
    pub unpack: Option<Arc<dyn Unpack>>,
    /// Whether a document that is not what its descriptor promises is an error or a warning.
    pub verify: Verify,
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("spool_dir", &self.spool_dir)
            .field("unpack", &self.unpack.is_some())
            .field("verify", &self.verify)
            .finish()
    }
}

/// Opens the place that `reference` names.
///
/// # Errors
/// [`crate::Error::NotAnImage`] when no format is detected, [`crate::Error::Unsupported`] for transports that
/// cannot be opened, and what opening an [`archive::Archive`] gives.
pub(crate) fn open(reference: &Reference, options: &OpenOptions) -> Result<Box<dyn ImageSource>> {
    open_with_input(reference, options, &mut io::stdin().lock())
}

/// As [`open`], with another standard input.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_with_input(
    reference: &Reference,
    options: &OpenOptions,
    input: &mut dyn Read,
) -> Result<Box<dyn ImageSource>> {
    formats::open(reference.transport, Site::new(&reference.location, options, input))
}

#[cfg(test)]
mod tests;
