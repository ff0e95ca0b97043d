//! A layer index with its windows and its seekable copy, in memory or stored in files.
//!
//! ```text
//! index file:  windows | index (see [`super::table`]) | trailer: index offset, index length, magic
//! copy file:   see [`super::copy`]
//! ```
//!
//! This module owns the layout of the index file. It must not know where such files are stored, how they are
//! named or when they are trusted; [`crate::store`] does.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::index::Indexed;
use super::table::LayerIndex;
use super::windows::Windows;
use crate::bytes::Bytes;
use crate::descriptors::Reopen;
use crate::error::{Error, Result, Subject};
use crate::read_at::{ByteRange, FileBytes, ReadAt};

/// Length in bytes of the trailer that ends every index file.
const TRAILER_BYTES: usize = 24;
const TRAILER_MAGIC: &[u8; 8] = b"IMGMEND\0";
/// Maximum length of an index in bytes; an index is checked as a whole. An index of 16 Mi entries with long
/// names is below the limit.
pub(crate) const MAX_INDEX_BYTES: u64 = 4 << 30;

/// An index with its windows and its seekable copy, from disk or from a pass.
#[derive(Debug)]
pub(crate) struct StoredIndex {
    /// The layer index.
    pub index: Arc<LayerIndex>,
    /// The compressed windows of its checkpoints.
    pub windows: Arc<dyn ReadAt>,
    /// The seekable copy, if one exists.
    pub copy: Option<Arc<dyn ReadAt>>,
}

/// Opens the files of a stored index again.
pub(crate) struct SavedFiles {
    /// Opens the index file.
    pub index: Reopen,
    /// Opens the seekable copy.
    pub copy: Reopen,
}

impl std::fmt::Debug for SavedFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedFiles").finish_non_exhaustive()
    }
}

impl StoredIndex {
    /// Takes the results of a pass that [`write_index`] has stored. A large index is then read from its file,
    /// and the memory in which it was built is freed.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the file does not contain what was written to it, and as
    /// [`StoredIndex::from_pass`].
    pub(crate) fn from_saved(indexed: Indexed, what: &Subject, reopen: &SavedFiles) -> Result<Self> {
        let Indexed { index, windows, copy, is_complete } = indexed;
        let len = index.stored_bytes();
        let mapped = match &windows {
            Windows::File(file, offset) if Bytes::would_map(len) => Bytes::of_file(file, *offset, len)
                .map_err(|cause| log::info!("{what}: cannot map the index, keeping it in memory: {cause}"))
                .ok(),
            _ => None,
        };
        let index = match mapped {
            Some(bytes) => {
                // Dropped before reading, so that only one copy of the index is in memory.
                drop(index);
                LayerIndex::from_bytes(bytes, what)?
            }
            None => index,
        };
        StoredIndex::of_files(Indexed { index, windows, copy, is_complete }, Some(reopen))
    }

    /// Takes the results of a pass, for use without a store.
    ///
    /// # Errors
    /// When the length of a scratch file cannot be read.
    pub(crate) fn from_pass(indexed: Indexed) -> Result<Self> {
        StoredIndex::of_files(indexed, None)
    }

    fn of_files(indexed: Indexed, reopen: Option<&SavedFiles>) -> Result<Self> {
        let failed = |cause| Error::io("cannot use the index that was just built", cause);
        let wrap = |file, reopen: Option<&Reopen>| match reopen {
            Some(reopen) => FileBytes::reopened_by(file, Arc::clone(reopen)),
            None => FileBytes::new(file),
        };
        let windows: Arc<dyn ReadAt> = match indexed.windows {
            Windows::Memory(bytes) => Arc::new(bytes),
            Windows::File(file, len) => {
                let file = Arc::new(wrap(file, reopen.map(|files| &files.index)).map_err(failed)?);
                Arc::new(ByteRange::new(file, 0, len).map_err(failed)?)
            }
        };
        let copy = indexed.copy.map(|file| wrap(file, reopen.map(|files| &files.copy)));
        let copy = copy.transpose().map_err(failed)?;
        Ok(StoredIndex {
            index: Arc::new(indexed.index),
            windows,
            copy: copy.map(|copy| Arc::new(copy) as Arc<dyn ReadAt>),
        })
    }
}

/// Completes an index file by appending index and trailer to the windows that the pass wrote; `file` is
/// positioned at the end of the windows.
///
/// # Errors
/// When the windows are not in a file because the disk was full, or when index or trailer cannot be written.
pub(crate) fn write_index(indexed: &Indexed, mut file: &File) -> io::Result<()> {
    let Windows::File(_, windows_len) = indexed.windows else {
        return Err(io::Error::other("the windows could not be written"));
    };
    indexed.index.write_to(&mut file)?;
    file.write_all(&trailer(windows_len, indexed.index.stored_bytes() as u64))
}

/// Reads an index file. Returns the checked index and the range of the windows, in the bytes that `wrap` makes of
/// the file.
///
/// # Errors
/// [`Error::Malformed`] when the file is not a complete index file of this version, [`Error::Io`] when it
/// cannot be read. `what` names the file.
pub(crate) fn read_index(
    file: File,
    what: &Subject,
    wrap: impl FnOnce(File) -> io::Result<FileBytes>,
) -> Result<(LayerIndex, ByteRange)> {
    let bad = |reason: &str| Error::malformed(what.clone(), reason);
    let failed = |cause| Error::io_on("cannot read", what.clone(), cause);
    let len_bytes = file.metadata().map_err(failed)?.len();
    let trailer_at =
        len_bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(|| bad("shorter than the trailer"))?;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, trailer_at).map_err(failed)?;
    let (index_offset, index_len) = read_trailer(&trailer).ok_or_else(|| bad("no trailer"))?;
    if index_offset.checked_add(index_len) != Some(trailer_at) || index_len > MAX_INDEX_BYTES {
        return Err(bad("the trailer has an invalid offset"));
    }
    let index_len = usize::try_from(index_len).map_err(|_| bad("too large"))?;
    let index = Bytes::of_file(&file, index_offset, index_len).map_err(failed)?;
    let index = LayerIndex::from_bytes(index, what)?;
    let bytes = wrap(file).map_err(failed)?;
    let windows = ByteRange::new(Arc::new(bytes), 0, index_offset).map_err(failed)?;
    Ok((index, windows))
}

fn trailer(index_offset: u64, index_len: u64) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[..8].copy_from_slice(&index_offset.to_le_bytes());
    bytes[8..16].copy_from_slice(&index_len.to_le_bytes());
    bytes[16..].copy_from_slice(TRAILER_MAGIC);
    bytes
}

fn read_trailer(trailer: &[u8; TRAILER_BYTES]) -> Option<(u64, u64)> {
    let (offset, rest) = trailer.split_first_chunk::<8>()?;
    let (len, magic) = rest.split_first_chunk::<8>()?;
    (magic == TRAILER_MAGIC).then_some((u64::from_le_bytes(*offset), u64::from_le_bytes(*len)))
}
