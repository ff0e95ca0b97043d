//! The members of an archive: names and places, no payloads.
//!
//! This module owns what of an archive's tar matters to a source. The tar is walked by [`crate::layer`].

use crate::error::{StreamFault, StreamResult as Result};
use crate::layer::entry::{Entry, EntryKind, Stored};
use crate::layer::table::LayerIndex;
use crate::layer::tar::{Limits, Sink};
use crate::read_at::ReadAt;
use crate::warning::WarningKind;

/// Most members of an archive. Honest ones have a few for each layer; a rootfs that is mistaken for
/// an archive should not fill the memory before it is refused.
pub(crate) const MAX_MEMBERS: usize = 1024 * 1024;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The name as it stands in the tar: bytes, not cleaned.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// A regular file whose bytes stand in the tar in one run.
    File {
        /// Offset of the bytes in the uncompressed tar, in bytes.
        offset: u64,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link and where it leads; bytes.
    Symlink(Vec<u8>),
    /// A hard link and the name of what it links to; bytes.
    Hardlink(Vec<u8>),
    /// Anything else: devices, pipes, sparse files.
    Other,
}

/// All members of a tar in `bytes`, or nothing when it does not begin like a tar.
///
/// # Errors
/// [`StreamFault::Tar`] where the tar is damaged or cut off, [`StreamFault::Limit`] past [`MAX_MEMBERS`]. The
/// archive is named by the caller.
pub(crate) fn scan(bytes: &dyn ReadAt) -> Result<Option<Vec<Member>>> {
    let mut found = Members(Vec::new());
    match crate::layer::scan::scan(bytes, Limits::default(), &mut found) {
        Err(StreamFault::Tar { .. }) if found.0.is_empty() => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(Some(found.0)),
    }
}

/// The members of an archive that was indexed as a tar, as one that is compressed as a whole must be.
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
