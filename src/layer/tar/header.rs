//! Header blocks of 512 bytes: their validity and their fields.
//!
//! This module owns the decoding of fields. The layouts come from the `tar` crate's header views; numbers and
//! strings are decoded here, because that crate reads negative base-256 numbers as huge ones, refuses empty
//! fields and knows only one of the two checksums. This module must not know extension headers.
//!
//! Layouts: POSIX.1-2017 `pax` ("ustar Interchange Format"), GNU tar's `tar.h`, and star's `star.4` for the
//! variant with a shorter prefix.

use std::borrow::Cow;
use std::ops::Range;

use super::Fault;

/// Length of a tar block in bytes.
pub(super) const BLOCK_BYTES: usize = 512;

/// A tar block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// Position of a device's major number in ustar and GNU headers.
const DEVICE_MAJOR: Range<usize> = 329..337;
/// Position of a device's minor number in ustar and GNU headers.
const DEVICE_MINOR: Range<usize> = 337..345;
/// Position of the first part of a long name in ustar headers.
const USTAR_PREFIX: Range<usize> = 345..500;
/// Position of the first part of a long name in star headers, which is followed by access and change times.
const STAR_PREFIX: Range<usize> = 345..476;
/// Position of the text that distinguishes star from ustar.
const STAR_TRAILER: Range<usize> = 508..512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Seventh Edition Unix: no magic, no devices, no prefix.
    V7,
    Ustar,
    Star,
    /// GNU before PAX: times and a sparse map in place of the ustar prefix.
    Gnu,
}

/// A header block with a valid checksum.
#[derive(Clone, Copy)]
pub(super) struct Header<'a> {
    block: &'a Block,
    raw: &'a ::tar::Header,
    format: Format,
}

/// Returns true for a block of NULs; two of them end an archive.
pub(super) fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

impl<'a> Header<'a> {
    /// Checks the block's checksum, as a sum of unsigned bytes, or of signed bytes as old writers computed
    /// it.
    pub(super) fn parse(block: &'a Block) -> Result<Self, Fault> {
        let raw = ::tar::Header::from_byte_slice(block);
        let stated = octal(&raw.as_old().cksum).ok_or("no checksum: not a tar header")?;
        if stated != checksum(block, i64::from) && stated != checksum(block, |byte| byte.cast_signed().into())
        {
            return Err("the header checksum does not match".into());
        }
        let format = format_of(block, raw);
        Ok(Header { block, raw, format })
    }

    /// Returns the type byte.
    pub(super) fn typeflag(&self) -> u8 {
        let [typeflag] = self.raw.as_old().linkflag;
        typeflag
    }

    /// Returns the name in this header alone, with its prefix.
    pub(super) fn name(&self) -> Cow<'a, [u8]> {
        let name = c_string(&self.raw.as_old().name);
        match self.prefix() {
            [] => Cow::Borrowed(name),
            prefix => Cow::Owned([prefix, b"/", name].concat()),
        }
    }

    fn prefix(&self) -> &'a [u8] {
        match self.format {
            Format::V7 => &[],
            Format::Ustar => c_string(self.field(USTAR_PREFIX)),
            Format::Star => c_string(self.field(STAR_PREFIX)),
            Format::Gnu => self.misplaced_prefix(),
        }
    }

    /// Returns the ustar prefix of a header with the GNU magic. Go before 1.8, and the Docker of that time,
    /// wrote such headers, with the prefix in the place of the two times. Engines read such layers by the
    /// same rule: text that is not a time is a prefix.
    fn misplaced_prefix(&self) -> &'a [u8] {
        let is_time = |field: &[u8]| field.first() == Some(&0) || number(field).is_some();
        match self.raw.as_gnu() {
            Some(gnu) if !(is_time(&gnu.atime) && is_time(&gnu.ctime)) => {
                Some(c_string(self.field(USTAR_PREFIX)))
                    .filter(|prefix| prefix.is_ascii())
                    .unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// Returns the target of a link in this header alone.
    pub(super) fn link_name(&self) -> &'a [u8] {
        c_string(&self.raw.as_old().linkname)
    }

    /// Returns the payload size in this header alone, in bytes; never above `i64::MAX`.
    pub(super) fn size(&self) -> Result<u64, Fault> {
        length(&self.raw.as_old().size, "size")
    }

    /// Returns all mode bits.
    pub(super) fn mode(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().mode, "mode")
    }

    /// Returns the user id of the owner.
    pub(super) fn uid(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().uid, "owner")
    }

    /// Returns the group id of the owner.
    pub(super) fn gid(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().gid, "group")
    }

    /// Returns the modification time, in seconds since the epoch.
    pub(super) fn mtime(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().mtime, "modification time")
    }

    /// Returns major and minor number of a device; V7 headers have no fields for them.
    pub(super) fn device(&self) -> Result<(i64, i64), Fault> {
        if self.format == Format::V7 {
            return Ok((0, 0));
        }
        let major = signed(self.field(DEVICE_MAJOR), "device number")?;
        let minor = signed(self.field(DEVICE_MINOR), "device number")?;
        Ok((major, minor))
    }

    /// Returns the fields that only GNU headers have.
    pub(super) fn gnu(&self) -> Option<&'a ::tar::GnuHeader> {
        self.raw.as_gnu()
    }

    fn field(&self, range: Range<usize>) -> &'a [u8] {
        self.block.get(range).unwrap_or_default()
    }
}

