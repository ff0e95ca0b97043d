//! Resolves paths as a kernel does for a process whose root directory is the tree.

use super::{Follow, InodeId, ROOT, Rootfs};
use crate::error::{Error, PathFault, Result};
use crate::path::escape;

/// The maximum number of symbolic links in one lookup: `MAXSYMLINKS` of Linux (namei.h).
const MAX_SYMLINKS: u32 = 40;

impl Rootfs {
    /// Resolves a path from the root; `..` stays inside the root, as in a container. An empty path is the
    /// root. A trailing slash requires a directory, and follows a symbolic link to one.
    ///
    /// # Errors
    /// [`Error::Path`] if the path does not exist, if a component is not a directory, or after more than 40
    /// symbolic links.
    pub(crate) fn resolve(&self, path: &[u8], follow: Follow) -> Result<InodeId> {
        self.follow_path(path, follow).map_err(|reason| Error::Path { path: escape(path), reason })
    }

    fn follow_path(&self, path: &[u8], follow: Follow) -> Result<InodeId, PathFault> {
        let mut at = ROOT;
        let mut links = 0;
        // The unresolved rest of the path and of every link on the way, the innermost last.
        let mut ahead = vec![path];
        while let Some(rest) = ahead.pop() {
            let Some((name, rest)) = next_component(rest) else { continue };
            if !rest.is_empty() {
                ahead.push(rest);
            }
            let child = self.step(at, name)?;
            match self.target(child) {
                Some(target) if follow == Follow::Last || !ahead.is_empty() => {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(PathFault::SymlinkLoop);
                    }
                    if target.is_empty() {
                        return Err(PathFault::NotFound);
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    ahead.push(target);
                }
                _ => at = child,
            }
        }
        Ok(at)
    }

    fn step(&self, from: InodeId, name: &[u8]) -> Result<InodeId, PathFault> {
        if !self.is_directory(from) {
            return Err(PathFault::NotADirectory);
        }
        match name {
            b"." => Ok(from),
            b".." => Ok(self.parent(from)),
            _ => self.lookup(from, name).ok_or(PathFault::NotFound),
        }
    }
}

/// Splits a path into its first component and the rest. A trailing slash counts as one more component,
/// `.`, which only a directory has.
fn next_component(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = path.iter().position(|byte| *byte != b'/')?;
    let path = path.get(start..)?;
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    let (name, rest) = path.split_at_checked(end)?;
    let only_slashes = !rest.is_empty() && rest.iter().all(|byte| *byte == b'/');
    Some((name, if only_slashes { b"." } else { rest }))
}
