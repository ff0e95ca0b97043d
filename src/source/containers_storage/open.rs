//! Opening an image or a container of a store: its documents, and the directories of its layers.
//!
//! This module owns which documents and layers belong to an image, and what must agree. It must not know how
//! the tar of a layer is put together, which [`crate::source::unpacked`] does.

use std::collections::BTreeMap;

use super::Store;
use super::area::{Area, Driver};
use super::container::mounts;
use super::images::{ContainerRecord, IdMaps, ImageRecord, LayerRecord};
use crate::digest::Digest;
use crate::error::{DocumentRole, Error, Property, Result, Subject};
use crate::image::manifest::{self, Document, Manifest};
use crate::image::{Container, ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin, check_layer_count};
use crate::layer::check_layers;
use crate::layer::index::Verify;
use crate::source::unpacked::UnpackedLayer;
use crate::source::{LayerBlob, OpenedImage, Survey, SurveyedDocument, SurveyedLayer};
use crate::workers::cores;

/// The name of an image's manifest among its big data.
const MANIFEST: &str = "manifest";

/// The documents of an image.
#[derive(Debug)]
struct Documents {
    manifest: Manifest,
    manifest_digest: Option<Digest>,
    raw_manifest: Vec<u8>,
    config: ImageConfig,
    raw_config: Vec<u8>,
}

/// A layer to be read: its record, the area that holds it, and what is known of it.
#[derive(Debug)]
struct FoundLayer<'a> {
    area: &'a Area,
    record: &'a LayerRecord,
    diff_id: Option<Digest>,
    created_by: Option<String>,
    origin: LayerOrigin,
    maps: IdMaps,
}

impl Store {
    /// Opens an image.
    ///
    /// # Errors
    /// As [`crate::source::ImageSource::image`].
    pub(super) fn open_image(&self, area: &Area, image: &ImageRecord) -> Result<OpenedImage> {
        let documents = self.documents(area, image, None)?;
        let layers = self.image_layers(area, image, &documents.config)?;
        let size =
            layers.iter().try_fold(0, |sum: u64, layer| Some(sum.saturating_add(layer.record.diff_size?)));
        let blobs = self.blobs(layers)?;
        Ok(OpenedImage { info: info(image, documents, &blobs), layers: blobs, reads_at_once: cores(), size })
    }

    /// Opens a container: the layers of its image, and its writable layer.
    ///
    /// # Errors
    /// As [`crate::source::ImageSource::image`].
    pub(super) fn open_container(&self, area: &Area, container: &ContainerRecord) -> Result<OpenedImage> {
        let image = container.image.as_deref().and_then(|id| self.find_image(area, id));
        let documents = image.map(|(area, image)| self.documents(area, image, None)).transpose()?;
        let config = documents.as_ref().map(|documents| &documents.config);
        let layers = self.container_layers(area, container, image, config)?;
        let blobs = self.blobs(layers)?;
        let mut info = match (image, documents) {
            (Some((_, image)), Some(documents)) => info(image, documents, &blobs),
            _ => without_image(&blobs),
        };
        info.names.clone_from(&container.names);
        info.container = Some(Container {
            id: container.id.clone(),
            name: container.names.first().cloned(),
            image: container.image_name.clone().or(container.image.clone()),
            created: container.created.clone(),
            mounts: mounts(area, container),
        });
        Ok(OpenedImage { info, layers: blobs, reads_at_once: cores(), size: None })
    }

    /// Finds the documents and layers of an image, whether or not they match their digests.
    pub(super) fn survey_image(&self, area: &Area, image: &ImageRecord) -> Survey {
        let mut survey = Survey::default();
        let documents = self.documents(area, image, Some(&mut survey.documents));
        let layers = documents.and_then(|documents| self.image_layers(area, image, &documents.config));
        self.survey_layers(layers, &mut survey);
        survey
    }

