//! Damaged and hostile data directories of containerd.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{small, tree_of};
use crate::engines::{CHANGES, Containerd, DEMO, demo, have_containerd, succeed, unique};
use crate::fixture::{Compression, Image, sha256_hex};
use crate::mounted::Imgmount;

const META: &str = "io.containerd.metadata.v1.bolt/meta.db";
const OVERLAYFS: &str = "io.containerd.snapshotter.v1.overlayfs";
/// Size of a page of a database in bytes, on machines with pages of this size.
const PAGE: usize = 4096;

/// A containerd that has ended, with the image [`demo`] and a container.
struct Store {
    // Dropped before the directory that `imgmount` has.
    engine: Containerd,
    imgmount: Imgmount,
    image: Image,
    container: String,
}

impl Store {
    fn new(name: &str) -> Self {
        let imgmount = Imgmount::new();
        let mut engine = Containerd::start(&imgmount);
        let image = demo(Compression::Gzip(6));
        engine.import("default", std::slice::from_ref(&image), &[]);
        let container = unique(name);
        engine.run(&container, &[], CHANGES);
        engine.stop();
        Store { engine, imgmount, image, container }
    }

    /// Returns the references of the image and of the container.
    fn references(&self) -> [String; 2] {
        [self.engine.reference(&format!(":{DEMO}")), self.engine.reference(&format!("@{}", self.container))]
    }

    /// Returns a file of the data directory that `with` may damage, and puts the old one back after.
    fn damaged(&self, name: &str, with: impl FnOnce(&Path)) -> Damaged {
        let path = self.engine.file(name);
        let kept = self.imgmount.dir().join("kept");
        fs::rename(&path, &kept).unwrap();
        with(&path);
        Damaged { path, kept }
    }
}

/// A file that a test replaced. It is put back on drop.
struct Damaged {
    path: PathBuf,
    kept: PathBuf,
}

impl Drop for Damaged {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let _ = fs::remove_dir_all(&self.path);
        } else {
            let _ = fs::remove_file(&self.path);
        }
        fs::rename(&self.kept, &self.path).unwrap();
    }
}

#[test]
fn f35_f38_what_is_missing_is_named() {
    if !have_containerd() {
        return;
    }
    let mut store = Store::new("missing");
    let [image, container] = store.references();
    let ls = |reference: &str| store.imgmount.run(&["ls", reference]);
    let top = store.engine.snapshots().last().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    {
        let _gone = store.damaged(&format!("{OVERLAYFS}/snapshots/{top}"), |_| {});
        ls(&image).expect(0);
        let out = ls(&container).expect(2).says(&format!("'snapshots/{top}/fs' in '"));
        out.says("the directory of snapshot 'default/").says("is missing");
    }
    {
        let _gone = store.damaged(&format!("{OVERLAYFS}/metadata.db"), |_| {});
        ls(&image).expect(0);
        ls(&container)
            .expect(2)
            .says("'io.containerd.snapshotter.v1.overlayfs/metadata.db'")
            .says(": missing");
    }
    {
        let config = sha256_hex(&store.image.config());
        let _gone = store.damaged(&format!("io.containerd.content.v1.content/blobs/sha256/{config}"), |_| {});
        ls(&image).expect(2).says(&format!("config sha256:{config} is missing"));
        ls(&container).expect(2).says(&format!("config sha256:{config} is missing"));
    }
    let blob = sha256_hex(&store.image.layers[1].blob);
    let name = format!("io.containerd.content.v1.content/blobs/sha256/{blob}");
    {
        let _cut = store.damaged(&name, |path| fs::write(path, b"cut off").unwrap());
        ls(&image).expect(2).says("layer 1 (").says("size does not match");
    }
    {
        let _gone = store.damaged(META, |_| {});
        ls(&image).expect(2).says("'io.containerd.metadata.v1.bolt/meta.db' is missing");
    }
    ls(&container).expect(0);

    // Without a snapshot, a missing blob is missing.
    store.engine.start_again();
    let alone = small("docker.io/library/alone:1", "1");
    store.engine.import("default", std::slice::from_ref(&alone), &["--no-unpack"]);
    fs::remove_file(store.engine.blob(&sha256_hex(&alone.layers[0].blob))).unwrap();
    for options in [&[][..], &["--verify", "off"]] {
        let reference = store.engine.reference(":alone:1");
        let out = store.imgmount.run(&[&["ls", &reference][..], options].concat());
        out.expect(2).says("layer 0 (").says("is missing");
    }
}

#[test]
fn f36_a_truncated_database_is_an_error_or_complete() {
    if !have_containerd() {
        return;
    }
    let store = Store::new("cut");
    let [image, container] = store.references();
    let complete = store.imgmount.run(&["ls", "-lR", &container]).expect(0);
    let mut errors = 0;
    for name in [META, &format!("{OVERLAYFS}/metadata.db")] {
        let whole = fs::read(store.engine.file(name)).unwrap();
        for pages in 0..whole.len() / PAGE {
            let _cut = store.damaged(name, |path| fs::write(path, &whole[..pages * PAGE]).unwrap());
            let out = store.imgmount.run(&["ls", "-lR", &container]);
            match out.code {
                0 => assert_eq!(out.stdout, complete.stdout, "{name}: {pages} pages"),
                _ => {
                    errors += 1;
                    out.expect(2).says("db'").says("' in '");
                }
            }
        }
    }
    assert!(errors > 4, "only {errors} truncated databases were refused");
    store.imgmount.run(&["ls", &image]).expect(0);
}

