//! The members of an archive: names and places, no payloads.
//!
//! This module owns how the outer tar is walked. Layers are read by [`crate::layer::tar`].

use std::io::{self, Read, Seek, SeekFrom};

use tar::EntryType;

use crate::error::{Error, Result};
use crate::read_at::ReadAt;

/// Most members of an archive. Honest ones have a few for each layer; a rootfs that is mistaken for
/// an archive should not fill the memory before it is refused.
pub const MAX_MEMBERS: usize = 1024 * 1024;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name as it stands in the tar: bytes, not cleaned.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
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
/// [`Error::Tar`] where the tar is damaged or cut off, [`Error::Limit`] past [`MAX_MEMBERS`]. The
/// archive is named by the caller.
pub fn scan(bytes: &dyn ReadAt) -> Result<Option<Vec<Member>>> {
    let mut archive = tar::Archive::new(Seeker { bytes, offset: 0 });
    let entries = archive
        .entries_with_seek()
        .map_err(|cause| damaged(&[], 0, &cause))?;
    let mut members: Vec<Member> = Vec::new();
    let mut last_offset = 0;
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(_) if members.is_empty() => return Ok(None),
            Err(cause) => return Err(damaged(&[], last_offset, &cause)),
        };
        if members.len() == MAX_MEMBERS {
            return Err(Error::Limit {
                what: String::new(),
                limit: "MAX_MEMBERS",
                value: MAX_MEMBERS as u64 + 1,
                max: MAX_MEMBERS as u64,
            });
        }
        last_offset = entry.raw_header_position();
        let name = entry.path_bytes().into_owned();
        let target = || entry.link_name_bytes().unwrap_or_default().into_owned();
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                let (offset, len_bytes) = (entry.raw_file_position(), entry.size());
                if offset.checked_add(len_bytes).is_none_or(|end| end > bytes.len()) {
                    return Err(damaged(&name, last_offset, &"the archive ends inside of it"));
                }
                MemberKind::File { offset, len_bytes }
            }
            EntryType::Directory => MemberKind::Directory,
            EntryType::Symlink => MemberKind::Symlink(target()),
            EntryType::Link => MemberKind::Hardlink(target()),
            _ => MemberKind::Other,
        };
        members.push(Member { name, kind });
    }
    Ok(Some(members))
}

fn damaged(name: &[u8], offset: u64, reason: &dyn std::fmt::Display) -> Error {
    Error::Tar {
        what: String::new(),
        entry: name.escape_ascii().to_string(),
        offset,
        reason: reason.to_string(),
    }
}

/// A [`ReadAt`] that can be sought in, which is how payloads are stepped over unread.
struct Seeker<'a> {
    bytes: &'a dyn ReadAt,
    offset: u64,
}

impl Read for Seeker<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.len().saturating_sub(self.offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..len).unwrap_or_default();
        self.bytes.read_exact_at(buf, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

impl Seek for Seeker<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.len().checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}
