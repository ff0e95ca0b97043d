//! Lays out the finished tree as [`Tables`], in which the children of each directory are adjacent.
//!
//! This module owns inode numbers. They follow from the tree alone: directories come first, level by
//! level and by name within a level; all other inodes follow in the order in which their first names
//! occur.

use super::over::Merged;
use super::tree::{DirId, NONE, NameTree, Object, ObjectId, ObjectKind, Objects, Occupant, SlotId, number};
use crate::error::{Error, Result, Subject};
use crate::layer::entry::EntryKind;
use crate::layer::{EntryId, LayerId};
use crate::rootfs::tables::{Dentry, Directory, ForeignEntries, InodeRecord, Parts, RecordKind, Tables};
use crate::rootfs::{EntryAt, InodeId, Origin};

/// Lays out the merged tree. `warnings` are in the stored form (`stored::pack_warnings`).
pub(super) fn flatten(merged: Merged<'_>, warnings: Vec<u8>) -> Result<Tables> {
    let Merged { mut tree, objects, root, seen, .. } = merged;
    drop(seen);
    tree.forget_names();
    let mut plan = Plan::of(tree)?;
    plan.parts.warnings = warnings;
    plan.number_directories(root, &objects);
    plan.number_objects(&objects)?;
    Ok(Tables::build(plan.parts))
}

/// The tables while they are built.
#[derive(Default)]
struct Plan {
    parts: Parts,
    /// The object that each directory takes its attributes from.
    attributes: Vec<Option<ObjectId>>,
    /// The object that each dentry leads to; [`NONE`] where the dentry leads to a directory.
    objects: Vec<u32>,
}

impl Plan {
    /// Lays out directories and names: everything that does not depend on the kinds of objects.
    fn of(tree: NameTree<'_>) -> Result<Self> {
        let members = Members::of(&tree);
        let mut plan = Plan::default();
        let parts = &mut plan.parts;
        parts.dentries.reserve_exact(members.slots.len());
        plan.objects.reserve_exact(members.slots.len());
        parts.names.reserve_exact(members.slots.iter().map(|slot| tree[*slot].name.len()).sum());
        // The queue is also the list of all directories: a directory's number is its position in the queue.
        let mut queue = vec![tree.root];
        parts.directories.push(Directory { children: 0, parent: InodeId(0), dentry: 0 });
        let mut next = 0;
        let mut sorted = Vec::new();
        while let Some(directory) = queue.get(next).copied() {
            if let Some(record) = parts.directories.get_mut(next) {
                record.children = number(parts.dentries.len())?;
            }
            plan.attributes.push(tree[directory].attributes);
            sorted.clear();
            sorted.extend_from_slice(members.of_directory(directory));
            sorted.sort_unstable_by_key(|slot| tree[*slot].name);
            for slot in sorted.iter().map(|slot| &tree[*slot]) {
                let dentry = number(parts.dentries.len())?;
                let name = names_offset(parts.names.len(), slot.name.len())?;
                parts.names.extend_from_slice(slot.name);
                let (inode, object) = match slot.occupant() {
                    Occupant::Object(object) => (InodeId(0), object.0),
                    Occupant::Directory(below) => {
                        let (made, parent) = (number(queue.len())?, InodeId(number(next)?));
                        queue.push(below);
                        parts.directories.push(Directory { children: 0, parent, dentry });
                        (InodeId(made), NONE)
                    }
                    Occupant::Nothing | Occupant::Link(_) => continue,
                };
                parts.dentries.push(Dentry { name, inode });
                plan.objects.push(object);
            }
            next += 1;
        }
        Ok(plan)
    }

    fn number_directories(&mut self, root: Option<EntryAt>, objects: &Objects<'_>) {
        let Parts { inodes, foreign_entries, directories, dentries, .. } = &mut self.parts;
        // Nearly every name has its own inode.
        inodes.reserve_exact(dentries.len() + 1);
        inodes.push(root_record(root));
        for attributes in self.attributes.iter().skip(1) {
            let object = attributes.map(|attributes| &objects[attributes]);
            push_inode(
                object
                    .map_or_else(|| (implied_directory(LayerId(0)), None), |object| record(object, objects)),
                inodes,
                foreign_entries,
            );
        }
        for directory in directories.iter().skip(1) {
            if let Some(parent) = inodes.get_mut(directory.parent.0 as usize) {
                parent.nlink = parent.nlink.saturating_add(1);
            }
        }
    }

