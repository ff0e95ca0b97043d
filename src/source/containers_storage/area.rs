//! One area of a store: what one storage driver keeps below the store's directory.
//!
//! This module owns the names of files and directories of an area, and what a layer's directory means. It
//! must not know which image is opened.

use std::collections::HashMap;
use std::sync::Arc;

use super::images::{
    ContainerRecord, IdMaps, ImageRecord, LayerRecord, big_data_file, parse_containers, parse_images,
    parse_layers,
};
use crate::error::{Error, Result, Subject};
use crate::image::manifest::MAX_DOCUMENT_BYTES;
use crate::source::beneath::Beneath;
use crate::source::directory::{DirectoryForm, IdMap, IdRange};
use crate::source::host::{Host, owner};
use crate::source::ids::combine;
use crate::source::unpacked::{TarSplit, UnpackedLayer};

/// The largest list of images, layers or containers: 64 MiB. A layer takes about 600 bytes, more if its files
/// have many owners. [`crate::image::strict_json::MAX_VALUES`] limits the memory for a hostile file.
const MAX_LIST_BYTES: u64 = 64 * 1024 * 1024;

/// The file in which the overlay driver records whether it mounts with a program, fuse-overlayfs.
const MOUNT_PROGRAM_FLAG: &str = "overlay/.has-mount-program";
/// The longest content of [`MOUNT_PROGRAM_FLAG`] in bytes: `false`, and a newline.
const MAX_FLAG_BYTES: u64 = 16;

/// The attributes in which engines record owner and mode of files that they store with their own. A layer
/// whose directory has one uses the attribute for its files. Source: containers/storage, pkg/idtools; and
/// fuse-overlayfs, main.c.
const OVERRIDE_STAT: [&str; 3] = [
    "user.containers.override_stat",
    "user.fuseoverlayfs.override_stat",
    "security.fuseoverlayfs.override_stat",
];

/// The IDs of files that keep their owners.
const ALL_IDS: IdRange = IdRange { container: 0, host: 0, len: u32::MAX };

/// A storage driver whose layers are directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    /// Layers are merged by overlayfs or fuse-overlayfs.
    Overlay,
    /// Each layer is a whole tree.
    Vfs,
}

/// Drivers that keep layers in file systems of their own, and how.
const OTHER_DRIVERS: [(&str, &str); 4] = [
    ("btrfs", "in subvolumes of btrfs"),
    ("zfs", "in file systems of ZFS"),
    ("aufs", "in directories for aufs"),
    ("devicemapper", "on block devices"),
];

impl Driver {
    pub(super) const ALL: [Driver; 2] = [Driver::Overlay, Driver::Vfs];

    pub(super) fn name(self) -> &'static str {
        match self {
            Driver::Overlay => "overlay",
            Driver::Vfs => "vfs",
        }
    }
}

/// The lists and layers of one driver in one store.
#[derive(Debug)]
pub(super) struct Area {
    store: Beneath,
    host: Arc<Host>,
    pub(super) driver: Driver,
    pub(super) images: Vec<ImageRecord>,
    pub(super) containers: Vec<ContainerRecord>,
    layers: HashMap<String, LayerRecord>,
}

/// Returns true if the directory `store` has lists of the driver `name`.
fn has_driver(store: &Beneath, name: &str) -> Result<bool> {
    Ok(store.dir(&format!("{name}-images"))?.is_some() && store.dir(&format!("{name}-layers"))?.is_some())
}

/// Returns the drivers with lists in `store` that can be read, and the names of the others.
///
/// # Errors
/// As [`Beneath::dir`].
pub(super) fn drivers(store: &Beneath) -> Result<(Vec<Driver>, Vec<&'static str>)> {
    let mut readable = Vec::new();
    for driver in Driver::ALL {
        if has_driver(store, driver.name())? {
            readable.push(driver);
        }
    }
    let mut others = Vec::new();
    for (name, _) in OTHER_DRIVERS {
        if has_driver(store, name)? {
            others.push(name);
        }
    }
    Ok((readable, others))
}

/// Returns the error for a store that has only areas of the driver `name`.
pub(super) fn unsupported(store: &Beneath, name: &str) -> Error {
    let how =
        OTHER_DRIVERS.iter().find(|(driver, _)| *driver == name).map_or("in another way", |(_, how)| how);
    let reason = format!("the storage driver {name} keeps layers {how}; save the image with 'podman save'");
    Error::unsupported(Subject::Archive(store.path().to_owned()), reason)
}

impl Area {
    /// Reads the lists of `driver` in `store`.
    ///
    /// # Errors
    /// [`Error::Malformed`] and [`Error::Limit`] naming the list.
    pub(super) fn open(store: Beneath, host: Arc<Host>, driver: Driver) -> Result<Self> {
        let name = driver.name();
        let images = read_list(&store, &[format!("{name}-images/images.json")], parse_images)?;
        let layers = ["layers.json", "volatile-layers.json"].map(|file| format!("{name}-layers/{file}"));
        let layers = read_list(&store, &layers, parse_layers)?;
        let containers =
            ["containers.json", "volatile-containers.json"].map(|file| format!("{name}-containers/{file}"));
        let containers = read_list(&store, &containers, parse_containers)?;
        let layers = layers.into_iter().map(|layer| (layer.id.clone(), layer)).collect();
        Ok(Area { store, host, driver, images, containers, layers })
    }

    /// Returns the area without its containers, which belong to another engine.
    pub(super) fn without_containers(self) -> Self {
        Area { containers: Vec::new(), ..self }
    }

