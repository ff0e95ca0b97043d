//! Images and containers of one namespace: blobs from the content store, and directories of snapshots.
//!
//! This module owns which layers of a container belong to its image, and when a snapshot stands in for a
//! discarded blob. It must not know the layout of databases.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Containerd;
use super::metadata::{ContainerRecord, Namespace};
use super::snapshots::{self, Link, OVERLAYFS, Owners, Snapshots};
use super::spec::Spec;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result, Subject};
use crate::image::manifest::Descriptor;
use crate::image::{
    Container, ContainerMount, ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin, Platform,
};
use crate::layer::index::Verify;
use crate::limits::Limits;
use crate::path::{escape, escape_path};
use crate::read_at::ReadAt;
use crate::source::beneath::Beneath;
use crate::source::blobs::{Blobs, MissingLayer};
use crate::source::directory::{DirectoryForm, IdMap, IdRange};
use crate::source::ids::combine;
use crate::source::unpacked::UnpackedLayer;
use crate::source::walk::Walk;
use crate::source::{LayerBlob, OpenedImage, Survey, SurveyedLayer};
use crate::workers::cores;

/// Why a layer of an image that is not stored cannot be checked.
const IMAGE_GONE: &str =
    "the image of the container is not stored, so its digest is not known; its files are in a snapshot";

/// The directory of the content store, below the root of containerd.
const CONTENT: &str = "io.containerd.content.v1.content/blobs";
/// Why the files of a container have no digest.
const NO_DIGEST: &str = "nothing states the digest of this layer";
/// All users or groups of a host.
const ALL_IDS: IdRange = IdRange { container: 0, host: 0, len: u32::MAX };

/// The blobs and snapshots of a namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    pub(super) store: &'a Containerd,
    pub(super) namespace: &'a Namespace,
}

/// The layers of a container, the lowest first.
struct Chain<'a> {
    links: Vec<Link<'a>>,
    snapshots: &'a Snapshots,
}

impl Blobs for Content<'_> {
    fn place(&self) -> String {
        self.store.place()
    }

    fn limits(&self) -> Limits {
        self.store.root.limits()
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>> {
        let digest = &wanted.digest;
        let name = format!("{CONTENT}/{}/{}", digest.algorithm().name(), digest.hex());
        let Some(file) = self.store.root.file(&name)? else { return Ok(None) };
        Ok(Some(Arc::new(self.store.root.bytes(&name, file)?)))
    }

    /// Returns the files of the snapshot into which a discarded blob was unpacked.
    fn unpacked(&self, missing: &MissingLayer<'_>) -> Result<Option<LayerBlob>> {
        let Some(chain_id) = chain_ids(missing.diff_ids).get(missing.number).map(Digest::to_string) else {
            return Ok(None);
        };
        let subject = || Subject::Layer { number: missing.number, diff_id: missing.descriptor.diff_id };
        let Some(snapshot) = self.namespace.snapshot(OVERLAYFS, &chain_id) else {
            return match self.other_snapshotter(&chain_id) {
                Some(other) => Err(Error::unsupported(subject(), snapshotter(other))),
                None => Ok(None),
            };
        };
        let snapshots = self.store.snapshots()?;
        let directory = snapshots.files(&snapshot.name)?;
        if self.store.verify != Verify::Off {
            let path = escape_path(directory.path());
            let reason = format!("its blob was discarded, and the files in '{path}' have no digest");
            return Err(Error::unverifiable(subject(), reason));
        }
        let descriptor =
            LayerDescriptor { media_type: None, digest: None, size: None, ..missing.descriptor.clone() };
        let ids = id_map(snapshots.owners()?.as_ref(), &Spec::default());
        self.snapshot_layer(snapshots, directory, ids, missing.number, descriptor).map(Some)
    }
}

