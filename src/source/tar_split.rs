//! `tar-split.json.gz`: what an engine keeps of a layer's tar when it unpacks the layer.
//!
//! The file has one JSON object a line: segments of literal bytes (headers, padding, the end mark) and the
//! files between them, each with its CRC-64. This module owns that format and turns it into a [`TarPlan`].
//! Source: vbatts/tar-split, tar/storage/entry.go and tar/asm.
//!
//! A tar with sparse files cannot be put together again: the engine writes their holes out and does not
//! record a map that was part of the contents. The headers are parsed to recognise such a file, and any other
//! whose size in the header is not the one that is recorded.

use std::borrow::Cow;
use std::fs::File;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::assembled::{FileCheck, FilePart, PlanBuilder, TarPlan};
use super::beneath::Beneath;
use crate::compress::{Compression, Decoder, Stop};
use crate::error::{StreamFault, StreamResult, Subject};
use crate::layer::entry::{Entry, EntryKind, Stored};
use crate::layer::tar::{Sink, TarParser};
use crate::limits::Limits;
use crate::path::escape;
use crate::warning::WarningKind;

#[cfg(test)]
pub(super) mod tests;

/// Maximum length of a line in bytes. A line holds the literal bytes between two files, in base64; engines
/// divide the padding at the end of a tar into segments of 1 MiB.
const MAX_LINE_BYTES: usize = 32 << 20;

/// Number of bytes decompressed at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Length of a block of a tar in bytes.
const BLOCK_BYTES: u64 = 512;

/// One line.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u64,
    /// Name of a file as the tar writes it.
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    /// The same in base64, if the name is not UTF-8.
    #[serde(borrow)]
    name_raw: Option<Cow<'a, str>>,
    /// Length of a file in bytes.
    size: Option<u64>,
    /// Bytes of a segment, or the CRC-64 of a file, in base64.
    #[serde(borrow)]
    payload: Option<Cow<'a, str>>,
    /// Number of the line, from 0.
    position: u64,
}

/// [`Line::kind`] of a file.
const FILE: u64 = 1;
/// [`Line::kind`] of literal bytes.
const SEGMENT: u64 = 2;

/// Reads the plan of a layer's tar from `file`, which `what` names in errors.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when the file is damaged, when the tar has a sparse file, or past a limit;
/// other kinds when the file cannot be read.
pub(super) fn plan(file: File, what: &Subject) -> io::Result<TarPlan> {
    read_plan(file).map_err(|cause| io::Error::new(cause.kind(), format!("{what}: {cause}")))
}

/// Reads the plan as [`plan`] does, and compares the files below `root` with it without reading them.
///
/// # Errors
/// As [`plan`]; [`io::ErrorKind::InvalidData`] naming the first file that is missing or has another size.
pub(super) fn fitting_plan(file: File, what: &Subject, root: &Beneath) -> io::Result<TarPlan> {
    let plan = plan(file, what)?;
    match plan.misfit(root)? {
        None => Ok(plan),
        Some(misfit) => Err(invalid(misfit)),
    }
}

fn read_plan(file: File) -> io::Result<TarPlan> {
    let mut decoder = Decoder::new(Compression::Gzip, Box::new(file)).map_err(of_stream)?;
    let mut reading = Reading::new();
    let mut buffer = Vec::new();
    loop {
        let stop = decoder.decode(&mut buffer, CHUNK_BYTES, CHUNK_BYTES).map_err(of_stream)?;
        let mut rest = buffer.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            reading.line(line)?;
            rest = after.strip_prefix(b"\n").unwrap_or(after);
        }
        let done = buffer.len() - rest.len();
        buffer.drain(..done);
        if buffer.len() > MAX_LINE_BYTES {
            return Err(invalid(format!(
                "line {}: longer than the limit MAX_LINE_BYTES ({MAX_LINE_BYTES})",
                reading.lines
            )));
        }
        if stop == Stop::End {
            break;
        }
    }
    if decoder.trailing_bytes() > 0 {
        return Err(invalid("bytes follow the gzip data"));
    }
    if !buffer.is_empty() {
        reading.line(&buffer)?;
    }
    reading.plan.finish()
}

/// The state between two lines.
struct Reading {
    plan: PlanBuilder,
    /// Number of lines read.
    lines: u64,
    payload: Vec<u8>,
    headers: Headers,
}

impl Reading {
    fn new() -> Self {
        Reading { plan: PlanBuilder::new(), lines: 0, payload: Vec::new(), headers: Headers::new() }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.entry(line)
            .map_err(|cause| io::Error::new(cause.kind(), format!("line {}: {cause}", self.lines)))?;
        self.lines += 1;
        Ok(())
    }

