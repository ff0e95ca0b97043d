//! Lists every path below a directory, sorted by the bytes of the whole path.
//!
//! This order differs from that of a plain walk: `a.txt` comes before `a/x`, because a dot sorts before
//! a slash. The contents of a directory thus have to wait for some of its siblings. The waiting
//! directories are kept in a stack. Each name in the stack begins with the name below it, so the stack
//! never holds more names than a name has bytes.

use std::iter::Peekable;

use super::{Children, InodeId, Rootfs};

impl Rootfs {
    /// Lists every path below the directory `from`, sorted by bytes. The memory that this takes grows only
    /// with the depth of the tree. The directory itself is not listed, and the paths begin with `prefix`
    /// instead of its path.
    #[must_use]
    pub(crate) fn walk_by_path(&self, from: InodeId, prefix: &[u8]) -> ByPath<'_> {
        let level =
            Level { path_bytes: prefix.len(), children: self.children(from).peekable(), waiting: vec![] };
        ByPath { tree: self, path: prefix.to_vec(), levels: vec![level] }
    }
}

/// The iterator of [`Rootfs::walk_by_path`]. Yields the path and the inode.
#[derive(Debug)]
pub(crate) struct ByPath<'a> {
    tree: &'a Rootfs,
    /// The path of the innermost level's directory, followed by the name that was appended last.
    path: Vec<u8>,
    levels: Vec<Level<'a>>,
}

/// A directory that is being listed.
#[derive(Debug)]
struct Level<'a> {
    /// Length of the directory's path, in bytes.
    path_bytes: usize,
    children: Peekable<Children<'a>>,
    /// Directories of this level that were yielded and whose contents were not; the next to list is last.
    waiting: Vec<(&'a [u8], InodeId)>,
}

impl<'a> Level<'a> {
    /// Returns the directory whose contents come before the next child.
    fn due(&mut self) -> Option<(&'a [u8], InodeId)> {
        let (name, _) = self.waiting.last()?;
        match self.children.peek() {
            Some((next, _)) if !follows_contents(next, name) => None,
            _ => self.waiting.pop(),
        }
    }
}

/// Whether `next`, which sorts after `name`, also sorts after all paths below `name`.
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
