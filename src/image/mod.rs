//! The documents of an image: image index, manifest, config and the choice of a platform.
//!
//! This module parses bytes and does no I/O. It owns what an image states about itself, above all digests and
//! diff_ids, and refuses images whose documents contradict each other. It must not know where bytes are
//! stored or what a layer contains.

use std::collections::BTreeMap;

use crate::compress::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};

pub(crate) mod config;
pub(crate) mod manifest;
pub(crate) mod media_type;
pub(crate) mod platform;
pub(crate) mod strict_json;

pub use config::{HistoryEntry, ImageConfig};
use media_type::claimed_compression;
pub use platform::Platform;

/// The description of one layer in manifest and config.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerDescriptor {
    /// Media type of the blob; docker-archives state none.
    pub media_type: Option<String>,
    /// Digest of the blob as stored; docker-archives state none.
    pub digest: Option<Digest>,
    /// Length of the blob in bytes, as the manifest states it.
    pub size: Option<u64>,
    /// Digest of the uncompressed tar; `None` if nothing states it, as for the writable layer of a container.
    pub diff_id: Option<Digest>,
    /// The command that created the layer, if the history names it.
    pub created_by: Option<String>,
    /// Where the layer comes from.
    pub origin: LayerOrigin,
    /// Download addresses of a foreign layer (F18).
    pub urls: Vec<String>,
}

impl LayerDescriptor {
    /// Returns the compression that the media type names; `None` if it names none that is known.
    #[must_use]
    pub fn claimed_compression(&self) -> Option<Compression> {
        claimed_compression(self.media_type.as_deref()?)
    }
}

/// Where a layer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LayerOrigin {
    /// The image.
    #[default]
    Image,
    /// The engine: files that it puts below the writable layer of a container, such as `/.dockerenv`.
    Engine,
    /// The container: its writable layer.
    Container,
}

impl LayerOrigin {
    /// Returns the name in JSON output: `image`, `engine` or `container`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LayerOrigin::Image => "image",
            LayerOrigin::Engine => "engine",
            LayerOrigin::Container => "container",
        }
    }
}

/// A container: an image with a writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Container {
    /// The full ID.
    pub id: String,
    /// The name, without a leading slash.
    pub name: Option<String>,
    /// The name or ID of the image, as the container was created from it.
    pub image: Option<String>,
    /// Time of creation as the engine writes it (RFC 3339).
    pub created: Option<String>,
    /// What the engine mounts over the tree when the container runs. It is not part of the tree.
    pub mounts: Vec<ContainerMount>,
}

/// A directory or file that an engine mounts into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerMount {
    /// The path inside the container.
    pub destination: String,
    /// The path on the host, or the name of the volume, if there is one.
    pub source: Option<String>,
    /// The kind of mount as the engine names it: `bind`, `volume`, `tmpfs`.
    pub kind: String,
}

/// The description of an image in its documents.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// Names of the image in its archive or layout; may be empty.
    pub names: Vec<String>,
    /// Digest of the manifest; docker-archives have none.
    pub manifest_digest: Option<Digest>,
    /// Digest of the config, which Docker uses as the image's ID; `None` for an image without a config, such
    /// as a flat tar.
    pub config_digest: Option<Digest>,
    /// Platform of the image from its config, or else from its image index.
    pub platform: Option<Platform>,
    /// The parsed config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Bytes of the manifest; for a docker-archive, all of `manifest.json`.
    pub raw_manifest: Vec<u8>,
    /// Bytes of the config.
    pub raw_config: Vec<u8>,
    /// The container, if this is the tree of a container.
    pub container: Option<Container>,
}

/// Combines the manifest's layers with the diff_ids and commands of the config. `what` names the manifest in
/// errors.
///
/// # Errors
/// [`Error::Malformed`] when manifest and config have different numbers of layers (F9).
pub(crate) fn pair_layers(
    what: &Subject,
    layers: &[manifest::Descriptor],
    config: &ImageConfig,
) -> Result<Vec<LayerDescriptor>> {
    check_layer_count(what, layers.len(), config)?;
    let paired = layers.iter().zip(&config.diff_ids).zip(config.layer_commands());
    Ok(paired
        .map(|((layer, diff_id), created_by)| LayerDescriptor {
            media_type: layer.media_type.clone(),
            digest: Some(layer.digest),
            size: Some(layer.size),
            diff_id: Some(*diff_id),
            created_by,
            origin: LayerOrigin::Image,
            urls: layer.urls.clone(),
        })
        .collect())
}

/// Checks that the config has `layers` diff_ids. `what` names the document that lists the layers in errors.
///
/// # Errors
/// [`Error::Malformed`] for another number of diff_ids (F9).
pub(crate) fn check_layer_count(what: &Subject, layers: usize, config: &ImageConfig) -> Result<()> {
    if layers == config.diff_ids.len() {
        return Ok(());
    }
    let reason = format!("{layers} layer(s), but {} diff_id(s) in the config", config.diff_ids.len());
    Err(Error::malformed(what.clone(), reason))
}

#[cfg(test)]
mod tests;