    /// Finds the documents and layers of a container as [`Store::survey_image`] does.
    pub(super) fn survey_container(&self, area: &Area, container: &ContainerRecord) -> Survey {
        let mut survey = Survey::default();
        let image = container.image.as_deref().and_then(|id| self.find_image(area, id));
        let documents =
            image.map(|(area, image)| self.documents(area, image, Some(&mut survey.documents))).transpose();
        let layers = documents.and_then(|documents| {
            let config = documents.as_ref().map(|documents| &documents.config);
            self.container_layers(area, container, image, config)
        });
        self.survey_layers(layers, &mut survey);
        survey
    }

    fn survey_layers(&self, layers: Result<Vec<FoundLayer<'_>>>, survey: &mut Survey) {
        let layers = match layers {
            Ok(layers) => layers,
            Err(fault) => return survey.faults.push(fault),
        };
        for (number, layer) in layers.iter().enumerate() {
            let mut found = SurveyedLayer {
                digest: None,
                size: None,
                diff_id: layer.diff_id,
                bytes: None,
                unchecked: None,
            };
            match self.unpacked(number, layer) {
                Ok(unpacked) => found = unpacked.surveyed(layer.diff_id),
                Err(Error::MissingBlob { .. }) => {}
                Err(fault) => found.unchecked = Some(fault.to_string()),
            }
            survey.layers.push(found);
        }
    }

    /// Reads the manifest and the config of an image. With `log`, records what was found, and accepts
    /// documents that do not match their digests.
    fn documents(
        &self,
        area: &Area,
        image: &ImageRecord,
        mut log: Option<&mut Vec<SurveyedDocument>>,
    ) -> Result<Documents> {
        let (manifest, raw_manifest) = self.manifest(area, image, log.as_deref_mut())?;
        let wanted = &manifest.config;
        let what = Subject::Document { role: DocumentRole::Config, digest: wanted.digest };
        let raw_config = area.document(&area.image_file(image, &wanted.digest.to_string()))?;
        let is_logged = log.is_some();
        if let Some(log) = log {
            let size = Some(wanted.size);
            log.push(SurveyedDocument::new(DocumentRole::Config, wanted.digest, size, raw_config.as_deref()));
        }
        let raw_config =
            raw_config.ok_or_else(|| Error::missing_blob(what.clone(), wanted.digest, Vec::new()))?;
        if !is_logged {
            checked(wanted.check(&what, &raw_config), self.verify)?;
        }
        let config = ImageConfig::parse(&what, &raw_config)?;
        Ok(Documents { manifest, manifest_digest: image.digest, raw_manifest, config, raw_config })
    }

    fn manifest(
        &self,
        area: &Area,
        image: &ImageRecord,
        log: Option<&mut Vec<SurveyedDocument>>,
    ) -> Result<(Manifest, Vec<u8>)> {
        let file = area.image_file(image, MANIFEST);
        let bytes = area.document(&file)?;
        let what = match image.digest {
            Some(digest) => Subject::Document { role: DocumentRole::Manifest, digest },
            None => area.describe(&file),
        };
        let is_logged = log.is_some();
        if let (Some(digest), Some(log)) = (image.digest, log) {
            log.push(SurveyedDocument::new(DocumentRole::Manifest, digest, None, bytes.as_deref()));
        }
        let bytes = bytes.ok_or_else(|| Error::malformed(area.describe(&file), "the manifest is missing"))?;
        let document = manifest::parse(&what, &bytes, None);
        if let Ok(Document::Index(_)) = document {
            // Podman does not keep the digest of such a list up to date.
            let reason = "a list of images (podman manifest), not an image; select one of its images";
            return Err(Error::unsupported(area.describe(&file), reason));
        }
        if let Some(digest) = image.digest.filter(|_| !is_logged) {
            let found = digest.algorithm().digest(&bytes);
            let mismatch = || Error::mismatch(what.clone(), Property::Digest, digest, found);
            checked(if found == digest { Ok(()) } else { Err(mismatch()) }, self.verify)?;
        }
        match document? {
            Document::Manifest(manifest) => {
                manifest.check_image()?;
                Ok((*manifest, bytes))
            }
            Document::Index(_) => Err(Error::malformed(what, "expected a manifest, found an image index")),
        }
    }

