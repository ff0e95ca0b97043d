//! What every layer did to every name, recorded while the layers are merged.
//!
//! The merge records each name before it changes it. Once a layer lies over the others, the state of those
//! names is compared with what was recorded, and so is everything below a directory that was deleted or
//! replaced. Whiteouts, opaque marks and replacement are not interpreted a second time here.
//!
//! Replaying takes about as long as merging. A directory that is deleted or replaced never comes back (its
//! name gets another [`DirId`]), so it is looked through once, however many layers follow.

use std::sync::Arc;

use super::flat::{inode, root_inode};
use super::over::Merged;
use super::tree::{Dir, DirId, NameTree, ObjectId, Occupant, Slot, SlotId};
use super::{EntryAt, MergeOptions, numbered};
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::Stat;

/// One name, before and after one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The layer.
    pub layer: LayerId,
    /// The whole path; `/` for the root.
    pub path: Vec<u8>,
    /// The state before.
    pub before: Option<Before>,
    /// What stands there after. Names are not counted here: its `nlink` says nothing.
    pub after: Option<Stat>,
    /// What in the layer made it so.
    pub cause: Cause,
}

/// The state of a path before a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    /// What it was. Names are not counted here: its `nlink` says nothing.
    pub inode: Stat,
    /// The layer that put it there. It differs from the inode's when it is a hard link to something that a
    /// lower layer brought, and for a directory that takes its attributes from a lower layer.
    pub since: LayerId,
}

/// What in a layer changes a name. Paths begin with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An entry for it, or for something below it.
    Entry,
    /// A whiteout of this path: the name itself, or a directory that it was in.
    Whiteout(Arc<[u8]>),
    /// An opaque mark in this directory.
    Opaque(Arc<[u8]>),
    /// Something else was put in the place of this directory.
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

/// What a name stands for. A directory's attributes may change while it stays the same directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NameState {
    occupant: Occupant,
    attributes: Option<ObjectId>,
}

impl<'a> Touched<'a> {
    /// Records a name of the merged tree before `slot` of a layer's own tree is laid over it; `dir` is the
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

/// Merges layers, the lowest first, and calls `visit` for each name that a layer changed: added, replaced,
/// given other attributes, or taken away. What a layer names without effect is not reported, and neither
/// are directories that it only goes through. The order is that of layers; within a layer it is not specified.
///
/// # Errors
/// As [`merge`](super::merge), and what `visit` returns.
pub(crate) fn replay(
    layers: &[Arc<LayerIndex>],
    options: &MergeOptions,
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mut merged = Merged::new(layers);
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

/// What the merged tree does not remember of itself.
#[derive(Debug, Default)]
struct Book {
    /// The names of each directory, in use or not.
    children: Vec<Vec<SlotId>>,
    /// For each slot the layer that put there what it holds now.
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

/// A name with its state before and after the layer, still to be reported.
struct Pair {
    path: Vec<u8>,
    /// Where it is, or was, in the tree as it was before.
    slot_before: Option<SlotId>,
    before: NameState,
    slot_after: Option<SlotId>,
    after: NameState,
    /// Why it is gone, if it is.
    gone: Cause,
    /// Why what was below it is gone.
    below: Cause,
}

/// Reports what one layer changed.
struct Reporter<'t, 'a> {
    merged: &'t Merged<'a>,
    book: &'t mut Book,
    layer: LayerId,
    visit: &'t mut dyn FnMut(Change) -> Result<()>,
}

impl<'a> Reporter<'_, 'a> {
    /// `before` is the root, the root's entry and the number of directories before the layer.
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
            // What is in a directory that this layer made is reported with that directory.
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

    /// Reports a name, and everything below it where what is below cannot be the same.
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

    /// The names of a directory that was there before, and of the one that is there now.
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
            // A directory may have become another one that looks the same: it has been there all along.
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
