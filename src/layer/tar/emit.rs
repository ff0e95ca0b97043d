//! From a member's header to its entry: the location of the payload, and the bytes to skip after it.
//!
//! This module owns when an entry is passed to the sink: at once for a plain member, and after its map was
//! read for a sparse file. The map is in further blocks (old GNU) or at the start of the payload (PAX 1.0).

use super::header::Header;
use super::member::{self, Alone, Class};
use super::parser::{State, TarParser, padding, split};
use super::sparse::{PaxMap, Runs, SparseKeys, TextMap};
use super::{Fault, Sink, check_limit};
use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Meta, Segment, Stored, Xattrs};
use crate::layer::xattr::{self, Holder};
use crate::warning::WarningKind;

/// A sparse file whose map has not been read completely.
#[derive(Debug)]
pub(super) struct SparseFile {
    meta: Meta,
    /// Size of the file in bytes, holes included.
    file_bytes: u64,
    /// Size of the payload in the tar, in bytes; a map in the payload is included.
    payload: u64,
}

/// A PAX 1.0 map that has not been read completely.
#[derive(Debug)]
pub(super) struct SparseText {
    file: SparseFile,
    map: TextMap,
    read_bytes: u64,
}

impl TarParser {
    /// Processes the header of a member, after its extension headers. The header ends at `self.offset`.
    pub(super) fn member(&mut self, header: &Header<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        self.extensions.name(header).as_ref().clone_into(&mut self.name);
        self.members = self.members.saturating_add(1);
        check_limit(self.limits.entries(), self.members)?;
        let class = Class::of(header.typeflag(), &self.name);
        let payload = self.payload(header, class)?;
        if class == Class::Unknown {
            return self.unknown(payload, sink);
        }
        let (meta, owner_cut) = self.extensions.meta(header, class)?;
        self.warn(owner_cut, sink);
        let sparse = self.extensions.pax.sparse.take();
        match (class, sparse) {
            (Class::GnuSparse, _) => return self.gnu_sparse(header, meta, payload, sink),
            (Class::File, Some(keys)) => return self.pax_sparse(keys, meta, payload, sink),
            (_, Some(_)) => return Err("a sparse map for an entry that is not a file".into()),
            (Class::Alone(alone), None) => self.emit_alone(header, alone, meta, sink)?,
            (Class::File | Class::Unknown, None) => {
                let extent = Extent { offset: self.offset, len_bytes: payload };
                self.emit_file(meta, FileData { size: payload, stored: Stored::Contiguous(extent) }, sink)?;
            }
        }
        self.skip_next(payload, padding(payload));
        Ok(())
    }

    /// Returns the number of payload bytes after this header. The end of the payload must be a valid `lseek`
    /// offset, so that later sums of offsets cannot overflow (docs/security.md X10).
    fn payload(&self, header: &Header<'_>, class: Class) -> Result<u64, Fault> {
        let size = self.extensions.size(header)?;
        let payload = if class.has_payload() { size } else { 0 };
        let end = self.offset.checked_add(payload).and_then(|end| end.checked_add(padding(payload)));
        match end.map(i64::try_from) {
            Some(Ok(_)) => Ok(payload),
            _ => Err("the payload ends past the largest offset".into()),
        }
    }

    /// Skips a member whose type does not exist in a rootfs (docs/semantics.md M17).
    fn unknown(&mut self, payload: u64, sink: &mut impl Sink) -> Result<(), Fault> {
        self.metadata_bytes = self.weigh(self.name.len())?;
        sink.warning(WarningKind::UnknownType, &self.name);
        self.extensions.clear();
        self.skip_next(payload, padding(payload));
        Ok(())
    }

    fn warn(&mut self, owner_cut: bool, sink: &mut impl Sink) {
        if owner_cut {
            sink.warning(WarningKind::OwnerOverflow, &self.name);
        }
        if self.extensions.pax.windows && !self.windows_told {
            self.windows_told = true;
            sink.warning(WarningKind::WindowsLayer, &self.name);
        }
    }

    /// Begins an old GNU sparse file, whose map starts in the header.
    fn gnu_sparse(
        &mut self,
        header: &Header<'_>,
        meta: Meta,
        payload: u64,
        sink: &mut impl Sink,
    ) -> Result<(), Fault> {
        let gnu = header.gnu().ok_or("a sparse file in a format other than GNU")?;
        let file_bytes = super::header::length(&gnu.realsize, "size with holes")?;
        let mut runs = Runs::new(self.limits.sparse_segments());
        let more = runs.push_gnu(gnu)?;
        self.gnu_sparse_blocks(Box::new(SparseFile { meta, file_bytes, payload }), runs, more, sink)
    }

    /// Waits for the next block of an old GNU map, or emits the file if the map is complete.
    pub(super) fn gnu_sparse_blocks(
        &mut self,
        file: Box<SparseFile>,
        runs: Runs,
        more: bool,
        sink: &mut impl Sink,
    ) -> Result<(), Fault> {
        if more {
            self.state = State::SparseBlocks(file, runs);
            return Ok(());
        }
        self.emit_sparse(&file, &runs, 0, sink)
    }

