//! The trees that a mount shows: one tree, or several below one root.
//!
//! ```text
//! rootfs/                 the merged tree
//! layers/NN-<diff_id>/    each layer alone, with whiteouts as in its tar
//! states/NN/              the tree after each layer
//! image/                  manifest.json and config.json
//! ```
//!
//! Each of these trees is a part with a number. A part and an inode together are a [`ForestNode`]. Part 0
//! holds the directories above and the documents. At the place of another part, it has an empty directory,
//! and the root of that part is shown instead.
//!
//! This module owns the names of the parts, the numbers of nodes, and when a part is built: on first access.
//! Building a part again gives the same tree, so the least recently used parts are dropped when all parts
//! take too much memory. This module does not know FUSE.

mod extras;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use self::extras::{Extra, tree_of};
use crate::digest::Digest;
use crate::error::{Error, PathFault, Result};
use crate::image::ImageInfo;
use crate::load::LoadedTree;
use crate::rootfs::{Follow, InodeId, MergeOptions, ROOT, Semantics};

/// Memory for the trees of parts, in bytes. The part that was used last is always kept, whatever its size.
/// The tree of a usual image takes a few MiB.
const KEPT_TREES_BYTES: usize = 256 << 20;
/// Number of hexadecimal digits of a layer's diff_id in the name of its directory.
const NAME_DIGITS: usize = 12;

/// An object of a part: the number of the part, and the inode in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ForestNode {
    part: u32,
    inode: InodeId,
}

impl ForestNode {
    /// The root directory.
    #[cfg(test)]
    pub(crate) const ROOT: ForestNode = ForestNode { part: 0, inode: ROOT };

    /// Returns the unique number of the node: 1 for the root, as FUSE requires. The low 32 bits of the number
    /// minus 1 are the inode, the high bits are the part.
    #[must_use]
    pub(crate) fn number(self) -> u64 {
        (u64::from(self.part) << 32 | u64::from(self.inode.0)).saturating_add(1)
    }

    /// Returns the node with this number. `None` for 0, which is never used.
    #[must_use]
    pub(crate) fn from_number(number: u64) -> Option<ForestNode> {
        let at = number.checked_sub(1)?;
        let low = u32::try_from(at & u64::from(u32::MAX)).ok()?;
        Some(ForestNode { part: u32::try_from(at >> 32).ok()?, inode: InodeId(low) })
    }

    /// Returns the inode of the node in its part.
    #[must_use]
    pub(crate) fn inode(self) -> InodeId {
        self.inode
    }

    /// Returns the node of another inode of the same part.
    #[must_use]
    pub(crate) fn beside(self, inode: InodeId) -> ForestNode {
        ForestNode { inode, ..self }
    }

    /// Returns whether both nodes belong to the same part.
    #[must_use]
    pub(crate) fn is_beside(self, other: ForestNode) -> bool {
        self.part == other.part
    }
}

/// One tree, or several below one root.
#[derive(Debug)]
pub(crate) struct Forest {
    /// The tree of part 0.
    top: Arc<LoadedTree>,
    /// The merged tree.
    rootfs: Arc<LoadedTree>,
    merge: MergeOptions,
    /// The parts with numbers from 1.
    parts: Vec<Part>,
    /// The number of the part that is shown in place of a directory of the top.
    part_at: BTreeMap<InodeId, u32>,
    built: Mutex<LruCache<u32, Building>>,
}

/// The tree of a part; `None` until it is built. The thread that builds it holds the lock.
type Building = Arc<Mutex<Option<Arc<LoadedTree>>>>;

#[derive(Debug)]
struct Part {
    /// The directory of the top that the part replaces.
    place: InodeId,
    shows: Shows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    Rootfs,
    Layer(u16),
    State(u16),
}

/// A reference to the tree of a part.
#[derive(Debug)]
pub(crate) enum TreeRef<'a> {
    /// A tree that is never dropped.
    Lasting(&'a LoadedTree),
    /// A tree that the forest may drop; this reference keeps it alive.
    Held(Arc<LoadedTree>),
}

