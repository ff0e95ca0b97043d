//! Bytes that are kept compressed in memory and read at any position.
//!
//! This module owns the size of a block and how many decompressed blocks are kept. The headers of a tar
//! repeat themselves: zstd at its fastest level keeps a million of them in some ten megabytes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Length of a block before compression, in bytes. A larger block compresses little better, and a read of one
/// header decompresses a whole block.
const BLOCK_BYTES: usize = 256 << 10;

/// Number of decompressed blocks that are kept. Readers in several threads usually need neighbours.
const KEPT_BLOCKS: usize = 4;

/// Level of zstd. Higher levels take several times as long and gain a third.
const LEVEL: i32 = 1;

/// Collects the bytes of [`Blocks`].
pub(super) struct BlocksBuilder {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    blocks: Vec<Box<[u8]>>,
    stored_bytes: u64,
    last: Vec<u8>,
    len_bytes: u64,
}

impl BlocksBuilder {
    pub(super) fn new() -> Self {
        BlocksBuilder {
            compressor: None,
            blocks: Vec::new(),
            stored_bytes: 0,
            last: Vec::new(),
            len_bytes: 0,
        }
    }

    /// Returns the number of bytes appended so far.
    pub(super) fn len(&self) -> u64 {
        self.len_bytes
    }

    /// Returns the memory that the blocks take, in bytes.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Appends `bytes`.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.len_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (fits, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.last.len()));
            self.last.extend_from_slice(fits);
            bytes = rest;
            if self.last.len() == BLOCK_BYTES {
                self.pack()?;
            }
        }
        Ok(())
    }

    /// Ends the sequence of bytes.
    pub(super) fn finish(mut self) -> io::Result<Blocks> {
        if !self.last.is_empty() {
            self.pack()?;
        }
        self.blocks.shrink_to_fit();
        Ok(Blocks { blocks: self.blocks, len_bytes: self.len_bytes, kept: Mutex::default() })
    }

    fn pack(&mut self) -> io::Result<()> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        let block = compressor.compress(&self.last)?.into_boxed_slice();
        self.stored_bytes += block.len() as u64;
        self.blocks.push(block);
        self.last.clear();
        Ok(())
    }
}

/// Bytes that are kept compressed. All blocks but the last have [`BLOCK_BYTES`].
pub(super) struct Blocks {
    blocks: Vec<Box<[u8]>>,
    len_bytes: u64,
    /// The blocks that were decompressed last, the newest at the end.
    kept: Mutex<Vec<(usize, Arc<Vec<u8>>)>>,
}

/// The block that one reader is in: reading on takes no lock.
#[derive(Default)]
pub(super) struct Held(Option<(usize, Arc<Vec<u8>>)>);

impl Blocks {
    /// Returns the number of bytes.
    pub(super) fn len(&self) -> u64 {
        self.len_bytes
    }

    /// Returns the memory that the blocks take, in bytes.
    #[cfg(test)]
    pub(super) fn stored_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] past the end.
    pub(super) fn read(&self, held: &mut Held, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let past_end = || io::Error::from(io::ErrorKind::UnexpectedEof);
            let index = usize::try_from(offset / BLOCK_BYTES as u64).map_err(|_| past_end())?;
            let within = usize::try_from(offset % BLOCK_BYTES as u64).map_err(|_| past_end())?;
            let block = self.block(held, index)?;
            let there = block.get(within..).filter(|there| !there.is_empty()).ok_or_else(past_end)?;
            let len = there.len().min(buf.len());
            let (now, later) = buf.split_at_mut(len);
            now.copy_from_slice(&there[..len]);
            buf = later;
            offset += len as u64;
        }
        Ok(())
    }

    fn block<'h>(&self, held: &'h mut Held, index: usize) -> io::Result<&'h [u8]> {
        if held.0.as_ref().is_none_or(|(at, _)| *at != index) {
            held.0 = Some((index, self.shared(index)?));
        }
        Ok(held.0.as_ref().map(|(_, block)| block.as_slice()).unwrap_or_default())
    }

    fn shared(&self, index: usize) -> io::Result<Arc<Vec<u8>>> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = kept().iter().find(|(at, _)| *at == index) {
            return Ok(block.clone());
        }
        let packed = self.blocks.get(index).ok_or(io::ErrorKind::UnexpectedEof)?;
        let block = Arc::new(zstd::bulk::decompress(packed, BLOCK_BYTES)?);
        let mut kept = kept();
        if kept.len() >= KEPT_BLOCKS {
            kept.remove(0);
        }
        kept.push((index, block.clone()));
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_at_any_position_also_across_blocks() {
        let bytes: Vec<u8> = (0..=250_u8).cycle().take(3 * BLOCK_BYTES + 100).collect();
        let mut builder = BlocksBuilder::new();
        for piece in bytes.chunks(1000) {
            builder.push(piece).unwrap();
        }
        assert_eq!(builder.len(), bytes.len() as u64);
        let blocks = builder.finish().unwrap();
        let mut held = Held::default();
        for (offset, len) in [(0, 10), (BLOCK_BYTES - 5, 10), (100, 2 * BLOCK_BYTES), (bytes.len() - 1, 1)] {
            let mut read = vec![0; len];
            blocks.read(&mut held, &mut read, offset as u64).unwrap();
            assert!(read == bytes[offset..offset + len], "{len} bytes at {offset}");
        }
        let past = blocks.read(&mut held, &mut [0; 2], bytes.len() as u64 - 1).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn headers_of_a_tar_take_little_memory() {
        let mut builder = BlocksBuilder::new();
        for number in 0..10_000_u32 {
            let mut header = tar::Header::new_ustar();
            header.set_path(format!("usr/share/doc/package-{}/file-{number}", number / 20)).unwrap();
            header.set_size(u64::from(number * 37));
            header.set_mtime(1_700_000_000);
            header.set_cksum();
            builder.push(header.as_bytes()).unwrap();
        }
        assert!(builder.stored_bytes() < builder.len() / 10, "{}", builder.stored_bytes());
    }
}
