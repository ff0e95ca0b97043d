//! Databases built in code: every kind of page, damage at random, and writers that do not stop.

#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use super::meta::fnv_1a;
use super::*;

/// What a database contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) enum Node {
    Bytes(Vec<u8>),
    Bucket(BTreeMap<Vec<u8>, Node>),
}

impl<const N: usize> From<[(&str, Node); N]> for Node {
    fn from(entries: [(&str, Node); N]) -> Self {
        Node::Bucket(entries.into_iter().map(|(key, node)| (key.into(), node)).collect())
    }
}

impl From<&[u8]> for Node {
    fn from(bytes: &[u8]) -> Self {
        Node::Bytes(bytes.to_vec())
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// Writes a database as bbolt does.
struct Writer {
    page_size: usize,
    /// Maximum number of elements of a page, so that a small bucket has several levels.
    fan_out: usize,
    pages: Vec<u8>,
}

/// Returns a database with pages of `page_size` bytes, at most `fan_out` elements in each.
pub(in crate::source) fn database(page_size: usize, fan_out: usize, root: &Node) -> Vec<u8> {
    let Node::Bucket(root) = root else { panic!("the root is a bucket") };
    // Two meta pages and a page for the list of free pages.
    let mut writer = Writer { page_size, fan_out, pages: vec![0; 3 * page_size] };
    let root = writer.bucket(root);
    let end = (writer.pages.len() / page_size) as u64;
    for number in 0..2 {
        let meta = meta(number, page_size, root, end, 8 - number);
        let at = usize::try_from(number).unwrap() * page_size;
        writer.pages[at..at + meta.len()].copy_from_slice(&meta);
    }
    writer.pages
}

/// Returns a meta page of `transaction`.
fn meta(number: u64, page_size: usize, root: u64, end: u64, transaction: u64) -> Vec<u8> {
    let mut page = header(number, 4, 0, 0);
    for field in [0xED0C_DAED, 2, u32::try_from(page_size).unwrap(), 0] {
        page.extend(field.to_le_bytes());
    }
    for field in [root, 0, 2, end, transaction] {
        page.extend(field.to_le_bytes());
    }
    let checksum = fnv_1a(&page[16..]);
    page.extend(checksum.to_le_bytes());
    page
}

fn header(id: u64, flags: u16, count: usize, overflow: usize) -> Vec<u8> {
    let mut header = id.to_le_bytes().to_vec();
    header.extend(flags.to_le_bytes());
    header.extend(u16::try_from(count).unwrap().to_le_bytes());
    header.extend(u32::try_from(overflow).unwrap().to_le_bytes());
    header
}

/// Returns a page of elements, each with its first fields, its key and its value.
fn page(id: u64, flags: u16, page_size: usize, elements: &[(Vec<u8>, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let is_leaf = flags == 2;
    let len: usize = elements.iter().map(|(_, key, value)| 16 + key.len() + value.len()).sum();
    let overflow = (16 + len).div_ceil(page_size) - 1;
    let mut page = header(id, flags, elements.len(), overflow);
    let mut data = 16 + 16 * elements.len();
    for (fixed, key, value) in elements {
        let position = u32::try_from(data - page.len()).unwrap().to_le_bytes();
        let key_len = u32::try_from(key.len()).unwrap().to_le_bytes();
        match is_leaf {
            true => {
                let value_len = u32::try_from(value.len()).unwrap().to_le_bytes();
                page.extend([&fixed[..], &position, &key_len, &value_len].concat());
            }
            false => page.extend([&position[..], &key_len, fixed].concat()),
        }
        data += key.len() + value.len();
    }
    for (_, key, value) in elements {
        page.extend([&key[..], value].concat());
    }
    page
}

impl Writer {
    /// Writes the pages of a bucket and returns its root.
    fn bucket(&mut self, entries: &BTreeMap<Vec<u8>, Node>) -> u64 {
        let leaves: Vec<_> = entries.iter().map(|(key, node)| self.leaf(key, node)).collect();
        let mut level = self.level(2, &leaves);
        while level.len() > 1 {
            let branches: Vec<_> = level
                .iter()
                .map(|(key, id): &(Vec<u8>, u64)| (id.to_le_bytes().to_vec(), key.clone(), Vec::new()))
                .collect();
            level = self.level(1, &branches);
        }
        level[0].1
    }

    /// Returns the element of a key: flags, key and value.
    fn leaf(&mut self, key: &[u8], node: &Node) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let (flags, value) = match node {
            Node::Bytes(bytes) => (0_u32, bytes.clone()),
            Node::Bucket(entries) => (1, self.bucket_value(entries)),
        };
        (flags.to_le_bytes().to_vec(), key.to_vec(), value)
    }

    /// Returns the value of a bucket: the bucket itself if it is small and has no bucket in it.
    fn bucket_value(&mut self, entries: &BTreeMap<Vec<u8>, Node>) -> Vec<u8> {
        if entries.values().all(|node| matches!(node, Node::Bytes(_))) {
            let leaves: Vec<_> = entries.iter().map(|(key, node)| self.leaf(key, node)).collect();
            let leaf = page(0, 2, usize::MAX / 2, &leaves);
            if leaf.len() <= self.page_size / 4 {
                return [vec![0; 16], leaf].concat();
            }
        }
        [self.bucket(entries).to_le_bytes(), [0; 8]].concat()
    }

    /// Writes elements to as many pages as they need, and returns the first key and the number of each.
    fn level(&mut self, flags: u16, elements: &[(Vec<u8>, Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, u64)> {
        let groups: Vec<_> = elements.chunks(self.fan_out).collect();
        let groups = if groups.is_empty() { vec![&[][..]] } else { groups };
        let mut written = Vec::new();
        for group in groups {
            let id = (self.pages.len() / self.page_size) as u64;
            self.pages.extend(page(id, flags, self.page_size, group));
            self.pages.resize(self.pages.len().next_multiple_of(self.page_size), 0);
            written.push((group.first().map(|(_, key, _)| key.clone()).unwrap_or_default(), id));
        }
        written
    }
}

fn what() -> Subject {
    Subject::File("meta.db".into())
}

/// Reads all of a database.
fn contents(bytes: &[u8]) -> Result<Node> {
    contents_of(&Database::new(what(), bytes.to_vec())?.root(), 0)
}

fn contents_of(bucket: &Bucket<'_>, depth: usize) -> Result<Node> {
    let mut entries = BTreeMap::new();
    bucket.for_each(&mut |key, value| {
        let node = match value {
            Value::Bytes(bytes) => Node::from(bytes),
            Value::Bucket(bucket) if depth < 20 => contents_of(&bucket, depth + 1)?,
            Value::Bucket(_) => return Err(bucket.database().malformed("nested too deep")),
        };
        entries.insert(key.to_vec(), node);
        Ok(())
    })?;
    Ok(Node::Bucket(entries))
}

/// A database with every kind of page: inline and other buckets, an overflow page and three levels.
fn sample() -> Node {
    let many = (0..60_u8).map(|n| (format!("key{n:03}").into_bytes(), Node::from(&[n; 40][..]))).collect();
    let large: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    Node::from([
        ("empty", Node::Bucket(BTreeMap::new())),
        ("inline", [("a", "1".into()), ("b", "".into())].into()),
        ("large", Node::from(&large[..])),
        ("many", Node::Bucket(many)),
        ("nested", [("in", [("deep", Node::from([("x", "y".into())]))].into())].into()),
        ("plain", "value".into()),
    ])
}

#[test]
fn f36_all_kinds_of_page_are_read_with_all_sizes_of_page() {
    for shift in 10..=16 {
        let bytes = database(1 << shift, 4, &sample());
        assert_eq!(contents(&bytes).unwrap(), sample(), "pages of {} bytes", 1 << shift);
    }
}

#[test]
fn f36_a_key_is_found_as_in_the_list_of_all() {
    let database = Database::new(what(), database(1024, 3, &sample())).unwrap();
    let many = database.root().bucket(b"many").unwrap().unwrap();
    for n in 0..60_u8 {
        assert_eq!(many.bytes(format!("key{n:03}").as_bytes()).unwrap(), Some(&[n; 40][..]));
        assert_eq!(many.bytes(format!("key{n:03}0").as_bytes()).unwrap(), None);
    }
    assert_eq!(many.bytes(b"a").unwrap(), None);
    assert_eq!(many.bytes(b"z").unwrap(), None);
    assert!(database.root().bucket(b"empty").unwrap().unwrap().get(b"a").unwrap().is_none());
    for (error, text) in [
        (many.bucket(b"key000").unwrap_err(), "'key000' is a value, not a bucket"),
        (database.root().bytes(b"many").unwrap_err(), "'many' is a bucket, not a value"),
    ] {
        assert_eq!(error.to_string(), format!("'meta.db': damaged database: {text}"));
    }
}

#[test]
fn f36_the_newer_valid_meta_page_is_in_force() {
    let old = Node::from([("a", "old".into())]);
    let mut bytes = database(4096, 4, &old);
    let new = page(4, 2, 4096, &[(vec![0; 4], b"a".to_vec(), b"new".to_vec())]);
    bytes.extend(&new);
    bytes.resize(5 * 4096, 0);
    let newer = meta(1, 4096, 4, 5, 9);
    bytes[4096..4096 + newer.len()].copy_from_slice(&newer);
    assert_eq!(contents(&bytes).unwrap(), [("a", "new".into())].into());

    // A crash while a meta page was written leaves a wrong checksum.
    bytes[4096 + 70] ^= 1;
    assert_eq!(contents(&bytes).unwrap(), old);
    // Without the first meta page, the size of pages follows from the place of the second.
    bytes[4096 + 70] ^= 1;
    bytes[..4096].fill(0);
    assert_eq!(contents(&bytes).unwrap(), [("a", "new".into())].into());
}

#[test]
fn f36_other_files_and_versions_are_named() {
    let good = database(1024, 4, &sample());
    let changed = |at: usize, bytes: &[u8]| {
        let mut copy = good.clone();
        for page in [0, 1024] {
            copy[page + at..page + at + bytes.len()].copy_from_slice(bytes);
        }
        contents(&copy).unwrap_err().to_string()
    };
    assert_eq!(contents(b"").unwrap_err().to_string(), "'meta.db': not a bbolt database");
    assert_eq!(contents(&[7; 5000]).unwrap_err().to_string(), "'meta.db': not a bbolt database");
    assert_eq!(changed(60, b"x"), "'meta.db': damaged database: both meta pages have a wrong checksum");
    assert_eq!(
        changed(20, b"\x03"),
        "'meta.db': not supported: bbolt database version 3; only version 2 is supported"
    );
    assert_eq!(
        changed(16, &0xED0C_DAED_u32.to_be_bytes()),
        "'meta.db': not supported: a bbolt database of a big-endian machine"
    );
}

#[test]
fn f36_pages_that_refer_to_each_other_are_refused() {
    // A branch whose second child is the branch itself, and two buckets with one root.
    let branch = |id: u64, children: &[(&str, u64)]| {
        let elements: Vec<_> = children
            .iter()
            .map(|(key, child)| (child.to_le_bytes().to_vec(), key.as_bytes().to_vec(), Vec::new()))
            .collect();
        page(id, 1, 1024, &elements)
    };
    let leaf = |id: u64, keys: &[(&str, u32, Vec<u8>)]| {
        let elements: Vec<_> = keys
            .iter()
            .map(|(key, flags, value)| (flags.to_le_bytes().to_vec(), key.as_bytes().to_vec(), value.clone()))
            .collect();
        page(id, 2, 1024, &elements)
    };
    let shared = [4_u64.to_le_bytes(), [0; 8]].concat();
    let itself = [3_u64.to_le_bytes(), [0; 8]].concat();
    for (root, reason) in [
        (branch(3, &[("a", 4), ("d", 3)]), "page 3 is used twice"),
        (branch(3, &[("a", 4), ("d", 4)]), "page 4 is used twice"),
        (branch(3, &[("a", 5)]), "page 5 does not exist"),
        (branch(3, &[("a", 1)]), "page 1 does not exist"),
        (branch(3, &[("a", u64::MAX)]), "page 18446744073709551615 does not exist"),
        (branch(3, &[]), "page 3 is an empty branch"),
        (branch(3, &[("b", 4)]), "keys at 4096 are out of order"),
        (branch(3, &[("0", 4), ("a", 5)]), "keys at 4096 are out of order"),
        (branch(7, &[("a", 4)]), "page 3 has the number 7"),
        (leaf(3, &[("b", 0, vec![]), ("a", 0, vec![])]), "page 3 has keys out of order, at element 1"),
        (leaf(3, &[("a", 1, shared.clone()), ("b", 1, shared)]), "page 4 is used twice"),
        (leaf(3, &[("a", 1, itself)]), "page 3 is used twice"),
        (leaf(3, &[("a", 1, vec![0; 7])]), "a value is cut off"),
        (leaf(3, &[("a", 1, vec![0; 16])]), "bucket at 3121 has no header"),
    ] {
        let mut bytes = vec![0; 3 * 1024];
        bytes.extend(&root);
        bytes.resize(4 * 1024, 0);
        bytes.extend(leaf(4, &[("a", 0, b"1".to_vec()), ("c", 0, b"2".to_vec())]));
        bytes.resize(5 * 1024, 0);
        let meta = meta(0, 1024, 3, 5, 1);
        bytes[..meta.len()].copy_from_slice(&meta);
        let error = contents(&bytes).unwrap_err().to_string();
        assert_eq!(error, format!("'meta.db': damaged database: {reason}"));
    }
}

#[test]
fn f36_a_chain_of_branches_ends_at_a_limit() {
    let mut bytes = vec![0; 3 * 1024];
    for id in 3..100_u64 {
        bytes.extend(page(id, 1, 1024, &[((id + 1).to_le_bytes().to_vec(), b"a".to_vec(), Vec::new())]));
        bytes.resize(bytes.len().next_multiple_of(1024), 0);
    }
    let meta = meta(0, 1024, 3, 100, 1);
    bytes[..meta.len()].copy_from_slice(&meta);
    let expected = "'meta.db': 33 exceeds the limit MAX_DEPTH (32)";
    assert_eq!(contents(&bytes).unwrap_err().to_string(), expected);
    let database = Database::new(what(), bytes).unwrap();
    assert_eq!(database.root().get(b"a").unwrap_err().to_string(), expected);
}

#[test]
fn f36_a_truncated_database_is_an_error_or_complete() {
    let bytes = database(1024, 4, &sample());
    let mut complete = 0;
    for len in (0..bytes.len()).step_by(512) {
        match contents(&bytes[..len]) {
            Ok(read) => {
                assert_eq!(read, sample(), "{len} bytes");
                complete += 1;
            }
            Err(error) => assert!(matches!(error, Error::Malformed { .. }), "{len} bytes: {error}"),
        }
    }
    // Only the end of the last page is free space.
    assert!(complete <= 1, "{complete} truncated copies were accepted");
}

#[test]
fn f36_flipped_bytes_never_panic_or_hang() {
    let good = database(1024, 3, &sample());
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=next(4) {
            // Mostly in headers and elements, where damage matters.
            let page = next(good.len() / 1024) * 1024;
            bytes[page + if next(4) == 0 { next(1024) } else { next(96) }] ^= 1 << next(8);
        }
        refused += usize::from(contents(&bytes).is_err());
    }
    assert!(refused > 1000, "only {refused} of 20000 damaged databases were refused");
}

#[test]
fn f37_a_writer_that_goes_on_is_waited_for() {
    // Each transaction writes all pages to places that the one before does not use, then its meta page.
    let mut file = tempfile::tempfile().unwrap();
    let tree = |round: u8| {
        let keys = (0..40_u8).map(|n| (vec![n], Node::from(&[round; 100][..])));
        Node::Bucket(keys.collect())
    };
    let half = |round: u8| (database(1024, 2, &tree(round)), usize::from(round % 2));
    let pages = half(0).0.len() / 1024 - 3;
    let transaction = |file: &File, round: u8| {
        let (bytes, side) = half(round);
        let shift = (side * pages) as u64;
        for (number, old) in bytes.chunks(1024).enumerate().skip(3) {
            let mut page = old.to_vec();
            let id = number as u64 + shift;
            page[..8].copy_from_slice(&id.to_le_bytes());
            if page[8] == 1 {
                for element in 0..usize::from(page[10]) {
                    let at = 16 + 16 * element + 8;
                    let child = super::page::u64_at(&page, at).unwrap() + shift;
                    page[at..at + 8].copy_from_slice(&child.to_le_bytes());
                }
            }
            file.write_all_at(&page, id * 1024).unwrap();
        }
        let root = super::page::u64_at(&bytes, 32).unwrap() + shift;
        let meta = meta(side as u64, 1024, root, 3 + 2 * pages as u64, u64::from(round) + 1);
        file.write_all_at(&meta, side as u64 * 1024).unwrap();
    };
    file.write_all(&vec![0; (3 + 2 * pages) * 1024]).unwrap();
    transaction(&file, 0);
    transaction(&file, 1);

    let done = AtomicBool::new(false);
    let (mut complete, mut busy) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in (2..250_u8).cycle() {
                transaction(&file, round);
                std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 20));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..30 {
            let parse = |database: &Database| contents_of(&database.root(), 0);
            match read(&file, &what(), parse) {
                Ok(Node::Bucket(entries)) => {
                    let rounds: std::collections::HashSet<_> =
                        entries.values().map(|node| format!("{node:?}")).collect();
                    assert_eq!((entries.len(), rounds.len()), (40, 1), "two transactions were mixed");
                    complete += 1;
                }
                Ok(Node::Bytes(_)) => unreachable!("the root is a bucket"),
                Err(error) => {
                    assert!(error.to_string().contains("another process changed the database"), "{error}");
                    busy += 1;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(complete > 0, "no copy was complete, {busy} were given up");
}

#[test]
fn f37_a_damaged_database_without_a_writer_is_reported_at_once() {
    let mut file = tempfile::tempfile().unwrap();
    let mut bytes = database(1024, 4, &sample());
    bytes[3 * 1024 + 8] = 9;
    file.write_all(&bytes).unwrap();
    let attempts = std::cell::Cell::new(0);
    let error = read(&file, &what(), |database| {
        attempts.set(attempts.get() + 1);
        contents_of(&database.root(), 0)
    });
    assert!(error.unwrap_err().to_string().contains("damaged database"), "the page has no type");
    assert_eq!(attempts.get(), 2);
}

#[test]
fn f37_a_database_that_is_too_large_is_not_read() {
    let mut file = tempfile::tempfile().unwrap();
    let mut bytes = database(1024, 4, &sample());
    let meta = meta(0, 1024, 3, 1 << 40, 99);
    bytes[..meta.len()].copy_from_slice(&meta);
    file.write_all(&bytes).unwrap();
    file.set_len(1 << 32).unwrap();
    let error = read(&file, &what(), |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "'meta.db': 4294967296 exceeds the limit MAX_DATABASE_BYTES (536870912)");
}
