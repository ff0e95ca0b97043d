//! Blobs that are files of an archive or a directory, with file names made from their digests.
//!
//! This module connects [`Archive`] and [`Blobs`]. It does not know the file names of a format; the format
//! passes them in.

use std::sync::Arc;

use super::archive::Archive;
use super::blobs::Blobs;
use super::walk::Walk;
use crate::digest::Digest;
use crate::error::{DocumentRole, Result, Subject};
use crate::image::Platform;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::layer::index::Verify;
use crate::limits::Limits;
use crate::read_at::ReadAt;

/// An archive whose blobs have file names made from their digests.
#[derive(Debug)]
pub(super) struct ArchiveBlobs {
    pub(super) archive: Archive,
    /// Returns the possible file names of a blob, in the order in which they are tried.
    pub(super) names: fn(&Digest) -> Vec<String>,
}

impl ArchiveBlobs {
    /// Creates a walk to the image for `platform`, or for this host.
    pub(super) fn walk<'a>(&'a self, platform: Option<&'a Platform>, verify: Verify) -> Walk<'a> {
        Walk::new(self, platform, verify)
    }
}

impl Blobs for ArchiveBlobs {
    fn place(&self) -> String {
        self.archive.path().display().to_string()
    }

    fn limits(&self) -> Limits {
        self.archive.limits()
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>> {
        for name in (self.names)(&wanted.digest) {
            if let Some(found) = self.archive.find(&name)? {
                return Ok(Some(found.bytes));
            }
        }
        Ok(None)
    }

    fn document(&self, role: DocumentRole, wanted: &Descriptor) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.blob(wanted)? else { return Ok(None) };
        let what = Subject::Document { role, digest: wanted.digest };
        let bytes = self.archive.read_document(&what, &*bytes, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES);
        bytes.map(Some)
    }
}
