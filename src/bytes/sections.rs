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

/// Records of a sweep between two releases. A layer index maps some 18 MB for so many entries.
const RELEASE_EVERY: u32 = 1 << 17;

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

    /// Passes on `records`, which are read of these sections in order, and gives the memory of a mapped file
    /// back behind them: as many records as [`RELEASE_EVERY`] at a time, and all of it when the iterator is
    /// dropped. Bytes that are looked at again come from the file.
    pub(crate) fn sweep<I: Iterator>(&self, records: I) -> Sweep<'_, I> {
        let bytes = match self {
            Sections::Built(_) => None,
            Sections::Stored { bytes, .. } => Some(bytes),
        };
        Sweep { records, passed: 0, bytes }
    }
}

/// See [`Sections::sweep`].
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

    /// Memory that the mapping at `address` takes, in KiB.
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
        // 64 bytes a record: fewer than are kept for, so that the memory is given back at the end only.
        let records = || sections.get(0).chunks(64).map(|record| usize::from(record[0]));
        assert_eq!((sections.sweep(records()).sum::<usize>(), resident_kib(start)), (len / 64, 0));
        // One byte a record: the memory is given back on the way.
        let mut bytes = sections.sweep(sections.get(0).iter());
        let last = bytes.by_ref().last();
        assert!(last.is_some() && resident_kib(start) <= 1 << 10);
    }
}
