//! Tar entries: one tar member after its extension headers were applied.
//!
//! An [`Entry`] borrows its data: from the parser's buffers while a layer is read for the first time, from
//! the layer index afterwards. This module owns the fields of an entry. It must not know whiteouts, which are
//! ordinary entries here.

use std::borrow::Cow;

/// One tar member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// Offset in the tar, in bytes, of the first header of this member, extension headers included.
    pub header_offset: u64,
    /// The name as the tar writes it: bytes, not cleaned.
    pub name: &'a [u8],
    /// The type of the member, with the data of that type.
    pub kind: EntryKind<'a>,
    /// Mode, owner and modification time.
    pub meta: Meta,
    /// Extended attributes in the order of the tar; names are unique (the last of equal names wins).
    pub xattrs: Xattrs<'a>,
}

/// The types of tar members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind<'a> {
    /// A regular file.
    File(FileData<'a>),
    /// A directory.
    Directory,
    /// A symbolic link with its target; bytes.
    Symlink(&'a [u8]),
    /// A hard link with the name of its target; bytes, not cleaned.
    Hardlink(&'a [u8]),
    /// A character device.
    Char(DeviceNumber),
    /// A block device.
    Block(DeviceNumber),
    /// A named pipe.
    Fifo,
}

/// The major and minor number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DeviceNumber {
    /// Number of the driver.
    pub major: u32,
    /// Number of the device within its driver.
    pub minor: u32,
}

/// The size and stored bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileData<'a> {
    /// Logical size in bytes, holes included.
    pub size: u64,
    /// Location of the stored bytes.
    pub stored: Stored<'a>,
}

/// The stored part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored<'a> {
    /// All of the file, in one extent.
    Contiguous(Extent),
    /// Parts of the file; the rest is holes. Ascending, not overlapping, none empty.
    Sparse(Cow<'a, [Segment]>),
}

/// A range of bytes in the uncompressed tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Extent {
    /// Offset in the uncompressed tar, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// A range of stored bytes in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    /// Offset in the file, in bytes.
    pub file_offset: u64,
    /// Location of the bytes in the tar.
    pub extent: Extent,
}

impl FileData<'_> {
    /// Returns the number of stored bytes, without holes.
    #[must_use]
    pub(crate) fn stored_bytes(&self) -> u64 {
        match &self.stored {
            Stored::Contiguous(extent) => extent.len_bytes,
            Stored::Sparse(segments) => segments.iter().map(|s| s.extent.len_bytes).sum(),
        }
    }
}

/// Mode, owner and modification time of a member, cleaned according to docs/semantics.md M6 to M8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Meta {
    /// Permission bits, set-id bits and sticky bit (`& 0o7777`). Symlinks have 0777.
    pub mode: u16,
    /// User id of the owner.
    pub uid: u32,
    /// Group id of the owner.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
}

/// A time since the epoch; never negative (docs/semantics.md M7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds since the epoch.
    pub seconds: u64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

/// Extended attributes, packed as `u16 name length, u32 value length, name, value`, little-endian, one after
/// the other.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Xattrs<'a> {
    packed: &'a [u8],
}

impl<'a> Xattrs<'a> {
    /// Creates a view of packed attributes. Iteration stops at the first malformed attribute.
    #[must_use]
    pub(crate) fn from_packed(packed: &'a [u8]) -> Self {
        Xattrs { packed }
    }

    /// Returns the packed form, as a layer index stores it.
    #[must_use]
    pub(crate) fn as_packed(&self) -> &'a [u8] {
        self.packed
    }

    /// Returns true if there are no attributes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// Returns the name and value of each attribute.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.packed;
        std::iter::from_fn(move || {
            let (name_len, tail) = rest.split_first_chunk::<2>()?;
            let (value_len, tail) = tail.split_first_chunk::<4>()?;
            let (name, tail) = tail.split_at_checked(u16::from_le_bytes(*name_len).into())?;
            let value_len = usize::try_from(u32::from_le_bytes(*value_len)).ok()?;
            let (value, tail) = tail.split_at_checked(value_len)?;
            rest = tail;
            Some((name, value))
        })
    }

    /// Returns the value of the attribute `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Appends an attribute to a packed list. Returns false, without a change, when the name or the value is
    /// too long for the packed form, which is far above the limits of Linux.
    pub(crate) fn pack(packed: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
        let (Ok(name_len), Ok(value_len)) = (u16::try_from(name.len()), u32::try_from(value.len())) else {
            return false;
        };
        packed.extend_from_slice(&name_len.to_le_bytes());
        packed.extend_from_slice(&value_len.to_le_bytes());
        packed.extend_from_slice(name);
        packed.extend_from_slice(value);
        true
    }
}

impl std::fmt::Debug for Xattrs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name), text(value)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m9_xattr_values_keep_newlines_and_nuls() {
        let mut packed = Vec::new();
        assert!(Xattrs::pack(&mut packed, b"user.a", b"1\n2\0"));
        assert!(Xattrs::pack(&mut packed, b"user.b", b""));
        let xattrs = Xattrs::from_packed(&packed);
        assert_eq!(xattrs.get(b"user.a"), Some(&b"1\n2\0"[..]));
        assert_eq!(xattrs.iter().count(), 2);
        assert_eq!(xattrs.get(b"user.c"), None);
    }

    #[test]
    fn a_broken_packing_ends_the_list() {
        let mut packed = Vec::new();
        Xattrs::pack(&mut packed, b"user.a", b"1");
        packed.extend_from_slice(&[255, 255, 255]);
        assert_eq!(Xattrs::from_packed(&packed).iter().count(), 1);
    }
}
