//! The overlayfs snapshotter: which directory holds the files of a snapshot, and to whom they belong.
//!
//! This module owns the layout of the snapshotter's directory and of its `metadata.db`. It must not know
//! images or containers. Source: containerd, `core/snapshots/storage/bolt.go` and
//! `plugins/snapshots/overlay`.
//!
//! ```text
//! metadata.db            v1/snapshots/<name>/   id (number), kind (byte), parent (name)
//! snapshots/<id>/fs      the files of a snapshot, without those of its parents
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use super::metadata::{Namespace, uvarint};
use crate::error::{Error, Result, Subject};
use crate::layer::MAX_LAYERS;
use crate::path::escape;
use crate::source::beneath::Beneath;
use crate::source::bolt::{self, Bucket, Database};
use crate::source::directory::IdRange;
use crate::source::host::{self, Host};

/// The snapshotter that can be read.
pub(super) const OVERLAYFS: &str = "overlayfs";
/// The directory of the snapshotter, below the root of containerd.
const DIRECTORY: &str = "io.containerd.snapshotter.v1.overlayfs";
const DATABASE: &str = "metadata.db";
/// Maximum length in bytes of the name of a snapshot: a namespace, a number and a key of 4 KiB at most.
const MAX_SNAPSHOT_NAME_BYTES: u64 = 64 << 10;
/// Maximum number of snapshots in the database.
const MAX_SNAPSHOTS: u64 = 1 << 20;

/// The snapshots of the overlayfs snapshotter.
#[derive(Debug)]
pub(super) struct Snapshots {
    /// Path of the root of containerd.
    root: PathBuf,
    directory: Beneath,
    snapshots: HashMap<String, Stored>,
}

/// The users and groups of a user namespace, with those that own their files on disk.
#[derive(Debug)]
pub(super) struct Owners {
    pub(super) uids: Vec<IdRange>,
    pub(super) gids: Vec<IdRange>,
}

/// A snapshot in the snapshotter's database.
#[derive(Debug)]
pub(super) struct Stored {
    id: u64,
    parent: Option<String>,
}

/// A snapshot of a chain: its key in a namespace, and its name in the snapshotter's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub(super) key: &'a str,
    pub(super) name: &'a str,
}

impl Snapshots {
    /// Reads the database of the snapshotter below the root of containerd.
    ///
    /// # Errors
    /// As [`bolt::read`], and [`Error::Malformed`] when the database is missing.
    pub(super) fn read(root: &Beneath) -> Result<Self> {
        let missing = |name: String| Error::malformed(root.describe(&name), "missing");
        let directory = root.dir(DIRECTORY)?.ok_or_else(|| missing(DIRECTORY.to_owned()))?;
        let file = directory.file(DATABASE)?.ok_or_else(|| missing(format!("{DIRECTORY}/{DATABASE}")))?;
        let snapshots = bolt::read(&file, &directory.describe(DATABASE), parse)?;
        Ok(Snapshots { root: root.path().to_owned(), directory, snapshots })
    }

    /// Returns the directory with the files of the snapshot `name`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the database does not know the snapshot, or the directory is missing.
    pub(super) fn files(&self, name: &str) -> Result<Beneath> {
        let id = self.stored(name)?.id;
        let path = format!("snapshots/{id}/fs");
        self.directory.dir(&path)?.ok_or_else(|| {
            let reason = format!("the directory of snapshot '{}' is missing", escape(name.as_bytes()));
            Error::malformed(self.directory.describe(&path), reason)
        })
    }

