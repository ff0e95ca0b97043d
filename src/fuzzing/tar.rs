//! The tar machine: any division of a stream into chunks gives the same entries, and the entries are those
//! that the `tar` crate finds, except for the differences in [`explain`].

use std::fmt::Debug;

use super::input::{Choices, split};
use super::mutate::{self, Mutation, Plain, Random};
use crate::error::StreamResult;
use crate::layer::entry::{DeviceNumber, Entry, EntryKind, Extent, Meta, Segment, Stored, Xattrs};
use crate::layer::tar::{Sink, TarParser};
use crate::limits::Limits;
use crate::warning::WarningKind;

pub(super) fn mutation(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    mutate::tar(data, random, plain);
}

/// Runs the parser on a stream.
pub(super) fn run(data: &[u8]) {
    let whole = parse(data, [data.len()]);
    check(data, &whole);
    let mut pieces = data.iter().map(|byte| usize::from(*byte) % 700 + 1).chain(std::iter::repeat(512));
    same(&whole, &parse(data, std::iter::from_fn(|| pieces.next())));
    same(&whole, &parse(data, std::iter::repeat(1)));
    same(&whole, &parse_skipping(data));
    compare(data, &whole);
}

fn same(one: &Seen, other: &Seen) {
    assert_eq!(one, other, "the result depends on how the stream is read");
}

/// A member with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    header_offset: u64,
    name: Vec<u8>,
    kind: Kind,
    meta: Meta,
    xattrs: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File(u64, Extent),
    Sparse(u64, Vec<Segment>),
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Device(DeviceNumber),
    Fifo,
}

/// All that the parser returned.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    members: Vec<Member>,
    warnings: Vec<(WarningKind, Vec<u8>)>,
    error: Option<String>,
}

impl Sink for Seen {
    fn entry(&mut self, entry: Entry<'_>) -> StreamResult<()> {
        let kind = match entry.kind {
            EntryKind::File(data) => match data.stored {
                Stored::Contiguous(extent) => Kind::File(data.size, extent),
                Stored::Sparse(segments) => Kind::Sparse(data.size, segments.iter_from(0).collect()),
            },
            EntryKind::Directory => Kind::Directory,
            EntryKind::Symlink(target) => Kind::Symlink(target.to_vec()),
            EntryKind::Hardlink(target) => Kind::Hardlink(target.to_vec()),
            EntryKind::Char(device) | EntryKind::Block(device) => Kind::Device(device),
            EntryKind::Fifo => Kind::Fifo,
        };
        let Entry { header_offset, name, meta, xattrs, .. } = entry;
        let (name, xattrs) = (name.to_vec(), xattrs.as_packed().to_vec());
        self.members.push(Member { header_offset, name, kind, meta, xattrs });
        Ok(())
    }

    fn warning(&mut self, kind: WarningKind, name: &[u8]) {
        self.warnings.push((kind, name.to_vec()));
    }
}

/// Parses a stream in chunks of these lengths.
fn parse(data: &[u8], chunks: impl IntoIterator<Item = usize>) -> Seen {
    let mut parser = TarParser::new(Limits::default());
    let (mut seen, mut rest) = (Seen::default(), data);
    for len in chunks {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        if let Err(fault) = parser.feed(chunk, &mut seen) {
            seen.error = Some(fault.to_string());
            return seen;
        }
    }
    seen.error = parser.finish(&mut seen).err().map(|fault| fault.to_string());
    seen
}

/// Parses a stream and skips what need not be read.
fn parse_skipping(data: &[u8]) -> Seen {
    let mut parser = TarParser::new(Limits::default());
    let mut seen = Seen::default();
    loop {
        let at = usize::try_from(parser.offset()).unwrap();
        let left = &data[at..];
        if left.is_empty() {
            break;
        }
        let skippable = parser.skippable().min(left.len() as u64);
        let step = match skippable {
            0 => parser.feed(&left[..left.len().min(512)], &mut seen),
            _ => parser.skip(skippable),
        };
        if let Err(fault) = step {
            seen.error = Some(fault.to_string());
            return seen;
        }
    }
    seen.error = parser.finish(&mut seen).err().map(|fault| fault.to_string());
    seen
}

