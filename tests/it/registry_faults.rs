//! Faults of a registry, one by one, and what each costs: through the program, with exact requests where the
//! order of threads does not decide. Rules R5 and R6 of docs/registries.md, and C44 to C47 of docs/cli.md.
//!
//! Faults whose cost depends on one module alone are tested there, over doubles that count requests:
//!
//! | fault | tests |
//! |---|---|
//! | cut, reset, stall | `registries`, `src/source/registry/tests/faults.rs`, `src/source/registry/blob/tests.rs` |
//! | wrong byte in a document, a layer, a span | here, `registries`, `src/api/tests/registry.rs` |
//! | 429 in all its shapes | here, `src/source/registry/tests/faults.rs` |
//! | tokens, 401 under way, helpers | `registries`, `src/source/registry/{auth,credentials}.rs`, `tests/access.rs` there |
//! | expired signatures | `registries`, `src/source/registry/tests/ranges.rs` |
//! | ranges ignored, wrong, refused, encoded | here, `src/source/registry/tests/ranges.rs` |
//! | redirects | here, `src/source/registry/tests/access.rs` |
//! | no network | here, `content_cache`, `src/api/tests/registry.rs` |
//! | several processes; a cache that is removed, damaged, full | here, `content_cache`, and `content_cache` and `blob` in `src/source/registry` |
//! | any of them, at random | `soak`, `src/source/registry/blob/tests.rs` |

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::content_cache::{BLOCK, Place};
use crate::fixture::{Compression, Fault, Image, Registry, Seen, file, patterned, sha256_hex};
use crate::mounted::{Imgmount, Need, have, is_mounted, run, wait, wait_until};

const MB: u64 = 1 << 20;

/// Reads with one request of the kernel, which does not keep the bytes.
fn direct(path: impl AsRef<Path>, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Reads all of `big` with many requests, and checks it.
#[track_caller]
fn check_big(point: &Path) {
    let expected = patterned(6 << 20, 1);
    for (at, piece) in expected.chunks(64 << 10).enumerate() {
        let read = direct(point.join("big"), at as u64 * BLOCK, piece.len()).unwrap();
        assert!(read == piece, "block {at} differs");
    }
}

fn big(offset: u64, length: usize) -> Vec<u8> {
    let from = usize::try_from(offset).unwrap();
    patterned(6 << 20, 1)[from..from + length].to_vec()
}

/// Makes every answer with bytes of a layer stall.
fn stall_layers(place: &Place) {
    let config = format!("sha256:{}", sha256_hex(&place.image.config()));
    place
        .registry
        .fail(move |seen| (seen.is_blob() && !seen.target.ends_with(&config)).then_some(Fault::Stall(0)));
}

fn spawn_reader(point: &Path, offset: u64) -> JoinHandle<io::Result<Vec<u8>>> {
    let path = point.join("big");
    thread::spawn(move || direct(path, offset, 4096))
}

fn has_range(seen: &Seen) -> bool {
    seen.headers.contains_key("range")
}

fn is_fresh(seen: &Seen) -> bool {
    seen.headers.get("cache-control").is_some_and(|value| value == "no-cache")
}

#[test]
fn c47_sixty_four_stalled_reads_delay_nothing_that_needs_no_registry() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    place.evict();
    assert_eq!((place.cat("/end").expect(0).text(), place.cat("/small").expect(0).text()), ("end", "small"));
    let mounted = place.imgmount.mount_in_foreground(place.reference(), &["--net-timeout", "8s"]);
    stall_layers(&place);
    place.registry.requests();
    let begun = Instant::now();
    // More than the mount has threads, within spans that are not in the cache.
    let readers: Vec<_> = (0..64).map(|reader| spawn_reader(mounted.path(), reader * BLOCK)).collect();
    let mut requests = 0;
    assert!(wait_until(|| {
        requests += place.registry.requests().len();
        requests >= 4
    }));
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 4);
    assert_eq!(fs::metadata(mounted.path().join("etc/os-release")).unwrap().len(), 7);
    assert_eq!(direct(mounted.path().join("end"), 0, 100).unwrap(), b"end");
    assert_eq!(direct(mounted.path().join("small"), 0, 100).unwrap(), b"small");
    assert!(readers.iter().all(|reader| !reader.is_finished()), "all of them still wait");
    for reader in readers {
        assert_eq!(reader.join().unwrap().unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
    }
    // Twice the time would mean that some of them began to wait when the others ended.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let log = fs::read_to_string(place.imgmount.dir().join("server.log")).unwrap();
    let failures = log.lines().filter(|line| line.contains("did not answer")).count();
    assert!((1..=2).contains(&failures), "one message a minute and cause: {log}");
}

