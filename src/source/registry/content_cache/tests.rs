//! The files of a blob, under several caches at a time: each stands for a process.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;
use crate::digest::Algorithm;
use crate::store::Store;

const B: usize = 64 << 10;

/// A cache directory, and a blob of three blocks, the last one shorter.
struct Place {
    home: tempfile::TempDir,
    blob: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        let blob = (0..2 * B + 100).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
        let place = Place { home: tempfile::tempdir().unwrap(), blob };
        place.store();
        place
    }

    fn digest(&self) -> Digest {
        Algorithm::Sha256.digest(&self.blob)
    }

    fn store(&self) -> Store {
        Store::open(&self.home.path().join("cache")).unwrap()
    }

    fn open(&self) -> Content {
        ContentCache::new(Some(self.home.path().join("cache")), 1 << 30)
            .blob(&self.digest(), self.blob.len() as u64)
    }

    fn block(&self, block: usize) -> &[u8] {
        &self.blob[block * B..self.blob.len().min((block + 1) * B)]
    }

    fn keep(&self, content: &Content, blocks: &[usize]) {
        blocks.iter().for_each(|block| content.keep(*block as u64, self.block(*block)));
    }

    fn file(&self, ending: &str) -> PathBuf {
        let name = format!("sha256-{}.{ending}", self.digest().hex());
        self.home.path().join("cache/blobs").join(name)
    }

    fn endings(&self) -> Vec<&'static str> {
        ["blob", "map", "part", "use"].into_iter().filter(|ending| self.file(ending).exists()).collect()
    }
}

fn read(content: &Content, block: u64) -> Option<Vec<u8>> {
    let mut out = vec![1; 7];
    content.read(block, &mut out).then_some(out)
}

#[test]
fn what_one_process_keeps_every_other_one_has() {
    let place = Place::new();
    let [first, second] = [place.open(), place.open()];
    place.keep(&first, &[0, 2]);
    for content in [first, second, place.open()] {
        assert_eq!([0, 1, 2, 3].map(|block| content.has(block)), [true, false, true, false]);
        assert_eq!(read(&content, 0).unwrap(), place.block(0));
        assert_eq!(read(&content, 1), None);
        assert_eq!(read(&content, 2).unwrap(), place.block(2));
    }
    assert_eq!(std::fs::read(place.file("map")).unwrap(), [1, 0, 1]);
    assert_eq!(place.endings(), ["map", "part", "use"]);
}

#[test]
fn a_blob_is_whole_once_it_is_proved_and_not_before() {
    let place = Place::new();
    let content = place.open();
    place.keep(&content, &[0, 1]);
    content.proved();
    assert_eq!(place.endings(), ["map", "part", "use"], "a block is missing");
    place.keep(&content, &[2]);
    let other = place.open();
    content.proved();
    other.proved();
    assert_eq!(place.endings(), ["blob", "use"]);
    assert_eq!(std::fs::read(place.file("blob")).unwrap(), place.blob);
    for content in [content, other, place.open()] {
        assert_eq!(read(&content, 2).unwrap(), place.block(2));
        assert!(!content.has(3));
    }
}

#[test]
fn wrong_blocks_are_dropped_and_replaced_also_in_a_whole_blob() {
    let place = Place::new();
    let mut flipped = place.blob.clone();
    flipped[B] ^= 1;
    drop(place.open());
    std::fs::write(place.file("blob"), &flipped).unwrap();
    let [content, other] = [place.open(), place.open()];
    assert_eq!(place.endings(), ["blob", "use"]);
    assert_ne!(read(&content, 1).unwrap(), place.block(1));
    content.forget(1..2);
    assert_eq!([0, 1, 2].map(|block| content.has(block)), [true, false, true]);
    place.keep(&content, &[1]);
    for content in [content, other, place.open()] {
        assert_eq!(read(&content, 1).unwrap(), place.block(1));
    }
    assert_eq!(place.endings(), ["map", "part", "use"]);
}

#[test]
fn files_that_are_truncated_removed_or_replaced_cost_requests_and_nothing_else() {
    type Damage = fn(&Place);
    let damages: [Damage; 5] = [
        |place| File::options().write(true).open(place.file("part")).unwrap().set_len(10).unwrap(),
        |place| File::options().write(true).open(place.file("map")).unwrap().set_len(0).unwrap(),
        |place| std::fs::remove_file(place.file("part")).unwrap(),
        |place| std::fs::remove_file(place.file("map")).unwrap(),
        |place| std::fs::remove_dir_all(place.home.path().join("cache/blobs")).unwrap(),
    ];
    for (at, damage) in damages.into_iter().enumerate() {
        let place = Place::new();
        let running = place.open();
        place.keep(&running, &[0, 1, 2]);
        drop(place.open());
        damage(&place);
        // A running process has right bytes or none.
        for block in 0..3 {
            let found = read(&running, block as u64);
            assert!(found.is_none_or(|found| found == place.block(block)), "damage {at}, block {block}");
        }
        place.keep(&running, &[0, 1, 2]);
        assert_eq!(read(&running, 1).unwrap(), place.block(1), "damage {at}");
        // A new one too, once the caller has dropped what does not match its hash.
        let next = place.open();
        let wrong =
            |block: &usize| read(&next, *block as u64).is_some_and(|found| found != place.block(*block));
        (0..3).filter(wrong).for_each(|block| next.forget(block as u64..block as u64 + 1));
        place.keep(&next, &[0, 1, 2]);
        next.proved();
        assert!(place.endings().contains(&"blob"), "damage {at}");
        assert_eq!(std::fs::read(place.file("blob")).unwrap(), place.blob, "damage {at}");
    }
}

