//! Records what every layer did to every name, while the layers are merged.
//!
//! The merge records each name before it changes it. After a layer is laid over the others, the new
//! state of these names is compared with the recorded state, and so is everything below a directory
//! that was deleted or replaced. This module does not interpret whiteouts, opaque marks and replacement
//! a second time.
//!
//! Replaying takes about as long as merging. A directory that is deleted or replaced never returns (its
//! name gets another [`DirId`]), so it is read only once, however many layers follow. The changes below a
//! directory are reported one after the other, with one path that grows and shrinks: a layer can delete millions of
//! names at once, and each of them can have a path of 4 KB.

use std::sync::Arc;

use super::flat::{origin, root_origin};
use super::over::Merged;
use super::tree::{Dir, DirId, NONE, NameTree, ObjectId, Occupant, Slot, SlotId};
use super::{EntryAt, MergeOptions, numbered};
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::{Origin, Warnings};

/// The change of one name by one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change<'p> {
    /// The layer that makes the change.
    pub layer: LayerId,
    /// The whole path; `/` for the root.
    pub path: &'p [u8],
    /// The state before the layer; `None` if the path did not exist.
    pub before: Option<Before>,
    /// The inode after the layer; `None` if the path no longer exists.
    pub after: Option<Origin>,
    /// The part of the layer that causes the change.
    pub cause: Cause,
}

/// The state of a path before a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    /// The inode.
    pub inode: Origin,
    /// The layer that put the inode at this path. It differs from the inode's layer for a hard link to an
    /// object of a lower layer, and for a directory that takes its attributes from a lower layer.
    pub since: LayerId,
}

/// The part of a layer that changes a name. Paths begin with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An entry for the name, or for a name below it.
    Entry,
    /// A whiteout of this path: the name itself, or a directory above it.
    Whiteout(Arc<[u8]>),
    /// An opaque mark in this directory.
    Opaque(Arc<[u8]>),
    /// The replacement of this directory by an object of another type.
    Replaced(Arc<[u8]>),
}

/// The names that a layer changes in the directories that existed before it. Other names are reported with the
/// directory that the layer made.
#[derive(Debug)]
pub(super) struct Touches<'a> {
    /// The number of directories before the layer.
    directories: usize,
    names: Vec<Touched<'a>>,
}

/// A name that a layer is about to change, and its state before.
#[derive(Debug)]
struct Touched<'a> {
    directory: DirId,
    name: &'a [u8],
    before: NameState,
    whiteout: bool,
    opaque: bool,
}

/// The state of a name. A directory's attributes may change while it stays the same directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NameState {
    occupant: Occupant,
    attributes: Option<ObjectId>,
}

impl<'a> Touches<'a> {
    fn of(tree: &NameTree<'_>) -> Self {
        Touches { directories: tree.dirs.len(), names: Vec::new() }
    }

    /// Records a name of the merged tree before `slot` of a layer's own tree is laid over it. `dir` is the
    /// layer's own directory of that name.
    pub(super) fn add(&mut self, tree: &NameTree<'a>, directory: DirId, slot: &Slot<'a>, dir: Option<&Dir>) {
        if directory.at() < self.directories {
            self.names.push(Touched {
                directory,
                name: slot.name,
                before: NameState::of(tree, tree.occupant(directory, slot.name)),
                whiteout: slot.whiteout().is_some(),
                opaque: dir.is_some_and(|dir| dir.opaque),
            });
        }
    }
}

impl NameState {
    fn of(tree: &NameTree<'_>, occupant: Occupant) -> Self {
        let attributes = match occupant {
            Occupant::Directory(dir) => tree[dir].attributes,
            Occupant::Object(object) => Some(object),
            Occupant::Nothing | Occupant::Link(_) => None,
        };
        NameState { occupant, attributes }
    }

    fn is_nothing(self) -> bool {
        self.occupant == Occupant::Nothing
    }

    fn directory(self) -> Option<DirId> {
        match self.occupant {
            Occupant::Directory(dir) => Some(dir),
            _ => None,
        }
    }
}

