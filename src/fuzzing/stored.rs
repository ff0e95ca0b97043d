//! Stored indexes and trees whose checksum is right and whose contents are not: each is refused, or reading it
//! ends, within its bounds.

use std::sync::Arc;

use super::input::split;
use super::mutate::{self, Mutation, Plain, Random};
use crate::bytes::checksum;
use crate::compress::{CheckpointTable as _, Compression, DecoderMemory};
use crate::error::Subject;
use crate::layer::index::Verify;
use crate::layer::reader::LayerReader;
use crate::layer::stored::StoredIndex;
use crate::layer::table::{self, LayerIndex};
use crate::layer::windows::StoredCheckpoints;
use crate::path::MAX_PATH_BYTES;
use crate::read_at::ReadAt;
use crate::rootfs::{Follow, InodeId, MergeOptions, ROOT, Rootfs, merge, stored};

pub(super) fn mutation(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    mutate::parts(data, random, plain, |_| -> Mutation { mutate::bytes });
}

/// Assembles a file: the header without its lengths and checksum, then the sections. `lengths` is the offset of
/// the lengths in the header, `records` are the lengths of one record in each section.
pub(crate) fn assemble(
    header: &[u8],
    header_bytes: usize,
    lengths: usize,
    records: &[usize],
    sections: &[&[u8]],
) -> Vec<u8> {
    let mut file = header.to_vec();
    file.resize(header_bytes, 0);
    let mut at = lengths;
    for (number, record) in records.iter().enumerate() {
        let section = sections.get(number).copied().unwrap_or_default();
        let len = section.len() / record * record;
        file[at..at + 8].copy_from_slice(&(len as u64).to_le_bytes());
        at += 8;
        file.extend_from_slice(&section[..len]);
    }
    let sum = checksum(&file[..header_bytes - 32], &file[header_bytes..]);
    file[header_bytes - 32..header_bytes].copy_from_slice(&sum);
    file
}

/// Takes a file apart, as [`assemble`] builds it.
#[cfg(test)]
pub(crate) fn take_apart(file: &[u8], header_bytes: usize, lengths: usize, sections: usize) -> Vec<Vec<u8>> {
    let mut parts = vec![file[..lengths].to_vec()];
    let mut rest = &file[header_bytes..];
    for at in 0..sections {
        let at = lengths + 8 * at;
        let len = u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let (section, after) = rest.split_at(usize::try_from(len).unwrap());
        parts.push(section.to_vec());
        rest = after;
    }
    parts
}

/// Parts: header, the six sections of the index, the windows, the bytes of the layer, the seekable copy.
pub(super) fn run_index(data: &[u8]) {
    let parts = split(data);
    let Some((header, sections)) = parts.split_first() else { return };
    let header = &header[..header.len().min(table::LENGTHS_AT)];
    let file = assemble(header, table::HEADER_BYTES, table::LENGTHS_AT, &table::RECORD_BYTES, sections);
    let what = Subject::Layer { number: 0, diff_id: None };
    let Ok(index) = LayerIndex::from_bytes(file, &what) else { return };
    let index = Arc::new(index);
    let part = |at: usize| sections.get(at).map(|part| part.to_vec()).unwrap_or_default();
    let (windows, blob, copy) = (part(6), part(7), part(8));
    read_tables(&index);
    read_spans(&index, &what, windows, blob, copy);
    let layers = vec![Arc::clone(&index), index];
    if let Ok(tree) = merge(layers, &MergeOptions::default()) {
        walk(&tree, 1 << 16);
    }
}

fn read_tables(index: &LayerIndex) {
    assert!(index.sweep().count() <= index.entry_count() as usize);
    for (_, entry) in index.entries().take(200) {
        assert!(format!("{entry:?}").len() < 1 << 20);
    }
    assert!(index.warnings().count() <= 1 << 20);
}

