//! Sparse files: the four forms of sparse maps in a tar, converted to segments.
//!
//! | form | the map is |
//! |---|---|
//! | old GNU (typeflag `S`) | four fields in the header, then blocks of 21 fields |
//! | PAX 0.0 | `GNU.sparse.offset` and `GNU.sparse.numbytes` records in turn |
//! | PAX 0.1 | one `GNU.sparse.map` record, `offset,length,offset,length` |
//! | PAX 1.0 | decimal lines at the start of the payload, padded to a block |
//!
//! This module owns which maps are legal: ascending, not overlapping, within the file, and naming exactly the
//! bytes that are stored (docs/security.md X7). Holes are never stored, only implied. Source: GNU tar's
//! manual, "Storing Sparse Files".

use super::header;
use super::pax::{given, length, set_name};
use super::{Fault, check_limit};
use crate::layer::entry::{Extent, Segment};
use crate::limits::Bound;

/// A run of stored bytes as a map names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Offset in the file, in bytes.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len_bytes: u64,
}

/// The runs of a map so far, limited in number.
#[derive(Debug)]
pub(super) struct Runs {
    runs: Vec<Run>,
    max: Bound,
}

impl Runs {
    pub(super) fn new(max: Bound) -> Self {
        Runs { runs: Vec::new(), max }
    }

    fn len(&self) -> u64 {
        self.runs.len() as u64
    }

    fn push(&mut self, run: Run) -> Result<(), Fault> {
        check_count(self.len().saturating_add(1), self.max)?;
        self.runs.push(run);
        Ok(())
    }

    /// Adds fields of an old GNU map. Returns true if they include the end of the map.
    fn push_fields(&mut self, fields: &[::tar::GnuSparseHeader]) -> Result<bool, Fault> {
        for field in fields {
            // GNU tar checks the length, other readers check the offset, so both must be present or absent.
            match (field.offset.first(), field.numbytes.first()) {
                (Some(0), Some(0)) => return Ok(true),
                (Some(0), _) | (_, Some(0)) => return Err("an entry of the sparse map is incomplete".into()),
                _ => {}
            }
            let offset = header::length(&field.offset, "sparse offset")?;
            let len_bytes = header::length(&field.numbytes, "sparse length")?;
            self.push(Run { offset, len_bytes })?;
        }
        Ok(false)
    }

    /// Adds the fields of an old GNU map in the header. Returns true if more blocks follow.
    pub(super) fn push_gnu(&mut self, gnu: &::tar::GnuHeader) -> Result<bool, Fault> {
        let ended = self.push_fields(&gnu.sparse)?;
        continues(ended, gnu.isextended)
    }

    /// Adds a further block of an old GNU map. Returns true if another block follows.
    pub(super) fn push_gnu_block(&mut self, block: &header::Block) -> Result<bool, Fault> {
        let mut fields = ::tar::GnuExtSparseHeader::new();
        fields.as_mut_bytes().copy_from_slice(block);
        let ended = self.push_fields(fields.sparse())?;
        continues(ended, fields.isextended)
    }

    /// Checks the whole map of a file of `file_bytes` whose stored bytes are `stored`, and returns its
    /// segments.
    pub(super) fn segments(&self, file_bytes: u64, stored: Extent) -> Result<Vec<Segment>, Fault> {
        let mut segments = Vec::with_capacity(self.runs.len());
        let (mut file_end, mut used) = (0_u64, 0_u64);
        for run in &self.runs {
            if run.offset < file_end {
                return Err("the sparse map goes backwards".into());
            }
            file_end = run.offset.saturating_add(run.len_bytes);
            if file_end > file_bytes {
                return Err("the sparse map reaches past the end of the file".into());
            }
            let offset = stored.offset.saturating_add(used);
            used = used.saturating_add(run.len_bytes);
            if run.len_bytes > 0 {
                let extent = Extent { offset, len_bytes: run.len_bytes };
                segments.push(Segment { file_offset: run.offset, extent });
            }
        }
        if used != stored.len_bytes {
            return Err(
                format!("the sparse map covers {used} bytes, but {} are stored", stored.len_bytes).into()
            );
        }
        Ok(segments)
    }
}

/// Returns whether another block follows. A map that has ended but announces another block is an error,
/// because programs would find the payload at different offsets.
fn continues(ended: bool, [is_extended]: [u8; 1]) -> Result<bool, Fault> {
    match (ended, is_extended) {
        (_, 0) => Ok(false),
        (false, _) => Ok(true),
        (true, _) => Err("the sparse map continues after its end".into()),
    }
}

fn check_count(count: u64, max: Bound) -> Result<(), Fault> {
    check_limit(max, count)
}

/// The `GNU.sparse.*` records of one PAX header.
#[derive(Debug, Default)]
pub(super) struct SparseKeys {
    /// The file's name; the `path` record contains a placeholder for readers that do not know sparse files.
    pub(super) name: Vec<u8>,
    version: [Option<u64>; 2],
    size: Option<u64>,
    real_size: Option<u64>,
    count: Option<u64>,
    /// The map of form 0.1.
    map: Option<Vec<Run>>,
    /// The runs of form 0.0, and an offset that waits for its length.
    runs: Vec<Run>,
    offset: Option<u64>,
}