/// Checks what other modules rely on.
fn check(data: &[u8], seen: &Seen) {
    let is_complete = seen.error.is_none();
    let mut last = None;
    for member in &seen.members {
        let at = member.header_offset;
        assert!(at.is_multiple_of(512) && last < Some(at) && at < data.len() as u64, "{member:?}");
        last = Some(at);
        assert!(member.meta.mode <= 0o7777 && member.meta.mtime.nanos < 1_000_000_000, "{member:?}");
        assert!(member.meta.uid != u32::MAX && member.meta.gid != u32::MAX, "{member:?}");
        let mut names: Vec<_> = Xattrs::from_packed(&member.xattrs).iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{member:?}");
        match &member.kind {
            Kind::File(size, extent) => {
                assert_eq!(*size, extent.len_bytes, "{member:?}");
                check_extent(*extent, at, data, is_complete, member);
            }
            Kind::Sparse(size, segments) => {
                let mut end = 0;
                for Segment { file_offset, extent } in segments {
                    assert!(*file_offset >= end && extent.len_bytes > 0, "{member:?}");
                    end = file_offset.checked_add(extent.len_bytes).unwrap();
                    assert!(end <= *size, "{member:?}");
                    check_extent(*extent, at, data, is_complete, member);
                }
            }
            _ => {}
        }
    }
}

fn check_extent(extent: Extent, header: u64, data: &[u8], is_complete: bool, about: &dyn Debug) {
    let end = extent.offset.checked_add(extent.len_bytes).unwrap();
    assert!(i64::try_from(end).is_ok() && extent.offset >= header + 512, "{about:?}");
    assert!(!is_complete || end <= data.len() as u64, "{about:?}");
}

/// Compares the members with those that the `tar` crate finds, until one of the two refuses the stream or a
/// difference in [`KNOWN`] makes the rest incomparable.
fn compare(data: &[u8], seen: &Seen) {
    let mut archive = ::tar::Archive::new(data);
    let mut theirs = archive.entries().unwrap();
    let mut ours = seen.members.iter();
    let mut start = 0;
    loop {
        let chain = Chain::at(data, start);
        let is_known = KNOWN.iter().any(|(_, holds)| holds(&chain));
        let found = match theirs.next() {
            Some(Ok(found)) => found,
            ended => {
                let cause = ended.and_then(Result::err).map(|cause| cause.to_string());
                let refused =
                    cause.as_deref().is_some_and(|cause| REFUSED.iter().any(|known| cause.contains(known)));
                let another = ours.next();
                assert!(another.is_none() || is_known || refused, "only here: {another:?} ({cause:?})");
                return;
            }
        };
        if found.raw_header_position() != chain.member || is_known {
            assert!(is_known, "the tar crate finds a member at {}", found.raw_header_position());
            return;
        }
        let kind = found.header().entry_type().as_byte();
        if (b'0'..=b'7').contains(&kind) || kind == 0 {
            // A stream that is refused has no more members here.
            let Some(member) = ours.next() else {
                assert!(seen.error.is_some(), "only in the tar crate: {:?}", found.header());
                return;
            };
            if let Some(what) = difference(member, &found) {
                panic!("{what}: {member:?}, {:?}", found.header());
            }
        }
        start = found.raw_file_position().saturating_add(found.size().saturating_add(511) & !511);
    }
}

