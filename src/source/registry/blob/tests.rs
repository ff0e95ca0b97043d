//! Requests for blocks, counted, and what becomes of them when they fail.

use std::time::Duration;

use super::super::fake::{Fake, FakeFetch, Fault, Request};
use super::*;
use crate::digest::Algorithm;
use crate::source::registry::content_cache::ContentCache;
use crate::source::registry::fetch::{Cancel, NetError};
use crate::store::Store;
use crate::waiting;

const B: u64 = BLOCK_BYTES;
/// Longer than any test takes.
const PATIENT: Duration = Duration::from_secs(100);

/// A cache directory, and a blob of `blocks` blocks and a few bytes.
struct Place {
    home: tempfile::TempDir,
    blob: Vec<u8>,
}

impl Place {
    fn new(blocks: u64) -> Self {
        let len = usize::try_from(blocks * B + 10).unwrap();
        let blob = (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect();
        Place { home: tempfile::tempdir().unwrap(), blob }
    }

    fn fake(&self, faults: &[Fault]) -> Arc<Fake> {
        Fake::new(self.blob.clone(), faults.to_vec())
    }

    fn downloads(&self, net_timeout: Duration) -> Arc<Downloads> {
        let store = Store::open(&self.home.path().join("cache")).unwrap();
        let cache = ContentCache::new(Some(store.directory().to_owned()), 1 << 40);
        Downloads::new(cache, net_timeout, Cancel::default())
    }

    fn digest(&self) -> Digest {
        Algorithm::Sha256.digest(&self.blob)
    }

    /// Opens the blob as another process would.
    fn open(&self, fake: &Arc<Fake>) -> Arc<RemoteBlob> {
        self.open_with(fake, &self.downloads(PATIENT))
    }

    fn open_with(&self, fake: &Arc<Fake>, downloads: &Arc<Downloads>) -> Arc<RemoteBlob> {
        Arc::new(RemoteBlob::new(Arc::new(FakeFetch(Arc::clone(fake))), self.digest(), downloads))
    }

    fn part(&self, range: Range<u64>) -> &[u8] {
        &self.blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    fn whole(&self) -> Range<u64> {
        0..self.blob.len() as u64
    }

    fn kept(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.home.path().join("cache/blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().rsplit('.').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }
}

fn read(blob: &Arc<RemoteBlob>, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; usize::try_from(range.end - range.start).unwrap()];
    blob.read_exact_at(&mut buf, range.start).map(|()| buf)
}

fn pass(blob: &Arc<RemoteBlob>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    Arc::clone(blob).stream_all().read_to_end(&mut all).map(|_| all)
}

fn plain(ranges: &[Range<u64>]) -> Vec<Request> {
    ranges.iter().map(|range| (range.clone(), false)).collect()
}

fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: did not happen");
}

#[test]
fn a_range_is_one_request_and_what_is_kept_is_none() {
    let place = Place::new(20);
    let fake = place.fake(&[]);
    let blob = place.open(&fake);
    let files = || std::fs::read_dir(place.home.path().join("cache")).unwrap().count();
    assert_eq!((fake.requests().len(), files()), (0, 0), "nothing before the first read");
    assert_eq!(read(&blob, B + 5..4 * B + 7).unwrap(), place.part(B + 5..4 * B + 7));
    assert_eq!(read(&blob, 2 * B..5 * B).unwrap(), place.part(2 * B..5 * B));
    let stream = blob.clone().stream(3 * B..7 * B);
    assert_eq!(io::Read::bytes(stream).map(Result::unwrap).collect::<Vec<u8>>(), place.part(3 * B..7 * B));
    assert_eq!(fake.requests(), plain(&[B..5 * B, 5 * B..7 * B]));
    // Another process requests nothing of this, either.
    let other = place.open(&fake);
    assert_eq!(read(&other, B..7 * B).unwrap(), place.part(B..7 * B));
    assert_eq!((fake.requests().len(), fake.served()), (2, 6 * B));
}

#[test]
fn reads_past_the_end_fail_and_request_nothing() {
    let place = Place::new(1);
    let fake = place.fake(&[]);
    let blob = place.open(&fake);
    let end = place.whole().end;
    assert_eq!(read(&blob, end - 1..end + 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read(&blob, end..end).unwrap(), b"");
    assert_eq!(read(&blob, end - 1..end).unwrap(), place.part(end - 1..end));
    assert_eq!(fake.requests(), [(B..end, false)]);
}

#[test]
fn readers_of_the_same_blocks_wait_for_one_request() {
    let place = Place::new(20);
    let fake = Fake::paced(place.blob.clone(), vec![], Duration::from_millis(2));
    let blob = place.open(&fake);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(read(&blob, 0..10 * B).unwrap(), place.part(0..10 * B)));
        }
    });
    assert_eq!((fake.requests().len(), fake.served()), (1, 10 * B));
}