impl<'a> Content<'a> {
    /// Returns the manifest or image index of the image at position `at` of the namespace.
    pub(super) fn image(&self, at: usize) -> Result<&'a Descriptor> {
        self.namespace.images.get(at).map(|record| &record.target).ok_or_else(|| self.missing())
    }

    /// Returns the container at position `at` of the namespace.
    pub(super) fn container(&self, at: usize) -> Result<&'a ContainerRecord> {
        self.namespace.containers.get(at).ok_or_else(|| self.missing())
    }

    fn missing(&self) -> Error {
        Error::malformed(Subject::Archive(self.store.root.path().to_owned()), "the position is out of range")
    }

    /// Opens the tree of a container: the layers of its image, and the directories of its own snapshots.
    pub(super) fn open_container(
        &self,
        record: &ContainerRecord,
        platform: Option<&Platform>,
    ) -> Result<OpenedImage> {
        let chain = self.chain(record)?;
        let (spec, owners) = (self.spec(record)?, chain.snapshots.owners()?);
        let (mut opened, of_image) = match self.image_of(record, &chain.links, platform)? {
            Some(opened) => {
                let layers = opened.layers.len();
                (opened, layers)
            }
            None => (without_image(), 0),
        };
        for (number, link) in chain.links.iter().enumerate().skip(of_image) {
            let directory = chain.snapshots.files(link.name)?;
            let is_own = number + 1 == chain.links.len();
            let descriptor = descriptor(record, link, is_own);
            // The files of an image have their own owners, whatever the container's user namespace.
            let ids = match descriptor.origin {
                LayerOrigin::Image => id_map(owners.as_ref(), &Spec::default()),
                LayerOrigin::Engine | LayerOrigin::Container => id_map(owners.as_ref(), &spec),
            };
            let layer = self.snapshot_layer(chain.snapshots, directory, ids, number, descriptor)?;
            opened.info.layers.push(layer.descriptor.clone());
            opened.layers.push(layer);
        }
        opened.info.container = Some(description(record, record.mounts.clone().unwrap_or(spec.mounts)));
        Ok(opened)
    }

    /// Surveys the image of a container. Its own layers are listed as unchecked.
    pub(super) fn survey_container(
        &self,
        record: &ContainerRecord,
        platform: Option<&Platform>,
    ) -> Result<Survey> {
        let chain = self.chain(record)?;
        let mut survey = match self.image_of(record, &chain.links, platform) {
            Ok(None) => Survey::default(),
            // The survey reports the faults of an image that cannot be opened.
            Ok(Some(_)) | Err(_) => match self.target(record) {
                Some(target) => Walk::new(self, platform, self.store.verify).survey(&[target]),
                None => Survey::default(),
            },
        };
        for (number, link) in chain.links.iter().enumerate().skip(survey.layers.len()) {
            let is_own = number + 1 == chain.links.len();
            let of_image = descriptor(record, link, is_own).origin == LayerOrigin::Image;
            let why = if of_image { IMAGE_GONE } else { NO_DIGEST };
            if of_image {
                let what = Subject::Layer { number, diff_id: None };
                survey.faults.push(Error::unverifiable(what, why));
            }
            survey.layers.push(SurveyedLayer {
                digest: None,
                size: None,
                diff_id: None,
                bytes: None,
                unchecked: Some(why.to_owned()),
            });
        }
        Ok(survey)
    }

    /// Returns the snapshots of a container, the lowest first and its writable one last.
    fn chain<'c>(&self, record: &'c ContainerRecord) -> Result<Chain<'c>>
    where
        'a: 'c,
    {
        let what = self.describe(record);
        let (Some(name), Some(key)) = (&record.snapshotter, &record.snapshot_key) else {
            let reason = "a container whose tree is a directory of the host, not a snapshot";
            return Err(Error::unsupported(what, reason));
        };
        if name != OVERLAYFS {
            return Err(Error::unsupported(what, snapshotter(name)));
        }
        let links = snapshots::chain(self.namespace, OVERLAYFS, key, &what)?;
        let snapshots = self.store.snapshots()?;
        snapshots.check(&links)?;
        Ok(Chain { links, snapshots })
    }

    pub(super) fn target(&self, record: &ContainerRecord) -> Option<&'a Descriptor> {
        let mut images = self.namespace.images.iter();
        let found = match (&record.image_digest, &record.image) {
            (Some(digest), _) => images.find(|image| image.target.digest == *digest),
            (None, Some(name)) => images.find(|image| image.name == *name),
            (None, None) => None,
        };
        found.map(|image| &image.target)
    }

    /// Opens the image of a container; `None`, with a warning, if the image is gone, or if its name now
    /// belongs to another image.
    fn image_of(
        &self,
        record: &ContainerRecord,
        links: &[Link<'_>],
        platform: Option<&Platform>,
    ) -> Result<Option<OpenedImage>> {
        let image = record.image.as_deref().unwrap_or("none");
        let Some(target) = self.target(record) else {
            log::warn!(
                "{}: its image '{}' is not stored; all layers are read from snapshots",
                self.describe(record),
                escape(image.as_bytes())
            );
            return Ok(None);
        };
        let names = self.namespace.images.iter().filter(|one| one.target.digest == target.digest);
        let names = names.map(|one| one.name.clone()).collect();
        let opened = Walk::new(self, platform, self.store.verify).open(&[target], names)?;
        let chain_ids = chain_ids(&opened.info.config.diff_ids);
        let is_below = chain_ids.len() < links.len()
            && chain_ids.iter().zip(links).all(|(id, link)| id.to_string() == link.key);
        if !is_below {
            let what = self.describe(record);
            log::warn!(
                "{what}: '{}' now names another image; all layers are read from snapshots",
                escape(image.as_bytes())
            );
        }
        Ok(is_below.then_some(opened))
    }

    /// Returns the files of a snapshot as a layer.
    fn snapshot_layer(
        &self,
        snapshots: &Snapshots,
        directory: Beneath,
        ids: IdMap,
        number: usize,
        descriptor: LayerDescriptor,
    ) -> Result<LayerBlob> {
        if descriptor.origin == LayerOrigin::Image
            && descriptor.diff_id.is_none()
            && self.store.verify == Verify::Full
        {
            let what = Subject::Layer { number, diff_id: None };
            return Err(Error::unverifiable(what, IMAGE_GONE));
        }
        let form = Ok(DirectoryForm::of_store(snapshots.directory())?);
        let layer = UnpackedLayer { directory, tar_split: None, form, ids, size_hint: None };
        layer.blob(number, descriptor, self.store.verify)
    }

    fn other_snapshotter(&self, key: &str) -> Option<&'a str> {
        let mut others = self.namespace.snapshots.iter();
        others.find(|(_, snapshots)| snapshots.contains_key(key)).map(|(name, _)| name.as_str())
    }

    /// Parses the spec of a container. Without verification, a damaged one is as good as none.
    fn spec(&self, record: &ContainerRecord) -> Result<Spec> {
        match Spec::parse(&self.describe(record), &record.spec) {
            Err(fault) if self.store.verify == Verify::Off => {
                log::warn!("mounts and user namespace are not known: {fault}");
                Ok(Spec::default())
            }
            spec => spec,
        }
    }

    fn describe(&self, record: &ContainerRecord) -> Subject {
        self.store.root.describe(&format!("container {}", record.id))
    }
}

