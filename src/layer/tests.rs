use std::io::Write;
use std::sync::Arc;

use super::entry::{Entry, EntryKind, Extent, FileData, Meta, Segment, Stored, Xattrs};
use super::index::{Expected, Indexed, Request, Verify, index_layer};
use super::reader::LayerReader;
use super::store::{Key, Store, StoredIndex};
use super::table::{Facts, IndexBuilder, LayerIndex};
use super::tar::Limits;
use super::windows::Windows;
use crate::bytes::checksum;
use crate::compress::Compression;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::read_at::ReadAt;
use crate::warning::WarningKind;

/// A tar of a few files, of which one is larger than several spans and compresses to about half.
fn sample_tar() -> Vec<u8> {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"0123456789abcdef"[(state >> 28) as usize]
    })
    .take(11 << 20)
    .collect();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in [("first", &b"1"[..]), ("large", &noise), ("last", b"the end")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed(compression: Compression, tar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Plain => tar.to_vec(),
        Compression::Gzip => gzip(tar),
        Compression::Zstd => zstd::encode_all(tar, 1).unwrap(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
    }
}

fn expected(tar: &[u8], blob: &[u8]) -> Expected {
    Expected {
        diff_id: Some(Algorithm::Sha256.digest(tar)),
        blob_digest: Some(Algorithm::Sha256.digest(blob)),
        blob_bytes: Some(blob.len() as u64),
    }
}

fn index(
    blob: &[u8],
    compression: Compression,
    expected: Expected,
    verify: Verify,
    store: Option<&Store>,
) -> Result<Indexed> {
    index_layer(Request {
        bytes: Arc::new(blob.to_vec()),
        what: "layer 7",
        compression,
        expected,
        learn: false,
        verify,
        limits: Limits::default(),
        scratch: store.map(|store| store.draft().unwrap().scratch().unwrap()),
        progress: &|_| {},
        tap: None,
    })
}

fn read_span(reader: &LayerReader, at: u32) -> Result<Vec<u8>> {
    // Whatever is in the buffer does not show.
    let mut buffer = b"left over".repeat(9);
    reader.read_span(at, &mut buffer).map(|()| buffer)
}

fn read_all(index: StoredIndex, blob: Vec<u8>, verify: Verify) -> Result<Vec<u8>> {
    let reader = LayerReader::new("layer 7", index, Arc::new(blob), verify);
    let spans = reader.index().span_count();
    let parts: Vec<Vec<u8>> = (0..spans).map(|span| read_span(&reader, span)).collect::<Result<_>>()?;
    Ok(parts.concat())
}

fn names(indexed: &StoredIndex) -> Vec<String> {
    let entries = indexed.index.entries();
    entries.map(|(_, entry)| String::from_utf8_lossy(entry.name).into_owned()).collect()
}

fn store() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("cache")).unwrap();
    (home, store)
}

const ALL: [Compression; 5] =
    [Compression::Plain, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2];

#[test]
fn every_span_of_every_compression_reads_back() {
    let tar = sample_tar();
    let (_home, store) = store();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        for store in [None, Some(&store)] {
            let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, store).unwrap();
            let found = StoredIndex::from_pass(found).unwrap();
            assert_eq!(names(&found), ["first", "large", "last"]);
            assert!(found.index.span_count() > 3);
            assert!(read_all(found, blob.clone(), Verify::Full).unwrap() == tar, "{compression}");
        }
    }
}

#[test]
fn a_stored_index_is_the_index_that_was_stored() {
    let tar = sample_tar();
    let (_home, store) = store();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let key = Key::layer(&Algorithm::Sha256.digest(&tar), Some(compression.name()));
        assert!(store.load(&key).is_none());
        save(&store, &key, &blob, compression, &tar);
        let loaded = store.load(&key).unwrap();
        assert_eq!(loaded.index.facts().diff_id, Some(Algorithm::Sha256.digest(&tar)));
        assert!(read_all(loaded, blob, Verify::Full).unwrap() == tar, "{compression}");
    }
}

