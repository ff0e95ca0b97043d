//! Names while layers are merged: one [`NameTree`] for what a single layer says, one for all layers so far.
//!
//! A [`Slot`] is a name in a directory, whether or not something is there at the moment; nothing is
//! ever removed. A directory that is replaced or emptied gives its slot another [`DirId`], so that
//! what was below is out of reach at once, however much it was. The slots of a directory always
//! follow the slot of the directory itself: one pass over all slots in order goes parents first,
//! without recursion.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::names::Names;
use crate::error::{Error, Result, Subject};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::table::LayerIndex;
use crate::layer::{EntryId, LayerId};

/// The most symbolic links on the way to an entry's parent: as containerd's continuity and umoci do
/// (docs/semantics.md N2).
const MAX_HOPS: u32 = 255;

/// In the place of a number: there is none. Lists stay below it, see [`number`]; layers have fewer entries.
pub(super) const NONE: u32 = u32::MAX;

/// A directory of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirId(pub(super) u32);

/// A name of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotId(pub(super) u32);

/// Anything that can have a name, of all layers.
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
    /// Only while a layer is read.
    Link(LinkId),
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    pub(super) name: &'a [u8],
    pub(super) directory: DirId,
    /// The number of the occupant, whatever it is. There are as many slots as names, and apart from each other,
    /// number and kind leave them small.
    occupant: u32,
    /// See [`Slot::whiteout`]; [`NONE`] for none.
    whiteout: u32,
    kind: OccupantKind,
    /// The whiteout came when this layer had something here already (docs/semantics.md W5).
    pub(super) late: bool,
    /// The directory here was made by its own entry after the whiteout (docs/semantics.md W3).
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

    /// The entry that deletes what lower layers have here.
    pub(super) fn whiteout(&self) -> Option<EntryId> {
        (self.whiteout != NONE).then_some(EntryId(self.whiteout))
    }

    /// Deletes what lower layers have here. True if that was so before.
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
    /// Its name; the root has none.
    pub(super) slot: Option<SlotId>,
    /// The length of its path in bytes; the root's is 0.
    pub(super) path_len: usize,
    /// Where mode, owner, time and attributes are from; `None` until an entry says it.
    pub(super) attributes: Option<ObjectId>,
    /// Hides everything below it in lower layers.
    pub(super) opaque: bool,
    /// It, or something below it, is more than a whiteout.
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
    /// Its place in a list with one item for each directory.
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

    /// Makes room for `names` in all: growing bit by bit hashes every name several times.
    pub(super) fn expect(&mut self, names: usize) {
        let more = names.saturating_sub(self.slots.len());
        self.slots.reserve(more);
        self.names.reserve(more);
    }

    /// Frees what finding slots by name takes.
    pub(super) fn forget_names(&mut self) {
        self.names = Names::default();
    }

    /// The slot of a name, made if it is not there.
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

    /// The slot of a name, if it was ever used.
    pub(super) fn known(&self, directory: DirId, name: &[u8]) -> Option<SlotId> {
        self.names.find(self.names.hash(directory, name), |slot| self[slot].is(directory, name))
    }

    /// What a name stands for.
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

    /// Puts a new, empty directory in the place of the root.
    pub(super) fn replace_root(&mut self) -> Result<()> {
        let root = DirId(number(self.dirs.len())?);
        self.dirs.push(Dir::empty(None, 0));
        self.root = root;
        Ok(())
    }

    /// The slot that a cleaned path leads to, the last component not followed. `follow` says which
    /// link to follow where this tree has nothing.
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

    /// Goes a way to its end; `None` where it does not lead to a directory.
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

    /// All slots, those of a directory after that of the directory itself.
    pub(super) fn slot_ids(&self) -> impl Iterator<Item = SlotId> + use<> {
        (0..u32::MAX).map(SlotId).take(self.slots.len())
    }

    /// The directory that holds a directory; the root's is the root.
    pub(super) fn parent(&self, directory: DirId) -> DirId {
        self[directory].slot.map_or(self.root, |slot| self[slot].directory)
    }

    /// The path of a slot, without a leading slash.
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

