//! Stores of podman: their images and containers, compared with what podman shows.
//!
//! | part | tests |
//! |---|---|
//! | (here) | images: trees, digests, selection, lists |
//! | `containers` | containers that changed files, and `diff` |
//! | `rootless` | stores of ordinary users |
//! | `places` | the engine's default locations, additional stores, other hosts |
//! | `faults` | damage, missing parts, planted links |

mod containers;
mod faults;
mod places;
mod rootless;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use crate::engines::{Podman, Registry, succeed};
use crate::fixture::{
    Compression, Image, Item, Kind, block_device, char_device, dir, docker_legacy, fifo, file, hardlink,
    opaque, sample_layers, symlink, tar, whiteout,
};
use crate::mounted::{Imgmount, Need, find_program, have};
use crate::tree::{Field, Snapshot};

/// What these tests need.
const NEEDS: [Need; 4] = [Need::Fuse, Need::Root, Need::Program("podman"), Need::Program("busybox")];

/// `cap_net_raw+ep` as the kernel stores it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The name of [`image`].
const BASE: &str = "example.com/base:1";

/// Returns the reference of an image or container of a store: `selector` begins with `:` or `@`.
fn reference(store: &Path, selector: &str) -> String {
    format!("containers-storage:{}{selector}", store.display())
}

/// Returns an image with a shell whose layers add, change, delete and hide. All directories have entries, so
/// that engines and imgmount set the same times.
fn image() -> Image {
    image_with(devices())
}

/// Returns [`image`] with other items instead of devices.
fn image_with(items: Vec<Item>) -> Image {
    let shell = fs::read(find_program("busybox").unwrap()).unwrap();
    let mut base = items;
    base.extend([
        dir("").mtime(1_600_000_000, 0),
        dir("bin"),
        file("bin/busybox", shell).mode(0o755),
        file("bin/ping", b"#!/bin/sh\n").mode(0o4755).xattr("security.capability", CAPABILITY),
        dir("etc"),
        file("etc/deleted", b"1"),
        file("etc/kept", b"2").owner(1000, 1000).mode(0o600).xattr("user.text", b"two\nlines"),
        file("etc/moved", b"3").xattr("user.moved", b"1").mtime(1_234_567_890, 123_456_789),
        file("etc/owned", b"9"),
        file("etc/linked", b"4"),
        hardlink("etc/linked2", "etc/linked"),
        symlink("etc/link", "kept"),
        dir("srv"),
        dir("srv/data"),
        file("srv/data/old", b"5"),
        file(b"srv/caf\xe9", b"6"),
        dir("srv/tree"),
        file("srv/tree/leaf", b"7"),
        dir("tmp").mode(0o1777),
        dir("var"),
    ]);
    let change = vec![
        dir("etc").mtime(1_700_000_001, 0),
        whiteout("etc/deleted"),
        dir("srv").mtime(1_700_000_002, 0),
        dir("srv/data").mtime(1_700_000_003, 5),
        file("srv/data/new", b"8"),
        opaque("srv/data"),
    ];
    Image::named(BASE).layer("ADD base", &base).layer("RUN change", &change)
}

/// Devices, which a user namespace cannot create.
fn devices() -> Vec<Item> {
    vec![
        dir("dev"),
        char_device("dev/null", 1, 3).mode(0o666),
        block_device("dev/sda", 8, 0).owner(0, 6),
        fifo("dev/pipe"),
    ]
}

/// Writes the archive of an image, and loads it into a store.
fn load(imgmount: &Imgmount, podman: &Podman, image: Image) -> PathBuf {
    let archive = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    podman.load(&archive);
    archive
}

/// Creates a store with the overlay driver that holds [`image`].
fn store(imgmount: &Imgmount) -> Podman {
    let podman = Podman::new(imgmount, "overlay");
    load(imgmount, &podman, image());
    podman
}

/// The tree as engine and imgmount both know it: the mode of the root and the link counts of directories are
/// those of the overlay.
fn comparable(tree: Snapshot) -> Snapshot {
    tree.without(Field::Root).without(Field::DirectoryLinks)
}

/// Mounts `image`, and compares the tree with that of an engine.
#[track_caller]
fn shows(imgmount: &Imgmount, image: &str, options: &[&str], expected: &Snapshot, fields: &[Field]) {
    let mounted = imgmount.mount(image, options);
    let reduce = |tree: Snapshot| fields.iter().fold(comparable(tree), |tree, field| tree.without(*field));
    let found = reduce(Snapshot::of(mounted.path()));
    assert!(found.len() > 10, "{image}: hardly anything is there");
    reduce(expected.clone()).assert_shown_by(&found, image);
}