fn difference(member: &Member, entry: &::tar::Entry<'_, &[u8]>) -> Option<&'static str> {
    if member.name[..] != *entry.path_bytes() {
        return Some("another name");
    }
    let same = match &member.kind {
        Kind::File(size, extent) => *size == entry.size() && extent.offset == entry.raw_file_position(),
        Kind::Symlink(target) | Kind::Hardlink(target) => {
            target[..] == *entry.link_name_bytes().unwrap_or_default()
        }
        _ => true,
    };
    (!same).then_some("another payload or target")
}

/// The headers of one member, as they are in the stream: extension headers and the header that they belong to.
struct Chain<'a> {
    /// Offset of the member's own header.
    member: u64,
    /// The member's own header; empty at the end of the stream.
    header: &'a [u8],
    /// Type and body of the extension headers.
    extensions: Vec<(u8, &'a [u8])>,
    /// Whether an extension header has a size or a format that the `tar` crate reads in another way.
    is_odd: bool,
}

impl<'a> Chain<'a> {
    fn at(data: &'a [u8], start: u64) -> Self {
        let mut at = usize::try_from(start).unwrap_or(usize::MAX);
        let (mut extensions, mut is_odd) = (Vec::new(), false);
        loop {
            let header = data.get(at..).and_then(|rest| rest.get(..512)).unwrap_or_default();
            let kind = header.get(156).copied().unwrap_or(0);
            if !matches!(kind, b'x' | b'L' | b'K') {
                return Chain { member: at as u64, header, extensions, is_odd };
            }
            let size = plain_number(&header[124..136]).and_then(|size| usize::try_from(size).ok());
            is_odd |= size.is_none() || !is_known_format(header);
            let body = data.get(at + 512..).unwrap_or_default();
            let len = size.unwrap_or(0).min(body.len());
            extensions.push((kind, &body[..len]));
            at = at.saturating_add(512).saturating_add(len.next_multiple_of(512));
        }
    }

    fn field(&self, start: usize, len: usize) -> &[u8] {
        self.header.get(start..start + len).unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.header.get(156).copied().unwrap_or(0)
    }

    fn pax(&self) -> impl Iterator<Item = &[u8]> {
        self.extensions.iter().filter(|(kind, _)| *kind == b'x').map(|(_, body)| *body)
    }
}

/// Returns whether the `tar` crate knows this format: ustar with version 00, or GNU.
fn is_known_format(header: &[u8]) -> bool {
    matches!(&header[257..265], b"ustar\x0000" | b"ustar  \0")
}

/// Returns a number that every reader reads alike: octal digits, then NULs or spaces.
fn plain_number(field: &[u8]) -> Option<u64> {
    let text = field.split(|byte| matches!(byte, 0 | b' ')).next().unwrap_or_default();
    let rest = &field[text.len()..];
    let is_plain = !text.is_empty() && rest.iter().all(|byte| matches!(byte, 0 | b' ')) && !rest.is_empty();
    let text = std::str::from_utf8(text).ok().filter(|_| is_plain)?;
    u64::from_str_radix(text, 8).ok()
}

/// A known difference: its reason, and whether it can show in a member.
type Known = (&'static str, fn(&Chain<'_>) -> bool);

/// The known differences between imgmount, which reads as Go does, and the `tar` crate (0.4.46).
const KNOWN: &[Known] = &[
    ("the tar crate reads PAX records by lines, takes the first of two, and passes over bad ones", |chain| {
        chain.pax().any(|body| !is_plain_pax(body))
    }),
    ("of two extension headers of a kind, the tar crate refuses the second, and Go takes it", |chain| {
        [b'x', b'L', b'K']
            .iter()
            .any(|kind| chain.extensions.iter().filter(|(found, _)| found == kind).count() > 1)
    }),
    ("the tar crate knows no sparse files of PAX, and checks those of GNU in another way", |chain| {
        chain.kind() == b'S' || chain.pax().any(|body| body.windows(10).any(|text| text == b"GNU.sparse"))
    }),
    ("types without payload have one in the tar crate if their size is not 0", |chain| {
        (b'1'..=b'6').contains(&chain.kind())
            && (plain_number(chain.field(124, 12)) != Some(0)
                || chain.pax().any(|body| body.windows(5).any(|key| key == b"size=")))
    }),
    ("numbers in base 256, and octal ones with other padding, are read in other ways", |chain| {
        !chain.header.is_empty() && plain_number(chain.field(124, 12)).is_none()
    }),
    ("an old file whose name ends in a slash is a directory without payload", |chain| chain.kind() == 0),
    (
        "the tar crate knows ustar with version 00 and GNU only; Go ignores the version and knows star",
        |chain| {
            let trailer = chain.field(508, 4);
            !chain.header.is_empty() && (!is_known_format(chain.header) || trailer == b"tar\0")
        },
    ),
    ("Go reads a ustar prefix in the place of GNU's times", |chain| {
        chain.field(257, 8) == b"ustar  \0" && chain.field(345, 24).iter().any(|byte| *byte != 0)
    }),
    ("an empty long name gives way to the next one in Go, and counts in the tar crate", |chain| {
        chain.extensions.iter().any(|(kind, body)| {
            *kind != b'x'
                && (body.split(|byte| *byte == 0).next().unwrap_or_default().len() + 1 < body.len()
                    || body.first().is_none_or(|byte| *byte == 0))
        })
    }),
    ("extension headers of old tars, and with a size that is not plain", |chain| chain.is_odd),
    ("an empty name after a prefix is joined in another way", |chain| chain.field(0, 1) == b"\0"),
    ("global headers end the extension headers before them in Go", |chain| chain.kind() == b'g'),
];

/// The reasons for which the `tar` crate alone refuses a stream.
const REFUSED: &[&str] = &[
    "archive header checksum mismatch",
    "numeric field",
    "failed to read entire block",
    "unexpected EOF during skip",
    "size overflow",
];