#[test]
fn c47_without_a_network_everything_that_is_cached_is_answered() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let mut place = Place::new();
    place.evict();
    place.cat("/end").expect(0);
    let before = place.imgmount.mount_in_foreground(place.reference(), &["--net-timeout", "3s"]);
    place.registry.end();
    // A mount that is made now is as good.
    let after = place.imgmount.mount(place.reference(), &["--net-timeout", "3s"]);
    for mounted in [&before, &after] {
        assert_eq!(fs::read_dir(mounted.path().join("etc")).unwrap().count(), 1);
        assert_eq!(direct(mounted.path().join("end"), 0, 100).unwrap(), b"end");
        let error = direct(mounted.path().join("big"), 0, 100).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    }
    let log = fs::read_to_string(place.imgmount.dir().join("server.log")).unwrap();
    assert!(log.contains("cannot reach"), "{log}");
    // Every tree of the image and every document, too: layers, states, configs.
    let all = place.imgmount.mount(place.reference(), &["--view", "all", "--net-timeout", "3s"]);
    assert!(count_entries(all.path()) > 20);
    assert_eq!(direct(all.path().join("states/01/end"), 0, 100).unwrap(), b"end");
    place.run(&["ls", &place.reference()]).expect(0);
    assert_eq!(place.cat("/end").expect(0).text(), "end");
    place
        .run(&["cat", "--net-timeout", "3s", &format!("{}:/big", place.reference())])
        .expect(2)
        .says("cannot reach");
}

/// Looks up everything below a directory.
fn count_entries(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below =
        |path: PathBuf| if fs::symlink_metadata(&path).unwrap().is_dir() { count_entries(&path) } else { 0 };
    entries.map(|path| 1 + below(path)).sum()
}

#[test]
fn c47_a_mount_whose_requests_wait_is_unmounted_at_once() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    place.evict();
    let mut mounted = place.imgmount.mount_in_foreground(place.reference(), &["--net-timeout", "60s"]);
    stall_layers(&place);
    let reader = Command::new("cat").arg(mounted.path().join("big")).stdout(Stdio::null()).spawn();
    let mut reader = reader.unwrap();
    assert!(wait_until(|| !place.registry.requests().is_empty()));
    let begun = Instant::now();
    reader.kill().unwrap();
    assert!(wait(&mut reader).is_some(), "a killed reader is gone");
    run(Command::new("umount").arg(mounted.path())).expect(0);
    assert!(mounted.server_ends().is_some_and(|status| status.success()));
    // Less than one silence of the registry.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[test]
fn c47_a_signal_ends_an_extraction_that_waits_for_a_registry() {
    let place = Place::new();
    place.evict();
    stall_layers(&place);
    let target = place.imgmount.dir().join("tree");
    let reference = place.reference();
    let mut child = place.command(&["extract", &reference, target.to_str().unwrap()]).spawn().unwrap();
    assert!(wait_until(|| !place.registry.requests().is_empty()));
    let begun = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = wait(&mut child).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    // What was extracted is complete.
    let complete = ["etc/os-release", "big", "end", "small"];
    for path in complete.map(|name| target.join(name)).iter().filter(|path| path.exists()) {
        assert!(fs::metadata(path).unwrap().len() > 0, "{}", path.display());
    }
}

