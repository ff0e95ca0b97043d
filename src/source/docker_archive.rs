//! What `docker save`, podman, skopeo, kaniko, bazel and nix write as a docker-archive.
//!
//! This module owns `manifest.json`: which file is the config and which are the layers. Nothing else
//! in the archive is believed; the layout of its directories changed with every engine (F1, F5, F6).

use serde_json::Value;

use super::archive::{Archive, not_an_image};
use super::formats::Place;
use super::names::{self, Names};
use super::survey::{DocumentRole, Survey, SurveyedDocument, SurveyedLayer};
use super::{ImageSummary, LayerBlob, MAX_ARCHIVE_MANIFEST_BYTES, OpenedImage, Selection, Source};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Property, Result, Subject};
use crate::image::manifest::MAX_DOCUMENT_BYTES;
use crate::image::strict_json::{self, Object};
use crate::image::{ImageConfig, ImageInfo, LayerDescriptor, Platform, check_layer_count};
use crate::layer::check_layers;
use crate::workers::cores;

/// True for a `manifest.json`, or for what Docker before 1.10 wrote instead.
pub(super) fn detect(place: &mut Place<'_>) -> Result<bool> {
    let archive = place.archive()?;
    Ok(archive.find("manifest.json")?.is_some() || archive.find("repositories")?.is_some())
}

/// Opens a docker-archive.
pub(super) fn open(place: Place<'_>) -> Result<Box<dyn Source>> {
    Ok(Box::new(DockerArchive::open(place.into_archive()?)?))
}

const ITEM_FIELDS: [&str; 5] = ["Config", "RepoTags", "Layers", "Parent", "LayerSources"];

/// One image of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Name of the config.
    config: String,
    /// Names of the image.
    pub(super) repo_tags: Vec<String>,
    /// Names of the layers, lowest first.
    layers: Vec<String>,
}

/// A docker-archive.
#[derive(Debug)]
struct DockerArchive {
    archive: Archive,
    items: Vec<Item>,
    raw_manifest: Vec<u8>,
}

impl DockerArchive {
    /// Reads `manifest.json`.
    fn open(archive: Archive) -> Result<Self> {
        let Some(raw_manifest) = read_manifest(&archive)? else {
            return Err(without_manifest(&archive)?);
        };
        let items = parse_items(&archive.describe("manifest.json"), &raw_manifest)?;
        if items.is_empty() {
            return Err(not_an_image(archive.path(), "its 'manifest.json' lists no image"));
        }
        Ok(DockerArchive { archive, items, raw_manifest })
    }

    fn listed(&self) -> Vec<(Names, ImageSummary)> {
        let items = self.items.iter().enumerate();
        items
            .map(|(index, item)| {
                let names = Names { reference: None, full: item.repo_tags.clone() };
                let summary = ImageSummary { index, names: names.shown(), platform: None };
                (names, summary)
            })
            .collect()
    }

    fn pick(&self, select: &Selection) -> Result<&Item> {
        let place = self.archive.path().display().to_string();
        let images = self.listed();
        let found = names::select(&place, select, &images)?;
        let mut items = found.iter().filter_map(|at| self.items.get(*at));
        let Some(first) = items.next() else {
            return Err(names::ambiguous(&place, &images, &found));
        };
        // One image may stand there once for each of its names.
        if items.any(|item| item.config != first.config || item.layers != first.layers) {
            return Err(names::ambiguous(&place, &images, &found));
        }
        Ok(first)
    }

    fn layer(&self, number: usize, name: &str, descriptor: LayerDescriptor) -> Result<LayerBlob> {
        let Some(found) = self.archive.find(name)? else {
            let archive = self.archive.path().to_owned();
            let what = Subject::LayerFile { number, archive, name: name.to_owned() };
            return Err(Error::missing_blob(what, descriptor.diff_id, Vec::new()));
        };
        Ok(LayerBlob { descriptor, bytes: found.bytes, identity: found.identity })
    }
}

impl DockerArchive {
    fn survey_config(&self, item: &Item, survey: &mut Survey) -> Result<ImageConfig> {
        let what = self.archive.describe(&item.config);
        let bytes = self.archive.read(&item.config, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)?;
        if let Some(digest) = digest_in_name(&item.config) {
            let document = SurveyedDocument::new(DocumentRole::Config, digest, None, bytes.as_deref());
            survey.documents.push(document);
        }
        let config = ImageConfig::parse(&what, &bytes.ok_or_else(|| without_config(&what))?)?;
        check_layer_count(&self.archive.describe("manifest.json"), item.layers.len(), &config)?;
        Ok(config)
    }

    fn survey_layers(&self, item: &Item, config: &ImageConfig) -> Result<Vec<SurveyedLayer>> {
        let named = item.layers.iter().zip(&config.diff_ids);
        let found = named.map(|(name, diff_id)| {
            let bytes = self.archive.find(name)?.map(|found| found.bytes);
            Ok(SurveyedLayer { digest: None, size: None, diff_id: Some(*diff_id), bytes })
        });
        found.collect()
    }
}

