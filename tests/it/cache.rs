//! Tests `imgmount cache`, and the files in the cache directory.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::fixture::{
    Compression, Image, Item, Layer, docker_legacy, file, oci, patterned, sample_tree, sha256_hex, tar,
};
use crate::mounted::{Imgmount, Need, have, run};
use crate::tree::Snapshot;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes an image of one layer. Returns its path and its diff_id.
fn indexed(imgmount: &Imgmount, name: &str, content: &[u8], compression: Compression) -> (PathBuf, String) {
    let image = Image::named("a:1").layer_as("COPY", &[file(name, content)], "", compression);
    let diff_id = image.layers[0].diff_id();
    let path = imgmount.write(&format!("{name}.tar"), &tar(&oci(&[image])));
    run(imgmount.command(&["ls"]).arg(&path)).expect(0);
    (path, diff_id)
}

/// Returns the files in the cache whose names contain `part`.
fn files(imgmount: &Imgmount, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(imgmount.cache()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.to_str().unwrap().contains(part)).collect();
    files.sort();
    files
}

fn files_of(imgmount: &Imgmount, diff_id: &str) -> Vec<PathBuf> {
    files(imgmount, diff_id.strip_prefix("sha256:").unwrap())
}

fn set_age(files: &[PathBuf], age: Duration) {
    for path in files {
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
}

fn age(path: &Path) -> Duration {
    fs::metadata(path).unwrap().modified().unwrap().elapsed().unwrap_or_default()
}

fn listed(imgmount: &Imgmount) -> Vec<Value> {
    let out = imgmount.run(&["cache", "ls", "--json"]).expect(0);
    out.lines().into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the diff_ids of the listed layers; the index of an archive has none.
fn listed_diff_ids(imgmount: &Imgmount) -> Vec<String> {
    listed(imgmount).iter().filter_map(|layer| Some(layer["diff_id"].as_str()?.to_owned())).collect()
}

#[test]
fn cache_path_is_what_the_environment_says() {
    let imgmount = Imgmount::new();
    let out = imgmount.run(&["cache", "path"]).expect(0);
    assert_eq!(out.text(), format!("{}\n", imgmount.cache().display()));
    let mut command = imgmount.command(&["cache", "path"]);
    command.env_remove("IMGMOUNT_CACHE_DIR").env("XDG_CACHE_HOME", "/x").env("HOME", "/h");
    assert_eq!(run(&mut command).expect(0).text(), "/x/imgmount\n");
    assert_eq!(run(command.env_remove("XDG_CACHE_HOME")).expect(0).text(), "/h/.cache/imgmount\n");
}

#[test]
fn a_cache_that_is_not_there_is_empty_and_not_made() {
    let imgmount = Imgmount::new();
    assert_eq!(imgmount.run(&["cache", "ls"]).expect(0).text(), "");
    assert_eq!(imgmount.run(&["cache", "clear"]).expect(0).text(), "entries removed: 0, bytes: 0\n");
    assert_eq!(
        imgmount.run(&["cache", "prune", "--max-size", "1"]).expect(0).text(),
        "entries removed: 0, bytes: 0\n"
    );
    assert!(!imgmount.cache().exists());
}

#[test]
fn cache_ls_says_what_each_is_and_when_it_was_used() {
    let imgmount = Imgmount::new();
    let (_, old) = indexed(&imgmount, "old", b"1", Compression::Gzip(6));
    let (_, new) = indexed(&imgmount, "new", b"2", Compression::Plain);
    // 2001-09-09 01:46:40 UTC.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in files_of(&imgmount, &old) {
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }
    set_age(&files_of(&imgmount, &new), Duration::ZERO);
    let len = |diff_id: &str| fs::metadata(&files_of(&imgmount, diff_id)[0]).unwrap().len();
    let out = imgmount.run(&["cache", "ls"]).expect(0);
    let width = len(&old).max(len(&new)).to_string().len();
    assert_eq!(out.lines()[1], format!("2001-09-09 01:46  {:>width$}  gzip   1  {old}", len(&old)));
    assert!(out.lines()[0].ends_with(&format!("  {:>width$}  plain  1  {new}", len(&new))), "{}", out.text());

    let layer = &listed(&imgmount)[1];
    let blob = Compression::Gzip(6).compress(&tar(&[file("old", b"1")]));
    assert_eq!(layer["last_used"], "2001-09-09T01:46:40.000000000Z");
    assert_eq!(layer["digest"], format!("sha256:{}", sha256_hex(&blob)));
    assert_eq!((&layer["size"], &layer["index_size"]), (&Value::from(len(&old)), &layer["size"]));
    assert_eq!((&layer["blob_size"], &layer["copy_size"]), (&Value::from(blob.len()), &Value::from(0)));
    assert!(age(&files_of(&imgmount, &old)[0]) > 365 * DAY, "listing is no use");
}

#[test]
fn use_makes_an_index_young_again() {
    let imgmount = Imgmount::new();
    let (image, diff_id) = indexed(&imgmount, "a", b"1", Compression::Gzip(6));
    let files = files_of(&imgmount, &diff_id);
    set_age(&files, 10 * DAY);
    run(imgmount.command(&["ls"]).arg(image)).expect(0);
    assert!(files.iter().all(|path| age(path) < DAY));
}

#[test]
fn what_was_not_used_for_too_long_is_pruned() {
    let imgmount = Imgmount::new();
    let (_, old) = indexed(&imgmount, "old", b"1", Compression::Gzip(6));
    let (_, new) = indexed(&imgmount, "new", b"2", Compression::Gzip(6));
    set_age(&files_of(&imgmount, &old), 10 * DAY);
    let bytes = fs::metadata(&files_of(&imgmount, &old)[0]).unwrap().len();
    let out = imgmount.run(&["cache", "prune", "--older-than", "9d"]).expect(0);
    assert_eq!(out.text(), format!("entries removed: 1, bytes: {bytes}\n"));
    assert_eq!(listed_diff_ids(&imgmount), [new]);
}

#[test]
fn the_least_recently_used_are_pruned_until_the_rest_fits_and_pairs_go_together() {
    let imgmount = Imgmount::new();
    // The layer is one zstd frame: everything after its first 4 MiB is copied.
    let large = patterned(8 << 20, 1);
    let (_, copied) = indexed(&imgmount, "copied", &large, Compression::Zstd);
    let (_, small) = indexed(&imgmount, "small", b"1", Compression::Gzip(6));
    assert_eq!(files_of(&imgmount, &copied).len(), 2, "an index and a copy");
    set_age(&files_of(&imgmount, &copied), DAY);
    let total: u64 = files(&imgmount, ".v").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    imgmount.run(&["cache", "prune", "--max-size", &total.to_string()]).expect(0);
    assert_eq!(listed_diff_ids(&imgmount), [small.clone(), copied]);
    imgmount.run(&["cache", "prune", "--max-size", &(total - 1).to_string()]).expect(0);
    assert_eq!(listed_diff_ids(&imgmount), std::slice::from_ref(&small));
    assert_eq!(files(&imgmount, ""), files_of(&imgmount, &small));
}

#[test]
fn pruning_wants_to_know_what() {
    let imgmount = Imgmount::new();
    imgmount.run(&["cache", "prune"]).expect(2).says("--older-than");
    imgmount.run(&["cache"]).expect(2);
}

#[test]
fn what_is_not_recognised_is_left_alone() {
    let imgmount = Imgmount::new();
    let (_, diff_id) = indexed(&imgmount, "a", b"1", Compression::Gzip(6));
    let name = files_of(&imgmount, &diff_id)[0].file_name().unwrap().to_str().unwrap().to_owned();
    let cache = imgmount.cache();
    let mine = [cache.join("notes.txt"), cache.join(format!("{name}.bak")), cache.join(".draft-mine")];
    for path in &mine {
        fs::write(path, b"mine").unwrap();
    }
    // Their names are names of cache files, but a link and a directory are never made by imgmount.
    let hex = "0".repeat(64);
    std::os::unix::fs::symlink(&mine[0], cache.join(format!("sha256-{hex}.v1.idx"))).unwrap();
    fs::create_dir(cache.join(format!("sha256-{hex}.v1.copy"))).unwrap();
    assert_eq!(listed_diff_ids(&imgmount), [diff_id]);
    imgmount.run(&["cache", "clear"]).expect(0);
    assert_eq!(imgmount.run(&["cache", "ls"]).expect(0).text(), "");
    assert_eq!(files(&imgmount, "").len(), 5);
    assert!(mine.iter().all(|path| fs::read(path).unwrap() == b"mine"));
}

#[test]
fn damaged_and_older_indexes_are_listed_by_name_and_pruned() {
    let imgmount = Imgmount::new();
    let (_, diff_id) = indexed(&imgmount, "a", b"1", Compression::Gzip(6));
    let path = files_of(&imgmount, &diff_id).remove(0);
    fs::write(&path, b"damaged").unwrap();
    let older = imgmount.cache().join(format!("sha256-{}.v0.idx", "1".repeat(64)));
    fs::write(&older, b"of an older version").unwrap();
    let out = imgmount.run(&["cache", "ls"]).expect(0);
    let stem = path.file_stem().unwrap().to_str().unwrap();
    assert!(
        out.lines().iter().any(|line| line.ends_with(&format!("   7  -      -  {stem}"))),
        "{}",
        out.text()
    );
    assert_eq!(listed(&imgmount).iter().filter(|layer| layer["diff_id"].is_null()).count(), 2);
    imgmount.run(&["cache", "clear"]).expect(0);
    assert!(!path.exists() && !older.exists());
}

#[test]
fn a_directory_that_others_can_write_is_refused_and_left_alone() {
    let imgmount = Imgmount::new();
    let (_, diff_id) = indexed(&imgmount, "a", b"1", Compression::Gzip(6));
    let chmod = |mode| fs::set_permissions(imgmount.cache(), fs::Permissions::from_mode(mode)).unwrap();
    chmod(0o777);
    for command in [&["cache", "ls"][..], &["cache", "clear"], &["cache", "prune", "--max-size", "0"]] {
        imgmount.run(command).expect(2).says("cannot use cache directory");
    }
    chmod(0o700);
    assert_eq!(listed_diff_ids(&imgmount), [diff_id]);
}

#[test]
fn a_mount_that_is_running_does_not_notice() {
    if !have(&[Need::Fuse]) {
        return;
    }
    for compression in [Compression::Gzip(6), Compression::Zstd] {
        let imgmount = Imgmount::new();
        let large = patterned(8 << 20, 2);
        let image =
            Image::sample("", compression).layer_as("COPY", &[file("large", &large)], "", compression);
        let path = imgmount.write("image.tar", &tar(&oci(&[image])));
        let mut tree = sample_tree();
        tree.push(file("large", &large));
        let tree = Snapshot::described(&tree);
        // The second mount reads the files that the first one stored.
        drop(imgmount.mount(&path, &[]));
        let mounted = imgmount.mount(&path, &["--cache-size", "1M"]);
        imgmount.run(&["cache", "clear"]).expect(0);
        assert!(files(&imgmount, "").is_empty());
        tree.assert_shown_by(&Snapshot::of(mounted.path()), "a mount whose cache was cleared");
        let again = imgmount.mount(&path, &[]);
        assert!(!files(&imgmount, ".idx").is_empty());
        tree.assert_shown_by(&Snapshot::of(again.path()), "a mount after that");
    }
}

/// The archive is inflated once: its layers are indexed before anything shows that they are layers.
#[test]
fn the_layers_of_a_compressed_archive_are_indexed_while_it_is_unpacked() {
    let large = [file("a", patterned(3 << 20, 7)), file("b", b"after the spans of a")];
    for (outer, inner, form) in [
        (Compression::Gzip(6), Compression::Plain, docker_legacy as fn(&[Image]) -> Vec<Item>),
        (Compression::Gzip(1), Compression::Gzip(6), oci),
        (Compression::Zstd, Compression::Zstd, oci),
        (Compression::Xz, Compression::Plain, docker_legacy),
    ] {
        let imgmount = Imgmount::new();
        let image = ["COPY", "ADD"].into_iter().fold(Image::named("a:1"), |image, step| {
            image.layer_as(step, &[&large[..], &[file(step, b"small")]].concat(), "", inner)
        });
        let items = form(&[image.clone().layer_as("RUN", &[file("c", b"small")], "", inner)]);
        let pack = |items: &[Item]| outer.compress(&tar(items));

        let tells = |item: &&Item| item.name == b"manifest.json" || item.name == b"index.json";
        let undocumented: Vec<Item> = items.iter().filter(|item| !tells(item)).cloned().collect();
        let path = imgmount.write("undocumented", &pack(&undocumented));
        run(imgmount.command(&["ls"]).arg(path)).expect(2);
        let mut expected: Vec<String> = image.layers.iter().map(Layer::diff_id).collect();
        let mut found = listed_diff_ids(&imgmount);
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{outer:?} {inner:?}");

        let mounted = imgmount.mount(imgmount.write("image", &pack(&items)), &[]);
        let small = ["COPY", "ADD"].map(|step| file(step, b"small"));
        let tree = [&large[..], &small, &[file("c", b"small")]].concat();
        Snapshot::described(&tree).assert_shown_by(&Snapshot::of(mounted.path()), &format!("{outer:?}"));
    }
}

/// A speculative index describes the bytes that were found, which may not be those that the image
/// names.
#[test]
fn a_layer_of_a_compressed_archive_that_is_another_is_refused() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer("COPY", &[file("a", patterned(3 << 20, 7))]);
    let other = tar(&[file("a", patterned(3 << 20, 8))]);
    let items: Vec<Item> = docker_legacy(&[image])
        .into_iter()
        .map(|item| match item.name.ends_with(b"layer.tar") {
            true => file(String::from_utf8(item.name).unwrap(), &other),
            false => item,
        })
        .collect();
    for (name, bytes) in [("plain", tar(&items)), ("gzip", Compression::Gzip(6).compress(&tar(&items)))] {
        let path = imgmount.write(name, &bytes);
        run(imgmount.command(&["ls"]).arg(path)).expect(2).says("diff_id").says(&sha256_hex(&other));
    }
}

#[test]
fn what_came_from_standard_input_is_not_kept_under_the_name_of_a_file_that_is_gone() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer("COPY", &[file("f", b"1")]);
    let diff_id = image.layers[0].diff_id();
    let packed = Compression::Gzip(6).compress(&tar(&docker_legacy(&[image])));
    let path = imgmount.write("image.tar.gz", &packed);
    let mut command = imgmount.command(&["cat", "-:/f"]);
    assert_eq!(run(command.stdin(File::open(&path).unwrap())).expect(0).text(), "1");
    // A layer's index is found again by its diff_id; the index of the archive would never be found.
    assert_eq!(listed(&imgmount).len(), listed_diff_ids(&imgmount).len());
    assert_eq!(listed_diff_ids(&imgmount), [diff_id]);
}
