//! Lists and prunes the contents of a store.
//!
//! An index and its seekable copy are one [`StoredLayer`]: they are measured and removed together. Files are
//! only unlinked, so a process that has one open keeps it. A running mount is not affected; the next mount
//! builds what is missing. Files with names that the store did not create are neither removed nor counted.
//! This module owns which files belong to the store and the order of removal. It does not know how much to
//! remove: the caller decides.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::blobs::{BlobDirectory, StoredBlob};
use super::notes::Folder;
use super::{LIMITS, Store, check_trust};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::layer::stored::read_index;
use crate::layer::table::LayerFacts;
use crate::read_at::FileBytes;

/// Number of hexadecimal digits in a [`Key`](super::Key) of the hash of an identity.
pub(super) const SHORT_DIGITS: usize = 32;

/// An index in the store with its seekable copy, a merged tree, or what is kept of a registry: a blob, a
/// document, or the digest of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredLayer {
    /// The name of the files, without their endings.
    pub name: String,
    /// Other names of the same index, without their endings.
    pub other_names: Vec<String>,
    /// Length of the index, tree or document in bytes; 0 if there is none.
    pub index_bytes: u64,
    /// Length of the seekable copy in bytes; 0 if there is none.
    pub copy_bytes: u64,
    /// Time of the last read, or of creation.
    pub last_used: SystemTime,
    /// Facts about the indexed layer or archive, and the number of its entries; `None` for a tree, for an
    /// index that cannot be read, for a blob, and in the results of [`Store::prune`], which does not read the
    /// files.
    pub facts: Option<(LayerFacts, u32)>,
    /// What is kept of a blob from a registry; `None` for all else.
    pub blob: Option<StoredBlob>,
}

impl StoredLayer {
    /// Returns the length in bytes of index and copy, or of what is kept of a blob.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let blob_bytes = self.blob.as_ref().map_or(0, |blob| blob.kept_bytes);
        self.index_bytes.saturating_add(self.copy_bytes).saturating_add(blob_bytes)
    }
}

/// Limits on the contents of a [`Store`]. None by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Allowance {
    /// The longest time since the last use; entries that were not used for longer are removed.
    pub unused_for: Option<Duration>,
    /// The maximum size of all files in bytes; the least recently used entries are removed first.
    pub total_bytes: Option<u64>,
}

impl Allowance {
    /// Sets the longest time since the last use.
    #[must_use]
    pub fn unused_for(mut self, unused_for: impl Into<Option<Duration>>) -> Self {
        self.unused_for = unused_for.into();
        self
    }

    /// Sets the maximum size of all files, in bytes.
    #[must_use]
    pub fn total_bytes(mut self, total_bytes: impl Into<Option<u64>>) -> Self {
        self.total_bytes = total_bytes.into();
        self
    }
}

