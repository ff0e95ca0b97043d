//! Encodes the header blocks of one tar member: ustar, and PAX records for values that ustar cannot
//! hold.
//!
//! This module owns which header field or record holds each value. Every choice depends on the member
//! alone, so the same tree gives the same bytes. The module is pure; it must not know trees or images.
//! Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
//! "PAX Format, Version 1.0" (sparse files).

use ::tar::{EntryType, Header};

use crate::layer::entry::{DeviceNumber, Meta, Segment, Xattrs};

/// Block size of a tar, in bytes.
pub(crate) const BLOCK_BYTES: usize = 512;
/// Length of the name and link name fields of a ustar header, in bytes.
const NAME_FIELD: usize = 100;
/// Length of the prefix field, in bytes.
const PREFIX_FIELD: usize = 155;
/// The largest number that seven octal digits hold: user and group IDs, device numbers.
const MAX_SHORT: u64 = 0o7_777_777;
/// The largest number that eleven octal digits hold: sizes, times.
const MAX_LONG: u64 = 0o77_777_777_777;
/// Bytes that a sparse file costs in addition to its map: the extension header and a block of records.
const SPARSE_OVERHEAD_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// A member of a tar.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    /// The name, without a leading or trailing slash; `.` for the root.
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind<'a>,
    pub(crate) meta: Meta,
    pub(crate) xattrs: Xattrs<'a>,
}

/// The type of a member.
#[derive(Debug)]
pub(crate) enum Kind<'a> {
    /// A file of this many bytes, which follow.
    File(u64),
    /// A file with holes. Its map is part of the header; its stored bytes follow.
    Sparse(SparseMap),
    Directory,
    Symlink(&'a [u8]),
    /// A hard link to the member with this path.
    Hardlink(&'a [u8]),
    Char(DeviceNumber),
    Block(DeviceNumber),
    Fifo,
}

/// The map of a sparse file in GNU's format 1.0.
///
/// Runs begin at block boundaries and end at block boundaries or at the end of the file; zeros fill the
/// space around the stored bytes. Some programs (Go's) read all runs as one stream, others (GNU tar)
/// look for each run in its own block; both read the same bytes only if the runs are aligned.
#[derive(Debug)]
pub(crate) struct SparseMap {
    /// Offset and length of each run, in bytes.
    runs: Vec<(u64, u64)>,
    /// The map as decimal lines, padded to a block.
    text: Vec<u8>,
    size: u64,
}

impl SparseMap {
    /// Makes the map of a file of `size` bytes that stores `segments`. Returns `None` if leaving out holes
    /// would save nothing: then the file is smaller, and readable by more programs, with its holes as
    /// zeros.
    pub(crate) fn new(size: u64, segments: impl IntoIterator<Item = Segment>) -> Option<Self> {
        let block = BLOCK_BYTES as u64;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for segment in segments {
            let start = segment.file_offset / block * block;
            let end = segment.file_end().next_multiple_of(block).min(size);
            match runs.last_mut() {
                Some((last, len)) if *last + *len >= start => *len = end - *last,
                _ => runs.push((start, end - start)),
            }
        }
        // An empty run marks a hole at the end, as in GNU tar.
        if runs.last().is_none_or(|(offset, len)| offset + len < size) {
            runs.push((size, 0));
        }
        let mut text = format!("{}\n", runs.len());
        for (offset, len) in &runs {
            text.push_str(&format!("{offset}\n{len}\n"));
        }
        let mut text = text.into_bytes();
        pad(&mut text);
        let map = SparseMap { runs, text, size };
        (SPARSE_OVERHEAD_BYTES + map.payload_bytes() < size).then_some(map)
    }

    /// Returns offset and length of each run, in bytes, ascending.
    pub(crate) fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    /// Returns the length of the map and all runs, in bytes.
    fn payload_bytes(&self) -> u64 {
        self.text.len() as u64 + self.runs.iter().map(|(_, len)| len).sum::<u64>()
    }
}

/// Encodes the header blocks of a member, with the map of a sparse file.
pub(crate) fn encode(member: &Member<'_>) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(entry_type(&member.kind));
    let mut records = Records::default();
    set_names(&mut header, &mut records, member);
    set_numbers(&mut header, &mut records, member);
    for (name, value) in member.xattrs.iter() {
        records.push(&[b"SCHILY.xattr.", name].concat(), value);
    }
    header.set_cksum();

    let mut blocks = records.into_blocks(member.path);
    blocks.extend_from_slice(header.as_bytes());
    if let Kind::Sparse(map) = &member.kind {
        blocks.extend_from_slice(&map.text);
    }
    blocks
}

/// Pads `bytes` with zeros to a whole block.
pub(crate) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
}

fn entry_type(kind: &Kind<'_>) -> EntryType {
    match kind {
        Kind::File(_) | Kind::Sparse(_) => EntryType::Regular,
        Kind::Directory => EntryType::Directory,
        Kind::Symlink(_) => EntryType::Symlink,
        Kind::Hardlink(_) => EntryType::Link,
        Kind::Char(_) => EntryType::Char,
        Kind::Block(_) => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    }
}

