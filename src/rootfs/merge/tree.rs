//! The tree of names that is used while layers are merged: one [`NameTree`] for a single layer, one for
//! all layers so far.
//!
//! A [`Slot`] is a name in a directory, with or without an occupant; slots are never removed. A
//! directory that is replaced or emptied gives its slot another [`DirId`], so that its former contents
//! are out of reach at once, however many they are. The slots of a directory always follow the slot of
//! the directory itself: one pass over all slots in order visits parents first, without recursion.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::names::Names;
use crate::error::{Error, Result, Subject};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::table::LayerIndex;
use crate::layer::{EntryId, LayerId};

/// The maximum number of symbolic links on the way to an entry's parent: the limit of containerd's
/// continuity and of umoci (docs/semantics.md N2).
const MAX_HOPS: u32 = 255;

/// Stands for "no number". Lists stay shorter than this, see [`number`]; layers have fewer entries.
pub(super) const NONE: u32 = u32::MAX;

/// A directory of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirId(pub(super) u32);

/// A name of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotId(pub(super) u32);

/// Any object that can have a name, numbered across all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObjectId(pub(super) u32);

/// A hard link that waits for its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkId(pub(super) u32);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occupant {
    Nothing,
    Directory(DirId),
    Object(ObjectId),
    /// A waiting hard link; occurs only while a layer is read.
    Link(LinkId),
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    pub(super) name: &'a [u8],
    pub(super) directory: DirId,
    /// The number of the occupant, of any kind. There are as many slots as names, and storing number and
    /// kind apart keeps slots small.
    occupant: u32,
    /// See [`Slot::whiteout`]; [`NONE`] for none.
    whiteout: u32,
    kind: OccupantKind,
    /// The layer already had an occupant here when the whiteout was read (docs/semantics.md W5).
    pub(super) late: bool,
    /// The directory here was made by its own entry, after the whiteout (docs/semantics.md W3).
    pub(super) remade: bool,
}

#[derive(Debug, Clone, Copy)]
enum OccupantKind {
    Nothing,
    Directory,
    Object,
    Link,
}

impl Slot<'_> {
    pub(super) fn occupant(&self) -> Occupant {
        match self.kind {
            OccupantKind::Nothing => Occupant::Nothing,
            OccupantKind::Directory => Occupant::Directory(DirId(self.occupant)),
            OccupantKind::Object => Occupant::Object(ObjectId(self.occupant)),
            OccupantKind::Link => Occupant::Link(LinkId(self.occupant)),
        }
    }

    pub(super) fn put(&mut self, occupant: Occupant) {
        (self.kind, self.occupant) = match occupant {
            Occupant::Nothing => (OccupantKind::Nothing, NONE),
            Occupant::Directory(DirId(number)) => (OccupantKind::Directory, number),
            Occupant::Object(ObjectId(number)) => (OccupantKind::Object, number),
            Occupant::Link(LinkId(number)) => (OccupantKind::Link, number),
        };
    }

    /// Returns the entry that deletes this name in lower layers.
    pub(super) fn whiteout(&self) -> Option<EntryId> {
        (self.whiteout != NONE).then_some(EntryId(self.whiteout))
    }

    /// Deletes this name in lower layers. Returns true if it was deleted already.
    pub(super) fn white_out(&mut self, entry: EntryId) -> bool {
        std::mem::replace(&mut self.whiteout, entry.0) != NONE
    }

    fn is(&self, directory: DirId, name: &[u8]) -> bool {
        self.directory == directory && self.name == name
    }
}

/// A directory, without its name.
#[derive(Debug)]
pub(super) struct Dir {
    /// The slot that names the directory; the root has none.
    pub(super) slot: Option<SlotId>,
    /// The length of the directory's path in bytes; the root's is 0.
    pub(super) path_len: usize,
    /// The object that mode, owner, time and extended attributes come from; `None` until an entry gives
    /// them.
    pub(super) attributes: Option<ObjectId>,
    /// The directory hides everything below it in lower layers.
    pub(super) opaque: bool,
    /// The directory, or an object below it, is more than a whiteout.
    pub(super) real: bool,
    /// The directory of the same path in the layers below; kept only to follow links to directories.
    pub(super) lower: Option<DirId>,
}

/// Names, found by directory and name.
#[derive(Debug)]
pub(super) struct NameTree<'a> {
    pub(super) slots: Vec<Slot<'a>>,
    pub(super) dirs: Vec<Dir>,
    pub(super) root: DirId,
    names: Names,
}

