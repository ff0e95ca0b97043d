//! The data directory of containerd, read without the daemon.
//!
//! This module owns which namespace an image is taken from, and what a container consists of. Blobs come from
//! the content store; a layer whose blob was discarded, and the writable layer of a container, come from the
//! directories of the overlayfs snapshotter. It must not know the format of a database or of a layer.
//!
//! | part | decides |
//! |---|---|
//! | `metadata` | images, containers and snapshots of each namespace |
//! | `snapshots` | the directory of a snapshot |
//! | `spec` | what is mounted over the tree of a container |
//! | `config` | where the data directory of this host is |
//! | `image` | the layers of an image and of a container |

mod config;
mod image;
mod metadata;
mod snapshots;
mod spec;
#[cfg(test)]
pub(super) mod tests;
mod time;

use std::sync::OnceLock;

use self::image::Content;
use self::metadata::{ContainerRecord, DATABASE, Metadata, Namespace};
use self::snapshots::Snapshots;
use super::archive::not_an_image;
use super::beneath::Beneath;
use super::formats::Site;
use super::names::{self, Names};
use super::walk::Walk;
use super::{ImageKind, ImageSource, ImageSummary, OpenedImage, Selection, Survey};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::Platform;
use crate::layer::index::Verify;

pub(super) use self::config::own_places;
pub(super) use self::metadata::KnownContainer;

/// The directory below `/var/lib/docker/containerd` in which Docker's own containerd keeps its data.
const DOCKERS_DIRECTORY: &str = "daemon";

/// Reads a database as that of containerd and as that of its snapshotter.
#[cfg(any(test, fuzzing))]
pub(super) fn parse_both(database: &super::bolt::Database) {
    let _ = (metadata::parse(database).is_ok(), snapshots::parse(database).is_ok());
}

/// Returns true for a data directory of containerd.
pub(super) fn detect(site: &mut Site<'_>) -> Result<bool> {
    let Some(directory) = site.directory()? else { return Ok(false) };
    // Any directory can contain a file or a link named `daemon`.
    Ok(directory.file(DATABASE)?.is_some() || dockers(&directory).is_ok_and(|found| found.is_some()))
}

/// Opens a data directory of containerd.
pub(super) fn open(site: Site<'_>) -> Result<Box<dyn ImageSource>> {
    let Some(directory) = site.directory()? else {
        let path = site.path().map(std::path::Path::to_owned).unwrap_or_default();
        return Err(not_an_image(&path, "not a directory"));
    };
    let root = data_directory(&directory)?
        .ok_or_else(|| not_an_image(directory.path(), &format!("'{DATABASE}' is missing")))?;
    Ok(Box::new(Containerd::open(root, site.options().namespace.as_deref(), site.verify())?))
}

/// Returns the directory with the database: `directory` itself, or the one below that Docker uses.
fn data_directory(directory: &Beneath) -> Result<Option<Beneath>> {
    match directory.file(DATABASE)? {
        Some(_) => Ok(Some(directory.clone())),
        None => dockers(directory),
    }
}

fn dockers(directory: &Beneath) -> Result<Option<Beneath>> {
    let Some(dockers) = directory.dir(DOCKERS_DIRECTORY)? else { return Ok(None) };
    Ok(dockers.file(DATABASE)?.map(|_| dockers))
}

/// A data directory of containerd.
#[derive(Debug)]
pub(super) struct Containerd {
    root: Beneath,
    metadata: Metadata,
    /// The images of all namespaces, and then the containers. A position is the index of a summary.
    entries: Vec<Entry>,
    /// The snapshots, read when the first one is needed.
    snapshots: OnceLock<Snapshots>,
    verify: Verify,
}

/// An image or a container.
#[derive(Debug)]
struct Entry {
    names: Names,
    summary: ImageSummary,
    /// Position of the namespace.
    namespace: usize,
    what: Item,
}

#[derive(Debug)]
enum Item {
    /// An image, by its digest, and the position of its first name in its namespace.
    Image { digest: Digest, at: usize },
    /// A container, by its position in its namespace.
    Container(usize),
}

impl Containerd {
    /// Opens the data directory `root`. Only `namespace` is read, or all namespaces.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] when there is no database or no such namespace, and the faults of the database.
    pub(super) fn open(root: Beneath, namespace: Option<&str>, verify: Verify) -> Result<Self> {
        let missing = || not_an_image(root.path(), &format!("'{DATABASE}' is missing"));
        let mut metadata = Metadata::read(&root)?.ok_or_else(missing)?;
        if let Some(wanted) = namespace {
            let names: Vec<_> =
                metadata.namespaces.iter().map(|one| one.name.escape_debug().to_string()).collect();
            metadata.namespaces.retain(|one| one.name == wanted);
            if metadata.namespaces.is_empty() {
                let reason = format!("no namespace '{}'; found {}", wanted.escape_debug(), names.join(", "));
                return Err(not_an_image(root.path(), &reason));
            }
        }
        let entries = entries(&metadata);
        Ok(Containerd { root, metadata, entries, snapshots: OnceLock::new(), verify })
    }

    /// Adds containers of `namespace` that another engine knows. What the engine states of a container
    /// replaces what containerd states.
    pub(super) fn with_containers(mut self, namespace: &str, containers: Vec<KnownContainer>) -> Self {
        let found = self.metadata.namespaces.iter_mut().find(|one| one.name == namespace);
        if let Some(namespace) = found {
            containers.into_iter().for_each(|container| namespace.add(container));
            self.entries = entries(&self.metadata);
        }
        self
    }

