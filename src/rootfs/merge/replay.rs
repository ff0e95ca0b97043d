//! What every layer did to every name, told while the layers are merged.
//!
//! The merge itself notes each name that it is about to touch; once a layer lies over the others, what
//! became of those names is told, and of all that was or is now below them. There is no second idea of
//! whiteouts, opaque marks or replacement here: only what stood there before and what stands there after.
//!
//! All in all this takes as long as merging does. A directory that is deleted or replaced never comes back
//! (its name gets another [`DirId`]), so it is looked through once, however many layers follow.

use std::sync::Arc;

use super::flat::{inode, root_inode};
use super::over::Merged;
use super::tree::{Dir, DirId, ObjectId, Occupant, Slot, SlotId, Tree};
use super::{EntryAt, MergeOptions, numbered};
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::Inode;

/// One name, before and after one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The layer.
    pub layer: LayerId,
    /// The whole path; `/` for the root.
    pub path: Vec<u8>,
    /// What stood there before.
    pub before: Option<Stood>,
    /// What stands there after. Names are not counted here: its `nlink` says nothing.
    pub after: Option<Inode>,
    /// What in the layer made it so.
    pub cause: Cause,
}

/// What stood at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stood {
    /// What it was. Names are not counted here: its `nlink` says nothing.
    pub inode: Inode,
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

/// A name that a layer is about to touch.
#[derive(Debug)]
pub(super) struct Note<'a> {
    directory: DirId,
    name: &'a [u8],
    before: Stand,
    whiteout: bool,
    opaque: bool,
}

/// What a name stands for. A directory's attributes may change while it stays the same directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stand {
    occupant: Occupant,
    attributes: Option<ObjectId>,
}

impl<'a> Note<'a> {
    /// Notes a name of the merged tree before `slot` of a layer's own tree is laid over it; `dir` is the
    /// layer's own directory of that name.
    pub(super) fn new(tree: &Tree<'a>, directory: DirId, slot: &Slot<'a>, dir: Option<&Dir>) -> Self {
        Note {
            directory,
            name: slot.name,
            before: Stand::of(tree, tree.occupant(directory, slot.name)),
            whiteout: slot.whiteout().is_some(),
            opaque: dir.is_some_and(|dir| dir.opaque),
        }
    }
}