impl Store {
    /// Opens the store in `directory`; `None` if the directory does not exist. Nothing is created or cleaned
    /// up.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be examined, or when it is not a directory that the user owns
    /// and only the user can write to.
    pub fn existing(directory: &Path) -> Result<Option<Self>> {
        match check_trust(directory) {
            Ok(()) => Ok(Some(Store { directory: directory.to_owned(), variant: None })),
            Err(Error::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the contents of the store, the most recently used first. Listing does not count as use.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<StoredLayer>> {
        let mut all = self.measure()?;
        for layer in &mut all {
            if layer.blob.is_none() && Folder::of(&layer.name).is_none() {
                layer.facts = self.facts(&layer.name);
            }
        }
        all.sort_by(by_use);
        Ok(all)
    }

    /// Lists the contents without reading the files.
    fn measure(&self) -> Result<Vec<StoredLayer>> {
        let failed =
            |cause| Error::io_on("cannot read cache directory", Subject::File(self.directory.clone()), cause);
        let mut found: BTreeMap<String, StoredLayer> = BTreeMap::new();
        let mut names: HashMap<u64, Vec<String>> = HashMap::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            let Some((name, ending)) = file_name.to_str().and_then(split_name) else { continue };
            // Links are not followed. A file that is gone by now was removed by another process.
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let layer = found.entry(name.to_owned()).or_insert_with(|| StoredLayer {
                name: name.to_owned(),
                other_names: Vec::new(),
                index_bytes: 0,
                copy_bytes: 0,
                last_used: SystemTime::UNIX_EPOCH,
                facts: None,
                blob: None,
            });
            layer.last_used = layer.last_used.max(used(&metadata));
            match ending {
                Ending::Index | Ending::Tree => layer.index_bytes = metadata.len(),
                Ending::Copy => layer.copy_bytes = metadata.len(),
            }
            if metadata.nlink() > 1 {
                names.entry(metadata.ino()).or_default().push(name.to_owned());
            }
        }
        for mut names in names.into_values() {
            // The shortest name depends on the diff_id alone.
            names.sort_by_key(|name| (name.len(), name.clone()));
            let mut others = names.split_off(1);
            others.iter().for_each(|name| drop(found.remove(name)));
            if let Some(layer) = names.first().and_then(|name| found.get_mut(name)) {
                layer.other_names.append(&mut others);
            }
        }
        let blobs = BlobDirectory::of(&self.directory).measure()?;
        let documents = Folder::ALL.into_iter().flat_map(|folder| self.notes(folder.name()));
        Ok(found.into_values().chain(blobs.into_iter().map(of_blob)).chain(documents).collect())
    }

    /// Lists the small files in a folder. A folder that cannot be read is empty.
    fn notes(&self, folder: &'static str) -> Vec<StoredLayer> {
        let entries = std::fs::read_dir(self.directory.join(folder)).into_iter().flatten().flatten();
        let found = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (algorithm, hex) = name.split_once('-')?;
            let metadata =
                entry.metadata().ok().filter(|file| file.is_file() && is_digest(algorithm, hex))?;
            let index_bytes = metadata.len();
            Some(StoredLayer { index_bytes, ..unread(format!("{folder}/{name}"), used(&metadata)) })
        });
        found.collect()
    }

    /// Removes the contents that exceed `allowance` at the time `now`. Returns the removed contents.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read or a file cannot be removed.
    pub fn prune(&self, allowance: &Allowance, now: SystemTime) -> Result<Vec<StoredLayer>> {
        let mut removed = superfluous(self.measure()?, allowance, now);
        let mut failed = None;
        removed.retain(|layer| match self.remove(layer) {
            Ok(gone) => gone,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        });
        failed.map_or(Ok(removed), Err)
    }

    /// Removes all contents and returns them.
    ///
    /// # Errors
    /// As [`Store::prune`].
    pub fn clear(&self) -> Result<Vec<StoredLayer>> {
        let nothing = Allowance { total_bytes: Some(0), unused_for: None };
        self.prune(&nothing, SystemTime::now())
    }

    /// Removes an index and its copy, unless it was used since it was listed; returns whether it was removed.
    /// The index is removed first, because an index without its copy cannot be used.
    fn remove(&self, layer: &StoredLayer) -> Result<bool> {
        if let Some(blob) = &layer.blob {
            return BlobDirectory::of(&self.directory).remove(&blob.digest, layer.last_used).map_err(
                |cause| Error::io_on("cannot remove", Subject::File(self.directory.join(&layer.name)), cause),
            );
        }
        let names = layer.other_names.iter().chain([&layer.name]);
        let paths: Vec<_> = names
            .flat_map(|name| match Folder::of(name).is_some() {
                true => vec![self.directory.join(name)],
                false => ["idx", "copy", "tree"].map(|ending| self.file(name, ending)).into(),
            })
            .collect();
        let in_use = |path| std::fs::symlink_metadata(path).is_ok_and(|now| used(&now) > layer.last_used);
        if paths.iter().any(in_use) {
            return Ok(false);
        }
        for path in paths {
            match std::fs::remove_file(&path) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io_on("cannot remove", Subject::File(path.to_owned()), cause));
                }
                _ => {}
            }
        }
        Ok(true)
    }

    fn facts(&self, name: &str) -> Option<(LayerFacts, u32)> {
        let path = self.file(name, "idx");
        let file = super::open_own(&path).ok()??;
        let what = Subject::File(path.clone());
        let (index, _) = read_index(file, &what, FileBytes::new).ok()?;
        Some((index.facts().clone(), index.entry_count()))
    }
}

