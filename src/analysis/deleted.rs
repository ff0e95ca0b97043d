//! Finds the files that an image still holds although no container sees them: deleted and overwritten
//! files.
//!
//! This module decides which objects are listed. Directories are not listed; their files are listed one
//! by one. It must not know output formats.

use std::sync::Arc;

use super::{Inode, PathBudget};
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::{Cause, MergeOptions, replay};

/// A file, link, device or named pipe that a later layer removed from the tree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeletedFile<'a> {
    /// The path of the file before its removal, in bytes.
    pub path: Vec<u8>,
    /// The removed object.
    pub inode: Inode<'a>,
    /// The layer that had the file at this path.
    pub layer: LayerId,
    /// The layer that removed it.
    pub removed_by: LayerId,
    /// How the layer removed it.
    pub removal: Removal,
}

/// The ways in which a layer removes an object of a lower layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// A whiteout names this path: the object's own or that of a directory above it.
    Deleted(Arc<[u8]>),
    /// An opaque mark in this directory hides the object.
    HiddenByOpaque(Arc<[u8]>),
    /// An object of another type replaces this directory above the path.
    HiddenByReplaced(Arc<[u8]>),
    /// An object of the same path replaces it.
    Overwritten,
}

impl Removal {
    /// The name in output: `deleted`, `hidden-opaque`, `hidden-replaced` or `overwritten`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Removal::Deleted(_) => "deleted",
            Removal::HiddenByOpaque(_) => "hidden-opaque",
            Removal::HiddenByReplaced(_) => "hidden-replaced",
            Removal::Overwritten => "overwritten",
        }
    }

    /// The path that a whiteout names, or the directory that hides the object.
    #[must_use]
    pub fn by(&self) -> Option<&[u8]> {
        match self {
            Removal::Deleted(path) | Removal::HiddenByOpaque(path) | Removal::HiddenByReplaced(path) => {
                Some(path)
            }
            Removal::Overwritten => None,
        }
    }
}

/// Which removed files [`Image::deleted`](crate::Image::deleted) lists.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct DeletedOptions {
    /// List earlier versions of overwritten files, too. Off by default.
    pub overwritten: bool,
}

impl DeletedOptions {
    /// Lists earlier versions of overwritten files, too.
    #[must_use]
    pub fn overwritten(self, overwritten: bool) -> Self {
        DeletedOptions { overwritten }
    }
}

/// Lists the files that later layers removed, sorted by path and then by the layer that removed them.
///
/// # Errors
/// As [`replay`]; [`crate::Error::Limit`] if the paths are too long in total.
pub(crate) fn find<'a>(
    layers: &'a [Arc<LayerIndex>],
    merge: &MergeOptions,
    options: DeletedOptions,
) -> Result<Vec<DeletedFile<'a>>> {
    let mut found = Vec::new();
    let mut budget = PathBudget::new(merge.limits);
    replay(layers, merge, &mut |change| {
        let Some(stood) = change.before else { return Ok(()) };
        let removal = match (change.after, change.cause) {
            (Some(_), _) | (None, Cause::Entry) => Removal::Overwritten,
            (None, Cause::Whiteout(of)) => Removal::Deleted(of),
            (None, Cause::Opaque(directory)) => Removal::HiddenByOpaque(directory),
            (None, Cause::Replaced(directory)) => Removal::HiddenByReplaced(directory),
        };
        let wanted = removal != Removal::Overwritten || options.overwritten;
        let inode = Inode::new(stood.inode, layers);
        if wanted && !inode.is_directory() {
            budget.take(&change.path)?;
            found.push(DeletedFile {
                path: change.path,
                inode,
                layer: stood.since,
                removed_by: change.layer,
                removal,
            });
        }
        Ok(())
    })?;
    found.sort_by(|a, b| (&a.path, a.removed_by).cmp(&(&b.path, b.removed_by)));
    Ok(found)
}
