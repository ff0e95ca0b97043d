//! Documents and tags that were fetched, in the cache directory.
//!
//! A document is stored under its digest and checked when it is read, so it needs no registry any more. What a
//! tag meant is stored for `--offline`, and so that a registry is only asked for the digest of the tag.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use serde::{Deserialize, Serialize};

use super::name::ImageName;
use crate::digest::{Algorithm, Digest};
use crate::image::manifest::MAX_DOCUMENT_BYTES;
use crate::store::notes::Folder;

/// The largest file about a tag, in bytes.
const MAX_TAG_FILE_BYTES: u64 = 4096;

/// The most memory for documents that were used before, in bytes.
const MAX_REMEMBERED_BYTES: usize = 16 << 20;

/// The most disk space for documents, in bytes: thousands of images. One run adds no more than the documents of
/// the images that it opens.
const MAX_STORED_BYTES: u64 = 256 << 20;

/// Stored documents and tags. A failure to store one costs only time, and is logged.
#[derive(Debug)]
pub(super) struct Documents {
    /// The cache directory; without one, documents are kept in memory only.
    directory: Option<PathBuf>,
    remembered: Mutex<Remembered>,
    /// Done before the first document is stored.
    shrunk: Once,
}

/// The documents that were used before, as long as there is room.
#[derive(Debug, Default)]
struct Remembered {
    documents: HashMap<Digest, Vec<u8>>,
    total_bytes: usize,
}

/// What a tag meant when the registry was asked last.
#[derive(Debug, Serialize, Deserialize)]
struct Tag {
    name: String,
    digest: String,
}

impl Documents {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Documents { directory, remembered: Mutex::default(), shrunk: Once::new() }
    }

    /// Returns the stored document; `None` if there is none with this digest.
    pub(super) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        if let Some(bytes) = self.remembered().documents.get(digest) {
            return Some(bytes.clone());
        }
        let bytes = self.read(Folder::Documents, &file_name(digest), MAX_DOCUMENT_BYTES)?;
        (digest.algorithm().digest(&bytes) == *digest).then_some(bytes)
    }

    /// Stores a document that has this digest.
    pub(super) fn keep_document(&self, digest: &Digest, bytes: &[u8]) {
        if let Some(directory) = &self.directory {
            self.shrunk.call_once(|| Folder::Documents.shrink(directory, MAX_STORED_BYTES));
        }
        self.keep(Folder::Documents, &file_name(digest), bytes);
        let mut remembered = self.remembered();
        let total_bytes = remembered.total_bytes.saturating_add(bytes.len());
        if total_bytes <= MAX_REMEMBERED_BYTES && !remembered.documents.contains_key(digest) {
            remembered.documents.insert(*digest, bytes.to_vec());
            remembered.total_bytes = total_bytes;
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the tag of `name` meant last.
    pub(super) fn tag(&self, name: &ImageName) -> Option<Digest> {
        let bytes = self.read(Folder::Tags, &tag_file(name), MAX_TAG_FILE_BYTES)?;
        let tag: Tag = serde_json::from_slice(&bytes).ok()?;
        tag.digest.parse().ok().filter(|_| tag.name == name.to_string())
    }

    /// Stores what the tag of `name` means.
    pub(super) fn keep_tag(&self, name: &ImageName, digest: &Digest) {
        let tag = Tag { name: name.to_string(), digest: digest.to_string() };
        if let Ok(bytes) = serde_json::to_vec(&tag) {
            self.keep(Folder::Tags, &tag_file(name), &bytes);
        }
    }

    fn read(&self, folder: Folder, file: &str, max: u64) -> Option<Vec<u8>> {
        folder.read(self.directory.as_ref()?, file, max)
    }

    fn keep(&self, folder: Folder, file: &str, bytes: &[u8]) {
        let Some(directory) = &self.directory else { return };
        folder.write(directory, file, bytes).unwrap_or_else(|error| log::info!("{error}"));
    }
}

fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// Returns the file name of a tag: a digest, because names contain slashes.
fn tag_file(name: &ImageName) -> String {
    file_name(&Algorithm::Sha256.digest(name.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r7_a_stored_document_is_returned_only_with_its_digest() {
        let home = tempfile::tempdir().unwrap();
        let documents = Documents::new(Some(home.path().join("cache")));
        let digest = Algorithm::Sha256.digest(b"{}");
        assert_eq!(documents.document(&digest), None);
        documents.keep_document(&digest, b"{}");
        let documents = Documents::new(Some(home.path().join("cache")));
        assert_eq!(documents.document(&digest).unwrap(), b"{}");
        std::fs::write(home.path().join("cache/docs").join(file_name(&digest)), b"{ }").unwrap();
        assert_eq!(documents.document(&digest), None);
        // A document that was used before is not requested again, even if it cannot be stored.
        let nowhere = Documents::new(None);
        assert_eq!(nowhere.document(&digest), None);
        nowhere.keep_document(&digest, b"{}");
        assert_eq!(nowhere.document(&digest).unwrap(), b"{}");
        let large = vec![0; MAX_REMEMBERED_BYTES];
        let large_digest = Algorithm::Sha256.digest(&large);
        nowhere.keep_document(&large_digest, &large);
        assert_eq!(nowhere.document(&large_digest), None);
    }

    #[test]
    fn r7_old_documents_make_room_for_new_ones() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("cache");
        let digest = Algorithm::Sha256.digest(b"{}");
        Documents::new(Some(cache.clone())).keep_document(&digest, b"{}");
        let large = std::fs::File::create(cache.join("docs/large")).unwrap();
        large.set_len(MAX_STORED_BYTES).unwrap();
        large.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let other = Algorithm::Sha256.digest(b"[]");
        Documents::new(Some(cache.clone())).keep_document(&other, b"[]");
        let documents = Documents::new(Some(cache.clone()));
        assert!(documents.document(&digest).is_some() && documents.document(&other).is_some());
        assert!(!cache.join("docs/large").exists());
    }

    #[test]
    fn r7_a_tag_is_that_of_its_host_and_repository() {
        let home = tempfile::tempdir().unwrap();
        let documents = Documents::new(Some(home.path().join("cache")));
        let name = |text: &str| ImageName::parse(text).unwrap();
        let digest = Algorithm::Sha256.digest(b"{}");
        documents.keep_tag(&name("reg.test/app"), &digest);
        assert_eq!(documents.tag(&name("reg.test/app:latest")), Some(digest));
        for other in ["reg.test/app:1", "reg.test:5000/app", "reg.test/apps", "app"] {
            assert_eq!(documents.tag(&name(other)), None, "{other}");
        }
    }
}
