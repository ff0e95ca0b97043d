//! Tests of sources whose reads fail: once, at random, short, or with wrong bytes. Every result is right or an
//! error, and what failed once succeeds when the source does.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Archive, tar_of};
use crate::read_at::ReadAt;
use crate::store::Store;
use crate::{
    Compression, EngineOptions, Existing, ExportOptions, ExtractOptions, FileType, Image, LoadOptions,
    Result, seed,
};

const COMPRESSIONS: [Compression; 5] =
    [Compression::Plain, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2];
/// The compressions that engines use, for tests that read a layer many times.
const USUAL: [Compression; 3] = [Compression::Plain, Compression::Gzip, Compression::Zstd];
/// How often a random fault happens: in one of so many reads.
const ONE_IN: u64 = 3;

/// How a read fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `EIO`, with nothing read.
    Error,
    /// The second half is missing, as if the file had become shorter.
    Short,
    /// The second half is zeros, and no error is reported, as on a disk that loses writes.
    Zeros,
}

const FAULTS: [Fault; 3] = [Fault::Error, Fault::Short, Fault::Zeros];

/// When reads fail.
#[derive(Debug)]
struct Plan {
    fault: Fault,
    /// The number of reads so far.
    reads: AtomicU64,
    /// The reads from `from` to before `until` fail.
    from: AtomicU64,
    until: AtomicU64,
    /// Of these reads, only one in so many fails, at random.
    one_in: u64,
    seed: u64,
}

