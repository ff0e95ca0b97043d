//! Records what every layer did to every name, while the layers are merged.
//!
//! The merge records each name before it changes it. After a layer is laid over the others, the new
//! state of these names is compared with the recorded state, and so is everything below a directory
//! that was deleted or replaced. This module does not interpret whiteouts, opaque marks and replacement
//! a second time.
//!
//! Replaying takes about as long as merging. A directory that is deleted or replaced never returns (its
//! name gets another [`DirId`]), so it is read only once, however many layers follow.

use std::sync::Arc;

use super::flat::{inode, root_inode};
use super::over::Merged;
use super::tree::{Dir, DirId, NameTree, ObjectId, Occupant, Slot, SlotId};
use super::{EntryAt, MergeOptions, numbered};
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::{Stat, Warnings};

/// The change of one name by one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The layer that makes the change.
    pub layer: LayerId,
    /// The whole path; `/` for the root.
    pub path: Vec<u8>,
    /// The state before the layer; `None` if the path did not exist.
    pub before: Option<Before>,
    /// The inode after the layer; `None` if the path no longer exists. Names are not counted: ignore
    /// `nlink`.
    pub after: Option<Stat>,
    /// The part of the layer that causes the change.
    pub cause: Cause,
}

/// The state of a path before a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    /// The inode. Names are not counted: ignore `nlink`.
    pub inode: Stat,
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

/// A name that a layer is about to change, and its state before.
#[derive(Debug)]
pub(super) struct Touched<'a> {
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