impl Stand {
    fn of(tree: &Tree<'_>, occupant: Occupant) -> Self {
        let attributes = match occupant {
            Occupant::Directory(dir) => tree[dir].attributes,
            Occupant::Object(object) => Some(object),
            Occupant::Nothing | Occupant::Link(_) => None,
        };
        Stand { occupant, attributes }
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
/// given other attributes, or taken away. What a layer names without effect is not told, and neither are
/// directories that it only goes through. The order is that of layers; within a layer it is not specified.
///
/// # Errors
/// As [`merge`](super::merge), and what `visit` returns.
pub(crate) fn replay(
    layers: &[Arc<LayerIndex>],
    options: &MergeOptions,
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mut merged = Merged::new(layers);
    merged.notes = Some(Vec::new());
    let mut book = Book::default();
    for (layer, index) in numbered(layers)? {
        let before = (merged.tree.root, merged.root, merged.tree.dirs.len());
        merged.add_layer(layer, index, options)?;
        book.catch_up(&merged.tree, layer);
        let notes = std::mem::take(&mut merged.notes).unwrap_or_default();
        Teller { merged: &merged, book: &mut book, layer, visit }.tell(before, notes)?;
        merged.notes = Some(Vec::new());
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
    fn catch_up(&mut self, tree: &Tree<'_>, layer: LayerId) {
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

/// A name with what it stood for before and what it stands for now, still to be told.
struct Pair {
    path: Vec<u8>,
    /// Where it is, or was, in the tree as it was before.
    slot_before: Option<SlotId>,
    before: Stand,
    slot_after: Option<SlotId>,
    after: Stand,
    /// Why it is gone, if it is.
    gone: Cause,
    /// Why what was below it is gone.
    below: Cause,
}

/// Tells what one layer changed.
struct Teller<'t, 'a> {
    merged: &'t Merged<'a>,
    book: &'t mut Book,
    layer: LayerId,
    visit: &'t mut dyn FnMut(Change) -> Result<()>,
}

impl<'a> Teller<'_, 'a> {
    /// `before` is the root, the root's entry and the number of directories before the layer.
    fn tell(&mut self, before: (DirId, Option<EntryAt>, usize), notes: Vec<Note<'a>>) -> Result<()> {
        let (root, root_entry, directories) = before;
        self.tell_root(root_entry)?;
        if root != self.merged.tree.root {
            self.tell_below(
                b"",
                Some(root),
                Some(self.merged.tree.root),
                &Cause::Opaque(Arc::from(&b"/"[..])),
            )?;
        }
        for note in notes {
            // What is in a directory that this layer made is told with that directory.
            if note.directory.at() < directories {
                let pair = self.pair_of(&note);
                self.tell_pair(pair)?;
            }
        }
        Ok(())
    }

    fn tell_root(&mut self, entry_before: Option<EntryAt>) -> Result<()> {
        if self.layer != LayerId(0) && self.merged.root == entry_before {
            return Ok(());
        }
        let inode = |entry| root_inode(entry, &self.merged.objects);
        let before = inode(entry_before);
        let before = (self.layer != LayerId(0)).then_some(Stood { inode: before, since: before.layer });
        let after = Some(inode(self.merged.root));
        (self.visit)(Change { layer: self.layer, path: b"/".to_vec(), before, after, cause: Cause::Entry })
    }

    fn pair_of(&self, note: &Note<'a>) -> Pair {
        let tree = &self.merged.tree;
        let slot = tree.known(note.directory, note.name);
        let mut path = slot.map(|slot| tree.path(slot)).unwrap_or_default();
        path.insert(0, b'/');
        let after = Stand::of(tree, tree.occupant(note.directory, note.name));
        let here: Arc<[u8]> = Arc::from(path.as_slice());
        let below = match (note.opaque, note.whiteout) {
            (true, _) => Cause::Opaque(here.clone()),
            (false, true) => Cause::Whiteout(here.clone()),
            (false, false) => Cause::Replaced(here.clone()),
        };
        let gone = Cause::Whiteout(here);
        Pair { path, slot_before: slot, before: note.before, slot_after: slot, after, gone, below }
    }

    /// Tells of a name, and of everything below it where what is below cannot be the same.
    fn tell_pair(&mut self, pair: Pair) -> Result<()> {
        let mut ahead = vec![pair];
        while let Some(pair) = ahead.pop() {
            let (from, to) = (pair.before.directory(), pair.after.directory());
            if from != to {
                self.pairs_below(&pair.path, from, to, &pair.below, &mut ahead);
            }
            self.tell_name(pair)?;
        }
        Ok(())
    }

    fn tell_below(
        &mut self,
        path: &[u8],
        from: Option<DirId>,
        to: Option<DirId>,
        cause: &Cause,
    ) -> Result<()> {
        let mut ahead = Vec::new();
        self.pairs_below(path, from, to, cause, &mut ahead);
        ahead.into_iter().try_for_each(|pair| self.tell_pair(pair))
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
        let stand = |slot: Option<SlotId>| {
            Stand::of(tree, slot.map_or(Occupant::Nothing, |slot| tree[slot].occupant()))
        };
        let mut push = |slot: SlotId, slot_before: Option<SlotId>, slot_after: Option<SlotId>| {
            let path = [path, b"/", tree[slot].name].concat();
            let (before, after) = (stand(slot_before), stand(slot_after));
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

    fn tell_name(&mut self, pair: Pair) -> Result<()> {
        let Pair { path, slot_before, before, slot_after, after, gone, .. } = pair;
        let since = self.book.since(slot_before);
        if before.is_nothing() == after.is_nothing() && before.attributes == after.attributes {
            // A directory may have become another one that looks the same: it has been there all along.
            self.book.set_since(slot_after, since);
            return Ok(());
        }
        let objects = &self.merged.objects;
        let found = |stand: Stand| stand.attributes.map(|at| inode(&objects[at], objects));
        let before = found(before).map(|inode| Stood { inode, since });
        let after = found(after);
        self.book.set_since(slot_after, self.layer);
        let cause = if after.is_some() { Cause::Entry } else { gone };
        (self.visit)(Change { layer: self.layer, path, before, after, cause })
    }
}
