//! The images and layers of one storage driver: `image/DRIVER` in the data directory of a Docker engine.
//!
//! This module owns the names of files there, and the chain of layers. A text from the directory becomes part
//! of a path only after [`is_safe_name`] or the grammar of digests accepted it.
//!
//! | file | content |
//! |---|---|
//! | `repositories.json` | names of images: `{"Repositories": {"app": {"app:1": "sha256:ID"}}}` |
//! | `imagedb/content/sha256/ID` | the config of an image; the ID is its digest |
//! | `layerdb/sha256/CHAIN/diff` | the diff_id of a layer |
//! | `layerdb/sha256/CHAIN/parent` | the chain ID of the layer below |
//! | `layerdb/sha256/CHAIN/cache-id` | the name of the layer's directory |
//! | `layerdb/sha256/CHAIN/size` | the number of bytes in the layer's files |
//! | `layerdb/sha256/CHAIN/tar-split.json.gz` | the layout of the layer's tar |
//!
//! The chain ID of the lowest layer is its diff_id; that of another layer is the SHA-256 digest of the chain
//! ID below, a space and its diff_id.

use std::collections::{BTreeMap, HashSet};

use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Property, Result, Subject};
use crate::image::manifest::MAX_DOCUMENT_BYTES;
use crate::image::strict_json::{self, Object};
use crate::image::{ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin};
use crate::layer::check_layers;
use crate::layer::index::Verify;
use crate::source::beneath::Beneath;
use crate::source::directory::{DirectoryForm, IdMap};
use crate::source::unpacked::{TarSplit, UnpackedLayer};
use crate::source::{
    DocumentRole, ImageDetails, MAX_ARCHIVE_MANIFEST_BYTES, OpenedImage, Survey, SurveyedDocument,
    SurveyedLayer,
};
use crate::workers::cores;

/// Maximum length of a file that holds one name, digest or number, in bytes.
const MAX_VALUE_BYTES: u64 = 1024;

/// Maximum length of a name that becomes part of a path. IDs have 64 digits, and some a suffix.
const MAX_SAFE_NAME: usize = 128;

/// Why a directory of the driver vfs cannot be shown as a layer.
const WHOLE_TREE: &str =
    "the storage driver vfs keeps whole trees, so the directory does not show what the layer changed";

/// Returns whether `name` can be part of a path: an ID, or an ID with a suffix.
pub(super) fn is_safe_name(name: &str) -> bool {
    let safe = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    !name.is_empty() && name.len() <= MAX_SAFE_NAME && name.bytes().all(safe)
}

/// A storage driver that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    /// A directory for each layer with its files and whiteouts.
    Overlay2,
    /// A directory for each layer with the whole tree.
    Vfs,
}

impl Driver {
    pub(super) fn named(name: &str) -> Option<Self> {
        [Driver::Overlay2, Driver::Vfs].into_iter().find(|driver| driver.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Driver::Overlay2 => "overlay2",
            Driver::Vfs => "vfs",
        }
    }

    /// Returns the path of the directory of a layer, below the data directory.
    fn layer_path(self, id: &str) -> String {
        match self {
            Driver::Overlay2 => format!("overlay2/{id}/diff"),
            Driver::Vfs => format!("vfs/dir/{id}"),
        }
    }
}

/// Who owns the files of layers.
#[derive(Debug, Clone)]
pub(super) enum Owners {
    /// Root; owners are those in containers.
    Root,
    /// Root, with other owners than in containers (`--userns-remap`).
    Remapped(IdMap),
    /// The user of a rootless engine.
    Rootless(IdMap),
}

/// The images and layers of one storage driver.
#[derive(Debug)]
pub(super) struct Graph {
    driver: Driver,
    /// The data directory of the engine.
    data: Beneath,
    /// `image/DRIVER` in it.
    image: Beneath,
    owners: Owners,
    verify: Verify,
}