    /// Returns the layers of an image, lowest first.
    fn image_layers<'a>(
        &'a self,
        area: &'a Area,
        image: &'a ImageRecord,
        config: &ImageConfig,
    ) -> Result<Vec<FoundLayer<'a>>> {
        let chain = self.chain(area, image.layer.as_deref())?;
        promised(area, chain, config)
    }

    /// Returns the layers of a container, lowest first: those of its image, a copy of the topmost one whose
    /// owners were changed for the container, and the writable layer.
    fn container_layers<'a>(
        &'a self,
        area: &'a Area,
        container: &'a ContainerRecord,
        image: Option<(&'a Area, &'a ImageRecord)>,
        config: Option<&ImageConfig>,
    ) -> Result<Vec<FoundLayer<'a>>> {
        let (holder, writable) = self.find_layer(area, &container.layer)?;
        let own = |area, record, origin| {
            let by = container.names.first().unwrap_or(&container.id);
            let created_by = Some(format!("container {by}"));
            FoundLayer { area, record, diff_id: None, created_by, origin, maps: container.maps.clone() }
        };
        let writable_layer = own(holder, writable, LayerOrigin::Container);
        // With vfs, the layer of a container is the whole tree, without marks for deleted files.
        if holder.driver == Driver::Vfs {
            return Ok(vec![writable_layer]);
        }
        let mut below = writable.parent.as_deref();
        let mapped = image
            .filter(|(_, image)| below.is_some_and(|id| image.mapped_layers.iter().any(|other| other == id)));
        let mapped_layer = match (mapped, below) {
            (Some((_, image)), Some(id)) => {
                below = image.layer.as_deref();
                let (area, record) = self.find_layer(area, id)?;
                Some(own(area, record, LayerOrigin::Engine))
            }
            _ => None,
        };
        let chain = self.chain(area, below)?;
        let mut layers = match config {
            Some(config) => promised(area, chain, config)?,
            None => recorded(chain),
        };
        layers.extend(mapped_layer);
        layers.push(writable_layer);
        check_layers(Subject::Image, layers.len())?;
        Ok(layers)
    }

    /// Returns the layer `top` and all layers below, lowest first.
    fn chain<'a>(&'a self, area: &'a Area, top: Option<&str>) -> Result<Vec<(&'a Area, &'a LayerRecord)>> {
        let mut chain = Vec::new();
        let mut next = top;
        while let Some(id) = next {
            let (holder, record) = self.find_layer(area, id)?;
            chain.push((holder, record));
            // The limit also ends a cycle.
            check_layers(area.describe(&area.layer_list()), chain.len())?;
            next = record.parent.as_deref();
        }
        chain.reverse();
        Ok(chain)
    }

    /// Returns the layer `id` of the driver of `area`: from `area`, or else from another store.
    fn find_layer<'a>(&'a self, area: &'a Area, id: &str) -> Result<(&'a Area, &'a LayerRecord)> {
        let others = self.areas.iter().filter(|other| other.driver == area.driver);
        let found = std::iter::once(area).chain(others).find_map(|area| Some((area, area.layer(id)?)));
        let what = || area.describe(&area.layer_list());
        match found {
            None => Err(Error::malformed(what(), format!("the layer '{id}' is missing"))),
            Some((_, record)) if record.is_incomplete => {
                let reason = format!("the layer '{id}' is incomplete: an engine did not finish writing it");
                Err(Error::malformed(what(), reason))
            }
            Some(found) => Ok(found),
        }
    }

    fn blobs(&self, layers: Vec<FoundLayer<'_>>) -> Result<Vec<LayerBlob>> {
        let blob = |(number, layer): (usize, FoundLayer<'_>)| {
            self.check_recorded(&layer)?;
            let unpacked = self.unpacked(number, &layer)?;
            let descriptor = LayerDescriptor {
                media_type: None,
                digest: None,
                size: None,
                diff_id: layer.diff_id,
                created_by: layer.created_by,
                origin: layer.origin,
                urls: Vec::new(),
            };
            unpacked.blob(number, descriptor, self.verify)
        };
        layers.into_iter().enumerate().map(blob).collect()
    }

    /// Checks that the engine recorded the digest of a layer that the config states.
    fn check_recorded(&self, layer: &FoundLayer<'_>) -> Result<()> {
        match (layer.diff_id, layer.record.diff_digest) {
            (Some(diff_id), Some(recorded)) if diff_id != recorded => {
                let what = layer.area.describe(&layer.area.layer_list());
                checked(Err(Error::mismatch(what, Property::DiffId, diff_id, recorded)), self.verify)
            }
            _ => Ok(()),
        }
    }

    fn unpacked(&self, number: usize, layer: &FoundLayer<'_>) -> Result<UnpackedLayer> {
        let FoundLayer { area, record, .. } = layer;
        let missing = || {
            let name = area.directory_name(record);
            let what = Subject::LayerFile { number, archive: self.path.clone(), name };
            match layer.diff_id {
                Some(diff_id) => Error::missing_blob(what, diff_id, Vec::new()),
                None => Error::malformed(what, "the directory of the layer is missing"),
            }
        };
        area.unpacked(record, &layer.maps)?.ok_or_else(missing)
    }
}

