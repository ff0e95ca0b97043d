//! The interface that a source implements so that an image can be opened from it: blobs by descriptor.
//!
//! This module separates the places that hold images from [`super::walk`], which finds an image in them. It
//! owns what identifies stored bytes. It must not know names, archives, or what documents mean.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::{DocumentRole, LayerBlob};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::LayerDescriptor;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::limits::{Bound, Limits};
use crate::read_at::{ReadAt, read_to_vec};
use crate::workers::cores;

/// Finds blobs by descriptor, for example in an archive, in a directory or over a network.
///
/// Returned bytes are not checked yet. [`super::walk`] compares every document with its descriptor, and
/// layers are checked when they are indexed.
pub(super) trait Blobs: Send + Sync + fmt::Debug {
    /// Returns the name of the place in errors: a path or a repository.
    fn place(&self) -> String;

    /// Returns the limits on the documents of an image.
    fn limits(&self) -> Limits;

    /// Returns the stored bytes of the blob, not read yet; `None` when the place does not have the blob.
    ///
    /// # Errors
    /// When the place cannot be searched, or holds something other than a blob under the blob's name.
    fn blob(&self, wanted: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>>;

    /// Returns all bytes of a document; `None` when the place does not have the document. `role` is needed
    /// because registries serve manifests and configs at different addresses.
    ///
    /// # Errors
    /// [`Error::Limit`] past [`MAX_DOCUMENT_BYTES`], and as [`Blobs::blob`].
    fn document(&self, role: DocumentRole, wanted: &Descriptor) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.blob(wanted)? else { return Ok(None) };
        let what = Subject::Document { role, digest: wanted.digest };
        read_bounded(&what, &*bytes, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES).map(Some)
    }

    /// Returns whether the place has a manifest, so that a missing manifest is an error only if it is
    /// selected (F4). A place where this query is expensive may return `true`; [`Blobs::document`] then
    /// reports a missing manifest.
    ///
    /// # Errors
    /// As [`Blobs::blob`].
    fn has_manifest(&self, wanted: &Descriptor) -> Result<bool> {
        Ok(self.blob(wanted)?.is_some())
    }

    /// Returns a layer whose blob is missing from another copy that the place has, such as the directory into
    /// which the layer was unpacked; `None` when there is no copy.
    ///
    /// # Errors
    /// [`Error::Unverifiable`] when the copy cannot be compared with the diff_id of the layer.
    fn unpacked(&self, _missing: &MissingLayer<'_>) -> Result<Option<LayerBlob>> {
        Ok(None)
    }

    /// Returns how many layers should be read at the same time, at least 1. The default is the number of
    /// cores, which suits local files, because decoding takes most of the time.
    fn reads_at_once(&self) -> usize {
        cores()
    }
}

/// A layer whose blob is missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct MissingLayer<'a> {
    /// Position of the layer in the image.
    pub(super) number: usize,
    /// The diff_ids of all layers of the image.
    pub(super) diff_ids: &'a [Digest],
    /// Description of the layer in the documents.
    pub(super) descriptor: &'a LayerDescriptor,
}

/// The identity of stored bytes, with which an index of these bytes can be found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BlobIdentity {
    /// Digest that the manifest states; an index is kept only once the bytes are known to match.
    Digest(Digest),
    /// A part of a file with the properties that the file had when it was opened, for bytes without a stated
    /// digest.
    File(FileIdentity),
    /// The exact tar that the diff_id of the layer names, put together from other files. Its index is that of
    /// every uncompressed copy of the layer.
    Tar,
    /// A directory as it was when it was walked: the digest of everything that was seen.
    Walk(Digest),
    /// No identity, for bytes that cannot be recognised later, such as spooled standard input. Their index is
    /// never stored or shared.
    Unknown,
}

/// A part of a file, with the properties that the file had when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileIdentity {
    /// Device number of the file.
    pub device: u64,
    /// Inode number of the file.
    pub inode: u64,
    /// Length of the file in bytes.
    pub size: u64,
    /// Time of last modification of the file, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Time of the last change of the file or its attributes, in nanoseconds since the epoch. Unlike the time of
    /// modification it cannot be set, so a file that is rewritten has another one.
    pub ctime_ns: i64,
    /// Offset of the part in bytes: in the file, or in the uncompressed tar when the file is compressed as a
    /// whole.
    pub offset: u64,
    /// Length of the part in bytes.
    pub len_bytes: u64,
}

impl FileIdentity {
    /// Returns the identity of all of `file`, with its current properties.
    ///
    /// # Errors
    /// When the properties of the file cannot be read.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(FileIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: in_ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: in_ns(metadata.ctime(), metadata.ctime_nsec()),
            offset: 0,
            len_bytes: metadata.size(),
        })
    }
}

fn in_ns(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

impl BlobIdentity {
    /// Returns the identity of the `len_bytes` bytes at `offset` of this part.
    pub(super) fn part(self, offset: u64, len_bytes: u64) -> Self {
        match self {
            BlobIdentity::File(whole) => BlobIdentity::File(FileIdentity { offset, len_bytes, ..whole }),
            _ => BlobIdentity::Unknown,
        }
    }

    /// Returns the text that names an index of these bytes in the store; `None` when such an index must not
    /// be stored.
    #[must_use]
    pub(crate) fn store_name(&self) -> Option<String> {
        match self {
            BlobIdentity::Digest(digest) => Some(digest.to_string()),
            BlobIdentity::File(FileIdentity {
                device,
                inode,
                size,
                mtime_ns,
                ctime_ns,
                offset,
                len_bytes,
            }) => Some(format!(
                "device {device} inode {inode} size {size} mtime {mtime_ns} ctime {ctime_ns} at {offset} \
                 length {len_bytes}"
            )),
            BlobIdentity::Walk(digest) => Some(format!("walk {digest}")),
            BlobIdentity::Tar | BlobIdentity::Unknown => None,
        }
    }
}

/// Reads all of `bytes`, at most `max` bytes. `what` names the bytes in errors.
///
/// # Errors
/// [`Error::Limit`] naming `limit`; [`Error::Io`].
pub(super) fn read_bounded(
    what: &Subject,
    bytes: &dyn ReadAt,
    limit: &'static str,
    max: u64,
) -> Result<Vec<u8>> {
    if bytes.len() > max {
        return Err(Error::limit(what.clone(), limit, bytes.len(), max));
    }
    read_to_vec(bytes).map_err(|cause| Error::io_on("cannot read", what.clone(), cause))
}

/// Returns `total + len_bytes`, if this is within `bound`. `what` names the last document in errors.
///
/// # Errors
/// [`Error::Limit`].
pub(super) fn add_within(what: &Subject, bound: Bound, total: u64, len_bytes: u64) -> Result<u64> {
    match total.saturating_add(len_bytes) {
        total if total <= bound.max => Ok(total),
        total => Err(Error::over(what.clone(), bound, total)),
    }
}