fn description(record: &ContainerRecord, mounts: Vec<ContainerMount>) -> Container {
    Container {
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.image.clone(),
        created: record.created.clone(),
        mounts,
    }
}

/// Returns the owners that files on disk have in a container: `engine` are those of the engine's user
/// namespace, if it has one, and `spec` those of the container's.
fn id_map(engine: Option<&Owners>, spec: &Spec) -> IdMap {
    let is_host = engine.is_none() && spec.uids.is_empty() && spec.gids.is_empty();
    if is_host {
        return IdMap::identity();
    }
    let all = [ALL_IDS];
    let (uids, gids) = engine.map_or((&all[..], &all[..]), |owners| (&owners.uids, &owners.gids));
    IdMap::new(combine(uids, &spec.uids), combine(gids, &spec.gids))
}

/// Returns the descriptor of a snapshot of a container: `is_own` for its writable layer, otherwise for a
/// layer below it.
fn descriptor(record: &ContainerRecord, link: &Link<'_>, is_own: bool) -> LayerDescriptor {
    let name = record.name.as_ref().unwrap_or(&record.id);
    let origin = match is_own {
        true => LayerOrigin::Container,
        // The key of a snapshot of an image is a chain ID; containerd gives its own another key.
        false if link.key.parse::<Digest>().is_ok() => LayerOrigin::Image,
        false => LayerOrigin::Engine,
    };
    LayerDescriptor {
        media_type: None,
        digest: None,
        size: None,
        diff_id: None,
        created_by: is_own.then(|| format!("container {name}")),
        origin,
        urls: Vec::new(),
    }
}

