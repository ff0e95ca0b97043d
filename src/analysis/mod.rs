//! Answers questions about images: which layer did what to a path, which files were deleted, how two
//! trees differ.
//!
//! This module owns which file contents an answer needs, and which need not be read because they are
//! known to be equal. The contents come through [`ReadFile`]. The effects of whiteouts and opaque marks
//! come from the merge (by [`replay`](crate::rootfs::replay)) and are never worked out here. The module
//! is pure, as [`crate::rootfs`] is: merged trees and layer indexes in, lists out. It must not know
//! output formats or options.

pub(crate) mod content;
pub(crate) mod deleted;
pub(crate) mod diff;
pub(crate) mod history;
mod inode;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result, Subject};
use crate::limits::{Bound, Limits};
use crate::rootfs::EntryAt;

pub(crate) use inode::Compared;
pub use inode::{Field, FileType, Inode};

/// Reads the files of an image; several threads may read at once.
pub(crate) trait ReadFile: Sync {
    /// Reads into `buf` from `offset` of the regular file that `file` describes. Returns the number of
    /// bytes, which is less than the length of `buf` only at the end of the file. Holes are zeros.
    ///
    /// # Errors
    /// Any failure to get the bytes.
    fn read_file(&self, file: EntryAt, buf: &mut [u8], offset: u64) -> Result<usize>;
}

/// Counts the bytes of an answer's paths against the limit.
#[derive(Debug)]
struct PathBudget {
    used: u64,
    max: Bound,
}

impl PathBudget {
    fn new(limits: Limits) -> Self {
        PathBudget { used: 0, max: limits.answer_bytes() }
    }

    fn take(&mut self, path: &[u8]) -> Result<()> {
        self.used += path.len() as u64;
        if self.used <= self.max.max {
            return Ok(());
        }
        Err(Error::over(Subject::Answer, self.max, self.used))
    }
}
