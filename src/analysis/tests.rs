//! Tests which bytes a comparison reads: file systems of one file, and a reader that records its reads.

use std::sync::{Arc, Mutex};

use super::content::{ContentMatch, Readable, compare, same_bytes};
use super::diff::{DiffOptions, DifferenceKind, Side, diff};
use super::history::{is_aligned, steps};
use super::{Field, Inode, ReadFile};
use crate::compress::Compression;
use crate::digest::Digest;
use crate::error::Result;
use crate::glob::Glob;
use crate::image::ImageConfig;
use crate::layer::entry::{Entry, EntryKind, Extent, FileData, Meta, Segment, Stored, Xattrs};
use crate::layer::table::{IndexBuilder, LayerFacts, LayerIndex};
use crate::layer::{EntryId, LayerId};
use crate::limits::Limits;
use crate::rootfs::{EntryAt, Follow, MergeOptions, Rootfs, merge};

/// A layer in a test: files by name and data, and spans of 100 bytes with these hashes.
struct Sketch {
    diff_id: Option<u8>,
    spans: Vec<Option<u8>>,
    files: Vec<(&'static str, FileData<'static>)>,
}

fn sketch(diff_id: u8, files: &[(&'static str, FileData<'static>)]) -> Sketch {
    Sketch { diff_id: Some(diff_id), spans: Vec::new(), files: files.to_vec() }
}

fn contiguous(offset: u64, size: u64) -> FileData<'static> {
    FileData { size, stored: Stored::Contiguous(Extent { offset, len_bytes: size }) }
}

fn sparse(size: u64, segments: &[(u64, u64)]) -> FileData<'static> {
    let segment = |(file_offset, len_bytes): &(u64, u64)| Segment {
        file_offset: *file_offset,
        extent: Extent { offset: 512, len_bytes: *len_bytes },
    };
    FileData { size, stored: Stored::Sparse(segments.iter().map(segment).collect::<Vec<_>>().into()) }
}

impl Sketch {
    fn index(&self) -> Arc<LayerIndex> {
        let mut builder = IndexBuilder::default();
        for (name, data) in &self.files {
            let kind = EntryKind::File(data.clone());
            let meta = Meta { mode: 0o644, ..Meta::default() };
            let entry =
                Entry { header_offset: 0, name: name.as_bytes(), kind, meta, xattrs: Xattrs::default() };
            builder.push_entry(&entry).unwrap();
        }
        for (at, hash) in self.spans.iter().enumerate() {
            builder.push_span(at as u64 * 100, hash.map(|hash| [hash; 32]), None);
        }
        Arc::new(builder.finish(LayerFacts {
            diff_id: self.diff_id.map(digest),
            blob_digest: None,
            blob_bytes: 0,
            compression: Compression::Plain,
            tar_bytes: self.spans.len() as u64 * 100,
            copy_bytes: 0,
        }))
    }

    fn merged(&self) -> Rootfs {
        merge(vec![self.index()], &MergeOptions::default()).unwrap()
    }
}

fn digest(number: u8) -> Digest {
    format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap()
}

/// A reader whose files consist of the byte `fill`; records what was read.
#[derive(Default)]
struct Reader {
    fill: u8,
    reads: Mutex<Vec<(EntryAt, u64, usize)>>,
}

impl ReadFile for Reader {
    fn read_file(&self, file: EntryAt, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.reads.lock().unwrap().push((file, offset, buf.len()));
        buf.fill(self.fill);
        Ok(buf.len())
    }
}

fn inode<'a>(tree: &'a Rootfs, path: &str) -> Inode<'a> {
    Inode::of(tree, tree.resolve(path.as_bytes(), Follow::NotLast).unwrap()).unwrap()
}

fn verdict(a: &Sketch, b: &Sketch) -> ContentMatch {
    let (a, b) = (a.merged(), b.merged());
    compare(&inode(&a, "/f"), &inode(&b, "/f")).unwrap()
}

fn unread() -> ContentMatch {
    let first = EntryAt { layer: LayerId(0), entry: EntryId(0) };
    ContentMatch::Unread(first, first)
}