    /// Begins a PAX sparse file, whose map is in the records or at the start of the payload.
    fn pax_sparse(
        &mut self,
        keys: SparseKeys,
        meta: Meta,
        payload: u64,
        sink: &mut impl Sink,
    ) -> Result<(), Fault> {
        let file = SparseFile { meta, file_bytes: keys.file_bytes()?, payload };
        let max_segments = self.limits.sparse_segments();
        match keys.into_map(max_segments)? {
            PaxMap::Here(runs) => self.emit_sparse(&file, &runs, 0, sink),
            PaxMap::InPayload => {
                let map = TextMap::new(max_segments);
                self.sparse_text(SparseText { file, map, read_bytes: 0 }, sink)
            }
        }
    }

    pub(super) fn step_sparse_text<'c>(
        &mut self,
        chunk: &'c [u8],
        mut text: SparseText,
        sink: &mut impl Sink,
    ) -> Result<&'c [u8], Fault> {
        let (front, _) = split(chunk, text.file.payload.saturating_sub(text.read_bytes));
        let used = text.map.feed(front)? as u64;
        text.read_bytes = text.read_bytes.saturating_add(used);
        self.advance(used);
        self.sparse_text(text, sink)?;
        let (_, rest) = split(chunk, used);
        Ok(rest)
    }

    /// Waits for more of a PAX 1.0 map, or emits the file if the map is complete.
    fn sparse_text(&mut self, text: SparseText, sink: &mut impl Sink) -> Result<(), Fault> {
        let SparseText { file, map, read_bytes } = text;
        let map_bytes = read_bytes.saturating_add(padding(read_bytes));
        if map.is_complete() && map_bytes <= file.payload {
            return self.emit_sparse(&file, &map.into_runs(), read_bytes, sink);
        }
        if read_bytes >= file.payload || map.is_complete() {
            return Err("the sparse map is longer than the payload".into());
        }
        self.state = State::SparseText(Box::new(SparseText { file, map, read_bytes }));
        Ok(())
    }

    /// Emits a sparse file. `map_bytes` of its payload were read, up to `self.offset`.
    fn emit_sparse(
        &mut self,
        file: &SparseFile,
        runs: &Runs,
        map_bytes: u64,
        sink: &mut impl Sink,
    ) -> Result<(), Fault> {
        let left = file.payload.saturating_sub(map_bytes);
        let map_padding = padding(map_bytes);
        let stored = Extent {
            offset: self.offset.saturating_add(map_padding),
            len_bytes: left.saturating_sub(map_padding),
        };
        let segments = runs.segments(file.file_bytes, stored)?;
        let data = FileData { size: file.file_bytes, stored: Stored::Sparse(segments.as_slice().into()) };
        self.emit_file(file.meta, data, sink)?;
        self.skip_next(left, padding(file.payload));
        Ok(())
    }

    fn emit_file(&mut self, meta: Meta, data: FileData<'_>, sink: &mut impl Sink) -> Result<(), Fault> {
        self.metadata_bytes = self.emit(EntryKind::File(data), meta, sink)?;
        self.extensions.clear();
        Ok(())
    }

    fn emit_alone(
        &mut self,
        header: &Header<'_>,
        alone: Alone,
        meta: Meta,
        sink: &mut impl Sink,
    ) -> Result<(), Fault> {
        let kind = match alone {
            Alone::Hardlink => EntryKind::Hardlink(self.extensions.link_name(header)),
            Alone::Symlink => EntryKind::Symlink(self.extensions.link_name(header)),
            Alone::Char => EntryKind::Char(member::device(header)?),
            Alone::Block => EntryKind::Block(member::device(header)?),
            Alone::Directory => EntryKind::Directory,
            Alone::Fifo => EntryKind::Fifo,
        };
        self.metadata_bytes = self.emit(kind, meta, sink)?;
        self.extensions.clear();
        Ok(())
    }

    /// Passes the entry to the sink. Returns the new value of `metadata_bytes`.
    fn emit(&self, kind: EntryKind<'_>, meta: Meta, sink: &mut impl Sink) -> Result<u64, Fault> {
        let pax = &self.extensions.pax;
        let (xattrs, all) = xattr::held(Xattrs::from_packed(&pax.xattrs), Holder::of(&kind));
        // One warning for each entry: its name counts as metadata only once.
        if !all || pax.xattrs_too_long {
            sink.warning(WarningKind::XattrLeftOut, &self.name);
        }
        let entry = Entry {
            header_offset: self.extensions.first_offset.unwrap_or(self.header_offset),
            name: &self.name,
            kind,
            meta,
            xattrs: Xattrs::from_packed(&xattrs),
        };
        let kind_bytes = match &entry.kind {
            EntryKind::Symlink(target) | EntryKind::Hardlink(target) => target.len(),
            EntryKind::File(FileData { stored: Stored::Sparse(segments), .. }) => {
                segments.len().saturating_mul(size_of::<Segment>())
            }
            _ => 0,
        };
        let xattr_bytes = entry.xattrs.as_packed().len();
        let total = self.weigh(kind_bytes.saturating_add(xattr_bytes).saturating_add(entry.name.len()))?;
        sink.entry(entry).map_err(Fault::Sink)?;
        Ok(total)
    }

    /// Returns `metadata_bytes` increased by `len`, after checking the limit.
    fn weigh(&self, len: usize) -> Result<u64, Fault> {
        let total = self.metadata_bytes.saturating_add(len as u64);
        check_limit(self.limits.metadata_bytes(), total)?;
        Ok(total)
    }
}
