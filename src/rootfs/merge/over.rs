//! Lays the tree of one layer over the merged tree of all layers below it.
//!
//! This module makes two passes over the layer's slots. The first only reads the layers below: it finds
//! the directory that each implied directory takes its attributes from. The second changes the merged
//! tree. In a single pass, the results of the first part would depend on which changes the second had
//! made already.

use std::collections::HashMap;
use std::sync::Arc;

use super::own::{Own, is_aufs};
use super::replay::Touches;
use super::tree::{
    Dir, DirId, NameTree, ObjectId, ObjectKind, Objects, Occupant, Slot, SlotId, Steps, Way, number,
};
use super::{Account, EntryAt, MergeOptions, Semantics};
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::Warnings;
use crate::warning::WarningKind;

/// The layers merged so far, as one tree.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    pub(super) tree: NameTree<'a>,
    pub(super) objects: Objects<'a>,
    /// The topmost directory entry for the root.
    pub(super) root: Option<EntryAt>,
    /// The object of a directory in one layer's own tree, for each layer that has the directory.
    pub(super) seen: HashMap<(DirId, LayerId), ObjectId>,
    pub(super) account: Account,
    /// The names that the topmost layer changes; `None` if changes are not recorded.
    pub(super) touched: Option<Touches<'a>>,
}

/// Where implied directories at and below a directory take their attributes from.
#[derive(Debug, Clone, Copy, Default)]
struct AttributeSource {
    /// The directory in the layers below.
    directory: Option<DirId>,
    /// Set if the directory was found through a symbolic link of this layer: then only attributes from that
    /// layer are used.
    only: Option<LayerId>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(layers: &'a [Arc<LayerIndex>], warnings: Warnings) -> Self {
        let (tree, objects) = (NameTree::new(), Objects::new(layers));
        let account = Account { warnings, ..Account::default() };
        Merged { tree, objects, root: None, seen: HashMap::new(), account, touched: None }
    }

    /// Makes `own` the topmost layer, with warnings about entries that runtimes would have refused or hidden.
    pub(super) fn lay_over(
        &mut self,
        mut own: Own<'a>,
        layer: LayerId,
        options: &MergeOptions,
    ) -> Result<()> {
        if let Some(entry) = own.root {
            self.root = Some(EntryAt { layer, entry });
        }
        self.tree.expect(own.tree.slots.len());
        self.dress(&mut own.tree, layer, options)?;
        self.apply(&own.tree, layer, options)
    }

    /// Gives implied directories their attributes from lower layers (docs/semantics.md M1, M2, M4). As in
    /// containerd, the layers below count even where this layer's opaque marks hide them.
    fn dress(&mut self, own: &mut NameTree<'a>, layer: LayerId, options: &MergeOptions) -> Result<()> {
        let mut sources = vec![AttributeSource::default(); own.dirs.len()];
        sources[own.root.at()] = AttributeSource { directory: Some(self.tree.root), only: None };
        let mut steps = Steps::for_entries(number(own.dirs.len())?);
        for at in own.slot_ids() {
            let slot = &own[at];
            let Occupant::Directory(dir) = slot.occupant() else { continue };
            let source = match sources[slot.directory.at()] {
                AttributeSource { directory: Some(above), only } if !hides(slot, options) => {
                    self.source(above, only, slot.name, &mut steps)
                }
                _ => AttributeSource::default(),
            };
            sources[dir.at()] = source;
            if own[dir].attributes.is_none() {
                let attributes = match self.attributes(source) {
                    Some(attributes) => attributes,
                    None => self.objects.add_implied(layer)?,
                };
                own[dir].attributes = Some(attributes);
            }
        }
        Ok(())
    }

    /// Returns the source of a child's attributes, given the source of its parent's attributes.
    fn source(&self, above: DirId, only: Option<LayerId>, name: &[u8], steps: &mut Steps) -> AttributeSource {
        match self.tree.occupant(above, name) {
            Occupant::Directory(directory) => AttributeSource { directory: Some(directory), only },
            Occupant::Object(link) => self.source_through(link, above, only, steps).unwrap_or_default(),
            Occupant::Nothing | Occupant::Link(_) => AttributeSource::default(),
        }
    }

    /// Follows a symbolic link as containerd does, which looks into each lower layer alone: a link counts
    /// only if its target is in the same layer.
    fn source_through(
        &self,
        link: ObjectId,
        above: DirId,
        only: Option<LayerId>,
        steps: &mut Steps,
    ) -> Option<AttributeSource> {
        let layer = self.objects[link].layer;
        if only.is_some_and(|only| only != layer) {
            return None;
        }
        let mut way = Way::new(above, &[]);
        way.follow(self.tree.root, self.objects.target(link)?, steps)?;
        self.tree.walk(&mut way, &self.objects, steps, |_, _| None)?;
        Some(AttributeSource { directory: Some(way.at), only: Some(layer) })
    }

    fn attributes(&self, source: AttributeSource) -> Option<ObjectId> {
        match source.only {
            None => self.tree[source.directory?].attributes,
            Some(layer) => self.seen.get(&(source.directory?, layer)).copied(),
        }
    }

