//! What an image still carries although no container sees it: deleted and overwritten files.
//!
//! This module owns what counts as lost. Directories do not: a directory holds nothing but names, and
//! those of its files are listed one by one.

use std::sync::Arc;

use super::PathBudget;
use super::thing::Thing;
use crate::error::Result;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::{Cause, Inode, MergeOptions, replay};

/// A file (or link, device, pipe) that a later layer took out of sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Where it was.
    pub path: Vec<u8>,
    /// What it was. Names are not counted: `nlink` says nothing.
    pub inode: Inode,
    /// The layer that had it there.
    pub layer: LayerId,
    /// The layer that took it away.
    pub by: LayerId,
    /// How.
    pub how: How,
}

/// How something gets out of sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// By a whiteout of this path: its own, or that of a directory above it.
    Deleted(Arc<[u8]>),
    /// By an opaque mark in this directory.
    HiddenByOpaque(Arc<[u8]>),
    /// By something else in the place of this directory.
    HiddenByReplaced(Arc<[u8]>),
    /// By something else of the same name.
    Overwritten,
}

/// Whether what was replaced by something of the same name is asked for, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Only what was deleted or hidden.
    Deleted,
    /// Every earlier version as well.
    Overwritten,
}

/// Everything that later layers took out of sight, sorted by path and then by the layer that did so.
///
/// # Errors
/// As [`replay`]; [`crate::Error::Limit`] when there are too many paths to list.
pub fn find(layers: &[Arc<LayerIndex>], options: &MergeOptions, extent: Extent) -> Result<Vec<Lost>> {
    let mut lost = Vec::new();
    let mut budget = PathBudget::default();
    replay(layers, options, &mut |change| {
        let Some(stood) = change.before else { return Ok(()) };
        let how = match (change.after, change.cause) {
            (Some(_), _) | (None, Cause::Entry) => How::Overwritten,
            (None, Cause::Whiteout(of)) => How::Deleted(of),
            (None, Cause::Opaque(directory)) => How::HiddenByOpaque(directory),
            (None, Cause::Replaced(directory)) => How::HiddenByReplaced(directory),
        };
        let wanted = how != How::Overwritten || extent == Extent::Overwritten;
        if wanted && !Thing::new(stood.inode, layers).is_directory() {
            budget.take(&change.path)?;
            lost.push(Lost {
                path: change.path,
                inode: stood.inode,
                layer: stood.since,
                by: change.layer,
                how,
            });
        }
        Ok(())
    })?;
    lost.sort_by(|a, b| (&a.path, a.by).cmp(&(&b.path, b.by)));
    Ok(lost)
}