/// Returns whether every reader of PAX records reads this body alike.
fn is_plain_pax(body: &[u8]) -> bool {
    let mut keys = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let Some(space) = rest.iter().position(|byte| *byte == b' ') else { return false };
        let len = std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let Some(record) = len.filter(|len| *len > space + 1).and_then(|len| rest.get(space + 1..len)) else {
            return false;
        };
        let Some((key, value)) = record.iter().position(|byte| *byte == b'=').map(|at| record.split_at(at))
        else {
            return false;
        };
        let value = &value[1..];
        let is_plain = value.ends_with(b"\n")
            && !value[..value.len() - 1].contains(&b'\n')
            && value.len() > 1
            && rest[0] != b'0'
            && !rest.starts_with(b"+");
        if !is_plain || keys.contains(&key) || key.is_empty() {
            return false;
        }
        keys.push(key);
        rest = &rest[space + 1 + record.len()..];
    }
    true
}

/// The records that an extended header can have.
const KEYS: [&[u8]; 22] = [
    b"path",
    b"linkpath",
    b"size",
    b"uid",
    b"gid",
    b"mtime",
    b"SCHILY.xattr.user.a",
    b"SCHILY.xattr.security.capability",
    b"GNU.sparse.major",
    b"GNU.sparse.minor",
    b"GNU.sparse.name",
    b"GNU.sparse.realsize",
    b"GNU.sparse.size",
    b"GNU.sparse.numblocks",
    b"GNU.sparse.map",
    b"GNU.sparse.offset",
    b"GNU.sparse.numbytes",
    b"MSWINDOWS.raw",
    b"hdrcharset",
    b"comment",
    b"SCHILY.xattr.",
    b"atime",
];

/// Builds a stream from parts: choices, then bodies of headers, of records and of files. All checksums are
/// right, so that the bodies are read.
pub(super) fn run_chain(data: &[u8]) {
    let parts = split(data);
    let Some((first, bodies)) = parts.split_first() else { return };
    let mut choices = Choices::new(first);
    let mut stream = Vec::new();
    let mut records = Vec::new();
    for body in bodies {
        match choices.below(8) {
            0..=2 => {
                let key = *choices.pick(&KEYS);
                push_record(&mut records, key, body, choices.below(16) == 1);
            }
            3 => {
                records.extend_from_slice(body);
                push_header(&mut stream, b'x', &std::mem::take(&mut records), &mut choices);
            }
            4 => push_header(&mut stream, *choices.pick(b"LKgx"), body, &mut choices),
            _ => {
                if !records.is_empty() {
                    push_header(&mut stream, b'x', &std::mem::take(&mut records), &mut choices);
                }
                push_header(&mut stream, *choices.pick(b"0123456\x007S0000"), body, &mut choices);
            }
        }
    }
    if choices.flag() {
        stream.extend_from_slice(&[0; 1024]);
    }
    run(&stream);
}

fn push_record(records: &mut Vec<u8>, key: &[u8], value: &[u8], wrong: bool) {
    let rest = key.len() + value.len() + 3;
    let len = (rest + 1..).find(|len| len.to_string().len() + rest == *len).unwrap_or(0);
    records.extend_from_slice(format!("{} ", len + usize::from(wrong)).as_bytes());
    records.extend_from_slice(&[key, b"=", value, b"\n"].concat());
}

fn push_header(stream: &mut Vec<u8>, kind: u8, body: &[u8], choices: &mut Choices<'_>) {
    let mut header = match choices.below(4) {
        0 => ::tar::Header::new_gnu(),
        1 => ::tar::Header::new_old(),
        _ => ::tar::Header::new_ustar(),
    };
    let name = *choices.pick(&[&b"a"[..], b"b", b"a/b", b"./c", b"d/", b""]);
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkflag = [kind];
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(body.len() as u64);
    if kind == b'S' && header.as_gnu().is_some() {
        let sparse = usize::from(choices.short()) % (body.len() + 1);
        header.as_mut_bytes()[386..482].iter_mut().zip(&body[sparse..]).for_each(|(to, from)| *to = *from);
        header.as_mut_bytes()[483..495].iter_mut().zip(b"00000001000\0").for_each(|(to, from)| *to = *from);
    }
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
    stream.extend_from_slice(body);
    stream.resize(stream.len().next_multiple_of(512), 0);
}

pub(super) fn chain_mutation(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    mutate::parts(data, random, plain, |_| -> Mutation { mutate::bytes });
}