fn set_names(header: &mut Header, records: &mut Records, member: &Member<'_>) {
    let mut path = member.path.to_vec();
    if matches!(member.kind, Kind::Directory) {
        path.push(b'/');
    }
    let link = match member.kind {
        Kind::Symlink(target) | Kind::Hardlink(target) => target,
        _ => b"",
    };
    if matches!(member.kind, Kind::Sparse(_)) {
        // A program that does not know the format writes a file of another name, not wrong contents.
        set_path(header, &stand_in("GNUSparseFile.0", &path));
        records.push_name(b"GNU.sparse.name", &path);
    } else if !set_path(header, &path) {
        set_path(header, path.get(..NAME_FIELD).unwrap_or_default());
        records.push_name(b"path", &path);
    }
    if link.len() > NAME_FIELD {
        records.push_name(b"linkpath", link);
    }
    fill(&mut header.as_old_mut().linkname, link);
}

/// Sets the path of a header. Returns false when the name field and the prefix field cannot hold the
/// path.
fn set_path(header: &mut Header, path: &[u8]) -> bool {
    let Some(fields) = header.as_ustar_mut() else { return false };
    if path.len() <= NAME_FIELD {
        fill(&mut fields.name, path);
        return true;
    }
    // The slash between prefix and name is in neither field; the name must not be empty.
    let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let fits =
        |at: &usize| *at <= PREFIX_FIELD && *at > 0 && (1..=NAME_FIELD).contains(&(path.len() - at - 1));
    let Some((prefix, name)) = slashes.rfind(fits).and_then(|at| path.split_at_checked(at)) else {
        return false;
    };
    fill(&mut fields.prefix, prefix);
    fill(&mut fields.name, name.strip_prefix(b"/").unwrap_or(name));
    true
}

fn set_numbers(header: &mut Header, records: &mut Records, member: &Member<'_>) {
    let Meta { mode, uid, gid, mtime } = member.meta;
    let number = |records: &mut Records, key: &[u8], value: u64, max: u64| {
        if value > max {
            records.push(key, value.to_string().as_bytes());
        }
        if value > max { 0 } else { value }
    };
    let size = match &member.kind {
        Kind::File(size) => *size,
        Kind::Sparse(map) => map.payload_bytes(),
        _ => 0,
    };
    header.set_mode(mode.into());
    header.set_size(number(records, b"size", size, MAX_LONG));
    header.set_uid(number(records, b"uid", uid.into(), MAX_SHORT));
    header.set_gid(number(records, b"gid", gid.into(), MAX_SHORT));
    header.set_mtime(if mtime.seconds > MAX_LONG { 0 } else { mtime.seconds });
    if mtime.nanos != 0 {
        let text = format!("{}.{:09}", mtime.seconds, mtime.nanos);
        records.push(b"mtime", text.trim_end_matches('0').as_bytes());
    } else if mtime.seconds > MAX_LONG {
        records.push(b"mtime", mtime.seconds.to_string().as_bytes());
    }
    if let Kind::Char(device) | Kind::Block(device) = member.kind {
        let major = number(records, b"SCHILY.devmajor", device.major.into(), MAX_SHORT);
        let minor = number(records, b"SCHILY.devminor", device.minor.into(), MAX_SHORT);
        if let Some(fields) = header.as_ustar_mut() {
            fields.set_device_major(u32::try_from(major).unwrap_or(0));
            fields.set_device_minor(u32::try_from(minor).unwrap_or(0));
        }
    }
    if let Kind::Sparse(map) = &member.kind {
        records.push(b"GNU.sparse.major", b"1");
        records.push(b"GNU.sparse.minor", b"0");
        records.push(b"GNU.sparse.realsize", map.size.to_string().as_bytes());
    }
}

/// Copies as much of `value` as fits into `field`.
fn fill(field: &mut [u8], value: &[u8]) {
    for (place, byte) in field.iter_mut().zip(value) {
        *place = *byte;
    }
}

/// Returns the name of a member that is not the file itself, with as much of the file's last name as
/// fits.
fn stand_in(directory: &str, path: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut name = [directory.as_bytes(), b"/", last].concat();
    name.truncate(NAME_FIELD);
    name
}

/// PAX records: each is `LENGTH KEY=VALUE\n`, and the length includes its own digits.
#[derive(Debug, Default)]
struct Records {
    bytes: Vec<u8>,
    /// Whether a name in the records is not UTF-8; PAX then requires a record that says so.
    binary: bool,
}

impl Records {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        append_record(&mut self.bytes, key, value);
    }

    fn push_name(&mut self, key: &[u8], name: &[u8]) {
        self.binary |= std::str::from_utf8(name).is_err();
        self.push(key, name);
    }

    /// Returns the extension header and its records; nothing when there are no records.
    fn into_blocks(self, path: &[u8]) -> Vec<u8> {
        if self.bytes.is_empty() {
            return Vec::new();
        }
        let mut body = Vec::new();
        // The record applies to the records after it.
        if self.binary {
            append_record(&mut body, b"hdrcharset", b"BINARY");
        }
        body.extend_from_slice(&self.bytes);
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(body.len() as u64);
        set_path(&mut header, &stand_in("PaxHeaders.0", path));
        header.set_cksum();
        let mut blocks = header.as_bytes().to_vec();
        blocks.extend_from_slice(&body);
        pad(&mut blocks);
        blocks
    }
}

fn append_record(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // Space, equals sign and line end; then the digits of the length, which may add a digit by including
    // themselves.
    let rest = key.len() + value.len() + 3;
    let digits = |number: usize| number.to_string().len();
    let mut length = rest + digits(rest);
    length = rest + digits(length);
    bytes.extend_from_slice(format!("{length} ").as_bytes());
    bytes.extend_from_slice(key);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}