#[test]
fn at_most_four_requests_run_at_once_and_a_reader_is_not_last() {
    let place = Place::new(400);
    let fake = Fake::paced(place.blob.clone(), vec![], Duration::from_millis(1));
    let blob = place.open(&fake);
    (0..16).for_each(|at| blob.prepare(at * 20 * B..(at * 20 + 10) * B));
    thread::scope(|scope| {
        for at in 0..10 {
            let (blob, place) = (&blob, &place);
            let range = (330 + 5 * at) * B..(331 + 5 * at) * B;
            scope.spawn(move || assert_eq!(read(blob, range.clone()).unwrap(), place.part(range)));
        }
    });
    assert!(fake.requests().len() < 26, "reads do not wait for all that was announced");
    until("all that was announced is requested", || fake.requests().len() == 26);
    assert!(fake.most_running() <= 4, "{}", fake.most_running());
}

#[test]
fn a_pass_is_one_request_and_leaves_the_whole_blob() {
    let place = Place::new(200);
    let fake = place.fake(&[]);
    let blob = place.open(&fake);
    assert!(pass(&blob).unwrap() == place.blob);
    assert_eq!(place.kept(), ["map", "part", "use"]);
    blob.proved();
    assert_eq!(place.kept(), ["blob", "use"]);
    assert!(pass(&place.open(&fake)).unwrap() == place.blob);
    assert_eq!(fake.requests(), plain(&[place.whole()]));
}

#[test]
fn a_long_part_is_one_request_and_holds_up_no_pass() {
    let place = Place::new(200);
    let fake = place.fake(&[]);
    let blob = place.open(&fake);
    let mut part = blob.clone().stream(20 * B..180 * B);
    let mut begun = vec![0; usize::try_from(10 * B).unwrap()];
    part.read_exact(&mut begun).unwrap();
    assert!(begun == place.part(20 * B..30 * B));
    assert!(pass(&place.open(&fake)).unwrap() == place.blob, "while the reader of the part pauses");
    let mut rest = Vec::new();
    part.read_to_end(&mut rest).unwrap();
    assert!(rest == place.part(30 * B..180 * B));
    assert_eq!(fake.requests()[0], (20 * B..180 * B, false));
    assert_eq!(fake.requests().len(), 3, "{:?}", fake.requests());
}

#[test]
fn a_pass_that_broke_is_continued_where_it_broke_by_the_next_process() {
    let place = Place::new(200);
    let fake = place.fake(&[]);
    let mut begun = place.open(&fake).stream_all();
    let mut first = vec![0; usize::try_from(70 * B + 100).unwrap()];
    begun.read_exact(&mut first).unwrap();
    drop(begun);
    let blob = place.open(&fake);
    assert!(pass(&blob).unwrap() == place.blob);
    assert_eq!(fake.requests(), plain(&[place.whole(), 71 * B..place.whole().end]));
    blob.proved();
    assert_eq!(place.kept(), ["blob", "use"]);
}

#[test]
fn a_pass_requests_what_is_missing_and_no_more() {
    let place = Place::new(100);
    let fake = place.fake(&[]);
    let blob = place.open(&fake);
    read(&blob, 10 * B..20 * B).unwrap();
    read(&blob, 22 * B..30 * B).unwrap();
    assert!(pass(&blob).unwrap() == place.blob);
    let expected = [10 * B..20 * B, 22 * B..30 * B, 0..10 * B, 20 * B..22 * B, 30 * B..place.whole().end];
    assert_eq!(fake.requests(), plain(&expected));
    assert_eq!(fake.served(), place.whole().end);
}

