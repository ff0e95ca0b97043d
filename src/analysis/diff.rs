//! How two merged trees differ, path by path.
//!
//! Three steps. The trees are walked side by side, comparing all that needs no bytes. What only bytes can
//! decide is read in the order in which it lies in the layers of the first tree, each pair of files once,
//! so that no span is decoded over and over. Then everything is put in order. This module owns what counts
//! as a difference; what is read at all is for [`super::content`].

use std::collections::{BTreeMap, HashMap};

use super::content::{Readable, same_bytes};
use super::thing::{Field, Thing};
use super::{PathBudget, ReadFile};
use crate::error::Result;
use crate::glob::Glob;
use crate::layer::entry::Stored;
use crate::rootfs::{EntryAt, InodeId, ROOT, Rootfs};

/// One of two trees.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The tree.
    pub rootfs: &'a Rootfs,
    /// Gives the bytes of its files.
    pub files: &'a dyn ReadFile,
}

impl<'a> Side<'a> {
    fn readable(self, id: InodeId) -> Option<Readable<'a>> {
        Some(Readable { thing: Thing::of(self.rootfs, id)?, from: self.files })
    }
}

impl std::fmt::Debug for Side<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("rootfs", &self.rootfs).finish_non_exhaustive()
    }
}

/// What is compared, and what is told.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// Whether times count.
    pub mtime: bool,
    /// What is left out on both sides, with all that is below it.
    pub ignore: Vec<Glob>,
    /// Tell of what only the second tree has.
    pub added: bool,
    /// Tell of what only the first tree has.
    pub deleted: bool,
    /// Tell of what both have and what differs. Without it no bytes are read.
    pub modified: bool,
}

impl Default for DiffOptions {
    fn default() -> Self {
        DiffOptions { mtime: false, ignore: Vec::new(), added: true, deleted: true, modified: true }
    }
}

/// A path that is not the same in both trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path; `/` for the root.
    pub path: Vec<u8>,
    /// What is there.
    pub what: What,
}

/// What is at a path in either tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Only the second tree has it.
    Added(InodeId),
    /// Only the first tree has it.
    Deleted(InodeId),
    /// Both have it.
    Modified {
        /// In the first tree.
        a: InodeId,
        /// In the second tree.
        b: InodeId,
        /// In which it differs; ascending, at least one.
        fields: Vec<Field>,
    },
}

/// Compares two trees. The differences are sorted by the bytes of their whole paths.
///
/// # Errors
/// What reading files says; [`crate::Error::Limit`] when there are too many paths to list.
pub fn diff(a: Side<'_>, b: Side<'_>, options: &DiffOptions) -> Result<Vec<Difference>> {
    let mut comparison = Comparison {
        a,
        b,
        options,
        links: options.modified.then(|| (Links::of(a.rootfs), Links::of(b.rootfs))),
        found: Vec::new(),
        undecided: Vec::new(),
        budget: PathBudget::default(),
    };
    comparison.walk()?;
    comparison.decide()?;
    let mut found = comparison.found;
    found.retain(|one| !matches!(&one.what, What::Modified { fields, .. } if fields.is_empty()));
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

struct Comparison<'a> {
    a: Side<'a>,
    b: Side<'a>,
    options: &'a DiffOptions,
    links: Option<(Links, Links)>,
    found: Vec<Difference>,
    /// Places in `found` whose content is to be compared, and with what.
    undecided: Vec<(usize, EntryAt, EntryAt)>,
    budget: PathBudget,
}

/// A path that is still to be compared, and what either tree has there.
struct Place {
    path: Vec<u8>,
    a: Option<InodeId>,
    b: Option<InodeId>,
}

