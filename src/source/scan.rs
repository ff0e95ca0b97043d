//! The members of an archive: their names and positions, without their contents.
//!
//! This module owns which properties of an archive's tar a source needs. [`crate::layer`] parses the tar.

use crate::error::{StreamFault, StreamResult as Result};
use crate::layer::entry::{Entry, EntryKind, Stored};
use crate::layer::table::LayerIndex;
use crate::layer::tar::Sink;
use crate::limits::{Bound, Limits};
use crate::path::MAX_PATH_BYTES;
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
        Err(StreamFault::Limit { entry, limit, value, max }) => {
            Err(StreamFault::Limit { entry, limit: Limits::name_of_archive(limit), value, max })
        }
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
    /// Total length of names and link targets, in bytes.
    name_bytes: u64,
    max_name_bytes: Bound,
}

impl Members {
    fn new(limits: Limits) -> Self {
        let (max, max_name_bytes) = (limits.members(), limits.member_name_bytes());
        Members { found: Vec::new(), max, name_bytes: 0, max_name_bytes }
    }
}

impl Sink for Members {
    fn entry(&mut self, entry: Entry<'_>) -> Result<()> {
        let count = self.found.len() as u64 + 1;
        if count > self.max.max {
            return Err(StreamFault::over(self.max, count));
        }
        if entry.name.len() > MAX_PATH_BYTES {
            // No document can name this member, see `Archive::find`.
            return Ok(());
        }
        let kind = match entry.kind {
            EntryKind::File(data) => match data.stored {
                Stored::Contiguous(extent) => {
                    MemberKind::File { offset: extent.offset, len_bytes: extent.len_bytes }
                }
                Stored::Sparse(_) => MemberKind::Other,
            },
            EntryKind::Directory => MemberKind::Directory,
            // The kernel would not follow it either.
            EntryKind::Symlink(target) | EntryKind::Hardlink(target) if target.len() > MAX_PATH_BYTES => {
                MemberKind::Other
            }
            EntryKind::Symlink(target) => MemberKind::Symlink(target.to_vec()),
            EntryKind::Hardlink(target) => MemberKind::Hardlink(target.to_vec()),
            EntryKind::Char(_) | EntryKind::Block(_) | EntryKind::Fifo => MemberKind::Other,
        };
        let target = match &kind {
            MemberKind::Symlink(target) | MemberKind::Hardlink(target) => target.len(),
            _ => 0,
        };
        self.name_bytes += (entry.name.len() + target) as u64;
        if self.name_bytes > self.max_name_bytes.max {
            return Err(StreamFault::over(self.max_name_bytes, self.name_bytes));
        }
        self.found.push(Member { name: entry.name.to_vec(), kind });
        Ok(())
    }

    fn warning(&mut self, _: WarningKind, _: &[u8]) {}
}