/// Pairs the layers of a chain with the diff_ids and commands of the config.
fn promised<'a>(
    area: &Area,
    chain: Vec<(&'a Area, &'a LayerRecord)>,
    config: &ImageConfig,
) -> Result<Vec<FoundLayer<'a>>> {
    check_layer_count(&area.describe(&area.layer_list()), chain.len(), config)?;
    let named = chain.into_iter().zip(&config.diff_ids).zip(config.layer_commands());
    Ok(named
        .map(|(((area, record), diff_id), created_by)| {
            let diff_id = Some(*diff_id);
            let (origin, maps) = (LayerOrigin::Image, IdMaps::default());
            FoundLayer { area, record, diff_id, created_by, origin, maps }
        })
        .collect())
}

/// Returns the layers of a chain with the digests that the engine recorded for them.
fn recorded<'a>(chain: Vec<(&'a Area, &'a LayerRecord)>) -> Vec<FoundLayer<'a>> {
    let layer = |(area, record): (&'a Area, &'a LayerRecord)| FoundLayer {
        area,
        record,
        diff_id: record.diff_digest,
        created_by: None,
        origin: LayerOrigin::Image,
        maps: IdMaps::default(),
    };
    chain.into_iter().map(layer).collect()
}

/// Returns `result`, but turns a mismatch into a warning if verification is off.
fn checked(result: Result<()>, verify: Verify) -> Result<()> {
    match result {
        Err(mismatch @ Error::Mismatch { .. }) if verify == Verify::Off => {
            log::warn!("{mismatch}");
            Ok(())
        }
        result => result,
    }
}

fn info(image: &ImageRecord, documents: Documents, layers: &[LayerBlob]) -> ImageInfo {
    let Documents { manifest, manifest_digest, raw_manifest, config, raw_config } = documents;
    ImageInfo {
        names: image.names.clone(),
        manifest_digest,
        config_digest: Some(manifest.config.digest),
        platform: config.platform.clone(),
        config,
        layers: descriptors(layers),
        annotations: manifest.annotations,
        raw_manifest,
        raw_config,
        container: None,
    }
}

/// Returns the description of a container that has no image, or whose image was removed.
fn without_image(layers: &[LayerBlob]) -> ImageInfo {
    ImageInfo {
        names: Vec::new(),
        manifest_digest: None,
        config_digest: None,
        platform: None,
        config: ImageConfig::default(),
        layers: descriptors(layers),
        annotations: BTreeMap::new(),
        raw_manifest: Vec::new(),
        raw_config: Vec::new(),
        container: None,
    }
}

fn descriptors(layers: &[LayerBlob]) -> Vec<LayerDescriptor> {
    layers.iter().map(|layer| layer.descriptor.clone()).collect()
}
