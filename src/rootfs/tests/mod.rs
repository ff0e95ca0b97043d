//! Tests the rows of docs/semantics.md: each test writes layers entry by entry, merges them, and
//! compares the whole listing.
//!
//! A listing has a line for each name below the root: path, type, mode, owner, number of names, and an
//! identification of the contents (`#n` is the number that the test gave to a file).

mod hardlinks;
mod metadata;
mod names;
mod paths;
mod random;
mod reference;
mod stored;
mod view;
mod whiteouts;

use std::sync::Arc;

use super::{Follow, InodeId, InodeKind, MergeOptions, ROOT, Rootfs, Semantics, merge};
use crate::compress::Compression;
use crate::layer::entry::{
    DeviceNumber, Entry, EntryKind, Extent, FileData, Meta, Stored, Timestamp, Xattrs,
};
use crate::layer::table::{IndexBuilder, LayerFacts, LayerIndex};
use crate::warning::WarningKind;

/// An entry of a layer in a test's notation.
#[derive(Debug, Clone)]
struct Item {
    name: Vec<u8>,
    kind: ItemKind,
    meta: Meta,
    xattrs: Vec<u8>,
}

#[derive(Debug, Clone)]
enum ItemKind {
    File(u64),
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

fn item(name: impl Into<Vec<u8>>, kind: ItemKind, mode: u16) -> Item {
    Item { name: name.into(), kind, meta: Meta { mode, ..Meta::default() }, xattrs: Vec::new() }
}

/// A regular file; `content` identifies its contents.
fn file(name: impl Into<Vec<u8>>, content: u64) -> Item {
    item(name, ItemKind::File(content), 0o644)
}

fn dir(name: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Directory, 0o755)
}

fn symlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Symlink(target.into()), 0o777)
}

fn hardlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Hardlink(target.into()), 0o644)
}

/// An empty file, as most whiteouts and opaque marks are.
fn mark(name: impl Into<Vec<u8>>) -> Item {
    file(name, 0)
}

impl Item {
    fn mode(mut self, mode: u16) -> Self {
        self.meta.mode = mode;
        self
    }

    fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.meta.uid, self.meta.gid) = (uid, gid);
        self
    }

    fn mtime(mut self, seconds: u64) -> Self {
        self.meta.mtime = Timestamp { seconds, nanos: 0 };
        self
    }

    fn xattr(mut self, name: &str, value: &str) -> Self {
        assert!(Xattrs::pack(&mut self.xattrs, name.as_bytes(), value.as_bytes()));
        self
    }
}

/// Makes a layer of these entries.
fn layer(items: &[Item]) -> Arc<LayerIndex> {
    let mut builder = IndexBuilder::default();
    for (at, item) in items.iter().enumerate() {
        let kind = match &item.kind {
            ItemKind::File(content) => {
                let extent = Extent { offset: *content, len_bytes: 1 };
                EntryKind::File(FileData { size: 1, stored: Stored::Contiguous(extent) })
            }
            ItemKind::Directory => EntryKind::Directory,
            ItemKind::Symlink(target) => EntryKind::Symlink(target),
            ItemKind::Hardlink(target) => EntryKind::Hardlink(target),
            ItemKind::Char(major, minor) => EntryKind::Char(DeviceNumber { major: *major, minor: *minor }),
            ItemKind::Block(major, minor) => EntryKind::Block(DeviceNumber { major: *major, minor: *minor }),
            ItemKind::Fifo => EntryKind::Fifo,
        };
        let xattrs = Xattrs::from_packed(&item.xattrs);
        let entry = Entry { header_offset: at as u64 * 512, name: &item.name, kind, meta: item.meta, xattrs };
        builder.push_entry(&entry).unwrap();
    }
    Arc::new(builder.finish(facts()))
}

fn facts() -> LayerFacts {
    LayerFacts {
        diff_id: None,
        blob_digest: None,
        blob_bytes: 0,
        compression: Compression::Plain,
        tar_bytes: 0,
        copy_bytes: 0,
    }
}

fn merged_with(layers: &[Vec<Item>], options: MergeOptions) -> Rootfs {
    merge(layers.iter().map(|items| layer(items)).collect(), &options).unwrap()
}

/// Merges the layers with runtime semantics.
fn merged(layers: &[Vec<Item>]) -> Rootfs {
    merged_with(layers, MergeOptions::default())
}

/// Merges the layers with OCI semantics.
fn merged_oci(layers: &[Vec<Item>]) -> Rootfs {
    merged_with(layers, MergeOptions { semantics: Semantics::Oci, ..MergeOptions::default() })
}

/// Merges the layers with `follow_dirlinks`.
fn merged_following(layers: &[Vec<Item>]) -> Rootfs {
    merged_with(layers, MergeOptions { follow_dirlinks: true, ..MergeOptions::default() })
}

/// Returns one line for each name below the root.
fn listing(tree: &Rootfs) -> Vec<String> {
    tree.walk(ROOT)
        .skip(1)
        .map(|(path, id)| format!("{} {}", crate::path::escape(&path), line(tree, id)))
        .collect()
}

fn line(tree: &Rootfs, id: InodeId) -> String {
    let inode = tree.inode(id).unwrap();
    let (kind, content) = match inode.kind {
        InodeKind::File(_) => {
            let (_, data) = tree.file(id).unwrap();
            let Stored::Contiguous(extent) = data.stored else { panic!("tests store files in one run") };
            ("file", format!(" #{}", extent.offset))
        }
        InodeKind::Directory => ("dir", String::new()),
        InodeKind::Symlink(_) => ("link", format!(" -> {}", crate::path::escape(tree.target(id).unwrap()))),
        InodeKind::Char(device) => ("char", format!(" {}:{}", device.major, device.minor)),
        InodeKind::Block(device) => ("block", format!(" {}:{}", device.major, device.minor)),
        InodeKind::Fifo => ("fifo", String::new()),
    };
    let meta = inode.meta;
    format!("{kind} {:o} {}:{} {}{content}", meta.mode, meta.uid, meta.gid, inode.nlink)
}

/// Compares the whole tree.
#[track_caller]
fn assert_tree(tree: &Rootfs, expected: &[&str]) {
    assert_eq!(listing(tree), expected);
}

/// Returns the warnings of merging: layer, kind and path.
fn warned(tree: &Rootfs) -> Vec<(u16, WarningKind, String)> {
    let escaped = |path: &[u8]| crate::path::escape(path);
    tree.warnings().iter().map(|(layer, w)| (layer.0, w.kind, escaped(&w.path))).collect()
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