impl Deref for TreeRef<'_> {
    type Target = LoadedTree;

    fn deref(&self) -> &LoadedTree {
        match self {
            TreeRef::Lasting(tree) => tree,
            TreeRef::Held(tree) => tree,
        }
    }
}

impl From<Arc<LoadedTree>> for Forest {
    /// Returns a forest with a single part: the root of `tree` is the root.
    fn from(tree: Arc<LoadedTree>) -> Self {
        Forest {
            rootfs: Arc::clone(&tree),
            top: tree,
            merge: MergeOptions::default(),
            parts: Vec::new(),
            part_at: BTreeMap::new(),
            built: Mutex::new(LruCache::unbounded()),
        }
    }
}

impl Forest {
    /// Returns the forest of an image: rootfs, layers, states and documents. `rootfs` has all layers of the
    /// image, merged with `merge`.
    ///
    /// # Errors
    /// None that an image can cause.
    pub(crate) fn of_image(rootfs: Arc<LoadedTree>, image: &ImageInfo, merge: MergeOptions) -> Result<Self> {
        let places = places(&rootfs);
        let mut extras: Vec<Extra<'_>> = places.iter().map(|(path, _)| Extra::Directory(path)).collect();
        extras.extend(["layers", "states", "image"].map(Extra::Directory));
        let documents =
            [("image/manifest.json", &image.raw_manifest), ("image/config.json", &image.raw_config)];
        // A root file system has neither document, and the image of a container may lack the manifest.
        let documents = documents.into_iter().filter(|(_, bytes)| !bytes.is_empty());
        extras.extend(documents.map(|(path, bytes)| Extra::Document(path, bytes)));
        let top = tree_of(&extras)?;
        let mut parts = Vec::new();
        let mut part_at = BTreeMap::new();
        for ((path, shows), number) in places.iter().zip(1..) {
            let place = top.rootfs().resolve(path.as_bytes(), Follow::NotLast)?;
            parts.push(Part { place, shows: *shows });
            part_at.insert(place, number);
        }
        let built = Mutex::new(LruCache::unbounded());
        Ok(Forest { top: Arc::new(top), rootfs, merge, parts, part_at, built })
    }

    /// Returns the merged tree.
    #[must_use]
    pub(crate) fn rootfs(&self) -> &LoadedTree {
        &self.rootfs
    }

