//! What the last header of a member says once its extension headers are laid over it.
//!
//! This module owns precedence (docs/semantics.md M12, M13) and the cleaning of owner, mode and time (M6 to
//! M8). It is the reading of Go's `archive/tar`, since every container engine reads layers with it.

use std::borrow::Cow;

use super::Fault;
use super::header::Header;
use super::pax::{LATEST, Pax};
use crate::layer::entry::{DeviceNumber, Meta, Timestamp};

/// The extension headers that wait for their member.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// Offset of the first of them in the tar, in bytes; `None` while there are none.
    pub(super) first_offset: Option<u64>,
    pub(super) pax: Pax,
    /// GNU `L`; empty is not given.
    pub(super) long_name: Vec<u8>,
    /// GNU `K`; empty is not given.
    pub(super) long_link: Vec<u8>,
}

/// What kind of thing a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    File,
    /// Typeflag `S`, whose map is in its header.
    GnuSparse,
    Alone(Alone),
    /// Nothing that belongs into a rootfs.
    Unknown,
}

/// Kinds that have no payload, whatever size their header claims (docs/semantics.md M18).
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
    /// docs/semantics.md N12 and M17. `name` is the final name: a V7 header marks a directory by a slash.
    pub(super) fn of(typeflag: u8, name: &[u8]) -> Self {
        match typeflag {
            0 if name.ends_with(b"/") => Class::Alone(Alone::Directory),
            // 7 is a file that was to lie on the disk in one piece.
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
    /// Forgets everything, keeping the memory.
    pub(super) fn clear(&mut self) {
        if self.first_offset.take().is_some() {
            self.pax.clear();
            self.long_name.clear();
            self.long_link.clear();
        }
    }

    /// The member's name: GNU before PAX before ustar. A sparse file's own name beats them all,
    /// for its `path` is a stand-in.
    pub(super) fn name<'a>(&'a self, header: &Header<'a>) -> Cow<'a, [u8]> {
        let sparse_name = self.pax.sparse.as_ref().map_or(&[][..], |sparse| &sparse.name);
        [sparse_name, &self.long_name, &self.pax.path]
            .into_iter()
            .find(|name| !name.is_empty())
            .map_or_else(|| header.name(), Cow::Borrowed)
    }

    /// What a link leads to, by the same precedence.
    pub(super) fn link_name<'a>(&'a self, header: &Header<'a>) -> &'a [u8] {
        [&self.long_link, &self.pax.link_path]
            .into_iter()
            .find(|name| !name.is_empty())
            .map_or_else(|| header.link_name(), Vec::as_slice)
    }

    /// Bytes of payload that the member claims; never above `i64::MAX`.
    pub(super) fn size(&self, header: &Header<'_>) -> Result<u64, Fault> {
        self.pax.size.map_or_else(|| header.size(), Ok)
    }

    /// Mode, owner and time, and whether the owner had to be cut.
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

/// The numbers of a device node, cut to the 32 bits that `mknod` takes.
pub(super) fn device(header: &Header<'_>) -> Result<DeviceNumber, Fault> {
    let (major, minor) = header.device()?;
    Ok(DeviceNumber { major: low_32_bits(major), minor: low_32_bits(minor) })
}

/// docs/semantics.md M8: what reaches `chown` is the low 32 bits, and -1 tells it to leave root's 0 alone.
fn cut_owner(id: i64) -> (u32, bool) {
    match low_32_bits(id) {
        u32::MAX => (0, true),
        cut => (cut, i64::from(cut) != id),
    }
}

fn low_32_bits(value: i64) -> u32 {
    u32::try_from(value & i64::from(u32::MAX)).unwrap_or_default()
}

/// docs/semantics.md M7: before the epoch or absurd is 0.
fn whole_seconds(seconds: i64) -> Timestamp {
    let time = u64::try_from(seconds).map(|seconds| Timestamp { seconds, nanos: 0 });
    time.ok().filter(|time| *time <= LATEST).unwrap_or_default()
}
