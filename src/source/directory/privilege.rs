//! Which attributes of an overlay's layers this process can read, and which it needs.
//!
//! The kernel hides attributes `trusted.*` from processes without the capability CAP_SYS_ADMIN in the first
//! user namespace: such a process sees a layer without its opaque directories, and would show a wrong tree.
//! This module owns the check. Source: Linux, fs/xattr.c, `xattr_permission`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::beneath::Beneath;
use super::DirectoryForm;
use crate::error::{Error, Result, Subject};

/// Bit of CAP_SYS_ADMIN in a set of capabilities.
const CAP_SYS_ADMIN: u32 = 21;
/// Inode number of the first user namespace, `PROC_USER_INIT_INO`.
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFD;
/// Owner of files whose owner has no place in the user namespace: `overflowuid`.
const OVERFLOW_ID: u32 = 65_534;

impl DirectoryForm {
    /// Returns the form in which the kernel's overlay stores layers for the owner of the directory `store`:
    /// [`DirectoryForm::Overlay`] for root, [`DirectoryForm::UserOverlay`] for other users.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the attributes of the layers cannot be read; [`Error::Io`].
    pub(in crate::source) fn of_store(store: &Beneath) -> Result<Self> {
        let stat = rustix::fs::fstat(store.fd()).map_err(|errno| {
            Error::io_on("cannot examine", Subject::Archive(store.path().to_owned()), errno.into())
        })?;
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if !is_of_root(stat.st_uid, &map, in_first_namespace()) {
            return Ok(DirectoryForm::UserOverlay);
        }
        check_trusted(store.path())?;
        Ok(DirectoryForm::Overlay)
    }
}

/// Returns whether files of the owner `uid`, as this process sees them, may belong to root outside all user
/// namespaces. `map` is `/proc/self/uid_map`.
fn is_of_root(uid: u32, map: &str, in_first_namespace: bool) -> bool {
    if in_first_namespace {
        return uid == 0;
    }
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    });
    let outside = ranges
        .filter_map(|(inside, outside, len)| {
            let within = uid.checked_sub(inside).filter(|within| *within < len)?;
            outside.checked_add(within)
        })
        .next();
    // An owner outside the map may be root; its files show as those of `overflowuid`.
    outside.map_or(uid == 0 || uid == OVERFLOW_ID, |outside| outside == 0)
}

/// Checks that attributes `trusted.*` of the layers in `place` can be read.
///
/// # Errors
/// [`Error::Unsupported`].
pub(super) fn check_trusted(place: &Path) -> Result<()> {
    if can_read_trusted() {
        return Ok(());
    }
    let reason = "its layers have attributes trusted.overlay.*, which need root or CAP_SYS_ADMIN to be read";
    Err(Error::unsupported(Subject::Archive(place.to_owned()), reason))
}

/// Returns whether this process can read attributes `trusted.*`.
pub(in crate::source) fn can_read_trusted() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    in_first_namespace() && has_sys_admin(&status)
}

fn in_first_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() == FIRST_NAMESPACE)
}

/// Returns whether the effective capabilities in `status`, the text of `/proc/self/status`, contain
/// CAP_SYS_ADMIN.
fn has_sys_admin(status: &str) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> CAP_SYS_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f45_the_capability_is_read_from_the_effective_set() {
        let status =
            |set: &str| format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{set}\nCapBnd:\tff\n");
        assert!(has_sys_admin(&status("000001ffffffffff")));
        assert!(has_sys_admin(&status("0000000000200000")));
        assert!(!has_sys_admin(&status("000001ffffdfffff")));
        assert!(!has_sys_admin(&status("0000000000000000")));
        assert!(!has_sys_admin(""));
    }

    #[test]
    fn f45_a_store_of_root_is_known_from_inside_a_user_namespace() {
        let whole = "         0          0 4294967295\n";
        assert!(is_of_root(0, whole, true));
        assert!(!is_of_root(1000, whole, true));
        assert!(!is_of_root(OVERFLOW_ID, whole, true));
        // podman unshare: root inside is the user 1000, and root outside has no place.
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(!is_of_root(0, rootless, false));
        assert!(!is_of_root(5, rootless, false));
        assert!(!is_of_root(70_000, "0 0 1", false));
        assert!(is_of_root(0, "0 0 1", false));
        assert!(is_of_root(OVERFLOW_ID, "0 1000 1\n1 100000 65000\n", false));
    }
}
