//! The containers of a Docker engine: `containers/ID/config.v2.json`, and their layers.
//!
//! A container with the driver overlay2 has the layers of its image, a layer with files of the engine (such
//! as `/.dockerenv`), and its writable layer. With the driver vfs it is one directory, which becomes one
//! layer. This module owns what is known of a container. What the engine mounts over its tree is listed and
//! never read.

use serde_json::{Value, json};

use super::graph::{self, Driver, Graph, StoredLayer, image_layer, is_safe_name};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::manifest::MAX_DOCUMENT_BYTES;
use crate::image::strict_json::{self, Object};
use crate::image::{Container, ContainerMount, ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin};
use crate::layer::index::Verify;
use crate::source::beneath::Beneath;
use crate::source::containerd::KnownContainer;
use crate::source::{ImageDetails, LayerBlob, OpenedImage, Survey};
use crate::workers::cores;

const CONFIG_FIELDS: [&str; 11] = [
    "ID",
    "Name",
    "Created",
    "Image",
    "Config",
    "Driver",
    "MountPoints",
    "HostnamePath",
    "HostsPath",
    "ResolvConfPath",
    "ShmPath",
];
const MOUNT_FIELDS: [&str; 4] = ["Source", "Destination", "Name", "Type"];

/// The files of the engine that it mounts over a container: the field with their path on the host, and their
/// path in the container.
const ENGINE_MOUNTS: [(&str, &str); 3] =
    [("HostnamePath", "/etc/hostname"), ("HostsPath", "/etc/hosts"), ("ResolvConfPath", "/etc/resolv.conf")];

/// A container in the list of a data directory.
#[derive(Debug, Clone)]
pub(super) struct ContainerEntry {
    pub(super) id: String,
    pub(super) name: Option<String>,
    /// Storage driver, if the container names it.
    pub(super) driver: Option<String>,
    /// Name of the image, as the container was created from it.
    image_name: Option<String>,
    /// ID of the image.
    image_id: Option<Digest>,
    created: Option<String>,
    /// Run settings, for a container whose image was removed.
    settings: Value,
    mounts: Vec<ContainerMount>,
}

/// Returns the containers in the data directory `data`, sorted by name. A container that cannot be read is
/// left out with a warning, so that it does not hide the images.
pub(super) fn list(data: &Beneath) -> Result<Vec<ContainerEntry>> {
    let mut containers = Vec::new();
    for id in data.names("containers")? {
        let Some(id) = id.to_str().filter(|id| is_safe_name(id)) else { continue };
        match read(data, id) {
            Ok(Some(container)) => containers.push(container),
            Ok(None) => {}
            Err(fault) => log::warn!("cannot read a container: {fault}"),
        }
    }
    containers
        .sort_by_key(|container| (container.name.is_none(), container.name.clone(), container.id.clone()));
    Ok(containers)
}

fn read(data: &Beneath, id: &str) -> Result<Option<ContainerEntry>> {
    let file = format!("containers/{id}/config.v2.json");
    let Some(bytes) = data.read(&file, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)? else { return Ok(None) };
    let what = data.describe(&file);
    let value = strict_json::parse(&what, &bytes)?;
    let object = Object::new(&what, &value, &CONFIG_FIELDS)?;
    let text = |key| object.string(key).map(|text| text.filter(|text| !text.is_empty()).map(str::to_owned));
    let settings = object.get("Config").cloned().unwrap_or(Value::Null);
    let image_name = match &settings {
        Value::Null => None,
        settings => Object::new(&what, settings, &["Image"])?.string("Image")?.map(str::to_owned),
    };
    let mut mounts = Vec::new();
    for (field, destination) in ENGINE_MOUNTS {
        let source = text(field)?;
        if source.is_some() {
            mounts.push(ContainerMount {
                destination: destination.to_owned(),
                source,
                kind: "bind".to_owned(),
            });
        }
    }
    let shm = text("ShmPath")?;
    mounts.extend(shm.map(|_| tmpfs("/dev/shm")));
    if let Some(points) = object.get("MountPoints") {
        let bad = || Error::malformed(what.clone(), "'MountPoints' is not an object");
        for point in points.as_object().ok_or_else(bad)?.values() {
            mounts.push(mount_point(&Object::new(&what, point, &MOUNT_FIELDS)?)?);
        }
    }
    mounts.extend(tmpfs_mounts(data, id)?);
    mounts.sort_by(|a, b| a.destination.cmp(&b.destination));
    mounts.dedup_by(|later, earlier| later.destination == earlier.destination);
    Ok(Some(ContainerEntry {
        id: id.to_owned(),
        name: text("Name")?.map(|name| name.trim_start_matches('/').to_owned()),
        driver: text("Driver")?,
        image_name,
        image_id: text("Image")?.and_then(|id| id.parse().ok()),
        created: text("Created")?,
        settings,
        mounts,
    }))
}