/// The sample without sparse files, whose tar podman cannot put together again either.
fn dense_sample() -> Image {
    let dense = |items: Vec<Item>| -> Vec<Item> {
        items.into_iter().filter(|item| !matches!(item.kind, Kind::Sparse(..))).collect()
    };
    sample_layers()
        .into_iter()
        .fold(Image::named("example.com/dense:1"), |image, (by, items)| image.layer(by, &dense(items)))
}

#[test]
fn f30_an_image_shows_the_tree_that_podman_mounts() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    for driver in ["overlay", "vfs"] {
        let podman = Podman::new(&imgmount, driver);
        load(&imgmount, &podman, image());
        succeed(&mut podman.command(&["create", "--name", "c", BASE, "/bin/none"]));
        let expected = podman.mounted("c");
        let image = reference(&podman.store, &format!(":{BASE}"));
        shows(&imgmount, &image, &[], &expected, &[]);
        // A second mount uses the stored indexes.
        shows(&imgmount, &image, &[], &expected, &[]);
        shows(&imgmount, &image, &["--verify", "off"], &expected, &[]);
        // The transport is detected.
        shows(&imgmount, &format!("{}:{BASE}", podman.store.display()), &[], &expected, &[]);
    }
}

#[test]
fn f30_the_layers_are_the_exact_tars_that_the_image_names() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    for driver in ["overlay", "vfs"] {
        let podman = Podman::new(&imgmount, driver);
        let archive = load(&imgmount, &podman, dense_sample());
        let image = reference(&podman.store, ":example.com/dense:1");
        let verified = imgmount.run(&["verify", &image]).expect(0);
        assert!(verified.lines().iter().all(|line| line.starts_with("ok ")), "{}", verified.text());
        assert_eq!(verified.lines().len(), 3 + 3, "{}", verified.text());

        // The loaded archive and the one that podman saves have the same layers, so the indexes of the store
        // are theirs, too: each gets a second name, and no further index.
        let saved = imgmount.dir().join(format!("saved-{driver}.tar"));
        succeed(podman.command(&["save", "-q", "-o"]).arg(&saved).arg("example.com/dense:1"));
        let tree = imgmount.run(&["ls", "-lR", &image]).expect(0);
        let stored = indexes(&imgmount.cache());
        assert_eq!(stored.len(), 3);
        for archive in [&archive, &saved] {
            let archive = archive.to_str().unwrap();
            assert_eq!(imgmount.run(&["ls", "-lR", archive]).expect(0).text(), tree.text());
            assert_eq!(imgmount.run(&["diff", &image, archive]).expect(0).text(), "");
        }
        assert_eq!(indexes(&imgmount.cache()), stored, "{driver}: the archives are indexed again");
    }
}

/// Returns the inode numbers of the indexes in a cache: an index may have several names.
fn indexes(cache: &Path) -> BTreeSet<u64> {
    let files = fs::read_dir(cache).unwrap().map(Result::unwrap);
    let is_index = |path: &Path| path.extension().is_some_and(|end| end == "idx");
    files.filter(|file| is_index(&file.path())).map(|file| file.ino()).collect()
}

