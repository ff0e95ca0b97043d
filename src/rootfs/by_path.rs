//! Every path below a directory, in the order of its bytes.
//!
//! That is not the order of a plain walk: `a.txt` comes before `a/x`, because a dot sorts before a slash. A
//! directory's contents thus have to wait for some of its siblings. Who waits is kept in a stack: each name in
//! it begins with the one below it, so there are never more than a name has bytes.

use std::iter::Peekable;

use super::{Children, InodeId, Rootfs};

impl Rootfs {
    /// Every path below a directory, sorted by bytes, in memory that grows with depth only. The directory
    /// itself is not among them, and paths begin with `prefix` in its place.
    #[must_use]
    pub(crate) fn walk_by_path(&self, from: InodeId, prefix: &[u8]) -> ByPath<'_> {
        let level =
            Level { path_bytes: prefix.len(), children: self.children(from).peekable(), waiting: vec![] };
        ByPath { tree: self, path: prefix.to_vec(), levels: vec![level] }
    }
}

/// See [`Rootfs::walk_by_path`]. Gives the path and the inode.
#[derive(Debug)]
pub(crate) struct ByPath<'a> {
    tree: &'a Rootfs,
    /// The path of the innermost level's directory, and whatever was last appended to it.
    path: Vec<u8>,
    levels: Vec<Level<'a>>,
}

/// A directory that is being listed.
#[derive(Debug)]
struct Level<'a> {
    /// Length of its path.
    path_bytes: usize,
    children: Peekable<Children<'a>>,
    /// Its directories that were given and whose contents were not, the next to come last.
    waiting: Vec<(&'a [u8], InodeId)>,
}

impl<'a> Level<'a> {
    /// The directory whose contents come before the next child.
    fn due(&mut self) -> Option<(&'a [u8], InodeId)> {
        let (name, _) = self.waiting.last()?;
        match self.children.peek() {
            Some((next, _)) if !follows_contents(next, name) => None,
            _ => self.waiting.pop(),
        }
    }
}

/// Whether `next`, which sorts after `name`, also sorts after everything in it.
fn follows_contents(next: &[u8], name: &[u8]) -> bool {
    next.strip_prefix(name).is_none_or(|rest| rest.first() > Some(&b'/'))
}

impl Iterator for ByPath<'_> {
    type Item = (Vec<u8>, InodeId);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let level = self.levels.last_mut()?;
            self.path.truncate(level.path_bytes);
            if let Some((name, directory)) = level.due() {
                self.path.push(b'/');
                self.path.extend_from_slice(name);
                let children = self.tree.children(directory).peekable();
                self.levels.push(Level { path_bytes: self.path.len(), children, waiting: Vec::new() });
                continue;
            }
            let Some((name, id)) = level.children.next() else {
                self.levels.pop();
                continue;
            };
            if self.tree.is_directory(id) {
                level.waiting.push((name, id));
            }
            return Some(([&self.path, &b"/"[..], name].concat(), id));
        }
    }
}
