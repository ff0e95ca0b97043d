//! The finished tree, laid flat: [`Tables`] in which every directory's children lie side by side.
//!
//! Numbers follow from the tree alone: directories first, level by level and by name within a level, then
//! everything else in the order in which its first name comes up.

use super::over::Merged;
use super::tree::{DirId, Object, ObjectId, ObjectKind, Objects, Occupant, SlotId, Tree, number};
use crate::error::{Error, Result};
use crate::layer::LayerId;
use crate::layer::entry::{EntryKind, Meta};
use crate::rootfs::{Dentry, Directory, EntryAt, Inode, InodeId, InodeKind, Tables};

/// Mode of the root and of directories that no layer describes (semantics M4, M5).
const DEFAULT_DIRECTORY_MODE: u16 = 0o755;
/// Mode of every symbolic link (semantics M6).
const SYMLINK_MODE: u16 = 0o777;

/// Lays out the merged tree.
pub(super) fn flatten(merged: Merged<'_>) -> Result<Tables> {
    let Merged { tree, objects, root, seen, .. } = merged;
    drop(seen);
    let mut plan = Plan::of(tree)?;
    let mut inodes = vec![root_inode(root, &objects)];
    for attributes in plan.attributes.iter().skip(1) {
        let found = attributes.and_then(|attributes| inode(&objects[attributes], &objects));
        inodes.push(found.unwrap_or_else(|| directory_inode(LayerId(0), Meta::default())));
    }
    for directory in plan.directories.iter().skip(1) {
        if let Some(parent) = inodes.get_mut(directory.parent.0 as usize) {
            parent.nlink = parent.nlink.saturating_add(1);
        }
    }
    plan.number_objects(&objects, &mut inodes)?;
    inodes.shrink_to_fit();
    let Plan { directories, dentries, names, .. } = plan;
    Ok(Tables { inodes, directories, dentries, names })
}

/// The tables that do not depend on what the objects are.
struct Plan {
    directories: Vec<Directory>,
    dentries: Vec<Dentry>,
    names: Vec<u8>,
    /// Where each of `directories` has its attributes from.
    attributes: Vec<Option<ObjectId>>,
    /// What each of `dentries` leads to, where that is no directory.
    objects: Vec<Option<ObjectId>>,
}

impl Plan {
    fn of(tree: Tree<'_>) -> Result<Self> {
        let members = Members::of(&tree);
        let mut plan = Plan {
            directories: Vec::new(),
            dentries: Vec::with_capacity(members.slots.len()),
            names: Vec::new(),
            attributes: Vec::new(),
            objects: Vec::with_capacity(members.slots.len()),
        };
        // The queue is the list of all directories: each has its number by its place in it.
        let mut queue = vec![tree.root];
        plan.directories.push(Directory { children: 0, parent: InodeId(0), dentry: 0 });
        let mut next = 0;
        let mut sorted = Vec::new();
        while let Some(directory) = queue.get(next).copied() {
            if let Some(record) = plan.directories.get_mut(next) {
                record.children = number(plan.dentries.len())?;
            }
            plan.attributes.push(tree[directory].attributes);
            sorted.clear();
            sorted.extend_from_slice(members.of_directory(directory));
            sorted.sort_unstable_by_key(|slot| tree[*slot].name);
            for slot in sorted.iter().map(|slot| &tree[*slot]) {
                let dentry = number(plan.dentries.len())?;
                let name = names_offset(plan.names.len(), slot.name.len())?;
                plan.names.extend_from_slice(slot.name);
                let (inode, object) = match slot.occupant {
                    Occupant::Object(object) => (InodeId(0), Some(object)),
                    Occupant::Directory(below) => {
                        let (made, parent) = (number(queue.len())?, InodeId(number(next)?));
                        queue.push(below);
                        plan.directories.push(Directory { children: 0, parent, dentry });
                        (InodeId(made), None)
                    }
                    Occupant::Nothing | Occupant::Link(_) => continue,
                };
                plan.dentries.push(Dentry { name, inode });
                plan.objects.push(object);
            }
            next += 1;
        }
        plan.names.shrink_to_fit();
        Ok(plan)
    }