    /// Returns the only entry that `selection` selects. An image that several namespaces have is taken from
    /// the first of them.
    fn pick(&self, selection: &Selection) -> Result<&Entry> {
        let place = self.place();
        let list: Vec<_> =
            self.entries.iter().map(|entry| (entry.names.clone(), entry.summary.clone())).collect();
        let found = names::select(&place, selection, &list)?;
        let found: Vec<&Entry> = found.iter().filter_map(|at| self.entries.get(*at)).collect();
        match found.as_slice() {
            [first, rest @ ..] if rest.iter().all(|other| other.is_same_image(first)) => Ok(first),
            _ => Err(Error::Ambiguous { path: place, candidates: self.candidates(&found) }),
        }
    }

    /// Returns the texts of `entries`, with their namespaces if there are several.
    fn candidates(&self, entries: &[&Entry]) -> Vec<String> {
        let is_one = entries.windows(2).all(|pair| matches!(pair, [a, b] if a.namespace == b.namespace));
        let text = |entry: &&Entry| match self.metadata.namespaces.get(entry.namespace) {
            Some(namespace) if !is_one => {
                format!("{} in namespace '{}'", entry.summary, namespace.name.escape_debug())
            }
            _ => entry.summary.to_string(),
        };
        entries.iter().map(text).collect()
    }

    fn place(&self) -> String {
        self.root.path().display().to_string()
    }

    /// Returns the blobs of `entry`, and its namespace.
    fn content(&self, entry: &Entry) -> Result<Content<'_>> {
        let namespace = self.metadata.namespaces.get(entry.namespace);
        let namespace = namespace.ok_or_else(|| not_an_image(self.root.path(), "the namespace is gone"))?;
        Ok(Content { store: self, namespace })
    }

    /// Returns the snapshots of the overlayfs snapshotter.
    fn snapshots(&self) -> Result<&Snapshots> {
        if let Some(snapshots) = self.snapshots.get() {
            return Ok(snapshots);
        }
        let read = Snapshots::read(&self.root)?;
        Ok(self.snapshots.get_or_init(|| read))
    }
}

impl Entry {
    fn is_same_image(&self, other: &Entry) -> bool {
        match (&self.what, &other.what) {
            (Item::Image { digest: own, .. }, Item::Image { digest: other, .. }) => own == other,
            _ => false,
        }
    }
}

impl ImageSource for Containerd {
    fn kind(&self) -> &'static str {
        "containerd"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.entries.iter().map(|entry| entry.summary.clone()).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let entry = self.pick(select)?;
        let content = self.content(entry)?;
        match &entry.what {
            Item::Image { at, .. } => {
                let target = content.image(*at)?;
                Walk::new(&content, platform, self.verify).open(&[target], entry.summary.names.clone())
            }
            Item::Container(at) => content.open_container(content.container(*at)?, platform),
        }
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        let entry = self.pick(select)?;
        let content = self.content(entry)?;
        match &entry.what {
            Item::Image { at, .. } => {
                Ok(Walk::new(&content, platform, self.verify).survey(&[content.image(*at)?]))
            }
            Item::Container(at) => content.survey_container(content.container(*at)?, platform),
        }
    }
}

/// Returns the images of all namespaces, and then the containers.
fn entries(metadata: &Metadata) -> Vec<Entry> {
    let namespaces = || metadata.namespaces.iter().enumerate();
    let images = namespaces().flat_map(|(at, namespace)| images(at, namespace));
    let containers = namespaces().flat_map(|(at, namespace)| {
        let containers = namespace.containers.iter().enumerate();
        containers.map(move |(number, record)| container(at, number, record))
    });
    let mut entries: Vec<Entry> = images.chain(containers).collect();
    for (index, entry) in entries.iter_mut().enumerate() {
        entry.summary.index = index;
    }
    entries
}

/// Returns the images of a namespace, each with all its names: Kubernetes gives an image a name with a tag,
/// one with a digest, and its ID as a third one.
fn images(at: usize, namespace: &Namespace) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut place_of = std::collections::HashMap::new();
    for (number, record) in namespace.images.iter().enumerate() {
        let digest = record.target.digest;
        let place = *place_of.entry(digest).or_insert_with(|| {
            entries.push(Entry {
                names: Names { ids: vec![digest.hex()], ..Names::default() },
                summary: ImageSummary { id: Some(digest.to_string()), ..ImageSummary::default() },
                namespace: at,
                what: Item::Image { digest, at: number },
            });
            entries.len() - 1
        });
        if let Some(entry) = entries.get_mut(place) {
            entry.names.ids.extend(record.name.strip_prefix("sha256:").map(str::to_owned));
            entry.names.full.push(record.name.clone());
            entry.summary.names.push(record.name.clone());
        }
    }
    entries
}

fn container(namespace: usize, number: usize, record: &ContainerRecord) -> Entry {
    let shown: Vec<String> = record.name.iter().cloned().collect();
    // An ID such as `web` must not select `web2` as well, so the whole ID is a name, too.
    let full = shown.iter().chain([&record.id]).cloned().collect();
    Entry {
        names: Names { full, ids: vec![record.id.clone()], ..Names::default() },
        summary: ImageSummary {
            names: shown,
            id: Some(record.id.clone()),
            kind: ImageKind::Container,
            ..ImageSummary::default()
        },
        namespace,
        what: Item::Container(number),
    }
}
