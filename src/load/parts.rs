//! Trees made from the layers of another tree, and trees that no image has: what `forest` shows besides the image.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::loaded::{LayerInfo, LoadedTree};
use crate::content::LayerBytes;
use crate::error::{Error, Result};
use crate::layer::LayerId;
use crate::rootfs::{MergeOptions, Rootfs, merge};

impl LoadedTree {
    /// A tree of layers that no image has.
    pub(crate) fn of_parts(rootfs: Rootfs, bytes: Vec<Arc<LayerBytes>>) -> Self {
        LoadedTree { first: 0, rootfs, layers: Vec::new(), bytes, warnings: Vec::new() }
    }

    /// Merges some layers of this tree, counted from its lowest, to a tree of their own. Nothing is read: both
    /// share the layers' indexes, readers and cached spans.
    ///
    /// # Errors
    /// [`Error::Reference`] when there are no such layers; as [`merge()`].
    pub(crate) fn part(&self, layers: RangeInclusive<u16>, options: &MergeOptions) -> Result<LoadedTree> {
        let (first, last) = (*layers.start(), *layers.end());
        let range = usize::from(first)..usize::from(last) + 1;
        let (Some(bytes), Some(layers)) = (self.bytes.get(range.clone()), self.layers.get(range)) else {
            let reason =
                format!("no such layer; the tree has {} layer(s), numbered from 0", self.layers.len());
            return Err(Error::Reference { text: last.to_string(), reason });
        };
        let indexes = bytes.iter().map(|layer| layer.reader().index().clone()).collect();
        Ok(LoadedTree {
            first: self.first.saturating_add(first),
            rootfs: merge(indexes, options)?,
            layers: layers.to_vec(),
            bytes: bytes.to_vec(),
            warnings: Vec::new(),
        })
    }

    /// What is known of a layer that the rootfs names.
    #[must_use]
    pub(crate) fn layer(&self, id: LayerId) -> Option<&LayerInfo> {
        self.layers.get(usize::from(id.0))
    }
}
