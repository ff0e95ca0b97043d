//! Bytes of a stored file in memory: a private copy of a small file, or a mapping of a large one.
//!
//! This module owns the choice between copy and mapping, and the checksum of stored files. It does not know
//! what the bytes mean.
//!
//! A mapping is created at once and uses memory only for the pages that are read. But it depends on its file:
//! if the file is truncated, or the disk cannot be read, the process gets SIGBUS. So only files of the store
//! are mapped, which are written once and never changed by imgmount, and only if a copy would take noticeable
//! time. A program can handle SIGBUS with [`recover_mapping`].

mod mapping;
mod regions;
mod sections;

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;

use self::mapping::Mapping;
use self::regions::REGIONS;
pub(crate) use self::sections::{CHECKSUM_BYTES, Sections};
use crate::memory::zeros;
use crate::workers::{Queue, cores, try_map};

/// Shortest file that is mapped, in bytes. Copying a shorter file takes a few milliseconds and little memory.
/// The indexes of nearly all layers, with up to about 80,000 entries, are shorter, so changes to their files
/// cannot affect the process.
const MAP_FROM_BYTES: usize = 8 << 20;
/// Unit of the checksum, in bytes: pieces of this length are hashed separately, on several threads.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces for each thread: hashing fewer takes less time than starting a thread.
const PIECES_A_THREAD: usize = 4;

/// Replaces the pages of a mapped file that can no longer be read, because the file was truncated or its disk
/// fails, by pages of zeros. `address` is the address at which a thread got SIGBUS. Returns false if no file is
/// mapped there by this library; then nothing was done.
///
/// This function is meant for a handler of SIGBUS, and is safe to call there. When the handler returns, the
/// thread continues. From then on [`mapping_is_lost`] returns true, and requests to mounts fail with `EIO`.
/// Without such a handler, SIGBUS ends the process.
#[must_use]
pub fn recover_mapping(address: usize) -> bool {
    REGIONS.recover(address)
}

/// Returns whether [`recover_mapping`] has replaced pages since the process started. Names and attributes that
/// were read since then can be wrong; contents are always checked.
#[must_use]
pub fn mapping_is_lost() -> bool {
    REGIONS.are_lost()
}

/// Immutable bytes, in memory or mapped from a file.
pub(crate) struct Bytes(Kind);

enum Kind {
    Owned(Vec<u8>),
    Mapped(Mapping),
}

impl Bytes {
    /// Returns `len_bytes` bytes of `file` from `offset`. The file must not change afterwards; see the
    /// module.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file is too short; other kinds when it cannot be read or
    /// mapped.
    pub(crate) fn of_file(file: &File, offset: u64, len_bytes: usize) -> io::Result<Self> {
        if len_bytes >= MAP_FROM_BYTES {
            return Mapping::new(file, offset, len_bytes).map(|mapping| Bytes(Kind::Mapped(mapping)));
        }
        let mut bytes = zeros(len_bytes)?;
        file.read_exact_at(&mut bytes, offset)?;
        Ok(Bytes(Kind::Owned(bytes)))
    }

    /// Returns whether a file of this length is mapped and needs no memory of its own.
    #[must_use]
    pub(crate) fn would_map(len_bytes: usize) -> bool {
        len_bytes >= MAP_FROM_BYTES
    }