fn save(store: &Store, key: &Key, blob: &[u8], compression: Compression, tar: &[u8]) {
    let draft = store.draft().unwrap();
    let indexed = index_layer(Request {
        bytes: Arc::new(blob.to_vec()),
        what: "layer 7",
        compression,
        expected: expected(tar, blob),
        learn: false,
        verify: Verify::Full,
        limits: Limits::default(),
        scratch: Some(draft.scratch().unwrap()),
        progress: &|_| {},
        tap: None,
    })
    .unwrap();
    store.save(key, draft, &indexed).unwrap();
}

/// Frames that end by chance anywhere, also exactly where a span would.
#[test]
fn where_a_frame_begins_a_span_can_be_entered_and_no_copy_is_made() {
    let tar = sample_tar();
    let (_home, store) = store();
    let frames = [
        (Compression::Zstd, 10_007),
        (Compression::Zstd, 1 << 20),
        (Compression::Zstd, (1 << 20) + 1),
        (Compression::Zstd, 2_500_000),
        (Compression::Xz, 2_500_000),
        (Compression::Bzip2, 900_000),
    ];
    for (compression, frame_bytes) in frames {
        let pieces = tar.chunks(frame_bytes).map(|piece| compressed(compression, piece));
        let blob = pieces.collect::<Vec<_>>().concat();
        let key = Key::layer(&Algorithm::Sha256.digest(&tar), Some(&format!("{frame_bytes}")));
        save(&store, &key, &blob, compression, &tar);
        let loaded = store.load(&key).unwrap();
        let about = format!("{compression}, frames of {frame_bytes} bytes");
        assert_eq!(loaded.index.facts().copy_bytes, 0, "{about}");
        let spans = (0..loaded.index.span_count()).filter_map(|at| loaded.index.span(at));
        assert!(spans.into_iter().all(|span| span.extent.len_bytes <= 1 << 20), "{about}");
        assert!(read_all(loaded, blob, Verify::Full).unwrap() == tar, "{about}");
    }
}

#[test]
fn a_single_zstd_frame_is_read_from_its_copy_and_without_it() {
    let tar = sample_tar();
    let (_home, store) = store();
    let blob = compressed(Compression::Zstd, &tar);
    let key = Key::layer(&Algorithm::Sha256.digest(&tar), None);
    save(&store, &key, &blob, Compression::Zstd, &tar);
    let loaded = store.load(&key).unwrap();
    let copied = (0..loaded.index.span_count()).filter(|at| loaded.index.span(*at).unwrap().copy.is_some());
    assert!(copied.count() > 4, "spans past 4 MiB are copied");
    let path = std::fs::read_dir(store.directory()).unwrap().flatten().map(|entry| entry.path());
    let path = path.into_iter().find(|path| path.extension().is_some_and(|end| end == "copy")).unwrap();
    let mut copy = std::fs::read(&path).unwrap();
    let middle = copy.len() / 2;
    copy[middle] ^= 1;
    std::fs::write(&path, &copy).unwrap();
    let damaged = store.load(&key).unwrap();
    assert!(read_all(damaged, blob, Verify::Full).unwrap() == tar, "a damaged copy changes nothing");
    std::fs::remove_file(&path).unwrap();
    assert!(store.load(&key).is_none(), "without its copy an index is built anew");
}

#[test]
fn what_can_be_entered_anywhere_gets_no_copy() {
    let tar = sample_tar();
    let (_home, store) = store();
    for compression in [Compression::Plain, Compression::Gzip] {
        let blob = compressed(compression, &tar);
        let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, Some(&store)).unwrap();
        assert!(found.copy.is_none(), "{compression}");
    }
}

