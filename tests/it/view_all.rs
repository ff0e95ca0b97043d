//! Tests `--view all`: layers, states and documents next to the rootfs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fixture::{
    Compression, Image, Item, dir, docker_legacy, file, oci, sample_layers, sample_tree, tar, whiteout,
};
use crate::mounted::{Imgmount, Mounted, Need, have, run};
use crate::tree::Snapshot;

fn sample(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Returns the paths of the mount below `at`.
fn below(mounted: &Mounted, at: &str) -> Vec<PathBuf> {
    let mut open = vec![mounted.path().join(at)];
    let mut found = open.clone();
    while let Some(parent) = open.pop() {
        for entry in fs::read_dir(parent).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn the_four_parts_have_the_names_that_are_documented() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = Image::sample("", Compression::Gzip(6));
    let path = imgmount.write("image.tar", &tar(&oci(std::slice::from_ref(&image))));
    for options in [["--view", "all"], ["-o", "view=all"]] {
        let mounted = imgmount.mount(&path, &options);
        let at = |part: &str| mounted.path().join(part);
        assert_eq!(names(mounted.path()), ["image", "layers", "rootfs", "states"]);
        let digits = |number: usize| image.layers[number].diff_id()["sha256:".len()..][..12].to_owned();
        let expected = [0, 1, 2].map(|number| format!("{number:02}-{}", digits(number)));
        assert_eq!(names(&at("layers")), expected);
        assert_eq!(names(&at("states")), ["00", "01", "02"]);
        assert_eq!(names(&at("image")), ["config.json", "manifest.json"]);
        assert_eq!(fs::read(at("image/config.json")).unwrap(), image.config());
        assert_eq!(fs::read(at("image/manifest.json")).unwrap(), image.manifest());
        let tree = Snapshot::of(&at("rootfs"));
        Snapshot::described(&sample_tree()).assert_shown_by(&tree, "the rootfs among other parts");
    }
}

/// Returns the expected tree of a single layer: its own entries, and the directories that they imply.
fn by_itself(entries: Vec<Item>, implied: &[&str]) -> Snapshot {
    let mut items: Vec<Item> = implied.iter().map(|name| dir(name).mtime(0, 0)).collect();
    // The root is shown as in every tree (M5).
    items.extend(entries.into_iter().map(|item| if item.name.is_empty() { item.mode(0o755) } else { item }));
    Snapshot::described(&items)
}

#[test]
fn a_layer_shows_its_own_entries_with_whiteouts_as_files() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mounted = imgmount.mount(sample(&imgmount), &["--view", "all"]);
    let implied: [&[&str]; 3] = [&[], &["etc", "var", "var/cache"], &["bin", "etc", "usr", "usr/lib"]];
    let shown = names(&mounted.path().join("layers"));
    for (((_, entries), implied), name) in sample_layers().into_iter().zip(implied).zip(shown) {
        let found = Snapshot::of(&mounted.path().join("layers").join(&name));
        by_itself(entries, implied).assert_shown_by(&found, &name);
    }
}

#[test]
fn marks_of_every_kind_show_as_they_lie_in_the_tar() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let marks = || {
        vec![
            file(".wh..wh..opq", b""),
            dir(".wh..wh.plnk"),
            file(".wh..wh.plnk/1.2", b"aufs"),
            file(".wh.", b"names nothing"),
            crate::fixture::char_device("deleted", 0, 0),
            dir("d"),
            whiteout("d/gone"),
            dir("d/.wh.not-a-file"),
        ]
    };
    let image = Image::named("a:1").layer("base", &[file("deleted", b"1")]).layer("marks", &marks());
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let mounted = imgmount.mount(path, &["--view", "all"]);
    let layers = names(&mounted.path().join("layers"));
    let found = Snapshot::of(&mounted.path().join("layers").join(&layers[1]));
    by_itself(marks(), &[]).assert_shown_by(&found, "a layer of marks");
    assert_eq!(names(&mounted.path().join("rootfs")), ["d"]);
}

fn kind(file_type: fs::FileType) -> &'static str {
    match () {
        () if file_type.is_dir() => "dir",
        () if file_type.is_symlink() => "symlink",
        () if file_type.is_char_device() => "char",
        () if file_type.is_block_device() => "block",
        () if file_type.is_fifo() => "fifo",
        () => "file",
    }
}

