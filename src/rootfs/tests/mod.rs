//! Tests the rows of docs/semantics.md: each test writes layers entry by entry, merges them, and
//! compares the whole listing.

mod hardlinks;
mod metadata;
mod names;
mod paths;
mod random;
mod stored;
mod view;
mod whiteouts;

use std::sync::Arc;

use super::samples::{
    Item, ItemKind, dir, facts, file, hardlink, item, layer, line, listing, mark, merged, merged_following,
    merged_oci, merged_with, reference, symlink,
};
use super::{Follow, InodeId, InodeKind, MergeOptions, ROOT, Rootfs, Semantics, merge};
use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Meta, Stored, Timestamp, Xattrs};
use crate::layer::table::IndexBuilder;
use crate::warning::WarningKind;

/// Compares the whole tree.
#[track_caller]
fn assert_tree(tree: &Rootfs, expected: &[&str]) {
    assert_eq!(listing(tree), expected);
}

/// Returns the warnings of merging: layer, kind and path.
fn warned(tree: &Rootfs) -> Vec<(u16, WarningKind, String)> {
    let escaped = |path: &[u8]| crate::path::escape(path);
    tree.warnings().kept().iter().map(|(layer, w)| (layer.0, w.kind, escaped(&w.path))).collect()
}

/// Compares all warnings of the topmost of two layers.
#[track_caller]
fn assert_warned(tree: &Rootfs, expected: &[(WarningKind, &str)]) {
    let top = u16::try_from(tree.layers().len() - 1).unwrap();
    let expected: Vec<_> = expected.iter().map(|(kind, path)| (top, *kind, (*path).to_owned())).collect();
    assert_eq!(warned(tree), expected);
}

/// Returns the inode at a path, without following links.
#[track_caller]
fn at(tree: &Rootfs, path: &str) -> InodeId {
    tree.resolve(path.as_bytes(), super::Follow::NotLast).unwrap()
}
