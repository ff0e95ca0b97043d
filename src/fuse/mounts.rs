//! Reads the mount table `/proc/self/mountinfo`. The format is in proc_pid_mountinfo(5).
//!
//! Reading this table instead of the mount point works for dead mounts and those of other users, and never
//! waits for a file system. This module owns the parser and which of several mounts at a path is visible. It
//! does not know FUSE.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Subject};

const TABLE: &str = "/proc/self/mountinfo";

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// The mount's number, as in `statx`.
    pub(super) id: u64,
    /// The number of the mount that contains the mount point.
    pub(super) parent: u64,
    /// The mount point: absolute, without symbolic links.
    pub(super) point: PathBuf,
    /// The type of the file system, for example `fuse.imgmount`.
    pub(super) file_system: String,
}

/// Returns all mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// [`Error::Io`] when the table cannot be read.
pub(super) fn all() -> Result<Vec<MountEntry>> {
    let table =
        fs::read(TABLE).map_err(|cause| Error::io_on("cannot read", Subject::File(TABLE.into()), cause))?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// Returns the visible mount at the mount point `point`: the last one made there.
pub(super) fn topmost<'a>(mounts: &'a [MountEntry], point: &Path) -> Option<&'a MountEntry> {
    mounts.iter().rev().find(|mount| mount.point == point)
}

/// Returns the mount with the number `id`, unless another mount covers it.
pub(super) fn uncovered(mounts: &[MountEntry], id: u64) -> Option<&MountEntry> {
    let mount = mounts.iter().find(|mount| mount.id == id)?;
    let is_covered = mounts.iter().any(|other| other.parent == id && other.point == mount.point);
    (!is_covered).then_some(mount)
}

/// Parses a line such as `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw`. Any number of
/// optional fields precede the single hyphen.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescape(fields.nth(2)?);
    let file_system = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountEntry {
        id,
        parent,
        point: PathBuf::from(OsString::from_vec(point)),
        file_system: String::from_utf8_lossy(&unescape(file_system)).into_owned(),
    })
}

/// Decodes a field: the table writes spaces, tabs, newlines and backslashes as a backslash and three octal
/// digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'\\').then(|| tail.split_first_chunk::<3>()).flatten();
        match escaped.and_then(|(digits, tail)| Some((octal(*digits)?, tail))) {
            Some((byte, tail)) => {
                out.push(byte);
                rest = tail;
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()
}

/// Returns whether a path, as `/proc` shows it, is `point` or below it. Only bytes are compared; no file
/// system is accessed.
pub(super) fn is_within(path: &Path, point: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"/") && path.starts_with(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        b"36 35 98:0 / /mnt/a\\040b\\134c rw,noatime master:1 shared:2 - fuse.imgmount x.tar ro";

    #[test]
    fn a_line_of_the_table_reads_back() {
        let point = PathBuf::from("/mnt/a b\\c");
        let expected = MountEntry { id: 36, parent: 35, point, file_system: "fuse.imgmount".into() };
        assert_eq!(parse(LINE), Some(expected));
    }

    #[test]
    fn a_line_without_optional_fields_reads_too() {
        assert_eq!(parse(b"1 0 0:1 / / rw - ext4 /dev/a rw").unwrap().file_system, "ext4");
    }

    #[test]
    fn a_broken_line_is_no_mount() {
        for line in [
            &b""[..],
            b"36 35",
            b"36 x 98:0 / /mnt rw - ext4 a rw",
            b"x 35 98:0 / /mnt rw - ext4 a rw",
            b"36 35 98:0 / /mnt rw",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn what_only_looks_like_an_escape_stays() {
        assert_eq!(unescape(b"a\\9zz\\04"), b"a\\9zz\\04");
    }

    #[test]
    fn the_last_mount_at_a_point_is_the_one_that_shows() {
        let at = |id, parent, point: &str| {
            let file_system = "ext4".to_owned();
            MountEntry { id, parent, point: point.into(), file_system }
        };
        let mounts = [at(1, 0, "/"), at(2, 1, "/m"), at(3, 2, "/m"), at(4, 3, "/m/n")];
        assert_eq!(topmost(&mounts, Path::new("/m")).map(|mount| mount.id), Some(3));
        assert_eq!(topmost(&mounts, Path::new("/x")), None);
        assert_eq!(uncovered(&mounts, 3), Some(&mounts[2]));
        assert_eq!([uncovered(&mounts, 2), uncovered(&mounts, 5)], [None, None]);
    }

    #[test]
    fn a_path_within_is_told_from_a_longer_name() {
        let within = |path: &str| is_within(Path::new(path), Path::new("/mnt/a"));
        assert!(within("/mnt/a") && within("/mnt/a/b"));
        assert!(!within("/mnt/ab") && !within("/mnt") && !within("socket:[7]"));
    }
}
