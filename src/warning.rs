//! Warnings: parts of an image that runtimes and the specification treat differently, or that cannot be
//! shown.
//!
//! A warning never changes a result; `inspect` and `-v` count and list warnings. `--strict` refuses an image
//! with warnings about the merged tree. This module owns the kinds of warning, their texts, and how many are
//! kept. It does not decide when a warning is given; the code that finds the problem does.

use std::collections::BTreeMap;
use std::fmt;

use crate::path::MAX_PATH_BYTES;

/// Most warnings of one kind that are kept; others are only counted. A hostile layer can cause one with every entry.
/// The limit applies to each kind, so that thousands of one kind do not displace the only one of another.
pub(crate) const MAX_KEPT: u64 = 1000;
/// Most bytes of paths that are kept for one kind.
pub(crate) const MAX_KEPT_PATH_BYTES: usize = 256 << 10;

/// A warning: its kind, and the entry or path that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Warning {
    /// The kind of warning.
    pub kind: WarningKind,
    /// The entry's name as the tar writes it, or the path in the rootfs; bytes, at most 4096.
    pub path: Vec<u8>,
}

macro_rules! warning_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// The kinds of warning. Each has a stable number, which layer indexes store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum WarningKind { $($(#[$doc])* $name = $code,)* }

        impl WarningKind {
            /// Returns all kinds, in the order of their numbers.
            pub fn all() -> impl Iterator<Item = Self> {
                (0..=u8::MAX).filter_map(WarningKind::from_code)
            }

            /// Returns the kind with the number `code`, if one exists.
            #[must_use]
            pub(crate) fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(WarningKind::$name),)* _ => None }
            }

            /// Returns the name of the kind as JSON output writes it: `directory-remade`.
            #[must_use]
            pub fn name(self) -> String {
                let name = match self { $(WarningKind::$name => stringify!($name),)* };
                let mut kebab = String::new();
                for letter in name.chars() {
                    if letter.is_ascii_uppercase() && !kebab.is_empty() {
                        kebab.push('-');
                    }
                    kebab.push(letter.to_ascii_lowercase());
                }
                kebab
            }

            /// Returns false for a kind that has no effect on the merged tree: a media type that names
            /// another compression than the bytes have. `--strict` accepts such images, which `podman save
            /// --uncompressed` and skopeo write.
            #[must_use]
            pub fn is_about_the_tree(self) -> bool {
                self != WarningKind::CompressionMismatch
            }

            /// Returns the number of this kind in a layer index.
            #[must_use]
            pub(crate) fn code(self) -> u8 {
                self as u8
            }
        }

        impl fmt::Display for WarningKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(WarningKind::$name => $text,)* })
            }
        }
    };
}

warning_kinds! {
    /// W3: a directory is whited out and created again in one layer; runtimes show the lower children.
    DirectoryRemade = 1, "whited out and created again in one layer: the lower children stay visible, as in runtimes";
    /// W5: the whiteout comes after the entry that it would delete.
    LateWhiteout = 2, "a whiteout after the entry that it would delete: it hides only lower layers";
    /// W11: an opaque marker at the root, which runtimes ignore.
    OpaqueRoot = 3, "an opaque marker at the layer's root has no effect in runtimes";
    /// W12: `.wh.`, `.wh..` or `.wh...`.
    BadWhiteoutName = 4, "a whiteout of an empty name, '.' or '..' is ignored";
    /// N1: a directory replaces a lower symlink because an entry below it was added.
    DirectoryReplacesLink = 5, "an implied directory replaces a lower symbolic link, as in runtimes";
    /// N2: the parent directories have more symlinks than are followed.
    TooManyLinks = 6, "left out: the parent directories have too many levels of symbolic links";
    /// N7: a file is later used as a directory.
    DirectoryReplacesFile = 7, "a directory replaces a file of the same layer";
    /// N10: a name leads out of the root.
    EscapingName = 8, "a name that leads out of the root is placed inside the root";
    /// N15: a component or a link target is too long for every file system.
    NameTooLong = 9, "left out: a path component exceeds 255 bytes, or a link target exceeds 4095 bytes";
    /// M8: an owner does not fit in 32 bits.
    OwnerOverflow = 10, "an owner above 32 bits is truncated to the low 32 bits";
    /// M17: the type of an entry does not exist in a rootfs.
    UnknownType = 11, "left out: the entry type is not a file system object";
    /// H2: a hard link to a file of a lower layer.
    LinkToLower = 12, "a hard link to a file of a lower layer: runtimes refuse it";
    /// H3: a hard link to an entry that comes later.
    LinkToLater = 13, "a hard link to a later entry: runtimes refuse it";
    /// H3: a hard link that leads back to itself.
    LinkCycle = 14, "left out: a cycle of hard links";
    /// H3: a hard link to a target that does not exist.
    LinkToNothing = 15, "left out: a hard link to a target that does not exist";
    /// H5: a hard link to a file that the same layer whites out.
    LinkToWhitedOut = 16, "a hard link to a file that the same layer deletes";
    /// H9: a hard link to a directory.
    LinkToDirectory = 17, "left out: a hard link to a directory";
    /// Z4: bytes after the compressed stream.
    TrailingBytes = 18, "bytes after the end of the compressed stream are ignored";
    /// Z7: the media type names another compression than the bytes have.
    CompressionMismatch = 19, "the compression differs from the one in the media type";
    /// A Windows layer; its files are shown as the tar stores them.
    WindowsLayer = 20, "a Windows layer: files are shown as stored in the tar";
    /// A damaged layer under `--verify off`; only entries before the damage are shown.
    Damaged = 21, "the layer is damaged: entries after the damage are missing";
    /// W6: the same whiteout occurs more than once.
    RepeatedWhiteout = 22, "a repeated whiteout: runtimes refuse it";
    /// N6: an entry of another type replaces an earlier one of the same layer.
    TypeChanged = 23, "replaced by an entry of another type in the same layer: runtimes refuse it";
    /// H8: a hard link target leads out of the root.
    EscapingTarget = 24, "a hard link target that leads out of the root is resolved inside the root";
    /// W7: whiteouts at and below one path.
    WhiteoutBelowWhiteout = 25, "a whiteout below a whiteout has no effect";
    /// An entry whose path is too long for every file system.
    PathTooLong = 26, "left out: the path is longer than 4096 bytes";
    /// W3, W5: an entry below a directory that is whited out and not created again.
    ImpliedAfterWhiteout = 27, "an entry below a directory that the same layer deletes: runtimes refuse it; the lower children are hidden";
    /// M9, W18: extended attributes that an entry cannot have in a container.
    XattrLeftOut = 28, "left out: extended attributes that belong to a host or that Linux cannot store";
    /// M21: the tar ends with a PAX or GNU header that no entry follows.
    ExtensionWithoutEntry = 29, "an extension header at the end of the tar belongs to no entry and is ignored";
}