#[test]
fn a_broken_connection_costs_a_request_for_the_rest_and_no_byte_twice() {
    let place = Place::new(30);
    for cut in [1, B - 1, B, 3 * B + 4097] {
        let place = Place { home: tempfile::tempdir().unwrap(), blob: place.blob.clone() };
        let fake = place.fake(&[Fault::Cut(cut)]);
        let blob = place.open(&fake);
        assert!(read(&blob, 2 * B..12 * B).unwrap() == place.part(2 * B..12 * B), "{cut}");
        assert_eq!(fake.requests(), plain(&[2 * B..12 * B, 2 * B + cut..12 * B]), "{cut}");
        assert_eq!(fake.served(), 10 * B, "{cut}");
        fake.fail_next([Fault::Cut(cut)]);
        assert!(pass(&blob).unwrap() == place.blob, "{cut}");
        assert_eq!(fake.served(), place.whole().end, "{cut}");
    }
}

#[test]
fn a_short_answer_is_continued_too() {
    let place = Place::new(30);
    let fake = place.fake(&[Fault::Short(B + 1)]);
    assert!(pass(&place.open(&fake)).unwrap() == place.blob);
    assert_eq!(fake.requests(), plain(&[place.whole(), B + 1..place.whole().end]));
}

#[test]
fn a_host_that_breaks_every_connection_is_an_error_and_the_next_read_tries_again() {
    let place = Place::new(30);
    let fake = place.fake(&vec![Fault::Cut(3); 5]);
    let blob = place.open(&fake);
    let error = read(&blob, 0..B).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(matches!(NetError::of(&error), Some(NetError::Unreachable { .. })), "{error}");
    assert_eq!(fake.requests().len(), 5);
    assert!(read(&blob, 0..B).unwrap() == place.part(0..B));
}

#[test]
fn a_failed_request_fails_each_reader_with_its_cause() {
    let place = Place::new(30);
    let denied = NetError::Denied { host: "registry.test".into(), user: None };
    let fake = place.fake(&[Fault::Fail(denied.clone()), Fault::Fail(denied.clone())]);
    let blob = place.open(&fake);
    let errors = [read(&blob, 0..B).unwrap_err(), pass(&blob).unwrap_err()];
    for error in errors {
        assert_eq!((error.kind(), NetError::of(&error)), (io::ErrorKind::PermissionDenied, Some(&denied)));
    }
    assert_eq!(fake.requests().len(), 2, "not repeated");
}

#[test]
fn a_stalled_read_ends_by_its_deadline_and_holds_up_no_other() {
    let place = Place::new(30);
    let fake = place.fake(&[Fault::Stall(B + 1)]);
    let blob = place.open_with(&fake, &place.downloads(Duration::from_millis(400)));
    thread::scope(|scope| {
        let stalled = scope.spawn(|| {
            let begun = Instant::now();
            (read(&blob, 0..4 * B).unwrap_err(), begun.elapsed())
        });
        until("the request", || !fake.requests().is_empty());
        assert!(read(&blob, 10 * B..12 * B).unwrap() == place.part(10 * B..12 * B));
        let (error, time) = stalled.join().unwrap();
        assert!(matches!(NetError::of(&error), Some(NetError::TimedOut { .. })), "{error}");
        assert!(time < Duration::from_secs(5), "{time:?}");
    });
    // What had arrived is kept.
    assert!(read(&blob, 0..4 * B).unwrap() == place.part(0..4 * B));
    assert_eq!(fake.requests().last().unwrap(), &(B..4 * B, false));
}

