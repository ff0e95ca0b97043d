//! The documents of an image: image index, manifest, config and the choice of a platform.
//!
//! This module parses bytes and does no I/O. It owns what an image states about itself, above all digests and
//! diff_ids, and refuses images whose documents contradict each other. It must not know where bytes are
//! stored or what a layer contains.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::{Error, Result, Subject};

pub(crate) mod config;
pub(crate) mod manifest;
pub(crate) mod media_type;
pub(crate) mod platform;
pub(crate) mod strict_json;

pub use config::{HistoryEntry, ImageConfig};
pub(crate) use media_type::claimed_compression;
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
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The command that created the layer, if the history names it.
    pub created_by: Option<String>,
    /// Download addresses of a foreign layer (F18).
    pub urls: Vec<String>,
}

/// The description of an image in its documents.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// Names of the image in its archive or layout; may be empty.
    pub names: Vec<String>,
    /// Digest of the manifest; docker-archives have none.
    pub manifest_digest: Option<Digest>,
    /// Digest of the config, which Docker uses as the image's ID.
    pub config_digest: Digest,
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
            diff_id: *diff_id,
            created_by,
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