#[test]
fn a_blob_of_another_length_is_not_used() {
    let place = Place::new();
    drop(place.open());
    std::fs::write(place.file("blob"), b"short").unwrap();
    let content = place.open();
    assert!(!content.has(0));
    assert_eq!(place.endings(), ["map", "part", "use"]);
}

#[test]
fn one_process_fills_a_blob_at_a_time() {
    let place = Place::new();
    let [first, second] = [place.open(), place.open()];
    assert!(first.begin_fill());
    assert!(!first.begin_fill(), "another thread");
    assert!(!second.begin_fill(), "another process");
    place.keep(&first, &[0, 1, 2]);
    first.proved();
    first.end_fill();
    assert!(second.begin_fill());
    second.end_fill();
    assert!(first.begin_fill());
    // The lock of a process that is killed ends with its files.
    drop(first);
    assert!(second.begin_fill());
}

#[test]
fn without_a_directory_blocks_are_kept_in_memory_up_to_a_limit() {
    let place = Place::new();
    let cache = ContentCache::new(None, 1 << 30);
    let [a, b] = [0, 1].map(|_| cache.blob(&place.digest(), 2 * MEMORY_BYTES as u64));
    let block = vec![7; B];
    a.keep(0, &block);
    assert!(a.has(0) && !b.has(0), "every blob has its own blocks");
    let count = (MEMORY_BYTES / B) as u64;
    (0..count).for_each(|at| b.keep(at, &block));
    assert!(!a.has(0) && (0..count).all(|at| b.has(at)));
    assert_eq!(read(&b, 5).unwrap(), block);
    b.forget(5..6);
    b.proved();
    assert!(!b.has(5) && cache.memory().bytes == MEMORY_BYTES - B);
}

#[test]
fn a_full_budget_ends_the_keeping_and_idle_blobs_make_room_first() {
    let place = Place::new();
    let store = place.store();
    let budget = 20 * BLOCK_BYTES;
    let blob = |name: &str, blocks: u64| {
        let digest = Algorithm::Sha256.digest(name.as_bytes());
        let content =
            ContentCache::new(Some(store.directory().to_owned()), budget).blob(&digest, 40 * BLOCK_BYTES);
        (0..blocks).for_each(|block| content.keep(block, &[7; B]));
        content
    };
    let kept = |store: &Store| {
        let mut all: Vec<_> = store.list().unwrap().into_iter().filter_map(|entry| entry.blob).collect();
        all.sort_by_key(|blob| blob.kept_bytes);
        all.into_iter().map(|blob| (blob.digest, blob.kept_bytes / BLOCK_BYTES)).collect::<Vec<_>>()
    };
    let name = |name: &str| Algorithm::Sha256.digest(name.as_bytes());
    drop(blob("old", 6));
    let hold = BlobDirectory::of(store.directory()).hold(&name("old")).unwrap();
    hold.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    drop(hold);
    let in_use = blob("in use", 5);
    assert_eq!(kept(&store), [(name("in use"), 5), (name("old"), 6)]);
    let large = blob("large", 40);
    let found = kept(&store);
    assert!(found.iter().all(|(digest, _)| *digest != name("old")), "{found:?}");
    let total: u64 = found.iter().map(|(_, blocks)| blocks).sum();
    assert!((15..=20).contains(&total), "{found:?}");
    assert!((0..40).all(|block| large.has(block)), "the others are in memory");
    assert!((0..5).all(|block| in_use.has(block)));
}

#[test]
fn a_directory_that_cannot_be_used_costs_a_warning_and_no_more() {
    let place = Place::new();
    std::fs::create_dir_all(place.home.path().join("cache")).unwrap();
    let store = place.store();
    std::fs::write(place.home.path().join("cache/blobs"), b"a file").unwrap();
    let content = ContentCache::new(Some(store.directory().to_owned()), 1 << 30)
        .blob(&place.digest(), place.blob.len() as u64);
    place.keep(&content, &[0, 1, 2]);
    content.proved();
    assert_eq!(read(&content, 2).unwrap(), place.block(2));
}