/// When podman unpacks a layer, it writes sparse files out, and does not record how they were stored:
/// `podman save` of this image fails, too.
#[test]
fn f32_a_layer_whose_tar_cannot_be_put_together_is_shown_without_verification_only() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = Podman::new(&imgmount, "overlay");
    load(&imgmount, &podman, Image::sample("", Compression::Plain));
    let image = reference(&podman.store, ":example.com/sample:1");
    let refused = imgmount.run(&["ls", &image]).expect(2);
    assert!(refused.stderr.contains("layer 0 (sha256:"), "{}", refused.stderr);
    assert!(refused.stderr.contains("opt/sparse"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--verify off"), "{}", refused.stderr);
    imgmount.run(&["verify", &image]).expect(1);

    succeed(&mut podman.command(&["create", "--name", "c", "example.com/sample:1", "/bin/none"]));
    // Directories without an entry have the time at which podman created them, and the overlay counts names
    // that a higher layer deleted.
    let fields = [Field::DirectoryTimes, Field::FileLinks];
    shows(&imgmount, &image, &["--verify", "off"], &podman.mounted("c"), &fields);
    imgmount.run(&["ls", "--verify", "off", &image]).expect(0).says("showing the files in");
}

/// With zstd:chunked, podman downloads only the files that the store does not have. It never sees the tar, and
/// old versions keep no layout of it.
#[test]
fn f32_a_layer_pulled_in_parts_is_shown_without_verification_only() {
    if !have(&[&NEEDS[..], &[Need::Program("docker-registry")]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    let pushing = store(&imgmount);
    let registry = Registry::start(&imgmount);
    let name = format!("127.0.0.1:{}/base:1", registry.port);
    let push = ["push", "-q", "--tls-verify=false", "--compression-format", "zstd:chunked", BASE];
    succeed(pushing.command(&push).arg(format!("docker://{name}")));
    let dir = imgmount.dir().join("pulling");
    let podman = Podman::in_store(&dir, dir.join("root"), &[]);
    let conf = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n\
         [storage.options]\npull_options = {{enable_partial_images = \"true\"}}\n",
        podman.store.display(),
        dir.join("run").display()
    );
    let conf = imgmount.write("storage.conf", conf.as_bytes());
    let pull = ["pull", "-q", "--tls-verify=false", &name];
    succeed(podman.command(&pull).env("CONTAINERS_STORAGE_CONF", &conf));
    let layers = fs::read_to_string(podman.store.join("overlay-layers/layers.json")).unwrap();
    assert!(layers.contains("chunked-manifest"), "{layers}");

    let image = reference(&podman.store, &format!(":{name}"));
    if !podman
        .store
        .join("overlay-layers")
        .read_dir()
        .unwrap()
        .any(|entry| has_layout(&entry.unwrap().path()))
    {
        let refused = imgmount.run(&["ls", &image]).expect(2).says("did not keep the layout of its tar");
        refused.says("--verify off");
        imgmount.run(&["verify", &image]).expect(1);
    }
    // Podman 4.3 loses owners, times and devices in such a layer, so podman is compared with, not the image.
    succeed(&mut podman.command(&["create", "--name", "c", &name, "/bin/none"]));
    shows(&imgmount, &image, &["--verify", "off"], &podman.mounted("c"), &[Field::DirectoryTimes]);
}

fn has_layout(path: &Path) -> bool {
    path.to_str().unwrap().ends_with(".tar-split.gz")
}

#[test]
fn f30_images_are_selected_by_name_digest_id_and_position() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    let archive = imgmount.write("other.tar", &tar(&docker_legacy(&[dense_sample()])));
    podman.load(&archive);
    let inspect =
        |format: &str| succeed(&mut podman.command(&["image", "inspect", "--format", format, BASE]));
    let (id, digest) = (inspect("{{.Id}}"), inspect("{{.Digest}}"));
    let names = |selector: &str| {
        let out = imgmount.run(&["inspect", "--json", &reference(&podman.store, selector)]).expect(0);
        let shown: serde_json::Value = serde_json::from_str(out.text()).unwrap();
        shown["names"][0].as_str().unwrap().to_owned()
    };
    for selector in [
        ":example.com/base:1",
        ":base:1",
        &format!(":{id}"),
        &format!(":{}", &id[..5]),
        &format!(":example.com/base@{digest}"),
    ] {
        assert_eq!(names(selector), BASE, "{selector}");
    }
    // A position is possible where the transport is detected; with the transport, `@` names a container.
    let second = imgmount.run(&["inspect", &format!("{}@1", podman.store.display())]).expect(0);
    assert!(second.text().contains("example.com/dense:1"), "{}", second.text());
    let several = imgmount.run(&["ls", &reference(&podman.store, "")]).expect(2);
    assert!(several.stderr.contains("holds several images"), "{}", several.stderr);
    imgmount.run(&["ls", &reference(&podman.store, ":nothing")]).expect(2).says("holds no image 'nothing'");
    imgmount.run(&["ls", &reference(&podman.store, "@nothing")]).expect(2).says("holds no image '@nothing'");
}

#[test]
fn f30_a_store_may_have_areas_of_several_drivers() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let overlay = store(&imgmount);
    let vfs = Podman::new(&imgmount, "vfs");
    load(&imgmount, &vfs, dense_sample());
    for area in ["vfs", "vfs-images", "vfs-layers", "vfs-containers"] {
        fs::rename(vfs.store.join(area), overlay.store.join(area)).unwrap();
    }
    for name in [BASE, "example.com/dense:1"] {
        imgmount.run(&["ls", &reference(&overlay.store, &format!(":{name}"))]).expect(0);
    }
    // Areas of drivers that cannot be read are named.
    for area in ["btrfs", "zfs"] {
        fs::create_dir(overlay.store.join(format!("{area}-images"))).unwrap();
        fs::create_dir(overlay.store.join(format!("{area}-layers"))).unwrap();
    }
    let image = reference(&overlay.store, &format!(":{BASE}"));
    imgmount.run(&["ls", &image]).expect(0).says("the images of the storage driver btrfs are not listed");
    for area in ["overlay", "vfs"] {
        fs::remove_dir_all(overlay.store.join(format!("{area}-images"))).unwrap();
    }
    imgmount
        .run(&["ls", &image])
        .expect(2)
        .says("the storage driver btrfs keeps layers in subvolumes of btrfs");
}

#[test]
fn f30_a_list_of_images_is_named() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    succeed(&mut podman.command(&["manifest", "create", "list:1", &format!("containers-storage:{BASE}")]));
    let list = reference(&podman.store, ":localhost/list:1");
    imgmount.run(&["ls", &list]).expect(2).says("a list of images (podman manifest), not an image");
}
