//! Surveys: the documents and layers that an image names, with what was found for each, and all faults.
//!
//! Opening an image ends at the first mismatch. A survey continues as long as anything can be read, so that
//! all faults can be reported. This module owns what a survey contains; [`crate::verify`] compares the
//! results and reads the layers.

use std::cell::RefCell;
use std::sync::Arc;

use crate::digest::Digest;
pub(crate) use crate::error::DocumentRole;
use crate::error::Error;
use crate::image::manifest::Descriptor;
use crate::read_at::ReadAt;

/// The result of surveying an image.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The documents, in the order in which they lead to each other.
    pub documents: Vec<SurveyedDocument>,
    /// The layers, lowest first.
    pub layers: Vec<SurveyedLayer>,
    /// Contradictions, and errors that prevented finding further documents and layers.
    pub faults: Vec<Error>,
}

/// A document: its expected and its actual properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SurveyedDocument {
    /// The kind of document.
    pub role: DocumentRole,
    /// The digest in the descriptor or name that led to the document.
    pub digest: Digest,
    /// The expected length in bytes, if one was stated.
    pub size: Option<u64>,
    /// Actual length in bytes and digest; `None` when the document is missing.
    pub found: Option<(u64, Digest)>,
}

/// A layer: its expected properties and its bytes.
#[derive(Debug, Clone)]
pub(crate) struct SurveyedLayer {
    /// Digest of the blob, if one was stated.
    pub digest: Option<Digest>,
    /// Length of the blob in bytes, if one was stated.
    pub size: Option<u64>,
    /// Digest of the uncompressed tar; `None` when the config that states it cannot be read.
    pub diff_id: Option<Digest>,
    /// Bytes of the blob, not read yet; `None` when the blob is missing.
    pub bytes: Option<Arc<dyn ReadAt>>,
    /// Why the layer cannot be compared with a digest, if so; then `bytes` is `None`.
    pub unchecked: Option<String>,
}

impl SurveyedDocument {
    /// Creates the result for a document with the expected `digest` and `size`. `bytes` is `None` when the
    /// document is missing.
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

    /// Returns the documents, without manifests and configs that were read but belong to other images.
    pub(super) fn of_image(self, own: &[Digest]) -> Vec<SurveyedDocument> {
        let mut documents = self.0.into_inner();
        documents
            .retain(|document| document.role == DocumentRole::ImageIndex || own.contains(&document.digest));
        documents
    }
}