#[test]
fn x16_an_index_that_is_cut_flipped_or_foreign_is_not_loaded() {
    let tar = sample_tar();
    let (_home, store) = store();
    let blob = compressed(Compression::Gzip, &tar);
    let key = Key::layer(&Algorithm::Sha256.digest(&tar), None);
    save(&store, &key, &blob, Compression::Gzip, &tar);
    let path = std::fs::read_dir(store.directory()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    let (trailer_at, index_at) = (whole.len() - 24, whole.len() - 24 - index_len(&whole));
    for cut in [0, 1, 23, 24, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(store.load(&key).is_none(), "cut to {cut} bytes");
    }
    for at in (index_at..trailer_at).step_by(97).chain(trailer_at..whole.len()) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        assert!(store.load(&key).is_none(), "flipped at {at}");
    }
    std::fs::write(&path, vec![b'x'; 100_000]).unwrap();
    assert!(store.load(&key).is_none(), "foreign");
    // A flipped window is found when it is needed; the bytes come from the checkpoint before it.
    let mut flipped = whole.clone();
    flipped[index_at / 2] ^= 0x10;
    std::fs::write(&path, &flipped).unwrap();
    assert!(read_all(store.load(&key).unwrap(), blob, Verify::Full).unwrap() == tar);
}

/// An index that is large enough to be mapped: its attributes are.
fn mapped_index(store: &Store, key: &Key) -> (StoredIndex, Vec<String>) {
    let draft = store.draft().unwrap();
    let mut builder = IndexBuilder::new();
    let mut packed = Vec::new();
    Xattrs::pack(&mut packed, b"user.large", &vec![7; 1 << 20]);
    let names: Vec<String> = (0..18).map(|at| format!("file-{at}")).collect();
    for name in &names {
        let (name, kind, meta) = (name.as_bytes(), EntryKind::Directory, Meta::default());
        let xattrs = Xattrs::from_packed(&packed);
        builder.push_entry(&Entry { header_offset: 0, name, kind, meta, xattrs }).unwrap();
    }
    let mut windows = draft.scratch().unwrap().windows;
    windows.write_all(&[5; 1000]).unwrap();
    let facts = Facts {
        diff_id: None,
        blob_digest: None,
        blob_bytes: 1,
        compression: Compression::Plain,
        tar_bytes: 1,
        copy_bytes: 0,
    };
    let index = builder.finish(facts);
    let indexed = Indexed { index, windows: Windows::File(windows, 1000), copy: None };
    store.save(key, draft, &indexed).unwrap();
    (StoredIndex::from_saved(indexed, "layer 7").unwrap(), names)
}

#[test]
fn a_large_index_is_read_from_its_file() {
    let (_home, store) = store();
    let key = Key::archive("large");
    let (saved, expected) = mapped_index(&store, &key);
    let loaded = store.load(&key).unwrap();
    for found in [saved, loaded] {
        assert!(format!("{:?}", found.index).contains("Mapped"));
        assert_eq!(names(&found), expected);
        found.index.release();
        let (_, last) = found.index.entries().last().unwrap();
        assert_eq!(last.xattrs.get(b"user.large"), Some(&vec![7; 1 << 20][..]));
        assert_eq!(found.windows.len(), 1000);
        // Whoever has it open keeps it.
        let _ = store.clear().unwrap();
        assert_eq!(names(&found), expected);
    }
}

