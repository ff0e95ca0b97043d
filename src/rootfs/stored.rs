//! The merged tree as bytes, so that a remount need not merge again.
//!
//! The bytes are the tables of [`Rootfs`] after a checksum; docs/index-format.md describes the layout.
//! They belong to one ordered list of layers, and the caller must know which: the bytes do not contain
//! it. Reading checks everything that walking the tree relies on: no file, however forged, makes a walk
//! endless or reads outside a table.

use std::io::{self, Write};
use std::sync::Arc;

pub(crate) use super::tables::RECORD_BYTES;
use super::tables::{SECTIONS, Tables};
use super::{Rootfs, Warnings};
use crate::bytes::{Bytes, CHECKSUM_BYTES, Sections};
use crate::error::{Error, Result, Subject};
use crate::fields::Fields;
use crate::layer::LayerId;
use crate::layer::table::LayerIndex;
use crate::sublist::Sublist;
use crate::warning::WarningKind;

/// First bytes of every stored tree.
const MAGIC: &[u8; 8] = b"IMGTREE\0";
/// Marks the record of a kind of warning that has the number of further warnings instead of a path.
const LEFT_OUT: u16 = 1 << 15;
/// Raised whenever the layout changes, or the result of merging the same layers.
pub(crate) const TREE_VERSION: u32 = 5;
/// Magic, version, 4 bytes of zero, the lengths, checksum.
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 4 + SECTIONS * 8 + CHECKSUM_BYTES;
/// Offset of the lengths in the header.
#[cfg(any(test, fuzzing))]
pub(crate) const LENGTHS_AT: usize = 8 + 4 + 4;

impl Rootfs {
    /// Writes the tree, without its layers.
    ///
    /// # Errors
    /// The errors of `out`.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&TREE_VERSION.to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        for len in self.tables.0.lengths() {
            head.extend_from_slice(&(len as u64).to_le_bytes());
        }
        self.tables.0.write_to(&head, out)
    }

    /// Reads the tree that [`Rootfs::write_to`] wrote for the same layers.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the bytes are truncated, damaged, of another version, or not a tree.
    pub(crate) fn from_bytes(
        bytes: impl Into<Bytes>,
        layers: impl Into<Sublist<Arc<LayerIndex>>>,
    ) -> Result<Self> {
        let bytes = bytes.into();
        let bad = |reason: &str| Error::malformed(Subject::MergedTree, reason);
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or_else(|| bad("shorter than the header"))?;
        let mut fields = Fields(header);
        if fields.array() != *MAGIC || fields.u32() != TREE_VERSION {
            return Err(bad("not a tree of this version"));
        }
        fields.u32();
        let lengths = [(); SECTIONS].map(|()| fields.u64());
        let tables = Tables(Sections::stored(bytes, HEADER_BYTES, lengths, RECORD_BYTES).map_err(bad)?);
        if !tables.are_sound() {
            return Err(bad("the tables are inconsistent"));
        }
        // The checks have read all pages, and most of them may not be needed again.
        tables.0.release();
        let warnings = read_warnings(tables.warnings()).ok_or_else(|| bad("unknown warning"))?;
        Ok(Rootfs { tables, layers: layers.into(), warnings })
    }
}

/// Encodes warnings one after the other: layer u16, kind u16, length u32, path. For each kind of which some were not
/// kept, a record of layer 0 follows; its path is their number, u64.
pub(super) fn pack_warnings(warnings: &Warnings) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut push = |layer: LayerId, code: u16, path: &[u8]| {
        let len = u32::try_from(path.len()).unwrap_or(0);
        bytes.extend_from_slice(&layer.0.to_le_bytes());
        bytes.extend_from_slice(&code.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(path.get(..len as usize).unwrap_or_default());
    };
    for (layer, warning) in warnings.kept() {
        push(*layer, warning.kind.code().into(), &warning.path);
    }
    for (kind, count) in warnings.left_out() {
        push(LayerId(0), LEFT_OUT | u16::from(kind.code()), &count.to_le_bytes());
    }
    bytes
}

fn read_warnings(mut section: &[u8]) -> Option<Warnings> {
    let mut warnings = Warnings::default();
    while !section.is_empty() {
        let (head, rest) = section.split_at_checked(8)?;
        let mut fields = Fields(head);
        let (layer, code, len) = (LayerId(fields.u16()), fields.u16(), fields.u32());
        let (path, rest) = rest.split_at_checked(len as usize)?;
        let kind = WarningKind::from_code(u8::try_from(code & !LEFT_OUT).ok()?)?;
        if code & LEFT_OUT == 0 {
            warnings.add(layer, kind, path.len(), || path.to_vec());
        } else {
            warnings.leave_out(kind, u64::from_le_bytes(path.try_into().ok()?));
        }
        section = rest;
    }
    Some(warnings)
}