#[test]
fn c45_a_span_that_stays_wrong_is_eio_and_names_layer_and_offset() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    place.evict();
    let mounted = place.imgmount.mount_in_foreground(place.reference(), &[]);
    place.registry.fail(|seen| seen.is_blob().then_some(Fault::Flip(1000)));
    let error = direct(mounted.path().join("big"), 0, 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    let seen = place.registry.seen();
    let ranges: Vec<_> = seen.iter().map(|seen| (seen.headers["range"].clone(), is_fresh(seen))).collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!((&ranges[0].0, ranges[0].1, ranges[1].1), (&ranges[1].0, false, true));
    let log = fs::read_to_string(place.imgmount.dir().join("server.log")).unwrap();
    let layer = format!("layer 0 ({}", &place.image.layers[0].diff_id()[..19]);
    assert!(log.contains(&layer) && log.contains("at offset 0 changed"), "{layer}: {log}");
    place.registry.recover();
    assert_eq!(direct(mounted.path().join("big"), 0, 4096).unwrap(), big(0, 4096));
    assert_eq!(place.requests(0).len(), 1);
}

#[test]
fn r6_a_document_with_wrong_bytes_is_refused_and_not_kept() {
    let document = |kind, bytes: Vec<u8>| format!("{kind}/{}", &sha256_hex(&bytes)[..12]);
    for is_config in [false, true] {
        let place = Place::new();
        let what = match is_config {
            true => document("blobs", place.image.config()),
            false => document("manifests", place.image.manifest()),
        };
        let wrong = what.clone();
        place.registry.fail(move |seen| (seen.what() == wrong).then_some(Fault::Flip(20)));
        place.run(&["ls", &place.reference()]).expect(2).says("digest does not match");
        place.registry.requests();
        place.registry.recover();
        place.run(&["inspect", &place.reference()]).expect(0);
        assert!(place.registry.requests().contains(&format!("GET {what}")), "{what} was not kept");
    }
}

#[test]
fn c44_a_layer_with_a_wrong_byte_is_downloaded_once_more_past_caches() {
    let place = Place::new();
    let layer = format!("blobs/{}", &sha256_hex(place.blob(0))[..12]);
    let wrong = layer.clone();
    place.registry.fail(move |seen| (seen.what() == wrong && !is_fresh(seen)).then_some(Fault::Flip(70_000)));
    place.run(&["ls", &place.reference()]).expect(0);
    let seen = place.registry.seen();
    let requests: Vec<_> = seen.iter().filter(|seen| seen.what() == layer).collect();
    let shown: Vec<_> = requests.iter().map(|seen| (has_range(seen), is_fresh(seen))).collect();
    assert_eq!(shown, [(false, false), (false, true)]);
    let config = place.image.config().len();
    let sent = 2 * place.blob(0).len() + place.blob(1).len() + config;
    assert_eq!(place.registry.sent_bytes(), sent as u64);
    assert_eq!(fs::read(place.kept(0, "blob")).unwrap(), place.blob(0));
}

#[test]
fn r6_ranges_that_are_ignored_or_answered_wrongly_cost_one_stream_of_the_layer() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let wrong: [fn() -> Fault; 4] = [
        || Fault::IgnoreRange,
        || Fault::ShiftedRange(1),
        || Fault::Status(416, vec![("Content-Length", "100000".to_owned())]),
        || Fault::Header("Content-Encoding", "gzip".to_owned()),
    ];
    for fault in wrong {
        let place = Place::new();
        place.evict();
        let mounted = place.imgmount.mount(place.reference(), &[]);
        place.registry.fail(move |seen| has_range(seen).then(fault));
        // Two readers of different spans share the stream.
        let other = spawn_reader(mounted.path(), 5 * MB);
        assert_eq!(direct(mounted.path().join("big"), 0, 4096).unwrap(), big(0, 4096), "{:?}", fault());
        assert_eq!(other.join().unwrap().unwrap(), big(5 * MB, 4096), "{:?}", fault());
        check_big(mounted.path());
        let (requests, whole) = (place.requests(0), place.blob(0).len() as u64);
        // Both readers may have sent their first request before the first answer.
        let is_refused = !matches!(fault(), Fault::IgnoreRange);
        let streams = requests.iter().filter(|range| range.is_empty()).count();
        let asked = requests.len() - streams;
        assert!((1..=2).contains(&asked), "{:?}: {requests:?}", fault());
        assert_eq!(streams >= 1, is_refused, "{:?}: {requests:?}", fault());
        assert!(requests.len() <= 4, "{:?}: {requests:?}", fault());
        let sent = place.registry.sent_bytes();
        let most = 2 * whole + if is_refused { 2 * (MB + 2 * BLOCK) } else { 0 };
        assert!((whole..=most).contains(&sent), "{:?}: {sent} of {whole} bytes", fault());
    }
}