impl Plan {
    fn new(fault: Fault, one_in: u64) -> Arc<Self> {
        let (reads, from, until) = (AtomicU64::new(0), AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Arc::new(Plan { fault, reads, from, until, one_in, seed: seed::seed() })
    }

    /// Makes `count` reads fail, after the next `after` reads.
    fn fail(&self, after: u64, count: u64) {
        let from = self.reads.load(Ordering::SeqCst) + after;
        self.from.store(from, Ordering::SeqCst);
        self.until.store(from.saturating_add(count), Ordering::SeqCst);
    }

    fn recover(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// Counts a read, and returns whether it fails.
    fn next(&self) -> bool {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        let is_due = (self.from.load(Ordering::SeqCst)..self.until.load(Ordering::SeqCst)).contains(&number);
        let hash = blake3::hash(&[self.seed, number].map(u64::to_le_bytes).concat());
        is_due && u64::from(hash.as_bytes()[0]) % self.one_in == 0
    }
}

/// Bytes whose reads fail by a plan.
#[derive(Debug)]
struct Faulty {
    bytes: Arc<dyn ReadAt>,
    plan: Arc<Plan>,
}

impl ReadAt for Faulty {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.plan.next() {
            return self.bytes.read_exact_at(buf, offset);
        }
        let (first, second) = buf.split_at_mut(buf.len() / 2);
        match self.plan.fault {
            Fault::Error => Err(io::Error::from(rustix::io::Errno::IO)),
            Fault::Short => {
                self.bytes.read_exact_at(first, offset)?;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Fault::Zeros => {
                second.fill(0);
                self.bytes.read_exact_at(first, offset)
            }
        }
    }
}

/// Returns bytes that compress by about half. No part of them is zeros.
fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"0123456789abcdef"[(state >> 28) as usize]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Makes an image of three layers, of which one is larger than the cache and hides a file.
fn archive(compression: Compression) -> Archive {
    let (large, small) = (noise(6 << 20, 1), noise(70_000, 2));
    let lower: [(&str, &[u8]); 3] = [("etc/gone", b"1"), ("etc/kept", &small), ("large", &noise(9000, 3))];
    let upper: [(&str, &[u8]); 2] = [("etc/.wh.gone", b""), ("large", &large)];
    Archive::of_tars(&[tar_of(&lower), tar_of(&upper), tar_of(&[("end", b"end")])], compression)
}

fn options() -> EngineOptions {
    EngineOptions::default().cache_bytes(1 << 20)
}

/// Loads the image of `archive`, with layers that fail by `plan`.
fn load(archive: &Archive, options: EngineOptions, plan: &Arc<Plan>) -> Result<Image> {
    let mut selected = archive.select(options);
    for layer in &mut selected.opened.layers {
        layer.bytes = Arc::new(Faulty { bytes: layer.bytes.clone(), plan: plan.clone() });
    }
    selected.load(&LoadOptions::default())
}

/// Returns every file with its content, or with the error of reading it.
fn files(image: &Image) -> BTreeMap<Vec<u8>, Result<Vec<u8>>> {
    let files = image.walk().filter_map(|(path, id)| {
        let inode = image.inode(id)?;
        let mut bytes = vec![0; usize::try_from(inode.size()).ok()?];
        let read = |bytes: &mut Vec<u8>| {
            for (number, part) in bytes.chunks_mut(64 << 10).enumerate() {
                image.read_at(id, part, number as u64 * (64 << 10))?;
            }
            Ok(())
        };
        let path = path.strip_prefix(b"/").unwrap_or(&path).to_vec();
        (inode.file_type() == FileType::File).then(|| (path, read(&mut bytes).map(|()| bytes)))
    });
    files.collect()
}

fn right(archive: &Archive) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let image = load(archive, EngineOptions::default(), &Plan::new(Fault::Error, 1)).unwrap();
    let files = files(&image);
    assert_eq!(files.len(), 3, "{:?}", files.keys());
    files.into_iter().map(|(path, read)| (path, read.unwrap())).collect()
}

#[track_caller]
fn assert_all_right(image: &Image, right: &BTreeMap<Vec<u8>, Vec<u8>>, about: &str) {
    for (path, read) in files(image) {
        let bytes = read.unwrap_or_else(|error| panic!("{about}: {error}"));
        assert!(bytes == right[&path], "{about}: {}", String::from_utf8_lossy(&path));
    }
}

/// Nothing of a pass that failed is kept.
#[test]
fn x36_whichever_read_of_a_pass_fails_is_an_error_and_the_next_pass_is_whole() {
    for compression in USUAL {
        let archive = archive(compression);
        let right = right(&archive);
        for fault in FAULTS {
            let plan = Plan::new(fault, 1);
            load(&archive, options(), &plan).unwrap();
            let reads = plan.reads.load(Ordering::SeqCst);
            let mut number = 0;
            while number < reads {
                let cache = tempfile::tempdir().unwrap();
                let options = || options().store(Store::open(cache.path()).unwrap());
                plan.fail(number, 1);
                let about = format!("{compression:?} {fault:?} in read {number}");
                match load(&archive, options(), &plan) {
                    Ok(image) => {
                        // The second half of what was read can consist of zeros.
                        assert_eq!(fault, Fault::Zeros, "{about}");
                        assert_all_right(&image, &right, &about);
                    }
                    Err(error) => assert!(error.to_string().contains("layer "), "{about}: {error}"),
                }
                plan.recover();
                assert_all_right(&load(&archive, options(), &plan).unwrap(), &right, &about);
                number += 1 + number / 2;
            }
            assert!(number > 4, "{compression:?}: {reads} reads");
        }
    }
}

#[test]
fn x36_reads_that_fail_at_random_give_right_bytes_or_an_error_and_then_recover() {
    for compression in COMPRESSIONS {
        let archive = archive(compression);
        let right = right(&archive);
        for fault in FAULTS {
            let about = format!("{compression:?} {fault:?}");
            let plan = Plan::new(fault, ONE_IN);
            let image = load(&archive, options(), &plan).unwrap();
            let mut failed = 0;
            for _ in 0..2 {
                plan.fail(0, u64::MAX);
                for (path, read) in files(&image) {
                    match read {
                        Ok(bytes) => assert!(bytes == right[&path], "{about}: other bytes"),
                        Err(_) => failed += 1,
                    }
                }
                plan.recover();
                assert_all_right(&image, &right, &about);
            }
            assert!(failed > 0, "{about}: no read failed");
        }
    }
}

#[test]
fn x36_an_export_from_a_source_that_fails_is_an_error_or_the_same_tar() {
    for (compression, fault) in COMPRESSIONS.into_iter().zip(FAULTS.into_iter().cycle()) {
        let archive = archive(compression);
        let about = format!("{compression:?} {fault:?}");
        let plan = Plan::new(fault, ONE_IN);
        let export = |image: &Image| {
            let mut out = Vec::new();
            image.export(&mut out, &ExportOptions::default()).map(|()| out)
        };
        let whole = export(&load(&archive, options(), &plan).unwrap()).unwrap();
        let image = load(&archive, options(), &plan).unwrap();
        let mut failed = 0;
        for _ in 0..2 {
            plan.fail(0, u64::MAX);
            match export(&image) {
                Ok(tar) => assert!(tar == whole, "{about}: another tar"),
                Err(_) => failed += 1,
            }
            plan.recover();
            assert!(export(&image).unwrap() == whole, "{about}: another tar after the source recovered");
        }
        assert!(failed > 0, "{about}: no export failed");
    }
}

#[test]
fn x36_extracted_files_from_a_source_that_fails_are_right_or_missing_and_named() {
    for compression in COMPRESSIONS {
        let archive = archive(compression);
        let right = right(&archive);
        for fault in FAULTS {
            let about = format!("{compression:?} {fault:?}");
            let (target, plan) = (tempfile::tempdir().unwrap(), Plan::new(fault, ONE_IN));
            let image = load(&archive, options(), &plan).unwrap();
            plan.fail(0, u64::MAX);
            let report = image.extract(target.path(), &ExtractOptions::default()).unwrap();
            let on_disk =
                |path: &[u8]| std::fs::read(target.path().join(std::str::from_utf8(path).unwrap())).ok();
            for (path, content) in &right {
                let is_named = report.failures.iter().any(|failure| failure.path == *path);
                match on_disk(path) {
                    Some(bytes) => assert!(bytes == *content && !is_named, "{about}: other bytes"),
                    None => {
                        assert!(is_named, "{about}: {} is missing: {report:?}", String::from_utf8_lossy(path))
                    }
                }
            }
            plan.recover();
            let again = ExtractOptions::default().existing(Existing::Replace);
            assert_eq!(image.extract(target.path(), &again).unwrap().failed, 0, "{about}");
            assert!(right.iter().all(|(path, content)| on_disk(path).as_ref() == Some(content)), "{about}");
        }
    }
}
