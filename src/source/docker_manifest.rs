//! `manifest.json`: the images of a docker-archive, and of the OCI layouts that Docker 25 and later write.
//!
//! This module owns which file is the config of an image and which files are its layers. No other file of the
//! archive is used for that, because the layout of its directories differs between engines (F1, F5, F6).

use serde_json::Value;

use super::archive::Archive;
use super::names::Names;
use super::survey::{DocumentRole, Survey, SurveyedDocument, SurveyedLayer};
use super::{LayerBlob, MAX_ARCHIVE_MANIFEST_BYTES, OpenedImage};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result, Subject};
use crate::image::manifest::MAX_DOCUMENT_BYTES;
use crate::image::strict_json::{self, Object};
use crate::image::{ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin, Platform, check_layer_count};
use crate::layer::check_layers;
use crate::workers::cores;

const ITEM_FIELDS: [&str; 5] = ["Config", "RepoTags", "Layers", "Parent", "LayerSources"];

/// A parsed `manifest.json`.
#[derive(Debug, Default)]
pub(super) struct DockerManifest {
    pub(super) items: Vec<Item>,
    raw: Vec<u8>,
}

/// The entry of one image in `manifest.json`.
#[derive(Debug)]
pub(super) struct Item {
    /// File name of the config.
    config: String,
    /// Names of the image.
    pub(super) repo_tags: Vec<String>,
    /// File names of the layers, lowest first.
    layers: Vec<String>,
}

impl DockerManifest {
    /// Reads the `manifest.json` of a docker-archive; `None` if there is no such file.
    pub(super) fn read(archive: &Archive) -> Result<Option<Self>> {
        match read_manifest(archive)? {
            Some(raw) => DockerManifest::parse(archive, raw).map(Some),
            None => Ok(None),
        }
    }

    /// Reads the `manifest.json` beside an OCI layout. The result is empty if the file is missing or has
    /// another format, because a layout may contain any other files (F11).
    pub(super) fn read_beside_oci(archive: &Archive) -> Result<Self> {
        match read_manifest(archive)? {
            Some(raw) if raw.trim_ascii_start().starts_with(b"[") => DockerManifest::parse(archive, raw),
            _ => Ok(DockerManifest::default()),
        }
    }

    fn parse(archive: &Archive, raw: Vec<u8>) -> Result<Self> {
        let items = parse_items(&archive.describe("manifest.json"), &raw)?;
        Ok(DockerManifest { items, raw })
    }

    /// Opens the image `item` from `archive`.
    ///
    /// # Errors
    /// As [`super::ImageSource::image`].
    pub(super) fn open(
        &self,
        archive: &Archive,
        item: &Item,
        platform: Option<&Platform>,
    ) -> Result<OpenedImage> {
        let (raw_config, config_digest) = item.read_config(archive)?;
        if let Some(named) = digest_in_name(&item.config).filter(|named| *named != config_digest) {
            let what = archive.describe(&item.config);
            log::warn!("{what}: the digest of the config is {config_digest}, but the file name says {named}");
        }
        let config = ImageConfig::parse(&archive.describe(&item.config), &raw_config)?;
        check_layer_count(&archive.describe("manifest.json"), item.layers.len(), &config)?;
        if let (Some(wanted), Some(found)) = (platform, &config.platform)
            && wanted.rank(found).is_none()
        {
            log::warn!("the image is for platform {found}, not for {wanted}");
        }
        let layers: Vec<_> = config
            .diff_ids
            .iter()
            .zip(config.layer_commands())
            .map(|(diff_id, created_by)| LayerDescriptor {
                media_type: None,
                digest: None,
                size: None,
                diff_id: Some(*diff_id),
                created_by,
                origin: LayerOrigin::Image,
                urls: Vec::new(),
            })
            .collect();
        let named = item.layers.iter().zip(&config.diff_ids).zip(layers.iter().cloned()).enumerate();
        let blobs = named
            .map(|(number, ((name, diff_id), descriptor))| {
                let found = archive.find(name)?;
                let found = found.ok_or_else(|| without_layer(archive, number, name, *diff_id))?;
                Ok(LayerBlob { descriptor, bytes: found.bytes, identity: found.identity, size_hint: None })
            })
            .collect::<Result<_>>()?;
        Ok(OpenedImage {
            info: ImageInfo {
                names: item.repo_tags.clone(),
                manifest_digest: None,
                config_digest: Some(config_digest),
                platform: config.platform.clone(),
                config,
                layers,
                annotations: std::collections::BTreeMap::new(),
                raw_manifest: self.raw.clone(),
                raw_config,
                container: None,
            },
            layers: blobs,
            reads_at_once: cores(),
            size: None,
        })
    }
}