    /// Numbers all inodes except directories, and counts their names.
    fn number_objects(&mut self, objects: &Objects<'_>) -> Result<()> {
        let Parts { inodes, foreign_entries, dentries, .. } = &mut self.parts;
        let mut numbers = vec![NONE; objects.len()];
        for (dentry, object) in dentries.iter_mut().zip(std::mem::take(&mut self.objects)) {
            if object == NONE {
                continue;
            }
            let known = &mut numbers[object as usize];
            if *known == NONE {
                *known = number(inodes.len())?;
                push_inode(record(&objects[ObjectId(object)], objects), inodes, foreign_entries);
            }
            dentry.inode = InodeId(*known);
            if let Some(inode) = inodes.get_mut(*known as usize) {
                inode.nlink = inode.nlink.saturating_add(1);
            }
        }
        Ok(())
    }
}

fn push_inode(
    (record, foreign): (InodeRecord, Option<(EntryId, EntryId)>),
    inodes: &mut Vec<InodeRecord>,
    foreign_entries: &mut Vec<ForeignEntries>,
) {
    // Lists stay below 2^32: every caller of this function has checked the number.
    let inode = InodeId(u32::try_from(inodes.len()).unwrap_or(NONE));
    foreign_entries.extend(foreign.map(|(meta, xattrs)| ForeignEntries { inode, meta, xattrs }));
    inodes.push(record);
}

/// The names in use, grouped by directory.
struct Members {
    slots: Vec<SlotId>,
    /// For each directory the index of its first slot, followed by the end of the last directory's slots.
    starts: Vec<usize>,
}

impl Members {
    /// Groups the slots of all directories by a counting sort, in two passes.
    fn of(tree: &NameTree<'_>) -> Self {
        let in_use = || {
            tree.slot_ids()
                .filter(|slot| matches!(tree[*slot].occupant(), Occupant::Object(_) | Occupant::Directory(_)))
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
    fits.map_err(|_| Error::limit(Subject::MergedTree, "bytes of names", end, u64::from(u32::MAX)))
}

/// Returns the record of the root, which is the same in every image, except for its time
/// (docs/semantics.md M5).
fn root_record(at: Option<EntryAt>) -> InodeRecord {
    match at {
        Some(EntryAt { layer, entry }) => {
            InodeRecord { kind: RecordKind::Root, entry, ..implied_directory(layer) }
        }
        None => implied_directory(LayerId(0)),
    }
}

fn implied_directory(layer: LayerId) -> InodeRecord {
    let (kind, entry) = (RecordKind::ImpliedDirectory, EntryId(NONE));
    InodeRecord { kind, layer, entry, nlink: 2, has_xattrs: false, has_foreign: false }
}

/// Returns the record of an object without names, and the entries other than its own that describe it:
/// the entry of mode, owner and time, and the entry of extended attributes.
fn record(object: &Object, objects: &Objects<'_>) -> (InodeRecord, Option<(EntryId, EntryId)>) {
    let Object { layer, entry, meta, .. } = *object;
    let xattrs = object.xattrs();
    let kind = match object.kind {
        ObjectKind::File => RecordKind::File,
        ObjectKind::Directory => RecordKind::Directory,
        ObjectKind::Symlink => RecordKind::Symlink,
        ObjectKind::Fifo => RecordKind::Fifo,
        ObjectKind::ImpliedDirectory => return (implied_directory(layer), None),
        ObjectKind::Device => match objects.entry(object).map(|entry| entry.kind) {
            Some(EntryKind::Block(_)) => RecordKind::Block,
            _ => RecordKind::Char,
        },
    };
    let nlink = if kind == RecordKind::Directory { 2 } else { 0 };
    let has_foreign = meta != entry || xattrs.is_some_and(|xattrs| xattrs != entry);
    let record = InodeRecord { kind, layer, entry, nlink, has_xattrs: xattrs.is_some(), has_foreign };
    (record, has_foreign.then(|| (meta, xattrs.unwrap_or(entry))))
}

/// Returns the entries that describe the root.
pub(super) fn root_origin(at: Option<EntryAt>) -> Origin {
    origin_of((root_record(at), None))
}

/// Returns the entries that describe an object.
pub(super) fn origin(object: &Object, objects: &Objects<'_>) -> Origin {
    origin_of(record(object, objects))
}

fn origin_of((record, foreign): (InodeRecord, Option<(EntryId, EntryId)>)) -> Origin {
    let InodeRecord { kind, layer, entry, has_xattrs, .. } = record;
    let (meta, xattrs) = foreign.unwrap_or((entry, entry));
    Origin { kind, layer, entry, meta, xattrs: has_xattrs.then_some(xattrs) }
}