    /// Returns the users and groups of the user namespace in which containerd runs, if it is rootless.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn owners(&self) -> Result<Option<Owners>> {
        let (uid, gid) = host::owner(&self.directory)?;
        if uid == 0 {
            return Ok(None);
        }
        let host = Host::of_store(&self.root)?;
        Ok(Some(Owners { uids: host.sub_users(uid), gids: host.sub_groups(uid, gid) }))
    }

    /// Returns the directory of the snapshotter.
    pub(super) fn directory(&self) -> &Beneath {
        &self.directory
    }

    /// Checks that the snapshotter stacks its snapshots as the namespace does. `chain` has the lowest first.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the two databases differ.
    pub(super) fn check(&self, chain: &[Link<'_>]) -> Result<()> {
        let mut below: Option<&str> = None;
        for link in chain {
            if self.stored(link.name)?.parent.as_deref() != below {
                let reason = format!(
                    "snapshot '{}' does not have the parent that '{}' states",
                    escape(link.name.as_bytes()),
                    super::metadata::DATABASE
                );
                return Err(Error::malformed(self.what(), reason));
            }
            below = Some(link.name);
        }
        Ok(())
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.snapshots.get(name).ok_or_else(|| {
            Error::malformed(self.what(), format!("there is no snapshot '{}'", escape(name.as_bytes())))
        })
    }

    fn what(&self) -> Subject {
        self.directory.describe(DATABASE)
    }
}

/// Returns the snapshots below `key` and itself, the lowest first.
///
/// # Errors
/// [`Error::Malformed`] when a snapshot is missing, [`Error::Limit`] for more than [`MAX_LAYERS`] snapshots.
pub(super) fn chain<'a>(
    namespace: &'a Namespace,
    snapshotter: &str,
    key: &'a str,
    what: &Subject,
) -> Result<Vec<Link<'a>>> {
    let mut chain = Vec::new();
    let mut next = Some(key);
    while let Some(key) = next {
        let record = namespace.snapshot(snapshotter, key).ok_or_else(|| {
            let reason =
                format!("namespace '{}' has no snapshot '{}'", namespace.name, escape(key.as_bytes()));
            Error::malformed(what.clone(), reason)
        })?;
        chain.push(Link { key, name: &record.name });
        if chain.len() > MAX_LAYERS {
            let count = chain.len() as u64;
            return Err(Error::limit(what.clone(), "MAX_LAYERS", count, MAX_LAYERS as u64));
        }
        next = record.parent.as_deref();
    }
    chain.reverse();
    Ok(chain)
}

pub(super) fn parse(database: &Database) -> Result<HashMap<String, Stored>> {
    let mut snapshots = HashMap::new();
    let Some(version) = database.root().bucket(b"v1")? else { return Ok(snapshots) };
    let Some(all) = version.bucket(b"snapshots")? else { return Ok(snapshots) };
    all.for_each_bucket(&mut |name, bucket| {
        let count = snapshots.len() as u64 + 1;
        if count > MAX_SNAPSHOTS {
            return Err(Error::limit(database.what().clone(), "MAX_SNAPSHOTS", count, MAX_SNAPSHOTS));
        }
        let Some(name) = text(name) else {
            log::warn!("{}: skipped snapshot '{}': its name is not UTF-8", database.what(), escape(name));
            return Ok(());
        };
        match snapshot(&bucket)? {
            Some(stored) => drop(snapshots.insert(name, stored)),
            None => log::warn!("{}: skipped snapshot '{name}': it has no number", database.what()),
        }
        Ok(())
    })?;
    Ok(snapshots)
}

fn snapshot(bucket: &Bucket<'_>) -> Result<Option<Stored>> {
    let id = bucket.bytes(b"id")?.and_then(uvarint);
    let parent = bucket.bytes(b"parent")?.unwrap_or_default();
    let len = parent.len() as u64;
    if len > MAX_SNAPSHOT_NAME_BYTES {
        let what = bucket.database().what().clone();
        return Err(Error::limit(what, "MAX_SNAPSHOT_NAME_BYTES", len, MAX_SNAPSHOT_NAME_BYTES));
    }
    Ok(id.map(|(id, _)| Stored { id, parent: text(parent).filter(|parent| !parent.is_empty()) }))
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}
