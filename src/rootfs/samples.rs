//! Layers in a short notation, their merge, and a listing of the result; for tests and for the fuzz target of the
//! merge.
//!
//! A listing has a line for each name below the root: path, type, mode, owner, number of names, and an
//! identification of the contents (`#n` is the number that the layer gave to a file).

#![allow(clippy::unwrap_used, reason = "a sample that cannot be made is a fault")]
#![cfg_attr(not(test), allow(dead_code, reason = "fuzz targets need a part of it"))]

pub(super) mod reference;

use std::sync::Arc;

use super::{InodeId, InodeKind, MergeOptions, ROOT, Rootfs, Semantics, merge};
use crate::compress::Compression;
use crate::layer::entry::{
    DeviceNumber, Entry, EntryKind, Extent, FileData, Meta, Stored, Timestamp, Xattrs,
};
use crate::layer::table::{IndexBuilder, LayerFacts, LayerIndex};

/// An entry of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: ItemKind,
    pub(crate) meta: Meta,
    pub(crate) xattrs: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) enum ItemKind {
    File(u64),
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

pub(crate) fn item(name: impl Into<Vec<u8>>, kind: ItemKind, mode: u16) -> Item {
    Item { name: name.into(), kind, meta: Meta { mode, ..Meta::default() }, xattrs: Vec::new() }
}

/// A regular file; `content` identifies its contents.
pub(crate) fn file(name: impl Into<Vec<u8>>, content: u64) -> Item {
    item(name, ItemKind::File(content), 0o644)
}

pub(crate) fn dir(name: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Directory, 0o755)
}

pub(crate) fn symlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Symlink(target.into()), 0o777)
}

pub(crate) fn hardlink(name: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Hardlink(target.into()), 0o644)
}

/// A whiteout as overlay writes it.
pub(crate) fn device(name: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Char(0, 0), 0o600)
}

pub(crate) fn fifo(name: impl Into<Vec<u8>>) -> Item {
    item(name, ItemKind::Fifo, 0o600)
}

/// An empty file, as most whiteouts and opaque marks are.
pub(crate) fn mark(name: impl Into<Vec<u8>>) -> Item {
    file(name, 0)
}

impl Item {
    pub(crate) fn mode(mut self, mode: u16) -> Self {
        self.meta.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.meta.uid, self.meta.gid) = (uid, gid);
        self
    }

    pub(crate) fn mtime(mut self, seconds: u64) -> Self {
        self.meta.mtime = Timestamp { seconds, nanos: 0 };
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &str) -> Self {
        assert!(Xattrs::pack(&mut self.xattrs, name.as_bytes(), value.as_bytes()));
        self
    }
}

/// Makes a layer of these entries.
pub(crate) fn layer(items: &[Item]) -> Arc<LayerIndex> {
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

pub(crate) fn facts() -> LayerFacts {
    LayerFacts {
        diff_id: None,
        blob_digest: None,
        blob_bytes: 0,
        compression: Compression::Plain,
        tar_bytes: 0,
        copy_bytes: 0,
    }
}

pub(crate) fn merged_with(layers: &[Vec<Item>], options: MergeOptions) -> Rootfs {
    merge(layers.iter().map(|items| layer(items)).collect::<Vec<_>>(), &options).unwrap()
}

/// Merges the layers with runtime semantics.
pub(crate) fn merged(layers: &[Vec<Item>]) -> Rootfs {
    merged_with(layers, MergeOptions::default())
}

/// Merges the layers with OCI semantics.
pub(crate) fn merged_oci(layers: &[Vec<Item>]) -> Rootfs {
    merged_with(layers, MergeOptions { semantics: Semantics::Oci, ..MergeOptions::default() })
}

/// Merges the layers with `follow_dirlinks`.
pub(crate) fn merged_following(layers: &[Vec<Item>]) -> Rootfs {
    merged_with(layers, MergeOptions { follow_dirlinks: true, ..MergeOptions::default() })
}

/// Returns one line for each name below the root.
pub(crate) fn listing(tree: &Rootfs) -> Vec<String> {
    tree.walk(ROOT)
        .skip(1)
        .map(|(path, id)| format!("{} {}", crate::path::escape(&path), line(tree, id)))
        .collect()
}

pub(crate) fn line(tree: &Rootfs, id: InodeId) -> String {
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

/// Merges the layers, and fails if the [`reference`] has another tree.
pub(crate) fn compare(layers: &[Vec<Item>], options: MergeOptions) {
    assert_eq!(listing(&merged_with(layers, options)), reference::listing(layers, options));
}
