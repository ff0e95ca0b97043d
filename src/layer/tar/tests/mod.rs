//! Tests of tar streams. Test names cite the rows of the semantics and security tables.
//!
//! Streams are built here block by block, because no tar program writes most of them.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that goes out of bounds fails, as it should"
)]

mod encode;
mod extensions;
mod members;
mod programs;
mod sparse_files;
mod streams;

use super::{Sink, TarParser};
use crate::error::{StreamFault, StreamResult as Result};
use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Meta, Stored};
use crate::limits::Limits;
use crate::warning::WarningKind;

/// The default limits, except for one.
fn limited(name: &str, value: u64) -> Limits {
    let mut limits = Limits::default();
    assert!(limits.set(name, value));
    limits
}

/// A builder of tar streams.
#[derive(Clone, Default)]
struct Stream(Vec<u8>);

impl Stream {
    fn new() -> Self {
        Stream::default()
    }

    /// Appends a header without changes, and the payload with its padding.
    fn raw(mut self, header: &::tar::Header, payload: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Appends a ustar member; `edit` changes its header before the checksum is computed.
    fn edited(self, typeflag: u8, name: &str, payload: &[u8], edit: impl FnOnce(&mut ::tar::Header)) -> Self {
        self.raw(&sealed(::tar::Header::new_ustar(), typeflag, name, payload, edit), payload)
    }

    fn member(self, typeflag: u8, name: &str, payload: &[u8]) -> Self {
        self.edited(typeflag, name, payload, |_| ())
    }

    /// A link header; the size field is 0.
    fn link(self, typeflag: u8, name: &str, target: &str) -> Self {
        self.edited(typeflag, name, b"", |header| put(&mut header.as_old_mut().linkname, target.as_bytes()))
    }

    /// A member in old GNU format.
    fn gnu(self, typeflag: u8, name: &str, payload: &[u8], edit: impl FnOnce(&mut ::tar::GnuHeader)) -> Self {
        let edit = |header: &mut ::tar::Header| edit(header.as_gnu_mut().unwrap());
        self.raw(&sealed(::tar::Header::new_gnu(), typeflag, name, payload, edit), payload)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.member(b'x', "PaxHeaders/x", &body)
    }

    fn end(mut self) -> Self {
        self.0.extend_from_slice(&[0; 1024]);
        self
    }

    fn parse(&self) -> Result<Found> {
        parse_with(&self.0, Limits::default(), [self.0.len()])
    }

    /// Returns the only entry.
    fn only(&self) -> Owned {
        let found = self.parse().unwrap();
        assert_eq!(found.entries.len(), 1, "{:?}", found.entries);
        found.entries.into_iter().next().unwrap()
    }

    fn error(&self) -> String {
        format!("layer: {}", self.parse().unwrap_err())
    }
}

/// Writes the common fields, then `edit`, then the checksum.
fn sealed(
    mut header: ::tar::Header,
    typeflag: u8,
    name: &str,
    payload: &[u8],
    edit: impl FnOnce(&mut ::tar::Header),
) -> ::tar::Header {
    let fields = header.as_old_mut();
    put(&mut fields.name, name.as_bytes());
    put(&mut fields.mode, b"0000644");
    put(&mut fields.uid, b"0000000");
    put(&mut fields.gid, b"0000000");
    put(&mut fields.size, format!("{:011o}", payload.len()).as_bytes());
    put(&mut fields.mtime, b"00000000000");
    fields.linkflag = [typeflag];
    edit(&mut header);
    header.set_cksum();
    header
}

/// Writes `bytes` into a field and fills it up with NULs.
fn put(field: &mut [u8], bytes: &[u8]) {
    field.fill(0);
    field[..bytes.len()].copy_from_slice(bytes);
}

/// A PAX record with its own length in front.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// The result of parsing a stream.
#[derive(Debug, Default, PartialEq)]
struct Found {
    entries: Vec<Owned>,
    warnings: Vec<(WarningKind, String)>,
    at_end: bool,
}

impl Found {
    fn names(&self) -> Vec<String> {
        self.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }

