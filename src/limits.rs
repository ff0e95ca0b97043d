//! Limits on what an image can make this program do: their names, defaults and reasons.
//!
//! An image is untrusted, and a few kilobytes of it can ask for any amount of memory, disk or time. Each limit
//! here bounds one such thing. The defaults are far above what real images need, and a user can set each
//! limit by its name (`--limit NAME=VALUE`).
//!
//! This module owns the table. The code that a limit protects checks it; a [`Bound`] has the name and the value
//! that the error needs. Bounds that a format or the kernel fixes, such as the length of a file name, are
//! constants at the place where they are checked. docs/limits.md lists both, with the cost of each.
//!
//! To add a limit, add a row to the table and to docs/limits.md. If an index or a merged tree that was stored
//! could exceed the limit or depend on it, the row is `Stored`: indexes and trees are stored under other names
//! when such a limit is not the default, so a stored result never exceeds a limit that is in force.

use std::fmt::Write as _;

/// The largest value of one quantity, with its name for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The name in errors, and in `--limit`.
    pub name: &'static str,
    /// The largest allowed value.
    pub max: u64,
}

/// One row of the table of limits.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limit {
    /// The name, as in `--limit NAME=VALUE`.
    pub name: &'static str,
    /// The value unless it is set.
    pub default: u64,
    /// The quantity that is limited, with its unit.
    pub bounds: &'static str,
    /// Why the default is what it is.
    pub reason: &'static str,
    /// Whether stored indexes and trees depend on the limit.
    effect: Effect,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

/// What depends on a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Results that are stored: indexes of layers and merged trees.
    Stored,
    /// The current run only.
    Passing,
}

macro_rules! limits {
    ($(#[doc = $bounds:literal] $field:ident: $name:literal = $default:expr, $effect:ident, $reason:literal;)*) => {
        /// Limits on the contents of an image. [`Limits::all`] lists them with their defaults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Limits {
            $($field: u64,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $($field: $default,)* }
            }
        }

        impl Limits {
            $(
                #[doc = $bounds]
                #[cfg_attr(
                    not(feature = "registry"),
                    allow(dead_code, reason = "limits of registries are checked only with registries")
                )]
                pub(crate) fn $field(&self) -> Bound {
                    Bound { name: $name, max: self.$field }
                }
            )*
        }

        static TABLE: &[Limit] = &[
            $(Limit {
                name: $name,
                default: $default,
                bounds: $bounds,
                reason: $reason,
                effect: Effect::$effect,
                get: |limits| limits.$field,
                set: |limits, value| limits.$field = value,
            },)*
        ];
    };
}

// Each row: the quantity, the name in the source, the name for users, the default, what depends on the limit,
// and the reason for the default.
limits! {
    #[doc = "Entries of a layer, including those that are left out."]
    entries: "entries" = 16 << 20, Stored,
        "Large images have a million; the number of an entry has 32 bits.";
    #[doc = "Bytes of names, link targets, extended attributes and sparse maps in a layer."]
    metadata_bytes: "metadata-bytes" = 1 << 30, Stored,
        "Large images have some ten megabytes. An index keeps them all, and a small compressed layer can hold any \
         amount.";
    #[doc = "Bytes of the tar of one layer, uncompressed."]
    layer_bytes: "layer-bytes" = 1 << 40, Stored,
        "The largest images have layers of some ten gigabytes. A sparse file can claim any size.";
    #[doc = "Uncompressed bytes of all compressed layers of an image, unless 1,100 times their stored size is more."]
    unpacked_bytes: "unpacked-bytes" = 4 << 30, Passing,
        "gzip expands up to 1,032 times, so no layer of gzip exceeds the limit. The other formats can repeat zeros for \
         weeks: 8 KB of bzip2 expand to 8 GiB.";
    #[doc = "Bytes in the body of one extension header of a tar, PAX or GNU."]
    extension_bytes: "extension-bytes" = 1 << 20, Stored,
        "As in Go's archive/tar. The kernel accepts no path above 4 KiB and no extended attribute above 64 KiB.";
    #[doc = "Runs of data in one sparse file."]
    sparse_segments: "sparse-segments" = 1 << 20, Stored,
        "Sparse files in images have a handful. A map of 1 Mi runs takes 24 MiB of memory.";
    #[doc = "Directories of all layers that only names imply, in addition to one for each entry."]
    implied_directories: "implied-directories" = 1 << 20, Stored,
        "Images have entries for nearly all directories. A name of 4 KiB implies 2,000 directories, and each takes \
         about 130 bytes of memory.";
    #[doc = "Members of an archive that holds an image."]
    members: "members" = 1 << 20, Passing,
        "A valid archive has a few for each layer. A rootfs tar that is given by mistake must not fill the memory \
         before it is refused.";
    #[doc = "Bytes of names and link targets of the members of an archive."]
    member_name_bytes: "member-name-bytes" = 64 << 20, Passing,
        "Names of blobs have 80 bytes. All names are kept in memory while the archive is open.";
    #[doc = "Manifests that the image indexes of one image list."]
    manifests: "manifests" = 10_000, Passing,
        "Real images have some twenty platforms, each with an attestation. A compressed archive of 1 MB can list a \
         million.";
    #[doc = "Bytes of image indexes that are read for one image."]
    index_bytes: "index-bytes" = 16 << 20, Passing,
        "Real ones have some kilobytes. Their descriptors are kept until the platform is chosen, in up to ten times \
         the memory of their text.";
    #[doc = "Bytes of manifests, image indexes and configs that are read for one image, however often each is read."]
    document_bytes: "document-bytes" = 128 << 20, Passing,
        "Documents of real images have some ten kilobytes for each platform. Without a platform in the image index, \
         every manifest and config is read.";
    #[doc = "Bytes of documents that are read while an archive or a layout is open, however often each is read."]
    archive_document_bytes: "archive-document-bytes" = 512 << 20, Passing,
        "Enough for a list of ten thousand images. A list of 10 MB can name a document of 4 MiB 100,000 times.";
    #[doc = "Names in one directory of a store or root file system."]
    directory_names: "directory-names" = 1 << 20, Passing,
        "A store of ten thousand layers has a few tens of thousands. A name takes up to 300 bytes of memory.";
    #[doc = "Documents that are requested from a registry to open one image."]
    registry_documents: "registry-documents" = 100, Passing,
        "Two or three are the rule; only an image index that does not state the platforms of its images needs two \
         more for each of them.";
    #[doc = "Bytes of these documents."]
    registry_document_bytes: "registry-document-bytes" = 32 << 20, Passing,
        "Several documents of the largest size.";
    #[doc = "Bytes that the manifest of an image in a registry states for its layers."]
    registry_image_bytes: "registry-image-bytes" = 256 << 30, Passing,
        "Registries limit a layer to about 50 GB. What is remembered of the blocks of a layer must stay small.";
    #[doc = "Bytes of paths in one answer of `diff`, `deleted` or `history`."]
    answer_bytes: "answer-bytes" = 1 << 30, Passing,
        "A real image has a few megabytes; a tar of a hundred kilobytes can expand into names that fill any memory.";
}

