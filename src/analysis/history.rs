//! What the layers of an image are, and what each of them did to one path.
//!
//! This module owns when a step of the image's history belongs to a layer (only if all do), and how the
//! life of a path is told. Paths are taken as they are written: links are not followed.

use std::sync::Arc;

use super::content::{Readable, same_bytes};
use super::thing::{Field, Thing};
use super::{PathBudget, ReadFile};
use crate::error::Result;
use crate::image::{HistoryEntry, ImageConfig};
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::rootfs::{Cause, Change, Inode, MergeOptions, Stood, replay};

/// A layer, a step of the history, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// The layer that the step made; `None` for a step that made none, and for one whose layer cannot be
    /// known.
    pub layer: Option<LayerId>,
    /// What the history says; `None` for a layer that it does not tell of.
    pub told: Option<&'a HistoryEntry>,
}

/// The steps that made an image, the oldest first. Where the history does not have exactly one step for
/// each layer nothing is guessed: the layers come first, without steps, and then the steps, without layers.
#[must_use]
pub fn steps(config: &ImageConfig) -> Vec<Step<'_>> {
    let layers = || (0..config.diff_ids.len()).map(|at| LayerId(u16::try_from(at).unwrap_or(u16::MAX)));
    if is_aligned(config) {
        let mut layers = layers();
        let step = |told: &'_ HistoryEntry| if told.empty_layer { None } else { layers.next() };
        let numbers: Vec<Option<LayerId>> = config.history.iter().map(step).collect();
        return numbers
            .into_iter()
            .zip(&config.history)
            .map(|(layer, told)| Step { layer, told: Some(told) })
            .collect();
    }
    let untold = layers().map(|layer| Step { layer: Some(layer), told: None });
    let homeless = config.history.iter().map(|told| Step { layer: None, told: Some(told) });
    untold.chain(homeless).collect()
}

/// Whether the history has exactly one step for each layer.
#[must_use]
pub fn is_aligned(config: &ImageConfig) -> bool {
    config.history.iter().filter(|step| !step.empty_layer).count() == config.diff_ids.len()
}

/// What a layer did to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The layer.
    pub layer: LayerId,
    /// What it did.
    pub action: Action,
    /// What is at the path after it. Names are not counted: `nlink` says nothing.
    pub after: Option<Inode>,
}

/// What can be done to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing had ever been there.
    Added,
    /// It had been there and was gone.
    ReAdded,
    /// It was there and differs now in these fields, ascending. None at all when the layer holds it again
    /// just as it was.
    Changed(Vec<Field>),
    /// A whiteout deleted it; the path is the one that the whiteout names: it, or a directory above it.
    Deleted(Arc<[u8]>),
    /// An opaque mark in this directory hid it.
    HiddenByOpaque(Arc<[u8]>),
    /// Something else took the place of this directory above it.
    HiddenByReplaced(Arc<[u8]>),
}

/// What each layer did to `path` (absolute, clean; `/` for the root), the lowest layer first. `files` is
/// asked where only bytes can tell whether the content changed.
///
/// # Errors
/// As [`replay`], and what `files` says.
pub fn of_path(
    layers: &[Arc<LayerIndex>],
    options: &MergeOptions,
    files: &dyn ReadFile,
    path: &[u8],
) -> Result<Vec<Event>> {
    let mut changes = Vec::new();
    let mut budget = PathBudget::default();
    replay(layers, options, &mut |change| {
        if change.path == path {
            budget.take(&change.path)?;
            changes.push(change);
        }
        Ok(())
    })?;
    let mut events = Vec::with_capacity(changes.len());
    for Change { layer, before, after, cause, .. } in changes {
        let action = match (before, after) {
            (None, Some(_)) if events.is_empty() => Action::Added,
            (None, Some(_)) => Action::ReAdded,
            (Some(Stood { inode, .. }), Some(after)) => {
                Action::Changed(differing(Thing::new(inode, layers), Thing::new(after, layers), files)?)
            }
            (_, None) => match cause {
                Cause::Whiteout(of) => Action::Deleted(of),
                Cause::Opaque(directory) => Action::HiddenByOpaque(directory),
                Cause::Replaced(directory) => Action::HiddenByReplaced(directory),
                // An entry never leaves nothing behind.
                Cause::Entry => continue,
            },
        };
        events.push(Event { layer, action, after });
    }
    Ok(events)
}

/// What differs between two things of one image.
fn differing(before: Thing<'_>, after: Thing<'_>, files: &dyn ReadFile) -> Result<Vec<Field>> {
    let compared = before.compare(&after);
    let mut fields = compared.fields;
    let readable = |thing| Readable { thing, from: files };
    if compared.undecided.is_some() && !same_bytes(readable(before), readable(after))? {
        fields.insert(0, Field::Content);
    }
    Ok(fields)
}