#[test]
fn the_same_place_of_the_same_layer_is_not_read() {
    let one = || sketch(1, &[("f", contiguous(512, 10))]);
    assert_eq!(verdict(&one(), &one()), ContentMatch::Same);
    assert_eq!(verdict(&one(), &sketch(2, &[("f", contiguous(512, 10))])), unread());
    assert_eq!(verdict(&one(), &sketch(1, &[("f", contiguous(1024, 10))])), unread());
}

#[test]
fn layers_that_were_never_hashed_are_never_the_same() {
    let unhashed = || Sketch { diff_id: None, ..sketch(1, &[("f", contiguous(512, 10))]) };
    assert_eq!(verdict(&unhashed(), &unhashed()), unread());
}

#[test]
fn sizes_decide_only_when_they_differ() {
    let sized = |diff_id, size| sketch(diff_id, &[("f", contiguous(512, size))]);
    assert_eq!(verdict(&sized(1, 10), &sized(2, 11)), ContentMatch::Different);
    assert_eq!(verdict(&sized(1, 0), &sized(2, 0)), ContentMatch::Same);
    assert_eq!(verdict(&sized(1, 10), &sized(2, 10)), unread());
}

#[test]
fn the_same_place_of_spans_with_equal_hashes_is_not_read() {
    let spans = |diff_id, offset, hashes: &[Option<u8>]| Sketch {
        spans: hashes.to_vec(),
        ..sketch(diff_id, &[("f", contiguous(offset, 120))])
    };
    let a = spans(1, 150, &[Some(1), Some(2), Some(3)]);
    // The bytes before the file may differ, and the file may lie whole spans later.
    assert_eq!(verdict(&a, &spans(2, 150, &[Some(9), Some(2), Some(3)])), ContentMatch::Same);
    assert_eq!(verdict(&a, &spans(2, 50, &[Some(2), Some(3)])), ContentMatch::Same);
    for other in [
        spans(2, 150, &[Some(1), Some(2), Some(9)]),
        spans(2, 160, &[Some(1), Some(2), Some(3)]),
        spans(2, 150, &[Some(1), None, Some(3)]),
        spans(2, 150, &[]),
    ] {
        assert_eq!(verdict(&a, &other), unread());
    }
}

#[test]
fn holes_of_both_files_are_not_read_however_large() {
    let huge = 1 << 60;
    let (a, b) = (
        sketch(1, &[("f", sparse(huge, &[(0, 10), (huge - 10, 10)]))]).merged(),
        sketch(2, &[("f", sparse(huge, &[(5, 10)]))]).merged(),
    );
    let reader = Reader::default();
    let readable = |tree| Readable { inode: inode(tree, "/f"), from: &reader };
    assert!(same_bytes(readable(&a), readable(&b)).unwrap());
    let reads: Vec<_> = reader.reads.lock().unwrap().iter().map(|(_, offset, len)| (*offset, *len)).collect();
    assert_eq!(reads, [(0, 15), (0, 15), (huge - 10, 10), (huge - 10, 10)]);
}

#[test]
fn bytes_are_read_once_for_all_names_and_in_the_order_of_the_layer() {
    let files = [("a", contiguous(3000, 9)), ("b", contiguous(1000, 9)), ("c", contiguous(2000, 9))];
    let (a, b) = (sketch(1, &files).merged(), sketch(2, &files).merged());
    let (zeros, ones) = (Reader::default(), Reader { fill: 1, ..Reader::default() });
    let differences = diff(
        Side { rootfs: &a, files: &zeros },
        Side { rootfs: &b, files: &ones },
        &DiffOptions::default(),
        Limits::default(),
    )
    .unwrap();
    let fields: Vec<_> = differences
        .iter()
        .map(|one| match &one.kind {
            DifferenceKind::Modified { fields, .. } => (one.path.as_slice(), fields.as_slice()),
            other => panic!("{other:?}"),
        })
        .collect();
    let content = [Field::Content];
    assert_eq!(fields, [(&b"/a"[..], &content[..]), (b"/b", &content), (b"/c", &content)]);
    let order: Vec<_> = zeros.reads.lock().unwrap().iter().map(|(at, ..)| at.entry.0).collect();
    assert_eq!(order, [1, 2, 0]);
}

