//! The members of an archive: their names and positions, without their contents.
//!
//! This module owns which properties of an archive's tar a source needs. [`crate::layer`] parses the tar.

use crate::error::{StreamFault, StreamResult as Result};
use crate::layer::entry::{Entry, EntryKind, Stored};
use crate::layer::table::LayerIndex;
use crate::layer::tar::{Limits, Sink};
use crate::read_at::ReadAt;
use crate::warning::WarningKind;

/// Maximum number of members of an archive. A valid archive has a few for each layer; the limit prevents that
/// a rootfs tar given by mistake fills the memory before it is refused.
pub(crate) const MAX_MEMBERS: usize = 1024 * 1024;

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
/// [`StreamFault::Tar`] where the tar is damaged or truncated, [`StreamFault::Limit`] past [`MAX_MEMBERS`].
/// The caller adds the name of the archive.
pub(crate) fn scan(bytes: &dyn ReadAt) -> Result<Option<Vec<Member>>> {
    let mut found = Members(Vec::new());
    match crate::layer::scan::scan(bytes, Limits::default(), &mut found) {
        Err(StreamFault::Tar { .. }) if found.0.is_empty() => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some(found.0)),
    }
}

/// Returns the members of an archive that was indexed as a tar, which is done when an archive is compressed
/// as a whole.
///
/// # Errors
/// [`StreamFault::Limit`] past [`MAX_MEMBERS`].
pub(crate) fn members(index: &LayerIndex) -> Result<Vec<Member>> {
    let mut found = Members(Vec::new());
    for (_, entry) in index.entries() {
        found.entry(entry)?;
    }
    Ok(found.0)
}

struct Members(Vec<Member>);

impl Sink for Members {
    fn entry(&mut self, entry: Entry<'_>) -> Result<()> {
        if self.0.len() == MAX_MEMBERS {
            return Err(StreamFault::Limit {
                entry: None,
                limit: "MAX_MEMBERS",
                value: MAX_MEMBERS as u64 + 1,
                max: MAX_MEMBERS as u64,
            });
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
        self.0.push(Member { name: entry.name.to_vec(), kind });
        Ok(())
    }

    fn warning(&mut self, _: WarningKind, _: &[u8]) {}
}