/// An image in the list of a graph.
#[derive(Debug, Clone)]
pub(super) struct ImageEntry {
    pub(super) driver: &'static str,
    /// Digest of the config.
    pub(super) id: Digest,
    /// Full names, sorted.
    pub(super) names: Vec<String>,
    /// Names with a digest.
    pub(super) digests: Vec<String>,
}

/// A layer in the layer database.
#[derive(Debug, Clone)]
pub(super) struct StoredLayer {
    pub(super) diff_id: Digest,
    /// Chain ID of the layer below.
    pub(super) parent: Option<Digest>,
    cache_id: String,
    size: Option<u64>,
    tar_split: Option<TarSplit>,
}

impl Graph {
    /// Opens the graph of `driver`; `None` if it does not exist.
    pub(super) fn open(
        data: &Beneath,
        driver: Driver,
        owners: Owners,
        verify: Verify,
    ) -> Result<Option<Self>> {
        let image = data.dir(&format!("image/{}", driver.name()))?;
        Ok(image.map(|image| Graph { driver, data: data.clone(), image, owners, verify }))
    }

    pub(super) fn driver(&self) -> Driver {
        self.driver
    }

    /// Returns all images, those without a name too.
    pub(super) fn images(&self) -> Result<Vec<ImageEntry>> {
        let mut names = match self.repositories() {
            Err(fault) if self.verify == Verify::Off => {
                log::warn!("{fault}; images can be selected by ID only");
                BTreeMap::new()
            }
            names => names?,
        };
        let mut images = Vec::new();
        for file in self.image.names("imagedb/content/sha256")? {
            let Some(id) = file.to_str().and_then(Digest::from_sha256_hex) else { continue };
            let (digests, names) =
                names.remove(&id).unwrap_or_default().into_iter().partition(|name| name.contains('@'));
            images.push(ImageEntry { driver: self.driver.name(), id, names, digests });
        }
        for (id, names) in names {
            log::debug!("{}: image {id} of {} is missing", self.driver.name(), names.join(", "));
        }
        Ok(images)
    }

    /// Returns the names in `repositories.json`, by image.
    fn repositories(&self) -> Result<BTreeMap<Digest, Vec<String>>> {
        const NAME: &str = "repositories.json";
        let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let limit = MAX_ARCHIVE_MANIFEST_BYTES;
        let Some(bytes) = self.image.read(NAME, "MAX_ARCHIVE_MANIFEST_BYTES", limit)? else {
            return Ok(names);
        };
        let what = self.image.describe(NAME);
        let bad = |reason: &str| Error::malformed(what.clone(), reason);
        let value = strict_json::parse(&what, &bytes)?;
        let object = Object::new(&what, &value, &["Repositories"])?;
        let Some(repositories) = object.get("Repositories") else { return Ok(names) };
        let repositories = repositories.as_object().ok_or_else(|| bad("'Repositories' is not an object"))?;
        for (repository, references) in repositories {
            let references = references
                .as_object()
                .ok_or_else(|| bad(&format!("'{}' is not an object", repository.escape_debug())))?;
            for (name, id) in references {
                let id = id.as_str().and_then(|id| id.parse().ok());
                let id =
                    id.ok_or_else(|| bad(&format!("the ID of '{}' is not a digest", name.escape_debug())))?;
                names.entry(id).or_default().push(name.clone());
            }
        }
        names.values_mut().for_each(|names| names.sort());
        Ok(names)
    }

    /// Opens an image.
    pub(super) fn open_image(&self, image: &ImageEntry) -> Result<OpenedImage> {
        let (config, raw_config) = self.config(&image.id)?;
        let stored = self.layers_of(&config.diff_ids)?;
        let size = Some(sizes(&stored));
        let mut layers = Vec::new();
        for (number, (layer, created_by)) in stored.into_iter().zip(config.layer_commands()).enumerate() {
            let descriptor = image_layer(layer.diff_id, created_by);
            layers.push(self.unpacked(&layer)?.blob(number, descriptor, self.verify)?);
        }
        let info = ImageInfo {
            names: image.names.clone(),
            manifest_digest: None,
            config_digest: Some(image.id),
            platform: config.platform.clone(),
            config,
            layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
            annotations: BTreeMap::new(),
            raw_manifest: Vec::new(),
            raw_config,
            container: None,
        };
        Ok(OpenedImage { info, layers, reads_at_once: cores(), size })
    }