#[test]
fn f37_halves_of_two_versions_of_a_database_give_an_answer_of_one_or_an_error() {
    if !have_containerd() {
        return;
    }
    let mut store = Store::new("mixed");
    let [image, _] = store.references();
    let old = fs::read(store.engine.file(META)).unwrap();
    store.engine.start_again();
    for number in 0..30 {
        succeed(&mut store.engine.ctr(&["images", "tag", DEMO, &format!("docker.io/library/tag:{number}")]));
    }
    store.engine.stop();
    let new = fs::read(store.engine.file(META)).unwrap();
    let complete = store.imgmount.run(&["ls", "-lR", &image]).expect(0);
    let mut errors = 0;
    for pages in 1..old.len().min(new.len()) / PAGE {
        for (first, second) in [(&old, &new), (&new, &old)] {
            let mixed = [&first[..pages * PAGE], &second[pages * PAGE..]].concat();
            let _mixed = store.damaged(META, |path| fs::write(path, &mixed).unwrap());
            let out = store.imgmount.run(&["ls", "-lR", &image]);
            match out.code {
                0 => assert_eq!(out.stdout, complete.stdout, "{pages} pages"),
                _ => {
                    // A page of a version before the image was stored is not damaged.
                    errors += 1;
                    let named = ["meta.db", "holds no image", "the list of images is empty"];
                    assert!(named.iter().any(|text| out.stderr.contains(text)), "{}", out.stderr);
                    out.expect(2);
                }
            }
        }
    }
    assert!(errors > 0, "no mixed database was refused");
}

#[test]
fn f36_garbage_for_a_database_is_named() {
    if !have_containerd() {
        return;
    }
    let store = Store::new("garbage");
    let [_, container] = store.references();
    for name in [META, &format!("{OVERLAYFS}/metadata.db")] {
        let (_, file) = name.rsplit_once('/').unwrap();
        for (bytes, why) in [
            (&b""[..], "not a bbolt database"),
            (b"SQLite format 3\0", "not a bbolt database"),
            (&[0xed; 3 * PAGE], "not a bbolt database"),
        ] {
            let _garbage = store.damaged(name, |path| fs::write(path, bytes).unwrap());
            store.imgmount.run(&["ls", &container]).expect(2).says(file).says(why);
        }
        let _pipe = store.damaged(name, |path| {
            succeed(Command::new("mkfifo").arg(path));
        });
        store.imgmount.run(&["ls", &container]).expect(2).says(file).says("not a regular file");
    }
}

#[test]
fn f35_links_in_the_data_directory_never_lead_out_of_it() {
    if !have_containerd() {
        return;
    }
    let store = Store::new("planted");
    let [image, container] = store.references();
    let snapshots = store.engine.snapshots();
    let number = snapshots.last().unwrap().file_name().unwrap().to_str().unwrap();
    let manifest = sha256_hex(&store.image.manifest());
    let layer = sha256_hex(&store.image.layers[0].blob);
    let blobs = "io.containerd.content.v1.content/blobs/sha256";
    for (name, reference) in [
        (META.to_owned(), &image),
        ("io.containerd.metadata.v1.bolt".to_owned(), &image),
        (format!("{blobs}/{manifest}"), &image),
        (format!("{blobs}/{layer}"), &image),
        (blobs.to_owned(), &image),
        ("io.containerd.content.v1.content".to_owned(), &image),
        (OVERLAYFS.to_owned(), &container),
        (format!("{OVERLAYFS}/metadata.db"), &container),
        (format!("{OVERLAYFS}/snapshots"), &container),
        (format!("{OVERLAYFS}/snapshots/{number}"), &container),
        (format!("{OVERLAYFS}/snapshots/{number}/fs"), &container),
    ] {
        // What the links lead to would be right, so only the rule refuses them.
        let kept = store.imgmount.dir().join("kept");
        let up = "../".repeat(name.matches('/').count() + 2);
        for target in [kept.clone(), Path::new(&up).join("kept")] {
            let _link = store.damaged(&name, |path| symlink(&target, path).unwrap());
            let out = store.imgmount.run(&["ls", reference]).expect(2);
            out.says("the path leads out of the directory");
        }
    }
    // A link inside the snapshotter's directory is followed.
    let (inside, moved) = (snapshots.last().unwrap(), store.engine.file(&format!("{OVERLAYFS}/moved")));
    fs::rename(inside, &moved).unwrap();
    symlink("../moved", inside).unwrap();
    assert!(tree_of(&store.imgmount, &container, &[]).len() > 20);
    fs::remove_file(inside).unwrap();
    fs::rename(&moved, inside).unwrap();
}