fn read_spans(index: &Arc<LayerIndex>, what: &Subject, windows: Vec<u8>, blob: Vec<u8>, copy: Vec<u8>) {
    let windows: Arc<dyn ReadAt> = Arc::new(windows);
    let checkpoints = StoredCheckpoints::new(Arc::clone(index), Arc::clone(&windows));
    let tar_bytes = index.facts().tar_bytes;
    let mut at = 0;
    for number in 0..index.span_count().min(64) {
        let span = index.span(number).unwrap();
        // Spans are contiguous, and each is small enough to be decoded at once.
        assert_eq!(span.extent.offset, at, "span {number}");
        at = at.checked_add(span.extent.len_bytes).unwrap();
        assert!(at <= tar_bytes && span.extent.len_bytes <= table::MAX_SPAN_BYTES as u64, "span {number}");
        let checkpoint = checkpoints.at_or_before(span.extent.offset).unwrap();
        assert!(checkpoint.output_offset <= span.extent.offset);
    }
    let index = StoredIndex { index: Arc::clone(index), windows, copy: Some(Arc::new(copy)) };
    let reader = LayerReader::new(what.clone(), index, Arc::new(blob), Verify::Full, DecoderMemory::alone());
    let mut buffer = Vec::new();
    for number in 0..reader.index().span_count().min(4) {
        let span = reader.index().span(number).unwrap();
        if reader.read_span(number, &mut buffer).is_ok() {
            assert!(buffer.len() as u64 == span.extent.len_bytes, "span {number}");
            let hash = *blake3::hash(&buffer).as_bytes();
            assert!(span.hash.is_none_or(|wanted| wanted == hash), "span {number}");
        }
    }
}

/// Parts: header, and the six sections of the tree.
pub(super) fn run_tree(data: &[u8]) {
    let parts = split(data);
    let Some((header, sections)) = parts.split_first() else { return };
    let header = &header[..header.len().min(stored::LENGTHS_AT)];
    let file = assemble(header, stored::HEADER_BYTES, stored::LENGTHS_AT, &stored::RECORD_BYTES, sections);
    let bytes = file.len();
    let Ok(tree) = Rootfs::from_bytes(file, vec![sample_layer()]) else { return };
    walk(&tree, bytes);
}

/// Returns a layer for the references of a tree.
fn sample_layer() -> Arc<LayerIndex> {
    use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Meta, Stored, Xattrs};
    let mut builder = table::IndexBuilder::default();
    let extent = Extent { offset: 512, len_bytes: 9 };
    let file = FileData { size: 9, stored: Stored::Contiguous(extent) };
    for kind in [EntryKind::Directory, EntryKind::File(file), EntryKind::Symlink(b"../a"), EntryKind::Fifo] {
        let (meta, xattrs) = (Meta::default(), Xattrs::default());
        // These entries fit into an index.
        builder.push_entry(&Entry { header_offset: 0, name: b"a", kind, meta, xattrs }).unwrap();
    }
    Arc::new(builder.finish(table::LayerFacts {
        diff_id: None,
        blob_digest: None,
        blob_bytes: 0,
        compression: Compression::Plain,
        tar_bytes: 0,
        copy_bytes: 0,
    }))
}

/// Uses everything of a tree that was read from at most `bytes` bytes.
fn walk(tree: &Rootfs, bytes: usize) {
    let mut paths = Vec::new();
    for (path, id) in tree.walk(ROOT) {
        assert!(tree.inode(id).is_some());
        let _ = (tree.size(id), tree.xattrs(id).iter().count(), tree.target(id).map(<[u8]>::len));
        if paths.len() < 100 {
            paths.push(path);
        }
    }
    assert!(tree.walk(ROOT).count() <= bytes, "the walk has more names than the file");
    assert_eq!(tree.walk(ROOT).count(), 1 + tree.walk_by_path(ROOT, b"").count());
    for path in &paths {
        assert!(path.len() <= bytes + MAX_PATH_BYTES);
        let _ = (tree.resolve(path, Follow::Last).is_ok(), tree.resolve(path, Follow::NotLast).is_ok());
    }
    for id in (0..=tree.inode_count().min(500)).map(InodeId) {
        assert_eq!(tree.inode(id).is_some(), id.0 < tree.inode_count());
        assert!(tree.path(id).len() <= bytes && tree.children(id).count() <= bytes);
        let _ = (tree.parent(id), tree.nlink(id), tree.origin(id), tree.file(id));
        for position in [0, 1, usize::MAX] {
            assert!(tree.children_from(id, position).count() <= bytes);
        }
    }
}