    /// Returns the properties of an image.
    pub(super) fn details(&self, image: &ImageEntry) -> Result<ImageDetails> {
        let (config, _) = self.config(&image.id)?;
        let layers = self.layers_of(&config.diff_ids)?;
        Ok(ImageDetails {
            id: Some(image.id.to_string()),
            platform: config.platform,
            created: config.created,
            layers: layers.len(),
            size: sizes(&layers),
        })
    }

    /// Finds the config and layers of an image, whether or not they match their digests.
    pub(super) fn survey_image(&self, image: &ImageEntry) -> Survey {
        let mut survey = Survey::default();
        let layers =
            self.survey_config(&image.id, &mut survey).map(|config| self.survey_layers(&config.diff_ids));
        match layers {
            Ok((layers, faults)) => {
                survey.layers = layers;
                survey.faults.extend(faults);
            }
            Err(fault) => survey.faults.push(fault),
        }
        survey
    }

    /// Reads the config of the image `id` and records it in `survey`.
    pub(super) fn survey_config(&self, id: &Digest, survey: &mut Survey) -> Result<ImageConfig> {
        let bytes = self.read_config(id)?;
        survey.documents.push(SurveyedDocument::new(DocumentRole::Config, *id, None, bytes.as_deref()));
        ImageConfig::parse(&config_subject(id), &bytes.ok_or_else(|| missing_config(id))?)
    }

    /// Returns the layers of a chain. The faults of a layer do not hide the other layers.
    pub(super) fn survey_layers(&self, diff_ids: &[Digest]) -> (Vec<SurveyedLayer>, Vec<Error>) {
        let mut faults = Vec::new();
        let mut layers = Vec::new();
        for (diff_id, chain) in chain(diff_ids) {
            let found = self.layer(&chain).and_then(|layer| {
                check_diff_id(&self.image, &chain, diff_id, &layer)?;
                self.unpacked(&layer)
            });
            layers.push(match found {
                Ok(unpacked) => unpacked.surveyed(Some(diff_id)),
                Err(fault) => {
                    faults.push(fault);
                    let (bytes, unchecked) = (None, None);
                    SurveyedLayer { digest: None, size: None, diff_id: Some(diff_id), bytes, unchecked }
                }
            });
        }
        (layers, faults)
    }

    /// Returns the config of the image `id`, parsed and as bytes.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]; [`Error::Mismatch`] when the config does not have its digest, unless
    /// verification is off.
    pub(super) fn config(&self, id: &Digest) -> Result<(ImageConfig, Vec<u8>)> {
        let bytes = self.read_config(id)?.ok_or_else(|| missing_config(id))?;
        let found = id.algorithm().digest(&bytes);
        if found != *id {
            self.refuse(Error::mismatch(config_subject(id), Property::Digest, id, found))?;
        }
        Ok((ImageConfig::parse(&config_subject(id), &bytes)?, bytes))
    }

    /// Returns the bytes of the config of the image `id`; `None` if it does not exist.
    pub(super) fn read_config(&self, id: &Digest) -> Result<Option<Vec<u8>>> {
        let name = format!("imagedb/content/{}/{}", id.algorithm().name(), id.hex());
        self.image.read(&name, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)
    }

