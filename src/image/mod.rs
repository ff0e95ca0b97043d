//! What an image is: image index, manifest, config, platform choice.
//!
//! Pure: bytes in, descriptions out. This module owns what an image promises about itself, digests
//! and diff_ids above all, and refuses images that promise two things at once. It must not know
//! where bytes are kept, nor what is in a layer.

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

/// What the image says of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerDescriptor {
    /// What its blob is said to be; docker-archives do not say.
    pub media_type: Option<String>,
    /// Digest of the blob as it is stored; docker-archives name none.
    pub digest: Option<Digest>,
    /// Length of the blob in bytes, as the manifest has it.
    pub size: Option<u64>,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// The command that made it, where the history tells.
    pub created_by: Option<String>,
    /// Where a foreign layer can be had (F18).
    pub urls: Vec<String>,
}

/// What the image says of itself.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The names it goes by in its archive or layout; may be none.
    pub names: Vec<String>,
    /// Digest of the manifest; docker-archives have none.
    pub manifest_digest: Option<Digest>,
    /// Digest of the config, which is the image's ID for Docker.
    pub config_digest: Digest,
    /// What it is made for, by its config or else by its image index.
    pub platform: Option<Platform>,
    /// The parsed config.
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// Notes of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The manifest's bytes; for a docker-archive all of `manifest.json`.
    pub raw_manifest: Vec<u8>,
    /// The config's bytes.
    pub raw_config: Vec<u8>,
}

/// Pairs the manifest's layers with the diff_ids and commands of the config. `what` names the manifest in
/// errors.
///
/// # Errors
/// [`Error::Malformed`] when manifest and config do not have the same number of layers (F9).
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

/// Checks that there are `layers` diff_ids. `what` names the document that lists the layers in errors.
///
/// # Errors
/// [`Error::Malformed`] when there are not (F9).
pub(crate) fn check_layer_count(what: &Subject, layers: usize, config: &ImageConfig) -> Result<()> {
    if layers == config.diff_ids.len() {
        return Ok(());
    }
    let reason = format!("{layers} layer(s), but {} diff_id(s) in the config", config.diff_ids.len());
    Err(Error::malformed(what.clone(), reason))
}

#[cfg(test)]
mod tests;
