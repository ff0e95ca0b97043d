//! The metadata of containerd: namespaces with their images, containers and snapshots.
//!
//! This module owns the layout of `meta.db`. It must not know the layout of a bbolt database, blobs, or the
//! directories of snapshots. Source: containerd, `core/metadata/buckets.go`.
//!
//! ```text
//! v1/<namespace>/images/<name>/         createdat, target/{digest, mediatype, size}
//! v1/<namespace>/containers/<id>/       createdat, image, snapshotter, snapshotKey, spec, labels/
//! v1/<namespace>/snapshots/<snapshotter>/<key>/   name, parent
//! ```

use std::collections::HashMap;

use super::time;
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::ContainerMount;
use crate::image::manifest::Descriptor;
use crate::path::escape;
use crate::source::beneath::Beneath;
use crate::source::bolt::{self, Bucket, Database};

/// The database, below the root of containerd.
pub(super) const DATABASE: &str = "io.containerd.metadata.v1.bolt/meta.db";
/// Maximum number of images, containers and snapshots in all namespaces together. A node has up to some
/// thousands.
const MAX_RECORDS: u64 = 1 << 20;
/// Maximum length in bytes of a value that is read, other than the spec of a container. Names have at most
/// 4 KiB.
const MAX_VALUE_BYTES: u64 = 64 << 10;
/// Maximum length in bytes of the spec of a container. The specs of Kubernetes have about 20 KiB.
const MAX_SPEC_BYTES: u64 = 4 << 20;
/// The namespaces that are listed before the others: those of Kubernetes, Docker, and `ctr` and nerdctl.
const FIRST_NAMESPACES: [&str; 3] = ["k8s.io", "moby", "default"];
/// The labels that name a container for people, the first one wins.
const NAME_LABELS: [&str; 2] = ["nerdctl/name", "io.kubernetes.container.name"];

/// The metadata of containerd.
#[derive(Debug)]
pub(super) struct Metadata {
    /// The namespaces, in the order in which they are listed.
    pub(super) namespaces: Vec<Namespace>,
}

/// A namespace.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub(super) name: String,
    /// The images, sorted by name.
    pub(super) images: Vec<ImageRecord>,
    /// The containers, sorted by ID.
    pub(super) containers: Vec<ContainerRecord>,
    /// The snapshots by the name of the snapshotter and by their keys.
    pub(super) snapshots: HashMap<String, HashMap<String, SnapshotRecord>>,
}

/// A name of an image.
#[derive(Debug)]
pub(super) struct ImageRecord {
    pub(super) name: String,
    /// The manifest or image index.
    pub(super) target: Descriptor,
}

/// A container.
#[derive(Debug)]
pub(super) struct ContainerRecord {
    pub(super) id: String,
    pub(super) name: Option<String>,
    /// Name of the image from which the container was created.
    pub(super) image: Option<String>,
    /// Time of creation (RFC 3339).
    pub(super) created: Option<String>,
    /// Name of the snapshotter that holds the tree of the container.
    pub(super) snapshotter: Option<String>,
    /// Key of the container's writable snapshot.
    pub(super) snapshot_key: Option<String>,
    /// The runtime spec: a protobuf `Any` with JSON in it.
    pub(super) spec: Vec<u8>,
    /// Digest of the image's manifest or image index, if another engine states it.
    pub(super) image_digest: Option<Digest>,
    /// What is mounted over the tree, if another engine states it; otherwise the spec does.
    pub(super) mounts: Option<Vec<ContainerMount>>,
}

/// A container as an engine knows it that uses containerd for its images and snapshots. containerd itself
/// knows the containers of Docker only while they run.
#[derive(Debug)]
pub(in crate::source) struct KnownContainer {
    /// The full ID.
    pub(in crate::source) id: String,
    /// The name, without a leading slash.
    pub(in crate::source) name: Option<String>,
    /// Name of the image, for people.
    pub(in crate::source) image: Option<String>,
    /// Digest of the image's manifest or image index.
    pub(in crate::source) image_digest: Option<Digest>,
    /// Time of creation (RFC 3339).
    pub(in crate::source) created: Option<String>,
    /// Name of the snapshotter that holds the tree of the container.
    pub(in crate::source) snapshotter: String,
    /// Key of the container's writable snapshot.
    pub(in crate::source) snapshot_key: String,
    /// What the engine mounts over the tree.
    pub(in crate::source) mounts: Vec<ContainerMount>,
}