    /// Returns the layers with these diff_ids, lowest first.
    pub(super) fn layers_of(&self, diff_ids: &[Digest]) -> Result<Vec<StoredLayer>> {
        check_layers(Subject::Image, diff_ids.len())?;
        let layers = chain(diff_ids).map(|(diff_id, chain)| {
            let layer = self.layer(&chain)?;
            match check_diff_id(&self.image, &chain, diff_id, &layer) {
                Ok(()) => {}
                Err(fault) => self.refuse(fault)?,
            }
            Ok(StoredLayer { diff_id, ..layer })
        });
        layers.collect()
    }

    /// Returns the layers from `top`, a chain ID, down to the lowest, but lowest first. Used for a container
    /// whose image was removed.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a chain ID does not follow from the layers, or the layers form a cycle.
    pub(super) fn layers_below(&self, top: &Digest) -> Result<Vec<StoredLayer>> {
        let (mut layers, mut visited, mut next) = (Vec::new(), HashSet::new(), Some(*top));
        while let Some(at) = next {
            let layer = self.layer(&at)?;
            check_layers(Subject::Image, layers.len() + 1)?;
            if !visited.insert(at) || at != chain_id(layer.parent, layer.diff_id) {
                let reason = "the chain ID is not that of 'parent' and 'diff'";
                return Err(Error::malformed(self.image.describe(&layer_dir(&at)), reason));
            }
            next = layer.parent;
            layers.push(layer);
        }
        layers.reverse();
        Ok(layers)
    }

    /// Reads the layer `at`, a chain ID, from the layer database.
    pub(super) fn layer(&self, at: &Digest) -> Result<StoredLayer> {
        let name = layer_dir(at);
        let bad = |file: &str, reason: &str| {
            Error::malformed(self.image.describe(&format!("{name}/{file}")), reason)
        };
        let Some(dir) = self.image.dir(&name)? else {
            return Err(Error::malformed(self.image.describe(&name), "the layer is missing"));
        };
        let required = |file: &str| value(&dir, file)?.ok_or_else(|| bad(file, "the file is missing"));
        let digest = |file: &str, text: &str| text.parse().map_err(|_| bad(file, "not a digest"));
        let cache_id = required("cache-id")?;
        if !is_safe_name(&cache_id) {
            return Err(bad("cache-id", "not the name of a layer's directory"));
        }
        let parent = value(&dir, "parent")?.map(|text| digest("parent", &text)).transpose()?;
        Ok(StoredLayer {
            diff_id: digest("diff", &required("diff")?)?,
            parent,
            cache_id,
            // The size is for display only.
            size: value(&dir, "size")?.and_then(|text| text.parse().ok()),
            tar_split: TarSplit::find(&dir, "tar-split.json.gz")?,
        })
    }

    /// Returns the files of a layer.
    pub(super) fn unpacked(&self, layer: &StoredLayer) -> Result<UnpackedLayer> {
        let form = match self.driver {
            Driver::Overlay2 => self.overlay_form(),
            Driver::Vfs => Err(WHOLE_TREE.to_owned()),
        };
        Ok(UnpackedLayer {
            directory: self.directory(&layer.cache_id)?,
            tar_split: layer.tar_split.clone(),
            form,
            ids: self.ids(),
            size_hint: layer.size,
        })
    }

    /// Returns the directory of a container's writable layer, or of the engine's files below it.
    pub(super) fn writable(&self, id: &str) -> Result<UnpackedLayer> {
        let form = match self.driver {
            Driver::Overlay2 => self.overlay_form(),
            Driver::Vfs => Ok(DirectoryForm::Plain),
        };
        let (directory, ids) = (self.directory(id)?, self.ids());
        Ok(UnpackedLayer { directory, tar_split: None, form, ids, size_hint: None })
    }

    /// Returns how directories of overlay2 mark deleted files; otherwise why these marks cannot be read. They
    /// are not needed for the exact tar of a layer.
    fn overlay_form(&self) -> Result<DirectoryForm, String> {
        match self.owners {
            // The engine is root, whoever owns the directory.
            Owners::Remapped(_) => Ok(DirectoryForm::Overlay),
            Owners::Root | Owners::Rootless(_) => {
                DirectoryForm::of_store(&self.data).map_err(|fault| fault.to_string())
            }
        }
    }