fn mount_point(point: &Object<'_>) -> Result<ContainerMount> {
    let text = |key| point.string(key).map(|text| text.filter(|text| !text.is_empty()).map(str::to_owned));
    let (source, name) = (text("Source")?, text("Name")?);
    // Engines before 1.13 wrote no type.
    let kind = text("Type")?.unwrap_or_else(|| if name.is_some() { "volume" } else { "bind" }.to_owned());
    let destination = point.required_string("Destination")?.to_owned();
    Ok(ContainerMount { destination, source: name.or(source), kind })
}

/// Returns the file systems in memory that `hostconfig.json` asks for.
fn tmpfs_mounts(data: &Beneath, id: &str) -> Result<Vec<ContainerMount>> {
    let file = format!("containers/{id}/hostconfig.json");
    let Some(bytes) = data.read(&file, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)? else {
        return Ok(Vec::new());
    };
    let what = data.describe(&file);
    let value = strict_json::parse(&what, &bytes)?;
    let paths = Object::new(&what, &value, &["Tmpfs"])?.string_map("Tmpfs")?;
    Ok(paths.keys().map(|path| tmpfs(path)).collect())
}

fn tmpfs(destination: &str) -> ContainerMount {
    ContainerMount { destination: destination.to_owned(), source: None, kind: "tmpfs".to_owned() }
}

/// The layers of a container.
struct Layers {
    image: Vec<StoredLayer>,
    /// Name of the directory with the engine's files.
    init: Option<String>,
    /// Name of the directory of the writable layer.
    writable: String,
}

fn layers(graph: &Graph, entry: &ContainerEntry) -> Result<Layers> {
    let named = |file: &str| match graph.mount_value(&entry.id, file)? {
        Some(name) if !is_safe_name(&name) => {
            let what = graph.describe_mount(&entry.id, file);
            Err(Error::malformed(what, "not the name of a layer's directory"))
        }
        name => Ok(name),
    };
    let writable = named("mount-id")?.ok_or_else(|| {
        Error::malformed(graph.describe_mount(&entry.id, "mount-id"), "the container has no writable layer")
    })?;
    let image = match graph.mount_value(&entry.id, "parent")? {
        // A container of an image without layers.
        None => Vec::new(),
        Some(text) => {
            let what = || graph.describe_mount(&entry.id, "parent");
            let top = text.parse().map_err(|_| Error::malformed(what(), "not a digest"))?;
            graph.layers_below(&top)?
        }
    };
    Ok(Layers { image, init: named("init-id")?, writable })
}

/// Opens a container.
///
/// # Errors
/// As [`crate::source::ImageSource::image`].
pub(super) fn open(
    graph: &Graph,
    data: &Beneath,
    entry: &ContainerEntry,
    verify: Verify,
) -> Result<OpenedImage> {
    let found = layers(graph, entry)?;
    let (config, raw_config, config_digest) = config(graph, data, entry, &found.image)?;
    let mut blobs: Vec<LayerBlob> = Vec::new();
    if graph.driver() == Driver::Overlay2 {
        for (layer, created_by) in found.image.iter().zip(config.layer_commands()) {
            let descriptor = image_layer(layer.diff_id, created_by);
            blobs.push(graph.unpacked(layer)?.blob(blobs.len(), descriptor, verify)?);
        }
        if let Some(init) = &found.init {
            let descriptor = own_layer(entry, LayerOrigin::Engine);
            blobs.push(graph.writable(init)?.blob(blobs.len(), descriptor, verify)?);
        }
    }
    let descriptor = own_layer(entry, LayerOrigin::Container);
    blobs.push(graph.writable(&found.writable)?.blob(blobs.len(), descriptor, verify)?);
    let info = ImageInfo {
        names: entry.image_name.iter().cloned().collect(),
        manifest_digest: None,
        config_digest,
        platform: config.platform.clone(),
        config,
        layers: blobs.iter().map(|blob| blob.descriptor.clone()).collect(),
        annotations: std::collections::BTreeMap::new(),
        raw_manifest: Vec::new(),
        raw_config,
        container: Some(entry.container()),
    };
    Ok(OpenedImage { info, layers: blobs, reads_at_once: cores(), size: None })
}

