//! Answers about images: which layer did what to a path, what was deleted, how two trees differ.
//!
//! Pure, as [`crate::rootfs`] is: merged trees and layer indexes in, lists out. What a whiteout or an opaque
//! mark does is asked of the merge (by [`replay`](crate::rootfs::replay)) and never worked out here. Where an
//! answer needs bytes, they come through [`ReadFile`]; this module owns which bytes those are, and which
//! need not be read because it is known that they are equal. It knows no formats and no options.

pub(crate) mod content;
pub(crate) mod deleted;
pub(crate) mod diff;
pub(crate) mod history;
mod inode;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result, Subject};
use crate::rootfs::EntryAt;

pub(crate) use inode::Compared;
pub use inode::{Field, FileType, Inode};

/// All paths of one answer, in bytes. A real image has a few megabytes; a tar of a hundred kilobytes
/// can unfold into names that fill any memory.
const MAX_PATH_BYTES_TOTAL: u64 = 1 << 30;

/// Gives the bytes of an image's files, to several threads at once.
pub(crate) trait ReadFile: Sync {
    /// Fills `buf` from `offset` of the regular file that `file` describes and gives the number of bytes,
    /// which is short only at the file's end. Holes are zeros.
    ///
    /// # Errors
    /// When the bytes cannot be had.
    fn read_file(&self, file: EntryAt, buf: &mut [u8], offset: u64) -> Result<usize>;
}

/// Counts the paths of an answer.
#[derive(Debug, Default)]
struct PathBudget {
    used: u64,
}

impl PathBudget {
    fn take(&mut self, path: &[u8]) -> Result<()> {
        self.used += path.len() as u64;
        if self.used <= MAX_PATH_BYTES_TOTAL {
            return Ok(());
        }
        Err(Error::limit(Subject::Answer, "bytes of paths", self.used, MAX_PATH_BYTES_TOTAL))
    }
}
