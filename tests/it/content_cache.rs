//! What is kept of layers from a registry, and mounts whose registry fails: through the program, from a
//! registry in this process. Rules C44 to C47 of docs/cli.md.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::{Compression, Fault, Image, Registry, file, patterned, sha256_hex};
use crate::mounted::{Imgmount, Need, Run, have, run, wait, wait_until};
use crate::tree::Snapshot;

pub(crate) const BLOCK: u64 = 64 << 10;

/// Makes an image of a layer of several spans and a small one.
fn image() -> Image {
    let items = [file("etc/os-release", b"ID=test"), file("big", patterned(6 << 20, 1)), file("end", b"end")];
    let layer = Image::named("a:1").layer_as("COPY", &items, "", Compression::Gzip(6));
    layer.layer_as("COPY", &[file("small", b"small")], "", Compression::Gzip(6))
}

/// A registry with the image, and the program with its own cache.
pub(crate) struct Place {
    pub(crate) imgmount: Imgmount,
    pub(crate) registry: Registry,
    pub(crate) image: Image,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (imgmount, registry, image) = (Imgmount::new(), Registry::start(), image());
        registry.push("app:1", &image);
        Place { imgmount, registry, image }
    }

    /// Names the image by its digest, so that nothing is asked about a tag.
    pub(crate) fn reference(&self) -> String {
        let digest = format!("sha256:{}", sha256_hex(&self.image.manifest()));
        self.registry.reference(&format!("app@{digest}"))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.imgmount.command(args);
        command.env("HOME", self.imgmount.dir().join("home"));
        for name in ["XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        run(&mut self.command(args))
    }

    pub(crate) fn cat(&self, path: &str) -> Run {
        self.run(&["cat", &format!("{}:{path}", self.reference())])
    }

    pub(crate) fn blob(&self, layer: usize) -> &[u8] {
        &self.image.layers[layer].blob
    }

    pub(crate) fn kept(&self, layer: usize, ending: &str) -> PathBuf {
        let name = format!("sha256-{}.{ending}", sha256_hex(self.blob(layer)));
        self.imgmount.cache().join("blobs").join(name)
    }

    /// Returns the ranges that were requested of a layer since the last call; `""` is a request without one.
    pub(crate) fn requests(&self, layer: usize) -> Vec<String> {
        let name = format!("GET blobs/{}", &sha256_hex(self.blob(layer))[..12]);
        let requests = self.registry.requests();
        requests.iter().filter_map(|request| Some(request.strip_prefix(&name)?.trim().to_owned())).collect()
    }

    /// Makes the indexes, and removes the layers.
    pub(crate) fn evict(&self) {
        self.run(&["ls", &self.reference()]).expect(0);
        fs::remove_dir_all(self.imgmount.cache().join("blobs")).unwrap();
        self.registry.requests();
        self.registry.sent_bytes();
    }

    pub(crate) fn listed(&self) -> Vec<Value> {
        let out = self.run(&["cache", "ls", "--json"]).expect(0);
        out.lines().into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn c44_a_layer_is_downloaded_once_and_kept_whole() {
    let place = Place::new();
    place.run(&["ls", &place.reference()]).expect(0);
    for layer in [0, 1] {
        assert_eq!(fs::read(place.kept(layer, "blob")).unwrap(), place.blob(layer));
        assert!(!place.kept(layer, "part").exists() && !place.kept(layer, "map").exists());
    }
    place.registry.requests();
    assert_eq!(place.cat("/end").expect(0).text(), "end");
    assert!(place.registry.requests().is_empty(), "by digest, nothing is asked");
}

#[test]
fn c44_eight_processes_download_an_image_once() {
    let place = Place::new();
    // All have begun before the first byte comes.
    place.registry.fail(|seen| seen.is_blob().then(|| Fault::Delay(Duration::from_millis(1500))));
    let runs: Vec<_> = (0..8)
        .map(|_| place.command(&["ls", "-R", &place.reference()]).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    let outputs: Vec<_> = runs.into_iter().map(|run| run.wait_with_output().unwrap()).collect();
    assert!(outputs.iter().all(|output| output.status.success() && output.stdout == outputs[0].stdout));
    let requests = place.registry.requests();
    for layer in [0, 1] {
        let name = format!("blobs/{}", &sha256_hex(place.blob(layer))[..12]);
        let count = requests.iter().filter(|request| request.contains(&name)).count();
        assert_eq!(count, 1, "{requests:?}");
        assert_eq!(fs::read(place.kept(layer, "blob")).unwrap(), place.blob(layer));
    }
}

#[test]
fn c44_a_download_that_was_killed_is_continued() {
    let place = Place::new();
    let layer = format!("blobs/sha256:{}", sha256_hex(place.blob(0)));
    place.registry.fail(move |seen| seen.target.ends_with(&layer).then_some(Fault::Stall(1 << 20)));
    let mut child = place.command(&["ls", &place.reference()]).spawn().unwrap();
    let arrived =
        || fs::read(place.kept(0, "map")).unwrap_or_default().iter().filter(|kept| **kept == 1).count();
    let blocks = usize::try_from((1 << 20) / BLOCK).unwrap();
    assert!(wait_until(|| arrived() == blocks), "{} blocks", arrived());
    child.kill().unwrap();
    child.wait().unwrap();
    place.registry.recover();
    place.requests(0);
    place.registry.sent_bytes();
    place.run(&["ls", &place.reference()]).expect(0);
    assert_eq!(place.requests(0), [format!("{}-{}", 1 << 20, place.blob(0).len() - 1)]);
    assert_eq!(fs::read(place.kept(0, "blob")).unwrap(), place.blob(0));
}

#[test]
fn c45_an_evicted_layer_is_requested_by_the_ranges_that_are_read() {
    let place = Place::new();
    place.evict();
    assert_eq!(place.cat("/etc/os-release").expect(0).text(), "ID=test");
    let requests = place.requests(0);
    assert_eq!(requests.len(), 1, "one request for the span: {requests:?}");
    assert!(requests[0].starts_with("0-"), "{requests:?}");
    let sent = place.registry.sent_bytes();
    assert!(sent < place.blob(0).len() as u64 / 2, "{sent} bytes");
    assert_eq!(place.cat("/etc/os-release").expect(0).text(), "ID=test");
    assert!(place.registry.requests().is_empty(), "the span is kept");

    let offline = ["cat", "--offline", &format!("{}:/etc/os-release", place.reference())];
    assert_eq!(place.run(&offline).expect(0).text(), "ID=test");
    let missing = format!("{}:/end", place.reference());
    place.run(&["cat", "--offline", &missing]).expect(2).says("--offline");
    assert!(place.registry.requests().is_empty());
}

#[test]
fn c45_without_the_cache_nothing_is_kept() {
    let place = Place::new();
    place.run(&["cat", "--no-cache", &format!("{}:/end", place.reference())]).expect(0);
    assert!(!place.imgmount.cache().exists());
}

#[test]
fn c45_bytes_that_change_in_the_cache_are_replaced() {
    let place = Place::new();
    place.run(&["ls", &place.reference()]).expect(0);
    place.registry.requests();
    let file = File::options().read(true).write(true).open(place.kept(0, "blob")).unwrap();
    let at = place.blob(0).len() as u64 / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    assert_eq!(place.cat("/big").expect(0).stdout, patterned(6 << 20, 1));
    let requests = place.requests(0);
    // A reader of the next span may request the block that both share.
    assert!((1..=2).contains(&requests.len()), "{requests:?}");
    assert_eq!(place.cat("/big").expect(0).stdout, patterned(6 << 20, 1));
    assert!(place.registry.requests().is_empty());
}

#[test]
fn c46_what_is_kept_is_listed_limited_and_removed() {
    let place = Place::new();
    place.run(&["ls", &place.reference()]).expect(0);
    let blobs = || -> Vec<Value> {
        place
            .listed()
            .into_iter()
            .filter(|entry| entry["name"].as_str().unwrap().starts_with("blobs/"))
            .collect()
    };
    let digest = format!("sha256:{}", sha256_hex(place.blob(0)));
    let found = blobs().into_iter().find(|entry| entry["digest"] == digest.as_str()).unwrap();
    assert_eq!(found["complete"], true);
    assert_eq!(found["blob_size"], place.blob(0).len());
    assert!(found["kept_size"].as_u64().unwrap() >= place.blob(0).len() as u64);
    assert_eq!((&found["size"], &found["index_size"]), (&found["kept_size"], &Value::from(0)));
    let documents =
        place.listed().iter().filter(|entry| entry["name"].as_str().unwrap().starts_with("docs/")).count();
    assert_eq!(documents, 2, "manifest and config");

    let total: u64 = place.listed().iter().map(|entry| entry["size"].as_u64().unwrap()).sum();
    let limit = (total - place.blob(0).len() as u64 / 2).to_string();
    place.run(&["cache", "prune", "--max-size", &limit]).expect(0);
    let left: u64 = place.listed().iter().map(|entry| entry["size"].as_u64().unwrap()).sum();
    assert!(left <= limit.parse().unwrap(), "{left} of {limit}");
    place.run(&["cache", "clear"]).expect(0);
    assert!(place.listed().is_empty());
    let files = |folder: &str| fs::read_dir(place.imgmount.cache().join(folder)).map_or(0, Iterator::count);
    assert_eq!([files("blobs"), files("docs"), files("refs")], [0; 3]);
}

#[test]
fn c46_a_small_limit_keeps_little_and_changes_no_byte() {
    let place = Place::new();
    let limit = "1M";
    let out =
        place.run(&["cat", "--blob-cache-size", limit, &format!("{}:/big", place.reference())]).expect(0);
    assert_eq!(out.stdout, patterned(6 << 20, 1));
    let kept: u64 = place.listed().iter().map(|entry| entry["kept_size"].as_u64().unwrap()).sum();
    assert!(kept <= (1 << 20) + BLOCK, "{kept}");
}

#[test]
fn c46_a_running_mount_keeps_what_it_uses() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    let mounted = place.imgmount.mount(place.reference(), &[]);
    assert_eq!(fs::read(mounted.path().join("end")).unwrap(), b"end");
    place.run(&["cache", "clear"]).expect(0);
    assert!(place.kept(0, "blob").exists(), "it is in use");
    assert_eq!(fs::read(mounted.path().join("big")).unwrap(), patterned(6 << 20, 1));
    drop(mounted);
    assert!(wait_until(|| {
        place.run(&["cache", "clear"]).expect(0);
        !place.kept(0, "blob").exists()
    }));
}

#[test]
fn c45_a_mount_without_content_is_the_mount_with_it() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    place.evict();
    let lazy = place.imgmount.mount(place.reference(), &[]);
    assert!(place.registry.requests().is_empty(), "a mount by digest needs no network");
    let shown = Snapshot::of(lazy.path());
    drop(lazy);
    let whole = place.imgmount.mount(place.reference(), &[]);
    Snapshot::of(whole.path()).assert_shown_by(&shown, "a mount without content");
}

#[test]
fn c47_a_registry_that_stalls_is_a_timeout_and_everything_else_is_answered() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    place.evict();
    let mounted = place.imgmount.mount_in_foreground(place.reference(), &["--net-timeout", "3s"]);
    place.registry.fail(|seen| seen.is_blob().then_some(Fault::Stall(0)));
    let path = mounted.path().to_owned();
    let begun = Instant::now();
    let reader = thread::spawn(move || fs::read(path.join("end")));
    let killed = Command::new("cat").arg(mounted.path().join("big")).stdout(Stdio::null()).spawn();
    let mut killed = killed.unwrap();
    assert!(wait_until(|| !place.registry.requests().is_empty()));
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 4, "the tree is there");
    killed.kill().unwrap();
    assert!(wait(&mut killed).is_some(), "a killed reader is gone");
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    for _ in 0..3 {
        fs::read(mounted.path().join("end")).unwrap_err();
    }
    let log = fs::read_to_string(place.imgmount.dir().join("server.log")).unwrap();
    let failures = log.lines().filter(|line| line.contains("did not answer")).count();
    assert!((1..=2).contains(&failures), "one message a minute and cause: {log}");
    place.registry.recover();
    assert_eq!(fs::read(mounted.path().join("end")).unwrap(), b"end", "the next read tries again");
}

#[test]
fn c47_sigterm_ends_a_mount_whose_readers_wait() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let place = Place::new();
    place.evict();
    let mut mounted = place.imgmount.mount_in_foreground(place.reference(), &[]);
    place.registry.fail(|seen| seen.is_blob().then_some(Fault::Stall(0)));
    let path = mounted.path().to_owned();
    let reader = thread::spawn(move || fs::read(path.join("end")));
    assert!(wait_until(|| !place.registry.requests().is_empty()));
    let begun = Instant::now();
    mounted.terminate_server();
    assert!(reader.join().unwrap().is_err());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