/// A snapshot as a namespace knows it.
#[derive(Debug)]
pub(super) struct SnapshotRecord {
    /// Name of the snapshot in the snapshotter's own database.
    pub(super) name: String,
    /// Key of the snapshot below.
    pub(super) parent: Option<String>,
}

impl Metadata {
    /// Reads the database below `root`; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`bolt::read`], and [`Error::Limit`] for more than [`MAX_RECORDS`] records.
    pub(super) fn read(root: &Beneath) -> Result<Option<Self>> {
        let Some(file) = root.file(DATABASE)? else { return Ok(None) };
        bolt::read(&file, &root.describe(DATABASE), parse).map(Some)
    }
}

impl Namespace {
    /// Adds a container, or replaces what containerd knows of it.
    pub(super) fn add(&mut self, known: KnownContainer) {
        let same = self.containers.iter().position(|container| container.id == known.id);
        let spec = same.map(|at| self.containers.remove(at).spec).unwrap_or_default();
        let at = self.containers.partition_point(|container| container.id < known.id);
        let KnownContainer { id, name, image, image_digest, created, snapshotter, snapshot_key, mounts } =
            known;
        let (snapshotter, snapshot_key, mounts) = (Some(snapshotter), Some(snapshot_key), Some(mounts));
        self.containers.insert(
            at,
            ContainerRecord {
                id,
                name,
                image,
                created,
                snapshotter,
                snapshot_key,
                spec,
                image_digest,
                mounts,
            },
        );
    }

    /// Returns the snapshot `key` of a snapshotter.
    pub(super) fn snapshot(&self, snapshotter: &str, key: &str) -> Option<&SnapshotRecord> {
        self.snapshots.get(snapshotter)?.get(key)
    }
}

pub(super) fn parse(database: &Database) -> Result<Metadata> {
    let mut records = Records { what: database.what(), count: 0 };
    let mut namespaces = Vec::new();
    if let Some(version) = database.root().bucket(b"v1")? {
        version.for_each_bucket(&mut |name, bucket| {
            namespaces.extend(records.namespace(name, &bucket)?);
            Ok(())
        })?;
    }
    let rank = |namespace: &Namespace| FIRST_NAMESPACES.iter().position(|first| *first == namespace.name);
    namespaces.sort_by_key(|namespace| rank(namespace).unwrap_or(FIRST_NAMESPACES.len()));
    Ok(Metadata { namespaces })
}

/// Reads records and counts them.
struct Records<'a> {
    what: &'a Subject,
    count: u64,
}