    pub(super) fn layer(&self, id: &str) -> Option<&LayerRecord> {
        self.layers.get(id)
    }

    /// Returns the subject of errors about the file `name` of the store.
    pub(super) fn describe(&self, name: &str) -> Subject {
        self.store.describe(name)
    }

    /// Returns the name of the list of layers in the store, for errors.
    pub(super) fn layer_list(&self) -> String {
        format!("{}-layers/layers.json", self.driver.name())
    }

    /// Returns the name of the file with the big data `key` of an image.
    pub(super) fn image_file(&self, image: &ImageRecord, key: &str) -> String {
        format!("{}-images/{}/{}", self.driver.name(), image.id, big_data_file(key))
    }

    /// Returns a document of the store; `None` if the file does not exist.
    ///
    /// # Errors
    /// As [`Beneath::read`].
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.store.read(name, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)
    }

    /// Returns the runtime configuration of a container; `None` if it was never prepared to run.
    ///
    /// # Errors
    /// As [`Beneath::read`].
    pub(super) fn runtime_config(&self, container: &ContainerRecord) -> Result<Option<(Subject, Vec<u8>)>> {
        let name = format!("{}-containers/{}/userdata/config.json", self.driver.name(), container.id);
        Ok(self.document(&name)?.map(|bytes| (self.describe(&name), bytes)))
    }

    /// Returns the name of the directory with the files of a layer.
    pub(super) fn directory_name(&self, layer: &LayerRecord) -> String {
        match self.driver {
            Driver::Overlay => format!("overlay/{}/diff", layer.id),
            Driver::Vfs => format!("vfs/dir/{}", layer.id),
        }
    }

    /// Returns the files of a layer; `None` if their directory is missing. `maps` are those of the container,
    /// unless the layer has its own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a layer in the form of composefs; [`Error::Malformed`] and [`Error::Io`]
    /// for files that cannot be opened.
    pub(super) fn unpacked(&self, layer: &LayerRecord, maps: &IdMaps) -> Result<Option<UnpackedLayer>> {
        let composefs = format!("overlay/{}/composefs-data", layer.id);
        if self.driver == Driver::Overlay && self.store.dir(&composefs)?.is_some() {
            let reason = "a composefs layer, whose names are in a file system image";
            return Err(Error::unsupported(self.describe(&composefs), reason));
        }
        let Some(directory) = self.store.dir(&self.directory_name(layer))? else { return Ok(None) };
        let tar_split = format!("{}-layers/{}.tar-split.gz", self.driver.name(), layer.id);
        Ok(Some(UnpackedLayer {
            tar_split: TarSplit::find(&self.store, &tar_split)?,
            form: self.form(layer)?,
            ids: self.ids(if layer.maps.is_empty() { maps } else { &layer.maps }, &directory)?,
            size_hint: layer.diff_size,
            directory,
        }))
    }

    /// Returns how the driver marks deleted files in the directory of a layer.
    fn form(&self, layer: &LayerRecord) -> Result<Result<DirectoryForm, String>> {
        if self.driver == Driver::Vfs {
            // The directory of a container is all that the container sees. The directory of an image's layer
            // does not show which files the layer deleted.
            let is_whole = layer.diff_digest.is_none();
            let whole =
                "the storage driver vfs keeps the whole tree for each layer, not what the layer changed";
            return Ok(if is_whole { Ok(DirectoryForm::Plain) } else { Err(whole.to_owned()) });
        }
        let flag = self.store.read(MOUNT_PROGRAM_FLAG, "MAX_FLAG_BYTES", MAX_FLAG_BYTES)?;
        if flag.is_some_and(|flag| flag.starts_with(b"true")) {
            return Ok(Ok(DirectoryForm::FuseOverlay));
        }
        match DirectoryForm::of_store(&self.store) {
            // A layer that is not read from its directory needs no rights; a walk checks them again.
            Err(Error::Unsupported { .. }) => Ok(Ok(DirectoryForm::Overlay)),
            form => form.map(Ok),
        }
    }

    /// Returns the owners that the files in the directory of a layer have in a container with these `maps`.
    fn ids(&self, maps: &IdMaps, directory: &Beneath) -> Result<IdMap> {
        let lists = self.store.dir(&format!("{}-layers", self.driver.name()))?;
        let (uid, gid) = owner(lists.as_ref().unwrap_or(&self.store))?;
        let ids = if uid == 0 && maps.is_empty() {
            IdMap::identity()
        } else {
            let (users, groups) = match uid {
                0 => (vec![ALL_IDS], vec![ALL_IDS]),
                uid => (self.host.sub_users(uid), self.host.sub_groups(uid, gid)),
            };
            IdMap::new(combine(&users, &maps.users), combine(&groups, &maps.groups))
        };
        Ok(if has_override_stat(directory) { ids.with_override_stat() } else { ids })
    }
}

/// Returns true if the engine recorded owners and modes in attributes.
fn has_override_stat(directory: &Beneath) -> bool {
    OVERRIDE_STAT.iter().any(|name| rustix::fs::fgetxattr(directory.fd(), *name, &mut [0_u8; 0][..]).is_ok())
}

/// Reads the records of all `files`; a file that does not exist has none.
fn read_list<T>(
    store: &Beneath,
    files: &[String],
    parse: impl Fn(&Subject, &[u8]) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for file in files {
        if let Some(bytes) = store.read(file, "MAX_LIST_BYTES", MAX_LIST_BYTES)? {
            found.extend(parse(&store.describe(file), &bytes)?);
        }
    }
    Ok(found)
}