fn of_blob((blob, last_used): (StoredBlob, SystemTime)) -> StoredLayer {
    let name = format!("blobs/{}-{}", blob.digest.algorithm().name(), blob.digest.hex());
    StoredLayer { blob: Some(blob), ..unread(name, last_used) }
}

fn unread(name: String, last_used: SystemTime) -> StoredLayer {
    StoredLayer {
        name,
        other_names: Vec::new(),
        index_bytes: 0,
        copy_bytes: 0,
        last_used,
        facts: None,
        blob: None,
    }
}

/// Returns the time of last use: reading a file sets its modification time; see [`Store::load`].
fn used(metadata: &Metadata) -> SystemTime {
    let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Orders the most recently used first.
fn by_use(a: &StoredLayer, b: &StoredLayer) -> Ordering {
    b.last_used.cmp(&a.last_used).then_with(|| a.name.cmp(&b.name))
}

/// Returns the contents to remove: all that were unused for too long, then the least recently used until the
/// rest fits.
fn superfluous(mut layers: Vec<StoredLayer>, allowance: &Allowance, now: SystemTime) -> Vec<StoredLayer> {
    layers.sort_by(by_use);
    let mut left = allowance.total_bytes.unwrap_or(u64::MAX);
    let mut full = false;
    layers.retain(|layer| {
        // A time in the future was set by another clock and does not count as old.
        let age = now.duration_since(layer.last_used).unwrap_or_default();
        let too_old = allowance.unused_for.is_some_and(|unused_for| age > unused_for);
        full |= !too_old && layer.bytes() > left;
        if !full && !too_old {
            left -= layer.bytes();
        }
        full || too_old
    });
    layers.reverse();
    layers
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Index,
    Copy,
    Tree,
}

/// Splits the file name of an index, copy or tree of any format version; `None` for other files.
fn split_name(file_name: &str) -> Option<(&str, Ending)> {
    let (name, ending) = match file_name.rsplit_once('.')? {
        (name, "idx") => (name, Ending::Index),
        (name, "copy") => (name, Ending::Copy),
        (name, "tree") => (name, Ending::Tree),
        _ => return None,
    };
    let usual = match name.rsplit_once(LIMITS) {
        Some((usual, limits)) if is_short(limits) => usual,
        _ => name,
    };
    let (stem, version) = usual.rsplit_once(".v")?;
    let (kind, rest) = stem.split_once('-')?;
    let known = match rest.split_once('-') {
        _ if (kind == "tree") != (ending == Ending::Tree) => false,
        None if matches!(kind, "archive" | "layer" | "tree") => is_short(rest),
        None => is_digest(kind, rest),
        Some((hex, stored)) => is_digest(kind, hex) && is_short(stored),
    };
    let numbered = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    (known && numbered).then_some((name, ending))
}

fn is_digest(algorithm: &str, hex: &str) -> bool {
    format!("{algorithm}:{hex}").parse::<Digest>().is_ok()
}

fn is_short(text: &str) -> bool {
    text.len() == SHORT_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Key;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const SHORT: &str = "0123456789abcdef0123456789abcdef";

    fn layer(name: &str, bytes: u64, last_used: u64) -> StoredLayer {
        StoredLayer {
            name: name.to_owned(),
            other_names: Vec::new(),
            index_bytes: bytes,
            copy_bytes: 0,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(last_used),
            facts: None,
            blob: None,
        }
    }

    fn gone(allowance: Allowance) -> Vec<String> {
        let layers = vec![layer("old", 10, 100), layer("new", 30, 300), layer("mid", 20, 200)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(310);
        superfluous(layers, &allowance, now).into_iter().map(|layer| layer.name).collect()
    }

    #[test]
    fn what_lay_unused_for_too_long_goes() {
        let unused_for =
            |seconds| Allowance { unused_for: Some(Duration::from_secs(seconds)), ..Allowance::default() };
        assert_eq!(gone(unused_for(209)), ["old"]);
        assert_eq!(gone(unused_for(210)), [""; 0]);
        assert_eq!(gone(unused_for(1)), ["old", "mid", "new"]);
    }

    #[test]
    fn the_least_recently_used_go_until_the_rest_fits() {
        let total_bytes = |total| Allowance { total_bytes: Some(total), ..Allowance::default() };
        assert_eq!(gone(total_bytes(60)), [""; 0]);
        assert_eq!(gone(total_bytes(59)), ["old"]);
        assert_eq!(gone(total_bytes(49)), ["old", "mid"]);
        // The order of use decides, even if a smaller file would still fit.
        assert_eq!(gone(total_bytes(29)), ["old", "mid", "new"]);
        assert_eq!(gone(total_bytes(0)), ["old", "mid", "new"]);
    }

    #[test]
    fn without_an_allowance_everything_stays() {
        assert_eq!(gone(Allowance::default()), [""; 0]);
    }

    #[test]
    fn what_was_used_since_it_was_listed_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store { directory: directory.path().to_owned(), variant: None };
        let path = directory.path().join(format!("sha256-{HEX}.v1.idx"));
        std::fs::write(&path, b"index").unwrap();
        let listed = store.measure().unwrap().remove(0);
        let later = listed.last_used + Duration::from_secs(1);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(!store.remove(&listed).unwrap() && path.exists());
        assert!(store.remove(&StoredLayer { last_used: later, ..listed }).unwrap() && !path.exists());
    }

    #[test]
    fn an_index_of_several_names_counts_once_and_goes_with_all_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store { directory: directory.path().to_owned(), variant: None };
        let plain = Key(format!("sha256-{HEX}.v3"));
        let blob = Key(format!("sha256-{HEX}-{SHORT}.v3"));
        std::fs::write(store.path(&plain, "idx"), b"index").unwrap();
        // The file under the other name is not usable.
        std::fs::write(store.path(&blob, "idx"), b"damaged").unwrap();
        store.add_name(&plain, &blob).unwrap();
        store.add_name(&plain, &blob).unwrap();
        let listed = store.measure().unwrap();
        let found: Vec<_> =
            listed.iter().map(|layer| (&layer.name, &layer.other_names[..], layer.bytes())).collect();
        assert_eq!(found, [(&plain.0, &[blob.0][..], 5)]);
        assert_eq!(store.clear().unwrap().len(), 1);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_of_every_version_are_known() {
        for name in
            [format!("sha256-{HEX}.v1"), format!("sha256-{HEX}-{SHORT}.v12"), format!("archive-{SHORT}.v1")]
        {
            assert_eq!(split_name(&format!("{name}.idx")), Some((name.as_str(), Ending::Index)));
            assert_eq!(split_name(&format!("{name}.copy")), Some((name.as_str(), Ending::Copy)));
        }
        let limited = format!("sha256-{HEX}-{SHORT}.v3.limits-{SHORT}");
        assert_eq!(split_name(&format!("{limited}.idx")), Some((limited.as_str(), Ending::Index)));
        let tree = format!("tree-{SHORT}.v3");
        assert_eq!(split_name(&format!("{tree}.tree")), Some((tree.as_str(), Ending::Tree)));
    }

    #[test]
    fn names_that_this_store_never_gave_are_not() {
        for name in [
            "notes.idx".to_owned(),
            format!("sha256-{HEX}.v1"),
            format!("sha256-{HEX}.v1.idx.bak"),
            format!("sha256-{HEX}.vx.idx"),
            format!("sha256-{HEX}.v.idx"),
            format!("sha256-{HEX}.v1.limits-short.idx"),
            format!("sha256-{}.v1.idx", &HEX[1..]),
            format!("md5-{HEX}.v1.idx"),
            format!("sha256-{HEX}-short.v1.idx"),
            format!("archive-{HEX}.v1.idx"),
            format!("tree-{}.v1.idx", &HEX[..32]),
            format!("archive-{}.v1.tree", &HEX[..32]),
            format!("sha256-{HEX}.v1.tree"),
            ".draft-Ab12".to_owned(),
        ] {
            assert_eq!(split_name(&name), None, "{name}");
        }
    }

    #[test]
    fn the_names_of_keys_are_known() {
        let diff_id: Digest = format!("sha256:{HEX}").parse().unwrap();
        for key in [
            Key::layer(&diff_id, None),
            Key::layer(&diff_id, Some("blob")),
            Key::unnamed_layer("file"),
            Key::archive("file"),
        ] {
            assert!(split_name(&format!("{}.idx", key.0)).is_some(), "{key:?}");
        }
    }
}
