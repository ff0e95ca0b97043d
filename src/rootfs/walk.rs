//! Walks all names below a directory, in order.

use super::{InodeId, Rootfs};

impl Rootfs {
    /// Lists every name below a directory, and the directory itself: parents first, siblings sorted by
    /// bytes, in constant memory. Yields nothing for an inode that is not a directory, since such an inode
    /// can have several names.
    #[must_use]
    pub(crate) fn walk(&self, from: InodeId) -> Walk<'_> {
        let start = self.tables.directory(from).map(|_| from);
        Walk { tree: self, start, from, within: from, next: self.tables.range(from).start, path: Vec::new() }
    }
}

/// The iterator of [`Rootfs::walk`]. Yields the path (bytes, `/` for the root, no trailing slash) and
/// the inode.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    tree: &'a Rootfs,
    /// The first directory of the walk, until it is yielded.
    start: Option<InodeId>,
    from: InodeId,
    /// The current directory of the walk, and the index of its next dentry.
    within: InodeId,
    next: usize,
    /// The path of `within`; empty for the root.
    path: Vec<u8>,
}

impl Walk<'_> {
    /// Leaves directories that are complete. Returns `None` at the end of the walk.
    fn leave_finished(&mut self) -> Option<()> {
        let tables = &self.tree.tables;
        while self.next >= tables.range(self.within).end {
            if self.within == self.from {
                return None;
            }
            let done = tables.directory(self.within)?;
            let name = tables.name(done.dentry as usize);
            self.path.truncate(self.path.len().saturating_sub(name.len() + 1));
            self.within = done.parent;
            self.next = done.dentry as usize + 1;
        }
        Some(())
    }
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, InodeId);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(start) = self.start.take() {
            let path = self.tree.path(start);
            if path != b"/" {
                self.path.clone_from(&path);
            }
            return Some((path, start));
        }
        self.leave_finished()?;
        let tables = &self.tree.tables;
        let inode = tables.dentry(self.next)?.inode;
        let mut path = self.path.clone();
        path.push(b'/');
        path.extend_from_slice(tables.name(self.next));
        self.next += 1;
        if tables.directory(inode).is_some() {
            self.path.clone_from(&path);
            self.within = inode;
            self.next = tables.range(inode).start;
        }
        Some((path, inode))
    }
}