/// Returns the config of the container's image, its bytes and its digest. If the image was removed, a config
/// is made of what the container states; it has no digest.
fn config(
    graph: &Graph,
    data: &Beneath,
    entry: &ContainerEntry,
    layers: &[StoredLayer],
) -> Result<(ImageConfig, Vec<u8>, Option<Digest>)> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    if let Some(id) = entry.image_id
        && graph.read_config(&id)?.is_some()
    {
        let (config, raw) = graph.config(&id)?;
        if config.diff_ids != diff_ids {
            let reason = format!("its layers are not those of its image {id}");
            graph.refuse(Error::malformed(entry.subject(data), reason))?;
        }
        return Ok((config, raw, Some(id)));
    }
    log::warn!(
        "{}: its image was removed; the commands that made the layers are not known",
        entry.subject(data)
    );
    let texts: Vec<String> = diff_ids.iter().map(ToString::to_string).collect();
    let document = json!({
        "created": entry.created,
        "config": entry.settings,
        "rootfs": { "type": "layers", "diff_ids": texts },
    });
    let raw = document.to_string().into_bytes();
    Ok((ImageConfig::parse(&entry.subject(data), &raw)?, raw, None))
}

fn own_layer(entry: &ContainerEntry, origin: LayerOrigin) -> LayerDescriptor {
    let name = entry.name.as_deref().unwrap_or(&entry.id);
    LayerDescriptor {
        media_type: None,
        digest: None,
        size: None,
        diff_id: None,
        created_by: Some(format!("container {name}")),
        origin,
        urls: Vec::new(),
    }
}

/// Returns the properties of a container. Its own layers are not read.
///
/// # Errors
/// When the layers of the container cannot be found.
pub(super) fn details(graph: &Graph, entry: &ContainerEntry) -> Result<ImageDetails> {
    let found = layers(graph, entry)?;
    let config = entry.image_id.and_then(|id| graph.config(&id).ok());
    let own = match graph.driver() {
        Driver::Overlay2 => found.image.len() + usize::from(found.init.is_some()),
        Driver::Vfs => 0,
    };
    Ok(ImageDetails {
        id: Some(entry.id.clone()),
        platform: config.and_then(|(config, _)| config.platform),
        created: entry.created.clone(),
        layers: own + 1,
        size: graph::sizes(&found.image),
    })
}

/// Finds the config and layers of a container, whether or not they match their digests.
///
/// # Errors
/// When the layers of the container cannot be found.
pub(super) fn survey(graph: &Graph, data: &Beneath, entry: &ContainerEntry) -> Result<Survey> {
    let found = layers(graph, entry)?;
    let mut survey = Survey::default();
    let diff_ids: Vec<Digest> = found.image.iter().map(|layer| layer.diff_id).collect();
    match entry.image_id.map(|id| graph.survey_config(&id, &mut survey)) {
        Some(Ok(config)) if config.diff_ids != diff_ids => {
            let reason = "its layers are not those of its image";
            survey.faults.push(Error::malformed(entry.subject(data), reason));
        }
        Some(Err(fault)) => survey.faults.push(fault),
        Some(Ok(_)) | None => {}
    }
    if graph.driver() == Driver::Overlay2 {
        let (layers, faults) = graph.survey_layers(&diff_ids);
        survey.layers = layers;
        survey.faults.extend(faults);
        if let Some(init) = &found.init {
            survey.layers.push(graph.writable(init)?.surveyed(None));
        }
    }
    survey.layers.push(graph.writable(&found.writable)?.surveyed(None));
    Ok(survey)
}

impl ContainerEntry {
    /// Returns the container as Docker's containerd stores it: the snapshot has the container's ID.
    pub(super) fn in_containerd(self) -> KnownContainer {
        KnownContainer {
            snapshotter: self.driver.unwrap_or_else(|| "overlayfs".to_owned()),
            snapshot_key: self.id.clone(),
            id: self.id,
            name: self.name,
            image: self.image_name,
            image_digest: self.image_id,
            created: self.created,
            mounts: self.mounts,
        }
    }

    fn subject(&self, data: &Beneath) -> crate::error::Subject {
        data.describe(&format!("containers/{}", self.id))
    }

    fn container(&self) -> Container {
        Container {
            id: self.id.clone(),
            name: self.name.clone(),
            image: self.image_name.clone().or_else(|| self.image_id.map(|id| id.to_string())),
            created: self.created.clone(),
            mounts: self.mounts.clone(),
        }
    }
}