/// Merges layers, the lowest first, and calls `visit` for each name that a layer added, replaced, gave
/// other attributes, or removed. Names that a layer mentions without effect are not reported, nor are
/// directories that a path only passes through. Changes are reported layer by layer; their order within
/// a layer is not specified.
///
/// # Errors
/// As [`merge`](super::merge), and the errors of `visit`.
pub(crate) fn replay(
    layers: &[Arc<LayerIndex>],
    options: &MergeOptions,
    visit: &mut dyn FnMut(Change<'_>) -> Result<()>,
) -> Result<()> {
    let mut merged = Merged::new(layers, Warnings::ignored());
    let mut book = Book::default();
    for (layer, index) in numbered(layers)? {
        let before = (merged.tree.root, merged.root);
        merged.touched = Some(Touches::of(&merged.tree));
        merged.add_layer(layer, index, options)?;
        book.catch_up(&merged.tree, layer);
        let touched = merged.touched.take().map(|touched| touched.names).unwrap_or_default();
        let path = Vec::new();
        Reporter { merged: &merged, book: &mut book, layer, path, visit }.report(before, touched)?;
    }
    Ok(())
}

/// Facts about the merged tree that the tree itself does not record.
#[derive(Debug, Default)]
struct Book {
    /// The names of each directory, in use or not: a list that [`Book::next`] links, by its first and last slot.
    children: Vec<Option<(SlotId, SlotId)>>,
    /// For each slot the next slot of its directory; [`NONE`] for the last.
    next: Vec<u32>,
    /// For each slot, the layer that put the slot's occupant there.
    since: Vec<LayerId>,
}

impl Book {
    fn catch_up(&mut self, tree: &NameTree<'_>, layer: LayerId) {
        self.children.resize(tree.dirs.len(), None);
        let known = self.next.len();
        self.next.resize(tree.slots.len(), NONE);
        for slot in tree.slot_ids().skip(known) {
            let Some(children) = self.children.get_mut(tree[slot].directory.at()) else { continue };
            let first = children.map_or(slot, |(first, last)| {
                if let Some(next) = self.next.get_mut(last.0 as usize) {
                    *next = slot.0;
                }
                first
            });
            *children = Some((first, slot));
        }
        self.since.resize(tree.slots.len(), layer);
    }

    /// Returns the first name of a directory.
    fn first(&self, directory: Option<DirId>) -> Option<SlotId> {
        let (first, _) = (*self.children.get(directory?.at())?)?;
        Some(first)
    }

    /// Returns the name after `slot` in the same directory.
    fn next(&self, slot: SlotId) -> Option<SlotId> {
        self.next.get(slot.0 as usize).filter(|next| **next != NONE).map(|next| SlotId(*next))
    }

    fn since(&self, slot: Option<SlotId>) -> LayerId {
        slot.and_then(|slot| self.since.get(slot.0 as usize)).copied().unwrap_or(LayerId(0))
    }

    fn set_since(&mut self, slot: Option<SlotId>, layer: LayerId) {
        if let Some(since) = slot.and_then(|slot| self.since.get_mut(slot.0 as usize)) {
            *since = layer;
        }
    }
}

/// A name with its state before and after the layer, not reported yet.
struct Pair {
    /// The slot of the name in the tree before the layer.
    slot_before: Option<SlotId>,
    before: NameState,
    slot_after: Option<SlotId>,
    after: NameState,
    /// The cause, if the name is gone.
    gone: Cause,
    /// The cause for names below it that are gone.
    below: Cause,
}

/// The names of a directory before the layer, paired with those of the directory after it.
struct Pairs {
    /// The length of the path of the directory.
    path_bytes: usize,
    from: Option<DirId>,
    to: Option<DirId>,
    /// The cause, if a name is gone.
    cause: Cause,
    next: Option<SlotId>,
    /// Whether all names of `from` are done.
    in_to: bool,
}

impl Pairs {
    fn new(path_bytes: usize, from: Option<DirId>, to: Option<DirId>, cause: Cause, book: &Book) -> Self {
        Pairs { path_bytes, from, to, cause, next: book.first(from), in_to: false }
    }

    /// Returns the next name of both directories.
    fn next(&mut self, book: &Book, tree: &NameTree<'_>) -> Option<Pair> {
        let other = |directory: Option<DirId>, slot: SlotId| tree.known(directory?, tree[slot].name);
        loop {
            let Some(slot) = self.next else {
                if std::mem::replace(&mut self.in_to, true) {
                    return None;
                }
                self.next = book.first(self.to);
                continue;
            };
            self.next = book.next(slot);
            let (slot_before, slot_after) = match self.in_to {
                false => (Some(slot), other(self.to, slot)),
                true if other(self.from, slot).is_none() => (None, Some(slot)),
                true => continue,
            };
            let state = |slot: Option<SlotId>| {
                NameState::of(tree, slot.map_or(Occupant::Nothing, |slot| tree[slot].occupant()))
            };
            let (gone, below) = (self.cause.clone(), self.cause.clone());
            let (before, after) = (state(slot_before), state(slot_after));
            return Some(Pair { slot_before, before, slot_after, after, gone, below });
        }
    }
}

/// Reports the changes of one layer.
struct Reporter<'t, 'a> {
    merged: &'t Merged<'a>,
    book: &'t mut Book,
    layer: LayerId,
    /// The path of the name that is being reported.
    path: Vec<u8>,
    visit: &'t mut dyn FnMut(Change<'_>) -> Result<()>,
}