impl DirId {
    /// Returns the directory's index in lists that have one item for each directory.
    pub(super) fn at(self) -> usize {
        self.0 as usize
    }
}

impl<'a> NameTree<'a> {
    pub(super) fn new() -> Self {
        let root = DirId(0);
        let mut dir = Dir::empty(None, 0);
        dir.real = true;
        NameTree { slots: Vec::new(), dirs: vec![dir], root, names: Names::default() }
    }

    /// Makes room for `names` names in total, since growing in steps hashes every name several times.
    pub(super) fn expect(&mut self, names: usize) {
        let more = names.saturating_sub(self.slots.len());
        self.slots.reserve(more);
        self.names.reserve(more);
    }

    /// Frees the table that finds slots by name.
    pub(super) fn forget_names(&mut self) {
        self.names = Names::default();
    }

    /// Returns the slot of a name, and makes it if necessary.
    pub(super) fn slot(&mut self, directory: DirId, name: &'a [u8]) -> Result<SlotId> {
        let hash = self.names.hash(directory, name);
        if let Some(known) = self.names.find(hash, |slot| self[slot].is(directory, name)) {
            return Ok(known);
        }
        let slot = SlotId(number(self.slots.len())?);
        let kind = OccupantKind::Nothing;
        let (occupant, whiteout) = (NONE, NONE);
        self.slots.push(Slot { name, directory, occupant, whiteout, kind, late: false, remade: false });
        self.names.insert(hash, slot);
        Ok(slot)
    }

    /// Returns the slot of a name, if the name was ever used.
    pub(super) fn known(&self, directory: DirId, name: &[u8]) -> Option<SlotId> {
        self.names.find(self.names.hash(directory, name), |slot| self[slot].is(directory, name))
    }

    /// Returns what a name stands for.
    pub(super) fn occupant(&self, directory: DirId, name: &[u8]) -> Occupant {
        self.known(directory, name).map_or(Occupant::Nothing, |slot| self[slot].occupant())
    }

    /// Puts a new, empty directory into a slot.
    pub(super) fn make_directory(&mut self, slot: SlotId) -> Result<DirId> {
        let made = DirId(number(self.dirs.len())?);
        let Slot { directory, name, .. } = self[slot];
        self.dirs.push(Dir::empty(Some(slot), self[directory].path_len + 1 + name.len()));
        self[slot].put(Occupant::Directory(made));
        Ok(made)
    }

    /// Replaces the root by a new, empty directory.
    pub(super) fn replace_root(&mut self) -> Result<()> {
        let root = DirId(number(self.dirs.len())?);
        self.dirs.push(Dir::empty(None, 0));
        self.root = root;
        Ok(())
    }