    /// Changes the merged tree, parents first.
    fn apply(&mut self, own: &NameTree<'a>, layer: LayerId, options: &MergeOptions) -> Result<()> {
        if own[own.root].opaque {
            self.tree.replace_root()?;
        }
        let mut into = vec![None; own.dirs.len()];
        into[own.root.at()] = Some(self.tree.root);
        let index = self.objects.layers.get(usize::from(layer.0)).map(Arc::as_ref);
        let mut noticed =
            LayerWarnings { index, layer, warnings: std::mem::take(&mut self.account.warnings) };
        for at in own.slot_ids() {
            let slot = &own[at];
            let Some(directory) = into[slot.directory.at()] else { continue };
            let hidden = options.semantics != Semantics::Literal && slot.directory == own.root;
            if hidden && is_aufs(slot.name) {
                continue;
            }
            self.record(directory, slot, own);
            match slot.occupant() {
                Occupant::Directory(dir) if slot.whiteout().is_none() || own[dir].real => {
                    let there = self.tree.slot(directory, slot.name)?;
                    noticed.of_directory(self, own, at, there, options);
                    into[dir.at()] = Some(self.apply_directory(&own[dir], slot, there, layer, options)?);
                }
                Occupant::Object(_) => {
                    let there = self.tree.slot(directory, slot.name)?;
                    self.tree[there].put(slot.occupant());
                    noticed.of_object(slot);
                }
                Occupant::Directory(_) => {
                    self.vacate(directory, slot.name);
                    noticed.of_whiteout(slot, WarningKind::WhiteoutBelowWhiteout);
                }
                Occupant::Nothing | Occupant::Link(_) if slot.whiteout().is_some() => {
                    self.vacate(directory, slot.name);
                }
                Occupant::Nothing | Occupant::Link(_) => {}
            }
        }
        self.account.warnings = noticed.warnings;
        Ok(())
    }

    /// Merges a directory with the lower directory of that path, or makes a new one there: if there is no
    /// lower directory, or if an opaque mark or a whiteout hides its contents.
    fn apply_directory(
        &mut self,
        dir: &Dir,
        slot: &Slot<'a>,
        there: SlotId,
        layer: LayerId,
        options: &MergeOptions,
    ) -> Result<DirId> {
        let merged = match self.tree[there].occupant() {
            Occupant::Directory(below) if !dir.opaque && !hides(slot, options) => below,
            _ => self.tree.make_directory(there)?,
        };
        self.tree[merged].attributes = dir.attributes;
        if let Some(attributes) = dir.attributes {
            self.seen.insert((merged, layer), attributes);
        }
        Ok(merged)
    }

    fn record(&mut self, directory: DirId, slot: &Slot<'a>, own: &NameTree<'a>) {
        if let Some(touched) = &mut self.touched {
            let dir = match slot.occupant() {
                Occupant::Directory(dir) => Some(&own[dir]),
                _ => None,
            };
            touched.add(&self.tree, directory, slot, dir);
        }
    }

    fn vacate(&mut self, directory: DirId, name: &[u8]) {
        if let Some(slot) = self.tree.known(directory, name) {
            self.tree[slot].put(Occupant::Nothing);
        }
    }
}

/// Whether the whiteout of a slot hides the contents that lower layers have below a directory of this
/// layer. Runtimes ignore a whiteout if the directory's own entry comes after it (W3).
fn hides(slot: &Slot<'_>, options: &MergeOptions) -> bool {
    let undone = slot.remade && !slot.late && options.semantics == Semantics::Runtime;
    slot.whiteout().is_some() && !undone
}

/// Collects the warnings of laying a layer over the others.
struct LayerWarnings<'a> {
    index: Option<&'a LayerIndex>,
    layer: LayerId,
    warnings: Warnings,
}

impl LayerWarnings<'_> {
    /// Warns about a directory. `there` is the state in the layers below, before the change.
    fn of_directory(
        &mut self,
        merged: &Merged<'_>,
        own: &NameTree<'_>,
        at: SlotId,
        there: SlotId,
        options: &MergeOptions,
    ) {
        let slot = &own[at];
        let Occupant::Directory(dir) = slot.occupant() else { return };
        let below = merged.tree[there].occupant();
        if slot.late {
            self.of_whiteout(slot, WarningKind::LateWhiteout);
        } else if slot.whiteout().is_some() && !slot.remade {
            self.of_whiteout(slot, WarningKind::ImpliedAfterWhiteout);
        } else if slot.whiteout().is_some()
            && !hides(slot, options)
            && !own[dir].opaque
            && matches!(below, Occupant::Directory(_))
        {
            self.of_whiteout(slot, WarningKind::DirectoryRemade);
        }
        let replaces_link = match below {
            Occupant::Object(object) => merged.objects[object].kind == ObjectKind::Symlink,
            _ => false,
        };
        if replaces_link && slot.whiteout().is_none() && self.is_implied(merged, &own[dir]) {
            let (kind, len) = (WarningKind::DirectoryReplacesLink, own[dir].path_len.saturating_sub(1));
            self.warnings.add(self.layer, kind, len, || own.path(at));
        }
    }

    fn is_implied(&self, merged: &Merged<'_>, dir: &Dir) -> bool {
        dir.attributes.is_none_or(|attributes| {
            let attributes = merged.objects[attributes];
            attributes.kind == ObjectKind::ImpliedDirectory || attributes.layer != self.layer
        })
    }

    fn of_object(&mut self, slot: &Slot<'_>) {
        if slot.late {
            self.of_whiteout(slot, WarningKind::LateWhiteout);
        }
    }

    /// Warns about a whiteout, by its name in the tar.
    fn of_whiteout(&mut self, slot: &Slot<'_>, kind: WarningKind) {
        let entry = slot.whiteout().and_then(|entry| self.index?.entry(entry));
        let name = entry.map_or(&[][..], |entry| entry.name);
        self.warnings.add(self.layer, kind, name.len(), || name.to_vec());
    }
}