#[test]
fn all_waits_end_at_once_when_they_are_cancelled() {
    let place = Place::new(300);
    let fake = place.fake(&vec![Fault::Stall(0); 20]);
    let downloads = place.downloads(PATIENT);
    let blob = place.open_with(&fake, &downloads);
    let begun = Instant::now();
    thread::scope(|scope| {
        let readers: Vec<_> = (1..7)
            .map(|at| {
                let blob = &blob;
                scope.spawn(move || read(blob, at * 20 * B..(at * 20 + 1) * B).unwrap_err())
            })
            .collect();
        let filler = scope.spawn(|| pass(&blob).unwrap_err());
        until("the requests", || fake.requests().len() == 5);
        downloads.cancel.cancel();
        for reader in readers.into_iter().chain([filler]) {
            assert_eq!(NetError::of(&reader.join().unwrap()), Some(&NetError::Cancelled));
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_host_that_ignores_ranges_is_asked_once_and_sends_the_blob_once() {
    let place = Place::new(60);
    let pace = Duration::from_millis(1);
    for range in [0..B, 40 * B..41 * B] {
        let place = Place { home: tempfile::tempdir().unwrap(), blob: place.blob.clone() };
        let fake = Fake::paced(place.blob.clone(), vec![Fault::Whole], pace);
        let blob = place.open(&fake);
        assert!(read(&blob, range.clone()).unwrap() == place.part(range.clone()), "{range:?}");
        // While the answer passes, other readers wait for it.
        assert!(read(&blob, 50 * B..55 * B).unwrap() == place.part(50 * B..55 * B), "{range:?}");
        assert!(pass(&blob).unwrap() == place.blob, "{range:?}");
        assert_eq!((fake.requests().len(), fake.served()), (1, place.whole().end), "{range:?}");
    }
}

#[test]
fn a_whole_answer_that_breaks_is_continued_although_it_starts_again() {
    let place = Place::new(60);
    let fake = place.fake(&[Fault::Cut(20 * B + 1), Fault::Whole]);
    assert!(pass(&place.open(&fake)).unwrap() == place.blob);
    assert_eq!(fake.requests(), plain(&[place.whole(), 20 * B + 1..place.whole().end]));
    assert_eq!(fake.served(), 20 * B + 1 + place.whole().end);
}

#[test]
fn an_answer_with_another_range_is_refused() {
    let place = Place::new(10);
    let fake = place.fake(&[Fault::Elsewhere]);
    let error = read(&place.open(&fake), 0..B).unwrap_err();
    assert!(matches!(NetError::of(&error), Some(NetError::Refused { .. })), "{error}");
}

#[test]
fn wrong_bytes_are_requested_again_past_caches_and_replaced_for_every_process() {
    let place = Place::new(30);
    let fake = place.fake(&[Fault::Wrong(4 * B + 3)]);
    let [blob, other] = [place.open(&fake), place.open(&fake)];
    assert!(read(&blob, 2 * B..8 * B).unwrap() != place.part(2 * B..8 * B));
    assert!(read(&other, 2 * B..8 * B).unwrap() != place.part(2 * B..8 * B));
    blob.refresh(4 * B + 1..5 * B + 1);
    for blob in [&blob, &other, &place.open(&fake)] {
        assert!(read(blob, 2 * B..8 * B).unwrap() == place.part(2 * B..8 * B));
    }
    let expected = [(2 * B..8 * B, false), (4 * B..6 * B, true)];
    assert_eq!(fake.requests(), expected);
    read(&blob, 10 * B..11 * B).unwrap();
    assert_eq!(fake.requests().last().unwrap(), &(10 * B..11 * B, false));
}

#[test]
fn what_is_announced_is_requested_once_and_joined() {
    let place = Place::new(200);
    let fake = place.fake(&[]);
    let blob = place.open(&fake);
    blob.prepare(0..70 * B);
    blob.prepare(10 * B..80 * B);
    until("the requests", || (0..80).all(|block| blob.0.content().has(block)));
    let mut requests = fake.requests();
    requests.sort_by_key(|(range, _)| range.start);
    assert_eq!(requests, plain(&[0..64 * B, 64 * B..70 * B, 70 * B..80 * B]));
    assert!(read(&blob, 0..80 * B).unwrap() == place.part(0..80 * B));
    assert_eq!(fake.requests().len(), 3);
}

#[test]
fn a_reader_does_not_wait_for_what_is_only_announced() {
    let place = Place::new(300);
    let fake = place.fake(&vec![Fault::Stall(0); 3]);
    let blob = place.open_with(&fake, &place.downloads(Duration::from_secs(20)));
    (0..6).for_each(|at| blob.prepare(at * 20 * B..(at * 20 + 1) * B));
    until("three stalled requests", || fake.requests().len() == 3);
    let begun = Instant::now();
    let read = read(&blob, 100 * B..101 * B).unwrap();
    assert!(read == place.part(100 * B..101 * B) && begun.elapsed() < Duration::from_secs(5));
    blob.0.downloads.cancel.cancel();
}

#[test]
fn eight_processes_that_pass_over_a_blob_download_it_once() {
    let place = Place::new(100);
    let fake = Fake::paced(place.blob.clone(), vec![], Duration::from_micros(200));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let blob = place.open(&fake);
                assert!(pass(&blob).unwrap() == place.blob);
                blob.proved();
            });
        }
    });
    assert_eq!((fake.requests().len(), fake.served()), (1, place.whole().end));
    assert_eq!(place.kept(), ["blob", "use"]);
}

