//! Memory whose size an input decides, and memory that a server can do without for one request.
//!
//! A failed allocation ends a Rust program, unless the code asks for the memory in a way that may fail. This module
//! owns these ways: they return an error. A program whose allocator ends the program with a message can find out
//! with [`failure_is_expected`] that it must not do so.

use std::cell::Cell;
use std::collections::TryReserveError;
use std::io;

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Returns true while this thread allocates memory and handles a failure. For allocators of programs.
#[must_use]
pub fn failure_is_expected() -> bool {
    EXPECTED.get()
}

/// Makes room in `buffer` for `more` bytes, and for no more than that.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`].
pub(crate) fn reserve(buffer: &mut Vec<u8>, more: usize) -> io::Result<()> {
    expecting(|| buffer.try_reserve_exact(more))
}

/// Returns `len_bytes` zeros.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`].
pub(crate) fn zeros(len_bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::new();
    reserve(&mut buffer, len_bytes)?;
    buffer.resize(len_bytes, 0);
    Ok(buffer)
}

fn expecting(allocate: impl FnOnce() -> Result<(), TryReserveError>) -> io::Result<()> {
    let before = EXPECTED.replace(true);
    let allocated = allocate();
    EXPECTED.set(before);
    allocated.map_err(|_| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        assert_eq!(zeros(isize::MAX as usize).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(zeros(3).unwrap(), [0; 3]);
        assert!(!failure_is_expected());
    }
}
