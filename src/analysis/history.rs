//! Assigns build steps to layers, and lists what each layer did to one path.
//!
//! This module owns when a step of the image's history belongs to a layer (only if all steps can be
//! assigned), and which actions describe the changes of a path. Paths are used as written: symbolic
//! links are not followed.

use std::ops::Range;
use std::sync::Arc;

use super::content::{Readable, same_bytes};
use super::{Field, Inode, PathBudget, ReadFile};
use crate::error::Result;
use crate::image::{HistoryEntry, ImageConfig, ImageInfo, LayerOrigin};
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::{Cause, MergeOptions, Origin, replay};

/// A step of an image's history and the layer that it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step<'a> {
    /// The layer; `None` for a step that made no layer, and where the layer cannot be determined.
    pub layer: Option<LayerId>,
    /// The step in the image's config; `None` for a layer whose step cannot be determined.
    pub entry: Option<&'a HistoryEntry>,
}

/// Returns the steps that made an image, the oldest first, as [`steps`].
#[must_use]
pub(crate) fn of_info(info: &ImageInfo) -> Vec<Step<'_>> {
    let of_image = info.layers.iter().filter(|layer| layer.origin == LayerOrigin::Image).count();
    steps(&info.config, of_image, info.layers.len())
}

/// Returns the steps that made an image of `layers` layers, the oldest first. The first `of_image` of them are
/// those of the config; others, such as the writable layer of a container, have no step and come last. If the
/// history does not have exactly one step for each layer of the image, no step is assigned: the list then has
/// all layers without steps, followed by all steps without layers.
#[must_use]
pub(crate) fn steps(config: &ImageConfig, of_image: usize, layers: usize) -> Vec<Step<'_>> {
    let numbers = |range: Range<usize>| range.map(|at| LayerId(u16::try_from(at).unwrap_or(u16::MAX)));
    let without_step = |layer| Step { layer: Some(layer), entry: None };
    let below = || numbers(0..of_image);
    let above = numbers(of_image..layers).map(without_step);
    if is_aligned(config) && of_image == config.diff_ids.len() {
        let mut layers = below();
        let step = |entry: &'_ HistoryEntry| if entry.empty_layer { None } else { layers.next() };
        let numbers: Vec<Option<LayerId>> = config.history.iter().map(step).collect();
        return numbers
            .into_iter()
            .zip(&config.history)
            .map(|(layer, entry)| Step { layer, entry: Some(entry) })
            .chain(above)
            .collect();
    }
    let entries = config.history.iter().map(|entry| Step { layer: None, entry: Some(entry) });
    below().map(without_step).chain(above).chain(entries).collect()
}

/// Whether the history has exactly one step for each layer of the config.
#[must_use]
pub(crate) fn is_aligned(config: &ImageConfig) -> bool {
    config.history.iter().filter(|step| !step.empty_layer).count() == config.diff_ids.len()
}

/// A change that a layer made to a path.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The layer.
    pub layer: LayerId,
    /// The change.
    pub action: Action,
    /// The inode at the path after this layer; `None` where the layer removed it.
    pub after: Option<Inode<'a>>,
}

/// The kinds of change that a layer makes to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// The layer adds the path; no lower layer had it.
    Added,
    /// The layer adds the path again after a lower layer removed it.
    ReAdded,
    /// The layer has the path again, and these fields differ, ascending. Empty when nothing differs.
    Changed(Vec<Field>),
    /// A whiteout deletes the path. Holds the path that the whiteout names: this one or a directory above.
    Deleted(Arc<[u8]>),
    /// An opaque mark in this directory hides the path.
    HiddenByOpaque(Arc<[u8]>),
    /// An object of another type replaces this directory above the path.
    HiddenByReplaced(Arc<[u8]>),
}

impl Action {
    /// The name in output: `added`, `re-added`, `changed`, `unchanged`, `deleted`, `hidden-opaque` or
    /// `hidden-replaced`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Action::Added => "added",
            Action::ReAdded => "re-added",
            Action::Changed(fields) if fields.is_empty() => "unchanged",
            Action::Changed(_) => "changed",
            Action::Deleted(_) => "deleted",
            Action::HiddenByOpaque(_) => "hidden-opaque",
            Action::HiddenByReplaced(_) => "hidden-replaced",
        }
    }

    /// The path that a whiteout names, or the directory that hides the path.
    #[must_use]
    pub fn by(&self) -> Option<&[u8]> {
        match self {
            Action::Deleted(path) | Action::HiddenByOpaque(path) | Action::HiddenByReplaced(path) => {
                Some(path)
            }
            Action::Added | Action::ReAdded | Action::Changed(_) => None,
        }
    }
}

/// Lists what each layer did to `path` (absolute, clean; `/` for the root), the lowest layer first.
/// `files` reads contents where only bytes can tell whether the content changed.
///
/// # Errors
/// As [`replay`], and the errors of `files`.
pub(crate) fn of_path<'a>(
    layers: &'a [Arc<LayerIndex>],
    options: &MergeOptions,
    files: &dyn ReadFile,
    path: &[u8],
) -> Result<Vec<Event<'a>>> {
    let mut changes = Vec::new();
    let mut budget = PathBudget::new(options.limits);
    replay(layers, options, &mut |change| {
        if change.path == path {
            budget.take(change.path)?;
            changes.push((change.layer, change.before, change.after, change.cause));
        }
        Ok(())
    })?;
    let mut events = Vec::with_capacity(changes.len());
    for (layer, before, after, cause) in changes {
        let inode = |origin: Origin| Inode::new(origin.stat(layers), layers);
        let action = match (before, after) {
            (None, Some(_)) if events.is_empty() => Action::Added,
            (None, Some(_)) => Action::ReAdded,
            (Some(before), Some(after)) => {
                Action::Changed(differing(inode(before.inode), inode(after), files)?)
            }
            (_, None) => match cause {
                Cause::Whiteout(of) => Action::Deleted(of),
                Cause::Opaque(directory) => Action::HiddenByOpaque(directory),
                Cause::Replaced(directory) => Action::HiddenByReplaced(directory),
                // An entry always leaves an inode at its path.
                Cause::Entry => continue,
            },
        };
        events.push(Event { layer, action, after: after.map(inode) });
    }
    Ok(events)
}

/// Returns the fields in which two inodes of one image differ.
fn differing(before: Inode<'_>, after: Inode<'_>, files: &dyn ReadFile) -> Result<Vec<Field>> {
    let compared = before.compare(&after);
    let mut fields = compared.fields;
    let readable = |inode| Readable { inode, from: files };
    if compared.undecided.is_some() && !same_bytes(readable(before), readable(after))? {
        fields.insert(0, Field::Content);
    }
    Ok(fields)
}