fn format_of(block: &Block, raw: &::tar::Header) -> Format {
    // The version after ustar's magic is ignored: writers differ, and readers ignore it.
    match &raw.as_old().pad {
        [b'u', b's', b't', b'a', b'r', 0, ..] if block.get(STAR_TRAILER) == Some(b"tar\0") => Format::Star,
        [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
        _ if raw.as_gnu().is_some() => Format::Gnu,
        _ => Format::V7,
    }
}

/// Returns the sum over the block, with spaces in place of the checksum field.
fn checksum(block: &Block, value: impl Fn(u8) -> i64) -> i64 {
    const FIELD: Range<usize> = 148..156;
    let sum = |range: Range<usize>| -> i64 {
        block.get(range).unwrap_or_default().iter().map(|byte| value(*byte)).sum()
    };
    let spaces = i64::from(b' ').saturating_mul(8);
    sum(0..FIELD.start).saturating_add(spaces).saturating_add(sum(FIELD.end..BLOCK_BYTES))
}

/// Returns `field` up to its first NUL.
pub(super) fn c_string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn signed(field: &[u8], what: &str) -> Result<i64, Fault> {
    number(field).ok_or_else(|| format!("the {what} is not a number").into())
}

/// Returns a length or offset in bytes; never negative and never above `i64::MAX`.
pub(super) fn length(field: &[u8], what: &str) -> Result<u64, Fault> {
    u64::try_from(signed(field, what)?).map_err(|_| format!("the {what} is negative").into())
}

/// Parses a number field, octal or base-256; `None` when it is neither or too large.
fn number(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => base_256(*first, rest),
        _ => octal(field),
    }
}

/// Parses a base-256 number of GNU and star: two's complement, big-endian; the top bit of the first byte is
/// only a mark.
fn base_256(first: u8, rest: &[u8]) -> Option<i64> {
    let sign: i64 = if first & 0x40 == 0 { 0 } else { -0x40 };
    rest.iter().try_fold(sign.checked_add(i64::from(first & 0x3f))?, |value, byte| {
        value.checked_mul(256)?.checked_add(i64::from(*byte))
    })
}

/// Parses octal digits with any padding of spaces and NULs around them; an empty field is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|byte| !matches!(byte, 0 | b' ')).unwrap_or(field.len());
    let text = c_string(field.get(start..).unwrap_or_default()).trim_ascii_end();
    text.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit & 7)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m8_base_256_numbers_are_twos_complement() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 8]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
        let largest = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(number(&largest), Some(i64::MAX));
    }

    #[test]
    fn x10_base_256_numbers_past_63_bits_are_no_numbers() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(number(&[0xbf; 12]), None);
    }

    #[test]
    fn octal_fields_are_padded_in_many_ways() {
        for field in
            [&b"0000644\0"[..], b"   644 \0", b"644\0junk", b"644     ", b"\0\x00000644 ", b"00000644"]
        {
            assert_eq!(number(field), Some(0o644), "{field:?}");
        }
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
    }

    #[test]
    fn text_in_an_octal_field_is_no_number() {
        for field in [&b"0000648\0"[..], b"-000644\0", b"+000644\0", b"64 4\0\0\0\0", b"0x1f\0\0\0\0"] {
            assert_eq!(number(field), None, "{field:?}");
        }
    }
}
