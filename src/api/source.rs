//! Sources, and the images in them before any layer is read.
//!
//! This module owns the methods of [`Source`] and [`SelectedImage`]. It does not know formats or how layers
//! are indexed.

use std::sync::Arc;

use super::Image;
use crate::analysis::history::{self, Step};
use crate::error::{Error, Result};
use crate::image::{ImageInfo, Platform};
use crate::load::{Engine, LoadOptions};
use crate::source::{ImageDetails, ImageSummary, OpenedImage, Reference, Selection};
use crate::verify::{VerifyItem, VerifyOptions, verify};

impl Engine {
    /// Opens the source that `reference` names. An archive that is compressed as a whole is decompressed
    /// once, unless the [`Store`](crate::Store) has its index.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] for an unknown format; [`Error::Unsupported`] for a transport that this version
    /// does not support; [`Error::Io`]; and [`Error::Malformed`], [`Error::Tar`] or [`Error::Decompress`] for
    /// a damaged archive.
    pub fn open(&self, reference: &Reference) -> Result<Source> {
        Ok(Source { engine: self.clone(), source: self.open_source(reference)? })
    }

    /// Opens the source that `reference` names, and selects the image in it.
    ///
    /// # Errors
    /// As [`Engine::open`] and [`Source::select`].
    pub fn select(&self, reference: &Reference, platform: Option<&Platform>) -> Result<SelectedImage> {
        self.open(reference)?.select(&reference.selection, platform)
    }
}

/// A source of images: an archive, a layout or a directory. [`Engine::open`] opens it.
#[derive(Debug)]
pub struct Source {
    engine: Engine,
    source: Box<dyn crate::source::ImageSource>,
}

impl Source {
    /// Returns the format of the source: `docker-archive`, `oci`, `oci-archive` or `dir`.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.source.kind()
    }

    /// Lists the images of the source. Attestations are left out.
    ///
    /// # Errors
    /// [`Error`] when a document that lists them cannot be read.
    pub fn images(&self) -> Result<Vec<ImageSummary>> {
        self.source.images()
    }

    /// Returns whether [`Source::images`] lists the tags of a repository in a registry. Opening each of
    /// these images sends requests, and can count as a pull.
    #[must_use]
    pub fn lists_names_only(&self) -> bool {
        self.source.lists_names_only()
    }

    /// Returns the properties of an image that [`Source::images`] returned. No layer is read. Without
    /// `platform`, an image for the host's platform is preferred.
    ///
    /// # Errors
    /// As [`Source::select`].
    pub fn details(&self, summary: &ImageSummary, platform: Option<&Platform>) -> Result<ImageDetails> {
        self.source.details(summary, platform)
    }

    /// Selects one image: checks its manifest and config, and finds its layers. Without `platform`, an image
    /// for the host's platform is preferred, and the only image of a source is selected whatever its
    /// platform.
    ///
    /// # Errors
    /// [`Error::Ambiguous`], [`Error::NoSuchImage`] and [`Error::NoPlatform`] when `selection` and `platform`
    /// do not name one image; [`Error::MissingBlob`], [`Error::Mismatch`], [`Error::Malformed`] and
    /// [`Error::Unsupported`] for a faulty image.
    pub fn select(&self, selection: &Selection, platform: Option<&Platform>) -> Result<SelectedImage> {
        let opened = self.source.image(selection, platform)?;
        Ok(SelectedImage { engine: self.engine.clone(), format: self.format(), opened })
    }

    /// Verifies all digests and sizes of one image by reading every byte again. Calls `report` with each
    /// result, in the order of the image. Returns whether all results are [`Ok`](crate::Verdict::Ok).
    ///
    /// # Errors
    /// The error of `report`, which ends the verification; [`Error::Ambiguous`] and [`Error::NoSuchImage`]
    /// when `selection` does not name one image; the first fault of an image whose documents cannot be read.
    pub fn verify<E: From<Error>>(
        &self,
        selection: &Selection,
        platform: Option<&Platform>,
        options: &VerifyOptions<'_>,
        report: &mut dyn FnMut(&VerifyItem) -> Result<(), E>,
    ) -> Result<bool, E> {
        verify(self.source.survey(selection, platform)?, options, self.engine.limits(), report)
    }
}

/// An image whose documents are read and checked, and whose layers are not read yet. [`Source::select`]
/// returns it.
#[derive(Debug, Clone)]
pub struct SelectedImage {
    engine: Engine,
    format: &'static str,
    pub(super) opened: OpenedImage,
}

impl SelectedImage {
    /// Returns the contents of the image's documents: names, digests, platform, config.
    #[must_use]
    pub fn info(&self) -> &ImageInfo {
        &self.opened.info
    }

    /// Returns the format of the source, as [`Source::format`].
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// Returns the size of the image in bytes as its engine counts it, or else the sum of the sizes of its
    /// stored layers.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.opened.size_or_sum()
    }

    /// Returns the steps of the image's history with the layers that they made, as
    /// [`Image::steps`](crate::Image::steps).
    #[must_use]
    pub fn steps(&self) -> Vec<Step<'_>> {
        history::of_info(&self.opened.info)
    }

    /// Loads the image as [`SelectedImage::load`] does, but downloads no layer: `None` if the image is in a
    /// registry and the store does not have the indexes of all its layers.
    ///
    /// # Errors
    /// As [`SelectedImage::load`].
    pub fn load_if_indexed(&self, options: &LoadOptions) -> Result<Option<Image>> {
        self.engine.has_indexes(&self.opened.layers).then(|| self.load(options)).transpose()
    }

    /// Loads the image: indexes the layers that have no stored index, merges all layers and makes their files
    /// readable. Can be called repeatedly, with other layers or options.
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
            merge: self.engine.merge_options(options),
        })
    }
}
