//! One layer: its index, and reading its bytes.
//!
//! ```text
//! pass (tar + digests + checkpoints)  ->  table  <->  stored
//!                                           |
//!                                         reader  ->  checked spans
//! ```
//!
//! [`tar`] parses bytes into entries and does no I/O. [`index`] makes one pass over a layer and stores the
//! results in a [`table`]; [`stored`] is the form of that table in a file. [`reader`] reads spans of the
//! uncompressed tar.
//!
//! This module owns what can be known from one layer alone. It must not know other layers, the meaning of
//! whiteouts, or the image; [`crate::rootfs`] does.

pub(crate) mod copy;
pub(crate) mod entry;
pub(crate) mod growth;
pub(crate) mod index;
mod pass;
pub(crate) mod reader;
pub(crate) mod scan;
pub(crate) mod stored;
pub(crate) mod table;
pub(crate) mod tar;
pub(crate) mod windows;
pub(crate) mod xattr;

use crate::error::{Error, Result, Subject};

/// The position of a layer in its image. The lowest layer is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

/// Maximum number of layers of one image, because every layer needs an open index. The limits of engines are
/// 127 or 500 layers.
pub(crate) const MAX_LAYERS: usize = 4096;

/// Checks that `count` layers are not too many for one image. `subject` is the object of the error.
///
/// # Errors
/// [`Error::Limit`] past [`MAX_LAYERS`].
pub(crate) fn check_layers(subject: Subject, count: usize) -> Result<()> {
    if count <= MAX_LAYERS {
        return Ok(());
    }
    Err(Error::limit(subject, "MAX_LAYERS", count as u64, MAX_LAYERS as u64))
}

/// The position of an entry in its layer, in tar order, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(pub u32);

#[cfg(any(test, fuzzing))]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