    fn entry(&mut self, line: &[u8]) -> io::Result<()> {
        let line: Line<'_> =
            serde_json::from_slice(line).map_err(|cause| invalid(format!("bad JSON: {cause}")))?;
        if line.position != self.lines {
            return Err(invalid(format!("the position is {}", line.position)));
        }
        self.payload.clear();
        if let Some(payload) = &line.payload {
            let decoded = STANDARD.decode_vec(payload.as_bytes(), &mut self.payload);
            decoded.map_err(|cause| invalid(format!("bad base64: {cause}")))?;
        }
        match line.kind {
            SEGMENT => {
                self.plan.literal(&self.payload);
                self.headers.literal(&self.payload);
            }
            FILE => self.file(&line)?,
            other => return Err(invalid(format!("unknown type {other}"))),
        }
        self.plan.check()
    }

    fn file(&mut self, line: &Line<'_>) -> io::Result<()> {
        let size = line.size.unwrap_or(0);
        if size == 0 {
            return Ok(());
        }
        let name = line.name()?;
        let path = clean(&name)?;
        let crc: [u8; 8] = self
            .payload
            .as_slice()
            .try_into()
            .map_err(|_| invalid(format!("the checksum of '{}' does not have 8 bytes", escape(&name))))?;
        self.headers.file(&name, size)?;
        let expected = FileCheck::Crc64(u64::from_be_bytes(crc));
        self.plan.file(FilePart { path, start: 0, len_bytes: size, expected });
        Ok(())
    }
}

impl Line<'_> {
    fn name(&self) -> io::Result<Vec<u8>> {
        if let Some(raw) = &self.name_raw {
            return STANDARD.decode(raw.as_bytes()).map_err(|cause| invalid(format!("bad base64: {cause}")));
        }
        let name = self.name.as_deref().ok_or_else(|| invalid("a file without a name"))?;
        Ok(name.as_bytes().to_vec())
    }
}

/// Returns the path that the engine wrote a file to: without empty components and `.`, with `..` resolved
/// lexically.
///
/// # Errors
/// For a path that leads out of the directory; engines refuse such a layer.
fn clean(name: &[u8]) -> io::Result<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let escapes = || invalid(format!("'{}' leads out of the layer", escape(name)));
                parts.pop().ok_or_else(escapes)?;
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() || name.contains(&0) {
        return Err(invalid(format!("'{}' is not the name of a file", escape(name))));
    }
    Ok(parts.join(&b'/'))
}

/// The headers of the tar, parsed to compare the sizes in them.
struct Headers {
    /// `None` after an error of the parser: the pass over the layer will report it.
    parser: Option<TarParser>,
    sparse: SparseSeen,
}

/// Whether the last entry is a sparse file.
#[derive(Default)]
struct SparseSeen(bool);

impl Sink for SparseSeen {
    fn entry(&mut self, entry: Entry<'_>) -> StreamResult<()> {
        self.0 = matches!(&entry.kind, EntryKind::File(data) if matches!(data.stored, Stored::Sparse(_)));
        Ok(())
    }

    fn warning(&mut self, _: WarningKind, _: &[u8]) {}
}

impl Headers {
    fn new() -> Self {
        Headers { parser: Some(TarParser::new(Limits::default())), sparse: SparseSeen::default() }
    }

    fn literal(&mut self, bytes: &[u8]) {
        if let Some(parser) = &mut self.parser
            && parser.feed(bytes, &mut self.sparse).is_err()
        {
            self.parser = None;
        }
    }

    /// Compares `size`, the recorded length of the file whose header was passed last, with the header, and
    /// skips the content.
    fn file(&mut self, name: &[u8], size: u64) -> io::Result<()> {
        let Some(parser) = &mut self.parser else { return Ok(()) };
        let in_header = parser.skippable();
        let padded = size.checked_next_multiple_of(BLOCK_BYTES);
        if self.sparse.0 || padded != Some(in_header) {
            let reason = "was stored as a sparse file or with another size in its header, \
                so the tar cannot be put together again";
            return Err(invalid(format!("'{}' {reason}", escape(name))));
        }
        if parser.skip(size).is_err() {
            self.parser = None;
        }
        Ok(())
    }
}

fn of_stream(fault: StreamFault) -> io::Error {
    match fault {
        StreamFault::Io { cause, .. } => cause,
        fault => invalid(fault.to_string()),
    }
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}