/// The location of the map of a PAX sparse file.
#[derive(Debug)]
pub(super) enum PaxMap {
    /// In the records.
    Here(Runs),
    /// At the start of the payload.
    InPayload,
}

impl SparseKeys {
    /// Stores one record; `key` is the part after `GNU.sparse.`.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let [major, minor] = &mut self.version;
        match key {
            b"name" => set_name(&mut self.name, value)?,
            b"major" => *major = given(value, "sparse version", length)?,
            b"minor" => *minor = given(value, "sparse version", length)?,
            b"size" => self.size = given(value, "sparse size", length)?,
            b"realsize" => self.real_size = given(value, "sparse size", length)?,
            b"numblocks" => self.count = given(value, "sparse count", length)?,
            b"map" => self.map = given(value, "sparse map", list)?,
            b"offset" => {
                let offset = length(value).ok_or("malformed PAX record: invalid sparse offset")?;
                if self.offset.replace(offset).is_some() {
                    return Err("the sparse map contains an offset without a length".into());
                }
            }
            b"numbytes" => {
                let len_bytes = length(value).ok_or("malformed PAX record: invalid sparse length")?;
                let offset =
                    self.offset.take().ok_or("the sparse map contains a length without an offset")?;
                self.runs.push(Run { offset, len_bytes });
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the size of the file in bytes, holes included.
    pub(super) fn file_bytes(&self) -> Result<u64, Fault> {
        self.size.or(self.real_size).ok_or_else(|| "a sparse file without a size".into())
    }

    /// Decides which of the three PAX forms is used, and checks that the records are complete.
    pub(super) fn into_map(self, max_segments: Bound) -> Result<PaxMap, Fault> {
        match self.version {
            [None, None] | [Some(0), Some(0 | 1)] => {}
            [Some(1), Some(0)] => return Ok(PaxMap::InPayload),
            _ => return Err("a sparse file of an unknown version".into()),
        }
        if self.offset.is_some() {
            return Err("the sparse map contains an offset without a length".into());
        }
        let runs = match self.map {
            Some(_) if !self.runs.is_empty() => return Err("a sparse file with two maps".into()),
            Some(map) => map,
            None => self.runs,
        };
        let count = runs.len() as u64;
        if self.count != Some(count) {
            return Err("the sparse map has the wrong length".into());
        }
        check_count(count, max_segments)?;
        Ok(PaxMap::Here(Runs { runs, max: max_segments }))
    }
}

/// Parses `offset,length,offset,length` into runs.
fn list(text: &[u8]) -> Option<Vec<Run>> {
    let mut numbers = text.split(|byte| *byte == b',').map(length);
    let mut runs = Vec::new();
    while let Some(offset) = numbers.next() {
        runs.push(Run { offset: offset?, len_bytes: numbers.next()?? });
    }
    Some(runs)
}

/// A PAX 1.0 map, parsed while the payload arrives: a count, then as many offsets and lengths, each on a line
/// of its own.
#[derive(Debug)]
pub(super) struct TextMap {
    runs: Runs,
    /// The number on the current line; `None` before its first digit.
    line: Option<u64>,
    count: Option<u64>,
    offset: Option<u64>,
}

impl TextMap {
    pub(super) fn new(max_segments: Bound) -> Self {
        TextMap { runs: Runs::new(max_segments), line: None, count: None, offset: None }
    }

    /// Parses more of the map. Returns how many bytes of `text` belong to the map: fewer than `text` has when
    /// the map is complete.
    pub(super) fn feed(&mut self, text: &[u8]) -> Result<usize, Fault> {
        for (at, byte) in text.iter().enumerate() {
            if self.is_complete() {
                return Ok(at);
            }
            match byte {
                b'0'..=b'9' => self.digit(byte.wrapping_sub(b'0'))?,
                b'\n' => self.end_of_line()?,
                _ => return Err("the sparse map contains something other than numbers".into()),
            }
        }
        Ok(text.len())
    }

    /// Returns true after the last line was parsed.
    pub(super) fn is_complete(&self) -> bool {
        self.count == Some(self.runs.len())
    }

    /// Returns the runs that were parsed.
    pub(super) fn into_runs(self) -> Runs {
        self.runs
    }

    fn digit(&mut self, digit: u8) -> Result<(), Fault> {
        let value = self.line.unwrap_or(0).checked_mul(10).and_then(|value| value.checked_add(digit.into()));
        self.line = value.filter(|value| i64::try_from(*value).is_ok());
        match self.line {
            Some(_) => Ok(()),
            None => Err("the sparse map contains a number above 63 bits".into()),
        }
    }

    fn end_of_line(&mut self) -> Result<(), Fault> {
        let value = self.line.take().ok_or("the sparse map contains an empty line")?;
        match (self.count, self.offset.take()) {
            (None, _) => {
                check_count(value, self.runs.max)?;
                self.count = Some(value);
            }
            (Some(_), None) => self.offset = Some(value),
            (Some(_), Some(offset)) => self.runs.push(Run { offset, len_bytes: value })?,
        }
        Ok(())
    }
}
