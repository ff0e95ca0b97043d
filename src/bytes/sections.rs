//! The tables of a stored file: as they were built, or as they lie in it behind their header.
//!
//! A file is a header, the sections one after the other without gaps, and nothing else. The header ends with
//! the checksum of all the rest. What is in header and sections is for their owner.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;

use super::{Bytes, Checksum, checksum};

/// Length of the checksum that ends every header, in bytes.
pub(crate) const CHECKSUM_BYTES: usize = 32;

/// `N` tables.
pub(crate) enum Sections<const N: usize> {
    /// As they were built.
    Built([Vec<u8>; N]),
    /// As they are stored.
    Stored { bytes: Bytes, ranges: [Range<usize>; N] },
}

impl<const N: usize> Sections<N> {
    /// Takes over a stored file with a header of `header_bytes` and checks it. `lengths` are those of the
    /// sections, in bytes, `records` those of one record of each.
    ///
    /// # Errors
    /// What is wrong: they do not fill the file, or do not match their checksum.
    pub(crate) fn stored(
        bytes: Bytes,
        header_bytes: usize,
        lengths: [u64; N],
        records: [usize; N],
    ) -> Result<Self, &'static str> {
        let mut ranges = [const { 0..0 }; N];
        let mut end = header_bytes;
        for (range, (len, record)) in ranges.iter_mut().zip(lengths.into_iter().zip(records)) {
            let len = usize::try_from(len).ok().filter(|len| len.is_multiple_of(record));
            let next = len.and_then(|len| end.checked_add(len)).ok_or("broken section")?;
            *range = end..next;
            end = next;
        }
        if end != bytes.len() {
            return Err("cut short");
        }
        let (header, body) = bytes.split_at_checked(header_bytes).ok_or("shorter than its header")?;
        let (head, sum) = header.split_last_chunk::<CHECKSUM_BYTES>().ok_or("shorter than its header")?;
        if checksum(head, body) != *sum {
            return Err("checksum does not match");
        }
        // All of it was looked at once, and most of it may never be again.
        bytes.release();
        Ok(Sections::Stored { bytes, ranges })
    }

    /// One section.
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        match self {
            Sections::Built(sections) => sections.get(at).map_or(&[], Vec::as_slice),
            Sections::Stored { bytes, ranges } => {
                ranges.get(at).and_then(|range| bytes.get(range.clone())).unwrap_or_default()
            }
        }
    }

    /// Length of each, in bytes.
    pub(crate) fn lengths(&self) -> [usize; N] {
        std::array::from_fn(|at| self.get(at).len())
    }

    /// Writes the file, with `head` for all of the header but its checksum.
    pub(crate) fn write_to(&self, head: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let sections: [&[u8]; N] = std::array::from_fn(|at| self.get(at));
        let mut sum = Checksum::new(head);
        sections.iter().for_each(|section| sum.update(section));
        out.write_all(head)?;
        out.write_all(&sum.finish())?;
        sections.iter().try_for_each(|section| out.write_all(section))
    }

    /// See [`Bytes::release`].
    pub(crate) fn release(&self) {
        if let Sections::Stored { bytes, .. } = self {
            bytes.release();
        }
    }
}

impl<const N: usize> fmt::Debug for Sections<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sections::Built(_) => f.debug_tuple("Built").field(&self.lengths()).finish(),
            Sections::Stored { bytes, .. } => f.debug_tuple("Stored").field(bytes).finish(),
        }
    }
}
