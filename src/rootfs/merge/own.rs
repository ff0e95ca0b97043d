//! Builds the tree of one layer from its entries, read in tar order, before the layer is merged.
//!
//! Whiteouts and opaque marks are recorded here and delete nothing: they affect lower layers only,
//! whatever their position in the tar. Lower layers are read for two purposes only: a hard link may
//! have its target there, and with `follow_dirlinks` a parent may be one of their symbolic links.

use super::links::Link;
use super::tree::{
    DirId, FoundAt, LinkId, NameTree, ObjectId, ObjectKind, Objects, Occupant, SlotId, Steps, Way, number,
};
use super::{Account, Fault, MergeOptions, Semantics};
use crate::error::{Error, Result, Subject};
use crate::layer::entry::{DeviceNumber, Entry, EntryKind};
use crate::layer::table::LayerIndex;
use crate::layer::xattr::{Holder, is_held};
use crate::layer::{EntryId, LayerId};
use crate::path::{Cleaned, MAX_COMPONENT_BYTES, MAX_LINK_TARGET_BYTES, MAX_PATH_BYTES, clean};
use crate::warning::WarningKind;

/// Prefix of the name of a whiteout; the rest is the deleted name (OCI image-spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// Name of the file that makes its directory opaque (OCI image-spec, layer.md).
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of the names of aufs' own files at the root of a layer.
const AUFS: &[u8] = b".wh..wh.";

/// A layer's own tree.
#[derive(Debug)]
pub(super) struct Own<'a> {
    pub(super) tree: NameTree<'a>,
    pub(super) links: Vec<Link<'a>>,
    /// The last directory entry for the root.
    pub(super) root: Option<EntryId>,
}

/// Whether a name at the root of a layer belongs to aufs and is hidden (docs/semantics.md W15).
pub(super) fn is_aufs(name: &[u8]) -> bool {
    name.starts_with(AUFS) && name != OPAQUE
}

/// What the last component of an entry's name makes of the entry.
enum Role<'a> {
    Entry(&'a [u8]),
    Whiteout(&'a [u8]),
    Opaque,
}

/// The directory of the previous entry, which most often also holds the next entry.
struct Recent<'a> {
    name: &'a [u8],
    directory: DirId,
    aufs: bool,
}

/// The place of an entry in the tree.
struct Position<'a> {
    parents: Parents<'a>,
    base: &'a [u8],
    /// The entry is one of aufs' own files, or is below one.
    aufs: bool,
}

enum Parents<'a> {
    Known(DirId),
    Named { components: Vec<&'a [u8]>, escaped: bool },
}

/// Reads one layer.
pub(super) struct LayerMerge<'a, 'm> {
    pub(super) layer: LayerId,
    pub(super) options: &'m MergeOptions,
    /// The merged tree of all layers below.
    pub(super) lower: &'m NameTree<'a>,
    pub(super) objects: &'m mut Objects<'a>,
    account: &'m mut Account,
    pub(super) own: Own<'a>,
    pub(super) steps: Steps,
    recent: Option<Recent<'a>>,
    /// The name of the entry that is being read.
    current: &'a [u8],
}

impl<'a, 'm> LayerMerge<'a, 'm> {
    pub(super) fn new(
        (layer, entries): (LayerId, u32),
        options: &'m MergeOptions,
        lower: &'m NameTree<'a>,
        objects: &'m mut Objects<'a>,
        account: &'m mut Account,
    ) -> Self {
        let mut tree = NameTree::new();
        tree.expect(entries as usize);
        let root = tree.root;
        tree[root].lower = Some(lower.root);
        let own = Own { tree, links: Vec::new(), root: None };
        let steps = Steps::for_entries(entries);
        LayerMerge { layer, options, lower, objects, account, own, steps, recent: None, current: b"" }
    }