#[test]
fn another_process_takes_over_when_the_one_that_fills_ends() {
    let place = Place::new(100);
    let fake = place.fake(&[]);
    let mut first = place.open(&fake).stream_all();
    first.read_exact(&mut vec![0; usize::try_from(10 * B).unwrap()]).unwrap();
    thread::scope(|scope| {
        let second = scope.spawn(|| pass(&place.open(&fake)).unwrap());
        thread::sleep(Duration::from_millis(300));
        assert_eq!(fake.requests().len(), 1, "the second one waits");
        drop(first);
        assert!(second.join().unwrap() == place.blob);
    });
    assert_eq!(fake.requests(), plain(&[place.whole(), 10 * B..place.whole().end]));
}

#[test]
fn without_a_cache_directory_reads_are_the_same() {
    let place = Place::new(1200);
    let fake = place.fake(&[]);
    let cache = ContentCache::new(None, 1 << 40);
    let blob = place.open_with(&fake, &Downloads::new(cache, PATIENT, Cancel::default()));
    assert!(pass(&blob).unwrap() == place.blob);
    for start in [0, 600, 1190] {
        assert!(read(&blob, start * B..(start + 5) * B).unwrap() == place.part(start * B..(start + 5) * B));
    }
    assert!(!place.home.path().join("cache").exists());
}

/// Random reads, passes and announcements under random faults, from several processes: every byte is right, or
/// the read fails.
#[test]
fn under_random_faults_every_byte_is_right_or_the_read_fails() {
    let mut state = crate::seed::seed();
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let place = Place::new(100);
    let fake = place.fake(&[]);
    let mut failed = 0;
    for round in 0..30 {
        let faults: Vec<Fault> = (0..random(4))
            .map(|_| match random(7) {
                0 => Fault::Cut(random(9 * B)),
                1 => Fault::Short(1 + random(B)),
                2 => Fault::Whole,
                3 => Fault::Fail(NetError::TimedOut { host: "registry.test".into() }),
                4 => Fault::Elsewhere,
                5 => Fault::Stall(random(B)),
                _ => Fault::None,
            })
            .collect();
        fake.fail_next(faults);
        let blob = place.open_with(&fake, &place.downloads(Duration::from_millis(200)));
        let start = random(100) * B + random(B);
        let range = start..(start + 1 + random(20 * B)).min(place.whole().end);
        if random(3) == 0 {
            blob.prepare(range.start..place.whole().end);
        }
        let result = if random(20) == 0 { pass(&blob) } else { read(&blob, range.clone()) };
        match result {
            Ok(bytes) if bytes.len() == place.blob.len() => assert!(bytes == place.blob, "round {round}"),
            Ok(bytes) => assert!(bytes == place.part(range), "round {round}"),
            Err(error) => {
                assert!(NetError::of(&error).is_some(), "round {round}: {error}");
                failed += 1;
            }
        }
        if round % 5 == 0 {
            blob.refresh(place.whole());
        }
    }
    assert!(failed < 30);
}

#[test]
fn all_waits_of_a_read_end_together_and_what_is_kept_is_returned_without_one() {
    let place = Place::new(200);
    let fake = place.fake(&[]);
    let downloads = place.downloads(Duration::from_secs(50));
    let blob = place.open_with(&fake, &downloads);
    let mut out = vec![0; 100];
    blob.read_exact_at(&mut out, 0).unwrap();
    let served = fake.served();
    let long_ago = Instant::now().checked_sub(Duration::from_secs(51)).unwrap();
    let mut read = |offset| blob.read_exact_at(&mut out, offset).map_err(|cause| cause.kind());
    let stream = |start| {
        let mut stream = Arc::clone(&blob).stream(start..place.whole().end);
        stream.read(&mut [0; 10]).map_err(|cause| cause.kind())
    };
    // A range of more than 8 MiB is read while it arrives.
    waiting::since(long_ago, || {
        assert_eq!((read(0), read(10 * B)), (Ok(()), Err(io::ErrorKind::TimedOut)));
        assert_eq!((stream(0), stream(20 * B)), (Ok(10), Err(io::ErrorKind::TimedOut)));
    });
    waiting::never(|| assert_eq!((read(0), read(10 * B)), (Ok(()), Err(io::ErrorKind::TimedOut))));
    assert_eq!(fake.served(), served, "nothing came any more");
    let now = Instant::now();
    waiting::since(now, || {
        assert_eq!(read(10 * B), Ok(()));
        assert_eq!(blob.deadline(), Some(now + Duration::from_secs(50)));
    });
    assert_eq!(blob.deadline(), None);
}
