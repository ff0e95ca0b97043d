//! Which extended attributes of a tar an entry has in a container (docs/semantics.md M9, W18).
//!
//! A tar can carry any name with any value for any type of file. Linux supports fewer, and a mount must list
//! only attributes that can be read, because a copying program fails if a listed attribute returns an error.
//! This module owns that choice. It must not know where attributes are stored, or who reports dropped ones.
//!
//! | name | supported for | value |
//! |---|---|---|
//! | `user.*`, but not `user.overlay.*` | files, directories | any |
//! | `security.capability` | all | a capability set of version 2 or 3 |
//! | `security.selinux` | none: the label belongs to the host | |
//! | other `security.*` | all | any |
//! | `system.posix_acl_access` | all but symbolic links | an access control list |
//! | `system.posix_acl_default` | directories | an access control list |
//! | `trusted.*` and all other names | none | |
//!
//! containerd refuses `trusted.*` from an archive. Overlay's own attributes are commands to an overlay that
//! is mounted on top. Sources: xattr(7), acl(5), include/uapi/linux/{limits,capability,posix_acl_xattr}.h.

use std::borrow::Cow;

use super::entry::{EntryKind, Xattrs};

/// Maximum length of a name in bytes, `XATTR_NAME_MAX`.
const MAX_NAME_BYTES: usize = 255;
/// Maximum length of a value in bytes, `XATTR_SIZE_MAX`.
const MAX_VALUE_BYTES: usize = 65_536;
/// Maximum length of all names of a file in bytes, each with a terminating NUL, `XATTR_LIST_MAX`.
const MAX_LIST_BYTES: usize = 65_536;

/// `VFS_CAP_FLAGS_EFFECTIVE`, the only flag that accompanies the version of a capability set.
const CAPABILITY_EFFECTIVE: u32 = 1;
/// Versions of a capability set with their lengths in bytes.
const CAPABILITIES: [(u32, usize); 2] = [(0x0200_0000, 20), (0x0300_0000, 24)];

/// The version of an access control list, `POSIX_ACL_XATTR_VERSION`.
const ACL_VERSION: u32 = 2;
/// The id in list entries that name no user or group.
const ACL_NO_ID: u32 = u32::MAX;

/// The type of file that an attribute belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device or a named pipe.
    Node,
}

impl Holder {
    /// Returns the holder that an entry describes. A hard link counts as a file, the usual case; the type of
    /// its target is known only when layers are merged.
    pub(crate) fn of(kind: &EntryKind<'_>) -> Self {
        match kind {
            EntryKind::File(_) | EntryKind::Hardlink(_) => Holder::File,
            EntryKind::Directory => Holder::Directory,
            EntryKind::Symlink(_) => Holder::Symlink,
            EntryKind::Char(_) | EntryKind::Block(_) | EntryKind::Fifo => Holder::Node,
        }
    }
}

/// Returns the packed attributes of `found` that `holder` can have, and whether these are all of them.
pub(crate) fn held(found: Xattrs<'_>, holder: Holder) -> (Cow<'_, [u8]>, bool) {
    let mut list_bytes = 0_usize;
    let mut fits = |name: &[u8]| {
        let bytes = list_bytes.saturating_add(name.len()).saturating_add(1);
        let fits = bytes <= MAX_LIST_BYTES;
        if fits {
            list_bytes = bytes;
        }
        fits
    };
    let mut packed = Vec::new();
    let mut all = true;
    for (name, value) in found.iter() {
        if is_held(holder, name, value) && fits(name) {
            all &= Xattrs::pack(&mut packed, name, value);
        } else {
            all = false;
        }
    }
    if all { (Cow::Borrowed(found.as_packed()), true) } else { (Cow::Owned(packed), false) }
}

/// Returns whether `holder` can have this attribute.
pub(crate) fn is_held(holder: Holder, name: &[u8], value: &[u8]) -> bool {
    if name.len() > MAX_NAME_BYTES || value.len() > MAX_VALUE_BYTES {
        return false;
    }
    let mut halves = name.splitn(2, |byte| *byte == b'.');
    let namespace = halves.next().unwrap_or_default();
    let rest = halves.next().unwrap_or_default();
    match (namespace, rest) {
        (_, b"") | (b"security", b"selinux") => false,
        (b"user", rest) => {
            matches!(holder, Holder::File | Holder::Directory) && !rest.starts_with(b"overlay.")
        }
        (b"security", b"capability") => is_capability_set(value),
        (b"security", _) => true,
        (b"system", b"posix_acl_access") => holder != Holder::Symlink && is_access_control_list(value),
        (b"system", b"posix_acl_default") => holder == Holder::Directory && is_access_control_list(value),
        _ => false,
    }
}

/// Returns whether the kernel accepts `value` as a capability set; it answers EINVAL to all others.
fn is_capability_set(value: &[u8]) -> bool {
    let version = value.first_chunk().map(|magic| u32::from_le_bytes(*magic) & !CAPABILITY_EFFECTIVE);
    version.is_some_and(|version| CAPABILITIES.contains(&(version, value.len())))
}

