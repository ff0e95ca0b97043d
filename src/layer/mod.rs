//! One layer, indexed.
//!
//! ```text
//! pass (tar + digests + checkpoints)  ->  table  <->  stored
//!                                           |
//!                                         reader  ->  checked spans
//! ```
//!
//! [`tar`] turns bytes into entries without touching a file; [`index`] makes one pass over a layer
//! and keeps what it learned in a [`table`]; [`stored`] is the form of that in a file; [`reader`] gives bytes
//! back.
//! Nothing in here knows other layers, whiteouts or the image: that is for [`crate::rootfs`].

pub(crate) mod copy;
pub(crate) mod entry;
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

/// The position of a layer in its image, from 0, the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

/// Limit of the layers of one image: every layer costs an open index. Engines stop at 127 or 500.
pub(crate) const MAX_LAYERS: usize = 4096;

/// Checks that `count` layers are not too many for one image. `subject` has that many in the error.
///
/// # Errors
/// [`Error::Limit`] past [`MAX_LAYERS`].
pub(crate) fn check_layers(subject: Subject, count: usize) -> Result<()> {
    if count <= MAX_LAYERS {
        return Ok(());
    }
    Err(Error::limit(subject, "MAX_LAYERS", count as u64, MAX_LAYERS as u64))
}

/// The position of an entry in its layer, in tar order from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(pub u32);

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
