//! Merges layers into the tree that a container would see.
//!
//! The tree of each layer is built first, from all of its entries, and is then laid over the merged
//! tree of the layers below. Applying entries one by one to the merged tree would be wrong: a whiteout
//! or opaque mark affects lower layers only, whatever its position in its tar. Where container runtimes
//! agree, their behaviour is copied. Where they refuse what the specification allows, the entry is
//! accepted with a warning.
//!
//! This module owns whiteouts, opaque marks, replacement, implied parents, hard links and inode
//! numbers. It must not know where bytes are stored, or which view reads them.

mod flat;
mod links;
mod names;
mod over;
mod own;
mod replay;
mod tree;

use std::sync::Arc;

use super::{EntryAt, Rootfs, Warnings, stored};
use crate::error::{Error, Result, Subject};
use crate::layer::table::LayerIndex;
use crate::layer::{LayerId, check_layers};
use crate::limits::Limits;
use crate::sublist::Sublist;
use crate::warning::WarningKind;

pub(crate) use replay::{Before, Cause, replay};

/// How whiteouts and opaque marks are read, above all where runtimes and the specification disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Semantics {
    /// As container runtimes do. This is the default.
    #[default]
    Runtime,
    /// As the OCI image specification says.
    Oci,
    /// As ordinary files: whiteouts, opaque marks and aufs' own files appear as they are in the tar. Meant
    /// for inspecting a single layer.
    Literal,
}

/// How layers are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MergeOptions {
    /// How whiteouts and opaque marks are read.
    pub semantics: Semantics,
    /// Place an entry below a name that is a symbolic link in lower layers in the directory that the link
    /// leads to, instead of replacing the link by a directory.
    pub follow_dirlinks: bool,
    /// Limits on the tree, and on answers about it.
    pub limits: Limits,
}

/// Merges layers, the lowest first. The same layers and options always give the same tree with the same
/// inode numbers.
///
/// # Errors
/// [`Error::Limit`] past [`MAX_LAYERS`](crate::layer::MAX_LAYERS), 2^32 names or 4 GiB of names.
pub(crate) fn merge(layers: impl Into<Sublist<Arc<LayerIndex>>>, options: &MergeOptions) -> Result<Rootfs> {
    merge_noting(layers.into(), options, Warnings::default())
}

/// Merges as [`merge`], without the warnings.
///
/// # Errors
/// As [`merge`].
#[cfg(feature = "fuse")]
pub(crate) fn merge_quietly(layers: Sublist<Arc<LayerIndex>>, options: &MergeOptions) -> Result<Rootfs> {
    merge_noting(layers, options, Warnings::ignored())
}

fn merge_noting(
    layers: Sublist<Arc<LayerIndex>>,
    options: &MergeOptions,
    warnings: Warnings,
) -> Result<Rootfs> {
    let mut merged = over::Merged::new(&layers, warnings);
    for (layer, index) in numbered(&layers)? {
        merged.account.warnings.add_index(layer, index);
        merged.add_layer(layer, index, options)?;
    }
    let warnings = std::mem::take(&mut merged.account.warnings);
    let tables = flat::flatten(merged, stored::pack_warnings(&warnings))?;
    Ok(Rootfs { tables, layers, warnings })
}

/// What is counted over all layers.
#[derive(Debug, Default)]
struct Account {
    /// The number of entries of the layers so far.
    entries: u64,
    /// The number of directories that only names implied, in the layers so far.
    implied_directories: u64,
    warnings: Warnings,
}

impl<'a> over::Merged<'a> {
    /// Reads a layer and makes it the topmost layer.
    fn add_layer(&mut self, layer: LayerId, index: &'a LayerIndex, options: &MergeOptions) -> Result<()> {
        self.account.entries = self.account.entries.saturating_add(index.entry_count().into());
        let place = (layer, index.entry_count());
        let reader = own::LayerMerge::new(place, options, &self.tree, &mut self.objects, &mut self.account);
        let own = reader.read(index)?;
        self.lay_over(own, layer, options)
    }
}

/// Returns each layer with its number. Fails if there are too many layers.
fn numbered(layers: &[Arc<LayerIndex>]) -> Result<impl Iterator<Item = (LayerId, &Arc<LayerIndex>)>> {
    check_layers(Subject::Image, layers.len())?;
    Ok((0..).map(LayerId).zip(layers))
}

/// Why an entry has no place in the tree.
enum Fault {
    /// The entry is left out, with this warning.
    LeftOut(WarningKind),
    /// Merging cannot continue.
    Fatal(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Fatal(error)
    }
}
