//! Owners as a container sees them.
//!
//! Rootless engines store files under other owners than the container sees: the kernel maps ranges of owners
//! into a user namespace, or an attribute holds the owner and mode that the engine could not set. This module
//! owns both translations. It is pure.
//! Sources: user_namespaces(7); Linux, security/commoncap.c, `cap_inode_getsecurity`; containers/storage,
//! pkg/idtools, `parseOverrideXattr`; fuse-overlayfs 1.10, main.c, `override_mode`.

use crate::layer::entry::DeviceNumber;

/// Owner of files whose owner has no place in a user namespace, as the kernel shows it: `overflowuid`.
const OVERFLOW_ID: u32 = 65_534;
/// An id in an access control list that stands for no user.
const NO_ID: u32 = u32::MAX;
/// Length of a capability set of version 3, which ends with the owner of its user namespace.
const CAPABILITY_V3_BYTES: usize = 24;

/// The name of the attribute in which containers/storage keeps owner and mode.
pub(super) const OVERRIDE_STAT: &[u8] = b"user.containers.override_stat";

/// A range of owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) struct IdRange {
    /// The first id in the container.
    pub(in crate::source) container: u32,
    /// The first id in the stored files.
    pub(in crate::source) host: u32,
    /// Number of ids.
    pub(in crate::source) len: u32,
}

/// Translates owners of stored files into owners in a container.
#[derive(Debug, Clone, Default)]
pub(in crate::source) struct IdMap {
    /// `None`: users are not translated.
    uids: Option<Vec<IdRange>>,
    gids: Option<Vec<IdRange>>,
    override_stat: bool,
}

impl IdMap {
    /// Returns the map that changes nothing.
    pub(in crate::source) fn identity() -> Self {
        IdMap::default()
    }

    /// Creates a map from ranges of users and of groups. An id outside every range becomes 65534.
    pub(in crate::source) fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Self {
        IdMap { uids: Some(uids), gids: Some(gids), override_stat: false }
    }

    /// Makes the map use the attribute `user.containers.override_stat` of each file that has it.
    #[must_use]
    pub(in crate::source) fn with_override_stat(self) -> Self {
        IdMap { override_stat: true, ..self }
    }

    /// Returns whether the attribute `user.containers.override_stat` is used.
    pub(super) fn uses_override_stat(&self) -> bool {
        self.override_stat
    }

    /// Returns the owner and group that a container sees.
    pub(super) fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        let uid = find(self.uids.as_deref(), uid).unwrap_or(OVERFLOW_ID);
        let gid = find(self.gids.as_deref(), gid).unwrap_or(OVERFLOW_ID);
        (uid, gid)
    }

    /// Returns the value of an attribute as a container sees it; `None` if the container does not see the
    /// attribute. Ids in access control lists and in capability sets are translated.
    pub(super) fn attribute(&self, name: &[u8], mut value: Vec<u8>) -> Option<Vec<u8>> {
        match name {
            b"system.posix_acl_access" | b"system.posix_acl_default" => {
                self.translate_list(&mut value);
                Some(value)
            }
            b"security.capability" => self.capability(value),
            _ => Some(value),
        }
    }

    /// Translates the users and groups of an access control list: 4 bytes of version, then entries of 8 bytes
    /// (tag, permissions, id).
    fn translate_list(&self, list: &mut [u8]) {
        for entry in list.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
            let (tag, id) = entry.split_at_mut(4);
            let ranges = match tag.first() {
                Some(2) => &self.uids,
                Some(8) => &self.gids,
                _ => continue,
            };
            let Ok(old) = <[u8; 4]>::try_from(&*id) else { continue };
            let new = find(ranges.as_deref(), u32::from_le_bytes(old)).unwrap_or(NO_ID);
            id.copy_from_slice(&new.to_le_bytes());
        }
    }

    /// Translates a capability set. A set that root of a user namespace made is of version 3 and names this
    /// root. Inside the namespace it is of version 2, and elsewhere it does not apply.
    fn capability(&self, mut set: Vec<u8>) -> Option<Vec<u8>> {
        let (Some(uids), Some([_, _, _, 3])) = (&self.uids, set.first_chunk()) else { return Some(set) };
        let Some((_, root)) = set.split_last_chunk().filter(|_| set.len() == CAPABILITY_V3_BYTES) else {
            return Some(set);
        };
        if find(Some(uids), u32::from_le_bytes(*root))? != 0 {
            return None;
        }
        set.truncate(CAPABILITY_V3_BYTES - 4);
        *set.get_mut(3)? = 2;
        Some(set)
    }
}

/// Returns the id in the container; `None` if no range holds `id`.
fn find(ranges: Option<&[IdRange]>, id: u32) -> Option<u32> {
    let Some(ranges) = ranges else { return Some(id) };
    ranges.iter().find_map(|range| {
        let within = id.checked_sub(range.host).filter(|within| *within < range.len)?;
        range.container.checked_add(within)
    })
}

/// The owner, mode and type of a file in the attribute `user.containers.override_stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverrideStat {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permission bits, set-id bits and sticky bit.
    pub(super) mode: u16,
    pub(super) kind: Option<OverrideKind>,
}

/// The type of a file in the attribute `user.containers.override_stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverrideKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Block(DeviceNumber),
    Char(DeviceNumber),
}