impl Comparison<'_> {
    fn walk(&mut self) -> Result<()> {
        let mut ahead = vec![Place { path: Vec::new(), a: Some(ROOT), b: Some(ROOT) }];
        while let Some(place) = ahead.pop() {
            self.push_children(&place, &mut ahead);
            self.compare(place)?;
        }
        Ok(())
    }

    fn push_children(&self, place: &Place, ahead: &mut Vec<Place>) {
        let directory = |side: Side<'_>, id: Option<InodeId>| id.filter(|id| side.rootfs.is_directory(*id));
        let (a, b) = (directory(self.a, place.a), directory(self.b, place.b));
        let mut names: BTreeMap<&[u8], (Option<InodeId>, Option<InodeId>)> = BTreeMap::new();
        for (name, id) in a.into_iter().flat_map(|a| self.a.rootfs.children(a)) {
            names.entry(name).or_default().0 = Some(id);
        }
        for (name, id) in b.into_iter().flat_map(|b| self.b.rootfs.children(b)) {
            names.entry(name).or_default().1 = Some(id);
        }
        for (name, (a, b)) in names {
            let path = [&place.path, &b"/"[..], name].concat();
            if !self.options.ignore.iter().any(|glob| glob.matches(&path)) {
                ahead.push(Place { path, a, b });
            }
        }
    }

    fn compare(&mut self, place: Place) -> Result<()> {
        let Place { mut path, a, b } = place;
        if path.is_empty() {
            path.push(b'/');
        }
        let what = match (a, b) {
            (None, Some(b)) if self.options.added => What::Added(b),
            (Some(a), None) if self.options.deleted => What::Deleted(a),
            (Some(a), Some(b)) if self.options.modified => {
                let Some(fields) = self.fields(a, b) else { return Ok(()) };
                What::Modified { a, b, fields }
            }
            _ => return Ok(()),
        };
        self.budget.take(&path)?;
        self.found.push(Difference { path, what });
        Ok(())
    }

    /// What differs without reading; `None` where nothing differs and nothing is to be read.
    fn fields(&mut self, a: InodeId, b: InodeId) -> Option<Vec<Field>> {
        let compared = Thing::of(self.a.rootfs, a)?.compare(&Thing::of(self.b.rootfs, b)?);
        let mut fields = compared.fields;
        fields.retain(|field| *field != Field::Mtime || self.options.mtime);
        if let Some((a_links, b_links)) = &self.links
            && a_links.names(a) != b_links.names(b)
        {
            fields.push(Field::Links);
            fields.sort_unstable();
        }
        match compared.undecided {
            Some((a, b)) => self.undecided.push((self.found.len(), a, b)),
            None if fields.is_empty() => return None,
            None => {}
        }
        Some(fields)
    }

    /// Reads what has to be read.
    fn decide(&mut self) -> Result<()> {
        let mut undecided = std::mem::take(&mut self.undecided);
        let rootfs = self.a.rootfs;
        undecided.sort_by_cached_key(|(_, a, _)| (a.layer, first_byte(rootfs, *a)));
        let mut known: HashMap<(EntryAt, EntryAt), bool> = HashMap::new();
        for (at, a, b) in undecided {
            let Some(Difference { what: What::Modified { a: a_id, b: b_id, fields }, .. }) =
                self.found.get_mut(at)
            else {
                continue;
            };
            let same = match known.get(&(a, b)) {
                Some(same) => *same,
                None => {
                    let (Some(one), Some(other)) = (self.a.readable(*a_id), self.b.readable(*b_id)) else {
                        continue;
                    };
                    let same = same_bytes(one, other)?;
                    known.insert((a, b), same);
                    same
                }
            };
            if !same {
                fields.insert(0, Field::Content);
            }
        }
        Ok(())
    }
}

/// Where a file's bytes begin in its layer.
fn first_byte(rootfs: &Rootfs, at: EntryAt) -> u64 {
    let index = rootfs.layers().get(usize::from(at.layer.0));
    let Some(crate::layer::entry::EntryKind::File(data)) =
        index.and_then(|index| index.entry(at.entry)).map(|entry| entry.kind)
    else {
        return 0;
    };
    match &data.stored {
        Stored::Contiguous(extent) => extent.offset,
        Stored::Sparse(segments) => segments.first().map_or(0, |segment| segment.extent.offset),
    }
}

/// The names of everything that has more than one, directories aside.
struct Links {
    names: HashMap<InodeId, Vec<Vec<u8>>>,
}

impl Links {
    fn of(rootfs: &Rootfs) -> Self {
        let mut names: HashMap<InodeId, Vec<Vec<u8>>> = HashMap::new();
        for (path, id) in rootfs.walk(ROOT) {
            if !rootfs.is_directory(id) && rootfs.nlink(id) > 1 {
                names.entry(id).or_default().push(path);
            }
        }
        Links { names }
    }

    /// All names of an inode, in the order of the walk; none where there is only one.
    fn names(&self, id: InodeId) -> &[Vec<u8>] {
        self.names.get(&id).map_or(&[], Vec::as_slice)
    }
}
