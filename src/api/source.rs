//! Sources, and the images in them before any layer is read.

use std::sync::Arc;

use super::Image;
use crate::error::{Error, Result};
use crate::image::{ImageInfo, Platform};
use crate::load::{Engine, LoadOptions};
use crate::source::{ImageSummary, OpenedImage, Reference, Selection};
use crate::verify::{VerifyItem, VerifyOptions, verify};

impl Engine {
    /// Opens the source that `reference` names. An archive that is compressed as a whole is read once for
    /// that, unless the [`Store`](crate::Store) has its index.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] for unknown content, [`Error::Unsupported`] for a transport that this version
    /// does not read, [`Error::Io`], and [`Error::Malformed`], [`Error::Tar`] or [`Error::Decompress`] for
    /// a damaged archive.
    pub fn open(&self, reference: &Reference) -> Result<Source> {
        Ok(Source { engine: self.clone(), source: self.open_source(reference)? })
    }

    /// Opens the source that `reference` names and selects the image that it names.
    ///
    /// # Errors
    /// As [`Engine::open`] and [`Source::select`].
    pub fn select(&self, reference: &Reference, platform: Option<&Platform>) -> Result<SelectedImage> {
        self.open(reference)?.select(&reference.selection, platform)
    }
}

/// A place that holds images: an archive, a layout or a directory. Opened by [`Engine::open`].
#[derive(Debug)]
pub struct Source {
    engine: Engine,
    source: Box<dyn crate::source::ImageSource>,
}

impl Source {
    /// The kind of place: `docker-archive`, `oci`, `oci-archive` or `dir`.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.source.kind()
    }

    /// Lists the images, without attestations.
    ///
    /// # Errors
    /// When a document that lists them cannot be read.
    pub fn images(&self) -> Result<Vec<ImageSummary>> {
        self.source.images()
    }

    /// Selects one image: checks its manifest and config, and finds its layers. Without a `platform` the
    /// host's is preferred, and a sole image is selected whatever its platform.
    ///
    /// # Errors
    /// [`Error::Ambiguous`], [`Error::NoSuchImage`] and [`Error::NoPlatform`] when `selection` and `platform`
    /// do not name one image; [`Error::MissingBlob`], [`Error::Mismatch`], [`Error::Malformed`] and
    /// [`Error::Unsupported`] for a faulty image.
    pub fn select(&self, selection: &Selection, platform: Option<&Platform>) -> Result<SelectedImage> {
        let opened = self.source.image(selection, platform)?;
        Ok(SelectedImage { engine: self.engine.clone(), format: self.format(), opened })
    }

    /// Verifies one image against all its digests and sizes, reading every byte anew. Calls `report` with
    /// each result in the order of the image, and returns whether all are [`Ok`](crate::Verdict::Ok).
    ///
    /// # Errors
    /// The error of `report`, which ends the work; [`Error::Ambiguous`] and [`Error::NoSuchImage`] when
    /// `selection` does not name one image; the first fault of an image whose documents cannot be read.
    pub fn verify<E: From<Error>>(
        &self,
        selection: &Selection,
        platform: Option<&Platform>,
        options: &VerifyOptions<'_>,
        report: &mut dyn FnMut(&VerifyItem) -> Result<(), E>,
    ) -> Result<bool, E> {
        verify(self.source.survey(selection, platform)?, options, report)
    }
}

/// An image whose documents were read and checked, and whose layers were not read. Returned by
/// [`Source::select`].
#[derive(Debug, Clone)]
pub struct SelectedImage {
    engine: Engine,
    format: &'static str,
    pub(super) opened: OpenedImage,
}

impl SelectedImage {
    /// The contents of its documents: names, digests, platform, config.
    #[must_use]
    pub fn info(&self) -> &ImageInfo {
        &self.opened.info
    }

    /// The kind of its source, as [`Source::format`].
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// Indexes the layers that are not in the store, merges them and makes them readable. Can be called
    /// repeatedly, for other layers or options.
    ///
    /// # Errors
    /// [`Error::Mismatch`], [`Error::Decompress`], [`Error::Tar`] and [`Error::Io`] for the first layer that
    /// fails; [`Error::Strict`] under [`LoadOptions::strict`]; [`Error::Reference`] for a layer that the image
    /// does not have; [`Error::Limit`].
    pub fn load(&self, options: &LoadOptions) -> Result<Image> {
        let tree = self.engine.load(self.opened.clone(), options)?;
        Ok(Image {
            tree: Arc::new(tree),
            info: Arc::new(self.opened.info.clone()),
            format: self.format,
            merge: options.merge(),
        })
    }
}
