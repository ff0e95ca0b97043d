//! Directories that skopeo writes for `dir:`: a manifest and its blobs, side by side.
//!
//! This module owns the file names in such a directory. Source: containers/image,
//! directory/directory_transport.go.

use super::archive::{Archive, not_an_image};
use super::archive_blobs::ArchiveBlobs;
use super::blobs::Blobs as _;
use super::formats::Site;
use super::names::{self, Names};
use super::{ImageSource, ImageSummary, OpenedImage, Selection, Survey};
use crate::digest::{Algorithm, Digest};
use crate::error::Result;
use crate::image::Platform;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::layer::index::Verify;

const VERSION_PREFIX: &[u8] = b"Directory Transport Version: 1.";

/// Maximum length of a `version` file that is read, in bytes; the text has 33 bytes.
const MAX_VERSION_BYTES: u64 = 1024;

/// Returns true for a place with a `version` file of this format.
pub(super) fn detect(place: &mut Site<'_>) -> Result<bool> {
    has_version(place.archive()?)
}

/// Opens a directory that skopeo wrote.
pub(super) fn open(place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    Ok(Box::new(Dir::open(place.verify(), place.into_archive()?)?))
}

/// A directory that skopeo wrote.
#[derive(Debug)]
struct Dir {
    blobs: ArchiveBlobs,
    /// The descriptor of `manifest.json`, which may be an image index. The directory has no descriptor for
    /// that file, so this one is made from the file's bytes and contains them.
    top: Descriptor,
    verify: Verify,
}

impl Dir {
    /// Opens the directory by reading `version` and `manifest.json`.
    fn open(verify: Verify, archive: Archive) -> Result<Self> {
        if !has_version(&archive)? {
            let reason = "no 'version' file of directory transport version 1";
            return Err(not_an_image(archive.path(), reason));
        }
        let Some(bytes) = archive.read("manifest.json", "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)? else {
            return Err(not_an_image(archive.path(), "'manifest.json' is missing"));
        };
        let (digest, len_bytes) = (Algorithm::Sha256.digest(&bytes), bytes.len() as u64);
        let top = Descriptor { data: Some(bytes), ..Descriptor::new(None, digest, len_bytes) };
        Ok(Dir { blobs: ArchiveBlobs { archive, names: blob_names }, top, verify })
    }

    fn summary() -> ImageSummary {
        ImageSummary::default()
    }

    /// Refuses a selection that does not select the only image.
    fn check(&self, select: &Selection) -> Result<()> {
        names::select(&self.blobs.place(), select, &[(Names::default(), Dir::summary())]).map(drop)
    }
}

impl ImageSource for Dir {
    fn kind(&self) -> &'static str {
        "dir"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(vec![Dir::summary()])
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        self.check(select)?;
        self.blobs.walk(platform, self.verify).open(&[&self.top], Vec::new())
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        self.check(select)?;
        let mut survey = self.blobs.walk(platform, self.verify).survey(&[&self.top]);
        // The digest was computed from the bytes, so comparing the two would prove nothing.
        survey.documents.retain(|document| document.digest != self.top.digest);
        Ok(survey)
    }
}

/// Returns true if the archive has a `version` file of this format.
fn has_version(archive: &Archive) -> Result<bool> {
    let Some(found) = archive.find("version")? else {
        return Ok(false);
    };
    if found.bytes.len() > MAX_VERSION_BYTES {
        return Ok(false);
    }
    let text = archive.read("version", "MAX_VERSION_BYTES", MAX_VERSION_BYTES)?;
    Ok(text.is_some_and(|text| text.starts_with(VERSION_PREFIX)))
}

/// Returns the file names of a blob. For digests other than SHA-256, the algorithm precedes the hash.
fn blob_names(digest: &Digest) -> Vec<String> {
    let stem = match digest.algorithm() {
        Algorithm::Sha256 => digest.hex(),
        other => format!("{}-{}", other.name(), digest.hex()),
    };
    vec![stem.clone(), format!("{stem}.manifest.json")]
}
