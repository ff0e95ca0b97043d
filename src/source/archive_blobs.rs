//! Blobs that are files of an archive or a directory, with file names made from their digests.
//!
//! This module connects [`Archive`] and [`Blobs`]. It does not know the file names of a format; the format
//! passes them in.

use std::sync::Arc;

use super::archive::Archive;
use super::blobs::Blobs;
use crate::digest::Digest;
use crate::error::Result;
use crate::image::manifest::Descriptor;
use crate::read_at::ReadAt;

/// An archive whose blobs have file names made from their digests.
#[derive(Debug)]
pub(super) struct ArchiveBlobs {
    pub(super) archive: Archive,
    /// Returns the possible file names of a blob, in the order in which they are tried.
    pub(super) names: fn(&Digest) -> Vec<String>,
}

impl Blobs for ArchiveBlobs {
    fn place(&self) -> String {
        self.archive.path().display().to_string()
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>> {
        for name in (self.names)(&wanted.digest) {
            if let Some(found) = self.archive.find(&name)? {
                return Ok(Some(found.bytes));
            }
        }
        Ok(None)
    }
}