impl Item {
    /// Returns the names of the image, as selectors find them.
    pub(super) fn names(&self) -> Names {
        Names { full: self.repo_tags.clone(), ..Names::default() }
    }

    /// Returns true if both entries are one image, which may be listed once for each of its names.
    pub(super) fn is_same_image(&self, other: &Item) -> bool {
        self.config == other.config && self.layers == other.layers
    }

    /// Finds the config and layers that the image names, whether or not they match their digests.
    pub(super) fn survey(&self, archive: &Archive) -> Survey {
        let mut survey = Survey::default();
        // Only the config states digests of layers; without it they cannot be compared.
        let config = self.survey_config(archive, &mut survey);
        match config.and_then(|config| self.survey_layers(archive, &config)) {
            Ok(layers) => survey.layers = layers,
            Err(fault) => survey.faults.push(fault),
        }
        survey
    }

    fn survey_config(&self, archive: &Archive, survey: &mut Survey) -> Result<ImageConfig> {
        let what = archive.describe(&self.config);
        let bytes = archive.read(&self.config, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)?;
        if let Some(digest) = digest_in_name(&self.config) {
            let document = SurveyedDocument::new(DocumentRole::Config, digest, None, bytes.as_deref());
            survey.documents.push(document);
        }
        let config = ImageConfig::parse(&what, &bytes.ok_or_else(|| without_config(&what))?)?;
        check_layer_count(&archive.describe("manifest.json"), self.layers.len(), &config)?;
        Ok(config)
    }

    fn survey_layers(&self, archive: &Archive, config: &ImageConfig) -> Result<Vec<SurveyedLayer>> {
        let named = self.layers.iter().zip(&config.diff_ids);
        let found = named.map(|(name, diff_id)| {
            let bytes = archive.find(name)?.map(|found| found.bytes);
            Ok(SurveyedLayer { digest: None, size: None, diff_id: Some(*diff_id), bytes, unchecked: None })
        });
        found.collect()
    }

    /// Returns the bytes and the digest of the config. If the config's file name contains its digest, that
    /// digest is returned; the name need not contain the right digest (F1).
    fn read_config(&self, archive: &Archive) -> Result<(Vec<u8>, Digest)> {
        let what = archive.describe(&self.config);
        let Some(bytes) = archive.read(&self.config, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)? else {
            return Err(without_config(&what));
        };
        let named = digest_in_name(&self.config).filter(|named| named.algorithm().digest(&bytes) == *named);
        let digest = named.unwrap_or_else(|| Algorithm::Sha256.digest(&bytes));
        Ok((bytes, digest))
    }

    /// Returns the digest of the config.
    ///
    /// # Errors
    /// When the config cannot be read.
    pub(super) fn config_digest(&self, archive: &Archive) -> Result<Digest> {
        self.read_config(archive).map(|(_, digest)| digest)
    }
}

fn without_layer(archive: &Archive, number: usize, name: &str, diff_id: Digest) -> Error {
    let what = Subject::LayerFile { number, archive: archive.path().to_owned(), name: name.to_owned() };
    Error::missing_blob(what, diff_id, Vec::new())
}

fn read_manifest(archive: &Archive) -> Result<Option<Vec<u8>>> {
    archive.read("manifest.json", "MAX_ARCHIVE_MANIFEST_BYTES", MAX_ARCHIVE_MANIFEST_BYTES)
}

fn parse_items(what: &Subject, bytes: &[u8]) -> Result<Vec<Item>> {
    let value = strict_json::parse(what, bytes)?;
    let items = value.as_array().ok_or_else(|| Error::malformed(what.clone(), "not an array of images"))?;
    items.iter().map(|item| parse_item(what, item)).collect()
}

fn parse_item(what: &Subject, value: &Value) -> Result<Item> {
    let object = Object::new(what, value, &ITEM_FIELDS)?;
    let layers = object.strings("Layers")?;
    check_layers(what.clone(), layers.len())?;
    Ok(Item {
        config: object.required_string("Config")?.to_owned(),
        repo_tags: object.strings("RepoTags")?,
        layers,
    })
}

fn without_config(what: &Subject) -> Error {
    Error::malformed(what.clone(), "the config that 'manifest.json' names is missing")
}

/// Returns the digest in a name of the form `<hex>.json`, `sha256:<hex>` or `blobs/<algorithm>/<hex>`.
fn digest_in_name(name: &str) -> Option<Digest> {
    let (directory, file) = name.rsplit_once('/').unwrap_or(("", name));
    let algorithm = directory.rsplit('/').next().unwrap_or(directory);
    if let Ok(digest) = format!("{algorithm}:{file}").parse() {
        return Some(digest);
    }
    let file = file.strip_prefix("sha256:").unwrap_or(file);
    Digest::from_sha256_hex(file.strip_suffix(".json").unwrap_or(file))
}
