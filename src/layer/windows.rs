//! Windows: up to 32 KiB of output before a checkpoint, which deflate needs to resume there.
//!
//! Windows are the largest part of an index, and a mount needs few of them, so they are stored compressed,
//! separately from the rest, and read one at a time. This module owns how windows are compressed and checked.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::entry::Extent;
use super::table::{CheckpointKind, CheckpointRecord, LayerIndex};
use crate::compress::{Checkpoint, CheckpointTable, MAX_WINDOW_BYTES, Resume};
use crate::error::{StreamFault, StreamResult as Result};
use crate::memory::zeros;
use crate::read_at::ReadAt;

/// The zstd level. Windows compress well, and compressing them must not slow down the pass.
const LEVEL: i32 = 1;

/// The compressed windows of a layer, concatenated.
#[derive(Debug)]
pub(crate) enum Windows {
    /// Windows in memory.
    Memory(Vec<u8>),
    /// Windows in a file: the number is their length in bytes, from the start of the file.
    File(File, u64),
}

/// Compresses windows and writes them to a file, or to memory if the file cannot be written.
pub(super) struct WindowWriter {
    windows: Windows,
    compressor: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for WindowWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WindowWriter").field("windows", &self.windows).finish_non_exhaustive()
    }
}

impl WindowWriter {
    /// Creates a writer to `file`, or to memory without one.
    pub(super) fn new(file: Option<File>) -> Result<Self> {
        let windows = match file {
            Some(file) => Windows::File(file, 0),
            None => Windows::Memory(Vec::new()),
        };
        let compressor = zstd::bulk::Compressor::new(LEVEL)
            .map_err(|cause| StreamFault::io("cannot set up zstd for", cause))?;
        Ok(WindowWriter { windows, compressor })
    }

    /// Appends the window of a checkpoint and returns the record of the checkpoint.
    pub(super) fn push(&mut self, checkpoint: &Checkpoint) -> Result<CheckpointRecord> {
        let mut record = CheckpointRecord {
            output_offset: checkpoint.output_offset,
            compressed_offset: checkpoint.compressed_offset,
            kind: CheckpointKind::Start,
            window: Extent::default(),
            window_hash: [0; 8],
        };
        if let Resume::Inside { note, window } = &checkpoint.state {
            record.kind = CheckpointKind::Inside(*note);
            if !window.is_empty() {
                let packed = self
                    .compressor
                    .compress(window)
                    .map_err(|cause| StreamFault::io("cannot compress a window of", cause))?;
                record.window_hash = short_hash(&packed);
                record.window = self.append(&packed)?;
            }
        }
        Ok(record)
    }

    pub(super) fn finish(self) -> Windows {
        self.windows
    }

    fn append(&mut self, packed: &[u8]) -> Result<Extent> {
        let len_bytes = packed.len() as u64;
        if let Windows::File(file, written) = &mut self.windows {
            let offset = *written;
            match file.write_all(packed) {
                Ok(()) => {
                    *written += len_bytes;
                    return Ok(Extent { offset, len_bytes });
                }
                Err(cause) => {
                    log::warn!("the index is not stored: cannot write the windows: {cause}");
                    self.windows = Windows::Memory(read_back(file, offset)?);
                }
            }
        }
        let Windows::Memory(bytes) = &mut self.windows else { return Ok(Extent::default()) };
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(packed);
        Ok(Extent { offset, len_bytes })
    }
}

/// Reads back the windows that were written before the disk was full.
fn read_back(file: &File, len: u64) -> Result<Vec<u8>> {
    let bytes = zeros(usize::try_from(len).unwrap_or(usize::MAX));
    let read = bytes.and_then(|mut bytes| file.read_exact_at(&mut bytes, 0).map(|()| bytes));
    read.map_err(|cause| StreamFault::io("cannot read back the windows of", cause))
}

fn short_hash(packed: &[u8]) -> [u8; 8] {
    *blake3::hash(packed).as_bytes().first_chunk().unwrap_or(&[0; 8])
}

/// The checkpoints of an index, for a seekable stream. Windows are decompressed when they are needed.
#[derive(Debug)]
pub(crate) struct StoredCheckpoints {
    index: Arc<LayerIndex>,
    windows: Arc<dyn ReadAt>,
}

impl StoredCheckpoints {
    /// Creates the table of the checkpoints in `index`, whose windows are in `windows`.
    #[must_use]
    pub(crate) fn new(index: Arc<LayerIndex>, windows: Arc<dyn ReadAt>) -> Self {
        StoredCheckpoints { index, windows }
    }

    fn unpack(&self, record: &CheckpointRecord) -> Option<Vec<u8>> {
        if record.window.len_bytes == 0 {
            return Some(Vec::new());
        }
        let len = record.window.len_bytes.min(self.windows.len());
        let mut packed = zeros(usize::try_from(len).ok()?).ok()?;
        self.windows.read_exact_at(&mut packed, record.window.offset).ok()?;
        if short_hash(&packed) != record.window_hash {
            return None;
        }
        zstd::bulk::decompress(&packed, MAX_WINDOW_BYTES).ok()
    }
}

impl CheckpointTable for StoredCheckpoints {
    /// If a window is damaged, the checkpoint before it is used, which only takes longer.
    fn at_or_before(&self, output_offset: u64) -> Result<Checkpoint> {
        let mut at = self.index.checkpoint_at(output_offset);
        while let Some(position) = at {
            let Some(record) = self.index.checkpoint(position) else { break };
            let state = match record.kind {
                CheckpointKind::Start => Some(Resume::Start),
                CheckpointKind::Inside(note) => {
                    self.unpack(&record).map(|window| Resume::Inside { note, window })
                }
            };
            if let Some(state) = state {
                return Ok(Checkpoint {
                    output_offset: record.output_offset,
                    compressed_offset: record.compressed_offset,
                    state,
                });
            }
            log::warn!(
                "the index is damaged: bad window of the checkpoint at offset {}",
                record.output_offset
            );
            at = position.checked_sub(1);
        }
        Ok(Checkpoint { output_offset: 0, compressed_offset: 0, state: Resume::Start })
    }

    fn compressed_offset_before(&self, output_offset: u64) -> u64 {
        let before = self.index.checkpoint_at(output_offset).and_then(|at| self.index.checkpoint(at));
        before.map_or(0, |record| record.compressed_offset)
    }

    fn compressed_offset_after(&self, output_offset: u64) -> Option<u64> {
        let before = output_offset.checked_sub(1).and_then(|offset| self.index.checkpoint_at(offset));
        let next = before.map_or(Some(0), |before| before.checked_add(1))?;
        self.index.checkpoint(next).map(|record| record.compressed_offset)
    }
}