impl<'a> Reporter<'_, 'a> {
    /// Reports all changes of a layer. `before` is the root and the root's entry before the layer.
    fn report(&mut self, before: (DirId, Option<EntryAt>), touched: Vec<Touched<'a>>) -> Result<()> {
        let (root, root_entry) = before;
        self.report_root(root_entry)?;
        if root != self.merged.tree.root {
            self.path.clear();
            let cause = Cause::Opaque(Arc::from(&b"/"[..]));
            self.report_below(Some(root), Some(self.merged.tree.root), cause)?;
        }
        for name in touched {
            self.report_touched(&name)?;
        }
        Ok(())
    }

    fn report_root(&mut self, entry_before: Option<EntryAt>) -> Result<()> {
        if self.layer != LayerId(0) && self.merged.root == entry_before {
            return Ok(());
        }
        let before = root_origin(entry_before);
        let before = (self.layer != LayerId(0)).then_some(Before { inode: before, since: before.layer });
        let after = Some(root_origin(self.merged.root));
        (self.visit)(Change { layer: self.layer, path: b"/", before, after, cause: Cause::Entry })
    }

    /// Reports a name of the layer, and the names below it if their states may differ.
    fn report_touched(&mut self, name: &Touched<'a>) -> Result<()> {
        let tree = &self.merged.tree;
        let slot = tree.known(name.directory, name.name);
        let after = NameState::of(tree, tree.occupant(name.directory, name.name));
        self.path.clear();
        self.path.push(b'/');
        self.path.extend_from_slice(&slot.map(|slot| tree.path(slot)).unwrap_or_default());
        let here: Arc<[u8]> = Arc::from(self.path.as_slice());
        let below = match (name.opaque, name.whiteout) {
            (true, _) => Cause::Opaque(here.clone()),
            (false, true) => Cause::Whiteout(here.clone()),
            (false, false) => Cause::Replaced(here.clone()),
        };
        let gone = Cause::Whiteout(here);
        let pair = Pair { slot_before: slot, before: name.before, slot_after: slot, after, gone, below };
        let (from, to) = (pair.before.directory(), pair.after.directory());
        let below = pair.below.clone();
        self.report_name(pair)?;
        if from == to { Ok(()) } else { self.report_below(from, to, below) }
    }

    /// Reports the names in and below a directory before the layer (`from`) and after it (`to`), whose path is
    /// the current one.
    fn report_below(&mut self, from: Option<DirId>, to: Option<DirId>, cause: Cause) -> Result<()> {
        let tree = &self.merged.tree;
        let mut open = vec![Pairs::new(self.path.len(), from, to, cause, self.book)];
        while let Some(pairs) = open.last_mut() {
            self.path.truncate(pairs.path_bytes);
            let Some(pair) = pairs.next(self.book, tree) else {
                open.pop();
                continue;
            };
            let Some(slot) = pair.slot_before.or(pair.slot_after) else { continue };
            self.path.push(b'/');
            self.path.extend_from_slice(tree[slot].name);
            let (from, to) = (pair.before.directory(), pair.after.directory());
            if from != to {
                open.push(Pairs::new(self.path.len(), from, to, pair.below.clone(), self.book));
            }
            self.report_name(pair)?;
        }
        Ok(())
    }

    fn report_name(&mut self, pair: Pair) -> Result<()> {
        let Pair { slot_before, before, slot_after, after, gone, .. } = pair;
        let since = self.book.since(slot_before);
        if before.is_nothing() == after.is_nothing() && before.attributes == after.attributes {
            // A directory may be replaced by another one with the same state: then it counts as the old
            // directory.
            self.book.set_since(slot_after, since);
            return Ok(());
        }
        let objects = &self.merged.objects;
        let found = |state: NameState| state.attributes.map(|at| origin(&objects[at], objects));
        let before = found(before).map(|inode| Before { inode, since });
        let after = found(after);
        self.book.set_since(slot_after, self.layer);
        let cause = if after.is_some() { Cause::Entry } else { gone };
        (self.visit)(Change { layer: self.layer, path: &self.path, before, after, cause })
    }
}
