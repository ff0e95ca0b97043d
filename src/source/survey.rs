//! An image with all its faults: what it names, and what was found in each place.
//!
//! Opening an image ends at the first thing that is not as it was promised. A survey goes on as long as
//! anything can be read, for who wants to know all that is wrong. This module owns what a survey contains;
//! [`crate::verify`] compares it, and reads the layers.

use std::cell::RefCell;
use std::sync::Arc;

use crate::digest::Digest;
pub(crate) use crate::error::DocumentRole;
use crate::error::Error;
use crate::image::manifest::Descriptor;
use crate::read_at::ReadAt;

/// What was found of an image.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// In the order in which they lead to each other.
    pub documents: Vec<SurveyedDocument>,
    /// Lowest first.
    pub layers: Vec<SurveyedLayer>,
    /// What contradicts itself or ends the way to further documents and layers.
    pub faults: Vec<Error>,
}

/// A document, as it should be and as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SurveyedDocument {
    /// What it is.
    pub role: DocumentRole,
    /// The digest that led to it.
    pub digest: Digest,
    /// The length in bytes that was promised, where one was.
    pub size: Option<u64>,
    /// Length in bytes and digest of what is there; `None` when nothing is.
    pub found: Option<(u64, Digest)>,
}

/// A layer, as it should be, and its bytes.
#[derive(Debug, Clone)]
pub(crate) struct SurveyedLayer {
    /// Digest of the blob, where one was promised.
    pub digest: Option<Digest>,
    /// Length of the blob in bytes, where one was promised.
    pub size: Option<u64>,
    /// Digest of the uncompressed tar; `None` when the config that would tell cannot be read.
    pub diff_id: Option<Digest>,
    /// The blob, not read yet; `None` when it is missing.
    pub bytes: Option<Arc<dyn ReadAt>>,
}

impl SurveyedDocument {
    /// Compares `bytes`, if there are any, with `digest` and `size`.
    pub(super) fn new(role: DocumentRole, digest: Digest, size: Option<u64>, bytes: Option<&[u8]>) -> Self {
        let found = bytes.map(|bytes| (bytes.len() as u64, digest.algorithm().digest(bytes)));
        SurveyedDocument { role, digest, size, found }
    }
}

/// The documents that a walk read, each once.
#[derive(Debug, Default)]
pub(super) struct DocumentLog(RefCell<Vec<SurveyedDocument>>);

impl DocumentLog {
    pub(super) fn record(&self, role: DocumentRole, descriptor: &Descriptor, bytes: Option<&[u8]>) {
        let mut documents = self.0.borrow_mut();
        if !documents.iter().any(|known| known.role == role && known.digest == descriptor.digest) {
            documents.push(SurveyedDocument::new(role, descriptor.digest, Some(descriptor.size), bytes));
        }
    }

    /// Returns the documents, without the manifests and configs of other images that were looked into.
    pub(super) fn of_image(self, own: &[Digest]) -> Vec<SurveyedDocument> {
        let mut documents = self.0.into_inner();
        documents
            .retain(|document| document.role == DocumentRole::ImageIndex || own.contains(&document.digest));
        documents
    }
}
