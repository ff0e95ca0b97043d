//! Trees made from the layers of another tree, and trees that belong to no image. `forest` uses both.
//!
//! This module owns how a subset of layers becomes a tree. It does not know which trees are shown.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::loaded::{LayerInfo, LoadedTree};
use crate::content::LayerBytes;
use crate::error::{Error, Result};
use crate::layer::LayerId;
use crate::rootfs::{MergeOptions, Rootfs, Warnings, merge_quietly};

impl LoadedTree {
    /// Returns a tree of layers that belong to no image.
    pub(crate) fn of_parts(rootfs: Rootfs, bytes: Vec<Arc<LayerBytes>>) -> Self {
        LoadedTree {
            first: 0,
            rootfs,
            layers: Vec::new().into(),
            bytes: bytes.into(),
            warnings: Warnings::default(),
        }
    }

    /// Merges a range of the layers of this tree, counted from its lowest, into a new tree. Nothing is read:
    /// both trees share the lists of layers, indexes, readers and cached spans.
    ///
    /// # Errors
    /// [`Error::Reference`] when the range is not within the layers of this tree; as [`merge_quietly`].
    pub(crate) fn part(&self, layers: RangeInclusive<u16>, options: &MergeOptions) -> Result<LoadedTree> {
        let (first, last) = (*layers.start(), *layers.end());
        let range = usize::from(first)..usize::from(last) + 1;
        let indexes = self.rootfs.layers().part(range.clone());
        let parts = (indexes, self.bytes.part(range.clone()), self.layers.part(range));
        let (Some(indexes), Some(bytes), Some(layers)) = parts else {
            let reason =
                format!("no such layer; the tree has {} layer(s), numbered from 0", self.layers.len());
            return Err(Error::Reference { text: last.to_string(), reason });
        };
        Ok(LoadedTree {
            first: self.first.saturating_add(first),
            rootfs: merge_quietly(indexes, options)?,
            layers,
            bytes,
            warnings: Warnings::default(),
        })
    }

    /// Returns the facts about a layer that the rootfs names.
    #[must_use]
    pub(crate) fn layer(&self, id: LayerId) -> Option<&LayerInfo> {
        self.layers.get(usize::from(id.0))
    }
}
