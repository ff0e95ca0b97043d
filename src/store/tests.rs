use std::io::Write;

use super::*;
use crate::compress::Compression;
use crate::digest::Algorithm;
use crate::layer::entry::{Entry, EntryKind, Meta, Xattrs};
use crate::layer::index::Verify;
use crate::layer::samples::{ALL, LAYER, compressed, expected, gzip, index, names, read_all, sample_tar};
use crate::layer::table::{IndexBuilder, LayerFacts};
use crate::layer::windows::Windows;

fn store() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("cache")).unwrap();
    (home, store)
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
    let scratch = draft.scratch().unwrap();
    let indexed = index(blob, compression, expected(tar, blob), Verify::Full, Some(scratch)).unwrap();
    store.save(key, draft, &indexed).unwrap();
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
    // A damaged window is detected when it is needed; the bytes then come from the checkpoint before it.
    let mut flipped = whole.clone();
    flipped[index_at / 2] ^= 0x10;
    std::fs::write(&path, &flipped).unwrap();
    assert!(read_all(store.load(&key).unwrap(), blob, Verify::Full).unwrap() == tar);
}

/// Returns an index that is large enough to be mapped, because its attributes are large.
fn mapped_index(store: &Store, key: &Key) -> (StoredIndex, Vec<String>) {
    let draft = store.draft().unwrap();
    let mut builder = IndexBuilder::default();
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
    let facts = LayerFacts {
        diff_id: None,
        blob_digest: None,
        blob_bytes: 0,
        compression: Compression::Plain,
        tar_bytes: 0,
        copy_bytes: 0,
    };
    let index = builder.finish(facts);
    let indexed = Indexed { index, windows: Windows::File(windows, 1000), copy: None, is_complete: true };
    store.save(key, draft, &indexed).unwrap();
    (StoredIndex::from_saved(indexed, &LAYER, &store.saved(key)).unwrap(), names)
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
        assert_eq!(found.index.sweep().count(), expected.len());
        let (_, last) = found.index.entries().last().unwrap();
        assert_eq!(last.xattrs.get(b"user.large"), Some(&vec![7; 1 << 20][..]));
        assert_eq!(found.windows.len(), 1000);
        // A process that has the file open keeps it.
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
        // The trailer is intact, and the data that it describes is missing.
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
    index(&blob, Compression::Gzip, expected(&tar, &blob), Verify::Full, Some(draft.scratch().unwrap()))
        .unwrap();
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
