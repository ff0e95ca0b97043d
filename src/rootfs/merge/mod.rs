//! Makes the merged tree: what a container would see of a stack of layers.
//!
//! Every layer's own tree is built first, from all of its entries, and then laid over what the
//! layers below it make up. Applying entries one by one to the merged tree would be wrong: a whiteout or
//! opaque mark is about lower layers only, wherever in its tar it stands. Where runtimes agree, they are
//! copied; where they refuse what the specification allows, it is accepted with a warning.
//!
//! This module owns whiteouts, opaque marks, replacement, implied parents, hard links and inode
//! numbers. It does not know where bytes are, or who will ask for them.

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
use crate::warning::{Warning, WarningKind};

pub(crate) use replay::{Before, Cause, Change, replay};

/// How marks are read, above all where runtimes and the specification do not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Semantics {
    /// What container runtimes show.
    #[default]
    Runtime,
    /// What the OCI image specification says.
    Oci,
    /// None are marks: whiteouts, opaque marks and aufs' own files show as they lie in the tar. For looking
    /// at a layer by itself.
    Literal,
}

/// How layers are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MergeOptions {
    /// Which reading counts.
    pub semantics: Semantics,
    /// An entry below a name that is a symbolic link in lower layers goes where that leads, instead of
    /// replacing the link by a directory.
    pub follow_dirlinks: bool,
}

/// Merges layers, the lowest first. The same layers and options give the same tree with the same
/// numbers every time.
///
/// # Errors
/// [`Error::Limit`] past [`MAX_LAYERS`](crate::layer::MAX_LAYERS), 2^32 names or 4 GiB of names.
pub(crate) fn merge(layers: Vec<Arc<LayerIndex>>, options: &MergeOptions) -> Result<Rootfs> {
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
    /// Reads a layer and makes it the topmost; gives what merging it noticed.
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

/// Each layer with its number.
fn numbered(layers: &[Arc<LayerIndex>]) -> Result<impl Iterator<Item = (LayerId, &Arc<LayerIndex>)>> {
    check_layers(Subject::Image, layers.len())?;
    Ok((0..).map(LayerId).zip(layers))
}

/// Why an entry has no place in the tree.
enum Fault {
    /// It is left out, and this is why.
    LeftOut(WarningKind),
    /// Nothing can be merged any more.
    Fatal(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Fatal(error)
    }
}
