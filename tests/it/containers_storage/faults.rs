//! Damaged stores, and links planted in every place that holds a path: an error or a warning that names the
//! file, and nothing from outside the store.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BASE, NEEDS, comparable, reference, store};
use crate::engines::{Podman, succeed};
use crate::mounted::{Imgmount, Need, have};
use crate::tree::Snapshot;

/// A store with an image of two layers and a container, of which each fault gets a copy.
struct Original {
    imgmount: Imgmount,
    podman: Podman,
    /// The layers of the image, and the container's.
    layers: [String; 3],
    image: String,
    container: String,
}

impl Original {
    fn new() -> Self {
        let imgmount = Imgmount::new();
        let podman = store(&imgmount);
        podman.run("c1", BASE, &[], "echo 1 > /etc/new");
        let read = |list: &str| -> Vec<serde_json::Value> {
            serde_json::from_slice(&fs::read(podman.store.join(list)).unwrap()).unwrap()
        };
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let top = podman.layer("overlay-images/images.json", BASE);
        let layers = read("overlay-layers/layers.json");
        let bottom = text(&layers.iter().find(|layer| layer["id"] == top).unwrap()["parent"]);
        let writable = podman.layer("overlay-containers/containers.json", "c1");
        let image = text(&read("overlay-images/images.json")[0]["id"]);
        let container = text(&read("overlay-containers/containers.json")[0]["id"]);
        Original { layers: [bottom, top, writable], imgmount, podman, image, container }
    }

    /// Returns a new copy of the store.
    fn copy(&self) -> PathBuf {
        let copy = tempfile::Builder::new().prefix("copy").tempdir_in(self.imgmount.dir()).unwrap().keep();
        succeed(Command::new("cp").arg("-aT").arg(&self.podman.store).arg(&copy));
        copy
    }

    /// Lists all files of the image in `store`, with new indexes.
    fn ls(&self, store: &Path, selector: &str, options: &[&str]) -> crate::mounted::Run {
        let image = reference(store, selector);
        self.imgmount.run(&[&["ls", "-R", "--no-cache", &image], options].concat())
    }
}

