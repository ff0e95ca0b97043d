//! Formats the output of commands: escaped text, JSON lines, and the entry that docs/json.md describes.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, StdoutLock, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use imgmount::{FileType, Image, Inode, InodeId, LayerId, Timestamp, escape};

/// Returns buffered standard output. The caller must flush it.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// Writes a JSON value as one line.
pub(crate) fn json_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// An entry of a tree, as docs/json.md describes it.
#[derive(Debug, Serialize)]
pub(crate) struct JsonEntry {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: String,
    /// Left out if names are not counted: for an inode that is no longer in a tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    nlink: Option<u32>,
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    rdev: Option<String>,
    xattrs: BTreeMap<String, String>,
    layer: u16,
    diff_id: Option<String>,
}

impl JsonEntry {
    /// Makes the entry for an inode, under the path that it was found by. `None` if the inode does not
    /// exist.
    pub(crate) fn new(image: &Image, path: &[u8], id: InodeId) -> Option<Self> {
        Some(JsonEntry::of_inode(image, path, &image.inode(id)?))
    }

    /// Makes the entry for an inode of any state of an image, under the path that it has there.
    pub(crate) fn of_inode(image: &Image, path: &[u8], inode: &Inode<'_>) -> Self {
        let (path, path_b64) = json_name(path);
        let (target, target_b64) = json_name_of(inode.target());
        let xattrs = inode
            .xattrs()
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), BASE64.encode(value)))
            .collect();
        JsonEntry {
            path,
            path_b64,
            kind: inode.file_type().name(),
            mode: format!("{:04o}", inode.mode()),
            uid: inode.uid(),
            gid: inode.gid(),
            size: inode.size(),
            mtime: rfc3339(inode.mtime()),
            nlink: inode.nlink(),
            target,
            target_b64,
            rdev: inode.device().map(|device| format!("{}:{}", device.major, device.minor)),
            xattrs,
            layer: inode.layer().0,
            diff_id: image
                .layer(inode.layer())
                .and_then(|layer| layer.diff_id)
                .map(|digest| digest.to_string()),
        }
    }
}

/// A layer of the image, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct JsonLayer<'a> {
    layer: u16,
    diff_id: Option<String>,
    created_by: Option<&'a str>,
}

impl<'a> JsonLayer<'a> {
    pub(crate) fn new(image: &'a Image, id: LayerId) -> Self {
        let layer = image.layer(id);
        JsonLayer {
            layer: id.0,
            diff_id: layer.and_then(|layer| layer.diff_id).map(|digest| digest.to_string()),
            created_by: layer.and_then(|layer| layer.created_by.as_deref()),
        }
    }
}

/// Returns a name for JSON: as text, and in Base64 if the text differs from the name.
pub(crate) fn json_name(bytes: &[u8]) -> (String, Option<String>) {
    let lossy = String::from_utf8_lossy(bytes);
    let base64 = (lossy.as_bytes() != bytes).then(|| BASE64.encode(bytes));
    (lossy.into_owned(), base64)
}

/// As [`json_name`], for an optional name.
pub(crate) fn json_name_of(bytes: Option<&[u8]>) -> (Option<String>, Option<String>) {
    let (text, base64) = bytes.map(json_name).unzip();
    (text, base64.flatten())
}

/// Escapes text as names are escaped, except that tabs and backslashes stay unchanged.
pub(crate) fn visible(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(|byte| matches!(byte, b'\\' | b'\t')) {
        match part.split_last() {
            Some((b'\\', before)) => shown.extend([escape(before).as_str(), "\\"]),
            Some((b'\t', before)) => shown.extend([escape(before).as_str(), "\t"]),
            _ => shown.push_str(&escape(part)),
        }
    }
    shown
}

/// Returns the ten characters that begin a line of `ls -l`.
pub(crate) fn mode_string(kind: FileType, mode: u16) -> String {
    let mut text = String::from(kind.letter());
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Returns year, month, day, hour, minute and second in UTC.
fn civil(time: Timestamp) -> (u64, u64, u64, u64, u64, u64) {
    // Days to a date in the proleptic Gregorian calendar, counted in eras of 400 years from 1 March 0000.
    let (days, second) = (time.seconds / 86_400, time.seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day, second / 3600, second / 60 % 60, second % 60)
}

/// Formats a time as `2026-01-02T03:04:05.000000006Z`.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    format!("{}.{:09}Z", rfc3339_seconds(time), time.nanos)
}

/// Formats a time as `2026-01-02T03:04:05.000Z`.
pub(crate) fn rfc3339_millis(time: Timestamp) -> String {
    format!("{}.{:03}Z", rfc3339_seconds(time), time.nanos / 1_000_000)
}

fn rfc3339_seconds(time: Timestamp) -> String {
    let (year, month, day, hour, minute, second) = civil(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Formats a time as `2026-01-02 03:04`, in UTC so that the same image gives the same text everywhere.
pub(crate) fn long_iso(time: Timestamp) -> String {
    let (year, month, day, hour, minute, _) = civil(time);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp { seconds, nanos: 6 }
    }

    #[test]
    fn times_print_as_utc_dates() {
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00.000000006Z");
        assert_eq!(rfc3339(at(1_767_323_045)), "2026-01-02T03:04:05.000000006Z");
        assert_eq!(rfc3339(at(951_827_696)), "2000-02-29T12:34:56.000000006Z");
        assert_eq!(rfc3339_millis(Timestamp { seconds: 1, nanos: 999_999_999 }), "1970-01-01T00:00:01.999Z");
        assert_eq!(long_iso(at(4_102_444_799)), "2099-12-31 23:59");
    }

    #[test]
    fn modes_print_as_ls_prints_them() {
        for (mode, text) in [
            (0o755, "drwxr-xr-x"),
            (0o1777, "drwxrwxrwt"),
            (0o1770, "drwxrwx--T"),
            (0o4755, "drwsr-xr-x"),
            (0o2644, "drw-r-Sr--"),
        ] {
            assert_eq!(mode_string(FileType::Directory, mode), text);
        }
    }
}
