//! What is known of an image without downloads: everything, or the contents of its documents alone.
//!
//! This module owns which layers of an image in a registry are shown without being read.

use std::collections::BTreeMap;

use anyhow::Result;

use imgmount::{
    Compression, Digest, Image, ImageInfo, LayerDescriptor, LayerId, LayerInfo, LayerOrigin, LoadOptions,
    SelectedImage, Step, Warning,
};

/// An image, as far as it is known.
#[derive(Debug)]
pub(crate) enum KnownImage {
    /// The image is loaded.
    Loaded(Image),
    /// The image is in a registry, and not all its layers were read before.
    Documents(Box<SelectedImage>),
}

/// A layer, as far as it is known.
#[derive(Debug)]
pub(crate) struct KnownLayer<'a> {
    pub(crate) diff_id: Option<Digest>,
    pub(crate) digest: Option<Digest>,
    pub(crate) media_type: Option<&'a str>,
    pub(crate) created_by: Option<&'a str>,
    pub(crate) origin: LayerOrigin,
    /// As detected; of a layer that was not read, as its media type states.
    pub(crate) compression: Option<Compression>,
    /// Length of the stored blob in bytes.
    pub(crate) blob_bytes: u64,
    /// Length of the uncompressed tar in bytes; `None` for a layer that was not read.
    pub(crate) tar_bytes: Option<u64>,
    /// Number of tar entries; `None` for a layer that was not read.
    pub(crate) entries: Option<u32>,
}

impl KnownImage {
    /// Loads an image, unless layers would have to be downloaded for that.
    pub(crate) fn of(image: SelectedImage, options: &LoadOptions) -> Result<Self> {
        match image.load_if_indexed(options)? {
            Some(loaded) => Ok(KnownImage::Loaded(loaded)),
            None => Ok(KnownImage::Documents(Box::new(image))),
        }
    }

    pub(crate) fn info(&self) -> &ImageInfo {
        match self {
            KnownImage::Loaded(image) => image.info(),
            KnownImage::Documents(image) => image.info(),
        }
    }

    pub(crate) fn format(&self) -> &'static str {
        match self {
            KnownImage::Loaded(image) => image.format(),
            KnownImage::Documents(image) => image.format(),
        }
    }

    pub(crate) fn steps(&self) -> Vec<Step<'_>> {
        match self {
            KnownImage::Loaded(image) => image.steps(),
            KnownImage::Documents(image) => image.steps(),
        }
    }

    /// Returns the layers, lowest first.
    pub(crate) fn layers(&self) -> Vec<KnownLayer<'_>> {
        match self {
            KnownImage::Loaded(image) => image.layers().iter().map(loaded).collect(),
            KnownImage::Documents(image) => image.info().layers.iter().map(described).collect(),
        }
    }

    /// Returns the warnings about the layers, the first of each kind; `None` if not all layers were read.
    pub(crate) fn warnings(&self) -> Option<&[(LayerId, Warning)]> {
        match self {
            KnownImage::Loaded(image) => Some(image.warnings()),
            KnownImage::Documents(_) => None,
        }
    }

    /// Returns the number of warnings of each kind that occurs; `None` if not all layers were read.
    pub(crate) fn warning_counts(&self) -> Option<BTreeMap<String, u64>> {
        match self {
            KnownImage::Loaded(image) => {
                Some(image.warning_counts().map(|(kind, count)| (kind.name(), count)).collect())
            }
            KnownImage::Documents(_) => None,
        }
    }
}

fn loaded(layer: &LayerInfo) -> KnownLayer<'_> {
    KnownLayer {
        diff_id: layer.diff_id,
        digest: layer.digest,
        media_type: layer.media_type.as_deref(),
        created_by: layer.created_by.as_deref(),
        origin: layer.origin,
        compression: Some(layer.compression),
        blob_bytes: layer.blob_bytes,
        tar_bytes: Some(layer.tar_bytes),
        entries: Some(layer.entries),
    }
}

fn described(layer: &LayerDescriptor) -> KnownLayer<'_> {
    KnownLayer {
        diff_id: layer.diff_id,
        digest: layer.digest,
        media_type: layer.media_type.as_deref(),
        created_by: layer.created_by.as_deref(),
        origin: layer.origin,
        compression: layer.claimed_compression(),
        // A manifest states the size of each layer.
        blob_bytes: layer.size.unwrap_or_default(),
        tar_bytes: None,
        entries: None,
    }
}
