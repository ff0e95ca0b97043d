//! Compares two merged trees, path by path.
//!
//! This module owns what counts as a difference; [`super::content`] decides which bytes are read. The
//! comparison has three steps. First the trees are walked side by side, and everything that needs no
//! file contents is compared. Then the files that only their bytes can decide are read, in the order of
//! their position in the layers of the first tree and each pair once, so that no span is decoded
//! repeatedly. Finally the differences are sorted.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::content::{Readable, is_same_layer, same_bytes_of_all};
use super::{Compared, Field, Inode, PathBudget, ReadFile};
use crate::error::Result;
use crate::glob::Glob;
use crate::layer::LayerId;
use crate::limits::Limits;
use crate::rootfs::{EntryAt, InodeId, ROOT, Rootfs};

/// One of the two trees that are compared.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    /// The tree.
    pub rootfs: &'a Rootfs,
    /// The reader of its files.
    pub files: &'a dyn ReadFile,
}

impl<'a> Side<'a> {
    fn readable(self, id: InodeId) -> Option<Readable<'a>> {
        Some(Readable { inode: Inode::of(self.rootfs, id)?, from: self.files })
    }
}

impl std::fmt::Debug for Side<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("rootfs", &self.rootfs).finish_non_exhaustive()
    }
}

/// Which differences [`diff`](crate::diff) reports.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiffOptions {
    /// Compare modification times. Off by default.
    pub mtime: bool,
    /// Patterns of paths to leave out on both sides, with everything below them. None by default.
    pub ignore: Vec<Glob>,
    /// Report paths that only the second image has. On by default.
    pub added: bool,
    /// Report paths that only the first image has. On by default.
    pub deleted: bool,
    /// Report paths that differ. On by default; without it no contents are read.
    pub modified: bool,
}

impl Default for DiffOptions {
    fn default() -> Self {
        DiffOptions { mtime: false, ignore: Vec::new(), added: true, deleted: true, modified: true }
    }
}

impl DiffOptions {
    /// Compares modification times.
    #[must_use]
    pub fn mtime(self, mtime: bool) -> Self {
        DiffOptions { mtime, ..self }
    }

    /// Leaves out the paths that `pattern` matches, and everything below them. Can be called repeatedly.
    #[must_use]
    pub fn ignore(mut self, pattern: Glob) -> Self {
        self.ignore.push(pattern);
        self
    }

    /// Reports paths that only the second image has.
    #[must_use]
    pub fn added(self, added: bool) -> Self {
        DiffOptions { added, ..self }
    }

    /// Reports paths that only the first image has.
    #[must_use]
    pub fn deleted(self, deleted: bool) -> Self {
        DiffOptions { deleted, ..self }
    }

    /// Reports paths that both images have and that differ.
    #[must_use]
    pub fn modified(self, modified: bool) -> Self {
        DiffOptions { modified, ..self }
    }
}

/// A path that differs between two images.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The path in bytes; `/` for the root.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: DifferenceKind,
}

/// How a path differs. This list is complete: a path is in one image or in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DifferenceKind {
    /// Only the second image has the path: its inode there.
    Added(InodeId),
    /// Only the first image has the path: its inode there.
    Deleted(InodeId),
    /// Both images have the path.
    Modified {
        /// The inode in the first image.
        a: InodeId,
        /// The inode in the second image.
        b: InodeId,
        /// The fields that differ, ascending; at least one.
        fields: Vec<Field>,
    },
}

impl DifferenceKind {
    /// The inodes at the path in the first and in the second image.
    #[must_use]
    pub fn inodes(&self) -> (Option<InodeId>, Option<InodeId>) {
        match *self {
            DifferenceKind::Added(b) => (None, Some(b)),
            DifferenceKind::Deleted(a) => (Some(a), None),
            DifferenceKind::Modified { a, b, .. } => (Some(a), Some(b)),
        }
    }
}

