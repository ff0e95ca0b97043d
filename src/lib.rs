//! Container images as mountable trees.
//!
//! imgmount opens a container image where it lies, indexes every layer once, merges the layers
//! as a container runtime would and serves the result read-only. Nothing is unpacked.
//!
//! Data flows one way, and a module uses only what stands to its left:
//!
//! ```text
//! error digest glob path read_at warning | compress | layer | image | source | rootfs | content | load | forest verify | fuse cli
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`error`], [`digest`], [`glob`], [`path`], [`read_at`], [`warning`] | leaves: what everything speaks |
//! | [`compress`] | how to re-enter a compressed stream |
//! | [`layer`] | one tar stream, indexed: entries, checkpoints, span hashes; the index on disk |
//! | [`image`] | what the image is: image index, manifest, config, platform choice |
//! | [`source`] | where bytes live: archives, layouts, directories; the reference grammar |
//! | [`rootfs`] | the merged tree, pure: no I/O, no clock, no errno, no log |
//! | [`content`] | bytes of a regular file: extents to verified spans to a copy |
//! | [`load`] | the engine: an image to indexed layers, a rootfs and its content |
//! | [`forest`] | one tree or several below one root, and their inode numbers |
//! | [`verify`] | which promises an image makes, and whether each is kept |
//! | [`fuse`] | the FUSE view, the only user of `fuser` |

pub mod compress;
pub mod content;
pub mod digest;
pub mod error;
pub mod forest;
pub mod fuse;
pub mod glob;
pub mod image;
pub mod layer;
pub mod load;
pub mod path;
pub mod read_at;
pub mod rootfs;
pub mod source;
pub mod verify;
pub mod warning;

pub use error::{Error, Result};