    /// Tells the system that the pages read so far are not needed soon. Reading them again loads them from
    /// the file.
    pub(crate) fn release(&self) {
        if let Kind::Mapped(mapping) = &self.0 {
            mapping.release();
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Owned(bytes) => bytes,
            Kind::Mapped(mapping) => mapping.as_slice(),
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes(Kind::Owned(bytes))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Kind::Owned(_) => "Owned",
            Kind::Mapped(_) => "Mapped",
        };
        f.debug_struct("Bytes").field("kind", &kind).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Returns the checksum of a stored file: the BLAKE3 hash of `head`, followed by the BLAKE3 hashes of each
/// MiB of `body`.
pub(crate) fn checksum(head: &[u8], body: &[u8]) -> [u8; 32] {
    let mut all = blake3::Hasher::new();
    all.update(head);
    piece_hashes(body).iter().for_each(|hash| {
        all.update(hash);
    });
    *all.finalize().as_bytes()
}

fn piece_hashes(body: &[u8]) -> Vec<[u8; 32]> {
    let pieces: Vec<&[u8]> = body.chunks(PIECE_BYTES).collect();
    let threads = cores().min(pieces.len() / PIECES_A_THREAD);
    let Ok(hashes) =
        try_map(&Queue::new(&pieces), threads, |piece| Ok::<_, Infallible>(*blake3::hash(piece).as_bytes()));
    hashes
}

/// Computes [`checksum`] of a body that comes in parts.
pub(crate) struct Checksum {
    all: blake3::Hasher,
    piece: blake3::Hasher,
    /// Number of bytes in the current piece.
    filled: usize,
}

impl Checksum {
    /// Begins the checksum of `head` and an empty body.
    pub(crate) fn new(head: &[u8]) -> Self {
        let mut all = blake3::Hasher::new();
        all.update(head);
        Checksum { all, piece: blake3::Hasher::new(), filled: 0 }
    }

    /// Adds the next part of the body.
    pub(crate) fn update(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            let (now, later) = part.split_at(part.len().min(PIECE_BYTES - self.filled));
            self.piece.update(now);
            self.filled += now.len();
            part = later;
            if self.filled == PIECE_BYTES {
                self.end_piece();
            }
        }
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        if self.filled > 0 {
            self.end_piece();
        }
        *self.all.finalize().as_bytes()
    }

    fn end_piece(&mut self) {
        self.all.update(self.piece.finalize().as_bytes());
        self.piece.reset();
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_checksum_is_the_same_however_the_body_comes() {
        let body: Vec<u8> = (0..251).cycle().take(PIECE_BYTES * 9 + 17).collect();
        for len in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, body.len()] {
            let body = &body[..len];
            let whole = checksum(b"head", body);
            for part_bytes in [PIECE_BYTES / 3, PIECE_BYTES, 5 * PIECE_BYTES] {
                let mut parts = Checksum::new(b"head");
                body.chunks(part_bytes).for_each(|part| parts.update(part));
                assert_eq!(parts.finish(), whole, "{len} bytes in parts of {part_bytes}");
            }
            assert_ne!(checksum(b"other", body), whole);
        }
    }

    #[test]
    fn every_byte_counts() {
        let mut body = vec![0; 3 * PIECE_BYTES + 5];
        let whole = checksum(b"", &body);
        for at in [0, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 7, 3 * PIECE_BYTES + 4] {
            body[at] ^= 1;
            assert_ne!(checksum(b"", &body), whole, "byte {at}");
            body[at] ^= 1;
        }
    }

    #[test]
    fn small_and_large_parts_of_a_file_read_alike() {
        let content: Vec<u8> = (0..253).cycle().take(MAP_FROM_BYTES + 9000).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for (offset, len) in
            [(0, 10), (4097, 0), (4097, 5000), (4097, MAP_FROM_BYTES), (8999, MAP_FROM_BYTES)]
        {
            let bytes = Bytes::of_file(&file, offset as u64, len).unwrap();
            assert!(bytes[..] == content[offset..offset + len], "{len} bytes from {offset}");
            bytes.release();
            assert!(bytes[..] == content[offset..offset + len], "{len} bytes from {offset}, again");
            assert_eq!(format!("{bytes:?}").contains("Mapped"), Bytes::would_map(len));
        }
    }

    #[test]
    fn what_reaches_past_the_end_of_the_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let len = MAP_FROM_BYTES + 100;
        file.set_len(len as u64).unwrap();
        for (offset, len) in [(0, len + 1), (1, len), (101, MAP_FROM_BYTES), (u64::MAX, len), (len as u64, 1)]
        {
            let error = Bytes::of_file(&file, offset, len).map(|bytes| bytes.len()).unwrap_err();
            assert!(
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput),
                "{len} bytes from {offset}: {error}"
            );
        }
        assert!(Bytes::of_file(&file, 0, len).is_ok());
    }
}