    fn warned(&self, kind: WarningKind) -> Vec<&str> {
        let of_kind = self.warnings.iter().filter(|(found, _)| *found == kind);
        of_kind.map(|(_, name)| name.as_str()).collect()
    }
}

/// An owned copy of an [`Entry`].
#[derive(Debug, Clone, PartialEq)]
struct Owned {
    header_offset: u64,
    name: Vec<u8>,
    kind: Kind,
    meta: Meta,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    File(FileData<'static>),
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Other(EntryKind<'static>),
}

impl Owned {
    fn data(&self) -> &FileData<'static> {
        match &self.kind {
            Kind::File(data) => data,
            other => panic!("{other:?} is no file"),
        }
    }

    /// Returns the extent of a file without holes.
    fn extent(&self) -> Extent {
        match self.data().stored {
            Stored::Contiguous(extent) => extent,
            Stored::Sparse(_) => panic!("a sparse file"),
        }
    }

    /// Returns the file's bytes as a program would read them.
    fn bytes(&self, stream: &[u8]) -> Vec<u8> {
        let data = self.data();
        let mut bytes = vec![0; usize::try_from(data.size).unwrap()];
        let mut copy = |at: u64, extent: &Extent| {
            let [at, from, len] = [at, extent.offset, extent.len_bytes].map(|n| usize::try_from(n).unwrap());
            bytes[at..at + len].copy_from_slice(&stream[from..from + len]);
        };
        match &data.stored {
            Stored::Contiguous(extent) => copy(0, extent),
            Stored::Sparse(segments) => {
                segments.iter_from(0).for_each(|segment| copy(segment.file_offset, &segment.extent));
            }
        }
        bytes
    }
}

impl Sink for Found {
    fn entry(&mut self, entry: Entry<'_>) -> Result<()> {
        let kind = match entry.kind {
            EntryKind::File(FileData { size, stored }) => {
                let stored = match stored {
                    Stored::Contiguous(extent) => Stored::Contiguous(extent),
                    Stored::Sparse(segments) => {
                        Stored::Sparse(segments.iter_from(0).collect::<Vec<_>>().into())
                    }
                };
                Kind::File(FileData { size, stored })
            }
            EntryKind::Symlink(target) => Kind::Symlink(target.to_vec()),
            EntryKind::Hardlink(target) => Kind::Hardlink(target.to_vec()),
            EntryKind::Directory => Kind::Other(EntryKind::Directory),
            EntryKind::Char(number) => Kind::Other(EntryKind::Char(number)),
            EntryKind::Block(number) => Kind::Other(EntryKind::Block(number)),
            EntryKind::Fifo => Kind::Other(EntryKind::Fifo),
        };
        self.entries.push(Owned {
            header_offset: entry.header_offset,
            name: entry.name.to_vec(),
            kind,
            meta: entry.meta,
            xattrs: entry.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        });
        Ok(())
    }

    fn warning(&mut self, kind: WarningKind, name: &[u8]) {
        self.warnings.push((kind, String::from_utf8_lossy(name).into_owned()));
    }
}

/// Parses `bytes` in chunks of these sizes, repeated as needed; a size of 0 counts as 1.
fn parse_with(
    bytes: &[u8],
    limits: Limits,
    sizes: impl IntoIterator<Item = usize, IntoIter: Clone>,
) -> Result<Found> {
    let mut found = Found::default();
    let mut parser = TarParser::new(limits);
    let mut sizes = sizes.into_iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        parser.feed(chunk, &mut found)?;
        rest = tail;
    }
    parser.finish(&mut found)?;
    assert_eq!(parser.offset(), bytes.len() as u64);
    found.at_end = parser.at_end();
    Ok(found)
}