    fn ids(&self) -> IdMap {
        match &self.owners {
            Owners::Root => IdMap::identity(),
            Owners::Remapped(ids) | Owners::Rootless(ids) => ids.clone(),
        }
    }

    /// Returns the value that `layerdb/mounts/CONTAINER/FILE` holds; `None` if the file does not exist.
    pub(super) fn mount_value(&self, container: &str, file: &str) -> Result<Option<String>> {
        let Some(dir) = self.image.dir(&mount_dir(container))? else { return Ok(None) };
        value(&dir, file)
    }

    /// Returns the subject of errors about a file of a container's mount.
    pub(super) fn describe_mount(&self, container: &str, file: &str) -> Subject {
        self.image.describe(&format!("{}/{file}", mount_dir(container)))
    }

    /// Returns `fault`, or gives a warning if verification is off.
    pub(super) fn refuse(&self, fault: Error) -> Result<()> {
        if self.verify == Verify::Full {
            return Err(fault);
        }
        log::warn!("{fault}");
        Ok(())
    }

    /// Returns the directory of a layer. `id` is a safe name.
    fn directory(&self, id: &str) -> Result<Beneath> {
        let path = self.driver.layer_path(id);
        let found = self.data.dir(&path)?;
        found
            .ok_or_else(|| Error::malformed(self.data.describe(&path), "the directory of a layer is missing"))
    }
}

/// Returns the description of a layer of an image.
pub(super) fn image_layer(diff_id: Digest, created_by: Option<String>) -> LayerDescriptor {
    LayerDescriptor {
        media_type: None,
        digest: None,
        size: None,
        diff_id: Some(diff_id),
        created_by,
        origin: LayerOrigin::Image,
        urls: Vec::new(),
    }
}

/// Returns the number of bytes in the files of layers, as far as it is known.
pub(super) fn sizes(layers: &[StoredLayer]) -> u64 {
    layers.iter().filter_map(|layer| layer.size).fold(0, u64::saturating_add)
}

/// Returns each diff_id with the chain ID of its layer.
fn chain(diff_ids: &[Digest]) -> impl Iterator<Item = (Digest, Digest)> {
    diff_ids.iter().scan(None, |below, diff_id| {
        let chain = chain_id(*below, *diff_id);
        *below = Some(chain);
        Some((*diff_id, chain))
    })
}

fn chain_id(parent: Option<Digest>, diff_id: Digest) -> Digest {
    match parent {
        None => diff_id,
        Some(parent) => Algorithm::Sha256.digest(format!("{parent} {diff_id}").as_bytes()),
    }
}

fn check_diff_id(image: &Beneath, chain: &Digest, expected: Digest, layer: &StoredLayer) -> Result<()> {
    if layer.diff_id == expected {
        return Ok(());
    }
    let what = image.describe(&format!("{}/diff", layer_dir(chain)));
    Err(Error::mismatch(what, Property::DiffId, expected, layer.diff_id))
}

fn layer_dir(chain: &Digest) -> String {
    format!("layerdb/{}/{}", chain.algorithm().name(), chain.hex())
}

fn mount_dir(container: &str) -> String {
    format!("layerdb/mounts/{container}")
}

fn config_subject(id: &Digest) -> Subject {
    Subject::Document { role: DocumentRole::Config, digest: *id }
}

fn missing_config(id: &Digest) -> Error {
    Error::missing_blob(config_subject(id), *id, Vec::new())
}

/// Returns the text of a file that holds one value; `None` if the file does not exist.
fn value(dir: &Beneath, file: &str) -> Result<Option<String>> {
    let Some(bytes) = dir.read(file, "MAX_VALUE_BYTES", MAX_VALUE_BYTES)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| Error::malformed(dir.describe(file), "not text"))?;
    Ok(Some(text.trim().to_owned()))
}
