//! The members of an archive: their names and positions, without their contents.
//!
//! This module owns which properties of an archive's tar a source needs. [`crate::layer`] parses the tar.

use crate::error::{StreamFault, StreamResult as Result};
use crate::layer::entry::{Entry, EntryKind, Stored};
use crate::layer::table::LayerIndex;
use crate::layer::tar::Sink;
use crate::limits::{Bound, Limits};
use crate::read_at::ReadAt;
use crate::warning::WarningKind;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The name as the tar writes it: bytes, not cleaned.
    pub name: Vec<u8>,
    /// The kind of member.
    pub kind: MemberKind,
}

/// The kinds of member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// A regular file whose bytes are contiguous in the tar.
    File {
        /// Offset of the bytes in the uncompressed tar, in bytes.
        offset: u64,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link with its target; bytes.
    Symlink(Vec<u8>),
    /// A hard link with the name of its target; bytes.
    Hardlink(Vec<u8>),
    /// Any other member: devices, pipes, sparse files.
    Other,
}

/// Returns all members of the tar in `bytes`; `None` when `bytes` do not begin like a tar.
///
/// # Errors
/// [`StreamFault::Tar`] where the tar is damaged or truncated, [`StreamFault::Limit`] past a limit.
/// The caller adds the name of the archive.
pub(crate) fn scan(bytes: &dyn ReadAt, limits: Limits) -> Result<Option<Vec<Member>>> {
    let mut members = Members::new(limits);
    match crate::layer::scan::scan(bytes, limits.of_archive(), &mut members) {
        Err(StreamFault::Tar { .. }) if members.found.is_empty() => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some(members.found)),
    }
}

/// Returns the members of an archive that was indexed as a tar, which is done when an archive is compressed
/// as a whole.
///
/// # Errors
/// [`StreamFault::Limit`] past a limit.
pub(crate) fn members(index: &LayerIndex, limits: Limits) -> Result<Vec<Member>> {
    let mut members = Members::new(limits);
    for (_, entry) in index.entries() {
        members.entry(entry)?;
    }
    Ok(members.found)
}

struct Members {
    found: Vec<Member>,
    max: Bound,
}

impl Members {
    fn new(limits: Limits) -> Self {
        Members { found: Vec::new(), max: limits.members() }
    }
}

impl Sink for Members {
    fn entry(&mut self, entry: Entry<'_>) -> Result<()> {
        let count = self.found.len() as u64 + 1;
        if count > self.max.max {
            return Err(StreamFault::over(self.max, count));
        }
        let kind = match entry.kind {
            EntryKind::File(data) => match data.stored {
                Stored::Contiguous(extent) => {
                    MemberKind::File { offset: extent.offset, len_bytes: extent.len_bytes }
                }
                Stored::Sparse(_) => MemberKind::Other,
            },
            EntryKind::Directory => MemberKind::Directory,
            EntryKind::Symlink(target) => MemberKind::Symlink(target.to_vec()),
            EntryKind::Hardlink(target) => MemberKind::Hardlink(target.to_vec()),
            EntryKind::Char(_) | EntryKind::Block(_) | EntryKind::Fifo => MemberKind::Other,
        };
        self.found.push(Member { name: entry.name.to_vec(), kind });
        Ok(())
    }

    fn warning(&mut self, _: WarningKind, _: &[u8]) {}
}
