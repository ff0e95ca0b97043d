//! Tar members: the last header of a member combined with its extension headers.
//!
//! This module owns precedence (docs/semantics.md M12, M13) and the cleaning of owner, mode and time (M6 to
//! M8). It follows Go's `archive/tar`, because every container engine reads layers with it.

use std::borrow::Cow;

use super::Fault;
use super::header::Header;
use super::pax::{LATEST, Pax};
use crate::layer::entry::{DeviceNumber, Meta, Timestamp};

/// The extension headers before the next member.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// Offset of the first extension header in the tar, in bytes; `None` while there are none.
    pub(super) first_offset: Option<u64>,
    pub(super) pax: Pax,
    /// The name in a GNU `L` header; empty if there is none.
    pub(super) long_name: Vec<u8>,
    /// The link target in a GNU `K` header; empty if there is none.
    pub(super) long_link: Vec<u8>,
}

/// The kinds of member that the parser distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    File,
    /// A sparse file of old GNU (typeflag `S`), whose map starts in its header.
    GnuSparse,
    Alone(Alone),
    /// A type that does not exist in a rootfs.
    Unknown,
}

/// Types without payload, whatever size their header states (docs/semantics.md M18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    Hardlink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

impl Class {
    /// Returns the class by docs/semantics.md N12 and M17. `name` is the final name, because a V7 header
    /// marks a directory by a slash at the end of the name.
    pub(super) fn of(typeflag: u8, name: &[u8]) -> Self {
        match typeflag {
            0 if name.ends_with(b"/") => Class::Alone(Alone::Directory),
            // Type 7 is a contiguous file, which is read as a regular file.
            0 | b'0' | b'7' => Class::File,
            b'1' => Class::Alone(Alone::Hardlink),
            b'2' => Class::Alone(Alone::Symlink),
            b'3' => Class::Alone(Alone::Char),
            b'4' => Class::Alone(Alone::Block),
            b'5' => Class::Alone(Alone::Directory),
            b'6' => Class::Alone(Alone::Fifo),
            b'S' => Class::GnuSparse,
            _ => Class::Unknown,
        }
    }

    pub(super) fn has_payload(self) -> bool {
        !matches!(self, Class::Alone(_))
    }
}

impl Extensions {
    /// Removes all extension headers and keeps the allocated memory.
    pub(super) fn clear(&mut self) {
        if self.first_offset.take().is_some() {
            self.pax.clear();
            self.long_name.clear();
            self.long_link.clear();
        }
    }

    /// Returns the member's name. GNU has precedence over PAX, and PAX over ustar. The name in a sparse map
    /// has precedence over all of them, because `path` is then a placeholder.
    pub(super) fn name<'a>(&'a self, header: &Header<'a>) -> Cow<'a, [u8]> {
        let sparse_name = self.pax.sparse.as_ref().map_or(&[][..], |sparse| &sparse.name);
        [sparse_name, &self.long_name, &self.pax.path]
            .into_iter()
            .find(|name| !name.is_empty())
            .map_or_else(|| header.name(), Cow::Borrowed)
    }

    /// Returns the target of a link, with the same precedence.
    pub(super) fn link_name<'a>(&'a self, header: &Header<'a>) -> &'a [u8] {
        [&self.long_link, &self.pax.link_path]
            .into_iter()
            .find(|name| !name.is_empty())
            .map_or_else(|| header.link_name(), Vec::as_slice)
    }

    /// Returns the payload size that the member states, in bytes; never above `i64::MAX`.
    pub(super) fn size(&self, header: &Header<'_>) -> Result<u64, Fault> {
        self.pax.size.map_or_else(|| header.size(), Ok)
    }

    /// Returns mode, owner and modification time, and whether the owner was truncated.
    pub(super) fn meta(&self, header: &Header<'_>, class: Class) -> Result<(Meta, bool), Fault> {
        let (uid, uid_cut) = cut_owner(self.pax.uid.map_or_else(|| header.uid(), Ok)?);
        let (gid, gid_cut) = cut_owner(self.pax.gid.map_or_else(|| header.gid(), Ok)?);
        let mode = match class {
            Class::Alone(Alone::Symlink) => 0o777,
            _ => u16::try_from(header.mode()? & 0o7777).unwrap_or_default(),
        };
        let mtime = match self.pax.mtime {
            Some(mtime) => mtime,
            None => whole_seconds(header.mtime()?),
        };
        Ok((Meta { mode, uid, gid, mtime }, uid_cut || gid_cut))
    }
}

/// Returns the numbers of a device node, truncated to the 32 bits that `mknod` accepts.
pub(super) fn device(header: &Header<'_>) -> Result<DeviceNumber, Fault> {
    let (major, minor) = header.device()?;
    Ok(DeviceNumber { major: low_32_bits(major), minor: low_32_bits(minor) })
}

/// Truncates an owner to its low 32 bits (docs/semantics.md M8). The result -1 becomes 0, because `chown`
/// leaves the owner unchanged for -1, and the file then belongs to root.
fn cut_owner(id: i64) -> (u32, bool) {
    match low_32_bits(id) {
        u32::MAX => (0, true),
        cut => (cut, i64::from(cut) != id),
    }
}

fn low_32_bits(value: i64) -> u32 {
    u32::try_from(value & i64::from(u32::MAX)).unwrap_or_default()
}

/// Returns a modification time; times before the epoch or too late become 0 (docs/semantics.md M7).
fn whole_seconds(seconds: i64) -> Timestamp {
    let time = u64::try_from(seconds).map(|seconds| Timestamp { seconds, nanos: 0 });
    time.ok().filter(|time| *time <= LATEST).unwrap_or_default()
}