#[test]
fn x16_a_large_index_that_is_cut_flipped_or_foreign_is_not_loaded() {
    let (_home, store) = store();
    let key = Key::archive("large");
    drop(mapped_index(&store, &key));
    let path = std::fs::read_dir(store.directory()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    for cut in [whole.len() - 1, whole.len() - 24, whole.len() - 25, whole.len() / 2, 17 << 20] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(store.load(&key).is_none(), "cut to {cut} bytes");
        // The trailer is there, and what it speaks of is not.
        let trailed = [&whole[..cut.min(whole.len() - 25)], &whole[whole.len() - 24..]].concat();
        std::fs::write(&path, trailed).unwrap();
        assert!(store.load(&key).is_none(), "cut to {cut} bytes before the trailer");
    }
    for at in [1000, 1010, 1200, 1352, 1384, 2000, 5 << 20, whole.len() - 25, whole.len() - 20] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        assert!(store.load(&key).is_none(), "flipped at {at}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(store.load(&key).is_some(), "whole again");
}

/// A checksum keeps out accidents only.
#[test]
fn x16_a_forged_index_is_refused_or_can_be_read() {
    let mut builder = IndexBuilder::new();
    let mut packed = Vec::new();
    Xattrs::pack(&mut packed, b"user.a", b"1");
    let segment = Segment { file_offset: 1, extent: Extent { offset: 512, len_bytes: 9 } };
    let sparse = FileData { size: 99, stored: Stored::Sparse(vec![segment].into()) };
    for kind in [EntryKind::Directory, EntryKind::Symlink(b"to"), EntryKind::File(sparse)] {
        let (meta, xattrs) = (Meta::default(), Xattrs::from_packed(&packed));
        builder.push_entry(&Entry { header_offset: 0, name: b"name", kind, meta, xattrs }).unwrap();
    }
    builder.push_span(0, Some([1; 32]), Some(Extent { offset: 0, len_bytes: 10 }));
    builder.push_span(1024, Some([2; 32]), None);
    builder.push_warning(WarningKind::Damaged, b"name");
    let facts = Facts {
        diff_id: Some(Algorithm::Sha256.digest(b"")),
        blob_digest: None,
        blob_bytes: 2048,
        compression: Compression::Gzip,
        tar_bytes: 2048,
        copy_bytes: 0,
    };
    let mut whole = Vec::new();
    builder.finish(facts).write_to(&mut whole).unwrap();
    let (mut refused, mut read) = (0, 0);
    for at in 0..whole.len() {
        for value in [0, 1, 2, 3, 0x7f, 0xff] {
            let mut forged = whole.clone();
            forged[at] = value;
            let sum = checksum(&forged[..352], &forged[384..]);
            forged[352..384].copy_from_slice(&sum);
            let Ok(index) = LayerIndex::from_bytes(forged, "index") else {
                refused += 1;
                continue;
            };
            let entries = index.entries().map(|(_, entry)| format!("{entry:?}").len()).sum::<usize>();
            assert!(entries < 100_000, "byte {at} as {value}");
            for place in [0, 1, 1023, 1024, 2047, 2048, u64::MAX] {
                let _ = (index.span_at(place).map(|span| index.span(span)), index.checkpoint_at(place));
            }
            let _ = (index.warnings().count(), index.checkpoint(0));
            read += 1;
        }
    }
    assert!(refused > 100 && read > 100, "{refused} refused, {read} read");
}

fn index_len(file: &[u8]) -> usize {
    let field = file[file.len() - 16..file.len() - 8].try_into().unwrap();
    usize::try_from(u64::from_le_bytes(field)).unwrap()
}

#[test]
fn nothing_but_finished_files_is_ever_in_the_store() {
    let tar = sample_tar();
    let (_home, store) = store();
    let draft = store.draft().unwrap();
    let blob = gzip(&tar);
    index(&blob, Compression::Gzip, expected(&tar, &blob), Verify::Full, Some(&store)).unwrap();
    assert_eq!(std::fs::read_dir(store.directory()).unwrap().count(), 0);
    drop(draft);
}

#[test]
fn a_store_that_others_can_write_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let (home, store) = store();
    std::fs::set_permissions(store.directory(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Store::open(store.directory()).is_err());
    let link = home.path().join("link");
    std::os::unix::fs::symlink(store.directory(), &link).unwrap();
    assert!(Store::open(&link).is_err());
}

fn assert_mismatch(result: Result<Indexed>, what: &str, expected: impl ToString, found: impl ToString) {
    match result {
        Err(Error::Mismatch { what: named, expected: wanted, found: got }) => {
            assert_eq!((named, wanted, got), (what.to_owned(), expected.to_string(), found.to_string()));
        }
        other => panic!("not a mismatch: {other:?}"),
    }
}

#[test]
fn a_wrong_diff_id_names_layer_expected_and_found() {
    let tar = sample_tar();
    let other: Digest = Algorithm::Sha256.digest(b"other");
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let wanted = Expected { diff_id: Some(other), ..expected(&tar, &blob) };
        let result = index(&blob, compression, wanted, Verify::Full, None);
        assert_mismatch(result, "layer 7: diff_id", other, Algorithm::Sha256.digest(&tar));
    }
}