fn snapshotter(name: &str) -> String {
    format!(
        "unpacked by the snapshotter '{}'; only snapshots of '{OVERLAYFS}' are read",
        escape(name.as_bytes())
    )
}

/// Returns an image without layers, for a container whose image is gone.
fn without_image() -> OpenedImage {
    let config = ImageConfig {
        created: None,
        author: None,
        platform: None,
        diff_ids: Vec::new(),
        history: Vec::new(),
        runtime: serde_json::Value::Null,
    };
    OpenedImage {
        info: ImageInfo {
            names: Vec::new(),
            manifest_digest: None,
            config_digest: None,
            platform: None,
            config,
            layers: Vec::new(),
            annotations: BTreeMap::new(),
            raw_manifest: Vec::new(),
            raw_config: Vec::new(),
            container: None,
        },
        layers: Vec::new(),
        reads_at_once: cores(),
        size: None,
    }
}

/// Returns the chain ID of each layer: the digest of all diff_ids up to it. Source: OCI image-spec config.md.
fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(below) => Algorithm::Sha256.digest(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f39_the_layers_of_a_container_state_where_they_come_from() {
        let record = ContainerRecord {
            id: "c1".to_owned(),
            name: Some("web".to_owned()),
            image: None,
            created: None,
            snapshotter: None,
            snapshot_key: None,
            spec: Vec::new(),
            image_digest: None,
            mounts: None,
        };
        let chain_id = Algorithm::Sha256.digest(b"").to_string();
        for (key, is_own, origin, command) in [
            (chain_id.as_str(), false, LayerOrigin::Image, None),
            ("c1-remap", false, LayerOrigin::Engine, None),
            ("c1", true, LayerOrigin::Container, Some("container web")),
        ] {
            let found = descriptor(&record, &Link { key, name: "" }, is_own);
            assert_eq!((found.origin, found.created_by.as_deref()), (origin, command), "{key}");
        }
    }

    #[test]
    fn f39_owners_are_translated_through_both_user_namespaces() {
        let range = |container, host, len| IdRange { container, host, len };
        let user = vec![range(0, 1000, 1), range(1, 100_000, 65_536)];
        let owners = Owners { uids: user.clone(), gids: user.clone() };
        let inner = Spec { uids: vec![range(0, 1, 100)], gids: vec![range(0, 1, 50)], ..Spec::default() };
        let translated = IdMap::new(vec![range(0, 100_000, 100)], vec![range(0, 100_000, 50)]);
        for (engine, spec, expected) in [
            (None, &Spec::default(), IdMap::identity()),
            (Some(&owners), &Spec::default(), IdMap::new(user.clone(), user)),
            (None, &inner, IdMap::new(inner.uids.clone(), inner.gids.clone())),
            (Some(&owners), &inner, translated),
        ] {
            assert_eq!(format!("{:?}", id_map(engine, spec)), format!("{expected:?}"));
        }
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let id = |text: &str| Algorithm::Sha256.digest(text.as_bytes());
        let (a, b) = (id("a"), id("b"));
        let second = id(&format!("{a} {b}"));
        assert_eq!(chain_ids(&[a, b, b]), [a, second, id(&format!("{second} {b}"))]);
        assert_eq!(chain_ids(&[]), []);
    }
}