/// Compares two trees. The differences are sorted by the bytes of their whole paths.
///
/// # Errors
/// The errors of reading files; [`crate::Error::Limit`] if the paths are too long in total.
pub(crate) fn diff(
    a: Side<'_>,
    b: Side<'_>,
    options: &DiffOptions,
    limits: Limits,
) -> Result<Vec<Difference>> {
    let mut comparison = Comparison {
        a,
        b,
        options,
        links: options.modified.then(|| (Links::of(a.rootfs), Links::of(b.rootfs))),
        found: Vec::new(),
        undecided: Vec::new(),
        shared: shared_layers(a.rootfs, b.rootfs),
        budget: PathBudget::new(limits),
    };
    comparison.walk()?;
    comparison.decide()?;
    let mut found = comparison.found;
    found.retain(|one| !matches!(&one.kind, DifferenceKind::Modified { fields, .. } if fields.is_empty()));
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

struct Comparison<'a> {
    a: Side<'a>,
    b: Side<'a>,
    options: &'a DiffOptions,
    links: Option<(Links, Links)>,
    found: Vec<Difference>,
    undecided: Vec<Undecided>,
    /// For each layer of the first tree, the layers of the second tree with the same contents.
    shared: Vec<Vec<LayerId>>,
    budget: PathBudget,
}

/// Two files of one path that only their bytes can tell apart.
struct Undecided {
    /// The index of the path in the list of differences.
    at: usize,
    a: InodeId,
    b: InodeId,
    /// The entries that hold their bytes.
    a_at: EntryAt,
    b_at: EntryAt,
}

/// A path that is still to be compared, with its inodes in both trees.
struct PathPair {
    path: Vec<u8>,
    a: Option<InodeId>,
    b: Option<InodeId>,
}

impl Comparison<'_> {
    fn walk(&mut self) -> Result<()> {
        let mut ahead = vec![PathPair { path: Vec::new(), a: Some(ROOT), b: Some(ROOT) }];
        while let Some(place) = ahead.pop() {
            self.push_children(&place, &mut ahead);
            self.compare(place)?;
        }
        Ok(())
    }

    fn push_children(&self, place: &PathPair, ahead: &mut Vec<PathPair>) {
        let directory = |side: Side<'_>, id: Option<InodeId>| id.filter(|id| side.rootfs.is_directory(*id));
        let (a, b) = (directory(self.a, place.a), directory(self.b, place.b));
        let mut a = a.into_iter().flat_map(|a| self.a.rootfs.children(a)).peekable();
        let mut b = b.into_iter().flat_map(|b| self.b.rootfs.children(b)).peekable();
        // Both iterators are sorted by name.
        loop {
            let order = match (a.peek(), b.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let a = if order.is_le() { a.next() } else { None };
            let b = if order.is_ge() { b.next() } else { None };
            let Some((name, _)) = a.or(b) else { return };
            let (a, b) = (a.map(|(_, id)| id), b.map(|(_, id)| id));
            let path = [&place.path, &b"/"[..], name].concat();
            if !self.options.ignore.iter().any(|glob| glob.matches(&path)) {
                ahead.push(PathPair { path, a, b });
            }
        }
    }

    fn compare(&mut self, place: PathPair) -> Result<()> {
        let PathPair { mut path, a, b } = place;
        if path.is_empty() {
            path.push(b'/');
        }
        let kind = match (a, b) {
            (None, Some(b)) if self.options.added => DifferenceKind::Added(b),
            (Some(a), None) if self.options.deleted => DifferenceKind::Deleted(a),
            (Some(a), Some(b)) if self.options.modified => {
                let Some(fields) = self.fields(a, b) else { return Ok(()) };
                DifferenceKind::Modified { a, b, fields }
            }
            _ => return Ok(()),
        };
        self.budget.take(&path)?;
        self.found.push(Difference { path, kind });
        Ok(())
    }

    /// Returns the fields that differ without reading contents. Returns `None` if nothing differs and
    /// nothing must be read.
    fn fields(&mut self, a: InodeId, b: InodeId) -> Option<Vec<Field>> {
        let compared = if self.are_one(a, b) {
            Compared::default()
        } else {
            Inode::of(self.a.rootfs, a)?.compare(&Inode::of(self.b.rootfs, b)?)
        };
        let mut fields = compared.fields;
        fields.retain(|field| *field != Field::Mtime || self.options.mtime);
        if let Some((a_links, b_links)) = &self.links
            && a_links.names(a) != b_links.names(b)
        {
            fields.push(Field::Links);
            fields.sort_unstable();
        }
        match compared.undecided {
            Some((a_at, b_at)) => {
                self.undecided.push(Undecided { at: self.found.len(), a, b, a_at, b_at });
            }
            None if fields.is_empty() => return None,
            None => {}
        }
        Some(fields)
    }

    /// Whether the same entries of the same layers describe both inodes: then only their names can differ.
    fn are_one(&self, a: InodeId, b: InodeId) -> bool {
        let (Some(a), Some(b)) = (self.a.rootfs.origin(a), self.b.rootfs.origin(b)) else { return false };
        let shared = self.shared.get(usize::from(a.layer().0));
        a.moved_to(b.layer()) == b && shared.is_some_and(|shared| shared.contains(&b.layer()))
    }

    /// Reads the undecided files and adds the results.
    fn decide(&mut self) -> Result<()> {
        let undecided = std::mem::take(&mut self.undecided);
        let mut job_of: HashMap<(EntryAt, EntryAt), usize> = HashMap::new();
        let mut jobs: Vec<(Readable<'_>, Readable<'_>)> = Vec::new();
        for undecided in &undecided {
            let job = job_of.entry((undecided.a_at, undecided.b_at)).or_insert(jobs.len());
            if *job == jobs.len() {
                let (Some(one), Some(other)) = (self.a.readable(undecided.a), self.b.readable(undecided.b))
                else {
                    continue;
                };
                jobs.push((one, other));
            }
        }
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by_cached_key(|job| jobs.get(*job).map(|(one, _)| place(*one)));
        let sorted: Vec<_> = order.iter().filter_map(|job| jobs.get(*job).copied()).collect();
        let same: HashMap<usize, bool> = order.into_iter().zip(same_bytes_of_all(&sorted)?).collect();
        for Undecided { at, a_at, b_at, .. } in undecided {
            let verdict = job_of.get(&(a_at, b_at)).and_then(|job| same.get(job));
            if let (Some(false), Some(Difference { kind: DifferenceKind::Modified { fields, .. }, .. })) =
                (verdict, self.found.get_mut(at))
            {
                fields.insert(0, Field::Content);
            }
        }
        Ok(())
    }
}

