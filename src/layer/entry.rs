//! Tar entries: one tar member after its extension headers were applied.
//!
//! An [`Entry`] borrows its data: from the parser's buffers while a layer is read for the first time, from
//! the layer index afterwards. This module owns the fields of an entry. It must not know whiteouts, which are
//! ordinary entries here.

use crate::fields::Fields;

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
    /// Parts of the file; the rest is holes.
    Sparse(Segments<'a>),
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

impl Segment {
    /// Length of a segment in a layer index, in bytes.
    pub(crate) const RECORD_BYTES: usize = 24;

    /// Returns the segment as a layer index stores it.
    #[must_use]
    pub(crate) fn to_record(self) -> [u8; Segment::RECORD_BYTES] {
        let mut record = [0; Segment::RECORD_BYTES];
        let numbers = [self.file_offset, self.extent.offset, self.extent.len_bytes];
        for (place, number) in record.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        record
    }

    fn from_record(record: &[u8]) -> Self {
        let mut fields = Fields(record);
        let file_offset = fields.u64();
        Segment { file_offset, extent: Extent { offset: fields.u64(), len_bytes: fields.u64() } }
    }

    /// Returns the offset of the end in the file, in bytes.
    #[must_use]
    pub(crate) fn file_end(&self) -> u64 {
        self.file_offset.saturating_add(self.extent.len_bytes)
    }
}

/// The segments of a sparse file: ascending, not overlapping, none empty, and one directly after the other in the
/// tar. They are read in place: a file can have a million, and its attributes are requested for each of its names.
#[derive(Clone, Copy)]
pub(crate) struct Segments<'a>(SegmentList<'a>);

#[derive(Clone, Copy)]
enum SegmentList<'a> {
    /// As the parser found them.
    Parsed(&'a [Segment]),
    /// The records of a layer index.
    Records(&'a [u8]),
}

impl<'a> Segments<'a> {
    /// Creates a view of the records of a layer index.
    #[must_use]
    pub(crate) fn from_records(records: &'a [u8]) -> Self {
        Segments(SegmentList::Records(records))
    }

    /// Returns the number of segments.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        match self.0 {
            SegmentList::Parsed(list) => list.len(),
            SegmentList::Records(records) => records.len() / Segment::RECORD_BYTES,
        }
    }

    /// Returns the segment at position `at`.
    #[must_use]
    pub(crate) fn get(&self, at: usize) -> Option<Segment> {
        match self.0 {
            SegmentList::Parsed(list) => list.get(at).copied(),
            SegmentList::Records(records) => {
                let start = at.checked_mul(Segment::RECORD_BYTES)?;
                let end = start.checked_add(Segment::RECORD_BYTES)?;
                Some(Segment::from_record(records.get(start..end)?))
            }
        }
    }

    /// Yields the segments from position `from` on.
    pub(crate) fn iter_from(self, from: usize) -> impl Iterator<Item = Segment> + use<'a> {
        (from..self.len()).filter_map(move |at| self.get(at))
    }

    /// Returns the position of the first segment for which `is_before` is false, by binary search.
    #[must_use]
    pub(crate) fn partition_point(&self, is_before: impl Fn(Segment) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).is_some_and(&is_before) {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        low
    }

    /// Returns the range of the tar that holds all segments.
    fn extent(&self) -> Extent {
        let last = self.len().checked_sub(1).and_then(|last| self.get(last));
        let (Some(first), Some(last)) = (self.get(0), last) else { return Extent::default() };
        let end = last.extent.offset.saturating_add(last.extent.len_bytes);
        Extent { offset: first.extent.offset, len_bytes: end.saturating_sub(first.extent.offset) }
    }
}

impl<'a> From<&'a [Segment]> for Segments<'a> {
    fn from(list: &'a [Segment]) -> Self {
        Segments(SegmentList::Parsed(list))
    }
}

#[cfg(test)]
impl From<Vec<Segment>> for Segments<'static> {
    fn from(list: Vec<Segment>) -> Self {
        Segments(SegmentList::Parsed(list.leak()))
    }
}

impl PartialEq for Segments<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter_from(0).eq(other.iter_from(0))
    }
}

impl Eq for Segments<'_> {}

impl std::fmt::Debug for Segments<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter_from(0)).finish()
    }
}

impl FileData<'_> {
    /// Returns the range of the tar that holds all stored bytes of the file, and nothing else.
    #[must_use]
    pub(crate) fn extent(&self) -> Extent {
        match &self.stored {
            Stored::Contiguous(extent) => *extent,
            Stored::Sparse(segments) => segments.extent(),
        }
    }

    /// Returns the number of stored bytes, without holes.
    #[must_use]
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.extent().len_bytes
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
    fn x7_segments_of_an_index_are_read_in_place_and_by_binary_search() {
        // Segments were copied out of the index at each access: `ls -l` of 2,000 hard links to a file of a million
        // segments took a minute.
        let segment =
            |at: u64| Segment { file_offset: 10 * at, extent: Extent { offset: 512 + at, len_bytes: 1 } };
        let list: Vec<Segment> = (0..1000).map(segment).collect();
        let records: Vec<u8> = list.iter().flat_map(|segment| segment.to_record()).collect();
        let stored = Segments::from_records(&records);
        assert_eq!(stored, Segments::from(list.as_slice()));
        let steps = std::cell::Cell::new(0);
        let found = stored.partition_point(|segment| {
            steps.set(steps.get() + 1);
            segment.file_end() <= 4321
        });
        assert_eq!((found, stored.iter_from(found).next()), (433, Some(segment(433))));
        assert!(steps.get() <= 10, "{steps:?}");
        let file = FileData { size: 10_000, stored: Stored::Sparse(stored) };
        assert_eq!(file.extent(), Extent { offset: 512, len_bytes: 1000 });
        assert_eq!(Segments::from_records(&records[..30]).iter_from(0).count(), 1);
        assert_eq!(Segments::from_records(&[]).extent(), Extent::default());
    }

    #[test]
    fn a_broken_packing_ends_the_list() {
        let mut packed = Vec::new();
        Xattrs::pack(&mut packed, b"user.a", b"1");
        packed.extend_from_slice(&[255, 255, 255]);
        assert_eq!(Xattrs::from_packed(&packed).iter().count(), 1);
    }
}
