//! Builds a tree of directories and documents that belong to no layer.
//!
//! This module owns the attributes of these objects. It does not know why they have their names: `forest`
//! owns the names.

use std::sync::Arc;

use crate::compress::{Compression, DecoderMemory};
use crate::content::LayerBytes;
use crate::content::cache::SpanCache;
use crate::error::{Result, Subject};
use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Meta, Stored, Timestamp, Xattrs};
use crate::layer::index::Verify;
use crate::layer::reader::LayerReader;
use crate::layer::stored::StoredIndex;
use crate::layer::table::{IndexBuilder, LayerFacts};
use crate::load::LoadedTree;
use crate::rootfs::{MergeOptions, merge::merge};

/// Span length of documents, in bytes. Most documents are one span.
const SPAN_BYTES: usize = 1 << 20;
/// Mode of directories.
const DIRECTORY_MODE: u16 = 0o755;
/// Mode of documents: read-only for all users.
const DOCUMENT_MODE: u16 = 0o444;

/// A directory or file that belongs to no layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extra<'a> {
    /// A directory with this path.
    Directory(&'a str),
    /// A file with this path and these bytes.
    Document(&'a str, &'a [u8]),
}

/// Returns a tree of `extras` and their parent directories. [`LoadedTree::layer`] returns `None` for all its
/// layers.
///
/// # Errors
/// [`Error::Limit`](crate::Error::Limit) when there are too many of them.
pub(super) fn tree_of(extras: &[Extra<'_>]) -> Result<LoadedTree> {
    let mut builder = IndexBuilder::default();
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
    let index = Arc::new(builder.finish(LayerFacts {
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
    let reader =
        LayerReader::new(Subject::Image, stored, Arc::new(bytes), Verify::Full, DecoderMemory::alone());
    Ok(LoadedTree::of_parts(rootfs, vec![Arc::new(LayerBytes::new(reader, cache, None))]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::Follow;

    #[test]
    fn documents_are_read_as_any_file() {
        let large = vec![7; (1 << 20) + 5];
        let tree = tree_of(&[
            Extra::Directory("d"),
            Extra::Document("d/small", b"hello"),
            Extra::Document("d/empty", b""),
            Extra::Document("d/large", &large),
        ])
        .unwrap();
        let read = |path: &[u8], offset| {
            let id = tree.rootfs().resolve(path, Follow::Last).unwrap();
            let mut buffer = [0; 8];
            let len = tree.read_at(id, &mut buffer, offset).unwrap();
            buffer[..len].to_vec()
        };
        assert_eq!(read(b"d/small", 1), b"ello");
        assert_eq!(read(b"d/empty", 0), b"");
        assert_eq!(read(b"d/large", 1 << 20), [7; 5]);
    }
}
