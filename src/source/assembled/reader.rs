//! Reads a range of an assembled tar from front to back.
//!
//! This module owns the order of reads and when a checksum is compared: as soon as a reader has read a file
//! whole. A reader reuses its buffers, so a part of a tar costs the system calls for its file and nothing
//! else.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crc::{CRC_64_GO_ISO, Crc, Digest, Table};

use super::blocks::Held;
use super::files::{self, Files};
use super::{FileCheck, FilePart, Run, TarPlan};

/// The checksum of tar-split: CRC-64 with the polynomial of ISO 3309, as in Go's `hash/crc64`.
pub(super) static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// A file of which a reader reads less than all at once stays open from this length on, in bytes.
const MIN_KEPT_BYTES: u64 = 128 << 10;

/// A reader of a range.
pub(super) struct Reader {
    plan: Arc<TarPlan>,
    files: Arc<Files>,
    offset: u64,
    end: u64,
    literals: Held,
    details: Held,
    part: FilePart,
    /// The open file that `part` describes.
    open: Option<OpenPart>,
}

struct OpenPart {
    file: Arc<File>,
    /// The running checksum; `None` if the file is not read from its start to its end.
    sum: Option<Digest<'static, u64, Table<16>>>,
}

impl Reader {
    pub(super) fn new(plan: Arc<TarPlan>, files: Arc<Files>, range: Range<u64>) -> Self {
        Reader {
            plan,
            files,
            offset: range.start,
            end: range.end,
            literals: Held::default(),
            details: Held::default(),
            part: FilePart::empty(),
            open: None,
        }
    }

    /// Reads the next bytes of one run. `buf` is not empty and lies within the range.
    fn read_run(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let run = self.plan.run_at(self.offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        let (Run::Literal { len_bytes, .. } | Run::File { len_bytes, .. }) = run;
        let len = usize::try_from(len_bytes).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = &mut buf[..len];
        match run {
            Run::Literal { at, .. } => self.plan.literals.read(&mut self.literals, buf, at)?,
            Run::File { part, within, .. } => self.read_file(buf, part, within)?,
        }
        self.offset += len as u64;
        Ok(len)
    }

    fn read_file(&mut self, buf: &mut [u8], index: usize, within: u64) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) if within > 0 => open,
            _ => self.open_part(index, within)?,
        };
        let root = self.files.root();
        open.file.read_exact_at(buf, self.part.start + within).map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => {
                files::misfit(root, &self.part, "became shorter while it was read")
            }
            _ => files::cannot("cannot read", root, &self.part, &cause),
        })?;
        if let Some(sum) = &mut open.sum {
            sum.update(buf);
        }
        if within + (buf.len() as u64) < self.part.len_bytes {
            self.open = Some(open);
            return Ok(());
        }
        self.check_end(open)
    }

    fn open_part(&mut self, index: usize, within: u64) -> io::Result<OpenPart> {
        self.plan.detail(&mut self.details, index, &mut self.part)?;
        let (offset, _) = self.plan.start_of(index);
        let whole = within == 0 && offset + self.part.len_bytes <= self.end;
        let keep = !whole && self.part.len_bytes >= MIN_KEPT_BYTES;
        let file = self.files.get(offset, &self.part, keep)?;
        let sums = whole && self.files.checksums && matches!(self.part.expected, FileCheck::Crc64(_));
        Ok(OpenPart { file, sum: sums.then(|| CRC64.digest()) })
    }

    /// Checks a file after its part was read.
    fn check_end(&self, open: OpenPart) -> io::Result<()> {
        match (self.part.expected, open.sum.map(|sum| sum.finalize())) {
            (FileCheck::Crc64(expected), Some(found)) if found != expected => {
                let reason = "has changed since the image was stored: its checksum does not match";
                Err(files::misfit(self.files.root(), &self.part, reason))
            }
            // The file may have changed after it was opened.
            (FileCheck::Stamp(_), _) => files::check(self.files.root(), &self.part, &open.file),
            _ => Ok(()),
        }
    }
}

impl Read for Reader {
    /// Fills `buf`, unless the range ends before.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let mut done = 0;
        while done < len {
            done += self.read_run(&mut buf[done..len])?;
        }
        Ok(len)
    }
}