/// Returns whether `value` is an access control list that file systems accept: one entry for the owner, one
/// for the group and one for all others, entries for users and groups between them, and a mask if there are
/// such entries, in this order.
fn is_access_control_list(value: &[u8]) -> bool {
    let Some((version, entries)) = value.split_first_chunk() else { return false };
    let entries = entries.chunks_exact(8);
    if u32::from_le_bytes(*version) != ACL_VERSION || !entries.remainder().is_empty() {
        return false;
    }
    let mut tags = Vec::new();
    for entry in entries {
        let &[tag, 0, permissions, 0, a, b, c, d] = entry else { return false };
        let is_named = matches!(tag, 2 | 8);
        if permissions > 7 || (is_named && u32::from_le_bytes([a, b, c, d]) == ACL_NO_ID) {
            return false;
        }
        // Consecutive entries for users, and for groups, count as one tag.
        if !is_named || tags.last() != Some(&tag) {
            tags.push(tag);
        }
    }
    // Owner 1, users 2, group 4, groups 8, mask 16, others 32.
    matches!(
        tags.as_slice(),
        [1, 4, 32] | [1, 4, 16, 32] | [1, 2, 4, 16, 32] | [1, 4, 8, 16, 32] | [1, 2, 4, 8, 16, 32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Holder; 4] = [Holder::File, Holder::Directory, Holder::Symlink, Holder::Node];

    fn holders(name: &str, value: &[u8]) -> Vec<Holder> {
        ALL.into_iter().filter(|holder| is_held(*holder, name.as_bytes(), value)).collect()
    }

    /// Builds an access control list with these tags, each with an id and full permissions.
    fn list(entries: &[(u8, u32)]) -> Vec<u8> {
        let entry = |(tag, id): &(u8, u32)| [&[*tag, 0, 7, 0][..], &id.to_le_bytes()].concat();
        [2_u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    fn capability(magic: u32, len_bytes: usize) -> Vec<u8> {
        let mut value = magic.to_le_bytes().to_vec();
        value.resize(len_bytes, 0);
        value
    }

    #[test]
    fn m9_each_namespace_has_its_holders() {
        let (capability, acl) =
            (capability(0x0200_0001, 20), list(&[(1, ACL_NO_ID), (4, ACL_NO_ID), (32, 0)]));
        let not_link = &[Holder::File, Holder::Directory, Holder::Node][..];
        for (name, value, expected) in [
            ("user.a", &b""[..], &[Holder::File, Holder::Directory][..]),
            ("security.ima", b"1", &ALL),
            ("security.capability", &capability, &ALL),
            ("system.posix_acl_access", &acl, not_link),
            ("system.posix_acl_default", &acl, &[Holder::Directory]),
        ] {
            assert_eq!(holders(name, value), expected, "{name}");
        }
    }

    #[test]
    fn m9_w18_names_that_no_container_has() {
        for name in [
            "",
            ".",
            "user",
            "user.",
            "security.",
            "security.selinux",
            "trusted.a",
            "trusted.overlay.opaque",
            "user.overlay.opaque",
            "system.foo",
            "system.nfs4_acl",
            "com.apple.quarantine",
            "btrfs.a",
            "User.a",
        ] {
            assert_eq!(holders(name, b"1"), [], "{name}");
        }
        assert_eq!(holders("user.overlayer", b"1"), [Holder::File, Holder::Directory]);
    }

    #[test]
    fn m9_names_and_values_have_the_limits_of_linux() {
        let name = |len: usize| format!("user.{}", "n".repeat(len - 5));
        let taken = |name: &str, len: usize| is_held(Holder::File, name.as_bytes(), &vec![0; len]);
        assert_eq!((taken(&name(255), 0), taken(&name(256), 0)), (true, false));
        assert_eq!((taken("user.a", 65_536), taken("user.a", 65_537)), (true, false));
    }

    #[test]
    fn m9_names_that_cannot_be_listed_are_lost() {
        let mut packed = Vec::new();
        let name = |n: usize| format!("user.{n:04}{}", "n".repeat(246));
        for n in 0..300 {
            Xattrs::pack(&mut packed, name(n).as_bytes(), b"");
        }
        // 256 names of 256 bytes each, with their NULs, fill the list exactly.
        let (kept, all) = held(Xattrs::from_packed(&packed), Holder::File);
        assert_eq!((Xattrs::from_packed(&kept).iter().count(), all), (256, false));
    }

    #[test]
    fn m9_a_capability_set_is_one_the_kernel_reads() {
        let read = |magic, len| is_capability_set(&capability(magic, len));
        assert!(read(0x0200_0000, 20) && read(0x0300_0001, 24));
        for (magic, len) in [(0x0100_0000, 12), (0x0200_0000, 24), (0x0300_0000, 20), (0x0200_0002, 20)] {
            assert!(!read(magic, len), "{magic:x} {len}");
        }
        assert!(!is_capability_set(b"") && !is_capability_set(b"\x00\x00"));
    }

    #[test]
    fn m9_an_access_control_list_is_one_the_kernel_takes() {
        let valid = |tags: &[(u8, u32)]| is_access_control_list(&list(tags));
        assert!(valid(&[(1, 0), (2, 5), (2, 6), (4, 0), (8, 5), (16, 0), (32, 0)]));
        for broken in [
            &[][..],
            &[(1, 0), (4, 0)],
            &[(4, 0), (1, 0), (32, 0)],
            &[(1, 0), (1, 0), (4, 0), (32, 0)],
            &[(1, 0), (2, 5), (4, 0), (32, 0)],
            &[(1, 0), (2, ACL_NO_ID), (4, 0), (16, 0), (32, 0)],
            &[(1, 0), (4, 0), (64, 0), (32, 0)],
        ] {
            assert!(!valid(broken), "{broken:?}");
        }
        let mut acl = list(&[(1, 0), (4, 0), (32, 0)]);
        acl[6] = 8;
        assert!(!is_access_control_list(&acl), "permissions");
        acl[6] = 7;
        assert!(is_access_control_list(&acl) && !is_access_control_list(&acl[..acl.len() - 1]), "length");
        acl[0] = 1;
        assert!(!is_access_control_list(&acl), "version");
    }
}
