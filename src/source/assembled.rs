//! A tar that is put together when it is read: headers that are kept in memory, and contents that are files
//! of a directory.
//!
//! Engines unpack a layer and throw its tar away. This module makes such a directory readable as a tar again,
//! so that the rest of the program indexes, verifies and reads it as any other layer. A [`TarPlan`] says
//! which bytes come from where; [`super::tar_split`] and [`super::directory`] make plans. This module owns
//! how files of the directory are opened, what makes a file unusable, and the memory that a plan takes. It
//! must not know the format of a tar.

use std::fmt;
use std::fs::Metadata;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

use self::blocks::{Blocks, BlocksBuilder, Held};
use self::files::Files;
use self::reader::Reader;
use super::beneath::Beneath;
use crate::path::escape;
use crate::read_at::ReadAt;

mod blocks;
mod files;
mod reader;
#[cfg(test)]
mod tests;

/// Maximum number of file parts in one tar: as many as a layer may have entries
/// (the limit `entries`). A part takes 24 bytes, and some ten bytes for its name.
pub(super) const MAX_PARTS: u64 = 16 << 20;

/// Maximum number of literal bytes in one tar: 2 KiB for each of [`MAX_PARTS`] entries. A small compressed
/// file can contain any number of them.
pub(super) const MAX_LITERAL_BYTES: u64 = 32 << 30;

/// Maximum memory that the compressed literals and names of one tar take, in bytes. A million entries take
/// about 60 MiB.
pub(super) const MAX_PLAN_BYTES: u64 = 1 << 30;

/// Maximum length of the name of a file: `PATH_MAX` of Linux, which no system call exceeds.
pub(super) const MAX_NAME_BYTES: u64 = 4096;

/// A part of a file that a tar contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePart {
    /// Path relative to the root directory, as bytes.
    pub(super) path: Vec<u8>,
    /// Offset of the part in the file, in bytes.
    pub(super) start: u64,
    /// Length of the part in bytes.
    pub(super) len_bytes: u64,
    /// How a change of the file is recognised.
    pub(super) expected: FileCheck,
}

/// How a change of a file is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileCheck {
    /// The CRC-64 (ISO) of the file, which is the part. It is compared when the whole file is read at once.
    Crc64(u64),
    /// The properties of the file when it was seen first; any difference is an error.
    Stamp(FileStamp),
    /// Only the length: the file must not end before the part does.
    Size,
}

/// The properties of a file that change when its content changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    /// Device number.
    pub(super) device: u64,
    /// Inode number.
    pub(super) inode: u64,
    /// Length in bytes.
    pub(super) size: u64,
    /// Time of last modification, in nanoseconds since the epoch.
    pub(super) mtime_ns: i64,
    /// Time of the last change of content or metadata, in nanoseconds since the epoch.
    pub(super) ctime_ns: i64,
}

impl FileStamp {
    /// Returns the current properties of a file.
    pub(super) fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The layout of a tar: runs of literal bytes and parts of files.
pub(super) struct TarPlan {
    /// The file parts, in the order of the tar.
    parts: Vec<Part>,
    literals: Blocks,
    /// A [`FilePart`] for each of `parts`, without its length.
    details: Blocks,
    len_bytes: u64,
    /// Whether all parts are checked by [`FileCheck::Stamp`].
    stamped: bool,
}

/// The place of a file part in the tar. Its length follows from the next part.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Offset in the tar.
    offset: u64,
    /// Number of literal bytes in the tar before the part.
    literals: u64,
    /// Position of the part's details.
    detail: u64,
}

/// The bytes at one offset of a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// Literal bytes from this position.
    Literal { at: u64, len_bytes: u64 },
    /// The rest of a file part from `within` the part.
    File { part: usize, within: u64, len_bytes: u64 },
}

/// Length of the details of a part before its name: length of the name, kind of check, start, and five
/// numbers of the check.
const DETAIL_BYTES: usize = 4 + 1 + 8 + 5 * 8;

