//! A file's bytes, mapped for reading: the only place that calls `memmap2`.
//!
//! A mapping is memory that others can change through the file. Whose file it may be is for the caller; here
//! it is seen to that a file is long enough, and that nothing relies on the bytes being what they were.
#![expect(unsafe_code, reason = "the compiler cannot know who else writes to a file")]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};

/// Part of a file, mapped.
pub(super) struct Mapping(Mmap);

impl Mapping {
    /// Maps `len_bytes` bytes from `offset`, which the file must have.
    pub(super) fn new(file: &File, offset: u64, len_bytes: usize) -> io::Result<Self> {
        let end = offset.checked_add(len_bytes as u64);
        if end.is_none_or(|end| file.metadata().map_or(0, |found| found.len()) < end) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: nothing of this program writes to a file that it has mapped: the store's files are whole
        // before they are, and are replaced and unlinked after that, never changed. They are the user's own, in
        // a directory that nobody else can write to. Should that user change one all the same, the bytes are
        // plain numbers, looked at through accessors that check every bound anew and rely on no value staying
        // what it was: an answer can then be wrong, or the process be ended, as by any other tampering of one's own.
        let mapping = unsafe { MmapOptions::new().offset(offset).len(len_bytes).map(file) }?;
        Ok(Mapping(mapping))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Gives the pages back; they come again from the file.
    pub(super) fn release(&self) {
        // SAFETY: the mapping is shared and was never writable, so no page of it differs from the file's, and
        // what is dropped here reads the same when it is looked at again (madvise(2), MADV_DONTNEED).
        let released = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) };
        if let Err(cause) = released {
            log::debug!("cannot unmap memory: {cause}");
        }
    }
}