    /// Returns the tree of the node's part, and builds it if necessary.
    ///
    /// # Errors
    /// [`Error::Path`] when the node's part does not exist; as [`LoadedTree::part`] when the part cannot be
    /// built.
    pub(crate) fn tree(&self, node: ForestNode) -> Result<TreeRef<'_>> {
        if node.part == 0 {
            return Ok(TreeRef::Lasting(&self.top));
        }
        let part = self.part(node.part).ok_or_else(|| Error::Path {
            path: format!("inode {}", node.number()),
            reason: PathFault::NotFound,
        })?;
        if self.is_rootfs(part.shows) {
            return Ok(TreeRef::Lasting(&self.rootfs));
        }
        let slot = Arc::clone(self.built().get_or_insert(node.part, Building::default));
        let mut tree = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = &*tree {
            return Ok(TreeRef::Held(Arc::clone(tree)));
        }
        let made = Arc::new(match part.shows {
            Shows::Layer(layer) => {
                let literal =
                    MergeOptions { semantics: Semantics::Literal, follow_dirlinks: false, ..self.merge };
                self.rootfs.part(layer..=layer, &literal)?
            }
            Shows::State(last) => self.rootfs.part(0..=last, &self.merge)?,
            Shows::Rootfs => return Ok(TreeRef::Lasting(&self.rootfs)),
        });
        *tree = Some(Arc::clone(&made));
        drop(tree);
        self.forget_unused();
        Ok(TreeRef::Held(made))
    }

    /// Returns whether the tree of the node's part is already built.
    #[must_use]
    pub(crate) fn is_built(&self, node: ForestNode) -> bool {
        let lasting = |part: &Part| self.is_rootfs(part.shows);
        if node.part == 0 || self.part(node.part).is_some_and(lasting) {
            return true;
        }
        let slot = self.built().peek(&node.part).map(Arc::clone);
        slot.is_some_and(|slot| slot.try_lock().is_ok_and(|tree| tree.is_some()))
    }

    /// Returns the node entered at `node`: the root of a part if one is shown there, otherwise `node` itself.
    #[must_use]
    pub(crate) fn enter(&self, node: ForestNode) -> ForestNode {
        if node.part != 0 || self.part_at.is_empty() {
            return node;
        }
        self.part_at.get(&node.inode).map_or(node, |part| ForestNode { part: *part, inode: ROOT })
    }

    /// Returns the parent directory of a directory; the root is its own parent.
    ///
    /// # Errors
    /// As [`Forest::tree`].
    pub(crate) fn parent(&self, directory: ForestNode) -> Result<ForestNode> {
        match self.part(directory.part) {
            Some(part) if directory.inode == ROOT => {
                Ok(ForestNode { part: 0, inode: self.top.rootfs().parent(part.place) })
            }
            _ => Ok(directory.beside(self.tree(directory)?.rootfs().parent(directory.inode))),
        }
    }

    fn part(&self, number: u32) -> Option<&Part> {
        self.parts.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    /// Returns whether a part is the merged tree. The state after the last layer is the merged tree, too.
    fn is_rootfs(&self, shows: Shows) -> bool {
        match shows {
            Shows::Rootfs => true,
            Shows::State(last) => usize::from(last) + 1 == self.rootfs.layers().len(),
            Shows::Layer(_) => false,
        }
    }

    fn built(&self) -> MutexGuard<'_, LruCache<u32, Building>> {
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_unused(&self) {
        // A tree that is being built is not counted yet.
        let size = |slot: &Building| match slot.try_lock() {
            Ok(tree) => tree.as_ref().map_or(0, |tree| tree.rootfs().memory_bytes()),
            Err(_) => 0,
        };
        let mut built = self.built();
        let mut total: usize = built.iter().map(|(_, slot)| size(slot)).sum();
        while total > KEPT_TREES_BYTES && built.len() > 1 {
            let Some((_, slot)) = built.pop_lru() else { return };
            total = total.saturating_sub(size(&slot));
        }
    }
}

/// Returns the path of every part, in the order of their numbers.
fn places(rootfs: &LoadedTree) -> Vec<(String, Shows)> {
    let count = rootfs.layers().len();
    // All numbers have the same width, so names sort like layers.
    let width = count.saturating_sub(1).to_string().len().max(2);
    let mut places = vec![("rootfs".to_owned(), Shows::Rootfs)];
    for (number, layer) in (0..).zip(rootfs.layers()) {
        // The diff_id is unknown if neither an image nor a verified pass states it.
        let digits = |diff_id: Digest| format!("-{:.NAME_DIGITS$}", diff_id.hex());
        let ending = layer.diff_id.map(digits).unwrap_or_default();
        places.push((format!("layers/{number:0width$}{ending}"), Shows::Layer(number)));
    }
    for (number, _) in (0..).zip(rootfs.layers()) {
        places.push((format!("states/{number:0width$}"), Shows::State(number)));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_number_leads_back_to_it_and_to_no_other() {
        let mut numbers = std::collections::BTreeSet::new();
        for part in [0, 1, 2, 8192] {
            for inode in [0, 1, u32::MAX] {
                let node = ForestNode { part, inode: InodeId(inode) };
                assert_eq!(ForestNode::from_number(node.number()), Some(node));
                assert!(numbers.insert(node.number()), "{node:?}");
            }
        }
        assert_eq!(ForestNode::ROOT.number(), 1);
        assert_eq!(ForestNode::from_number(0), None);
    }

    #[test]
    fn a_tree_alone_has_one_part_and_is_the_root() {
        let tree = tree_of(&[Extra::Document("a/b", b"hello")]).unwrap();
        let forest = Forest::from(Arc::new(tree));
        let a = ForestNode::ROOT.beside(forest.rootfs().rootfs().resolve(b"a", Follow::Last).unwrap());
        assert_eq!((forest.enter(a), forest.parent(a).unwrap()), (a, ForestNode::ROOT));
        assert!(matches!(forest.tree(a), Ok(TreeRef::Lasting(_))));
        assert!(forest.tree(ForestNode { part: 1, inode: ROOT }).is_err());
    }
}
