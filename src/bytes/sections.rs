//! The tables (sections) of a stored file, as they were built or as they are in the file.
//!
//! A file consists of a header and the sections, one after the other without gaps. The header ends with the
//! checksum of the other bytes. This module owns this layout. It does not know the contents of the header or
//! of the sections.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;

use super::{Bytes, Checksum, checksum};

/// Length of the checksum that ends every header, in bytes.
pub(crate) const CHECKSUM_BYTES: usize = 32;

/// Number of records of a sweep between two releases. This many records of a layer index take about 18 MB.
const RELEASE_EVERY: u32 = 1 << 17;

/// `N` sections.
pub(crate) enum Sections<const N: usize> {
    /// The sections as they were built.
    Built([Vec<u8>; N]),
    /// The sections of a stored file, as ranges of its bytes.
    Stored { bytes: Bytes, ranges: [Range<usize>; N] },
}

impl<const N: usize> Sections<N> {
    /// Checks the bytes of a stored file with a header of `header_bytes`. `lengths` are the lengths of the
    /// sections, in bytes; `records` are the lengths of one record in each.
    ///
    /// # Errors
    /// The reason, if the sections do not fill the file or the checksum does not match.
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
            let next = len.and_then(|len| end.checked_add(len)).ok_or("malformed section")?;
            *range = end..next;
            end = next;
        }
        if end != bytes.len() {
            return Err("truncated");
        }
        let (header, body) = bytes.split_at_checked(header_bytes).ok_or("shorter than the header")?;
        let (head, sum) = header.split_last_chunk::<CHECKSUM_BYTES>().ok_or("shorter than the header")?;
        if checksum(head, body) != *sum {
            return Err("checksum does not match");
        }
        Ok(Sections::Stored { bytes, ranges })
    }

    /// Releases the memory of a mapped file after all of it was read; see [`Bytes::release`].
    pub(crate) fn release(&self) {
        if let Sections::Stored { bytes, .. } = self {
            bytes.release();
        }
    }

    /// Returns the section with this number; empty if it does not exist.
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        match self {
            Sections::Built(sections) => sections.get(at).map_or(&[], Vec::as_slice),
            Sections::Stored { bytes, ranges } => {
                ranges.get(at).and_then(|range| bytes.get(range.clone())).unwrap_or_default()
            }
        }
    }

    /// Returns the length of each section, in bytes.
    pub(crate) fn lengths(&self) -> [usize; N] {
        std::array::from_fn(|at| self.get(at).len())
    }

    /// Writes the file. `head` is the header without its checksum.
    pub(crate) fn write_to(&self, head: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let sections: [&[u8]; N] = std::array::from_fn(|at| self.get(at));
        let mut sum = Checksum::new(head);
        sections.iter().for_each(|section| sum.update(section));
        out.write_all(head)?;
        out.write_all(&sum.finish())?;
        sections.iter().try_for_each(|section| out.write_all(section))
    }

    /// Returns an iterator over `records`, which reads these sections in order. It releases the memory of a
    /// mapped file after every [`RELEASE_EVERY`] records, and when it is dropped. Bytes that are read again
    /// come from the file.
    pub(crate) fn sweep<I: Iterator>(&self, records: I) -> Sweep<'_, I> {
        let bytes = match self {
            Sections::Built(_) => None,
            Sections::Stored { bytes, .. } => Some(bytes),
        };
        Sweep { records, passed: 0, bytes }
    }
}

/// The iterator that [`Sections::sweep`] returns.
pub(crate) struct Sweep<'a, I> {
    records: I,
    passed: u32,
    bytes: Option<&'a Bytes>,
}

impl<I: Iterator> Iterator for Sweep<'_, I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        if self.passed == RELEASE_EVERY {
            self.bytes.inspect(|bytes| bytes.release());
            self.passed = 0;
        }
        self.passed += 1;
        self.records.next()
    }
}

impl<I> Drop for Sweep<'_, I> {
    fn drop(&mut self) {
        self.bytes.inspect(|bytes| bytes.release());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the resident memory of the mapping at `address`, in KiB.
    fn resident_kib(address: *const u8) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", address as usize);
        let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
        let resident = mapping.into_iter().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn a_sweep_over_a_mapped_file_gives_its_memory_back() {
        let len = 9 << 20;
        let mut file = tempfile::tempfile().unwrap();
        Sections::Built([vec![1; len]]).write_to(b"head", &mut file).unwrap();
        let header_bytes = 4 + CHECKSUM_BYTES;
        let bytes = Bytes::of_file(&file, 0, header_bytes + len).unwrap();
        let sections = Sections::stored(bytes, header_bytes, [len as u64], [1]).unwrap();
        let start = sections.get(0).as_ptr().wrapping_sub(header_bytes);
        let sum: usize = sections.get(0).iter().map(|byte| usize::from(*byte)).sum();
        assert!(sum == len && resident_kib(start) >= 9 << 10);
        // With 64 bytes for each record, there are fewer records than [`RELEASE_EVERY`]: memory is released
        // only at the end.
        let records = || sections.get(0).chunks(64).map(|record| usize::from(record[0]));
        assert_eq!((sections.sweep(records()).sum::<usize>(), resident_kib(start)), (len / 64, 0));
        // With one byte for each record, memory is also released on the way.
        let mut bytes = sections.sweep(sections.get(0).iter());
        let last = bytes.by_ref().last();
        assert!(last.is_some() && resident_kib(start) <= 1 << 10);
    }
}
