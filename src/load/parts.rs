//! More trees from a loaded one: its earlier states, its layers by themselves, and documents beside it.
//!
//! Nothing is read for them. They share the layers' indexes, readers and cached spans with the tree that they
//! come from; what they have of their own is names and attributes.

use std::ops::Range;
use std::sync::Arc;

use super::Tree;
use crate::compress::Compression;
use crate::content::LayerBytes;
use crate::content::cache::SpanCache;
use crate::error::{Error, Result, Subject};
use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Meta, Stored, Timestamp, Xattrs};
use crate::layer::index::Verify;
use crate::layer::reader::LayerReader;
use crate::layer::stored::StoredIndex;
use crate::layer::table::{Facts, IndexBuilder};
use crate::rootfs::{MergeOptions, Semantics, merge::merge};

/// Span length of documents, in bytes; most are one span.
const SPAN_BYTES: usize = 1 << 20;
/// Mode of directories that no layer describes.
const DIRECTORY_MODE: u16 = 0o755;
/// Mode of documents: nobody can change them.
const DOCUMENT_MODE: u16 = 0o444;

/// Something that is in no layer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Extra<'a> {
    /// A directory of this path.
    Directory(&'a str),
    /// A file of this path, and its bytes.
    Document(&'a str, &'a [u8]),
}

impl Tree {
    /// The state after layer `last` of this tree, counted from its lowest.
    ///
    /// # Errors
    /// [`Error::Reference`] when there is no such layer; as [`merge`].
    pub fn state(&self, last: u16, options: &MergeOptions) -> Result<Tree> {
        self.part(0..usize::from(last) + 1, options)
    }

    /// One layer of this tree, counted from its lowest, with its whiteouts as the files that they are in its
    /// tar.
    ///
    /// # Errors
    /// As [`Tree::state`].
    pub fn layer_as_stored(&self, layer: u16) -> Result<Tree> {
        let options = MergeOptions { semantics: Semantics::Literal, ..MergeOptions::default() };
        self.part(usize::from(layer)..usize::from(layer) + 1, &options)
    }

    fn part(&self, range: Range<usize>, options: &MergeOptions) -> Result<Tree> {
        let (Some(bytes), Some(layers)) = (self.bytes.get(range.clone()), self.layers.get(range.clone()))
        else {
            let reason = format!("the tree has {} layers, numbered from 0", self.layers.len());
            return Err(Error::Reference { text: range.end.saturating_sub(1).to_string(), reason });
        };
        let indexes = bytes.iter().map(|layer| layer.reader().index().clone()).collect();
        Ok(Tree {
            first: self.first.saturating_add(u16::try_from(range.start).unwrap_or(u16::MAX)),
            rootfs: merge(indexes, options)?,
            layers: layers.to_vec(),
            bytes: bytes.to_vec(),
            warnings: Vec::new(),
        })
    }

    /// A tree of things that are in no layer; [`Tree::layer`] knows none for them.
    pub(crate) fn of_extras(extras: &[Extra<'_>]) -> Result<Tree> {
        let mut builder = IndexBuilder::new();
        let mut bytes = Vec::new();
        for extra in extras {
            let (name, kind, mode) = match extra {
                Extra::Directory(name) => (name, EntryKind::Directory, DIRECTORY_MODE),
                Extra::Document(name, content) => {
                    let extent = Extent { offset: bytes.len() as u64, len_bytes: content.len() as u64 };
                    bytes.extend_from_slice(content);
                    let data = FileData { size: extent.len_bytes, stored: Stored::Contiguous(extent) };
                    (name, EntryKind::File(data), DOCUMENT_MODE)
                }
            };
            let meta = Meta { mode, uid: 0, gid: 0, mtime: Timestamp::default() };
            let name = name.as_bytes();
            let entry = Entry { header_offset: 0, name, kind, meta, xattrs: Xattrs::default() };
            builder.push_entry(&entry).map_err(|fault| fault.of(&Subject::Image))?;
        }
        let mut offset = 0;
        for span in bytes.chunks(SPAN_BYTES) {
            builder.push_span(offset, Some(*blake3::hash(span).as_bytes()), None);
            offset += span.len() as u64;
        }
        let index = Arc::new(builder.finish(Facts {
            diff_id: None,
            blob_digest: None,
            blob_bytes: offset,
            compression: Compression::Plain,
            tar_bytes: offset,
            copy_bytes: 0,
        }));
        let rootfs = merge(vec![index.clone()], &MergeOptions::default())?;
        let stored = StoredIndex { index, windows: Arc::new(Vec::new()), copy: None };
        let cache = Arc::new(SpanCache::new(SPAN_BYTES));
        let reader = LayerReader::new(Subject::Image, stored, Arc::new(bytes), Verify::Full);
        Ok(Tree {
            first: 0,
            rootfs,
            layers: Vec::new(),
            bytes: vec![Arc::new(LayerBytes::new(reader, cache, None))],
            warnings: Vec::new(),
        })
    }
}