/// Where [`NameTree::find`] arrived.
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
    /// The directory that the walk is in.
    pub(super) at: DirId,
    /// The names still to go, the next one last.
    ahead: Vec<&'a [u8]>,
    /// How many of them are `..`.
    ups: usize,
    hops: u32,
}

impl<'a> Way<'a> {
    pub(super) fn new(from: DirId, components: &[&'a [u8]]) -> Self {
        Way { at: from, ahead: components.iter().rev().copied().collect(), ups: 0, hops: 0 }
    }

    /// The next name to look up; `.` and `..` (of link targets) are gone already.
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

    /// Goes where a symbolic link leads; `None` when that is too far.
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
    /// no `..` ahead belongs to that name, and `None` when too many names are ahead.
    ///
    /// For a name that is neither a directory nor a link: `missing/../d` is `d`, and `missing` is not made.
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

/// How far the links of one layer may still lead, in path components.
///
/// 255 links of 4095 bytes are half a million components, and every entry of a layer could run
/// through all of them; this keeps merging linear in the number of entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    left: u64,
}

impl Steps {
    /// Far more than any real layer takes for each entry, and enough for a few long ways in a small one.
    pub(super) fn for_entries(count: u32) -> Self {
        Steps { left: 65_536 + 64 * u64::from(count) }
    }
}

/// What an object is, as far as merging cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectKind {
    File,
    Directory,
    /// A directory that no entry tells of; its layer is the one that implied it.
    ImpliedDirectory,
    Symlink,
    Device,
    Fifo,
}

/// Anything that can have a name: which entries say what it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) layer: LayerId,
    pub(super) kind: ObjectKind,
    /// The entry that holds its content, target or device number.
    pub(super) entry: EntryId,
    /// The entry that holds its mode, owner and time: for hard links, the last header (docs/semantics.md H1).
    pub(super) meta: EntryId,
    /// See [`Object::xattrs`]; [`NONE`] for none.
    xattrs: EntryId,
}

impl Object {
    /// The entry that holds its extended attributes.
    pub(super) fn xattrs(&self) -> Option<EntryId> {
        (self.xattrs.0 != NONE).then_some(self.xattrs)
    }

    /// Gives it the attributes of an entry.
    pub(super) fn set_xattrs(&mut self, entry: EntryId) {
        self.xattrs = entry;
    }
}

/// The objects of all layers; hard links share them, across layers too.
#[derive(Debug)]
pub(super) struct Objects<'a> {
    pub(super) layers: &'a [Arc<LayerIndex>],
    list: Vec<Object>,
}

impl<'a> Objects<'a> {
    pub(super) fn new(layers: &'a [Arc<LayerIndex>]) -> Self {
        let entries: usize = layers.iter().map(|index| index.entry_count() as usize).sum();
        let mut list = Vec::new();
        // Growing bit by bit leaves gaps behind. Too much does no harm: nobody touches it.
        let _ = list.try_reserve_exact(entries);
        Objects { layers, list }
    }

    /// How many objects there are; they are numbered from 0.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Adds what an entry describes.
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

    /// Adds a directory that no entry tells of.
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

    /// Where a symbolic link leads; `None` for everything else.
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

    /// The entry that holds an object's content, target or device number.
    pub(super) fn entry(&self, object: &Object) -> Option<Entry<'a>> {
        self.layers.get(usize::from(object.layer.0))?.entry(object.entry)
    }
}

/// The number of the next of a list, which stays below [`NONE`].
pub(super) fn number(len: usize) -> Result<u32> {
    let too_many = || Error::limit(Subject::MergedTree, "names and objects", len as u64, u64::from(NONE - 1));
    u32::try_from(len).ok().filter(|number| *number != NONE).ok_or_else(too_many)
}

// There is one for nearly every file of an image.
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
// Ids are made here only, one for each item, and nothing is ever removed.
indexed!(SlotId, slots, Slot<'a>, NameTree<'a>);
indexed!(DirId, dirs, Dir, NameTree<'a>);
indexed!(ObjectId, list, Object, Objects<'a>);