impl Source for DockerArchive {
    fn kind(&self) -> &'static str {
        "docker-archive"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.listed().into_iter().map(|(_, summary)| summary).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let item = self.pick(select)?;
        let (raw_config, config_digest) = item.read_config(&self.archive)?;
        let config = ImageConfig::parse(&self.archive.describe(&item.config), &raw_config)?;
        check_layer_count(&self.archive.describe("manifest.json"), item.layers.len(), &config)?;
        if let (Some(wanted), Some(found)) = (platform, &config.platform)
            && wanted.rank(found).is_none()
        {
            log::warn!("the image is made for {found}, not for {wanted}");
        }
        let layers: Vec<_> = config
            .diff_ids
            .iter()
            .zip(config.layer_commands())
            .map(|(diff_id, created_by)| LayerDescriptor {
                media_type: None,
                digest: None,
                size: None,
                diff_id: *diff_id,
                created_by,
                urls: Vec::new(),
            })
            .collect();
        let named = item.layers.iter().zip(layers.iter().cloned()).enumerate();
        let blobs = named
            .map(|(number, (name, descriptor))| self.layer(number, name, descriptor))
            .collect::<Result<_>>()?;
        Ok(OpenedImage {
            info: ImageInfo {
                names: item.repo_tags.clone(),
                manifest_digest: None,
                config_digest,
                platform: config.platform.clone(),
                config,
                layers,
                annotations: std::collections::BTreeMap::new(),
                raw_manifest: self.raw_manifest.clone(),
                raw_config,
            },
            layers: blobs,
            reads_at_once: cores(),
        })
    }

    fn survey(&self, select: &Selection, _: Option<&Platform>) -> Result<Survey> {
        let item = self.pick(select)?;
        let mut survey = Survey::default();
        // Layers are promised by the config alone: without it there is nothing to compare them with.
        match self.survey_config(item, &mut survey).and_then(|config| self.survey_layers(item, &config)) {
            Ok(layers) => survey.layers = layers,
            Err(fault) => survey.faults.push(fault),
        }
        Ok(survey)
    }
}

impl Item {
    /// The config's bytes and digest, which must be the one in its name where it has one.
    fn read_config(&self, archive: &Archive) -> Result<(Vec<u8>, Digest)> {
        let what = archive.describe(&self.config);
        let Some(bytes) = archive.read(&self.config, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)? else {
            return Err(without_config(&what));
        };
        let expected = digest_in_name(&self.config);
        let algorithm = expected.map_or(Algorithm::Sha256, |expected| expected.algorithm());
        let digest = algorithm.digest(&bytes);
        match expected {
            Some(expected) if expected != digest => {
                Err(Error::mismatch(what, Property::Digest, expected, digest))
            }
            _ => Ok((bytes, digest)),
        }
    }

    /// The digest of the config, by its name or else by its bytes.
    ///
    /// # Errors
    /// When it has to be read and cannot be.
    pub(super) fn config_digest(&self, archive: &Archive) -> Result<Digest> {
        match digest_in_name(&self.config) {
            Some(digest) => Ok(digest),
            None => Ok(self.read_config(archive)?.1),
        }
    }
}

/// The items of a `manifest.json` beside an OCI layout; none when there is no such file, or it is
/// another kind of file, of which a layout may have any (F11).
pub(super) fn read_beside_oci(archive: &Archive) -> Result<Vec<Item>> {
    match read_manifest(archive)? {
        Some(bytes) if bytes.trim_ascii_start().starts_with(b"[") => {
            parse_items(&archive.describe("manifest.json"), &bytes)
        }
        _ => Ok(Vec::new()),
    }
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

/// `<hex>.json`, `sha256:<hex>` and `blobs/<algorithm>/<hex>` name a digest.
fn digest_in_name(name: &str) -> Option<Digest> {
    let (directory, file) = name.rsplit_once('/').unwrap_or(("", name));
    let algorithm = directory.rsplit('/').next().unwrap_or(directory);
    if let Ok(digest) = format!("{algorithm}:{file}").parse() {
        return Some(digest);
    }
    let file = file.strip_prefix("sha256:").unwrap_or(file);
    Digest::from_sha256_hex(file.strip_suffix(".json").unwrap_or(file))
}

/// What to say of an archive without `manifest.json` (F2).
fn without_manifest(archive: &Archive) -> Result<Error> {
    if archive.find("repositories")?.is_none() {
        return Ok(not_an_image(archive.path(), "it has no 'manifest.json'"));
    }
    Ok(Error::unsupported(
        Subject::Archive(archive.path().to_owned()),
        "an archive of Docker before 1.10, which names no digests to check its layers against; \
         load and save it again with a current engine",
    ))
}