#[test]
fn r6_a_cache_that_ignores_ranges_when_it_is_cold_serves_them_when_it_is_warm() {
    let place = Place::new();
    place.evict();
    place.registry.fail(|seen| has_range(seen).then_some(Fault::IgnoreRange));
    assert_eq!(place.cat("/etc/os-release").expect(0).text(), "ID=test");
    assert_eq!(place.requests(0).len(), 1, "the answer to the request for a part was used");
    fs::remove_dir_all(place.imgmount.cache().join("blobs")).unwrap();
    place.registry.recover();
    place.registry.sent_bytes();
    assert_eq!(place.cat("/etc/os-release").expect(0).text(), "ID=test");
    assert_eq!(place.requests(0).len(), 1);
    assert!(place.registry.sent_bytes() < place.blob(0).len() as u64 / 2);
}

#[test]
fn r5_a_429_stops_all_requests_to_the_host_for_as_long_as_it_says() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let layer = |image: Image, number: u64| {
        image.layer_as(
            "COPY",
            &[file(format!("f{number}"), patterned(100_000, number))],
            "",
            Compression::Plain,
        )
    };
    let image = (0..8).fold(Image::named("a:1"), layer);
    registry.push("app:1", &image);
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (seen_at, config) = (times.clone(), format!("sha256:{}", sha256_hex(&image.config())));
    registry.fail(move |seen| {
        if !seen.is_blob() || seen.target.ends_with(&config) {
            return None;
        }
        let mut times = seen_at.lock().unwrap();
        times.push(Instant::now());
        (times.len() == 1).then(|| Fault::Status(429, vec![("Retry-After", "4".to_owned())]))
    });
    run(imgmount.command(&["ls", &registry.reference("app:1")]).env("HOME", imgmount.dir())).expect(0);
    let times = times.lock().unwrap();
    let after: Vec<Duration> = times.iter().map(|time| *time - times[0]).collect();
    let [first, last] = [Duration::from_secs(2), Duration::from_millis(3900)];
    assert_eq!(after.len(), 9, "eight layers, and one of them twice");
    // Layers are requested at the same time, so some requests may have been sent before the answer came.
    assert!(after.iter().all(|time| !(first..last).contains(time)), "{after:?}");
    assert!(after.iter().any(|time| *time >= last), "{after:?}");
}

#[test]
fn r4_a_redirect_within_the_registry_is_followed_and_a_loop_is_an_error() {
    let place = Place::new();
    let manifest = place.image.manifest();
    let digest = format!("sha256:{}", sha256_hex(&manifest));
    let elsewhere = format!("/v2/other/manifests/{digest}");
    place.registry.push("other:1", &place.image);
    place.registry.fail(move |seen| {
        seen.target
            .starts_with("/v2/app/manifests/")
            .then(|| Fault::Status(307, vec![("Location", elsewhere.clone())]))
    });
    place.run(&["inspect", &place.reference()]).expect(0);
    let requests = place.registry.requests();
    let short = format!("GET manifests/{}", &digest["sha256:".len()..][..12]);
    assert_eq!(requests.iter().filter(|request| **request == short).count(), 2, "{requests:?}");

    place.registry.fail(|seen| {
        let here = seen.target.clone();
        seen.target.contains("/manifests/").then(|| Fault::Status(307, vec![("Location", here)]))
    });
    place.run(&["inspect", "--no-cache", &place.reference()]).expect(2).says("redirect");
    assert_eq!(place.registry.requests().len(), 6, "the request, and five redirects");
}