impl OverrideStat {
    /// Parses `uid:gid:mode` or `uid:gid:mode:type`. The mode is octal and may contain the bits of the type;
    /// a device is `block-MAJOR-MINOR` or `char-MAJOR-MINOR`. Further parts are ignored, as in
    /// containers/storage. Returns `None` for any other text.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.trim_end_matches('\0').split(':');
        let mut number = |radix| u32::from_str_radix(digits(parts.next()?)?, radix).ok();
        let (uid, gid, mode) = (number(10)?, number(10)?, number(8)?);
        let kind = match parts.next() {
            None => None,
            Some(text) => Some(OverrideKind::parse(text)?),
        };
        Some(OverrideStat { uid, gid, mode: u16::try_from(mode & 0o7777).ok()?, kind })
    }
}

impl OverrideKind {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let name = parts.next()?;
        let mut device = || {
            let mut number = || digits(parts.next()?)?.parse().ok();
            Some(DeviceNumber { major: number()?, minor: number()? })
        };
        match name {
            "file" => Some(OverrideKind::File),
            "dir" => Some(OverrideKind::Directory),
            "symlink" => Some(OverrideKind::Symlink),
            "pipe" => Some(OverrideKind::Fifo),
            "socket" => Some(OverrideKind::Socket),
            "block" => device().map(OverrideKind::Block),
            "char" => device().map(OverrideKind::Char),
            _ => None,
        }
    }
}

/// Returns `text` if it begins with a digit: Rust also parses numbers with a sign.
fn digits(text: &str) -> Option<&str> {
    text.starts_with(|first: char| first.is_ascii_digit()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The usual map of a rootless user 1000 with 65536 subordinate ids.
    fn rootless() -> IdMap {
        let ranges = vec![
            IdRange { container: 0, host: 1000, len: 1 },
            IdRange { container: 1, host: 100_000, len: 65_536 },
        ];
        IdMap::new(ranges.clone(), ranges)
    }

    #[test]
    fn f46_owners_are_translated_into_the_container_or_are_nobody() {
        let map = rootless();
        for (host, container) in [
            (1000, 0),
            (100_000, 1),
            (165_535, 65_536),
            (165_536, 65_534),
            (0, 65_534),
            (999, 65_534),
            (u32::MAX, 65_534),
        ] {
            assert_eq!(map.owner(host, host), (container, container), "{host}");
            assert_eq!(IdMap::identity().owner(host, host), (host, host));
        }
        assert_eq!(IdMap::new(Vec::new(), Vec::new()).owner(0, 0), (65_534, 65_534));
    }

    #[test]
    fn f46_owners_in_access_control_lists_are_translated() {
        let list = |user: u32, group: u32| {
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, id) in [(1_u16, NO_ID), (2, user), (4, NO_ID), (8, group), (0x10, NO_ID), (0x20, NO_ID)]
            {
                list.extend([tag.to_le_bytes(), 5_u16.to_le_bytes()].concat());
                list.extend(id.to_le_bytes());
            }
            list
        };
        let name = b"system.posix_acl_access";
        assert_eq!(rootless().attribute(name, list(1000, 100_009)), Some(list(0, 10)));
        assert_eq!(rootless().attribute(name, list(5, 5)), Some(list(NO_ID, NO_ID)));
        assert_eq!(IdMap::identity().attribute(name, list(5, 5)), Some(list(5, 5)));
        for torn in [&b""[..], b"\x02", b"\x02\0\0\0\x02\0\0"] {
            assert_eq!(rootless().attribute(name, torn.to_vec()), Some(torn.to_vec()));
        }
    }

    #[test]
    fn f46_capabilities_of_a_user_namespace_are_those_of_its_root() {
        let version_2 = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        let version_3 = |root: u32| [&[1, 0, 0, 3][..], &[7; 16], &root.to_le_bytes()].concat();
        let name = b"security.capability";
        assert_eq!(rootless().attribute(name, version_3(1000)), Some(version_2.clone()));
        assert_eq!(rootless().attribute(name, version_3(100_000)), None);
        assert_eq!(rootless().attribute(name, version_3(5)), None);
        assert_eq!(rootless().attribute(name, version_2.clone()), Some(version_2));
        assert_eq!(IdMap::identity().attribute(name, version_3(1000)), Some(version_3(1000)));
        assert_eq!(rootless().attribute(name, vec![0, 0, 0, 3]), Some(vec![0, 0, 0, 3]));
    }

    #[test]
    fn f46_an_override_holds_owner_mode_and_type() {
        let parse = |text: &str| OverrideStat::parse(text.as_bytes());
        let plain = OverrideStat { uid: 1, gid: 2, mode: 0o4755, kind: None };
        let device = DeviceNumber { major: 8, minor: 17 };
        for (text, kind) in [
            ("1:2:4755", None),
            ("1:2:04755", None),
            ("1:2:0104755", None),
            ("1:2:4755\0", None),
            ("1:2:4755:file", Some(OverrideKind::File)),
            ("1:2:4755:dir:later", Some(OverrideKind::Directory)),
            ("1:2:4755:symlink", Some(OverrideKind::Symlink)),
            ("1:2:4755:pipe", Some(OverrideKind::Fifo)),
            ("1:2:4755:socket", Some(OverrideKind::Socket)),
            ("1:2:4755:block-8-17", Some(OverrideKind::Block(device))),
            ("1:2:4755:char-8-17-9", Some(OverrideKind::Char(device))),
        ] {
            assert_eq!(parse(text), Some(OverrideStat { kind, ..plain }), "{text}");
        }
        for text in [
            "",
            "1",
            "1:2",
            "1:2:",
            "1:2:8",
            "-1:2:7",
            "+1:2:7",
            "1:2:7:disk",
            "1:2:7:block-8",
            "4294967296:0:0",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(OverrideStat::parse(b"1:2:\xff"), None);
    }
}