impl<'a> Touched<'a> {
    /// Records a name of the merged tree before `slot` of a layer's own tree is laid over it. `dir` is the
    /// layer's own directory of that name.
    pub(super) fn new(tree: &NameTree<'a>, directory: DirId, slot: &Slot<'a>, dir: Option<&Dir>) -> Self {
        Touched {
            directory,
            name: slot.name,
            before: NameState::of(tree, tree.occupant(directory, slot.name)),
            whiteout: slot.whiteout().is_some(),
            opaque: dir.is_some_and(|dir| dir.opaque),
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
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mut merged = Merged::new(layers, Warnings::ignored());
    merged.touched = Some(Vec::new());
    let mut book = Book::default();
    for (layer, index) in numbered(layers)? {
        let before = (merged.tree.root, merged.root, merged.tree.dirs.len());
        merged.add_layer(layer, index, options)?;
        book.catch_up(&merged.tree, layer);
        let touched = std::mem::take(&mut merged.touched).unwrap_or_default();
        Reporter { merged: &merged, book: &mut book, layer, visit }.report(before, touched)?;
        merged.touched = Some(Vec::new());
    }
    Ok(())
}

/// Facts about the merged tree that the tree itself does not record.
#[derive(Debug, Default)]
struct Book {
    /// The names of each directory, in use or not.
    children: Vec<Vec<SlotId>>,
    /// For each slot, the layer that put the slot's occupant there.
    since: Vec<LayerId>,
}

impl Book {
    fn catch_up(&mut self, tree: &NameTree<'_>, layer: LayerId) {
        self.children.resize_with(tree.dirs.len(), Vec::new);
        for slot in tree.slot_ids().skip(self.since.len()) {
            if let Some(children) = self.children.get_mut(tree[slot].directory.at()) {
                children.push(slot);
            }
        }
        self.since.resize(tree.slots.len(), layer);
    }

    fn children(&self, directory: Option<DirId>) -> &[SlotId] {
        directory.and_then(|directory| self.children.get(directory.at())).map_or(&[], Vec::as_slice)
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
    path: Vec<u8>,
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

/// Reports the changes of one layer.
struct Reporter<'t, 'a> {
    merged: &'t Merged<'a>,
    book: &'t mut Book,
    layer: LayerId,
    visit: &'t mut dyn FnMut(Change) -> Result<()>,
}

impl<'a> Reporter<'_, 'a> {
    /// Reports all changes of a layer. `before` is the root, the root's entry and the number of directories
    /// before the layer.
    fn report(&mut self, before: (DirId, Option<EntryAt>, usize), touched: Vec<Touched<'a>>) -> Result<()> {
        let (root, root_entry, directories) = before;
        self.report_root(root_entry)?;
        if root != self.merged.tree.root {
            self.report_below(
                b"",
                Some(root),
                Some(self.merged.tree.root),
                &Cause::Opaque(Arc::from(&b"/"[..])),
            )?;
        }
        for name in touched {
            // The contents of a directory that this layer made are reported with the directory.
            if name.directory.at() < directories {
                let pair = self.pair_of(&name);
                self.report_pair(pair)?;
            }
        }
        Ok(())
    }

    fn report_root(&mut self, entry_before: Option<EntryAt>) -> Result<()> {
        if self.layer != LayerId(0) && self.merged.root == entry_before {
            return Ok(());
        }
        let inode = |entry| root_inode(entry, &self.merged.objects);
        let before = inode(entry_before);
        let before = (self.layer != LayerId(0)).then_some(Before { inode: before, since: before.layer });
        let after = Some(inode(self.merged.root));
        (self.visit)(Change { layer: self.layer, path: b"/".to_vec(), before, after, cause: Cause::Entry })
    }

    fn pair_of(&self, name: &Touched<'a>) -> Pair {
        let tree = &self.merged.tree;
        let slot = tree.known(name.directory, name.name);
        let mut path = slot.map(|slot| tree.path(slot)).unwrap_or_default();
        path.insert(0, b'/');
        let after = NameState::of(tree, tree.occupant(name.directory, name.name));
        let here: Arc<[u8]> = Arc::from(path.as_slice());
        let below = match (name.opaque, name.whiteout) {
            (true, _) => Cause::Opaque(here.clone()),
            (false, true) => Cause::Whiteout(here.clone()),
            (false, false) => Cause::Replaced(here.clone()),
        };
        let gone = Cause::Whiteout(here);
        Pair { path, slot_before: slot, before: name.before, slot_after: slot, after, gone, below }
    }

    /// Reports a name, and the names below it if their states may differ.
    fn report_pair(&mut self, pair: Pair) -> Result<()> {
        let mut ahead = vec![pair];
        while let Some(pair) = ahead.pop() {
            let (from, to) = (pair.before.directory(), pair.after.directory());
            if from != to {
                self.pairs_below(&pair.path, from, to, &pair.below, &mut ahead);
            }
            self.report_name(pair)?;
        }
        Ok(())
    }

    fn report_below(
        &mut self,
        path: &[u8],
        from: Option<DirId>,
        to: Option<DirId>,
        cause: &Cause,
    ) -> Result<()> {
        let mut ahead = Vec::new();
        self.pairs_below(path, from, to, cause, &mut ahead);
        ahead.into_iter().try_for_each(|pair| self.report_pair(pair))
    }

    /// Returns the names of the directory before the layer, paired with those of the directory after it.
    fn pairs_below(
        &self,
        path: &[u8],
        from: Option<DirId>,
        to: Option<DirId>,
        cause: &Cause,
        pairs: &mut Vec<Pair>,
    ) {
        let tree = &self.merged.tree;
        let other = |directory: Option<DirId>, name| directory.and_then(|at| tree.known(at, name));
        let state = |slot: Option<SlotId>| {
            NameState::of(tree, slot.map_or(Occupant::Nothing, |slot| tree[slot].occupant()))
        };
        let mut push = |slot: SlotId, slot_before: Option<SlotId>, slot_after: Option<SlotId>| {
            let path = [path, b"/", tree[slot].name].concat();
            let (before, after) = (state(slot_before), state(slot_after));
            let (gone, below) = (cause.clone(), cause.clone());
            pairs.push(Pair { path, slot_before, before, slot_after, after, gone, below });
        };
        for slot in self.book.children(from) {
            push(*slot, Some(*slot), other(to, tree[*slot].name));
        }
        for slot in self.book.children(to) {
            if other(from, tree[*slot].name).is_none() {
                push(*slot, None, Some(*slot));
            }
        }
    }

    fn report_name(&mut self, pair: Pair) -> Result<()> {
        let Pair { path, slot_before, before, slot_after, after, gone, .. } = pair;
        let since = self.book.since(slot_before);
        if before.is_nothing() == after.is_nothing() && before.attributes == after.attributes {
            // A directory may be replaced by another one with the same state: then it counts as the old
            // directory.
            self.book.set_since(slot_after, since);
            return Ok(());
        }
        let objects = &self.merged.objects;
        let found = |state: NameState| state.attributes.map(|at| inode(&objects[at], objects));
        let before = found(before).map(|inode| Before { inode, since });
        let after = found(after);
        self.book.set_since(slot_after, self.layer);
        let cause = if after.is_some() { Cause::Entry } else { gone };
        (self.visit)(Change { layer: self.layer, path, before, after, cause })
    }
}
