//! Checks an index that was read from a file: other modules rely on what is checked here.
//!
//! The checksum of a file detects damage. It does not detect an index that another program made, or that an
//! attacker changed, so the checksum alone does not make its numbers true. Without these checks, the length of
//! a span could be any number, which is then allocated, and a sum of offsets could overflow.
//!
//! | table | checked |
//! |---|---|
//! | spans | The first begins at 0, and each has from 1 to [`MAX_SPAN_BYTES`] bytes, up to the end of the tar; frames lie within the copy |
//! | checkpoints | offsets ascend, and lie within the tar and the stored bytes |
//! | entries | the type is known; text lies in the heap, contents in the tar |
//! | segments of a sparse file | ascending, not overlapping, none empty, within the file; one after the other in the tar, and within it |
//!
//! The checks take less time than the checksum: they read each record once, on several threads.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Fields, KIND_FIFO, KIND_FILE, KIND_SPARSE, LayerIndex, MAX_SPAN_BYTES, NO_COPY, RECORD_BYTES, Section,
    high, kind_from_code, low,
};
use crate::workers::{Queue, cores, try_map};

/// Entries that are checked by a thread at a time: fewer take less time than starting a thread.
const ENTRIES_AT_ONCE: usize = 1 << 16;

impl LayerIndex {
    /// Checks all tables.
    ///
    /// # Errors
    /// The reason, if a table contains something that no pass writes.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        self.check_spans()?;
        self.check_checkpoints()?;
        let parts: Vec<&[u8]> =
            self.section(Section::Entries).chunks(ENTRIES_AT_ONCE.saturating_mul(RECORD_BYTES[0])).collect();
        // No two entries share segments, so this many can be checked at most.
        let segments = AtomicU64::new(u64::from(self.count(Section::Segments)));
        let check = |part: &&[u8]| {
            part.chunks_exact(RECORD_BYTES[0]).try_for_each(|entry| self.check_entry(entry, &segments))
        };
        try_map(&Queue::new(&parts), cores().min(parts.len()), check).map(drop)
    }

    fn records(&self, section: Section) -> impl Iterator<Item = Fields<'_>> {
        let size = super::record_bytes(section);
        self.section(section).chunks_exact(size).map(Fields)
    }

    fn check_spans(&self) -> Result<(), &'static str> {
        // The offset at which the current span begins.
        let mut start = None;
        let is_length = |start: u64, end: u64| {
            end.checked_sub(start).is_some_and(|len| (1..=MAX_SPAN_BYTES as u64).contains(&len))
        };
        for mut record in self.records(Section::Spans) {
            let (offset, copy_offset) = (record.u64(), record.u64());
            let copy_end = copy_offset.checked_add(u64::from(record.u32()));
            if start.map_or(offset != 0, |start| !is_length(start, offset)) {
                return Err("the spans do not follow one another");
            }
            if copy_offset != NO_COPY && copy_end.is_none_or(|end| end > self.facts.copy_bytes) {
                return Err("a span lies outside the seekable copy");
            }
            start = Some(offset);
        }
        let reach_the_end =
            start.map_or(self.facts.tar_bytes == 0, |start| is_length(start, self.facts.tar_bytes));
        reach_the_end.then_some(()).ok_or("the spans do not cover the tar")
    }

    fn check_checkpoints(&self) -> Result<(), &'static str> {
        let (mut output, mut compressed) = (0, 0);
        for mut record in self.records(Section::Checkpoints) {
            let (next_output, next_compressed, _) = (record.u64(), record.u64(), record.u64());
            record.u32();
            if next_output < output || next_compressed < compressed {
                return Err("the checkpoints do not ascend");
            }
            (output, compressed) = (next_output, next_compressed);
            kind_from_code(record.u32()).ok_or("an unknown kind of checkpoint")?;
        }
        let are_inside = output <= self.facts.tar_bytes && compressed <= self.facts.blob_bytes;
        are_inside.then_some(()).ok_or("a checkpoint lies outside the layer")
    }

    /// `segments` is the number of segments that were not checked yet.
    fn check_entry(&self, entry: &[u8], segments: &AtomicU64) -> Result<(), &'static str> {
        let mut fields = Fields(entry);
        fields.u64();
        let (first, second) = (fields.u64(), fields.u64());
        super::read_meta(&mut fields);
        match fields.u16() {
            KIND_FILE => self.check_extent(first, second)?,
            KIND_SPARSE => {
                let count = low(first);
                let left = segments.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(u64::from(count))
                });
                left.map_err(|_| "sparse files have more segments than the index")?;
                self.check_segments(high(first), count, second)?;
            }
            kind if kind <= KIND_FIFO => {}
            _ => return Err("an unknown type of entry"),
        }
        let heap = self.section(Section::Heap).len() as u64;
        let is_inside =
            (0..3).all(|_| u64::from(fields.u32()).saturating_add(u64::from(fields.u32())) <= heap);
        is_inside.then_some(()).ok_or("an entry refers to text outside the index")
    }

    fn check_extent(&self, offset: u64, len_bytes: u64) -> Result<(), &'static str> {
        let end = offset.checked_add(len_bytes).filter(|end| *end <= self.facts.tar_bytes);
        end.map(drop).ok_or("a file lies outside the tar")
    }

    fn check_segments(&self, first: u32, count: u32, file_bytes: u64) -> Result<(), &'static str> {
        let (mut file_end, mut tar_end) = (0_u64, None);
        for at in 0..count {
            let record = first.checked_add(at).and_then(|at| self.record(Section::Segments, at));
            let mut record = record.ok_or("a sparse file refers to segments outside the index")?;
            let (file_offset, offset, len_bytes) = (record.u64(), record.u64(), record.u64());
            self.check_extent(offset, len_bytes)?;
            let end = file_offset.checked_add(len_bytes).filter(|end| *end <= file_bytes);
            match end {
                Some(end) if file_offset >= file_end && len_bytes > 0 => file_end = end,
                _ => return Err("the segments of a sparse file do not ascend"),
            }
            // The number of stored bytes is computed from the first and the last segment.
            if tar_end.is_some_and(|end| end != offset) {
                return Err("the segments of a sparse file are not adjacent in the tar");
            }
            tar_end = offset.checked_add(len_bytes);
        }
        Ok(())
    }
}