/// Collects the parts of a tar, in order.
pub(super) struct PlanBuilder {
    parts: Vec<Part>,
    literals: BlocksBuilder,
    details: BlocksBuilder,
    offset: u64,
    stamped: bool,
    fault: Option<io::Error>,
}

impl PlanBuilder {
    /// Creates the plan of an empty tar.
    pub(super) fn new() -> Self {
        PlanBuilder {
            parts: Vec::new(),
            literals: BlocksBuilder::new(),
            details: BlocksBuilder::new(),
            offset: 0,
            stamped: true,
            fault: None,
        }
    }

    /// Returns the number of bytes in the tar so far.
    pub(super) fn len(&self) -> u64 {
        self.offset
    }

    /// Appends literal bytes. After a fault, which [`PlanBuilder::check`] returns, nothing is appended.
    pub(super) fn literal(&mut self, bytes: &[u8]) {
        if self.fault.is_none() {
            self.fault = self.try_literal(bytes).err();
        }
    }

    /// Appends a part of a file. After a fault, which [`PlanBuilder::check`] returns, nothing is appended.
    pub(super) fn file(&mut self, part: FilePart) {
        if self.fault.is_none() && part.len_bytes > 0 {
            self.fault = self.try_file(&part).err();
        }
    }

    /// Returns the first fault: a limit that the plan exceeds. Call it between many entries, to end early.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] naming the limit.
    pub(super) fn check(&mut self) -> io::Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Ends the tar.
    ///
    /// # Errors
    /// As [`PlanBuilder::check`].
    pub(super) fn finish(mut self) -> io::Result<TarPlan> {
        self.check()?;
        self.parts.shrink_to_fit();
        Ok(TarPlan {
            parts: self.parts,
            literals: self.literals.finish()?,
            details: self.details.finish()?,
            len_bytes: self.offset,
            stamped: self.stamped,
        })
    }

    fn try_literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.literals.push(bytes)?;
        check_limit("MAX_LITERAL_BYTES", self.literals.len(), MAX_LITERAL_BYTES)?;
        self.advance(bytes.len() as u64)
    }

    fn try_file(&mut self, part: &FilePart) -> io::Result<()> {
        check_limit("MAX_PARTS", self.parts.len() as u64 + 1, MAX_PARTS)?;
        check_limit("MAX_NAME_BYTES", part.path.len() as u64, MAX_NAME_BYTES)?;
        if part.start.checked_add(part.len_bytes).is_none_or(|end| end > i64::MAX.cast_unsigned()) {
            return Err(invalid(format!("the size of '{}' is too large", escape(&part.path))));
        }
        self.parts.push(Part {
            offset: self.offset,
            literals: self.literals.len(),
            detail: self.details.len(),
        });
        self.stamped &= matches!(part.expected, FileCheck::Stamp(_));
        self.details.push(&encode(part))?;
        self.details.push(&part.path)?;
        self.advance(part.len_bytes)
    }

    fn advance(&mut self, len_bytes: u64) -> io::Result<()> {
        let stored = self.literals.stored_bytes() + self.details.stored_bytes();
        check_limit("MAX_PLAN_BYTES", stored, MAX_PLAN_BYTES)?;
        let end = self.offset.checked_add(len_bytes).filter(|end| *end <= i64::MAX.cast_unsigned());
        self.offset =
            end.ok_or_else(|| invalid("the sum of the sizes of the files is too large".to_owned()))?;
        Ok(())
    }
}