    /// Returns the slot that a cleaned path leads to. A link in the last component is not followed.
    /// `follow` returns the link to follow where this tree has no occupant.
    pub(super) fn find(
        &self,
        components: &[&'a [u8]],
        objects: &Objects<'a>,
        steps: &mut Steps,
        follow: impl Fn(DirId, &[u8]) -> Option<&'a [u8]>,
    ) -> Option<FoundAt> {
        let Some((base, parents)) = components.split_last() else {
            return Some(FoundAt::Root);
        };
        let mut way = Way::new(self.root, parents);
        self.walk(&mut way, objects, steps, follow)?;
        self.known(way.at, base).map(FoundAt::Slot)
    }

    /// Follows `way` to its end. Returns `None` if it does not lead to a directory.
    pub(super) fn walk(
        &self,
        way: &mut Way<'a>,
        objects: &Objects<'a>,
        steps: &mut Steps,
        follow: impl Fn(DirId, &[u8]) -> Option<&'a [u8]>,
    ) -> Option<()> {
        while let Some(name) = way.next_name(self) {
            let link = match self.occupant(way.at, name) {
                Occupant::Directory(dir) => {
                    way.at = dir;
                    continue;
                }
                Occupant::Object(object) => objects.target(object),
                Occupant::Nothing => follow(way.at, name),
                Occupant::Link(_) => None,
            };
            match link {
                Some(target) => way.follow(self.root, target, steps)?,
                None if way.cancel(steps)? => {}
                None => return None,
            }
        }
        Some(())
    }

    /// Yields all slots; the slots of a directory follow the slot of the directory itself.
    pub(super) fn slot_ids(&self) -> impl Iterator<Item = SlotId> + use<> {
        (0..u32::MAX).map(SlotId).take(self.slots.len())
    }

    /// Returns the directory that holds a directory; the root's parent is the root.
    pub(super) fn parent(&self, directory: DirId) -> DirId {
        self[directory].slot.map_or(self.root, |slot| self[slot].directory)
    }

    /// Returns the path of a slot, without a leading slash.
    pub(super) fn path(&self, slot: SlotId) -> Vec<u8> {
        let mut names = vec![self[slot].name];
        let mut at = self[slot].directory;
        while let Some(above) = self[at].slot {
            names.push(self[above].name);
            at = self[above].directory;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// The result of [`NameTree::find`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundAt {
    Root,
    Slot(SlotId),
}

impl FoundAt {
    pub(super) fn slot(self) -> Option<SlotId> {
        match self {
            FoundAt::Root => None,
            FoundAt::Slot(slot) => Some(slot),
        }
    }
}

impl Dir {
    fn empty(slot: Option<SlotId>, path_len: usize) -> Self {
        Dir { slot, path_len, attributes: None, opaque: false, real: false, lower: None }
    }
}

/// A walk along names and the symbolic links among them, held inside the root.
#[derive(Debug)]
pub(super) struct Way<'a> {
    /// The current directory of the walk.
    pub(super) at: DirId,
    /// The names that remain, the next name last.
    ahead: Vec<&'a [u8]>,
    /// The number of `..` among them.
    ups: usize,
    hops: u32,
}

impl<'a> Way<'a> {
    pub(super) fn new(from: DirId, components: &[&'a [u8]]) -> Self {
        Way { at: from, ahead: components.iter().rev().copied().collect(), ups: 0, hops: 0 }
    }

    /// Returns the next name to look up. `.` and `..` (from link targets) are handled here and not
    /// returned.
    pub(super) fn next_name(&mut self, tree: &NameTree<'_>) -> Option<&'a [u8]> {
        loop {
            match self.ahead.pop()? {
                b"" | b"." => {}
                b".." => {
                    self.ups = self.ups.saturating_sub(1);
                    self.at = tree.parent(self.at);
                }
                name => return Some(name),
            }
        }
    }

    /// Continues the walk at the target of a symbolic link. Returns `None` if a limit is exceeded.
    pub(super) fn follow(&mut self, root: DirId, target: &'a [u8], steps: &mut Steps) -> Option<()> {
        self.hops += 1;
        if self.hops > MAX_HOPS {
            return None;
        }
        if target.starts_with(b"/") {
            self.at = root;
        }
        for part in target.rsplit(|byte| *byte == b'/') {
            steps.left = steps.left.checked_sub(1)?;
            self.ups += usize::from(part == b"..");
            self.ahead.push(part);
        }
        Some(())
    }

    /// Cancels the last name against a later `..`, together with all names between them. Returns false when
    /// no remaining `..` belongs to that name, and `None` when too many names remain.
    ///
    /// Used for a name that is neither a directory nor a link: `missing/../d` is `d`, and `missing` is not
    /// made.
    pub(super) fn cancel(&mut self, steps: &mut Steps) -> Option<bool> {
        let (mut depth, mut ups) = (1_usize, 0);
        for (at, part) in self.ahead.iter().enumerate().rev() {
            if ups == self.ups {
                break;
            }
            steps.left = steps.left.checked_sub(1)?;
            match *part {
                b"" | b"." => {}
                b".." => (depth, ups) = (depth - 1, ups + 1),
                _ => depth += 1,
            }
            if depth == 0 {
                self.ahead.truncate(at);
                self.ups -= ups;
                return Some(true);
            }
        }
        Some(false)
    }
}

/// The number of path components that the links of one layer may still pass through.
///
/// 255 links of 4095 bytes are half a million components, and every entry of a layer could pass through
/// all of them. This limit keeps merging linear in the number of entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    left: u64,
}

impl Steps {
    /// Returns the limit for a layer of `count` entries: far more than any real layer uses, and enough for
    /// a few long paths in a small one.
    pub(super) fn for_entries(count: u32) -> Self {
        Steps { left: 65_536 + 64 * u64::from(count) }
    }
}

/// The kind of an object, as far as merging needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectKind {
    File,
    Directory,
    /// A directory without an entry; its layer is the layer that implied it.
    ImpliedDirectory,
    Symlink,
    Device,
    Fifo,
}

/// Any object that can have a name: the entries that describe it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) layer: LayerId,
    pub(super) kind: ObjectKind,
    /// The entry that holds its content, target or device number.
    pub(super) entry: EntryId,
    /// The entry that holds its mode, owner and time: for hard links, the last header (docs/semantics.md
    /// H1).
    pub(super) meta: EntryId,
    /// See [`Object::xattrs`]; [`NONE`] for none.
    xattrs: EntryId,
}

impl Object {
    /// Returns the entry that holds the object's extended attributes.
    pub(super) fn xattrs(&self) -> Option<EntryId> {
        (self.xattrs.0 != NONE).then_some(self.xattrs)
    }

