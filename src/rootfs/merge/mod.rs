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

use super::{EntryAt, Rootfs, stored};
use crate::error::{Error, Result, Subject};
use crate::layer::table::LayerIndex;
use crate::layer::{LayerId, check_layers};
use crate::limits::Limits;
use crate::sublist::Sublist;
use crate::warning::{Warning, WarningKind};

pub(crate) use replay::{Before, Cause, Change, replay};

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
    let layers = layers.into();
    let mut merged = over::Merged::new(&layers);
    let mut warnings = Vec::new();
    for (layer, index) in numbered(&layers)? {
        let noticed = merged.add_layer(layer, index, options)?;
        warnings.extend(index.warnings().chain(noticed).map(|warning| (layer, warning)));
    }
    let tables = flat::flatten(merged, stored::pack_warnings(&warnings))?;
    Ok(Rootfs { tables, layers, warnings })
}

impl<'a> over::Merged<'a> {
    /// Reads a layer and makes it the topmost layer. Returns the warnings of merging it.
    fn add_layer(
        &mut self,
        layer: LayerId,
        index: &'a LayerIndex,
        options: &MergeOptions,
    ) -> Result<Vec<Warning>> {
        let reader = own::LayerMerge::new(layer, options, &self.tree, &mut self.objects, index.entry_count());
        let mut own = reader.read(index)?;
        let mut warnings = std::mem::take(&mut own.warnings);
        warnings.extend(self.lay_over(own, layer, options)?);
        Ok(warnings)
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
