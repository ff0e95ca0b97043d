//! Blobs that are files of an archive or a directory, under names made of their digests.
//!
//! This module owns the join of [`Archive`] and [`Blobs`]; where each format puts a blob is given.

use std::sync::Arc;

use super::archive::Archive;
use super::blobs::Blobs;
use crate::digest::Digest;
use crate::error::Result;
use crate::image::manifest::Descriptor;
use crate::read_at::ReadAt;

/// An archive whose blobs have names made of their digests.
#[derive(Debug)]
pub(super) struct ArchiveBlobs {
    pub(super) archive: Archive,
    /// Where a blob can be, in the order in which the names are tried.
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
