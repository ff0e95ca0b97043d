//! What a mount shows: one tree, or several below one root.
//!
//! ```text
//! rootfs/                 the merged tree
//! layers/NN-<diff_id>/    each layer by itself, whiteouts as they lie in its tar
//! states/NN/              the tree after each layer
//! image/                  manifest.json and config.json
//! ```
//!
//! Each of these trees is a part with a number, and part and inode together are a [`ForestNode`]. Part 0 has the
//! names above; where a part begins, it has an empty directory, in whose place the part's root is shown.
//! This module owns those names, the numbers of nodes, and when a part is built: once somebody looks into
//! it. Parts are the same whenever they are built, so those that were not used for the longest time are
//! forgotten again when they take up too much memory. It does not know who asks.

mod extras;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use self::extras::{Extra, tree_of};
use crate::error::{Error, PathFault, Result};
use crate::image::ImageInfo;
use crate::load::LoadedTree;
use crate::rootfs::{Follow, InodeId, MergeOptions, ROOT, Semantics};

/// Memory for the trees of parts, in bytes; the last one that was used stays, however large it is. The
/// tree of a usual image takes a few MiB.
const KEPT_TREES_BYTES: usize = 256 << 20;
/// Hexadecimal digits of a layer's diff_id in its name.
const NAME_DIGITS: usize = 12;

/// An object of one of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ForestNode {
    part: u32,
    inode: InodeId,
}

impl ForestNode {
    /// The root directory.
    #[cfg(test)]
    pub(crate) const ROOT: ForestNode = ForestNode { part: 0, inode: ROOT };

    /// A number that no other node has: 1 for the root, as FUSE has it; the inode's in the low half.
    #[must_use]
    pub(crate) fn number(self) -> u64 {
        (u64::from(self.part) << 32 | u64::from(self.inode.0)).saturating_add(1)
    }

    /// The node of a number. `None` for 0, which is no node's.
    #[must_use]
    pub(crate) fn from_number(number: u64) -> Option<ForestNode> {
        let at = number.checked_sub(1)?;
        let low = u32::try_from(at & u64::from(u32::MAX)).ok()?;
        Some(ForestNode { part: u32::try_from(at >> 32).ok()?, inode: InodeId(low) })
    }

    /// Its number in its part.
    #[must_use]
    pub(crate) fn inode(self) -> InodeId {
        self.inode
    }

    /// Another object of the same part.
    #[must_use]
    pub(crate) fn beside(self, inode: InodeId) -> ForestNode {
        ForestNode { inode, ..self }
    }

    /// Whether both are of one part.
    #[must_use]
    pub(crate) fn is_beside(self, other: ForestNode) -> bool {
        self.part == other.part
    }
}

/// One tree, or several below one root.
#[derive(Debug)]
pub(crate) struct Forest {
    /// Part 0.
    top: Arc<LoadedTree>,
    /// The merged tree.
    rootfs: Arc<LoadedTree>,
    merge: MergeOptions,
    /// Parts from 1 on.
    parts: Vec<Part>,
    /// Which part begins at a directory of the top.
    part_at: BTreeMap<InodeId, u32>,
    built: Mutex<LruCache<u32, Building>>,
}

/// Empty until it is built; who builds it holds it.
type Building = Arc<Mutex<Option<Arc<LoadedTree>>>>;

#[derive(Debug)]
struct Part {
    /// The directory of the top in whose place it is shown.
    place: InodeId,
    shows: Shows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    Rootfs,
    Layer(u16),
    State(u16),
}

/// A part's tree, held as long as somebody uses it.
#[derive(Debug)]
pub(crate) enum TreeRef<'a> {
    /// One that is always there.
    Lasting(&'a LoadedTree),
    /// One that may be forgotten meanwhile.
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
    /// The tree alone: its root is the root.
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
    /// All there is to see of an image. `rootfs` has all of its layers, merged with `merge`.
    ///
    /// # Errors
    /// None that come from the image.
    pub(crate) fn of_image(rootfs: Arc<LoadedTree>, image: &ImageInfo, merge: MergeOptions) -> Result<Self> {
        let places = places(&rootfs);
        let mut extras: Vec<Extra<'_>> = places.iter().map(|(path, _)| Extra::Directory(path)).collect();
        extras.extend(["layers", "states", "image"].map(Extra::Directory));
        extras.push(Extra::Document("image/manifest.json", &image.raw_manifest));
        extras.push(Extra::Document("image/config.json", &image.raw_config));
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

    /// The merged tree.
    #[must_use]
    pub(crate) fn rootfs(&self) -> &LoadedTree {
        &self.rootfs
    }

    /// The tree that a node is in, built if need be.
    ///
    /// # Errors
    /// [`Error::Path`] for a node of no part; whatever keeps a part from being built.
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
                let literal = MergeOptions { semantics: Semantics::Literal, ..MergeOptions::default() };
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

    /// Whether [`Forest::tree`] has nothing to build for a node.
    #[must_use]
    pub(crate) fn is_built(&self, node: ForestNode) -> bool {
        let lasting = |part: &Part| self.is_rootfs(part.shows);
        if node.part == 0 || self.part(node.part).is_some_and(lasting) {
            return true;
        }
        let slot = self.built().peek(&node.part).map(Arc::clone);
        slot.is_some_and(|slot| slot.try_lock().is_ok_and(|tree| tree.is_some()))
    }

    /// Where one is who goes to a node: the root of a part, if one begins there.
    #[must_use]
    pub(crate) fn enter(&self, node: ForestNode) -> ForestNode {
        if node.part != 0 || self.part_at.is_empty() {
            return node;
        }
        self.part_at.get(&node.inode).map_or(node, |part| ForestNode { part: *part, inode: ROOT })
    }

    /// The directory that holds a directory; the root's is the root.
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

    /// The last state is what all layers make.
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
        // A tree in the making is not counted yet.
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

/// The path of every part, in the order of their numbers.
fn places(rootfs: &LoadedTree) -> Vec<(String, Shows)> {
    let count = rootfs.layers().len();
    // All numbers are equally long, so that names sort as layers do.
    let width = count.saturating_sub(1).to_string().len().max(2);
    let mut places = vec![("rootfs".to_owned(), Shows::Rootfs)];
    for (number, layer) in (0..).zip(rootfs.layers()) {
        let hex = layer.diff_id.hex();
        let short = hex.get(..NAME_DIGITS).unwrap_or(&hex);
        places.push((format!("layers/{number:0width$}-{short}"), Shows::Layer(number)));
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
