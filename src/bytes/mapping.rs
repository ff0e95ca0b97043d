//! Maps a file into memory for reading. This is the only module that calls `memmap2`.
//!
//! Other processes can change a mapping through its file. The caller decides which files may be mapped. This
//! module owns the check that the file is long enough. It does not know what the bytes mean; no other code
//! may rely on the bytes staying the same.
#![expect(unsafe_code, reason = "the compiler cannot know who else writes to a file")]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

use super::regions::{Node, REGIONS};

/// A mapped part of a file.
pub(super) struct Mapping {
    bytes: Mmap,
    /// The mapping in the list of those whose lost pages are replaced.
    node: &'static Node,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Before `bytes` are unmapped.
        self.node.remove();
    }
}

impl Mapping {
    /// Maps `len_bytes` bytes from `offset`. Fails with [`io::ErrorKind::UnexpectedEof`] if the file is
    /// shorter.
    pub(super) fn new(file: &File, offset: u64, len_bytes: usize) -> io::Result<Self> {
        let end = offset.checked_add(len_bytes as u64);
        if end.is_none_or(|end| file.metadata().map_or(0, |found| found.len()) < end) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: imgmount never writes to a file that it has mapped: the files of the store are complete
        // before they are mapped, and later replaced or unlinked, but never changed. They belong to the user,
        // in a directory that no other user can write to. If that user changes one anyway, the bytes are
        // plain numbers, read through accessors that check all bounds each time and do not rely on a value
        // staying the same. An answer can then be wrong, or the process can end, but memory safety is kept.
        let mapping = unsafe { MmapOptions::new().offset(offset).len(len_bytes).map(file) }?;
        Ok(Mapping { node: REGIONS.add(&mapping), bytes: mapping })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Releases the pages; reading them again loads them from the file.
    pub(super) fn release(&self) {
        // SAFETY: the mapping is shared and was never writable, so its pages are the same as in the file.
        // Pages dropped here have the same content when they are read again (madvise(2), MADV_DONTNEED).
        let released = unsafe { self.bytes.unchecked_advise(UncheckedAdvice::DontNeed) };
        if let Err(cause) = released {
            log::debug!("cannot unmap memory: {cause}");
        }
    }
}
