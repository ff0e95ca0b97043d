//! Answers `SEEK_DATA` and `SEEK_HOLE`: where a sparse file has data and where it has holes.
//!
//! Pure arithmetic over the stored segments of a file. This module owns how touching segments and the end of
//! a file count. It does not know trees, or more of the kernel's encoding than the two constants of
//! `lseek(2)`.

use fuser::Errno;

use crate::layer::entry::{FileData, Segment, Stored};

/// The kind of position that `lseek(2)` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seek {
    /// The next stored byte.
    Data,
    /// The next byte in a hole; the end of a file counts as a hole.
    Hole,
}

impl Seek {
    /// Converts the `whence` of `lseek`. The kernel handles other values itself.
    pub(super) fn from_whence(whence: i32) -> Option<Seek> {
        match whence {
            libc::SEEK_DATA => Some(Seek::Data),
            libc::SEEK_HOLE => Some(Seek::Hole),
            _ => None,
        }
    }
}

/// Returns the first offset of this kind, at or after `offset`.
///
/// # Errors
/// `ENXIO` past the end, and for data if only a hole follows, as in `lseek(2)`.
pub(super) fn seek(file: &FileData<'_>, offset: u64, what: Seek) -> Result<u64, Errno> {
    if offset >= file.size {
        return Err(Errno::ENXIO);
    }
    let Stored::Sparse(segments) = &file.stored else {
        return Ok(if what == Seek::Data { offset } else { file.size });
    };
    match what {
        Seek::Data => next_data(segments, offset).filter(|at| *at < file.size).ok_or(Errno::ENXIO),
        Seek::Hole => Ok(next_hole(segments, offset).min(file.size)),
    }
}

fn next_data(segments: &[Segment], offset: u64) -> Option<u64> {
    let next = segments.get(first_ending_after(segments, offset))?;
    Some(next.file_offset.max(offset))
}

fn next_hole(segments: &[Segment], offset: u64) -> u64 {
    let mut hole = offset;
    for segment in segments.iter().skip(first_ending_after(segments, offset)) {
        if segment.file_offset > hole {
            break;
        }
        hole = end(segment);
    }
    hole
}

fn first_ending_after(segments: &[Segment], offset: u64) -> usize {
    segments.partition_point(|segment| end(segment) <= offset)
}

fn end(segment: &Segment) -> u64 {
    segment.file_offset.saturating_add(segment.extent.len_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::entry::Extent;

    /// Hole 0..10, data 10..20 in two touching segments, hole 20..30, data 30..40, hole to `size`.
    fn sparse(size: u64) -> FileData<'static> {
        let segment =
            |file_offset, len_bytes| Segment { file_offset, extent: Extent { offset: 512, len_bytes } };
        FileData {
            size,
            stored: Stored::Sparse(vec![segment(10, 4), segment(14, 6), segment(30, 10)].into()),
        }
    }

    fn answers(file: &FileData<'_>, what: Seek, offsets: &[u64]) -> Vec<Result<u64, i32>> {
        offsets.iter().map(|offset| seek(file, *offset, what).map_err(|errno| errno.code())).collect()
    }

    #[test]
    fn m14_seek_data_finds_the_next_stored_byte() {
        let found = answers(&sparse(50), Seek::Data, &[0, 10, 13, 15, 19, 20, 39, 40, 50]);
        let none = Err(libc::ENXIO);
        assert_eq!(found, [Ok(10), Ok(10), Ok(13), Ok(15), Ok(19), Ok(30), Ok(39), none, none]);
    }

    #[test]
    fn m14_seek_hole_steps_over_touching_segments() {
        let found = answers(&sparse(50), Seek::Hole, &[0, 10, 15, 20, 30, 39, 40, 49, 50]);
        let past_end = Err(libc::ENXIO);
        assert_eq!(found, [Ok(0), Ok(20), Ok(20), Ok(20), Ok(40), Ok(40), Ok(40), Ok(49), past_end]);
    }

    #[test]
    fn m14_the_end_of_a_file_is_a_hole() {
        assert_eq!(answers(&sparse(40), Seek::Hole, &[35]), [Ok(40)]);
    }

    #[test]
    fn a_contiguous_file_is_data_up_to_its_end() {
        let extent = Extent { offset: 1024, len_bytes: 100 };
        let file = FileData { size: 100, stored: Stored::Contiguous(extent) };
        assert_eq!(answers(&file, Seek::Data, &[0, 99, 100]), [Ok(0), Ok(99), Err(libc::ENXIO)]);
        assert_eq!(answers(&file, Seek::Hole, &[0, 99, 100]), [Ok(100), Ok(100), Err(libc::ENXIO)]);
    }

    #[test]
    fn other_ways_to_seek_are_not_ours() {
        assert_eq!(Seek::from_whence(libc::SEEK_END), None);
        assert_eq!(Seek::from_whence(libc::SEEK_HOLE), Some(Seek::Hole));
    }
}
