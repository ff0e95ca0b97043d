//! Finds the paths of a tree that a pattern matches.

use std::collections::BTreeMap;

use super::{Follow, InodeId, ROOT, Rootfs};
use crate::glob::{Glob, Part};

impl Rootfs {
    /// Returns every path that `pattern` matches, sorted by bytes, with its inode. As in a shell, symbolic
    /// links that the pattern names are followed, except as the last component, and `**` enters no symbolic
    /// link.
    #[must_use]
    pub(crate) fn glob(&self, pattern: &Glob) -> Vec<(Vec<u8>, InodeId)> {
        // // a map, since `**` can reach a path in several ways
        let mut found = BTreeMap::from([(Vec::new(), ROOT)]);
        let mut after_any_depth = false;
        for part in pattern.parts() {
            let mut next = BTreeMap::new();
            for (path, id) in found {
                let directory =
                    if after_any_depth { id } else { self.resolve(&path, Follow::Last).unwrap_or(id) };
                if self.is_directory(directory) {
                    self.step_by(part, path, directory, &mut next);
                } else if *part == Part::AnyDepth {
                    next.insert(path, id);
                }
            }
            found = next;
            after_any_depth = *part == Part::AnyDepth;
        }
        let named = |(path, id): (Vec<u8>, InodeId)| (if path.is_empty() { b"/".to_vec() } else { path }, id);
        found.into_iter().map(named).collect()
    }

    fn step_by(&self, part: &Part, path: Vec<u8>, directory: InodeId, next: &mut BTreeMap<Vec<u8>, InodeId>) {
        let below = |name: &[u8]| [&path, &b"/"[..], name].concat();
        match part {
            Part::AnyDepth => {
                next.extend(self.walk_by_path(directory, &path));
                next.insert(path, directory);
            }
            Part::Name(name) => {
                let path = below(name);
                if let Ok(id) = self.resolve(&path, Follow::NotLast) {
                    next.insert(path, id);
                }
            }
            Part::Pattern(pattern) => {
                let fitting = self.children(directory).filter(|(name, _)| pattern.matches(name));
                next.extend(fitting.map(|(name, id)| (below(name), id)));
            }
        }
    }
}