#[test]
fn a_state_is_what_ls_lists_up_to_its_layer() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let mounted = imgmount.mount(&image, &["--view", "all"]);
    for number in 0..3 {
        let mut command = imgmount.command(&["ls", "-R", "--json", "--upto", &number.to_string()]);
        let out = run(command.arg(&image)).expect(0);
        let mut expected = BTreeMap::new();
        for line in out.lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            // A name that is not UTF-8 gives the same text on both sides.
            let path = entry["path"].as_str().unwrap().to_owned();
            let fields = ["type", "mode", "uid", "gid", "size", "nlink"].map(|name| entry[name].to_string());
            expected.insert(path, fields);
        }
        let root = mounted.path().join(format!("states/{number:02}"));
        let mut found = BTreeMap::new();
        for path in below(&mounted, &format!("states/{number:02}")).into_iter().skip(1) {
            let meta = path.symlink_metadata().unwrap();
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let fields = [
                format!("{:?}", kind(meta.file_type())),
                format!("\"{:04o}\"", meta.mode() & 0o7777),
                meta.uid().to_string(),
                meta.gid().to_string(),
                size.to_string(),
                meta.nlink().to_string(),
            ];
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            found.insert(format!("/{name}"), fields);
        }
        assert_eq!(found, expected, "state {number}");
    }
    let last = Snapshot::of(&mounted.path().join("states/02"));
    Snapshot::described(&sample_tree()).assert_shown_by(&last, "the last state");
    let motd = fs::read(mounted.path().join("states/00/etc/motd")).unwrap();
    assert_eq!(motd, b"deleted later");
}

#[test]
fn no_two_objects_of_different_parts_share_a_number() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mounted = imgmount.mount(sample(&imgmount), &["--view", "all"]);
    let layers = names(&mounted.path().join("layers")).into_iter().map(|name| format!("layers/{name}"));
    let parts = ["rootfs", "image", "states/00", "states/01", "states/02"].map(str::to_owned);
    let mut taken = BTreeSet::new();
    for part in layers.chain(parts) {
        let numbers: BTreeSet<u64> =
            below(&mounted, &part).iter().map(|path| path.symlink_metadata().unwrap().ino()).collect();
        assert!(numbers.is_disjoint(&taken), "{part}");
        taken.extend(numbers);
    }
    for place in ["", "layers", "states"] {
        assert!(taken.insert(fs::metadata(mounted.path().join(place)).unwrap().ino()), "{place}");
    }
}

#[test]
fn parts_know_where_they_are_and_where_files_come_from() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mounted = imgmount.mount(sample(&imgmount), &["--view", "all"]);
    let layers = names(&mounted.path().join("layers"));
    let layer = |path: &str| {
        let mut value = [0; 64];
        let path = mounted.path().join(path);
        let len = rustix::fs::lgetxattr(path, "user.imgmount.layer", &mut value[..])?;
        Ok(String::from_utf8(value[..len].to_vec()).unwrap())
    };
    assert_eq!(layer("rootfs/etc/passwd").as_deref(), Ok("1"));
    assert_eq!(layer("states/00/etc/passwd").as_deref(), Ok("0"));
    assert_eq!(layer(&format!("layers/{}/usr/lib/small", layers[2])).as_deref(), Ok("2"));
    assert_eq!(layer("image/config.json"), Err(rustix::io::Errno::NODATA));
    let up = |path: &str| fs::metadata(mounted.path().join(path)).unwrap().ino();
    assert_eq!(up("states/01/.."), up("states"));
    assert_eq!(up(&format!("layers/{}/etc/../../..", layers[1])), up(""));
}

#[test]
fn many_layers_have_names_of_one_length_and_mount_at_once() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let mut image = Image::named("a:1");
    for number in 0..120 {
        image = image.layer("ADD", &[file(format!("f{number}"), number.to_string())]);
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let mounted = imgmount.mount(path, &["--view", "all"]);
    let states = names(&mounted.path().join("states"));
    assert_eq!((states.len(), states[7].as_str(), states[119].as_str()), (120, "007", "119"));
    for number in [0, 7, 99, 119] {
        assert_eq!(names(&mounted.path().join(format!("states/{number:03}"))).len(), number + 1);
    }
}

#[test]
fn an_image_without_layers_has_parts_all_the_same() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[Image::named("a:1")])));
    let mounted = imgmount.mount(path, &["--view", "all"]);
    assert_eq!(names(mounted.path()), ["image", "layers", "rootfs", "states"]);
    for part in ["layers", "rootfs", "states"] {
        assert_eq!(names(&mounted.path().join(part)), [""; 0], "{part}");
    }
}