    /// Numbers what is no directory, and counts its names.
    fn number_objects(&mut self, objects: &Objects<'_>, inodes: &mut Vec<Inode>) -> Result<()> {
        let mut numbers: Vec<Option<InodeId>> = vec![None; objects.len()];
        for (dentry, object) in self.dentries.iter_mut().zip(&self.objects) {
            let Some(object) = *object else { continue };
            let id = match numbers[object.0 as usize] {
                Some(id) => id,
                None => {
                    let id = InodeId(number(inodes.len())?);
                    let found = inode(&objects[object], objects);
                    inodes.push(found.unwrap_or_else(|| directory_inode(LayerId(0), Meta::default())));
                    numbers[object.0 as usize] = Some(id);
                    id
                }
            };
            dentry.inode = id;
            if let Some(inode) = inodes.get_mut(id.0 as usize) {
                inode.nlink = inode.nlink.saturating_add(1);
            }
        }
        Ok(())
    }
}

/// The names in use, by directory.
struct Members {
    slots: Vec<SlotId>,
    /// For each directory where its slots begin, and one more for the end.
    starts: Vec<usize>,
}

impl Members {
    /// A counting sort: all slots of all directories in two passes.
    fn of(tree: &Tree<'_>) -> Self {
        let in_use = || {
            tree.slot_ids()
                .filter(|slot| matches!(tree[*slot].occupant, Occupant::Object(_) | Occupant::Directory(_)))
        };
        let mut starts = vec![0; tree.dirs.len() + 1];
        for slot in in_use() {
            starts[tree[slot].directory.at() + 1] += 1;
        }
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        let mut slots = vec![SlotId(0); total];
        let mut free = starts.clone();
        for slot in in_use() {
            let place = &mut free[tree[slot].directory.at()];
            slots[*place] = slot;
            *place += 1;
        }
        Members { slots, starts }
    }

    fn of_directory(&self, directory: DirId) -> &[SlotId] {
        &self.slots[self.starts[directory.at()]..self.starts[directory.at() + 1]]
    }
}

fn names_offset(offset: usize, len: usize) -> Result<u32> {
    let end = offset as u64 + len as u64;
    let fits = u32::try_from(end).and_then(|_| u32::try_from(offset));
    fits.map_err(|_| Error::Limit {
        what: "merged rootfs".to_owned(),
        limit: "bytes of names",
        value: end,
        max: u64::from(u32::MAX),
    })
}

/// The root looks the same in every image, except for its time (semantics M5).
pub(super) fn root_inode(at: Option<EntryAt>, objects: &Objects<'_>) -> Inode {
    let entry = at.and_then(|at| objects.layers.get(usize::from(at.layer.0))?.entry(at.entry));
    let meta = Meta { mtime: entry.map(|entry| entry.meta.mtime).unwrap_or_default(), ..Meta::default() };
    let mode = DEFAULT_DIRECTORY_MODE;
    directory_inode(at.map_or(LayerId(0), |at| at.layer), Meta { mode, ..meta })
}

fn directory_inode(layer: LayerId, meta: Meta) -> Inode {
    Inode { kind: InodeKind::Directory, meta, nlink: 2, layer, xattrs: None }
}

/// What an object's entries say of it; `None` if the layer index does not have them.
pub(super) fn inode(object: &Object, objects: &Objects<'_>) -> Option<Inode> {
    let layer = object.layer;
    if object.kind == ObjectKind::ImpliedDirectory {
        let meta = Meta { mode: DEFAULT_DIRECTORY_MODE, ..Meta::default() };
        return Some(directory_inode(layer, meta));
    }
    let index = objects.layers.get(usize::from(layer.0))?;
    let entry = index.entry(object.entry)?;
    let mut meta = if object.meta == object.entry { entry.meta } else { index.entry(object.meta)?.meta };
    let at = EntryAt { layer, entry: object.entry };
    let kind = match entry.kind {
        EntryKind::File(_) => InodeKind::File(at),
        EntryKind::Directory => InodeKind::Directory,
        EntryKind::Symlink(_) => InodeKind::Symlink(at),
        EntryKind::Char(device) => InodeKind::Char(device),
        EntryKind::Block(device) => InodeKind::Block(device),
        EntryKind::Fifo => InodeKind::Fifo,
        EntryKind::Hardlink(_) => return None,
    };
    if matches!(kind, InodeKind::Symlink(_)) {
        meta.mode = SYMLINK_MODE;
    }
    let nlink = if kind == InodeKind::Directory { 2 } else { 0 };
    let xattrs = object.xattrs.map(|entry| EntryAt { layer, entry });
    Some(Inode { kind, meta, nlink, layer, xattrs })
}