fn truncate(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Writes a gzip stream of `text`.
fn write_gzip(path: &Path, text: &[u8]) {
    let mut encoder =
        flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn f30_garbage_in_a_list_is_named() {
    if !have(&NEEDS) {
        return;
    }
    let original = Original::new();
    for list in
        ["overlay-images/images.json", "overlay-layers/layers.json", "overlay-containers/containers.json"]
    {
        for garbage in ["garbage", "{}", r#"[{"id":"../../etc"}]"#, "[1]"] {
            let store = original.copy();
            fs::write(store.join(list), garbage).unwrap();
            let failed = original.ls(&store, &format!(":{BASE}"), &[]).expect(2);
            assert!(
                failed.stderr.contains(&format!("'{list}' in '{}': ", store.display())),
                "{}",
                failed.stderr
            );
        }
        let store = original.copy();
        truncate(&store.join(list));
        original.ls(&store, &format!(":{BASE}"), &[]).expect(2).says("bad JSON");
    }
}

#[test]
fn f30_documents_are_checked() {
    if !have(&NEEDS) {
        return;
    }
    let original = Original::new();
    let config =
        format!("overlay-images/{0}/={1}", original.image, base64(&format!("sha256:{}", original.image)));
    let manifest = format!("overlay-images/{}/manifest", original.image);
    for (file, what) in [(&manifest, "manifest sha256:"), (&config, "config sha256:")] {
        let store = original.copy();
        let mut bytes = fs::read(store.join(file)).unwrap();
        bytes.push(b' ');
        fs::write(store.join(file), bytes).unwrap();
        let failed = original.ls(&store, &format!(":{BASE}"), &[]).expect(2);
        assert!(failed.stderr.contains(what), "{}", failed.stderr);
        assert!(failed.stderr.contains(" does not match: expected "), "{}", failed.stderr);
        original
            .ls(&store, &format!(":{BASE}"), &["--verify", "off"])
            .expect(0)
            .says(" does not match: expected ");
        original.imgmount.run(&["verify", &reference(&store, &format!(":{BASE}"))]).expect(1);
        fs::remove_file(store.join(file)).unwrap();
        original.ls(&store, &format!(":{BASE}"), &[]).expect(2).says("is missing");
        original.imgmount.run(&["verify", &reference(&store, &format!(":{BASE}"))]).expect(1);
    }
    // The engine recorded another digest for a layer than the config states.
    let store = original.copy();
    let list = store.join("overlay-layers/layers.json");
    let text = fs::read_to_string(&list).unwrap();
    let layers: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let top = layers.iter().find(|layer| layer["id"] == original.layers[1]).unwrap();
    let wrong = format!("sha256:{}", "0".repeat(64));
    fs::write(&list, text.replace(top["diff-digest"].as_str().unwrap(), &wrong)).unwrap();
    original.ls(&store, &format!(":{BASE}"), &[]).expect(2).says("'overlay-layers/layers.json' in ");
}

fn base64(text: &str) -> String {
    let out = succeed(Command::new("sh").arg("-c").arg(format!("printf %s {text} | base64 -w0")));
    out.replace('\n', "")
}

#[test]
fn f32_damage_of_a_layer_is_named() {
    if !have(&NEEDS) {
        return;
    }
    let original = Original::new();
    let [bottom, top, writable] = &original.layers;
    let image = format!(":{BASE}");
    let fails = |damage: &dyn Fn(&Path), selector: &str, parts: &[&str]| {
        let store = original.copy();
        damage(&store);
        let failed = original.ls(&store, selector, &[]).expect(2);
        for part in parts {
            assert!(failed.stderr.contains(part), "{part:?}: {}", failed.stderr);
        }
        store
    };
    let verify = |store: &Path, word: &str| {
        let out = original.imgmount.run(&["verify", &reference(store, &image)]).expect(1);
        assert!(
            out.lines().iter().any(|line| line.starts_with(word) && line.contains("layer 1")),
            "{}",
            out.text()
        );
    };

    // The directory of a layer.
    let diff = format!("overlay/{top}/diff");
    let store = fails(
        &|store| fs::remove_dir_all(store.join(&diff)).unwrap(),
        &image,
        &["layer 1 ", &diff, "is missing"],
    );
    verify(&store, "missing");
    let own = format!("overlay/{writable}/diff");
    fails(&|store| fs::remove_dir_all(store.join(&own)).unwrap(), "@c1", &["layer 2 ", &own, "is missing"]);
    // The layer in the list, and a layer that is its own parent.
    let list = "overlay-layers/layers.json";
    fails(&|store| fs::write(store.join(list), "[]").unwrap(), &image, &[list, "the layer '", "is missing"]);
    let cycle = |store: &Path| {
        let text = fs::read_to_string(store.join(list)).unwrap();
        let parent = format!("\"parent\":\"{bottom}\"");
        assert!(text.contains(&parent), "{text}");
        fs::write(store.join(list), text.replace(&parent, &format!("\"parent\":\"{top}\""))).unwrap();
    };
    fails(&cycle, &image, &[list, "MAX_LAYERS"]);
    let incomplete = |store: &Path| {
        let text = fs::read_to_string(store.join(list)).unwrap();
        let id = format!("\"id\":\"{top}\"");
        fs::write(store.join(list), text.replace(&id, &format!("{id},\"flags\":{{\"incomplete\":true}}")))
            .unwrap();
    };
    fails(&incomplete, &image, &[list, "is incomplete"]);

    // The layout of a layer's tar.
    let split = format!("overlay-layers/{top}.tar-split.gz");
    for damage in [
        &(|store: &Path| truncate(&store.join(&split))) as &dyn Fn(&Path),
        &|store| write_gzip(&store.join(&split), b"garbage\n"),
        &|store| write_gzip(&store.join(&split), b"{\"type\":1}\n"),
        &|store| fs::write(store.join(&split), b"garbage").unwrap(),
        &|store| fs::remove_file(store.join(&split)).unwrap(),
    ] {
        let store = fails(damage, &image, &["layer 1 ", "--verify off"]);
        original.imgmount.run(&["verify", &reference(&store, &image)]).expect(1);
        // Without verification, the files are shown as they are.
        let shown = original.ls(&store, &image, &["--verify", "off"]).expect(0).says("layer 1 ");
        assert!(shown.lines().contains(&"/srv/data/new"), "{}", shown.text());
        assert!(!shown.lines().contains(&"/srv/data/old"), "{}", shown.text());
    }

    // The form of composefs.
    let composefs = format!("overlay/{top}/composefs-data");
    fails(
        &|store| fs::create_dir(store.join(&composefs)).unwrap(),
        &image,
        &["a composefs layer", &composefs],
    );
}

#[test]
fn f32_a_changed_file_is_named_and_its_layer_shown_without_verification() {
    if !have(&NEEDS) {
        return;
    }
    let original = Original::new();
    let file = |store: &Path| store.join(format!("overlay/{}/diff/etc/kept", original.layers[0]));
    for (content, part) in [(&b"longer than before"[..], "etc/kept"), (b"X", "etc/kept")] {
        let store = original.copy();
        fs::write(file(&store), content).unwrap();
        let image = format!(":{BASE}");
        let failed = original.ls(&store, &image, &[]).expect(2);
        assert!(failed.stderr.contains("layer 0 ") && failed.stderr.contains(part), "{}", failed.stderr);
        assert!(failed.stderr.contains("--verify off"), "{}", failed.stderr);
        original.imgmount.run(&["verify", &reference(&store, &image)]).expect(1);
        let inside = format!("{}:/etc/kept", reference(&store, &image));
        let shown = original.imgmount.run(&["cat", "--verify", "off", &inside]).expect(0);
        assert_eq!(shown.stdout, content);
    }
}

/// Every path of a store that is opened, replaced by a link that leads to what it was, outside the store.
#[test]
fn f34_links_that_lead_out_of_the_store_are_refused() {
    if !have(&NEEDS) {
        return;
    }
    let original = Original::new();
    let [bottom, top, writable] = &original.layers;
    let (image, container) = (&original.image, &original.container);
    for (place, selector) in [
        ("overlay-images".to_owned(), ":"),
        ("overlay-layers".to_owned(), ":"),
        ("overlay-containers".to_owned(), ":"),
        ("overlay".to_owned(), ":"),
        ("overlay-images/images.json".to_owned(), ":"),
        ("overlay-layers/layers.json".to_owned(), ":"),
        ("overlay-containers/containers.json".to_owned(), ":"),
        (format!("overlay-images/{image}"), ":"),
        (format!("overlay-images/{image}/manifest"), ":"),
        (format!("overlay-images/{image}/={}", base64(&format!("sha256:{image}"))), ":"),
        (format!("overlay-layers/{top}.tar-split.gz"), ":"),
        (format!("overlay/{bottom}"), ":"),
        (format!("overlay/{bottom}/diff"), ":"),
        (format!("overlay/{top}/diff"), ":"),
        (format!("overlay/{writable}"), "@"),
        (format!("overlay/{writable}/diff"), "@"),
        ("overlay/.has-mount-program".to_owned(), "@"),
    ] {
        let store = original.copy();
        let outside =
            tempfile::Builder::new().prefix("outside").tempdir_in(original.imgmount.dir()).unwrap().keep();
        let moved = outside.join("moved");
        let path = store.join(&place);
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        let selector = if selector == ":" { format!(":{BASE}") } else { "@c1".to_owned() };
        let failed = original.ls(&store, &selector, &[]).expect(2);
        assert!(failed.stderr.contains("the path leads out of the directory"), "{place}: {}", failed.stderr);
        let failed = original.ls(&store, &selector, &["--verify", "off"]).expect(2);
        assert!(failed.stderr.contains("the path leads out of the directory"), "{place}: {}", failed.stderr);
    }
    // The mounts of a container are left out with a warning, because the tree does not depend on them.
    let store = original.copy();
    let config = store.join(format!("overlay-containers/{container}/userdata/config.json"));
    fs::remove_file(&config).unwrap();
    symlink("/etc/hostname", &config).unwrap();
    original.ls(&store, "@c1", &[]).expect(0).says("the path leads out of the directory");
}

/// A link inside a layer in place of a file whose bytes the tar needs.
#[test]
fn f32_links_in_place_of_files_are_not_followed() {
    if !have(&NEEDS) {
        return;
    }
    let original = Original::new();
    let secret = original.imgmount.write("secret", b"2");
    for target in [secret.to_str().unwrap(), "passwd", "../../../../../secret"] {
        for place in ["etc/kept", "etc"] {
            let store = original.copy();
            let path = store.join(format!("overlay/{}/diff/{place}", original.layers[0]));
            if place == "etc" {
                fs::remove_dir_all(&path).unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            symlink(target, &path).unwrap();
            let failed = original.ls(&store, &format!(":{BASE}"), &[]).expect(2);
            assert!(failed.stderr.contains("etc/"), "{}", failed.stderr);
            // Without verification, the link is shown as a link.
            let options = ["--verify", "off", "-l", "--layer", "0"];
            let shown = original.ls(&store, &format!(":{BASE}"), &options).expect(0);
            assert!(shown.text().contains(&format!("/{place} -> {target}")), "{}", shown.text());
        }
    }
}

#[test]
fn f34_the_store_of_root_needs_root() {
    let needs = ["setpriv"].map(Need::Program);
    if !have(&[&NEEDS[..], &needs[..]].concat()) {
        return;
    }
    let original = Original::new();
    let expected = comparable(Snapshot::of(
        original.imgmount.mount(reference(&original.podman.store, &format!(":{BASE}")), &[]).path(),
    ));
    // Another user can read a store whose permissions allow it, but not the attributes that mark directories
    // whose contents were deleted.
    let user = Imgmount::as_ordinary_user();
    let open = |path: &Path| succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(path));
    let store = original.copy();
    open(&store);
    open(original.imgmount.dir());
    let image = reference(&store, &format!(":{BASE}"));
    let extracted = user.run(&["ls", "-R", &image]).expect(0);
    assert_eq!(extracted.lines().len(), expected.len() - 1);
    user.run(&["ls", "-R", &reference(&store, "@c1")]).expect(2).says("need root or CAP_SYS_ADMIN");
}
