//! The warnings about a tree: all are counted, and the first of each kind are kept.

use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::warning::{Tally, Warning, WarningKind};

/// Warnings with their layers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Warnings {
    kept: Vec<(LayerId, Warning)>,
    tally: Tally,
    is_ignoring: bool,
}

impl Warnings {
    /// Returns a list that stays empty: nobody sees the warnings about the states of `--view all`, and each state
    /// has those of all layers below.
    pub(crate) fn ignored() -> Self {
        Warnings { is_ignoring: true, ..Warnings::default() }
    }

    /// Counts a warning, and keeps it if it is one of the first of its kind. `path` is called only then; `len` is
    /// the length of the path in bytes.
    pub(crate) fn add(
        &mut self,
        layer: LayerId,
        kind: WarningKind,
        len: usize,
        path: impl FnOnce() -> Vec<u8>,
    ) {
        if self.is_ignoring {
            return;
        }
        if let Some(len) = self.tally.admit(kind, len) {
            let mut path = path();
            path.truncate(len);
            self.kept.push((layer, Warning { kind, path }));
        }
    }

    /// Adds the warnings of an index.
    pub(super) fn add_index(&mut self, layer: LayerId, index: &LayerIndex) {
        for warning in index.warnings() {
            self.add(layer, warning.kind, warning.path.len(), || warning.path);
        }
        index.warnings_left_out().for_each(|(kind, count)| self.leave_out(kind, count));
    }

    /// Adds the warnings of another list.
    pub(crate) fn append(&mut self, other: &Warnings) {
        for (layer, warning) in &other.kept {
            self.add(*layer, warning.kind, warning.path.len(), || warning.path.clone());
        }
        other.tally.left_out().for_each(|(kind, count)| self.leave_out(kind, count));
    }

    /// Counts warnings without keeping any.
    pub(super) fn leave_out(&mut self, kind: WarningKind, count: u64) {
        if !self.is_ignoring {
            self.tally.leave_out(kind, count);
        }
    }

    /// Sorts the warnings by their layers, and adds `first` to the number of each layer.
    pub(crate) fn sort_above(&mut self, first: u16) {
        self.kept.sort_by_key(|(layer, _)| *layer);
        for (layer, _) in &mut self.kept {
            layer.0 = layer.0.saturating_add(first);
        }
    }

    /// Returns the warnings that were kept.
    pub(crate) fn kept(&self) -> &[(LayerId, Warning)] {
        &self.kept
    }

    /// Returns the number of warnings of each kind that occurs, including those that were not kept.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (WarningKind, u64)> {
        self.tally.counts()
    }

    /// Returns the number of warnings of each kind that were not kept, if there are any.
    pub(super) fn left_out(&self) -> impl Iterator<Item = (WarningKind, u64)> {
        self.tally.left_out()
    }
}
