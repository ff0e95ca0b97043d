//! The body of a PAX extended header (`x`): records with properties of the next member.
//!
//! This module owns how records are separated. The end of a record is decided only by its stated length, so a
//! value may contain any byte, newlines too. Parsers that read by lines can read a stream differently from
//! others (docs/security.md X4). A body that does not consist of records is an error. This module must not
//! know the precedence of PAX, GNU and ustar. Source: POSIX.1-2017 `pax`, "pax Extended Header".

use std::collections::HashMap;

use super::Fault;
use super::sparse::SparseKeys;
use crate::layer::entry::{Timestamp, Xattrs};

/// The prefix of records with extended attributes (star's keyword, used by GNU tar and by Go).
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// The prefix of records that describe files of Windows layers.
const WINDOWS_PREFIX: &[u8] = b"MSWINDOWS.";

/// The prefix of records that describe GNU tar's sparse files.
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// The latest valid time: the largest in 64 bits of nanoseconds, as in container engines.
pub(super) const LATEST: Timestamp = Timestamp { seconds: 9_223_372_036, nanos: 854_775_807 };

/// The records of the last `x` header. An empty name means that no record gave one.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Vec<u8>,
    pub(super) link_path: Vec<u8>,
    /// Size of the payload in bytes; never above `i64::MAX`.
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    /// All extended attributes, packed as in [`Xattrs`], including those that containers do not have.
    pub(super) xattrs: Vec<u8>,
    /// True if attributes with names too long for the packed form were dropped.
    pub(super) xattrs_too_long: bool,
    pub(super) sparse: Option<SparseKeys>,
    /// True if there are records that only Windows layers have.
    pub(super) windows: bool,
}

impl Pax {
    /// Removes all records and keeps the allocated memory.
    pub(super) fn clear(&mut self) {
        self.path.clear();
        self.link_path.clear();
        self.xattrs.clear();
        (self.size, self.mtime, self.uid, self.gid) = (None, None, None, None);
        (self.sparse, self.windows, self.xattrs_too_long) = (None, false, false);
    }