#[test]
fn c44_a_process_takes_over_the_download_of_one_that_was_killed() {
    let place = Place::new();
    let layer = format!("blobs/{}", &sha256_hex(place.blob(0))[..12]);
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    place.registry.fail(move |seen| {
        let is_first = seen.what() == layer && count.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then_some(Fault::Stall(1 << 20))
    });
    let mut first = place.command(&["ls", &place.reference()]).stdout(Stdio::null()).spawn().unwrap();
    let kept = || {
        fs::read(place.kept(0, "map")).unwrap_or_default().iter().filter(|kept| **kept == 1).count() as u64
    };
    assert!(wait_until(|| kept() == MB / BLOCK));
    let mut second = place.command(&["ls", &place.reference()]).stdout(Stdio::null()).spawn().unwrap();
    // The second process has the file of the layer open, so it waits for the first.
    let part = place.kept(0, "part");
    assert!(wait_until(|| has_open(second.id(), &part)));
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(wait(&mut second).unwrap().success());
    assert_eq!(place.requests(0), ["".to_owned(), format!("{MB}-{}", place.blob(0).len() - 1)]);
    let config = 2 * place.image.config().len();
    let sent = place.registry.sent_bytes();
    let all = (place.blob(0).len() + place.blob(1).len()) as u64;
    assert!((all..=all + config as u64).contains(&sent), "{sent} bytes, no byte of a layer twice");
    assert_eq!(fs::read(place.kept(0, "blob")).unwrap(), place.blob(0));
}

fn has_open(process: u32, path: &Path) -> bool {
    let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|target| target == path)
}

#[test]
fn c45_a_cache_that_is_damaged_under_a_mount_costs_requests_and_changes_no_byte() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    place.run(&["ls", &place.reference()]).expect(0);
    let mounted = place.imgmount.mount(place.reference(), &["--cache-size", "1M"]);
    check_big(mounted.path());
    place.requests(0);
    let write = |ending: &str| File::options().write(true).open(place.kept(0, ending)).unwrap();

    write("blob").set_len(2 * MB).unwrap();
    check_big(mounted.path());
    let requests = place.requests(0);
    let start = |range: &String| range.split_once('-').unwrap().0.parse::<u64>().unwrap();
    assert!(!requests.is_empty() && requests.iter().all(|range| start(range) >= MB), "{requests:?}");

    // Now the file is a part again. All of a block is wrong, so a span is, whatever it shares with others.
    write("part").write_all_at(&[0; 64 << 10], MB).unwrap();
    check_big(mounted.path());
    let seen = place.registry.seen();
    assert!(!seen.is_empty() && seen.iter().any(is_fresh), "{} requests", seen.len());
    check_big(mounted.path());
    assert!(place.requests(0).is_empty());

    fs::remove_dir_all(place.imgmount.cache().join("blobs")).unwrap();
    check_big(mounted.path());
    assert!(place.requests(0).is_empty(), "the mount has its files open");
    drop(mounted);
    let mounted = place.imgmount.mount(place.reference(), &["--cache-size", "1M"]);
    check_big(mounted.path());
    assert!(!place.requests(0).is_empty());
}

/// A file system of a few megabytes in the place of the cache directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m,mode=700", "none"]).arg(&path))
            .expect(0);
        SmallDisk(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn c46_a_full_disk_changes_no_byte() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let place = Place::new();
    let _disk = SmallDisk::over(place.imgmount.cache());
    let out = place.cat("/big").expect(0);
    assert!(out.stdout == patterned(6 << 20, 1) && out.stderr.contains("not kept"), "{}", out.stderr);
    let mounted = place.imgmount.mount(place.reference(), &[]);
    check_big(mounted.path());
    // Something else fills the rest, and then the files cannot even be made.
    let filler = place.imgmount.cache().join("filler");
    fs::write(&filler, vec![1; 3 << 20]).unwrap_err();
    fs::remove_dir_all(place.imgmount.cache().join("blobs")).unwrap();
    fs::write(&filler, vec![1; 3 << 20]).unwrap_err();
    check_big(mounted.path());
    assert_eq!(place.cat("/end").expect(0).text(), "end");
    let point = mounted.path().to_owned();
    drop(mounted);
    assert!(!is_mounted(&point));
}