    /// Takes the object's extended attributes from `entry`.
    pub(super) fn set_xattrs(&mut self, entry: EntryId) {
        self.xattrs = entry;
    }
}

/// The objects of all layers. Hard links share objects, across layers too.
#[derive(Debug)]
pub(super) struct Objects<'a> {
    pub(super) layers: &'a [Arc<LayerIndex>],
    list: Vec<Object>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(layers: &'a [Arc<LayerIndex>]) -> Self {
        let entries: usize = layers.iter().map(|index| index.entry_count() as usize).sum();
        let mut list = Vec::new();
        // Growing in steps leaves gaps in memory. A reservation that is too large does no harm: its pages
        // are never touched.
        let _ = list.try_reserve_exact(entries);
        Objects { layers, list }
    }

    /// Returns the number of objects, which are numbered from 0.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Adds the object that an entry describes.
    pub(super) fn add(&mut self, layer: LayerId, id: EntryId, entry: &Entry<'_>) -> Result<ObjectId> {
        let kind = match entry.kind {
            EntryKind::File(_) | EntryKind::Hardlink(_) => ObjectKind::File,
            EntryKind::Directory => ObjectKind::Directory,
            EntryKind::Symlink(_) => ObjectKind::Symlink,
            EntryKind::Char(_) | EntryKind::Block(_) => ObjectKind::Device,
            EntryKind::Fifo => ObjectKind::Fifo,
        };
        let xattrs = if entry.xattrs.is_empty() { EntryId(NONE) } else { id };
        self.push(Object { layer, kind, entry: id, meta: id, xattrs })
    }

    /// Adds a directory that has no entry.
    pub(super) fn add_implied(&mut self, layer: LayerId) -> Result<ObjectId> {
        let none = EntryId(NONE);
        let kind = ObjectKind::ImpliedDirectory;
        self.push(Object { layer, kind, entry: none, meta: none, xattrs: none })
    }

    fn push(&mut self, object: Object) -> Result<ObjectId> {
        let id = ObjectId(number(self.list.len())?);
        self.list.push(object);
        Ok(id)
    }

    /// Returns the target of a symbolic link; `None` for all other objects.
    pub(super) fn target(&self, id: ObjectId) -> Option<&'a [u8]> {
        let object = self[id];
        if object.kind != ObjectKind::Symlink {
            return None;
        }
        match self.entry(&object)?.kind {
            EntryKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Returns the entry that holds an object's content, target or device number.
    pub(super) fn entry(&self, object: &Object) -> Option<Entry<'a>> {
        self.layers.get(usize::from(object.layer.0))?.entry(object.entry)
    }
}

/// Returns the number of the next item of a list of `len` items, which stays below [`NONE`].
pub(super) fn number(len: usize) -> Result<u32> {
    let too_many = || Error::limit(Subject::MergedTree, "names and objects", len as u64, u64::from(NONE - 1));
    u32::try_from(len).ok().filter(|number| *number != NONE).ok_or_else(too_many)
}

// There is a slot and an object for nearly every file of an image, so their sizes matter.
const _: () = assert!(size_of::<Slot<'_>>() == 32 && size_of::<Object>() == 16);

macro_rules! indexed {
    ($id:ty, $list:ident, $item:ty, $owner:ty) => {
        impl<'a> Index<$id> for $owner {
            type Output = $item;
            fn index(&self, id: $id) -> &$item {
                &self.$list[id.0 as usize]
            }
        }
        impl<'a> IndexMut<$id> for $owner {
            fn index_mut(&mut self, id: $id) -> &mut $item {
                &mut self.$list[id.0 as usize]
            }
        }
    };
}
// Ids are made only in this file, one for each item, and no item is ever removed, so indexing cannot
// fail.
indexed!(SlotId, slots, Slot<'a>, NameTree<'a>);
indexed!(DirId, dirs, Dir, NameTree<'a>);
indexed!(ObjectId, list, Object, Objects<'a>);