    /// Parses a whole body and replaces the records of an earlier `x` header.
    pub(super) fn read(&mut self, body: &[u8]) -> Result<(), Fault> {
        self.clear();
        let mut xattrs = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let (text, tail) = split_record(rest)?;
            let (key, value) = split_keyword(text)?;
            rest = tail;
            if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                xattrs.push((name, value));
            } else {
                self.record(key, value)?;
            }
        }
        self.xattrs_too_long = !pack_last_of_each(&xattrs, &mut self.xattrs);
        Ok(())
    }

    /// Stores one record. A later record of the same name wins, and an empty value removes the record.
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        match key {
            b"path" => set_name(&mut self.path, value)?,
            b"linkpath" => set_name(&mut self.link_path, value)?,
            b"size" => self.size = given(value, "size", length)?,
            b"uid" => self.uid = given(value, "uid", signed)?,
            b"gid" => self.gid = given(value, "gid", signed)?,
            b"mtime" => self.mtime = given(value, "mtime", timestamp)?,
            _ if key.starts_with(WINDOWS_PREFIX) => self.windows = true,
            _ => {
                if let Some(key) = key.strip_prefix(SPARSE_PREFIX) {
                    self.sparse.get_or_insert_default().record(key, value)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the first record of `body`, without its length and newline, and the bytes after it.
fn split_record(body: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let digits = body.split(|byte| *byte == b' ').next().unwrap_or_default();
    let len = length(digits).ok_or("malformed PAX record: the length is missing")?;
    let (record, rest) = usize::try_from(len)
        .ok()
        .and_then(|len| body.split_at_checked(len))
        .ok_or("malformed PAX record: longer than the header")?;
    let text = record
        .strip_prefix(digits)
        .and_then(|text| text.strip_prefix(b" "))
        .and_then(|text| text.strip_suffix(b"\n"))
        .ok_or("malformed PAX record: the length is wrong")?;
    Ok((text, rest))
}

/// Splits a record into keyword and value.
fn split_keyword(text: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let mut halves = text.splitn(2, |byte| *byte == b'=');
    match (halves.next(), halves.next()) {
        (Some(key), _) if key.contains(&0) => Err("malformed PAX record: NUL in the keyword".into()),
        (Some(key), Some(value)) => Ok((key, value)),
        _ => Err("malformed PAX record: '=' is missing".into()),
    }
}

/// Packs the attributes; of equal names, the last wins. Returns false if one does not fit the packed form.
fn pack_last_of_each(found: &[(&[u8], &[u8])], packed: &mut Vec<u8>) -> bool {
    let last: HashMap<&[u8], usize> = found.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    let mut all = true;
    for (at, (name, value)) in found.iter().enumerate() {
        if last.get(name) == Some(&at) {
            all &= Xattrs::pack(packed, name, value);
        }
    }
    all
}

/// Stores a name, which must not contain a NUL, unlike all other values (docs/semantics.md N13).
pub(super) fn set_name(name: &mut Vec<u8>, value: &[u8]) -> Result<(), Fault> {
    if value.contains(&0) {
        return Err("malformed PAX record: NUL in a name".into());
    }
    name.clear();
    name.extend_from_slice(value);
    Ok(())
}

/// Parses a value with `read`; `None` if the value is empty.
pub(super) fn given<T>(
    value: &[u8],
    what: &str,
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    match read(value) {
        Some(read) => Ok(Some(read)),
        None => Err(format!("malformed PAX record: invalid {what}").into()),
    }
}

/// Parses decimal digits without any other character; never above `i64::MAX`.
pub(super) fn length(text: &[u8]) -> Option<u64> {
    u64::try_from(signed(text)?).ok().filter(|_| !text.starts_with(b"-"))
}

/// Parses decimal digits after an optional minus.
fn signed(text: &[u8]) -> Option<i64> {
    let (negative, digits) = split_sign(text);
    if digits.is_empty() {
        return None;
    }
    // Counting downwards also reaches i64::MIN.
    let value = digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_sub(i64::from(digit.wrapping_sub(b'0'))),
        _ => None,
    })?;
    if negative { Some(value) } else { value.checked_neg() }
}

fn split_sign(text: &[u8]) -> (bool, &[u8]) {
    text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits))
}

/// Parses seconds with a fraction, truncated to nanoseconds. Times before the epoch or after [`LATEST`]
/// become 0.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = split_sign(text);
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let (seconds, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    let is_digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    if seconds.is_empty() || !is_digits(seconds) || !is_digits(fraction) {
        return None;
    }
    let nanos = fraction.iter().chain(std::iter::repeat(&b'0')).take(9).fold(0_u32, |nanos, digit| {
        nanos.saturating_mul(10).saturating_add(u32::from(digit.wrapping_sub(b'0')))
    });
    let time = length(seconds).map(|seconds| Timestamp { seconds, nanos });
    Some(time.filter(|time| !negative && *time <= LATEST).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m7_times_are_cut_to_nanoseconds_and_to_what_engines_take() {
        let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
        assert_eq!(timestamp(b"1700000000.123456789"), time(1_700_000_000, 123_456_789));
        assert_eq!(timestamp(b"12.030"), time(12, 30_000_000));
        assert_eq!(timestamp(b"12.1234567899"), time(12, 123_456_789));
        assert_eq!(timestamp(b"12."), time(12, 0));
        assert_eq!(timestamp(b"9223372036.854775807"), Some(LATEST));
        for absurd in ["-1", "-0.5", "9223372036.854775808", "99999999999999999999999999"] {
            assert_eq!(timestamp(absurd.as_bytes()), time(0, 0), "{absurd}");
        }
        for malformed in ["", ".5", "1e9", "+1", "--1", "1.2.3", "1.-2", " 1"] {
            assert_eq!(timestamp(malformed.as_bytes()), None, "{malformed}");
        }
    }

    #[test]
    fn x10_lengths_are_plain_digits_up_to_63_bits() {
        assert_eq!(length(b"9223372036854775807"), Some(i64::MAX.unsigned_abs()));
        for wrong in ["", "9223372036854775808", "-1", "-0", "+1", "1 ", "0x1", "1_0"] {
            assert_eq!(length(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
    }
}