#[test]
fn large_files_that_differ_early_are_not_read_far() {
    let files = [("f", contiguous(512, 4 << 20))];
    let (a, b) = (sketch(1, &files).merged(), sketch(2, &files).merged());
    let readable = |tree, from| Readable { inode: inode(tree, "/f"), from };
    let lengths = |reader: &Reader| -> Vec<usize> {
        reader.reads.lock().unwrap().iter().map(|(_, _, len)| *len >> 10).collect()
    };
    let (zeros, ones) = (Reader::default(), Reader { fill: 1, ..Reader::default() });
    assert!(!same_bytes(readable(&a, &zeros), readable(&b, &ones)).unwrap());
    assert_eq!(lengths(&zeros), [64]);
    let (one, other) = (Reader::default(), Reader::default());
    assert!(same_bytes(readable(&a, &one), readable(&b, &other)).unwrap());
    assert_eq!(lengths(&one), [64, 128, 256, 512, 1024, 1024, 1024, 64]);
}

/// Threads finish in any order; the result does not depend on it.
#[test]
fn of_several_failures_the_first_in_the_layer_is_told() {
    struct Failing;
    impl ReadFile for Failing {
        fn read_file(&self, file: EntryAt, buf: &mut [u8], _: u64) -> Result<usize> {
            match file.entry.0 {
                0 | 2 => Ok(buf.len()),
                entry => Err(crate::Error::malformed(crate::error::Subject::Image, entry.to_string())),
            }
        }
    }
    let files = [
        ("a", contiguous(0, 9)),
        ("b", contiguous(450, 9)),
        ("c", contiguous(200, 9)),
        ("d", contiguous(310, 9)),
        ("e", contiguous(320, 9)),
    ];
    let tree = |diff_id| {
        let hashes = (0..5).map(|span| Some(5 * diff_id + span)).collect();
        Sketch { spans: hashes, ..sketch(diff_id, &files) }.merged()
    };
    let (a, b) = (tree(1), tree(2));
    for _ in 0..20 {
        let side = |rootfs| Side { rootfs, files: &Failing };
        let error =
            diff(side(&a), side(&b), &DiffOptions::default(), Limits::default()).unwrap_err().to_string();
        assert_eq!(error, "the image: 3");
    }
}

#[test]
fn what_is_ignored_or_not_asked_for_is_not_read() {
    let files = [("d/a", contiguous(0, 9)), ("e", contiguous(1000, 9))];
    let (a, b) = (sketch(1, &files).merged(), sketch(2, &files).merged());
    let reader = Reader::default();
    let side = |rootfs| Side { rootfs, files: &reader };
    let ignore = vec![Glob::new(b"/d"), Glob::new(b"e")];
    for options in [
        DiffOptions { ignore, ..DiffOptions::default() },
        DiffOptions { modified: false, ..DiffOptions::default() },
    ] {
        assert_eq!(diff(side(&a), side(&b), &options, Limits::default()).unwrap(), []);
    }
    assert!(reader.reads.lock().unwrap().is_empty());
}

fn config(layers: u8, history: &str) -> ImageConfig {
    let diff_ids: Vec<_> = (0..layers).map(|id| format!("\"{}\"", digest(id))).collect();
    let text = format!(r#"{{"rootfs":{{"diff_ids":[{}]}},"history":{history}}}"#, diff_ids.join(","));
    ImageConfig::parse(&crate::error::Subject::Image, text.as_bytes()).unwrap()
}

fn step_list(config: &ImageConfig) -> Vec<(Option<u16>, Option<&str>)> {
    steps(config, config.diff_ids.len(), config.diff_ids.len())
        .iter()
        .map(|step| {
            (step.layer.map(|layer| layer.0), step.entry.and_then(|entry| entry.created_by.as_deref()))
        })
        .collect()
}

#[test]
fn steps_without_a_layer_stand_between_those_with_one() {
    let config =
        config(2, r#"[{"created_by":"a"},{"created_by":"ENV","empty_layer":true},{"created_by":"b"}]"#);
    assert!(is_aligned(&config));
    assert_eq!(step_list(&config), [(Some(0), Some("a")), (None, Some("ENV")), (Some(1), Some("b"))]);
}

#[test]
fn a_history_that_does_not_fit_the_layers_is_told_apart_from_them() {
    let config = config(2, r#"[{"created_by":"a"}]"#);
    assert!(!is_aligned(&config));
    assert_eq!(step_list(&config), [(Some(0), None), (Some(1), None), (None, Some("a"))]);
}
