//! Documents and tags that were fetched, in the cache directory.
//!
//! A document is stored under its digest and checked when it is read, so it needs no registry any more. What a
//! tag meant is stored for `--offline`, and so that a registry is only asked for the digest of the tag.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::name::ImageName;
use crate::digest::{Algorithm, Digest};
use crate::image::manifest::MAX_DOCUMENT_BYTES;

/// The folder of documents in the cache directory.
const DOCUMENTS: &str = "docs";
/// The folder of tags in the cache directory.
const TAGS: &str = "refs";
/// The largest file about a tag, in bytes.
const MAX_TAG_FILE_BYTES: u64 = 4096;

/// Stored documents and tags. A failure to store one costs only time, and is logged.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    /// The cache directory; nothing is stored without one.
    directory: Option<PathBuf>,
}

/// What a tag meant when the registry was asked last.
#[derive(Debug, Serialize, Deserialize)]
struct Tag {
    name: String,
    digest: String,
}

impl Documents {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Documents { directory }
    }

    /// Returns the stored document; `None` if there is none with this digest.
    pub(super) fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = read(&self.path(DOCUMENTS, &file_name(digest))?, MAX_DOCUMENT_BYTES)?;
        (digest.algorithm().digest(&bytes) == *digest).then_some(bytes)
    }

    /// Stores a document that has this digest.
    pub(super) fn keep_document(&self, digest: &Digest, bytes: &[u8]) {
        self.keep(DOCUMENTS, &file_name(digest), bytes);
    }

    /// Returns what the tag of `name` meant last.
    pub(super) fn tag(&self, name: &ImageName) -> Option<Digest> {
        let bytes = read(&self.path(TAGS, &tag_file(name))?, MAX_TAG_FILE_BYTES)?;
        let tag: Tag = serde_json::from_slice(&bytes).ok()?;
        tag.digest.parse().ok().filter(|_| tag.name == name.to_string())
    }

    /// Stores what the tag of `name` means.
    pub(super) fn keep_tag(&self, name: &ImageName, digest: &Digest) {
        let tag = Tag { name: name.to_string(), digest: digest.to_string() };
        if let Ok(bytes) = serde_json::to_vec(&tag) {
            self.keep(TAGS, &tag_file(name), &bytes);
        }
    }

    fn path(&self, folder: &str, file: &str) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(folder).join(file))
    }

    fn keep(&self, folder: &str, file: &str, bytes: &[u8]) {
        let Some(path) = self.path(folder, file) else { return };
        if let Err(error) = write(&path, bytes) {
            log::info!("cannot store '{}': {error}", path.display());
        }
    }
}

fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// Returns the file name of a tag: a digest, because names contain slashes.
fn tag_file(name: &ImageName) -> String {
    file_name(&Algorithm::Sha256.digest(name.to_string().as_bytes()))
}

fn read(path: &Path, max: u64) -> Option<Vec<u8>> {
    let is_small = fs::symlink_metadata(path).ok().is_some_and(|file| file.is_file() && file.len() <= max);
    let mut file = fs::File::open(path).ok().filter(|_| is_small)?;
    // Pruning uses this time as the time of last use.
    let _ = file.set_modified(std::time::SystemTime::now());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok().map(|_| bytes)
}

/// Writes a file under its name once it is complete.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r7_a_stored_document_is_returned_only_with_its_digest() {
        let home = tempfile::tempdir().unwrap();
        let documents = Documents::new(Some(home.path().to_owned()));
        let digest = Algorithm::Sha256.digest(b"{}");
        assert_eq!(documents.document(&digest), None);
        documents.keep_document(&digest, b"{}");
        assert_eq!(documents.document(&digest).unwrap(), b"{}");
        fs::write(home.path().join(DOCUMENTS).join(file_name(&digest)), b"{ }").unwrap();
        assert_eq!(documents.document(&digest), None);
        let nowhere = Documents::new(None);
        nowhere.keep_document(&digest, b"{}");
        assert_eq!(nowhere.document(&digest), None);
    }

    #[test]
    fn r7_a_tag_is_that_of_its_host_and_repository() {
        let home = tempfile::tempdir().unwrap();
        let documents = Documents::new(Some(home.path().to_owned()));
        let name = |text: &str| ImageName::parse(text).unwrap();
        let digest = Algorithm::Sha256.digest(b"{}");
        documents.keep_tag(&name("reg.test/app"), &digest);
        assert_eq!(documents.tag(&name("reg.test/app:latest")), Some(digest));
        for other in ["reg.test/app:1", "reg.test:5000/app", "reg.test/apps", "app"] {
            assert_eq!(documents.tag(&name(other)), None, "{other}");
        }
    }
}