/// Counts the warnings of each kind, and decides which are kept: the first ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(BTreeMap<WarningKind, Counted>);

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    all: u64,
    kept: u64,
    path_bytes: usize,
}

impl Tally {
    /// Counts a warning about a path of `path_bytes`. Returns how many bytes of the path to keep; `None` if the warning
    /// is not kept.
    pub(crate) fn admit(&mut self, kind: WarningKind, path_bytes: usize) -> Option<usize> {
        let counted = self.0.entry(kind).or_default();
        let path_bytes = path_bytes.min(MAX_PATH_BYTES);
        let bytes = counted.path_bytes.saturating_add(path_bytes);
        let fits = counted.kept < MAX_KEPT && bytes <= MAX_KEPT_PATH_BYTES;
        // Once one was left out, all later ones are: those that are kept are the first ones.
        let keep = fits && counted.kept == counted.all;
        counted.all = counted.all.saturating_add(1);
        if keep {
            counted.kept = counted.kept.saturating_add(1);
            counted.path_bytes = bytes;
        }
        keep.then_some(path_bytes)
    }

    /// Counts warnings that are not kept.
    pub(crate) fn leave_out(&mut self, kind: WarningKind, count: u64) {
        let counted = self.0.entry(kind).or_default();
        counted.all = counted.all.saturating_add(count);
    }

    /// Returns the number of warnings of each kind that occurs.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (WarningKind, u64)> {
        self.0.iter().map(|(kind, counted)| (*kind, counted.all))
    }

    /// Returns the number of warnings of each kind that were not kept, if there are any.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = (WarningKind, u64)> {
        let left_out =
            |(kind, counted): (&WarningKind, &Counted)| (*kind, counted.all.saturating_sub(counted.kept));
        self.0.iter().map(left_out).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x9_the_first_warnings_of_each_kind_are_kept_and_all_are_counted() {
        let (many, long) = (WarningKind::LateWhiteout, WarningKind::LinkCycle);
        let mut tally = Tally::default();
        let kept = (0..5000).filter(|_| tally.admit(many, 10).is_some()).count();
        assert_eq!(kept as u64, MAX_KEPT);
        let kept: Vec<usize> = (0..200).filter_map(|_| tally.admit(long, 1 << 20)).collect();
        assert_eq!(kept, vec![MAX_PATH_BYTES; MAX_KEPT_PATH_BYTES / MAX_PATH_BYTES]);
        assert_eq!(tally.admit(long, 0), None, "a later one does not follow a gap");
        assert_eq!(tally.admit(WarningKind::LinkToNothing, 0), Some(0));
        tally.leave_out(WarningKind::LinkToNothing, 3);
        assert_eq!(tally.admit(WarningKind::LinkToNothing, 0), None);
        let counts = [(many, 5000), (long, 201), (WarningKind::LinkToNothing, 5)];
        assert_eq!(tally.counts().collect::<Vec<_>>(), counts);
        let left_out = [(many, 4000), (long, 137), (WarningKind::LinkToNothing, 4)];
        assert_eq!(tally.left_out().collect::<Vec<_>>(), left_out);
    }

    #[test]
    fn a_kind_has_a_name_and_a_number_that_leads_back() {
        assert_eq!(WarningKind::DirectoryRemade.name(), "directory-remade");
        for code in 0..=u8::MAX {
            assert!(WarningKind::from_code(code).is_none_or(|kind| kind.code() == code));
        }
    }
}