impl Records<'_> {
    fn namespace(&mut self, name: &[u8], bucket: &Bucket<'_>) -> Result<Option<Namespace>> {
        let Some(name) = self.name("namespace", name)? else { return Ok(None) };
        let mut namespace = Namespace { name, ..Namespace::default() };
        if let Some(images) = bucket.bucket(b"images")? {
            images.for_each_bucket(&mut |name, bucket| {
                namespace.images.extend(self.image(name, &bucket)?);
                Ok(())
            })?;
        }
        if let Some(containers) = bucket.bucket(b"containers")? {
            containers.for_each_bucket(&mut |id, bucket| {
                namespace.containers.extend(self.container(id, &bucket)?);
                Ok(())
            })?;
        }
        if let Some(snapshotters) = bucket.bucket(b"snapshots")? {
            snapshotters.for_each_bucket(&mut |name, bucket| {
                if let Some(name) = self.name("snapshotter", name)? {
                    namespace.snapshots.insert(name, self.snapshots(&bucket)?);
                }
                Ok(())
            })?;
        }
        Ok(Some(namespace))
    }

    fn image(&mut self, name: &[u8], bucket: &Bucket<'_>) -> Result<Option<ImageRecord>> {
        let Some(name) = self.name("image", name)? else { return Ok(None) };
        let Some(target) = bucket.bucket(b"target")? else {
            return Ok(self.skip("image", &name, "it has no target"));
        };
        let (digest, size) = (text(&target, b"digest")?.unwrap_or_default(), value(&target, b"size")?);
        let Ok(digest) = digest.parse::<Digest>() else {
            return Ok(self.skip("image", &name, "its digest is not a digest"));
        };
        let Some(size) = size.and_then(varint).and_then(|size| u64::try_from(size).ok()) else {
            return Ok(self.skip("image", &name, "its size is not a number"));
        };
        let media_type = text(&target, b"mediatype")?;
        Ok(Some(ImageRecord { name, target: Descriptor::new(media_type, digest, size) }))
    }

    fn container(&mut self, id: &[u8], bucket: &Bucket<'_>) -> Result<Option<ContainerRecord>> {
        let Some(id) = self.name("container", id)? else { return Ok(None) };
        let mut name = None;
        if let Some(labels) = bucket.bucket(b"labels")? {
            for label in NAME_LABELS {
                name = name.or(text(&labels, label.as_bytes())?);
            }
        }
        let spec = bucket.bytes(b"spec")?.unwrap_or_default();
        limit(self.what, "MAX_SPEC_BYTES", spec, MAX_SPEC_BYTES)?;
        Ok(Some(ContainerRecord {
            id,
            name,
            image: text(bucket, b"image")?,
            created: value(bucket, b"createdat")?.and_then(time::rfc3339),
            snapshotter: text(bucket, b"snapshotter")?,
            snapshot_key: text(bucket, b"snapshotKey")?,
            spec: spec.to_vec(),
            image_digest: None,
            mounts: None,
        }))
    }

    fn snapshots(&mut self, bucket: &Bucket<'_>) -> Result<HashMap<String, SnapshotRecord>> {
        let mut snapshots = HashMap::new();
        bucket.for_each_bucket(&mut |key, bucket| {
            if let Some(key) = self.name("snapshot", key)?
                && let Some(name) = text(&bucket, b"name")?
            {
                snapshots.insert(key, SnapshotRecord { name, parent: text(&bucket, b"parent")? });
            }
            Ok(())
        })?;
        Ok(snapshots)
    }

    /// Counts a record and returns its name; `None` with a warning for a name that is not UTF-8.
    fn name(&mut self, kind: &str, name: &[u8]) -> Result<Option<String>> {
        self.count = self.count.saturating_add(1);
        if self.count > MAX_RECORDS {
            return Err(Error::limit(self.what.clone(), "MAX_RECORDS", self.count, MAX_RECORDS));
        }
        let text = String::from_utf8(name.to_vec()).ok();
        Ok(text.or_else(|| self.skip(kind, &escape(name), "its name is not UTF-8")))
    }

    /// Warns of a record that cannot be used.
    fn skip<T>(&self, kind: &str, name: &str, why: &str) -> Option<T> {
        log::warn!("{}: skipped {kind} '{}': {why}", self.what, escape(name.as_bytes()));
        None
    }
}

/// Returns the text at `key`; `None` if it is missing, empty or not UTF-8.
fn text(bucket: &Bucket<'_>, key: &[u8]) -> Result<Option<String>> {
    let text = value(bucket, key)?.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    Ok(text.filter(|text| !text.is_empty()))
}

fn value<'a>(bucket: &Bucket<'a>, key: &[u8]) -> Result<Option<&'a [u8]>> {
    let Some(bytes) = bucket.bytes(key)? else { return Ok(None) };
    limit(bucket.database().what(), "MAX_VALUE_BYTES", bytes, MAX_VALUE_BYTES)?;
    Ok(Some(bytes))
}

fn limit(what: &Subject, limit: &'static str, bytes: &[u8], max: u64) -> Result<()> {
    let len = bytes.len() as u64;
    if len > max { Err(Error::limit(what.clone(), limit, len, max)) } else { Ok(()) }
}

/// Decodes an unsigned number as Go's `binary.Uvarint` does: seven bits in each byte, the lowest first.
pub(super) fn uvarint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        let shift = u32::try_from(at).ok()?.checked_mul(7)?;
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(at + 1..)?));
        }
    }
    None
}

/// Decodes a signed number as Go's `binary.Varint` does.
fn varint(bytes: &[u8]) -> Option<i64> {
    let (number, _) = uvarint(bytes)?;
    let half = (number >> 1).cast_signed();
    Some(if number & 1 == 0 { half } else { !half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decoded_as_go_encodes_them() {
        assert_eq!(uvarint(&[0]), Some((0, &[][..])));
        assert_eq!(uvarint(&[0xac, 0x02, 9]), Some((300, &[9][..])));
        assert_eq!(
            uvarint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Some((u64::MAX, &[][..]))
        );
        assert_eq!(uvarint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
        assert_eq!([uvarint(&[]), uvarint(&[0x80]), uvarint(&[0x80; 20])], [None; 3]);
        // As `ctr` stored the size 422 of a manifest.
        assert_eq!(varint(&[0xcc, 0x06]), Some(422));
        assert_eq!([varint(&[1]), varint(&[2]), varint(&[3])], [Some(-1), Some(1), Some(-2)]);
    }
}
