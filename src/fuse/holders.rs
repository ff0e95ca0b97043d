//! Finds the processes that use a mount, from `/proc`.
//!
//! An ordinary user sees only their own processes; root sees all processes of the PID namespace. The mount
//! itself is not accessed, because it may be dead or slow. This module owns what counts as use, and how many
//! users are listed. It does not know how to unmount.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::mounts::{self, MountEntry};
use crate::path::escape_path;

/// Maximum number of entries in a message, so that it stays readable.
const NAMED_MAX: usize = 8;

/// Lists what uses the mount at `point`: processes as `pid 123 (bash)`, and mounts below it.
pub(super) fn find(point: &Path) -> Vec<String> {
    let table = mounts::all().unwrap_or_default();
    let Some(mount) = mounts::topmost(&table, point) else { return Vec::new() };
    let below = table.iter().filter(|other| other.point != point && mounts::is_within(&other.point, point));
    let mut holders: Vec<String> =
        below.map(|other| format!("a mount at '{}'", escape_path(&other.point))).collect();
    let pids: BTreeSet<u32> = process_ids().filter(|pid| holds(*pid, mount)).collect();
    holders.extend(pids.into_iter().map(describe));
    shorten(holders)
}

fn shorten(mut holders: Vec<String>) -> Vec<String> {
    let more = holders.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        holders.truncate(NAMED_MAX);
        holders.push(format!("{more} more"));
    }
    holders
}

fn process_ids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, mount: &MountEntry) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let fixed = ["cwd", "root", "exe"].map(|link| process.join(link));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    fixed.into_iter().chain(open).any(|link| leads_into(&link, mount)) || maps(&process, mount)
}

/// Returns whether a link in `/proc` leads into a mount. Its name alone could also refer to a file that the
/// mount hides. So `statx` is asked for the mount number, which the kernel knows without a request to the
/// file system.
fn leads_into(link: &Path, mount: &MountEntry) -> bool {
    if !fs::read_link(link).is_ok_and(|target| mounts::is_within(&target, &mount.point)) {
        return false;
    }
    match statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID) {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => found.stx_mnt_id == mount.id,
        _ => true,
    }
}

/// Returns whether a process has mapped a file of the mount. A line ends with the path of the file, after
/// five fields: proc_pid_maps(5).
fn maps(process: &Path, mount: &MountEntry) -> bool {
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    String::from_utf8_lossy(&maps).lines().any(|line| {
        line.find('/')
            .and_then(|start| line.get(start..))
            .is_some_and(|path| mounts::is_within(Path::new(path), &mount.point))
    })
}

fn describe(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("pid {pid} ({})", String::from_utf8_lossy(&name).trim_end().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_holds_the_mount_that_it_is_on() {
        let root = mounts::topmost(&mounts::all().unwrap(), Path::new("/")).cloned().unwrap();
        assert!(holds(std::process::id(), &root));
    }

    #[test]
    fn a_file_below_a_mount_point_but_on_another_mount_does_not_hold_it() {
        let directory = tempfile::tempdir().unwrap();
        let point = directory.path().canonicalize().unwrap();
        let _open = fs::File::create(point.join("open")).unwrap();
        let other = MountEntry { id: u64::MAX, parent: 0, point, file_system: "fuse.imgmount".into() };
        assert!(!holds(std::process::id(), &other));
    }

    #[test]
    fn a_process_is_named() {
        let pid = std::process::id();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(describe(pid), format!("pid {pid} ({})", name.trim_end()));
    }

    #[test]
    fn a_long_list_is_cut() {
        let holders = shorten((0..10).map(|pid| format!("pid {pid} (x)")).collect());
        assert_eq!(holders.len(), NAMED_MAX + 1);
        assert_eq!(holders.last().unwrap(), "2 more");
    }
}
