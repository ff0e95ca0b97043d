//! The merged tree: what a container would see, as inodes and names.
//!
//! Pure: no I/O, no clock, no errno, no log. It refers to layer indexes for link targets, extended
//! attributes and extents, and owns names, attributes and numbers. This module is the tree as it is
//! read; [`merge`](mod@merge) makes it.

use std::sync::Arc;

use crate::error::Result;
use crate::layer::entry::{DeviceNumber, FileData, Meta, Xattrs};
use crate::layer::table::LayerIndex;
use crate::layer::{EntryId, LayerId};
use crate::warning::Warning;

/// An object of the rootfs; hard links share one. The root is 0, and numbers are the same every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeId(pub u32);

/// The root directory.
pub const ROOT: InodeId = InodeId(0);

/// An entry of one of the image's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryAt {
    /// Which layer.
    pub layer: LayerId,
    /// Which of its entries.
    pub entry: EntryId,
}

/// What an inode is, and where the rest of it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InodeKind {
    /// A regular file, whose bytes this entry holds.
    File(EntryAt),
    /// A directory.
    Directory,
    /// A symbolic link, whose target this entry holds.
    Symlink(EntryAt),
    /// A character device.
    Char(DeviceNumber),
    /// A block device.
    Block(DeviceNumber),
    /// A named pipe.
    Fifo,
}

/// One inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: InodeKind,
    /// Mode, owner, time.
    pub meta: Meta,
    /// Number of names; for a directory 2 and one for each subdirectory.
    pub nlink: u32,
    /// The layer that this inode's own entry is in: where it came from. An implied directory (one that
    /// only its children's names tell of) has that of its attributes, or of what implied it.
    pub layer: LayerId,
    /// The entry whose extended attributes it has, if it has any.
    pub xattrs: Option<EntryAt>,
}

/// Whether a path's last component is followed when it is a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// As `stat` does.
    Last,
    /// As `lstat` does.
    NotLast,
}

/// The merged tree.
#[derive(Debug)]
pub struct Rootfs {
    _private: (),
}

#[expect(clippy::todo, clippy::missing_errors_doc, unused_variables, reason = "interface draft")]
impl Rootfs {
    /// How many inodes there are; they are numbered from 0.
    pub fn inode_count(&self) -> u32 {
        todo!()
    }
    /// One inode.
    pub fn inode(&self, id: InodeId) -> Option<&Inode> {
        todo!()
    }
    /// The child of a directory by its name.
    pub fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        todo!()
    }
    /// The children of a directory, sorted by bytes. Empty for everything else.
    pub fn children(&self, directory: InodeId) -> Children<'_> {
        todo!()
    }
    /// The directory that holds a directory; the root's is the root.
    pub fn parent(&self, directory: InodeId) -> InodeId {
        todo!()
    }
    /// Where a symbolic link leads; `None` for everything else.
    pub fn target(&self, id: InodeId) -> Option<&[u8]> {
        todo!()
    }
    /// Where a regular file's bytes are; `None` for everything else.
    pub fn file(&self, id: InodeId) -> Option<(LayerId, FileData<'_>)> {
        todo!()
    }
    /// The extended attributes.
    pub fn xattrs(&self, id: InodeId) -> Xattrs<'_> {
        todo!()
    }
    /// Size in bytes as `stat` gives it: a file's logical size, a link's target length, else 0.
    pub fn size(&self, id: InodeId) -> u64 {
        todo!()
    }
    /// Follows a path from the root, clamped to the root as in a container.
    pub fn resolve(&self, path: &[u8], follow: Follow) -> Result<InodeId> {
        todo!()
    }
    /// Every name below (and with) a directory, parents first, siblings sorted by bytes, in constant memory.
    pub fn walk(&self, from: InodeId) -> Walk<'_> {
        todo!()
    }
    /// The layers that it was merged from.
    pub fn layers(&self) -> &[Arc<LayerIndex>] {
        todo!()
    }
    /// What merging (and reading the layers) noticed, layer by layer.
    pub fn warnings(&self) -> &[(LayerId, Warning)] {
        todo!()
    }
}

/// The children of a directory: see [`Rootfs::children`]. Also gives its length and can start at a position.
#[derive(Debug)]
pub struct Children<'a> {
    _tree: &'a Rootfs,
}

#[expect(clippy::todo, reason = "interface draft")]
impl<'a> Iterator for Children<'a> {
    type Item = (&'a [u8], InodeId);
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// See [`Rootfs::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    _tree: &'a Rootfs,
}

#[expect(clippy::todo, reason = "interface draft")]
impl Iterator for Walk<'_> {
    /// The path (bytes, "/" for the root, no trailing slash) and the inode.
    type Item = (Vec<u8>, InodeId);
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