/// Returns where a file's bytes begin: its layer, and the offset in that layer.
fn place(file: Readable<'_>) -> Option<(LayerId, u64)> {
    let (at, data) = file.inode.file()?;
    Some((at.layer, data.extent().offset))
}

fn shared_layers(a: &Rootfs, b: &Rootfs) -> Vec<Vec<LayerId>> {
    let numbered = || (0..).map(LayerId).zip(b.layers().iter());
    let same =
        |layer| numbered().filter(|(_, other)| is_same_layer(layer, other)).map(|(id, _)| id).collect();
    a.layers().iter().map(same).collect()
}

/// The names of all inodes that have more than one name, directories excepted.
///
/// The names of an inode are represented by a hash. So an inode is compared once for each of its names in
/// constant time, and a million names take little memory.
struct Links {
    names: HashMap<InodeId, [u8; 32]>,
}

impl Links {
    fn of(rootfs: &Rootfs) -> Self {
        let mut names: HashMap<InodeId, Vec<[u8; 32]>> = HashMap::new();
        for directory in (0..).map(InodeId).take_while(|id| rootfs.is_directory(*id)) {
            let mut parent: Option<[u8; 32]> = None;
            let linked = rootfs
                .children(directory)
                .filter(|(_, id)| !rootfs.is_directory(*id) && rootfs.nlink(*id) > 1);
            for (name, id) in linked {
                let parent = parent.get_or_insert_with(|| blake3::hash(&rootfs.path(directory)).into());
                let path = blake3::Hasher::new().update(parent).update(name).finalize();
                names.entry(id).or_default().push(path.into());
            }
        }
        let hash_of_all = |mut paths: Vec<[u8; 32]>| {
            paths.sort_unstable();
            blake3::hash(paths.as_flattened()).into()
        };
        Links { names: names.into_iter().map(|(id, paths)| (id, hash_of_all(paths))).collect() }
    }

    /// Returns the hash of all names of an inode; `None` if the inode has only one name.
    fn names(&self, id: InodeId) -> Option<&[u8; 32]> {
        self.names.get(&id)
    }
}
