//! One pass over a layer: digests, entries, checkpoints and span hashes at once.
//!
//! This module owns what a pass is asked, what it yields and what a mismatch means. How the work is
//! spread over threads is in [`super::pass`]; where the index is kept is in [`crate::store`]. It does
//! not know where the bytes come from.

use std::fs::File;
use std::sync::Arc;

use super::entry::Extent;
use super::pass;
use super::scan;
use super::table::LayerIndex;
use super::tar::Limits;
use super::windows::Windows;
use crate::compress::Compression;
use crate::digest::Digest;
use crate::error::{Error, Property, Result, Subject};
use crate::read_at::ReadAt;

/// Whether bytes are checked against the image's digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verify {
    /// Every digest, size and span.
    #[default]
    Full,
    /// Nothing, and a damaged layer shows what could be had of it.
    Off,
}

/// What an image says a layer must be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Digest of the bytes as stored.
    pub blob_digest: Option<Digest>,
    /// Length of the bytes as stored.
    pub blob_bytes: Option<u64>,
}

/// A layer to be indexed.
pub(crate) struct Request<'a> {
    /// The bytes as stored.
    pub bytes: Arc<dyn ReadAt>,
    /// Its name in errors.
    pub what: &'a Subject,
    /// How it is compressed, if that is known; otherwise it is detected.
    pub compression: Option<Compression>,
    /// What it must be.
    pub expected: Expected,
    /// Take the SHA-256 of what nothing is expected of, too.
    pub learn: bool,
    /// Whether that is checked.
    pub verify: Verify,
    /// What the tar may hold.
    pub limits: Limits,
    /// Empty files for what is too large for memory; without them windows stay in memory, and spans far
    /// from a checkpoint are decoded from there each time.
    pub scratch: Option<Scratch>,
    /// Called with the number of stored bytes that were read since the last call.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Receives the uncompressed bytes.
    pub observer: Option<Box<dyn TarObserver>>,
}

/// Receives the uncompressed bytes of a pass: an archive's members can be indexed as they are unpacked.
pub(crate) trait TarObserver {
    /// A regular file begins: its bytes lie in this extent, and none of them went by yet.
    fn file(&mut self, extent: Extent);

    /// The bytes at `offset` of the uncompressed tar; they follow those of the call before.
    fn bytes(&mut self, offset: u64, bytes: &[u8]);
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("what", &self.what).finish_non_exhaustive()
    }
}

/// Files that one pass writes to.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Takes the compressed windows.
    pub windows: File,
    /// Takes the seekable copy.
    pub copy: File,
}

/// What one pass yields.
#[derive(Debug)]
pub(crate) struct Indexed {
    /// The index.
    pub index: LayerIndex,
    /// The compressed windows of its checkpoints.
    pub windows: Windows,
    /// The seekable copy, when one was needed and could be written.
    pub copy: Option<File>,
}

/// Reads a layer once and indexes it.
///
/// # Errors
/// [`Error::Mismatch`] when a size or digest is not the expected one (told in preference to the damage
/// that shows first), [`Error::Tar`], [`Error::Decompress`] or [`Error::Limit`] for what cannot be read,
/// [`Error::Io`] when the source fails. Under [`Verify::Off`] damage ends the index early instead.
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
        // A scan seeks, so the beginning is looked at by itself.
        let known = request.compression.map_or_else(|| Compression::detect(&*request.bytes), Ok);
        let compression = known.map_err(|cause| Error::io_on("cannot read", request.what.clone(), cause))?;
        if compression == Compression::Plain {
            return scan::scan_headers(&request);
        }
        return pass::run(Request { compression: Some(compression), ..request });
    }
    pass::run(request)
}
