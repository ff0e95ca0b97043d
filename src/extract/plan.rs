//! Plans an extraction: a tree as flat lists of objects to create, in their order.
//!
//! This module owns the order: directories before their contents, files by their position in the layers
//! (so that each span is decoded once), further names of an inode after its first. It is pure, and must
//! not know the destination.

use std::collections::HashMap;
use std::ops::Range;

use crate::rootfs::{InodeId, InodeKind, Rootfs};

/// Stored bytes after which a batch ends: about a span, so that threads that take batches in turn read
/// each other's spans from the cache.
const BATCH_BYTES: u64 = 1 << 20;
/// Files after which a batch of small files ends.
const BATCH_FILES: usize = 64;

/// Size of a large file, in stored bytes. Writing a large file takes so long that other threads get far
/// ahead of its writer, so its spans are decoded ahead by a schedule of its own.
const LARGE_BYTES: u64 = 4 << 20;

/// The objects to create.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// Parents first. The first is the target itself.
    pub(super) directories: Vec<Directory<'a>>,
    /// Regular files, by layer and then by the offset of their bytes.
    pub(super) files: Vec<PlannedFile<'a>>,
    /// Symbolic links, devices and named pipes.
    pub(super) others: Vec<PlannedFile<'a>>,
    /// Further names of the objects in `files` and `others`.
    pub(super) links: Vec<Link<'a>>,
    /// The stored bytes of all files.
    pub(super) total_bytes: u64,
}

/// A directory, and the index of its parent in [`Plan::directories`].
#[derive(Debug)]
pub(super) struct Directory<'a> {
    /// `None` for a target that is not part of the tree and keeps its attributes.
    pub(super) inode: Option<InodeId>,
    pub(super) parent: usize,
    pub(super) name: &'a [u8],
}

/// A name in one of [`Plan::directories`].
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedFile<'a> {
    pub(super) inode: InodeId,
    pub(super) parent: usize,
    pub(super) name: &'a [u8],
}

/// A further name of an inode.
#[derive(Debug)]
pub(super) struct Link<'a> {
    pub(super) first: PlannedFile<'a>,
    pub(super) name: PlannedFile<'a>,
}

impl<'a> Plan<'a> {
    /// Plans the contents of the directory `root`; the target gets its attributes.
    pub(super) fn of_contents(tree: &'a Rootfs, root: InodeId) -> Self {
        Plan::of(tree, Directory { inode: Some(root), parent: 0, name: b"" }, |plan| {
            plan.add_children(tree, 0)
        })
    }

    /// Plans the contents of the directory `root`; the target keeps its attributes.
    pub(super) fn of_contents_only(tree: &'a Rootfs, root: InodeId) -> Self {
        let mut plan = Plan::of_contents(tree, root);
        if let Some(target) = plan.directories.first_mut() {
            target.inode = None;
        }
        plan
    }

    /// Plans `inode` and everything below it, under this name.
    pub(super) fn of_one(tree: &'a Rootfs, inode: InodeId, name: &'a [u8]) -> Self {
        Plan::of(tree, Directory { inode: None, parent: 0, name: b"" }, |plan| {
            plan.add(tree, PlannedFile { inode, parent: 0, name }, &mut HashMap::new());
            plan.add_children(tree, 1);
        })
    }

    fn of(tree: &'a Rootfs, target: Directory<'a>, fill: impl FnOnce(&mut Self)) -> Self {
        let mut plan = Plan { directories: vec![target], ..Plan::default() };
        fill(&mut plan);
        plan.files.sort_by_cached_key(|node| place(tree, node.inode));
        plan.total_bytes = plan.files.iter().map(|node| stored_bytes(tree, node.inode)).sum();
        plan
    }

    /// Adds the contents of the directories from `first` on, and of the directories found in them.
    fn add_children(&mut self, tree: &'a Rootfs, first: usize) {
        let mut first_names = HashMap::new();
        let mut parent = first;
        while let Some(directory) = self.directories.get(parent) {
            if let Some(inode) = directory.inode {
                for (name, inode) in tree.children(inode) {
                    self.add(tree, PlannedFile { inode, parent, name }, &mut first_names);
                }
            }
            parent += 1;
        }
    }

    fn add(
        &mut self,
        tree: &'a Rootfs,
        node: PlannedFile<'a>,
        first_names: &mut HashMap<InodeId, PlannedFile<'a>>,
    ) {
        let Some(inode) = tree.inode(node.inode) else { return };
        if inode.kind == InodeKind::Directory {
            let PlannedFile { inode, parent, name } = node;
            self.directories.push(Directory { inode: Some(inode), parent, name });
            return;
        }
        if inode.nlink > 1 {
            if let Some(first) = first_names.get(&node.inode) {
                self.links.push(Link { first: *first, name: node });
                return;
            }
            first_names.insert(node.inode, node);
        }
        match inode.kind {
            InodeKind::File(_) => self.files.push(node),
            _ => self.others.push(node),
        }
    }

    /// Returns the path of a directory below the target; empty for the target itself.
    pub(super) fn path(&self, directory: usize) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = directory;
        while let Some(Directory { parent, name, .. }) = self.directories.get(at).filter(|_| at != 0) {
            names.push(*name);
            at = *parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Returns the path of a node below the target.
    pub(super) fn path_of(&self, node: &PlannedFile<'_>) -> Vec<u8> {
        let mut path = self.path(node.parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(node.name);
        path
    }

    /// Returns ranges of [`Plan::files`]; one thread writes one range at a time.
    pub(super) fn batches(&self, tree: &Rootfs) -> Vec<Range<usize>> {
        let mut batches = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (at, node) in self.files.iter().enumerate() {
            bytes += stored_bytes(tree, node.inode);
            if bytes >= BATCH_BYTES || at - start + 1 >= BATCH_FILES {
                batches.push(start..at + 1);
                (start, bytes) = (at + 1, 0);
            }
        }
        batches.push(start..self.files.len());
        batches
    }
}

/// Whether a file has a schedule of its own, and is left out of the schedule of all files.
pub(super) fn is_large(tree: &Rootfs, file: InodeId) -> bool {
    stored_bytes(tree, file) >= LARGE_BYTES
}

/// Returns where a file's bytes begin: the layer, and the offset in its tar.
fn place(tree: &Rootfs, file: InodeId) -> (u16, u64) {
    let Some((layer, data)) = tree.file(file) else { return (0, 0) };
    (layer.0, data.extent().offset)
}

fn stored_bytes(tree: &Rootfs, file: InodeId) -> u64 {
    tree.file(file).map_or(0, |(_, data)| data.stored_bytes())
}