impl Limits {
    /// Returns the table of limits, in the order of docs/limits.md.
    pub fn all() -> impl ExactSizeIterator<Item = &'static Limit> {
        TABLE.iter()
    }

    /// Returns the value of the limit `name`; `None` if there is no such limit.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        Limit::named(name).map(|limit| (limit.get)(self))
    }

    /// Sets the limit `name`. Returns false if there is no such limit.
    #[must_use]
    pub fn set(&mut self, name: &str, value: u64) -> bool {
        let found = Limit::named(name);
        if let Some(limit) = found {
            (limit.set)(self, value);
        }
        found.is_some()
    }

    /// Returns these limits for the tar of an archive, where [`Limits::members`] and
    /// [`Limits::member_name_bytes`] apply. In its errors the limits have the names of those of a layer;
    /// [`Limits::name_of_archive`] returns the right name.
    pub(crate) fn of_archive(self) -> Self {
        Limits { entries: self.members, metadata_bytes: self.member_name_bytes, ..self }
    }

    /// Returns the name of the limit that [`Limits::of_archive`] uses as the limit `name` of a layer.
    pub(crate) fn name_of_archive(name: &'static str) -> &'static str {
        let limits = Limits::default();
        if name == limits.entries().name {
            limits.members().name
        } else if name == limits.metadata_bytes().name {
            limits.member_name_bytes().name
        } else {
            name
        }
    }

    /// Returns a text that differs for all limits under which stored results can differ; `None` if these limits
    /// have their defaults.
    pub(crate) fn variant(&self) -> Option<String> {
        let mut text = String::new();
        for limit in TABLE.iter().filter(|limit| limit.effect == Effect::Stored) {
            let value = (limit.get)(self);
            if value != limit.default {
                // Writing to a string cannot fail.
                let _ = write!(text, "{}={value} ", limit.name);
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

impl Limit {
    /// Returns the limit `name`; `None` if users cannot set a limit of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Limit> {
        TABLE.iter().find(|limit| limit.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_set_by_its_name_and_no_other_changes() {
        for limit in Limits::all() {
            let mut limits = Limits::default();
            assert_eq!(limits.get(limit.name), Some(limit.default), "{}", limit.name);
            assert!(limits.set(limit.name, 7));
            let changed: Vec<_> =
                Limits::all().filter(|other| limits.get(other.name) != Some(other.default)).collect();
            assert_eq!(changed.len(), 1);
            assert_eq!(changed[0].name, limit.name);
            assert_eq!(limits.get(limit.name), Some(7));
        }
        assert!(!Limits::default().set("no-such-limit", 1));
        assert_eq!(Limits::default().get("no-such-limit"), None);
    }

    #[test]
    fn names_are_unique_and_lower_case() {
        let names: std::collections::BTreeSet<_> = Limits::all().map(|limit| limit.name).collect();
        assert_eq!(names.len(), Limits::all().len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        }
    }

    #[test]
    fn stored_results_have_a_variant_for_each_value_they_depend_on() {
        let variant = |name, value| {
            let mut limits = Limits::default();
            assert!(limits.set(name, value));
            limits.variant()
        };
        assert_eq!(Limits::default().variant(), None);
        assert_ne!(variant("entries", 1), variant("entries", 2));
        assert_ne!(variant("entries", 1), variant("metadata-bytes", 1));
        assert_eq!(variant("entries", Limits::default().entries().max), None);
        assert_eq!(variant("answer-bytes", 1), None, "no stored result depends on it");
    }
}