impl TarPlan {
    /// Returns the length of the tar in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len_bytes
    }

    /// Returns the first file of the plan that is missing below `root` or has another size or other
    /// properties, and how it differs. Contents are not read.
    ///
    /// # Errors
    /// When a file cannot be examined.
    pub(super) fn misfit(&self, root: &Beneath) -> io::Result<Option<String>> {
        let (mut held, mut part) = (Held::default(), FilePart::empty());
        for index in 0..self.parts.len() {
            self.detail(&mut held, index, &mut part)?;
            match files::examine(root, &part) {
                Ok(()) => {}
                Err(fault) if files::is_misfit(&fault) => return Ok(Some(fault.to_string())),
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }

    /// Returns the bytes from `offset`; `None` at the end.
    fn run_at(&self, offset: u64) -> Option<Run> {
        let next = self.parts.partition_point(|part| part.offset <= offset);
        let (next_offset, _) = self.start_of(next);
        let Some((index, last)) = next.checked_sub(1).and_then(|index| Some((index, self.parts.get(index)?)))
        else {
            return Run::literal(offset, next_offset.saturating_sub(offset));
        };
        let end = last.offset + self.part_len(index);
        if offset < end {
            return Some(Run::File { part: index, within: offset - last.offset, len_bytes: end - offset });
        }
        Run::literal(last.literals + (offset - end), next_offset.saturating_sub(offset))
    }

    /// Returns the length of a part in bytes.
    fn part_len(&self, index: usize) -> u64 {
        let ((offset, literals), (next, next_literals)) = (self.start_of(index), self.start_of(index + 1));
        (next - offset) - (next_literals - literals)
    }

    /// Returns the offset of a part, and the number of literal bytes before it.
    fn start_of(&self, index: usize) -> (u64, u64) {
        let part = self.parts.get(index);
        part.map_or((self.len_bytes, self.literals.len()), |part| (part.offset, part.literals))
    }

    /// Reads a part into `into`.
    fn detail(&self, held: &mut Held, index: usize, into: &mut FilePart) -> io::Result<()> {
        let at = self.parts.get(index).ok_or(io::ErrorKind::UnexpectedEof)?.detail;
        let mut head = [0; DETAIL_BYTES];
        self.details.read(held, &mut head, at)?;
        let name_bytes = decode(&head, into)?;
        into.path.resize(name_bytes, 0);
        into.len_bytes = self.part_len(index);
        self.details.read(held, &mut into.path, at + DETAIL_BYTES as u64)
    }
}

impl Run {
    fn literal(at: u64, len_bytes: u64) -> Option<Run> {
        (len_bytes > 0).then_some(Run::Literal { at, len_bytes })
    }
}

impl FilePart {
    fn empty() -> Self {
        FilePart { path: Vec::new(), start: 0, len_bytes: 0, expected: FileCheck::Size }
    }
}

fn encode(part: &FilePart) -> [u8; DETAIL_BYTES] {
    let (kind, numbers) = match part.expected {
        FileCheck::Size => (0, [0; 5]),
        FileCheck::Crc64(crc) => (1, [crc, 0, 0, 0, 0]),
        FileCheck::Stamp(FileStamp { device, inode, size, mtime_ns, ctime_ns }) => {
            (2, [device, inode, size, mtime_ns.cast_unsigned(), ctime_ns.cast_unsigned()])
        }
    };
    let mut bytes = [0; DETAIL_BYTES];
    // The builder has checked the length against MAX_NAME_BYTES.
    let name_bytes = u32::try_from(part.path.len()).unwrap_or(u32::MAX);
    let (head, words) = bytes.split_at_mut(5);
    head[..4].copy_from_slice(&name_bytes.to_le_bytes());
    head[4] = kind;
    for (word, number) in words.chunks_exact_mut(8).zip([part.start].into_iter().chain(numbers)) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Reads `start` and `expected` of a part, and returns the length of its name.
fn decode(bytes: &[u8; DETAIL_BYTES], into: &mut FilePart) -> io::Result<usize> {
    let (head, words) = bytes.split_at(5);
    let mut numbers = [0; 6];
    for (number, word) in numbers.iter_mut().zip(words.chunks_exact(8)) {
        *number = u64::from_le_bytes(word.try_into().unwrap_or_default());
    }
    let [start, first, inode, size, mtime, ctime] = numbers;
    into.start = start;
    into.expected = match head[4] {
        0 => FileCheck::Size,
        1 => FileCheck::Crc64(first),
        _ => FileCheck::Stamp(FileStamp {
            device: first,
            inode,
            size,
            mtime_ns: mtime.cast_signed(),
            ctime_ns: ctime.cast_signed(),
        }),
    };
    let name_bytes = u32::from_le_bytes(head[..4].try_into().unwrap_or_default());
    usize::try_from(name_bytes).map_err(io::Error::other)
}

fn check_limit(limit: &str, value: u64, max: u64) -> io::Result<()> {
    if value > max {
        return Err(invalid(format!("{value} exceeds the limit {limit} ({max})")));
    }
    Ok(())
}

/// Creates an error of the kind [`io::ErrorKind::InvalidData`].
fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// A tar whose contents are files of a directory.
pub(super) struct AssembledTar {
    make: Box<dyn Fn() -> io::Result<TarPlan> + Send + Sync>,
    /// The plan, or why it could not be made.
    plan: OnceLock<Result<Arc<TarPlan>, (io::ErrorKind, String)>>,
    files: Arc<Files>,
}

impl AssembledTar {
    /// Creates a tar of the files below `root`. `make` is called when the first byte or the length is needed.
    pub(super) fn new(root: Beneath, make: impl Fn() -> io::Result<TarPlan> + Send + Sync + 'static) -> Self {
        AssembledTar { make: Box::new(make), plan: OnceLock::new(), files: Arc::new(Files::new(root, true)) }
    }

    /// Creates a tar of the files below `root` with a plan that exists already.
    pub(super) fn planned(root: Beneath, plan: TarPlan) -> Self {
        AssembledTar {
            make: Box::new(|| Err(invalid("the plan exists already".to_owned()))),
            plan: OnceLock::from(Ok(Arc::new(plan))),
            files: Arc::new(Files::new(root, true)),
        }
    }

    /// Makes the tar show files whose CRC-64 does not match, for [`crate::layer::index::Verify::Off`].
    pub(super) fn without_checksums(self) -> Self {
        let files = Files::new(self.files.root().clone(), false);
        AssembledTar { files: Arc::new(files), ..self }
    }

    /// Returns the plan, and makes it if that was not done yet.
    ///
    /// # Errors
    /// The error of making it; the same each time.
    fn plan(&self) -> io::Result<&Arc<TarPlan>> {
        let made = self
            .plan
            .get_or_init(|| (self.make)().map(Arc::new).map_err(|cause| (cause.kind(), cause.to_string())));
        made.as_ref().map_err(|(kind, text)| io::Error::new(*kind, text.clone()))
    }
}

impl ReadAt for AssembledTar {
    /// Returns the length. If no plan can be made, returns the length of one block, so that a reader reads
    /// and gets the error.
    fn len(&self) -> u64 {
        self.plan().map_or(512, |plan| plan.len())
    }

    fn known_len(&self) -> Option<u64> {
        match self.plan.get()? {
            Ok(plan) => Some(plan.len()),
            Err(_) => None,
        }
    }

    /// Returns the length of one header: a longer read would open the files between headers.
    /// Only for a plan of a walk: a checksum is compared when a whole file is read.
    fn checks_files(&self) -> bool {
        matches!(self.plan.get(), Some(Ok(plan)) if plan.stamped)
    }

    fn probe_bytes(&self) -> usize {
        512
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let plan = self.plan()?;
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= plan.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        Reader::new(plan.clone(), self.files.clone(), offset..end).read_exact(buf)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        match self.plan() {
            Ok(plan) => {
                let end = range.end.min(plan.len());
                Box::new(Reader::new(plan.clone(), self.files.clone(), range.start..end))
            }
            Err(_) => Box::new(crate::read_at::Cursor::new(self, range)),
        }
    }
}

impl fmt::Debug for AssembledTar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssembledTar").field("root", self.files.root()).finish_non_exhaustive()
    }
}

impl fmt::Debug for TarPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parts, len_bytes, .. } = self;
        f.debug_struct("TarPlan")
            .field("parts", &parts.len())
            .field("len_bytes", len_bytes)
            .finish_non_exhaustive()
    }
}
