//! Answers `SEEK_DATA` and `SEEK_HOLE`: where a sparse file has data and where it has holes.
//!
//! Pure arithmetic over the stored segments of a file. This module owns how short holes, touching segments and
//! the end of a file count. It does not know trees, or more of the kernel's encoding than the two constants of
//! `lseek(2)`.
//!
//! Data is rounded to whole blocks, as in a file system with blocks of this size: a shorter hole counts as data.
//! A copying program seeks to each hole and each part of a file, so a file of a million bytes with a hole after
//! each byte would take it a minute.

use fuser::Errno;

use crate::layer::entry::{FileData, Segment, Segments, Stored};

/// The unit of data and holes, in bytes: a page, which is also the block size in `stat`.
const BLOCK_BYTES: u64 = 4096;

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
        Seek::Data => next_data(*segments, offset).filter(|at| *at < file.size).ok_or(Errno::ENXIO),
        Seek::Hole => Ok(next_hole(*segments, offset).min(file.size)),
    }
}

fn next_data(segments: Segments<'_>, offset: u64) -> Option<u64> {
    let next = segments.get(first_ending_after(segments, offset))?;
    Some(start(next).max(offset))
}

fn next_hole(segments: Segments<'_>, offset: u64) -> u64 {
    let mut hole = offset;
    for segment in segments.iter_from(first_ending_after(segments, offset)) {
        if start(segment) > hole {
            break;
        }
        hole = end(segment);
    }
    hole
}

fn first_ending_after(segments: Segments<'_>, offset: u64) -> usize {
    segments.partition_point(|segment| end(segment) <= offset)
}

fn start(segment: Segment) -> u64 {
    segment.file_offset - segment.file_offset % BLOCK_BYTES
}

fn end(segment: Segment) -> u64 {
    segment.file_end().checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::entry::Extent;

    /// Returns a sparse file with these segments: block, offset in the block and length.
    fn sparse(size: u64, parts: &[(u64, u64, u64)]) -> FileData<'static> {
        let segment = |(block, offset, len_bytes): &(u64, u64, u64)| Segment {
            file_offset: block * BLOCK_BYTES + offset,
            extent: Extent { offset: 512, len_bytes: *len_bytes },
        };
        FileData { size, stored: Stored::Sparse(parts.iter().map(segment).collect::<Vec<_>>().into()) }
    }

    /// Block 0 is a hole, 1 and 2 are data in segments that touch, 3 is a hole, 4 is data, 5 is a hole.
    fn six_blocks() -> FileData<'static> {
        sparse(6 * BLOCK_BYTES, &[(1, 0, BLOCK_BYTES), (2, 0, BLOCK_BYTES), (4, 0, BLOCK_BYTES)])
    }

    /// Returns the answers for these offsets, in blocks, where they are whole blocks.
    fn answers(file: &FileData<'_>, what: Seek, blocks: &[u64]) -> Vec<Result<u64, i32>> {
        let answer = |block: &u64| seek(file, block * BLOCK_BYTES, what).map_err(|errno| errno.code());
        blocks.iter().map(|block| answer(block).map(|at| at / BLOCK_BYTES)).collect()
    }

    #[test]
    fn m14_seek_data_finds_the_next_stored_byte() {
        let none = Err(libc::ENXIO);
        let found = answers(&six_blocks(), Seek::Data, &[0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(found, [Ok(1), Ok(1), Ok(2), Ok(4), Ok(4), none, none]);
        assert_eq!(seek(&six_blocks(), BLOCK_BYTES + 7, Seek::Data).map_err(|_| ()), Ok(BLOCK_BYTES + 7));
    }

    #[test]
    fn m14_seek_hole_steps_over_touching_segments() {
        let found = answers(&six_blocks(), Seek::Hole, &[0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(found, [Ok(0), Ok(3), Ok(3), Ok(3), Ok(5), Ok(5), Err(libc::ENXIO)]);
        assert_eq!(seek(&six_blocks(), 7, Seek::Hole).map_err(|_| ()), Ok(7));
    }

    #[test]
    fn m14_a_hole_that_is_shorter_than_a_block_is_data() {
        // A file of 2 MB with a hole after every byte was copied at 60 bytes a second.
        let parts: Vec<_> = (0..4096).map(|at| (0, 2 * at, 1)).collect();
        let file = sparse(3 * BLOCK_BYTES, &parts);
        assert_eq!(answers(&file, Seek::Data, &[0, 1]), [Ok(0), Ok(1)]);
        assert_eq!(answers(&file, Seek::Hole, &[0, 1, 2]), [Ok(2); 3]);
        // A part in the middle of a block begins and ends with it.
        let file = sparse(9 * BLOCK_BYTES, &[(3, 100, 1), (5, 4095, 2)]);
        assert_eq!(answers(&file, Seek::Data, &[0, 3, 4]), [Ok(3), Ok(3), Ok(5)]);
        assert_eq!(answers(&file, Seek::Hole, &[3, 5]), [Ok(4), Ok(7)]);
    }

    #[test]
    fn m14_the_end_of_a_file_is_a_hole() {
        let size = BLOCK_BYTES + 10;
        let file = sparse(size, &[(1, 0, 10)]);
        assert_eq!(seek(&file, BLOCK_BYTES, Seek::Hole).map_err(|_| ()), Ok(size));
    }

    #[test]
    fn a_contiguous_file_is_data_up_to_its_end() {
        let size = 2 * BLOCK_BYTES + 1;
        let file = FileData { size, stored: Stored::Contiguous(Extent { offset: 1024, len_bytes: size }) };
        assert_eq!(answers(&file, Seek::Data, &[0, 2, 3]), [Ok(0), Ok(2), Err(libc::ENXIO)]);
        assert_eq!(seek(&file, 5, Seek::Hole).map_err(|_| ()), Ok(size));
        assert_eq!(answers(&file, Seek::Hole, &[3]), [Err(libc::ENXIO)]);
    }

    #[test]
    fn other_ways_to_seek_are_not_ours() {
        assert_eq!(Seek::from_whence(libc::SEEK_END), None);
        assert_eq!(Seek::from_whence(libc::SEEK_HOLE), Some(Seek::Hole));
    }
}
