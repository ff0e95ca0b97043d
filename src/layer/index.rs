//! One pass over a layer, which computes digests, entries, checkpoints and span hashes.
//!
//! This module owns the request and the results of a pass, and what counts as a mismatch. [`super::pass`]
//! distributes the work over threads, and [`crate::store`] stores the index. This module must not know where
//! the bytes come from.

use std::fs::File;
use std::sync::Arc;

use super::entry::Extent;
use super::growth::Growth;
use super::pass;
use super::scan;
use super::table::LayerIndex;
use super::windows::Windows;
use crate::compress::{Compression, DecoderMemory, Patience};
use crate::digest::Digest;
use crate::error::{Error, Property, Result, Subject};
use crate::limits::Limits;
use crate::read_at::ReadAt;

/// Whether bytes are compared with the image's digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verify {
    /// Every digest, size and span is compared.
    #[default]
    Full,
    /// Nothing is compared, and of a damaged layer the entries before the damage are shown.
    Off,
}

/// The digests and the size that an image states for a layer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Digest of the bytes as stored.
    pub blob_digest: Option<Digest>,
    /// Length in bytes of the layer as stored.
    pub blob_bytes: Option<u64>,
    /// Whether SHA-256 digests are also computed where none are expected.
    pub learn: bool,
}

/// A request to index a layer.
pub(crate) struct Request<'a> {
    /// Bytes of the layer as stored.
    pub bytes: Arc<dyn ReadAt>,
    /// The layer's name in errors.
    pub what: &'a Subject,
    /// The compression, if known; otherwise it is detected.
    pub compression: Option<Compression>,
    /// The expected digests and size.
    pub expected: Expected,
    /// Whether digests are compared with the expected ones.
    pub verify: Verify,
    /// The limits for the tar.
    pub limits: Limits,
    /// Empty files for data that is too large for memory. Without them windows stay in memory, and spans far
    /// from a checkpoint are decoded from that checkpoint each time.
    pub scratch: Option<Scratch>,
    /// A callback for progress: receives the number of stored bytes that were read since its last call.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Observer that receives the uncompressed bytes.
    pub observer: Option<Box<dyn TarObserver>>,
    /// The growth of all layers of the image.
    pub growth: &'a Growth,
    /// The account of the memory of decoders.
    pub decoders: &'a Arc<DecoderMemory>,
    /// How long the pass waits for memory that other decoders hold.
    pub patience: Patience,
}

/// Receives the uncompressed bytes of a pass, so that an archive's members can be indexed while it is
/// unpacked.
pub(crate) trait TarObserver {
    /// Announces a regular file whose bytes have this extent; none of them were passed yet.
    fn file(&mut self, extent: Extent);

    /// Passes the bytes at `offset` of the uncompressed tar, which follow the bytes of the previous call.
    fn bytes(&mut self, offset: u64, bytes: &[u8]);
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("what", &self.what).finish_non_exhaustive()
    }
}

/// The files that one pass writes to.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// File for the compressed windows.
    pub windows: File,
    /// File for the seekable copy.
    pub copy: File,
}

/// The results of one pass.
#[derive(Debug)]
pub(crate) struct Indexed {
    /// The layer index.
    pub index: LayerIndex,
    /// The compressed windows of the index's checkpoints.
    pub windows: Windows,
    /// The seekable copy, if one was needed and could be written.
    pub copy: Option<File>,
    /// Whether the index can be stored. False if the seekable copy could not be written: a later pass can write
    /// it, which a stored index would prevent.
    pub is_complete: bool,
}

/// Reads a layer once and indexes it.
///
/// # Errors
/// [`Error::Mismatch`] when a size or digest is not the expected one (a mismatch is reported in preference to
/// damage found earlier), [`Error::Tar`], [`Error::Decompress`] or [`Error::Limit`] for bytes that cannot be
/// decoded or parsed, [`Error::Io`] when the source cannot be read. Under [`Verify::Off`] damage ends the
/// index early and is not an error.
pub(crate) fn index_layer(request: Request<'_>) -> Result<Indexed> {
    let found = request.bytes.len();
    if let Some(expected) = request.expected.blob_bytes
        && expected != found
        && request.verify == Verify::Full
    {
        return Err(Error::mismatch(
            request.what.clone(),
            Property::Size,
            format!("{expected} bytes"),
            format!("{found} bytes"),
        ));
    }
    if request.verify == Verify::Off {
        // A header scan seeks, so the compression is detected in a separate read.
        let known = request.compression.map_or_else(|| Compression::detect(&*request.bytes), Ok);
        let compression = known.map_err(|cause| Error::io_on("cannot read", request.what.clone(), cause))?;
        if compression == Compression::Plain {
            return scan::scan_headers(&request);
        }
        return pass::run(Request { compression: Some(compression), ..request });
    }
    pass::run(request)
}