#[test]
fn damage_is_told_as_the_digest_that_does_not_match() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let wanted = expected(&tar, &blob);
        let digest = wanted.blob_digest.unwrap();
        let mut damaged = blob.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        let result = index(&damaged, compression, wanted, Verify::Full, None);
        // A plain layer's blob and tar are one, and the diff_id is looked at.
        let which = if compression == Compression::Plain { "diff_id" } else { "blob digest" };
        assert_mismatch(result, &format!("layer 7: {which}"), digest, Algorithm::Sha256.digest(&damaged));
    }
}

#[test]
fn a_wrong_size_is_told_before_anything_is_read() {
    let tar = sample_tar();
    let blob = gzip(&tar);
    let wanted = expected(&tar, &blob);
    let result = index(&blob[..blob.len() - 1], Compression::Gzip, wanted, Verify::Full, None);
    let (whole, cut) = (blob.len(), blob.len() - 1);
    assert_mismatch(result, "layer 7: size", format!("{whole} bytes"), format!("{cut} bytes"));
}

#[test]
fn without_verification_a_damaged_layer_shows_what_can_be_had() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let cut = &blob[..blob.len() / 2];
        let found = index(cut, compression, expected(&tar, &blob), Verify::Off, None).unwrap();
        let warnings: Vec<WarningKind> = found.index.warnings().map(|warning| warning.kind).collect();
        assert_eq!(warnings, [WarningKind::Damaged], "{compression}");
        let found = StoredIndex::from_pass(found).unwrap();
        assert_eq!(names(&found), ["first", "large"]);
        let (_, first) = found.index.entries().next().unwrap();
        let EntryKind::File(FileData { stored: Stored::Contiguous(extent), .. }) = first.kind else {
            panic!("not a file: {first:?}");
        };
        let reader = LayerReader::new("layer 7", found, Arc::new(cut.to_vec()), Verify::Off);
        let span = read_span(&reader, 0).unwrap();
        assert_eq!(span[usize::try_from(extent.offset).unwrap()], b'1');
    }
}

#[test]
fn x17_bytes_that_changed_since_are_never_served() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, None).unwrap();
        let found = StoredIndex::from_pass(found).unwrap();
        let mut changed = blob.clone();
        for at in (changed.len() / 2..changed.len()).step_by(1000) {
            changed[at] ^= 0x55;
        }
        let reader = LayerReader::new("layer 7", found, Arc::new(changed), Verify::Full);
        let last = reader.index().span_count() - 1;
        assert!(read_span(&reader, last).is_err(), "{compression}");
    }
}

#[test]
fn a_header_scan_finds_the_entries_that_a_pass_finds() {
    let tar = sample_tar();
    let scanned = index(&tar, Compression::Plain, Expected::default(), Verify::Off, None).unwrap();
    let passed = index(&tar, Compression::Plain, expected(&tar, &tar), Verify::Full, None).unwrap();
    let entries = |indexed: &Indexed| {
        indexed.index.entries().map(|(_, entry)| format!("{entry:?}")).collect::<Vec<_>>()
    };
    assert_eq!(entries(&scanned), entries(&passed));
}

#[test]
fn z6_an_empty_layer_is_an_empty_tree() {
    for tar in [vec![], vec![0; 1024]] {
        for compression in [Compression::Plain, Compression::Gzip] {
            let blob = compressed(compression, &tar);
            let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, None).unwrap();
            assert_eq!(found.index.entry_count(), 0);
        }
    }
}

#[test]
fn a_source_that_shrinks_is_an_error_and_not_other_bytes() {
    #[derive(Debug)]
    struct Shrunk(u64);
    impl ReadAt for Shrunk {
        fn len(&self) -> u64 {
            self.0
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
    }
    let tar = sample_tar();
    let blob = gzip(&tar);
    let found = index(&blob, Compression::Gzip, expected(&tar, &blob), Verify::Full, None).unwrap();
    let found = StoredIndex::from_pass(found).unwrap();
    let reader = LayerReader::new("layer 7", found, Arc::new(Shrunk(blob.len() as u64)), Verify::Full);
    let error = read_span(&reader, 0).unwrap_err();
    assert!(error.to_string().starts_with("layer 7: cannot read at offset 0"), "{error}");
}
