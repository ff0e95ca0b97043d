//! The engine: an image, loaded.

use crate::digest::Digest;
use crate::error::Result;
use crate::layer::LayerId;
use crate::rootfs::{InodeId, Rootfs};

/// What a view may want to tell of a layer.
#[derive(Debug, Clone)]
pub struct LayerInfo {
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The command that made it, when the image's history tells.
    pub created_by: Option<String>,
}

/// A loaded image: its merged tree and the bytes of its files.
#[derive(Debug)]
pub struct Tree {
    rootfs: Rootfs,
    layers: Vec<LayerInfo>,
}

#[expect(clippy::todo, clippy::missing_errors_doc, unused_variables, reason = "interface draft")]
impl Tree {
    /// The merged tree.
    pub fn rootfs(&self) -> &Rootfs {
        &self.rootfs
    }
    /// One layer.
    pub fn layer(&self, id: LayerId) -> Option<&LayerInfo> {
        self.layers.get(usize::from(id.0))
    }
    /// Fills `buf` from `offset` of a regular file; short only at its end. Thread-safe. Sequential
    /// readers get read-ahead.
    pub fn read_at(&self, file: InodeId, buf: &mut [u8], offset: u64) -> Result<usize> {
        todo!()
    }
}
