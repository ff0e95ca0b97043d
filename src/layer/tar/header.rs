//! One 512-byte header block: is it one, and what do its fields say.
//!
//! The layouts come from the `tar` crate's header views; numbers and strings are decoded here,
//! because that crate takes negative base-256 numbers for huge ones, refuses empty fields and knows
//! only one of the two checksums. Extension headers are none of this module's business.
//!
//! Layouts: POSIX.1-2017 `pax` ("ustar Interchange Format"), GNU tar's `tar.h`, and star's
//! `star.4` for the variant with a shorter prefix.

use std::borrow::Cow;
use std::ops::Range;

use super::Fault;

/// Bytes in a tar block.
pub(super) const BLOCK_BYTES: usize = 512;

/// One tar block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// Where ustar and GNU keep a device's major number.
const DEVICE_MAJOR: Range<usize> = 329..337;
/// Where ustar and GNU keep a device's minor number.
const DEVICE_MINOR: Range<usize> = 337..345;
/// The front part of a long name in ustar.
const USTAR_PREFIX: Range<usize> = 345..500;
/// The front part of a long name in star, whose access and change times follow it.
const STAR_PREFIX: Range<usize> = 345..476;
/// What tells star from ustar.
const STAR_TRAILER: Range<usize> = 508..512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Seventh Edition Unix: no magic, no devices, no prefix.
    V7,
    Ustar,
    Star,
    /// GNU before PAX: where ustar has the prefix, it has times and a sparse map.
    Gnu,
}

/// A header block whose checksum is right.
#[derive(Clone, Copy)]
pub(super) struct Header<'a> {
    block: &'a Block,
    raw: &'a ::tar::Header,
    format: Format,
}

/// True for a block of NULs, two of which end an archive.
pub(super) fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

impl<'a> Header<'a> {
    /// Checks the block's sum, as unsigned bytes or as the signed ones that old writers added up.
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

    /// The type byte.
    pub(super) fn typeflag(&self) -> u8 {
        let [typeflag] = self.raw.as_old().linkflag;
        typeflag
    }

    /// The name in this header alone, its prefix included.
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

    /// Go before 1.8, and so the Docker of that time, wrote a ustar prefix under the GNU magic, over
    /// the two times. Every engine reads such layers by this rule: text that is no time is a prefix.
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

    /// What a link leads to, as this header alone says.
    pub(super) fn link_name(&self) -> &'a [u8] {
        c_string(&self.raw.as_old().linkname)
    }

    /// Bytes of payload, as this header alone says. Never above `i64::MAX`.
    pub(super) fn size(&self) -> Result<u64, Fault> {
        length(&self.raw.as_old().size, "size")
    }

    /// All mode bits.
    pub(super) fn mode(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().mode, "mode")
    }

    /// The owner.
    pub(super) fn uid(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().uid, "owner")
    }

    /// The group.
    pub(super) fn gid(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().gid, "group")
    }

    /// Seconds since the epoch.
    pub(super) fn mtime(&self) -> Result<i64, Fault> {
        signed(&self.raw.as_old().mtime, "modification time")
    }

    /// Major and minor number; V7 has no place for them.
    pub(super) fn device(&self) -> Result<(i64, i64), Fault> {
        if self.format == Format::V7 {
            return Ok((0, 0));
        }
        let major = signed(self.field(DEVICE_MAJOR), "device number")?;
        let minor = signed(self.field(DEVICE_MINOR), "device number")?;
        Ok((major, minor))
    }

    /// The fields that only GNU has.
    pub(super) fn gnu(&self) -> Option<&'a ::tar::GnuHeader> {
        self.raw.as_gnu()
    }

    fn field(&self, range: Range<usize>) -> &'a [u8] {
        self.block.get(range).unwrap_or_default()
    }
}

fn format_of(block: &Block, raw: &::tar::Header) -> Format {
    // The version that follows ustar's magic is left unread: writers differ, readers do not look.
    match &raw.as_old().pad {
        [b'u', b's', b't', b'a', b'r', 0, ..] if block.get(STAR_TRAILER) == Some(b"tar\0") => Format::Star,
        [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
        _ if raw.as_gnu().is_some() => Format::Gnu,
        _ => Format::V7,
    }
}

/// Adds up the block, its own checksum field taken as spaces.
fn checksum(block: &Block, value: impl Fn(u8) -> i64) -> i64 {
    const FIELD: Range<usize> = 148..156;
    let sum = |range: Range<usize>| -> i64 {
        block.get(range).unwrap_or_default().iter().map(|byte| value(*byte)).sum()
    };
    let spaces = i64::from(b' ').saturating_mul(8);
    sum(0..FIELD.start).saturating_add(spaces).saturating_add(sum(FIELD.end..BLOCK_BYTES))
}

/// `field` up to its first NUL.
pub(super) fn c_string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn signed(field: &[u8], what: &str) -> Result<i64, Fault> {
    number(field).ok_or_else(|| format!("the {what} is not a number").into())
}

/// A number of bytes or an offset in bytes: not negative, and so never above `i64::MAX`.
pub(super) fn length(field: &[u8], what: &str) -> Result<u64, Fault> {
    u64::try_from(signed(field, what)?).map_err(|_| format!("the {what} is negative").into())
}

/// A number field, octal or base-256; `None` when it is neither or does not fit.
fn number(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => base_256(*first, rest),
        _ => octal(field),
    }
}

/// GNU and star: two's complement, big-endian, the top bit of the first byte being only a mark.
fn base_256(first: u8, rest: &[u8]) -> Option<i64> {
    let sign: i64 = if first & 0x40 == 0 { 0 } else { -0x40 };
    rest.iter().try_fold(sign.checked_add(i64::from(first & 0x3f))?, |value, byte| {
        value.checked_mul(256)?.checked_add(i64::from(*byte))
    })
}

/// Octal digits between any padding of spaces and NULs; an empty field is 0.
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