    /// Reads all entries, then binds the hard links that had to wait.
    pub(super) fn read(mut self, index: &'a LayerIndex) -> Result<Own<'a>> {
        for (id, entry) in index.sweep() {
            self.current = entry.name;
            match self.entry(id, &entry) {
                Ok(()) => {}
                Err(Fault::LeftOut(kind)) => self.warn(kind),
                Err(Fault::Fatal(error)) => return Err(error),
            }
        }
        self.bind_links();
        Ok(self.own)
    }

    pub(super) fn warn(&mut self, kind: WarningKind) {
        self.warn_at(kind, self.current);
    }

    pub(super) fn warn_at(&mut self, kind: WarningKind, name: &[u8]) {
        self.account.warnings.add(self.layer, kind, name.len(), || name.to_vec());
    }

    fn entry(&mut self, id: EntryId, entry: &Entry<'a>) -> Result<(), Fault> {
        let Some(position) = self.position(entry.name) else {
            if entry.kind == EntryKind::Directory {
                self.own.root = Some(id);
            }
            return Ok(());
        };
        let literal = self.options.semantics == Semantics::Literal;
        let role = if literal { Role::Entry(position.base) } else { role(position.base, position.aufs)? };
        check_lengths(&position, &role, &entry.kind)?;
        let directory = match position.parents {
            Parents::Known(directory) => directory,
            Parents::Named { components, escaped } => {
                let directory = self.enter(&components)?;
                // Each escaping name gets its own warning, and lower links are not looked up again.
                if !escaped && !components.is_empty() && !self.options.follow_dirlinks {
                    self.recent =
                        split(entry.name).map(|(name, _)| Recent { name, directory, aufs: position.aufs });
                }
                directory
            }
        };
        match role {
            Role::Opaque => self.opaque(directory),
            Role::Whiteout(name) => self.whiteout(directory, name, id)?,
            Role::Entry(name) => self.put(directory, name, id, entry)?,
        }
        Ok(())
    }

    /// Returns the place of an entry; `None` for the root.
    fn position(&mut self, name: &'a [u8]) -> Option<Position<'a>> {
        if let (Some(recent), Some((parent, base))) = (&self.recent, split(name))
            && recent.name == parent
        {
            return Some(Position { parents: Parents::Known(recent.directory), base, aufs: recent.aufs });
        }
        let Cleaned { mut components, escaped } = clean(name);
        if escaped {
            self.warn(WarningKind::EscapingName);
        }
        let aufs = components.first().is_some_and(|first| is_aufs(first));
        let base = components.pop()?;
        Some(Position { parents: Parents::Named { components, escaped }, base, aufs })
    }

    /// Walks to a directory. Missing directories on the way are implied, unless a later `..` of a link's
    /// target leads out of them again. Symbolic links of this layer are followed and held inside the root
    /// (docs/semantics.md N2, N3).
    fn enter(&mut self, parents: &[&'a [u8]]) -> Result<DirId, Fault> {
        let root = self.own.tree.root;
        let mut way = Way::new(root, parents);
        while let Some(name) = way.next_name(&self.own.tree) {
            let occupant = self.own.tree.occupant(way.at, name);
            let link = match occupant {
                Occupant::Directory(dir) => {
                    way.at = dir;
                    continue;
                }
                Occupant::Object(object) => self.objects.target(object),
                Occupant::Link(_) => None,
                Occupant::Nothing => self.lower_link(way.at, name),
            };
            if let Some(target) = link {
                way.follow(root, target, &mut self.steps).ok_or(Fault::LeftOut(WarningKind::TooManyLinks))?;
                continue;
            }
            if way.cancel(&mut self.steps).ok_or(Fault::LeftOut(WarningKind::TooManyLinks))? {
                continue;
            }
            let slot = self.slot(way.at, name)?;
            if occupant != Occupant::Nothing {
                self.warn(WarningKind::DirectoryReplacesFile);
            }
            self.may_imply()?;
            way.at = self.make_directory(slot)?;
        }
        Ok(way.at)
    }

    /// Counts an implied directory. A short name can imply 2,000 directories, in each of thousands of layers, so the
    /// limit is for all layers. In addition, each entry may imply one directory: that takes as much memory as an
    /// entry for the directory.
    fn may_imply(&mut self) -> Result<(), Fault> {
        self.account.implied_directories = self.account.implied_directories.saturating_add(1);
        let value = self.account.implied_directories.saturating_sub(self.account.entries);
        let bound = self.options.limits.implied_directories();
        if value <= bound.max {
            return Ok(());
        }
        let what = Subject::Layer { number: self.layer.0.into(), diff_id: None };
        Err(Fault::Fatal(Error::over(what, bound, value)))
    }

    /// With `follow_dirlinks`: returns the target of the lower layers' symbolic link of this name, unless
    /// this layer has deleted the link (docs/semantics.md N1).
    pub(super) fn lower_link(&self, directory: DirId, name: &[u8]) -> Option<&'a [u8]> {
        let dir = &self.own.tree[directory];
        let known = self.own.tree.known(directory, name);
        if !self.options.follow_dirlinks
            || dir.opaque
            || known.is_some_and(|slot| self.own.tree[slot].whiteout().is_some())
        {
            return None;
        }
        match self.lower.occupant(dir.lower?, name) {
            Occupant::Object(object) => self.objects.target(object),
            _ => None,
        }
    }

    fn slot(&mut self, directory: DirId, name: &'a [u8]) -> Result<SlotId, Fault> {
        if name.len() > MAX_COMPONENT_BYTES {
            return Err(Fault::LeftOut(WarningKind::NameTooLong));
        }
        if self.own.tree[directory].path_len + 1 + name.len() > MAX_PATH_BYTES {
            return Err(Fault::LeftOut(WarningKind::PathTooLong));
        }
        Ok(self.own.tree.slot(directory, name)?)
    }

    /// Puts a new directory into a slot. After a whiteout, the contents of lower layers show in the
    /// directory only if its own entry comes first: container engines refuse all other entries
    /// (docs/semantics.md W3).
    fn make_directory(&mut self, slot: SlotId) -> Result<DirId, Fault> {
        self.forget_recent(slot);
        let made = self.own.tree.make_directory(slot)?;
        let slot = &mut self.own.tree[slot];
        slot.remade = false;
        let (name, directory, deleted) = (slot.name, slot.directory, slot.whiteout().is_some());
        if self.options.follow_dirlinks && !deleted {
            let lower = self.own.tree[directory].lower.map(|lower| self.lower.occupant(lower, name));
            if let Some(Occupant::Directory(lower)) = lower {
                self.own.tree[made].lower = Some(lower);
            }
        }
        Ok(made)
    }

    /// Forgets the recent directory if the walk to it may have led through this slot, which is about to
    /// change.
    fn forget_recent(&mut self, slot: SlotId) {
        if self.own.tree[slot].occupant() != Occupant::Nothing {
            self.recent = None;
        }
    }

    fn opaque(&mut self, directory: DirId) {
        if directory == self.own.tree.root && self.options.semantics == Semantics::Runtime {
            self.warn(WarningKind::OpaqueRoot);
        } else {
            self.own.tree[directory].opaque = true;
        }
    }

    fn whiteout(&mut self, directory: DirId, name: &'a [u8], id: EntryId) -> Result<(), Fault> {
        let slot = self.slot(directory, name)?;
        let slot = &mut self.own.tree[slot];
        slot.late |= slot.occupant() != Occupant::Nothing;
        if slot.white_out(id) {
            self.warn(WarningKind::RepeatedWhiteout);
        }
        Ok(())
    }

    fn put(&mut self, directory: DirId, name: &'a [u8], id: EntryId, entry: &Entry<'a>) -> Result<(), Fault> {
        let slot = self.slot(directory, name)?;
        let is_mark = entry.kind == EntryKind::Char(DeviceNumber { major: 0, minor: 0 });
        if is_mark && self.options.semantics != Semantics::Literal {
            self.device_whiteout(slot, id);
            return Ok(());
        }
        self.mark_real(directory);
        match entry.kind {
            EntryKind::Hardlink(target) => self.put_link(slot, id, entry, target),
            EntryKind::Directory => self.put_directory(slot, id, entry),
            _ => {
                let object = self.objects.add(self.layer, id, entry)?;
                self.replace(slot, Occupant::Object(object));
                Ok(())
            }
        }
    }

    /// Records a character device 0/0 as a whiteout, because overlayfs stores whiteouts so
    /// (docs/semantics.md W17). Like any entry, it replaces an earlier entry of the same name.
    fn device_whiteout(&mut self, slot: SlotId, id: EntryId) {
        self.forget_recent(slot);
        let slot = &mut self.own.tree[slot];
        slot.put(Occupant::Nothing);
        slot.white_out(id);
    }

    fn put_directory(&mut self, slot: SlotId, id: EntryId, entry: &Entry<'a>) -> Result<(), Fault> {
        let made = match self.own.tree[slot].occupant() {
            Occupant::Directory(dir) => dir,
            _ => {
                self.warn_if_changed(slot, Some(ObjectKind::Directory));
                let made = self.make_directory(slot)?;
                let slot = &mut self.own.tree[slot];
                slot.remade = slot.whiteout().is_some() && !slot.late;
                made
            }
        };
        let object = self.objects.add(self.layer, id, entry)?;
        self.own.tree[made].attributes = Some(object);
        self.mark_real(made);
        Ok(())
    }

    /// Binds a hard link to the current state of its target (docs/semantics.md H6), or lets the link wait.
    fn put_link(
        &mut self,
        slot: SlotId,
        id: EntryId,
        entry: &Entry<'a>,
        target: &'a [u8],
    ) -> Result<(), Fault> {
        let cleaned = clean(target);
        if cleaned.escaped {
            self.warn(WarningKind::EscapingTarget);
        }
        let found = match self.find_own(&cleaned.components) {
            Some(FoundAt::Root) => return Err(Fault::LeftOut(WarningKind::LinkToDirectory)),
            Some(FoundAt::Slot(found)) if found == slot => {
                return Err(Fault::LeftOut(WarningKind::LinkCycle));
            }
            Some(FoundAt::Slot(found)) => self.own.tree[found].occupant(),
            None => Occupant::Nothing,
        };
        match found {
            Occupant::Directory(_) => Err(Fault::LeftOut(WarningKind::LinkToDirectory)),
            Occupant::Object(object) => {
                self.take_attributes(object, id, entry);
                self.replace(slot, Occupant::Object(object));
                Ok(())
            }
            Occupant::Link(_) | Occupant::Nothing => {
                let link = number(self.own.links.len())?;
                let waiting = Occupant::Link(LinkId(link));
                let fallback = match self.own.tree[slot].occupant() {
                    Occupant::Link(LinkId(earlier)) => {
                        self.own.links.get(earlier as usize).map_or(Occupant::Nothing, |link| link.fallback)
                    }
                    other => other,
                };
                self.own.links.push(Link { slot, name: entry.name, target, fallback });
                self.replace(slot, waiting);
                Ok(())
            }
        }
    }

    /// Gives an object the attributes in the header of a hard link to it (docs/semantics.md H1). The header
    /// counts as that of a regular file: its extended attributes are left out if the object is of another
    /// type that cannot hold them (M9).
    fn take_attributes(&mut self, object: ObjectId, id: EntryId, entry: &Entry<'_>) {
        let shared = &mut self.objects[object];
        shared.meta = id;
        if entry.xattrs.is_empty() {
            return;
        }
        let holder = match shared.kind {
            ObjectKind::File => Holder::File,
            ObjectKind::Directory | ObjectKind::ImpliedDirectory => Holder::Directory,
            ObjectKind::Symlink => Holder::Symlink,
            ObjectKind::Device | ObjectKind::Fifo => Holder::Node,
        };
        if entry.xattrs.iter().all(|(name, value)| is_held(holder, name, value)) {
            shared.set_xattrs(id);
        } else {
            self.warn(WarningKind::XattrLeftOut);
        }
    }

    /// Returns the slot of this layer that a hard link's target names.
    pub(super) fn find_own(&mut self, components: &[&'a [u8]]) -> Option<FoundAt> {
        let mut steps = self.steps;
        let follow = |directory, name: &[u8]| self.lower_link(directory, name);
        let found = self.own.tree.find(components, self.objects, &mut steps, follow);
        self.steps = steps;
        found
    }

    /// Replaces the occupant of a slot: the last entry of a name wins (docs/semantics.md N6, N8).
    fn replace(&mut self, slot: SlotId, occupant: Occupant) {
        let kind = match occupant {
            Occupant::Object(object) => Some(self.objects[object].kind),
            _ => None,
        };
        self.warn_if_changed(slot, kind);
        self.forget_recent(slot);
        self.own.tree[slot].put(occupant);
    }

    /// Warns if an entry replaces an occupant of another kind. `kind` is `None` for a waiting hard link,
    /// which never becomes a directory.
    fn warn_if_changed(&mut self, slot: SlotId, kind: Option<ObjectKind>) {
        let changed = match self.own.tree[slot].occupant() {
            Occupant::Directory(_) => kind != Some(ObjectKind::Directory),
            Occupant::Object(object) => kind.is_some_and(|kind| kind != self.objects[object].kind),
            Occupant::Link(_) => kind == Some(ObjectKind::Directory),
            Occupant::Nothing => false,
        };
        if changed {
            self.warn(WarningKind::TypeChanged);
        }
    }

    fn mark_real(&mut self, directory: DirId) {
        let mut at = directory;
        while !self.own.tree[at].real {
            self.own.tree[at].real = true;
            at = self.own.tree.parent(at);
        }
    }
}

/// Returns the role of an entry from its last component. With `aufs`, the name is not read as a mark.
fn role(base: &[u8], aufs: bool) -> Result<Role<'_>, Fault> {
    match base.strip_prefix(WHITEOUT) {
        _ if aufs => Ok(Role::Entry(base)),
        None => Ok(Role::Entry(base)),
        Some(_) if base == OPAQUE => Ok(Role::Opaque),
        Some(b"" | b"." | b"..") => Err(Fault::LeftOut(WarningKind::BadWhiteoutName)),
        Some(name) => Ok(Role::Whiteout(name)),
    }
}

/// Checks name lengths: an entry that no file system can hold is left out before anything is made for
/// it (docs/semantics.md N15).
fn check_lengths(position: &Position<'_>, role: &Role<'_>, kind: &EntryKind<'_>) -> Result<(), Fault> {
    let (name, target): (&[u8], &[u8]) = match (role, kind) {
        (Role::Entry(name), EntryKind::Symlink(target)) => (name, target),
        (Role::Entry(name) | Role::Whiteout(name), _) => (name, b""),
        (Role::Opaque, _) => (b"", b""),
    };
    let parents: &[&[u8]] = match &position.parents {
        Parents::Known(_) => &[],
        Parents::Named { components, .. } => components,
    };
    let too_long = |part: &[u8]| part.len() > MAX_COMPONENT_BYTES;
    if too_long(name) || target.len() > MAX_LINK_TARGET_BYTES || parents.iter().any(|part| too_long(part)) {
        return Err(Fault::LeftOut(WarningKind::NameTooLong));
    }
    if parents.iter().map(|part| part.len() + 1).sum::<usize>() + name.len() > MAX_PATH_BYTES {
        return Err(Fault::LeftOut(WarningKind::PathTooLong));
    }
    Ok(())
}

/// Splits a name into parent and last component as they are written, where that is possible without
/// cleaning: for `a/b` the parts are `a` and `b`; there are none for `a`, `a/..` or `a/.`.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = name.iter().rposition(|byte| *byte != b'/')? + 1;
    let name = name.get(..end)?;
    let slash = name.iter().rposition(|byte| *byte == b'/')?;
    let (parent, base) = (name.get(..slash)?, name.get(slash + 1..)?);
    (!matches!(base, b"." | b"..")).then_some((parent, base))
}
